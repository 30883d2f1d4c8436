//! Access: who calls, and what they may do.
//!
//! A call passes `api::gate`, which finds out who calls ([`Access`]), whether the operation is for its
//! role ([`rules`]), and whether what its path names may be seen by it ([`Grant`], [`session`]).
//! Lists and bodies are seen to by their handlers, with the [`Scope`] of the [`Caller`].
//!
//! Invariants:
//! - A secret is shown once and kept nowhere; the database has its SHA-256. Since it is 256 random bits,
//!   nothing slower is needed: there is nothing to guess.
//! - What may not be seen is answered as what is not there, after the same work.
//! - What a name belongs to does not change: a session keeps its owner and its tenant, a pool and an
//!   agent their tenant. So a look before a write is no race.
//!
//! What this room does not do: write the audit (`audit`), or know what a call does.

mod bearer;
mod caller;
pub mod cli;
pub mod http;
pub mod oidc;
pub mod rules;
mod secret;
pub mod state;
mod store;
mod table;
mod tokens;

use lessor_protocol::{CreatedToken, NewSession, NewToken, Role, Secret, Token, tenant_of};
use uuid::Uuid;

use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Checks, Preconditions};
use crate::problem::Problem;
use crate::store::{Conn, Db};

pub use bearer::{Access, AccessMode, invalid};
pub use caller::Caller;
pub use state::{Grant, Reach, Scope};

/// How long the old secret works beside the new one unless it is said.
pub const DEFAULT_OVERLAP_SECONDS: f64 = 3600.0;

/// Who looks after tokens.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// The name that stands beside what it creates.
    pub name: String,
    /// What it was granted.
    pub grant: Grant,
}

impl Keeper {
    /// One who looks after all of them, under this name.
    #[must_use]
    pub fn everything(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            grant: Grant::everything(),
        }
    }

    fn no_token(id: Uuid) -> Error {
        Error::NoToken(id.to_string())
    }
}

impl From<Caller> for Keeper {
    fn from(caller: Caller) -> Self {
        Self {
            name: caller.name,
            grant: (*caller.grant).clone(),
        }
    }
}

fn check(new: &NewToken) -> Result<Option<String>> {
    let mut checks = Checks::new();
    checks.text("/name", &new.name, 128);
    for (at, pool) in new.pools.iter().enumerate().take(100) {
        checks.qualified(format!("/pools/{at}"), pool);
    }
    if let Some(agent) = &new.agent {
        checks.qualified("/agent", agent);
    }
    if let Some(owner) = &new.owner {
        checks.text("/owner", owner, 256);
    }
    if let Some(tenant) = &new.tenant {
        checks.tenant("/tenant", tenant);
    }
    if let Some(seconds) = new.expires_in_seconds {
        checks.range_f64("/expires_in_seconds", seconds, 1.0, 315_360_000.0);
    }
    let tenant = state::tenant_of_new(new).unwrap_or_else(|(field, why)| {
        checks.refuse(field, why);
        None
    });
    checks.finish().map_err(from_problem)?;
    Ok(tenant)
}

fn from_problem(problem: Problem) -> Error {
    Error::Invalid(problem.errors)
}

/// Creates a token.
///
/// # Errors
/// `Invalid`; `Forbidden` where it is for another tenant than its keeper's; `DatabaseUnavailable`.
pub async fn create(db: &Db, new: NewToken, by: Keeper) -> Result<CreatedToken> {
    let tenant = check(&new)?;
    if !by.grant.may_hand_out(tenant.as_deref()) {
        return Err(Error::Forbidden(
            "this token hands out tokens of its own tenant only".to_owned(),
        ));
    }
    let fresh = secret::fresh(new.role)?;
    let made = store::Insert {
        new,
        tenant,
        created_by: by.name,
        replaces: None,
        enrolled: false,
    };
    let secret = fresh.secret.clone();
    let row = db
        .write("access::create", move |conn| {
            let (made, fresh) = (made.clone(), fresh.clone());
            Box::pin(async move { store::insert(conn, &made, &fresh).await })
        })
        .await?;
    Ok(CreatedToken {
        token: row.into(),
        secret,
    })
}

/// Tokens, newest first, and one more than `limit` if there are more.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn list(db: &Db, by: &Keeper, after: Option<Uuid>, limit: i64) -> Result<Vec<Token>> {
    let of = by.grant.tenant.clone();
    let rows = db
        .read("access::list", |conn| {
            Box::pin(async move { store::list(conn, &of, after, limit).await })
        })
        .await?;
    Ok(rows.into_iter().map(Token::from).collect())
}

/// A token.
///
/// # Errors
/// `NoToken`, `DatabaseUnavailable`.
pub async fn get(db: &Db, by: &Keeper, id: Uuid) -> Result<Token> {
    let of = by.grant.tenant.clone();
    let row = db
        .read("access::get", |conn| {
            Box::pin(async move { store::get(conn, id, &of).await })
        })
        .await?;
    row.map(Token::from).ok_or_else(|| Keeper::no_token(id))
}

/// Revokes a token: every server refuses it within a second, and ends the polls and streams that it
/// opened. Again is no change.
///
/// # Errors
/// `NoToken`, `VersionMismatch`, `DatabaseUnavailable`.
pub async fn revoke(db: &Db, by: &Keeper, id: Uuid, preconditions: Preconditions) -> Result<Token> {
    let of = by.grant.tenant.clone();
    let row = db
        .write("access::revoke", move |conn| {
            let (of, preconditions) = (of.clone(), preconditions.clone());
            Box::pin(async move {
                let row = store::lock(conn, id, &of).await?;
                let row = row.ok_or_else(|| Keeper::no_token(id))?;
                if !preconditions.if_match_ok(Some(row.version)) {
                    return Err(Error::VersionMismatch(row.version));
                }
                if row.revoked_at.is_some() {
                    return Ok(row);
                }
                store::revoke(conn, id).await
            })
        })
        .await?;
    Ok(row.into())
}

/// Puts a new token with the same scope and the same lifetime in the place of one, which works for a
/// while longer.
///
/// # Errors
/// `NoToken`; `Invalid`; `TransitionNotAllowed` where it has ended; `DatabaseUnavailable`.
pub async fn rotate(
    db: &Db,
    by: &Keeper,
    id: Uuid,
    overlap_seconds: Option<f64>,
) -> Result<CreatedToken> {
    let overlap = overlap_seconds.unwrap_or(DEFAULT_OVERLAP_SECONDS);
    let mut checks = Checks::new();
    checks.range_f64("/overlap_seconds", overlap, 0.0, 2_592_000.0);
    checks.finish().map_err(from_problem)?;
    let by = by.clone();
    let (row, secret) = db
        .write("access::rotate", move |conn| {
            let by = by.clone();
            Box::pin(async move {
                let old = store::lock(conn, id, &by.grant.tenant).await?;
                let old = old.ok_or_else(|| Keeper::no_token(id))?;
                if old.revoked_at.is_some() || store::is_past(conn, id).await? {
                    return Err(Error::TransitionNotAllowed(format!(
                        "token {id} has ended, so there is nothing to put another in the place of"
                    )));
                }
                let lifetime = old
                    .expires_at
                    .map(|at| (at - old.created_at).as_seconds_f64());
                store::shorten(conn, id, overlap).await?;
                let fresh = secret::fresh(old.role)?;
                let made = store::Insert {
                    new: NewToken {
                        name: old.name,
                        role: old.role,
                        pools: old.pools,
                        agent: old.agent,
                        owner: old.owner,
                        tenant: None,
                        expires_in_seconds: lifetime,
                    },
                    tenant: old.tenant,
                    created_by: by.name,
                    replaces: Some(id),
                    enrolled: old.enrolled,
                };
                let row = store::insert(conn, &made, &fresh).await?;
                Ok((row, fresh.secret))
            })
        })
        .await?;
    Ok(CreatedToken {
        token: row.into(),
        secret,
    })
}

/// Makes a registered agent its own token, in the transaction that registers it; those that earlier
/// registrations made work for a minute longer.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn enrol(conn: &mut Conn, agent: &str, pool: &str, by: &str) -> Result<Secret> {
    let replaces = store::shorten_enrolled(conn, agent).await?;
    let fresh = secret::fresh(Role::Agent)?;
    let made = store::Insert {
        new: NewToken {
            name: agent.chars().take(128).collect(),
            role: Role::Agent,
            pools: vec![pool.to_owned()],
            agent: Some(agent.to_owned()),
            owner: None,
            tenant: None,
            expires_in_seconds: None,
        },
        tenant: tenant_of(pool).map(str::to_owned),
        created_by: by.to_owned(),
        replaces,
        enrolled: true,
    };
    store::insert(conn, &made, &fresh).await?;
    Ok(fresh.secret)
}

/// Makes new sessions what this caller may create: of its owner, in its pools, with names of their tenant.
///
/// # Errors
/// `PoolNotFound` for a pool that it may not see, `Forbidden` for another owner, `Invalid` for a name that
/// is not of the pool's tenant.
pub fn adopt_new(caller: &Caller, news: &mut [NewSession]) -> Result<()> {
    let grant = &caller.grant;
    let many = news.len() > 1;
    for (index, new) in news.iter_mut().enumerate() {
        if let Some(own) = &grant.owner {
            let owner = new.owner.get_or_insert_with(|| own.clone());
            if owner != own {
                return Err(Error::Forbidden(
                    "this token creates sessions of its own owner only".to_owned(),
                ));
            }
        }
        if let Some(pool) = &new.pool {
            caller.must_see_pool(pool)?;
        }
        let Some(name) = &new.name else { continue };
        let tenant = match &new.pool {
            Some(pool) => tenant_of(pool),
            None => grant.tenant.as_deref(),
        };
        if tenant_of(name) != tenant {
            let at = if many {
                format!("/sessions/{index}/name")
            } else {
                "/name".to_owned()
            };
            return Err(Error::invalid(
                &at,
                "must begin with its pool's tenant, or with none",
            ));
        }
    }
    Ok(())
}

/// The session that a path names, if this caller may see it, by its id: what has that id is the same
/// session for ever, whoever takes its name.
///
/// # Errors
/// `SessionNotFound`, `DatabaseUnavailable`.
pub async fn session(app: &App, caller: &Caller, id_or_name: &str) -> Result<String> {
    let scope = caller.scope();
    if scope.is_open() {
        return Ok(id_or_name.to_owned());
    }
    let sought = id_or_name.to_owned();
    let found = app
        .db
        .read("access::session", |conn| {
            Box::pin(async move { store::session_within(conn, &sought, &scope).await })
        })
        .await?;
    found
        .map(|id| id.to_string())
        .ok_or_else(|| Error::SessionNotFound(id_or_name.to_owned()))
}
