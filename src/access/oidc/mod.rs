//! People who signed in at an OpenID Connect provider, known by the JWT that they bring.
//!
//! A JWT is taken if a key of the provider has signed it, it is from the issuer and for the audience of
//! the settings, it is valid now, and its claims come to a role (`claims.rs`). It ends when it expires:
//! the polls and streams that it opened end then too.
//!
//! What this does not do: sign anybody in. Programs do that with the provider (authorization code with
//! PKCE, for example) and bring the JWT; no password and no code comes here. The page of the documentation
//! is such a program, and is told here where to do that (`console.rs`).

mod claims;
mod console;
mod kept;
mod keys;
mod provider;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use jsonwebtoken::{Validation, decode, decode_header};
use lessor_protocol::ProblemCode;
use serde_json::{Map, Value};
use tokio::time::Instant;

pub use claims::{Mapping, OF_PEOPLE, Person};
pub use console::{Console, ConsoleToken, Endpoints};

use self::kept::Kept;
use self::keys::Keys;
use self::provider::Provider;
use super::bearer::invalid;
use crate::error::Error;
use crate::problem::Problem;

/// The longest JWT.
const MAX_BYTES: usize = 16 * 1024;

/// How much clocks may differ.
const LEEWAY_SECONDS: u64 = 5;

/// Who says who people are, and what that allows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The issuer, as the provider spells it.
    pub issuer: String,
    /// For whom JWTs must be.
    pub audience: String,
    /// What claims mean.
    pub mapping: Mapping,
    /// How people sign in at the page of the documentation, if they do.
    pub console: Option<Console>,
}

/// A sign-in that was found true.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// Who it is.
    pub person: Arc<Person>,
    /// When it ends.
    pub ends: Instant,
}

/// How sign-ins are checked.
#[derive(Clone)]
pub struct Oidc(Arc<Inner>);

struct Inner {
    settings: Settings,
    provider: Provider,
    keys: Keys,
    endpoints: Kept<Endpoints>,
}

impl Oidc {
    /// For this provider.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        verify::install();
        Ok(Self(Arc::new(Inner {
            provider: Provider::new(&settings.issuer)?,
            keys: Keys::new(),
            endpoints: Kept::new("where people sign in"),
            settings,
        })))
    }

    /// How people sign in at the page of the documentation, if they do.
    #[must_use]
    pub fn console(&self) -> Option<&Console> {
        self.0.settings.console.as_ref()
    }

    /// Where they do that; none while that cannot be told, for which the log has the reason.
    pub async fn endpoints(&self) -> Option<Endpoints> {
        let Inner {
            settings,
            provider,
            endpoints,
            ..
        } = &*self.0;
        let all = |endpoints: &Endpoints| Some(endpoints.clone());
        let ask = || async { console::endpoints(&settings.issuer, &provider.discover().await?) };
        endpoints.find(all, ask).await.ok().flatten()
    }

    /// Whether a bearer is of this kind at all.
    #[must_use]
    pub fn is_one(bearer: &str) -> bool {
        bearer.split('.').count() == 3
    }

    /// Who brings a JWT.
    ///
    /// # Errors
    /// `unauthenticated` where it proves nothing; `forbidden` where it allows nothing;
    /// `database_unavailable` where the provider is away and its key is not known.
    pub async fn sign_in(&self, jwt: &str) -> Result<SignIn, Problem> {
        let Inner {
            settings,
            provider,
            keys,
            ..
        } = &*self.0;
        if jwt.len() > MAX_BYTES {
            return Err(invalid());
        }
        let header = decode_header(jwt).map_err(refuse)?;
        let id = header.kid.as_deref().unwrap_or_default();
        let found = keys.find(provider, id).await;
        let key = found.map_err(|_| {
            Problem::new(
                ProblemCode::DatabaseUnavailable,
                "The sign-in provider cannot be reached, so this sign-in cannot be checked now",
            )
            .retry_after(5)
        })?;
        let key = key.ok_or_else(invalid)?;
        if !key.algorithms.contains(&header.alg) {
            return Err(invalid());
        }
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECONDS;
        let claims: Map<String, Value> = decode(jwt, &key.key, &validation).map_err(refuse)?.claims;
        let person = settings.mapping.person(&claims).map_err(|why| {
            Problem::new(
                ProblemCode::Forbidden,
                format!("You are signed in, but {why}"),
            )
        })?;
        Ok(SignIn {
            person: Arc::new(person),
            ends: Instant::now() + left(&claims),
        })
    }
}

/// For how long it is still valid.
fn left(claims: &Map<String, Value>) -> Duration {
    let expires = claims
        .get("exp")
        .and_then(Value::as_f64)
        .unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    let now = Utc::now().timestamp_millis() as f64 / 1e3;
    // A sign-in of more than a week ends its streams after a week; they are opened again.
    Duration::from_secs_f64((expires + LEEWAY_SECONDS as f64 - now).clamp(0.0, 604_800.0))
}

/// Why is for the log, and not for who tries.
fn refuse(error: jsonwebtoken::errors::Error) -> Problem {
    tracing::debug!(%error, "a sign-in was refused");
    invalid()
}
