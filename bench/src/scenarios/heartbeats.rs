//! What leases cost while nothing else happens: 100,000 sessions held by 1,000 agents, each of which beats
//! once in 10 s, evenly spread.
//!
//! Sessions and agents are put there by SQL as held and running. Every fourth beat tells of the activity
//! of 10 of the agent's sessions.
//!
//! The share of the database is the processor time of all its processes by that of all cores: what
//! PostgreSQL took during the beats, less what it took in the same time before, with the same service over
//! the same tables and no beat. How long the statements of beats were planned and executed is told beside
//! it, from `pg_stat_statements`. How many updates of agents were HOT and whether a session's row was
//! written is PostgreSQL's own count over the time of the beats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::bench::{Bench, connect};
use crate::database::{self, Count, Updates};
use crate::error::{Error, Result};
use crate::fleet;
use crate::http::Connection;
use crate::load::{self, Agent, SPEC};
use crate::measure::{Line, Target};
use crate::service::Service;

const SESSIONS_EACH: usize = 100;

/// How many sessions a beat that tells of activity tells of.
const ACTIVE: usize = 10;

/// The connections over which agents beat.
const CONNECTIONS: usize = 32;

/// PostgreSQL tells what its processes counted at most this late.
const COUNTED_WITHIN: Duration = Duration::from_secs(12);

/// An agent that beats, and some of its sessions.
struct Beating {
    agent: Agent,
    active: Vec<String>,
}

/// What a round has found.
struct Found {
    beats: f64,
    per_second: f64,
    cpu: f64,
    executed: f64,
}

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let database = bench.database().await?;
    let count = Count::begin(bench, &database).await?;
    let service = Service::start(bench, &database.url).await?;
    load::pool(&service, "p", load::LONG_LEASE_SECONDS).await?;
    let client = connect(&database.url).await?;
    let agents = fleet::agents(&client, "p", "here", bench.effort.size(1_000, 100)).await?;
    hold(&client).await?;
    let beating = with_sessions(&client, agents).await?;
    client
        .query("SELECT pg_stat_force_next_flush()", &[])
        .await?;
    let agents_before = database::updates(&client, "agents").await?;
    let sessions_before = database::updates(&client, "sessions").await?;
    let (mut found, mut beats) = (Vec::new(), 0.0);
    for _ in 0..bench.effort.rounds.min(3) {
        let round = round(bench, &service, &count, &beating).await?;
        beats += round.beats;
        found.push(round);
    }
    let agents = counted(bench, &client, agents_before.all + beats).await?;
    let sessions = database::updates(&client, "sessions").await?;
    let updates = agents.all - agents_before.all;
    let hot = (agents.hot - agents_before.hot) / updates;
    service.stop().await?;
    bench.drop_database(database).await?;
    let of = |figure: fn(&Found) -> f64| found.iter().map(figure).collect::<Vec<_>>();
    let touched = sessions.all - sessions_before.all;
    Ok(vec![
        Line::value(
            "of the database, by processor time",
            "%",
            &of(|f| f.cpu),
            Target::AtMost(1.0),
        ),
        Line::value(
            "of the database, statements alone",
            "%",
            &of(|f| f.executed),
            Target::None,
        ),
        Line::value("beats", "/s", &of(|f| f.per_second), Target::None),
        Line::value(
            "lease updates that were HOT",
            "",
            &[hot],
            Target::AtLeast(1.0),
        ),
        Line::value("updates of sessions", "", &[touched], Target::AtMost(0.0)),
    ])
}

/// How long a round beats: twice the time between two beats of an agent.
fn span(bench: &Bench) -> Duration {
    every(bench) * 2
}

/// How long an agent waits between two beats.
fn every(bench: &Bench) -> Duration {
    Duration::from_secs(if bench.effort.quick { 1 } else { 10 })
}

async fn hold(client: &Client) -> Result<()> {
    client
        .batch_execute(&format!(
            "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart, resource_domain,
                 assigned_agent_id, assigned_incarnation, assigned_action, lease_epoch, observed_generation,
                 created_at, updated_at, queued_at, started_at, first_started_at)
             SELECT gen_random_uuid(), a.pool, 'process', '{SPEC}', 'running', 'running', 'on_failure',
                 a.resource_domain, a.name, a.incarnation, 'start', 1, 1, now(), now(), now(), now(), now()
             FROM agents a, generate_series(1, {SESSIONS_EACH});
             UPDATE agents SET slots_used = {SESSIONS_EACH};"
        ))
        .await?;
    client.batch_execute("VACUUM ANALYZE").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

async fn with_sessions(client: &Client, agents: Vec<Agent>) -> Result<Vec<Beating>> {
    let some = client
        .prepare("SELECT id::text FROM sessions WHERE assigned_agent_id = $1 LIMIT $2")
        .await?;
    let mut beating = Vec::with_capacity(agents.len());
    for agent in agents {
        let rows = client
            .query(&some, &[&agent.name, &(ACTIVE as i64)])
            .await?;
        let active = rows.iter().map(|row| row.get(0)).collect();
        beating.push(Beating { agent, active });
    }
    Ok(beating)
}

/// The updates of agents, once all that was done has been counted; to see that it works, once there are
/// so many.
async fn counted(bench: &Bench, client: &Client, at_least: f64) -> Result<Updates> {
    let begun = Instant::now();
    loop {
        let agents = database::updates(client, "agents").await?;
        let enough = bench.effort.quick && agents.all >= at_least;
        if enough || begun.elapsed() > COUNTED_WITHIN {
            return Ok(agents);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn round(
    bench: &Bench,
    service: &Service,
    count: &Count,
    beating: &[Beating],
) -> Result<Found> {
    let idle = database::cpu_seconds(bench)?;
    tokio::time::sleep(span(bench)).await;
    let idle = database::cpu_seconds(bench)? - idle;
    let ran = count.look().await?;
    let (begun, used) = (Instant::now(), database::cpu_seconds(bench)?);
    let beats = beat_all(service, beating, every(bench), begun + span(bench)).await?;
    let wall = begun.elapsed().as_secs_f64();
    let used = database::cpu_seconds(bench)? - used;
    let ran = database::since(&ran, &count.look().await?);
    let milliseconds: f64 = ["-- leases::renew", "-- limits::record"]
        .iter()
        .filter_map(|name| ran.get(*name))
        .map(|ran| ran.milliseconds)
        .sum();
    #[allow(clippy::cast_precision_loss, reason = "a few cores")]
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    Ok(Found {
        beats,
        per_second: beats / wall,
        cpu: (used - idle) / wall / cores * 100.0,
        executed: milliseconds / 1e3 / wall / cores * 100.0,
    })
}

/// Beats for every agent in its turn until a time; how many beats were answered.
async fn beat_all(
    service: &Service,
    beating: &[Beating],
    every: Duration,
    until: Instant,
) -> Result<f64> {
    let begun = tokio::time::Instant::now();
    let failed = Arc::new(AtomicBool::new(false));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(service.connect().await?);
    }
    #[allow(clippy::cast_possible_truncation, reason = "some thousand agents")]
    let step = every / beating.len() as u32;
    let turns = connections
        .into_iter()
        .enumerate()
        .map(|(first, mut connection)| {
            let failed = Arc::clone(&failed);
            async move {
                let (mut beats, mut number) = (0.0, first);
                loop {
                    #[allow(clippy::cast_possible_truncation, reason = "some thousand beats")]
                    let at = begun + step * number as u32;
                    if at.into_std() >= until || failed.load(Ordering::Relaxed) {
                        return Ok::<f64, Error>(beats);
                    }
                    tokio::time::sleep_until(at).await;
                    let sent =
                        beat(&mut connection, &beating[number % beating.len()], number).await;
                    if sent.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    sent?;
                    beats += 1.0;
                    number += CONNECTIONS;
                }
            }
        });
    let beats = futures_util::future::try_join_all(turns).await?;
    Ok(beats.iter().sum())
}

async fn beat(connection: &mut Connection, beating: &Beating, number: usize) -> Result<()> {
    // By number and by turn, so that it is not always the same agents.
    let tells = (number + number / 1_000).is_multiple_of(4);
    let active = if tells {
        beating.active.as_slice()
    } else {
        &[]
    };
    let activity: Vec<Value> = active
        .iter()
        .map(|id| json!({"session_id": id, "idle_seconds": 1.0}))
        .collect();
    let body = json!({"incarnation": beating.agent.incarnation, "activity": activity});
    let path = format!("/v1/agents/{}/heartbeat", beating.agent.name);
    connection.post::<Value>(&path, &body).await?;
    Ok(())
}
