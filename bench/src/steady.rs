//! Claims from queues that keep their length: what is claimed is put back behind, by SQL, so that a
//! thousand waiting sessions stay a thousand however fast they are claimed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::bench::connect;
use crate::error::{Error, Result};
use crate::http::Connection;
use crate::load::{self, Agent};
use crate::measure::percentile;
use crate::service::Service;

/// What is put back at once.
const REFILL: u64 = 250;

/// What claims took.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// How many sessions a second were claimed.
    pub per_second: f64,
    /// How long each claim took, in milliseconds.
    pub latencies: Vec<f64>,
}

impl Claims {
    /// The median of how long a claim took, in milliseconds.
    pub fn median(&self) -> f64 {
        percentile(&self.latencies, 50.0)
    }
}

/// A pool whose queues are kept at their length.
pub struct Steady<'s> {
    /// The service.
    pub service: &'s Service,
    /// Its database.
    pub url: &'s str,
    /// Puts sessions into the queues: `$1` of them.
    pub refill: &'s str,
}

impl Steady<'_> {
    /// Claims one session a request for a time, each claim carrying the acceptance of the one before.
    ///
    /// # Errors
    /// When a claim fails, or the database refuses.
    pub async fn claim(
        &self,
        agents: &mut [Agent],
        in_flight: usize,
        time: Duration,
    ) -> Result<Claims> {
        let stop = Arc::new(AtomicBool::new(false));
        let claimed = Arc::new(AtomicU64::new(0));
        let in_flight = in_flight.min(agents.len());
        let mut shares: Vec<Vec<Agent>> = vec![Vec::new(); in_flight];
        for (number, agent) in agents.iter().enumerate() {
            shares[number % in_flight].push(agent.clone());
        }
        let mut tasks = Vec::new();
        for share in shares {
            let connection = self.service.connect().await?;
            let (stop, claimed) = (Arc::clone(&stop), Arc::clone(&claimed));
            tasks.push(tokio::spawn(in_turn(connection, share, stop, claimed)));
        }
        let client = connect(self.url).await?;
        let refill = self.refill.to_owned();
        // Not when they are told to stop: what is in flight then is claimed, too.
        let all_claimed = Arc::new(AtomicBool::new(false));
        let refilling = {
            let (over, claimed) = (Arc::clone(&all_claimed), Arc::clone(&claimed));
            tokio::spawn(async move { put_back(&client, &refill, &over, &claimed).await })
        };
        // The first claims pay for connections and plans.
        tokio::time::sleep(time.mul_f64(0.1)).await;
        let (begun, before) = (Instant::now(), claimed.load(Ordering::Relaxed));
        tokio::time::sleep(time).await;
        let count = claimed.load(Ordering::Relaxed) - before;
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        let mut left = Vec::with_capacity(agents.len());
        let mut latencies = Vec::new();
        for task in tasks {
            let (share, times) = task.await.map_err(joined)??;
            left.extend(share);
            let within = |at: &Instant| *at >= begun && *at <= begun + took;
            latencies.extend(times.into_iter().filter(|t| within(&t.0)).map(|t| t.1));
        }
        all_claimed.store(true, Ordering::Relaxed);
        refilling.await.map_err(joined)??;
        left.sort_by(|a, b| a.name.cmp(&b.name));
        agents.clone_from_slice(&left);
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        let per_second = count as f64 / took.as_secs_f64();
        Ok(Claims {
            per_second,
            latencies,
        })
    }
}

fn joined(error: tokio::task::JoinError) -> Error {
    Error::said(error.to_string())
}

/// When each claim began, and how long it took, in milliseconds.
type Times = Vec<(Instant, f64)>;

async fn in_turn(
    mut connection: Connection,
    mut share: Vec<Agent>,
    stop: Arc<AtomicBool>,
    claimed: Arc<AtomicU64>,
) -> Result<(Vec<Agent>, Times)> {
    let mut times = Vec::new();
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let got = load::claim_once(&mut connection, &mut share[turn], 1, 20.0).await?;
        times.push((begun, begun.elapsed().as_secs_f64() * 1e3));
        claimed.fetch_add(got as u64, Ordering::Relaxed);
        turn = (turn + 1) % share.len();
    }
    Ok((share, times))
}

async fn put_back(
    client: &Client,
    refill: &str,
    over: &AtomicBool,
    claimed: &AtomicU64,
) -> Result<()> {
    let statement = client.prepare(refill).await?;
    let mut put = 0;
    loop {
        // What was claimed at the end is put back too, so that the next measurement finds as many.
        let over = over.load(Ordering::Relaxed);
        let behind = claimed.load(Ordering::Relaxed).saturating_sub(put);
        if behind >= REFILL || (over && behind > 0) {
            let count = i32::try_from(behind).unwrap_or(i32::MAX);
            client.execute(&statement, &[&count]).await?;
            put += behind;
        } else if over {
            return Ok(());
        } else {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The statement that puts sessions without owner and selector into a pool.
pub fn refill(pool: &str) -> String {
    format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             created_at, updated_at, queued_at)
         SELECT gen_random_uuid(), '{pool}', 'process', '{}', 'running', 'pending', 'on_failure',
             now(), now(), now() + n * interval '1 microsecond'
         FROM generate_series(1, $1::int) n",
        load::SPEC
    )
}

/// Puts many sessions into queues, a million a transaction.
///
/// # Errors
/// When the database refuses.
pub async fn fill(client: &Client, refill: &str, count: usize) -> Result<()> {
    // The pool is there: looking it up ten million times would take longer than the rest.
    client
        .batch_execute("SET session_replication_role = replica")
        .await?;
    let mut left = count;
    while left > 0 {
        let now = left.min(1_000_000);
        let number = i32::try_from(now).unwrap_or(i32::MAX);
        client.execute(refill, &[&number]).await?;
        left -= now;
    }
    client
        .batch_execute("SET session_replication_role = origin")
        .await?;
    client.batch_execute("VACUUM ANALYZE sessions").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}
