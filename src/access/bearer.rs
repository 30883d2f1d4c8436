//! From the `Authorization` header to a [`Caller`].
//!
//! The admin token of the settings comes first, then the tokens of the database, then sign-ins at the
//! provider of people. Whatever proves who calls, what follows knows a [`Caller`] only.

use std::fmt;

use axum::http::HeaderMap;
use lessor_protocol::ProblemCode;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::caller::Caller;
use super::oidc::Oidc;
use super::secret;
use super::tokens::{Tokens, Watch};
use crate::http::bearer;
use crate::problem::Problem;

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessMode {
    /// Everybody, as an administrator; on a loopback address only.
    Open,
    /// Who has a token.
    Tokens,
}

/// How callers prove who they are, on this server.
#[derive(Clone)]
pub struct Access {
    /// Whether nobody is asked.
    is_open: bool,
    /// The digest of the token that allows everything.
    admin: Option<[u8; 32]>,
    /// The tokens of the database.
    tokens: Tokens,
    /// Who says who people are, if anybody.
    oidc: Option<Oidc>,
}

impl Access {
    /// With this admin token, if any; open to everybody if `is_open`. The other must be run.
    #[must_use]
    pub fn new(
        admin_token: Option<&SecretString>,
        is_open: bool,
        oidc: Option<Oidc>,
    ) -> (Self, Watch) {
        let (tokens, watch) = Tokens::new();
        let access = Self {
            // A token that is there is asked for.
            is_open: is_open && admin_token.is_none() && oidc.is_none(),
            admin: admin_token.map(|token| secret::digest(token.expose_secret())),
            tokens,
            oidc,
        };
        (access, watch)
    }

    /// Who says who people are, if anybody.
    #[must_use]
    pub fn oidc(&self) -> Option<&Oidc> {
        self.oidc.as_ref()
    }

    /// The caller of a request with these headers.
    ///
    /// # Errors
    /// `unauthenticated` where it does not say who it is, or that is not true; `database_unavailable`
    /// where that cannot be found out now.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        if self.is_open {
            return Ok(Caller::anonymous());
        }
        let Some(bearer) = bearer(headers) else {
            return Err(Problem::new(
                ProblemCode::Unauthenticated,
                "Send `Authorization: Bearer <token>`",
            ));
        };
        let digest = secret::digest(bearer);
        // Digests are compared, and in the same time whatever they are.
        let is_admin = |admin: [u8; 32]| bool::from(digest.ct_eq(&admin));
        if self.admin.is_some_and(is_admin) {
            return Ok(Caller::admin());
        }
        if secret::is_one(bearer)
            && let Some(token) = self.tokens.find(&digest).await?
        {
            return Ok(Caller::of(token));
        }
        if let Some(oidc) = &self.oidc
            && Oidc::is_one(bearer)
        {
            return Ok(Caller::signed_in(oidc.sign_in(bearer).await?));
        }
        Err(invalid())
    }
}

/// The bearer is none, or none any more.
#[must_use]
pub fn invalid() -> Problem {
    Problem::new(ProblemCode::Unauthenticated, "The token is not valid")
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("is_open", &self.is_open)
            .field("admin", &self.admin.map(|_| "set"))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::store::Db;

    async fn call(token: Option<&str>, authorization: Option<&str>) -> Result<String, u16> {
        let token = token.map(SecretString::from);
        let (access, watch) = Access::new(token.as_ref(), token.is_none(), None);
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
        }
        let db = Db::new("postgres://127.0.0.1:1/none", 1, 1).expect("pools");
        let running = tokio::spawn(watch.run(db, CancellationToken::new()));
        let caller = access.caller(&headers).await;
        running.abort();
        caller
            .map(|caller| format!("{}/{}", caller.actor_type, caller.name))
            .map_err(|problem| problem.code.status())
    }

    #[tokio::test]
    async fn the_token_is_asked_for() {
        for good in ["Bearer s3cret", "bearer  s3cret", "BEARER s3cret "] {
            let found = call(Some("s3cret"), Some(good)).await;
            assert_eq!(found.as_deref(), Ok("token/admin"), "{good}");
        }
        for bad in [
            None,
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer s3cre"),
            Some("Bearer s3crets"),
            Some("Basic s3cret"),
            Some("s3cret"),
            Some(""),
        ] {
            assert_eq!(call(Some("s3cret"), bad).await, Err(401), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn where_it_is_open_everybody_is_anonymous() {
        for authorization in [None, Some("Bearer any")] {
            let found = call(None, authorization).await;
            assert_eq!(found.as_deref(), Ok("user/anonymous"));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_looked_up_is_not_said_to_be_wrong() {
        let bearer = format!("Bearer lessor_user_{}", "x".repeat(43));
        assert_eq!(call(Some("s3cret"), Some(&bearer)).await, Err(503));
    }

    #[test]
    fn the_token_is_not_shown() {
        let (access, _) = Access::new(Some(&SecretString::from("s3cret")), false, None);
        let shown = format!("{access:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("["), "{shown}");
    }
}
