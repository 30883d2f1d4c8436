//! Work that comes while agents wait for it: put there by bare SQL, with the notification by which
//! another server would tell of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client;

use crate::error::Result;
use crate::load::SPEC;

/// Where servers listen.
const CHANNEL: &str = "lessor_wakeups";

/// Puts sessions into a pool in one statement. They can be claimed once this returns, and nobody has
/// been told.
///
/// # Errors
/// When the database refuses.
pub async fn insert(client: &Client, pool: &str, count: usize) -> Result<()> {
    client
        .execute(
            &format!(
                "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
                     created_at, updated_at, queued_at)
                 SELECT gen_random_uuid(), '{pool}', 'process', '{SPEC}', 'running', 'pending', 'on_failure',
                     t.at, t.at, t.at + n * interval '1 microsecond'
                 FROM (SELECT clock_timestamp() AS at) t, generate_series(1, {count}) n"
            ),
            &[],
        )
        .await?;
    Ok(())
}

/// Tells all servers of so many new sessions in a pool.
///
/// # Errors
/// When the database refuses.
pub async fn notify(client: &Client, pool: &str, count: usize) -> Result<()> {
    let message = json!({"from": uuid::Uuid::new_v4(), "p": {pool: {"s": count}}}).to_string();
    client
        .execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &message])
        .await?;
    Ok(())
}

/// What a feeder and those who eat have in common.
#[derive(Clone, Debug, Default)]
pub struct Trough {
    /// Sessions put there.
    pub fed: Arc<AtomicU64>,
    /// Sessions claimed.
    pub eaten: Arc<AtomicU64>,
    /// Set when it is over.
    pub stop: Arc<AtomicBool>,
}

impl Trough {
    /// Whether it is over and everything was claimed.
    pub fn is_empty_for_good(&self) -> bool {
        let eaten = self.eaten.load(Ordering::Relaxed);
        self.is_over() && self.fed.load(Ordering::Relaxed) <= eaten
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Puts `portion` sessions there whenever no more than `most` would be, until it is over.
///
/// # Errors
/// When the database refuses.
pub async fn keep(
    client: Client,
    pool: String,
    portion: usize,
    most: usize,
    trough: Trough,
) -> Result<()> {
    while !trough.is_over() {
        // Reserved before, so that several feeders do not put too much there together.
        let fed = trough.fed.fetch_add(portion as u64, Ordering::Relaxed) + portion as u64;
        if fed.saturating_sub(trough.eaten.load(Ordering::Relaxed)) > most as u64 {
            trough.fed.fetch_sub(portion as u64, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        insert(&client, &pool, portion).await?;
        notify(&client, &pool, portion).await?;
    }
    Ok(())
}

/// Puts `portion` sessions there at a pace, until it is over.
///
/// # Errors
/// When the database refuses.
pub async fn pace(
    client: Client,
    pool: String,
    portion: usize,
    every: Duration,
    trough: Trough,
) -> Result<()> {
    let mut turn = tokio::time::interval(every);
    while !trough.is_over() {
        turn.tick().await;
        insert(&client, &pool, portion).await?;
        notify(&client, &pool, portion).await?;
    }
    Ok(())
}
