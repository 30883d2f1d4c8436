//! Who calls: the principal that every handler finds, however it proved itself.
//!
//! Invariant: a handler behind `api::gate` always finds a [`Caller`]; one that is not behind it and asks
//! for one fails, and does not take the request for anonymous.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use lessor_protocol::{Actor, ActorType, ProblemCode};

use super::oidc::SignIn;
use super::state::{Grant, Scope};
use super::tokens::Known;
use crate::error::{Error, Result};
use crate::problem::Problem;

/// Who made a request, as events name it, and what it may do. An extractor.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What kind of caller.
    pub actor_type: ActorType,
    /// Its name.
    pub name: String,
    /// What it was granted.
    pub grant: Arc<Grant>,
    proof: Proof,
}

/// How a caller has proved who it is.
#[derive(Clone, Debug)]
enum Proof {
    /// Nobody was asked.
    None,
    /// The admin token of the settings.
    Settings,
    /// A token of the database, which can be revoked.
    Token(Arc<Known>),
    /// A sign-in at the provider, which expires.
    SignIn(SignIn),
}

impl Caller {
    /// Everybody, where nobody is asked for a token.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::with_everything(ActorType::User, "anonymous", Proof::None)
    }

    /// The holder of the admin token of the settings.
    #[must_use]
    pub fn admin() -> Self {
        Self::with_everything(ActorType::Token, "admin", Proof::Settings)
    }

    fn with_everything(actor_type: ActorType, name: &str, proof: Proof) -> Self {
        Self {
            actor_type,
            name: name.to_owned(),
            grant: Arc::new(Grant::everything()),
            proof,
        }
    }

    /// The holder of a token.
    #[must_use]
    pub fn of(token: Arc<Known>) -> Self {
        let (actor_type, name) = match &token.grant.agent {
            Some(agent) => (ActorType::Agent, agent.clone()),
            None => (ActorType::Token, token.name.clone()),
        };
        Self {
            actor_type,
            name,
            grant: Arc::clone(&token.grant),
            proof: Proof::Token(token),
        }
    }

    /// Somebody who has signed in.
    #[must_use]
    pub fn signed_in(sign_in: SignIn) -> Self {
        Self {
            actor_type: ActorType::User,
            name: sign_in.person.name.clone(),
            grant: Arc::new(sign_in.person.grant.clone()),
            proof: Proof::SignIn(sign_in),
        }
    }

    /// Whether nobody was asked who calls.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        matches!(self.proof, Proof::None)
    }

    /// Who it is among all callers, for what is kept by caller: names of tokens may come twice.
    #[must_use]
    pub fn key(&self) -> String {
        match (&self.proof, self.grant.token_id) {
            (_, Some(id)) => format!("token:{id}"),
            (Proof::SignIn(sign_in), None) => format!("person:{}", sign_in.person.subject),
            (_, None) => format!("{}:{}", self.actor_type, self.name),
        }
    }

    /// What it sees of lists and of sessions.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.grant.scope()
    }

    /// Refuses a pool that it may not see, as if it were not there.
    ///
    /// # Errors
    /// `PoolNotFound`.
    pub fn must_see_pool(&self, pool: &str) -> Result<()> {
        if self.grant.sees_pool(pool) {
            Ok(())
        } else {
            Err(Error::PoolNotFound(pool.to_owned()))
        }
    }

    /// Resolves when its token or its sign-in ends: never, where it cannot.
    pub async fn token_ended(self) {
        match self.proof {
            Proof::Token(token) => token.ended.cancelled().await,
            Proof::SignIn(sign_in) => tokio::time::sleep_until(sign_in.ends).await,
            Proof::None | Proof::Settings => std::future::pending().await,
        }
    }
}

impl From<Caller> for Actor {
    fn from(caller: Caller) -> Self {
        Self {
            actor_type: caller.actor_type,
            name: caller.name,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::new(
                ProblemCode::Internal,
                "a route that needs a caller is not behind the gate",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unprotected_route_has_no_caller() {
        let (mut parts, ()) = axum::http::Request::new(()).into_parts();
        let refused = Caller::from_request_parts(&mut parts, &())
            .await
            .expect_err("nobody");
        assert_eq!(refused.code, ProblemCode::Internal);
        parts.extensions.insert(Caller::anonymous());
        let found = Caller::from_request_parts(&mut parts, &()).await;
        assert!(found.expect("it is there").is_anonymous());
        assert!(!Caller::admin().is_anonymous());
    }
}
