//! Calls about pools.

use lessor_protocol::{Page, Pool, PoolSpec, Scaling};
use reqwest::Method;

use crate::client::{Call, Client, Paging};
use crate::error::Error;

impl Client {
    /// Creates a pool, or replaces its settings.
    ///
    /// # Errors
    /// See [`Error`]; `pool_platform_fixed` when the platform would change.
    pub async fn put_pool(&self, pool: &str, spec: &PoolSpec) -> Result<Pool, Error> {
        self.fetch(Call::new(Method::PUT, &["pools", pool]).json(spec)?)
            .await
    }

    /// Changes some of a pool's settings: a JSON merge patch of [`PoolSpec`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn patch_pool(&self, pool: &str, patch: &serde_json::Value) -> Result<Pool, Error> {
        self.fetch(
            Call::new(Method::PATCH, &["pools", pool])
                .json(patch)?
                .merge_patch(),
        )
        .await
    }

    /// One pool with its live counts.
    ///
    /// # Errors
    /// See [`Error`]; `pool_not_found`.
    pub async fn get_pool(&self, pool: &str) -> Result<Pool, Error> {
        self.fetch(Call::new(Method::GET, &["pools", pool])).await
    }

    /// Releases a pool's brake; without one, nothing changes.
    ///
    /// # Errors
    /// See [`Error`]; `pool_not_found`.
    pub async fn release_brake(&self, pool: &str) -> Result<Pool, Error> {
        self.fetch(Call::new(Method::POST, &["pools", pool, "release-brake"]))
            .await
    }

    /// Deletes a pool that has neither agents nor sessions.
    ///
    /// # Errors
    /// See [`Error`]; `pool_not_empty`.
    pub async fn delete_pool(&self, pool: &str) -> Result<(), Error> {
        self.done(Call::new(Method::DELETE, &["pools", pool])).await
    }

    /// A page of the pools.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_pools(&self, paging: &Paging) -> Result<Page<Pool>, Error> {
        let mut query = Vec::new();
        paging.query(&mut query);
        self.fetch(Call::new(Method::GET, &["pools"]).query(query))
            .await
    }

    /// How many agents a pool needs, and which can go.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn pool_scaling(&self, pool: &str) -> Result<Scaling, Error> {
        self.fetch(Call::new(Method::GET, &["pools", pool, "scaling"]))
            .await
    }
}
