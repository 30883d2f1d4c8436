//! What can go wrong.

use std::path::Path;

/// Why a scenario, or the bench, could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Said in words.
    #[error("{0}")]
    Said(String),
    /// Something about a file or a process.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        error: std::io::Error,
    },
    /// The database refused.
    #[error("database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// The bench's PostgreSQL did not start or stop.
    #[error(transparent)]
    Postgres(#[from] lessor::postgres::PostgresError),
    /// The connection to the service broke.
    #[error("connection: {0}")]
    Connection(#[from] hyper::Error),
    /// Something was not the JSON that was expected.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A result here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What was tried with a file when it failed.
    pub fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let what = format!("{what} {}", path.display());
        move |error| Self::Io { what, error }
    }

    /// In words.
    pub fn said(why: impl Into<String>) -> Self {
        Self::Said(why.into())
    }
}
