//! Load: pools, agents and backlogs to work on, and agents that claim in a loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::bench::{Bench, Database};
use crate::error::{Error, Result};
use crate::http::Connection;
use crate::service::Service;

/// The lease time of a pool whose agents are not to be expired in the middle of a measurement.
pub const LONG_LEASE_SECONDS: f64 = 3_600.0;
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

/// An agent of the load, with what it has not reported on yet.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// The number of its run.
    pub incarnation: i64,
    /// Offers to accept with the next claim.
    pub offers: Vec<Offer>,
}

/// A session that was offered.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The session.
    pub id: Uuid,
    /// Under which epoch.
    pub lease_epoch: i64,
    /// Of which generation.
    pub generation: i64,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// The answer to a claim, as far as the load needs it.
#[derive(Deserialize)]
pub struct Claimed {
    /// What the agent was given.
    pub assignments: Vec<Assignment>,
    results: Vec<ReportResult>,
}

/// A session that an agent was given.
#[derive(Deserialize)]
pub struct Assignment {
    session: SessionId,
    /// What is to be done with it.
    pub action: String,
    lease_epoch: i64,
    generation: i64,
}

#[derive(Deserialize)]
struct SessionId {
    id: Uuid,
    created_at: DateTime<Utc>,
}

#[derive(Deserialize)]
struct ReportResult {
    outcome: String,
}

impl Claimed {
    /// Whether every report that the claim carried was accepted.
    ///
    /// # Errors
    /// When one was not.
    pub fn all_accepted(&self) -> Result<()> {
        match self.results.iter().find(|r| r.outcome != "accepted") {
            Some(refused) => Err(Error::said(format!("a report was {}", refused.outcome))),
            None => Ok(()),
        }
    }
}

impl Assignment {
    /// It as what there is to report on.
    pub fn offer(&self) -> Offer {
        Offer {
            id: self.session.id,
            lease_epoch: self.lease_epoch,
            generation: self.generation,
            created_at: self.session.created_at,
        }
    }
}

/// A database of its own and the service on it, with a pool `p` for ours and a pool `bare` for the
/// reference.
///
/// # Errors
/// When either cannot be had.
pub async fn with_two_pools(bench: &Bench) -> Result<(Database, Service)> {
    let database = bench.database().await?;
    let service = Service::start(bench, &database.url).await?;
    pool(&service, "p", LONG_LEASE_SECONDS).await?;
    pool(&service, "bare", LONG_LEASE_SECONDS).await?;
    Ok((database, service))
}

/// Makes a pool.
///
/// # Errors
/// When the service refuses.
pub async fn pool(service: &Service, name: &str, lease_ttl_seconds: f64) -> Result<()> {
    let mut connection = service.connect().await?;
    let body = json!({"platform": "process", "lease_ttl_seconds": lease_ttl_seconds,
        "accept_timeout_seconds": 3_600, "start_timeout_seconds": 86_400});
    connection
        .put::<Value>(&format!("/v1/pools/{name}"), &body)
        .await?;
    Ok(())
}

/// Registers agents of a pool, all in one domain.
///
/// # Errors
/// When the service refuses.
pub async fn agents(service: &Service, pool: &str, count: usize) -> Result<Vec<Agent>> {
    let mut connection = service.connect().await?;
    let mut agents = Vec::with_capacity(count);
    for number in 0..count {
        let name = format!("{pool}-{number:05}");
        agents.push(register(&mut connection, pool, &name, "here").await?);
    }
    Ok(agents)
}

/// Registers one agent.
///
/// # Errors
/// When the service refuses.
pub async fn register(
    connection: &mut Connection,
    pool: &str,
    name: &str,
    domain: &str,
) -> Result<Agent> {
    register_with(connection, pool, name, domain, &[]).await
}

/// Registers one agent with labels.
///
/// # Errors
/// When the service refuses.
pub async fn register_with(
    connection: &mut Connection,
    pool: &str,
    name: &str,
    domain: &str,
    labels: &[(&str, String)],
) -> Result<Agent> {
    let labels: BTreeMap<&str, &String> = labels.iter().map(|(k, v)| (*k, v)).collect();
    let body =
        json!({"pool": pool, "resource_domain": domain, "capacity": 1_000_000, "labels": labels});
    let answer: Value = connection.put(&format!("/v1/agents/{name}"), &body).await?;
    let incarnation = answer["incarnation"].as_i64();
    Ok(Agent {
        name: name.to_owned(),
        incarnation: incarnation.ok_or_else(|| Error::said("no incarnation"))?,
        offers: Vec::new(),
    })
}

/// Sessions that wait to be started in a pool, put there by SQL, without history. They are vacuumed and
/// analysed, as after a day on which autovacuum kept up.
///
/// # Errors
/// When the database refuses.
pub async fn backlog(client: &Client, pool: &str, count: usize) -> Result<()> {
    client
        .batch_execute(&format!(
            "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
                 created_at, updated_at, queued_at)
             SELECT gen_random_uuid(), '{pool}', 'process', '{SPEC}', 'running', 'pending', 'on_failure',
                 now(), now(), now() + n * interval '1 microsecond'
             FROM generate_series(1, {count}) n"
        ))
        .await?;
    client.batch_execute("VACUUM ANALYZE sessions").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// Brings the sessions that wait in a pool to a number, as [`backlog`], and settles.
///
/// # Errors
/// When the database refuses.
pub async fn top_up(client: &Client, pool: &str, count: usize) -> Result<()> {
    let there = waiting(client, pool).await?;
    if there < count {
        backlog(client, pool, count - there).await?;
    }
    settle(client).await
}

/// How many sessions wait to be started in a pool.
///
/// # Errors
/// When the database refuses.
pub async fn waiting(client: &Client, pool: &str) -> Result<usize> {
    let row = client
        .query_one(
            "SELECT count(*) FROM sessions WHERE agent_pool = $1 AND pool_work = 'start'",
            &[&pool],
        )
        .await?;
    let count: i64 = row.get(0);
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Waits until what one side has left to be done later is done, so that the other does not pay for it:
/// events without a position. Then a checkpoint, so that both begin with the same pages to write whole.
///
/// # Errors
/// When the database refuses, or a minute is not enough.
pub async fn settle(client: &Client) -> Result<()> {
    let begun = Instant::now();
    loop {
        let row = client
            .query_one("SELECT NOT EXISTS (SELECT FROM event_inbox)", &[])
            .await?;
        if row.get(0) {
            break;
        }
        if begun.elapsed() > SETTLE_PATIENCE {
            return Err(Error::said("events have no position after a minute"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// What a session of the load runs.
pub const SPEC: &str = r#"{"command": ["sleep", "60"], "env": {"USER": "someone"}}"#;

/// How agents claim.
#[derive(Clone, Copy, Debug)]
pub struct Claiming {
    /// How many sessions a claim asks for.
    pub max_sessions: usize,
    /// How long it waits.
    pub wait_seconds: f64,
    /// How many claims are under way at a time.
    pub in_flight: usize,
    /// For how long.
    pub time: Duration,
}

/// Claims with many agents; each claim carries the acceptance of what the agent's last one was given.
/// Gives how many sessions a second were claimed. Each of `in_flight` connections serves its share of
/// the agents in turn.
///
/// # Errors
/// When a claim fails, or a report is not accepted.
pub async fn claim(service: &Service, agents: &mut [Agent], how: Claiming) -> Result<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let claimed = Arc::new(AtomicU64::new(0));
    let mut shares: Vec<Vec<Agent>> = vec![Vec::new(); how.in_flight];
    for (number, agent) in agents.iter().enumerate() {
        shares[number % how.in_flight].push(agent.clone());
    }
    let mut tasks = Vec::new();
    for share in shares {
        let connection = service.connect().await?;
        let (stop, claimed) = (Arc::clone(&stop), Arc::clone(&claimed));
        tasks.push(tokio::spawn(claim_in_turn(
            connection, share, how, stop, claimed,
        )));
    }
    // The first claims pay for connections and plans.
    tokio::time::sleep(how.time.mul_f64(0.1)).await;
    let per_second = rate(&claimed, how.time).await;
    stop.store(true, Ordering::Relaxed);
    let mut left = Vec::with_capacity(agents.len());
    for task in tasks {
        let share = task
            .await
            .map_err(|error| Error::said(error.to_string()))??;
        left.extend(share);
    }
    left.sort_by(|a, b| a.name.cmp(&b.name));
    agents.clone_from_slice(&left);
    Ok(per_second)
}

/// By how much something rises in a second, over a time.
pub async fn rate(counter: &AtomicU64, time: Duration) -> f64 {
    let (begun, before) = (Instant::now(), counter.load(Ordering::Relaxed));
    tokio::time::sleep(time).await;
    let count = counter.load(Ordering::Relaxed) - before;
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let per_second = count as f64 / begun.elapsed().as_secs_f64();
    per_second
}

async fn claim_in_turn(
    mut connection: Connection,
    mut share: Vec<Agent>,
    how: Claiming,
    stop: Arc<AtomicBool>,
    claimed: Arc<AtomicU64>,
) -> Result<Vec<Agent>> {
    if share.is_empty() {
        return Ok(share);
    }
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let agent = &mut share[turn];
        let got = claim_once(&mut connection, agent, how.max_sessions, how.wait_seconds).await?;
        claimed.fetch_add(got as u64, Ordering::Relaxed);
        turn = (turn + 1) % share.len();
    }
    Ok(share)
}

/// One claim, with the acceptance of what the last one was given; how many sessions it was given.
///
/// # Errors
/// When it fails, or a report is not accepted.
pub async fn claim_once(
    connection: &mut Connection,
    agent: &mut Agent,
    max_sessions: usize,
    wait_seconds: f64,
) -> Result<usize> {
    let reports: Vec<Value> = agent.offers.iter().map(|o| report(o, "starting")).collect();
    claim_with(connection, agent, max_sessions, wait_seconds, reports).await
}

/// One claim that carries these reports; how many sessions it was given.
///
/// # Errors
/// When it fails, or a report is not accepted.
pub async fn claim_with(
    connection: &mut Connection,
    agent: &mut Agent,
    max_sessions: usize,
    wait_seconds: f64,
    reports: Vec<Value>,
) -> Result<usize> {
    let body = json!({"incarnation": agent.incarnation, "max_sessions": max_sessions,
        "wait_seconds": wait_seconds, "reports": reports});
    let path = format!("/v1/agents/{}/claim", agent.name);
    let answer: Claimed = connection.post(&path, &body).await?;
    answer.all_accepted()?;
    agent.offers = answer.assignments.iter().map(Assignment::offer).collect();
    Ok(agent.offers.len())
}

/// A report on a session.
pub fn report(offer: &Offer, state: &str) -> Value {
    json!({"session_id": offer.id, "lease_epoch": offer.lease_epoch,
        "observed_generation": offer.generation, "state": state})
}
