//! Calls on the shares of owners.

use lessor_protocol::{Owner, OwnerShare, Page};
use reqwest::Method;

use crate::client::{Call, Client, Paging};
use crate::error::Error;

impl Client {
    /// Sets an owner's share of a pool.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put_owner(
        &self,
        pool: &str,
        owner: &str,
        share: &OwnerShare,
    ) -> Result<Owner, Error> {
        self.fetch(Call::new(Method::PUT, &["pools", pool, "owners", owner]).json(share)?)
            .await
    }

    /// An owner's share of a pool, and what it has there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_owner(&self, pool: &str, owner: &str) -> Result<Owner, Error> {
        self.fetch(Call::new(Method::GET, &["pools", pool, "owners", owner]))
            .await
    }

    /// Puts an owner's share back to the defaults.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_owner(&self, pool: &str, owner: &str) -> Result<(), Error> {
        self.done(Call::new(Method::DELETE, &["pools", pool, "owners", owner]))
            .await
    }

    /// A page of the owners whose share of a pool is set.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_owners(&self, pool: &str, paging: &Paging) -> Result<Page<Owner>, Error> {
        let mut query = Vec::new();
        paging.query(&mut query);
        self.fetch(Call::new(Method::GET, &["pools", pool, "owners"]).query(query))
            .await
    }
}
