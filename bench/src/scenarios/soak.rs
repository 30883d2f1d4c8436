//! An hour at half load: whole lives of sessions, at half the rate that is possible at the beginning. What
//! a claim takes must not drift, and tables and indexes must level off.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::bench::{Bench, connect};
use crate::error::{Error, Result};
use crate::http::Connection;
use crate::load::{self, Agent, Claimed, Offer};
use crate::measure::{Line, Target, percentile};
use crate::service::Service;

const AGENTS: usize = 64;
const HOUR: f64 = 3_600.0;
/// How long it lasts, if not an hour.
const SECONDS: &str = "LESSOR_BENCH_SOAK_SECONDS";
const PARTS: usize = 6;
/// What counts as levelled off: by so much the last half may grow.
const GROWTH: f64 = 1.1;
/// How many sessions are created at once.
const BATCH: usize = 20;

/// A claim that began so many seconds after the start, and took so many milliseconds.
type Times = Vec<(f64, f64)>;

/// A session and the state that is reported of it next.
type Next = (Offer, &'static str);

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let asked = std::env::var(SECONDS)
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    let seconds = asked.unwrap_or(if bench.effort.quick { 6.0 } else { HOUR });
    let database = bench.database().await?;
    let service = Service::start(bench, &database.url).await?;
    load::pool(&service, "p", load::LONG_LEASE_SECONDS).await?;
    let keep = json!({"keep_ended_seconds": seconds / 12.0});
    let mut connection = service.connect().await?;
    let patch = serde_json::to_vec(&keep)?;
    let (status, body) = connection
        .send(http::Method::PATCH, "/v1/pools/p", patch)
        .await?;
    if !status.is_success() {
        return Err(Error::said(String::from_utf8_lossy(&body)));
    }
    let agents = load::agents(&service, "p", AGENTS).await?;
    let client = connect(&database.url).await?;
    // Nothing between two claims of an agent at first: that is what is possible.
    let full = live(&service, &agents, Duration::ZERO, bench.effort.time).await?;
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let rate = full.len() as f64 / bench.effort.time.as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let pause = Duration::from_secs_f64(AGENTS as f64 / (rate / 2.0));
    eprintln!("  {rate:.0} claims/s are possible; half of that for {seconds} s");
    let mut sizes = Vec::new();
    let mut p99 = Vec::new();
    for part in 1..=PARTS {
        let time = Duration::from_secs_f64(seconds / 6.0);
        let times = live(&service, &agents, pause, time).await?;
        let took: Vec<f64> = times.iter().map(|(_, ms)| *ms).collect();
        p99.push(percentile(&took, 99.0));
        sizes.push(size(&client).await?);
        eprintln!(
            "  part {part}: {} claims, p99 {:.2} ms, {:.1} MB",
            took.len(),
            percentile(&took, 99.0),
            sizes[part - 1]
        );
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    Ok(vec![
        Line::ratio(
            "99th percentile, last sixth",
            "ms",
            "first sixth",
            &[(p99[PARTS - 1], p99[0])],
            Target::AtMost(1.2),
        ),
        Line::ratio(
            "tables and indexes at the end",
            "MB",
            "at the half",
            &[(sizes[PARTS - 1], sizes[PARTS / 2 - 1])],
            Target::AtMost(GROWTH),
        ),
    ])
}

/// Tables and indexes without history, which is kept for its own time, in MB.
async fn size(client: &Client) -> Result<f64> {
    let text = "SELECT sum(pg_total_relation_size(c.oid))::float8 / 1e6 FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'events'";
    Ok(client.query_one(text, &[]).await?.get(0))
}

/// Lets agents live through sessions for a time, each making a claim every `pause`; what claims took.
async fn live(
    service: &Service,
    agents: &[Agent],
    pause: Duration,
    time: Duration,
) -> Result<Times> {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for (number, agent) in agents.iter().enumerate() {
        let connection = service.connect().await?;
        #[allow(clippy::cast_possible_truncation, reason = "few agents")]
        let first = pause * number as u32 / AGENTS as u32;
        tasks.push(tokio::spawn(one(
            connection,
            agent.clone(),
            begun,
            (first, pause, time),
        )));
    }
    let mut all = Vec::new();
    for task in tasks {
        let times = task.await.map_err(|e| Error::said(e.to_string()))??;
        all.extend(times);
    }
    Ok(all)
}

/// One agent: what it claims runs with its next claim and has ended with the one after. It creates as much
/// as it claims.
async fn one(
    mut connection: Connection,
    agent: Agent,
    begun: Instant,
    (first, pause, time): (Duration, Duration, Duration),
) -> Result<Times> {
    let path = format!("/v1/agents/{}/claim", agent.name);
    let new = json!({"pool": "p", "spec": {"command": ["sleep", "60"]}});
    let batch = json!({ "sessions": vec![new; BATCH] });
    let mut times = Times::new();
    let mut next: Vec<Next> = Vec::new();
    let mut due = begun + first;
    let mut over = false;
    while !over {
        tokio::time::sleep_until(due.into()).await;
        over = begun.elapsed() >= time;
        if times.len().is_multiple_of(BATCH) && !over {
            connection
                .post::<Value>("/v1/sessions/batch", &batch)
                .await?;
        }
        let reports: Vec<Value> = next.iter().map(|(o, s)| load::report(o, s)).collect();
        let body = json!({"incarnation": agent.incarnation, "max_sessions": i32::from(!over),
            "wait_seconds": 0, "reports": reports});
        let at = Instant::now();
        let answer: Claimed = connection.post(&path, &body).await?;
        times.push(((at - begun).as_secs_f64(), at.elapsed().as_secs_f64() * 1e3));
        answer.all_accepted()?;
        next.retain(|(_, state)| *state == "running");
        next.iter_mut().for_each(|(_, state)| *state = "terminated");
        let given = answer.assignments.iter();
        next.extend(given.map(|given| (given.offer(), "running")));
        due = (due + pause).max(Instant::now());
    }
    Ok(times)
}
