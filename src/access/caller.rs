//! Who calls: the principal that every handler finds, however it proved itself.
//!
//! Invariant: a handler behind `api::gate` always finds a [`Caller`]; one that is not behind it and asks
//! for one fails, and does not take the request for anonymous.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use lessor_protocol::{Actor, ActorType, ProblemCode};

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
    /// Its token, where it can be revoked.
    token: Option<Arc<Known>>,
}

impl Caller {
    /// Everybody, where nobody is asked for a token.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::with_everything(ActorType::User, "anonymous")
    }

    /// The holder of the admin token of the settings.
    #[must_use]
    pub fn admin() -> Self {
        Self::with_everything(ActorType::Token, "admin")
    }

    fn with_everything(actor_type: ActorType, name: &str) -> Self {
        Self {
            actor_type,
            name: name.to_owned(),
            grant: Arc::new(Grant::everything()),
            token: None,
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
            token: Some(token),
        }
    }

    /// Whether nobody was asked who calls.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.actor_type == ActorType::User && self.grant.token_id.is_none()
    }

    /// Who it is among all callers, for what is kept by caller: names of tokens may come twice.
    #[must_use]
    pub fn key(&self) -> String {
        match self.grant.token_id {
            Some(id) => format!("token:{id}"),
            None => format!("{}:{}", self.actor_type, self.name),
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

    /// Resolves when its token ends: never, where it cannot.
    pub async fn token_ended(self) {
        match self.token {
            Some(token) => token.ended.cancelled().await,
            None => std::future::pending().await,
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
