//! `lessor token`: tokens by the command line, on the database itself. So the first one can be made when
//! there is none yet, and one can be revoked when no server runs.
//!
//! Whoever can reach the database can do anything already: nothing is asked for here.

use lessor_protocol::{NewToken, Page, Role};
use secrecy::SecretString;
use uuid::Uuid;

use super::Keeper;
use crate::config::DatabaseTrust;
use crate::error::Result;
use crate::http::{Preconditions, table};
use crate::store::{Db, migrate};

/// Tokens: who may do what.
#[derive(Debug, clap::Args)]
pub struct Tokens {
    /// The PostgreSQL that the servers use, as a URL
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, global = true, value_parser = secret)]
    database_url: Option<SecretString>,

    #[command(flatten)]
    trust: DatabaseTrust,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Create a token and print its secret, which is shown this once
    Create(New),
    /// List tokens, newest first
    List,
    /// Revoke a token: every server refuses it within a second
    Revoke {
        /// Its id
        id: Uuid,
    },
    /// Put a new token in the place of one, and print its secret
    Rotate {
        /// Its id
        id: Uuid,
        /// For how long the old one still works
        #[arg(long, value_name = "SECONDS")]
        overlap_seconds: Option<f64>,
    },
}

#[derive(Debug, clap::Args)]
struct New {
    /// What people call it
    #[arg(long)]
    name: String,
    /// What it allows: admin, operator, viewer, user, enroll or agent
    #[arg(long, value_parser = role)]
    role: Role,
    /// A pool that agents may be registered in, or the pool of an agent; may be repeated
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,
    /// The agent that it is for
    #[arg(long)]
    agent: Option<String>,
    /// Whose sessions it is for
    #[arg(long)]
    owner: Option<String>,
    /// The tenant that it is for
    #[arg(long)]
    tenant: Option<String>,
    /// After how long it expires; never, if it is left out
    #[arg(long, value_name = "SECONDS")]
    expires_in_seconds: Option<f64>,
}

fn secret(value: &str) -> std::result::Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(value))
}

fn role(value: &str) -> std::result::Result<Role, String> {
    value
        .parse()
        .map_err(|error: lessor_protocol::UnknownWord| error.to_string())
}

/// Does what the command line says, and gives what is to be printed. The schema is that of this version
/// after it.
///
/// # Errors
/// What is wrong, for people.
pub async fn run(tokens: Tokens) -> std::result::Result<String, String> {
    let Some(url) = tokens.database_url else {
        return Err(
            "token needs DATABASE_URL; with the private database use POST /v1/tokens and the admin token"
                .to_owned(),
        );
    };
    let url = &tokens.trust.named_in(&url);
    let text = |error: crate::error::Error| match error {
        crate::error::Error::Invalid(errors) => errors
            .iter()
            .map(|error| {
                format!(
                    "{} {}",
                    error.pointer.trim_start_matches('/'),
                    error.message
                )
            })
            .collect::<Vec<_>>()
            .join("; "),
        other => other.to_string(),
    };
    migrate::run(url).await.map_err(text)?;
    let db = Db::new(url, 1, 1).map_err(text)?;
    done(&db, tokens.what).await.map_err(text)
}

async fn done(db: &Db, what: What) -> Result<String> {
    let by = Keeper::everything("command line");
    match what {
        What::Create(new) => {
            let new = NewToken {
                name: new.name,
                role: new.role,
                pools: new.pools,
                agent: new.agent,
                owner: new.owner,
                tenant: new.tenant,
                expires_in_seconds: new.expires_in_seconds,
            };
            let made = super::create(db, new, by).await?;
            Ok(format!("{}\n", made.secret.expose()))
        }
        What::List => {
            let mut all = Vec::new();
            let mut after = None;
            loop {
                let page = super::list(db, &by, after, 500).await?;
                after = page.last().map(|token| token.id);
                all.extend(page);
                if after.is_none() {
                    break;
                }
            }
            Ok(table(&Page {
                items: all,
                next_cursor: None,
            }))
        }
        What::Revoke { id } => {
            let token = super::revoke(db, &by, id, Preconditions::default()).await?;
            Ok(format!("revoked: {} ({})\n", token.id, token.name))
        }
        What::Rotate {
            id,
            overlap_seconds,
        } => {
            let made = super::rotate(db, &by, id, overlap_seconds).await?;
            Ok(format!("{}\n", made.secret.expose()))
        }
    }
}
