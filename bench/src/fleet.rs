//! Many agents at once, put there by SQL: registering ten thousand over HTTP would take a minute, and is
//! not what is measured.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::load::Agent;
use crate::service::Service;

/// Agents of a pool, all in one domain, live for an hour, each with a million slots.
///
/// # Errors
/// When the database refuses.
pub async fn agents(client: &Client, pool: &str, domain: &str, count: usize) -> Result<Vec<Agent>> {
    client
        .batch_execute(&format!(
            "INSERT INTO resource_domains (pool, name) VALUES ('{pool}', '{domain}') ON CONFLICT DO NOTHING"
        ))
        .await?;
    let rows = client
        .query(
            &format!(
                "INSERT INTO agents (name, pool, resource_domain, capacity, protocol_version, incarnation, live,
                     lease_expires_at, last_heartbeat_at, registered_at, inventory_taken_at)
                 SELECT '{pool}-' || lpad(n::text, 5, '0'), '{pool}', '{domain}', 1000000, 1,
                     nextval('incarnations'), true, now() + interval '1 hour', now(), now(), now()
                 FROM generate_series(0, {count} - 1) n RETURNING name, incarnation"
            ),
            &[],
        )
        .await?;
    client.batch_execute("VACUUM ANALYZE agents").await?;
    Ok(rows
        .iter()
        .map(|row| Agent {
            name: row.get(0),
            incarnation: row.get(1),
            offers: Vec::new(),
        })
        .collect())
}

/// Lets this process and what it starts have so many files open, as far as the system allows.
///
/// # Errors
/// When that is not allowed.
pub fn allow_files(count: u64) -> Result<()> {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    let wanted = Rlimit {
        current: Some(count),
        maximum: now.maximum.map(|maximum| maximum.max(count)),
    };
    setrlimit(Resource::Nofile, wanted).map_err(|error| Error::Io {
        what: format!("have {count} files open"),
        error: error.into(),
    })
}

/// Returns when so many polls of a pool are parked on a server.
///
/// # Errors
/// When they are not within a time.
pub async fn parked(service: &Service, pool: &str, count: usize, patience: Duration) -> Result<()> {
    let gauge = format!("lessor_waiters{{pool=\"{pool}\"}}");
    let deadline = tokio::time::Instant::now() + patience;
    let mut found = 0.0;
    while tokio::time::Instant::now() < deadline {
        found = service.metric(&gauge).await?;
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        if found >= count as f64 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(Error::said(format!(
        "{found} of {count} polls were parked after {patience:?}"
    )))
}
