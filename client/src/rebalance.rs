//! Calls on rebalances.

use lessor_protocol::{Rebalance, RebalanceRequest};
use reqwest::Method;

use crate::client::{Call, Client};
use crate::error::Error;

impl Client {
    /// Evens out what the agents of a pool hold, or says what that would take.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rebalance_pool(
        &self,
        pool: &str,
        body: &RebalanceRequest,
    ) -> Result<Rebalance, Error> {
        self.fetch(Call::new(Method::POST, &["pools", pool, "rebalance"]).json(body)?)
            .await
    }

    /// The newest rebalance of a pool.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn pool_rebalance(&self, pool: &str) -> Result<Rebalance, Error> {
        self.fetch(Call::new(Method::GET, &["pools", pool, "rebalance"]))
            .await
    }

    /// Calls off what a pool's rebalances have not begun yet; gives the newest.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cancel_rebalance(&self, pool: &str) -> Result<Rebalance, Error> {
        self.fetch(Call::new(Method::DELETE, &["pools", pool, "rebalance"]))
            .await
    }
}
