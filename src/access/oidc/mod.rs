//! People who signed in at an OpenID Connect provider, known by the JWT that they bring.
//!
//! A JWT is taken if a key of the provider has signed it, it is from the issuer and for the audience of
//! the settings, it is valid now, and its claims come to a role (`claims.rs`). It ends when it expires:
//! the polls and streams that it opened end then too.
//!
//! What this does not do: sign anybody in. Programs do that with the provider (authorization code with
//! PKCE, for example) and bring the JWT; no password and no code comes here.

mod claims;
mod keys;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use jsonwebtoken::{Validation, decode, decode_header};
use lessor_protocol::ProblemCode;
use serde_json::{Map, Value};
use tokio::time::Instant;

pub use claims::{Mapping, OF_PEOPLE, Person};

use self::keys::Keys;
use super::bearer::invalid;
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
    keys: Keys,
}

impl Oidc {
    /// For this provider.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(settings: Settings) -> Result<Self, String> {
        verify::install();
        let keys = Keys::new(&settings.issuer)?;
        Ok(Self(Arc::new(Inner { settings, keys })))
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
        let Inner { settings, keys } = &*self.0;
        if jwt.len() > MAX_BYTES {
            return Err(invalid());
        }
        let header = decode_header(jwt).map_err(refuse)?;
        let found = keys.find(header.kid.as_deref().unwrap_or_default()).await;
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
