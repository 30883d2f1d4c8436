//! Calls that explain and foresee.

use lessor_protocol::{Explain, Page, SimulateRequest, Simulation};
use reqwest::Method;

use crate::client::{Call, Client, Paging};
use crate::error::Error;

impl Client {
    /// Why a session waits, by its id or its name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn explain_session(&self, id_or_name: &str) -> Result<Explain, Error> {
        self.fetch(Call::new(Method::GET, &["sessions", id_or_name, "explain"]))
            .await
    }

    /// A page of the sessions that an agent's drain still has to hand over, each explained.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn explain_agent_drain(
        &self,
        agent: &str,
        paging: &Paging,
    ) -> Result<Page<Explain>, Error> {
        self.explained(&["agents", agent, "drain", "explain"], paging)
            .await
    }

    /// A page of the sessions that a pool's drain still has to hand over, each explained.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn explain_pool_drain(
        &self,
        pool: &str,
        paging: &Paging,
    ) -> Result<Page<Explain>, Error> {
        self.explained(&["pools", pool, "drain", "explain"], paging)
            .await
    }

    async fn explained(&self, path: &[&str], paging: &Paging) -> Result<Page<Explain>, Error> {
        let mut query = Vec::new();
        paging.query(&mut query);
        self.fetch(Call::new(Method::GET, path).query(query)).await
    }

    /// What would become of a pool's sessions if these agents were lost; nothing is changed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn simulate_pool(
        &self,
        pool: &str,
        body: &SimulateRequest,
    ) -> Result<Simulation, Error> {
        self.fetch(Call::new(Method::POST, &["pools", pool, "simulate"]).json(body)?)
            .await
    }
}
