//! Calls on drains.

use std::time::Duration;

use lessor_protocol::{Drain, DrainRequest, DrainStatus};
use reqwest::Method;

use crate::client::{Call, Client, POLL_MARGIN};
use crate::error::Error;

impl Client {
    /// Starts to drain an agent.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn drain_agent(&self, agent: &str, body: &DrainRequest) -> Result<Drain, Error> {
        self.fetch(Call::new(Method::POST, &["agents", agent, "drain"]).json(body)?)
            .await
    }

    /// Starts to drain every agent that a pool has now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn drain_pool(&self, pool: &str, body: &DrainRequest) -> Result<Drain, Error> {
        self.fetch(Call::new(Method::POST, &["pools", pool, "drain"]).json(body)?)
            .await
    }

    /// The newest drain of an agent.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn agent_drain(&self, agent: &str) -> Result<Drain, Error> {
        self.fetch(Call::new(Method::GET, &["agents", agent, "drain"]))
            .await
    }

    /// The newest drain of a pool.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn pool_drain(&self, pool: &str) -> Result<Drain, Error> {
        self.fetch(Call::new(Method::GET, &["pools", pool, "drain"]))
            .await
    }

    /// Waits until an agent's drain has one of these statuses, is over, or `wait` has passed: at
    /// most 55 s.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn wait_for_agent_drain(
        &self,
        agent: &str,
        statuses: &[DrainStatus],
        wait: Duration,
    ) -> Result<Drain, Error> {
        let words: Vec<_> = statuses.iter().map(|status| status.as_str()).collect();
        let query = vec![
            ("wait_for", words.join(",")),
            ("wait_seconds", wait.as_secs_f64().to_string()),
        ];
        let path = ["agents", agent, "drain"];
        let call = Call::new(Method::GET, &path).query(query);
        self.fetch(call.timeout(wait + POLL_MARGIN)).await
    }

    /// Calls an agent's drain off.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cancel_agent_drain(&self, agent: &str) -> Result<Drain, Error> {
        self.fetch(Call::new(Method::DELETE, &["agents", agent, "drain"]))
            .await
    }

    /// Calls a pool's drain off.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cancel_pool_drain(&self, pool: &str) -> Result<Drain, Error> {
        self.fetch(Call::new(Method::DELETE, &["pools", pool, "drain"]))
            .await
    }
}
