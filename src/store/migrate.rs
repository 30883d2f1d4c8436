//! Migrations, embedded in the binary.
//!
//! Several servers start at once, and Diesel's runner takes no lock: an advisory lock of the
//! database makes them take turns.

use diesel_async::AsyncMigrationHarness;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::error::{Error, Result};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// Any number will do, as long as nothing else in the database takes it: "lessor" in ASCII.
const LOCK: i64 = 0x6c65_7373_6f72;

/// Brings the schema up to date and says which migrations were run.
///
/// Waits for another server that is doing the same. Needs tokio's multi-thread runtime.
///
/// # Errors
/// When the database cannot be reached or a migration fails; it is then rolled back.
pub async fn run(url: &str) -> Result<Vec<String>> {
    use diesel_async::SimpleAsyncConnection as _;
    let mut conn = super::connect::diesel(url, "")
        .await
        .map_err(|error| Error::DatabaseUnavailable(error.to_string()))?;
    conn.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})"))
        .await?;
    // The lock goes with the connection, which is dropped at the end of this.
    tokio::task::spawn_blocking(move || {
        let mut harness = AsyncMigrationHarness::new(conn);
        let ran = harness
            .run_pending_migrations(MIGRATIONS)
            .map_err(|error| Error::Internal(format!("a migration failed: {error}")))?;
        Ok(ran.iter().map(ToString::to_string).collect())
    })
    .await
    .map_err(|error| Error::Internal(error.to_string()))?
}
