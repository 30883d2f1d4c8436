//! Claims that are parked before their work exists, beside a bare claim and a bare accept.
//!
//! Agents claim in a loop as in `claims`, each claim with the acceptance of the one before, but there is
//! no backlog. A feeder puts sessions there by multi-row inserts in bare SQL and sends the notification by
//! which another server would tell of them. It never puts more there than half as many as there are
//! claims under way, so at least half of the claims are always parked. How many of the claims that were
//! given something had been sent before their session was created is measured and told: the clocks are
//! the same machine's.
//!
//! The reference is that of `claims`, on a backlog, since a bare statement cannot wait: bare claims and
//! accepts at their best number of clients, while the same feeder runs beside them at the pace at which
//! sessions were claimed in our half of the round. So both sides have the inserts to bear.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;

use crate::bench::{Bench, Database, connect};
use crate::error::{Error, Result};
use crate::feed::{self, Trough};
use crate::http::Connection;
use crate::load::{self, Agent};
use crate::measure::{Line, Target};
use crate::reference;
use crate::scenarios::claims::{AGENTS, CASES, CLAIM_AND_ACCEPT};
use crate::service::Service;

/// Two, so that one can insert while the other's notification is under way.
const FEEDERS: usize = 2;

/// How long a claim waits: it ends soon after the feeder has.
const WAIT_SECONDS: f64 = 2.0;

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let (database, service) = load::with_two_pools(bench).await?;
    let mut agents = load::agents(&service, "p", bench.effort.size(AGENTS, 128)).await?;
    let client = connect(&database.url).await?;
    let backlog = bench.effort.size(400_000, 20_000);
    load::backlog(&client, "bare", backlog).await?;
    let clients = reference::best_clients(bench, &database, CLAIM_AND_ACCEPT, &[8, 16, 32]).await?;
    let mut lines = Vec::new();
    for (in_flight, least) in CASES {
        let in_flight = in_flight.min(agents.len());
        let (mut rounds, mut waited) = (Vec::new(), Vec::new());
        for _ in 0..bench.effort.rounds {
            client.batch_execute("VACUUM ANALYZE sessions").await?;
            let ours = claim(bench, (&database, &service), &mut agents, in_flight).await?;
            let bare = bare(bench, &database, clients, (ours.per_second, in_flight)).await?;
            rounds.push((ours.per_second, bare));
            waited.push(ours.waited * 100.0);
        }
        lines.push(Line::ratio(
            format!("{in_flight} in flight"),
            "/s",
            format!("bare, {clients} clients"),
            &rounds,
            Target::AtLeast(least),
        ));
        let case = format!("{in_flight} in flight, parked before");
        lines.push(Line::value(case, "%", &waited, Target::None));
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    Ok(lines)
}

/// How large a feeder's inserts are.
fn portion(in_flight: usize) -> usize {
    (in_flight / 4 / FEEDERS).max(1)
}

struct Claimed {
    per_second: f64,
    /// Of the claims that were given something, the share that had been sent before it was created.
    waited: f64,
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
async fn claim(
    bench: &Bench,
    (database, service): (&Database, &Service),
    agents: &mut [Agent],
    in_flight: usize,
) -> Result<Claimed> {
    let trough = Trough::default();
    let waited = Arc::new(AtomicU64::new(0));
    let mut shares: Vec<Vec<Agent>> = vec![Vec::new(); in_flight];
    for (number, agent) in agents.iter().enumerate() {
        shares[number % in_flight].push(agent.clone());
    }
    let mut tasks = Vec::new();
    for share in shares {
        let connection = service.connect().await?;
        tasks.push(tokio::spawn(claim_in_turn(
            connection,
            share,
            trough.clone(),
            Arc::clone(&waited),
        )));
    }
    let mut feeders = Vec::new();
    for _ in 0..FEEDERS {
        let client = connect(&database.url).await?;
        let portion = portion(in_flight);
        feeders.push(tokio::spawn(feed::keep(
            client,
            "p".to_owned(),
            portion,
            in_flight / 2,
            trough.clone(),
        )));
    }
    tokio::time::sleep(bench.effort.time.mul_f64(0.2)).await;
    let (begun, before) = (Instant::now(), trough.eaten.load(Ordering::Relaxed));
    tokio::time::sleep(bench.effort.time).await;
    let count = trough.eaten.load(Ordering::Relaxed) - before;
    let per_second = count as f64 / begun.elapsed().as_secs_f64();
    trough.stop.store(true, Ordering::Relaxed);
    for feeder in feeders {
        joined(feeder.await)?;
    }
    let mut left = Vec::with_capacity(agents.len());
    for task in tasks {
        left.extend(joined(task.await)?);
    }
    left.sort_by(|a, b| a.name.cmp(&b.name));
    agents.clone_from_slice(&left);
    let eaten = trough.eaten.load(Ordering::Relaxed).max(1);
    Ok(Claimed {
        per_second,
        waited: waited.load(Ordering::Relaxed) as f64 / eaten as f64,
    })
}

fn joined<T>(ended: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    ended.map_err(|error| Error::said(error.to_string()))?
}

/// Claims until the feeder has stopped and nothing is left.
async fn claim_in_turn(
    mut connection: Connection,
    mut share: Vec<Agent>,
    trough: Trough,
    waited: Arc<AtomicU64>,
) -> Result<Vec<Agent>> {
    let mut turn = 0;
    while !share.is_empty() && !trough.is_empty_for_good() {
        let sent = Utc::now();
        let agent = &mut share[turn];
        load::claim_once(&mut connection, agent, 1, WAIT_SECONDS).await?;
        for offer in &agent.offers {
            trough.eaten.fetch_add(1, Ordering::Relaxed);
            if offer.created_at > sent {
                waited.fetch_add(1, Ordering::Relaxed);
            }
        }
        turn = (turn + 1) % share.len();
    }
    Ok(share)
}

/// Bare claims and accepts, with the feeder at a pace beside them.
async fn bare(
    bench: &Bench,
    database: &Database,
    clients: usize,
    (per_second, in_flight): (f64, usize),
) -> Result<f64> {
    let trough = Trough::default();
    let portion = portion(in_flight);
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let every = Duration::from_secs_f64((portion * FEEDERS) as f64 / per_second.max(1.0));
    let mut feeders = Vec::new();
    for _ in 0..FEEDERS {
        let client = connect(&database.url).await?;
        feeders.push(tokio::spawn(feed::pace(
            client,
            "bare".to_owned(),
            portion,
            every,
            trough.clone(),
        )));
    }
    let time = bench.effort.time;
    let bare = reference::run(bench, database, CLAIM_AND_ACCEPT, clients, time).await;
    trough.stop.store(true, Ordering::Relaxed);
    for feeder in feeders {
        joined(feeder.await)?;
    }
    Ok(bare?.per_second)
}
