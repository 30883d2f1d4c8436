//! The wake: how long it takes from `POST /v1/sessions` until a parked agent has the session.
//!
//! The service is idle but for this. One sample is, in turn and on the same machine's moment: an empty
//! HTTP call (`GET /healthz`) over the connection that will post; one bare insert into the very table,
//! with a statement that this process has prepared; and the wake, from the sending of the POST until the
//! answer of the claim, which came over another connection, has arrived and was parsed.
//!
//! The insert is made here rather than by pgbench, since pgbench runs one after the other without a pause,
//! which finds the disk and the processor awake. Ours comes after a pause, so the reference does too.
//! pgbench's figure is told beside it. From the wake's percentiles is taken what an empty call takes at
//! the median: that much is the client, the socket and the HTTP of any server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::bench::{Bench, connect};
use crate::error::{Error, Result};
use crate::fleet;
use crate::http::Connection;
use crate::load::{self, Agent, SPEC};
use crate::measure::{Line, Target, percentile};
use crate::peers;
use crate::reference;
use crate::service::Service;

/// One bare insert, as pgbench takes it; `:spec` is nothing that varies.
const INSERT: &str = "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
    created_at, updated_at, queued_at)
VALUES (gen_random_uuid(), 'bare', 'process', '{spec}', 'running', 'pending', 'on_failure', now(), now(), now())";

const SAMPLES: usize = 300;

/// How long a session may take to come before that is an error.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between what a sample measures, so that nothing of the one is under way during the next.
const PAUSE: Duration = Duration::from_millis(5);

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    // First, as that can take minutes: no lease runs meanwhile.
    let peers = peers::install(bench).await?;
    let (database, service) = load::with_two_pools(bench).await?;
    let client = connect(&database.url).await?;
    let text = INSERT.replace("{spec}", SPEC);
    let insert = client.prepare(&text).await?;
    let mut user = service.connect().await?;
    let mut agent = Waiting::register(&service, "p", "waker", "here").await?;
    let samples = bench.effort.size(SAMPLES, 10);
    let (mut medians, mut worst, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let mut beside = Beside::default();
    for _ in 0..bench.effort.rounds {
        let (mut ours, mut empty, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..samples {
            let parked = agent.park(&service, "p").await?;
            empty.push(empty_call(&mut user).await?);
            tokio::time::sleep(PAUSE).await;
            let begun = Instant::now();
            client.execute(&insert, &[]).await?;
            inserts.push(milliseconds(begun));
            tokio::time::sleep(PAUSE).await;
            let (took, back) = parked.wake(&mut user, "p").await?;
            ours.push(took);
            agent = back;
        }
        let off = percentile(&empty, 50.0);
        medians.push((percentile(&ours, 50.0) - off, percentile(&inserts, 50.0)));
        worst.push((percentile(&ours, 99.0) - off, percentile(&inserts, 99.0)));
        let alone = reference::latencies(bench, &database, &format!("{text};\n"), samples).await?;
        bare.push((percentile(&ours, 50.0) - off, percentile(&alone, 50.0)));
        // Whole, the HTTP included, though the peers have none to pay for.
        let whole = (percentile(&ours, 50.0), percentile(&ours, 99.0));
        beside.add(whole, peers::wake_latencies(bench, &peers).await?);
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    let name = "bare insert in turn";
    let mut lines = vec![
        Line::ratio("median", "ms", name, &medians, Target::AtMost(1.2)),
        Line::ratio("99th percentile", "ms", name, &worst, Target::AtMost(2.0)),
        Line::ratio("median", "ms", "pgbench, 1 client", &bare, Target::None),
    ];
    lines.extend(beside.lines());
    Ok(lines)
}

/// Our wakes beside those of other queues: by queue, the pairs of each round.
#[derive(Default)]
struct Beside {
    medians: BTreeMap<String, Vec<(f64, f64)>>,
    worst: BTreeMap<String, Vec<(f64, f64)>>,
    unmeasured: BTreeMap<String, String>,
}

impl Beside {
    fn add(&mut self, (median, worst): (f64, f64), peers: peers::Wakes) {
        for (name, outcome) in peers {
            match outcome {
                Ok(wake) => {
                    let medians = self.medians.entry(name.clone()).or_default();
                    medians.push((median, wake.median_ms));
                    self.worst
                        .entry(name)
                        .or_default()
                        .push((worst, wake.p99_ms));
                }
                Err(why) => {
                    self.unmeasured.insert(name, why);
                }
            }
        }
    }

    fn lines(self) -> Vec<Line> {
        let ahead = |what: &'static str, of: BTreeMap<String, Vec<(f64, f64)>>| {
            of.into_iter().map(move |(name, rounds)| {
                Line::ratio(what, "ms", name, &rounds, Target::AtMost(1.0))
            })
        };
        let unmeasured = self.unmeasured.into_iter();
        ahead("median, whole", self.medians)
            .chain(ahead("99th percentile, whole", self.worst))
            .chain(unmeasured.map(|(name, why)| Line::unmeasured(name, why)))
            .collect()
    }
}

/// An agent that waits for work over a connection of its own.
pub(super) struct Waiting {
    connection: Connection,
    agent: Agent,
}

/// A claim under way.
pub(super) struct Parked(tokio::task::JoinHandle<Result<(Instant, usize, Waiting)>>);

impl Waiting {
    /// Registers an agent with a server.
    pub(super) async fn register(
        service: &Service,
        pool: &str,
        name: &str,
        domain: &str,
    ) -> Result<Self> {
        let mut connection = service.connect().await?;
        let agent = load::register(&mut connection, pool, name, domain).await?;
        Ok(Self { connection, agent })
    }

    /// Claims, and returns once a poll of the pool is parked there. What the agent was given before is
    /// accepted with it.
    pub(super) async fn park(self, service: &Service, pool: &str) -> Result<Parked> {
        let Self {
            mut connection,
            mut agent,
        } = self;
        let task = tokio::spawn(async move {
            let got = load::claim_once(&mut connection, &mut agent, 1, 50.0).await?;
            Ok((Instant::now(), got, Self { connection, agent }))
        });
        tokio::time::sleep(PAUSE).await;
        fleet::parked(service, pool, 1, PATIENCE).await?;
        tokio::time::sleep(PAUSE).await;
        Ok(Parked(task))
    }
}

impl Parked {
    /// Creates a session and gives how long it took until the agent had it, in milliseconds.
    pub(super) async fn wake(self, user: &mut Connection, pool: &str) -> Result<(f64, Waiting)> {
        let body = serde_json::to_vec(&session(pool)?)?;
        let begun = Instant::now();
        let (status, said) = user.send(Method::POST, "/v1/sessions", body).await?;
        if !status.is_success() {
            let said = String::from_utf8_lossy(&said).into_owned();
            return Err(Error::said(format!("a session was refused: {said}")));
        }
        let answered = tokio::time::timeout(PATIENCE, self.0)
            .await
            .map_err(|_| Error::said("a parked agent was not woken"))?;
        let (at, got, waiting) = answered.map_err(|error| Error::said(error.to_string()))??;
        if got != 1 {
            return Err(Error::said(format!(
                "a parked agent was given {got} sessions"
            )));
        }
        Ok((
            at.saturating_duration_since(begun).as_secs_f64() * 1e3,
            waiting,
        ))
    }
}

/// What is posted.
pub(super) fn session(pool: &str) -> Result<Value> {
    let spec: Value = serde_json::from_str(SPEC)?;
    Ok(json!({"pool": pool, "spec": spec}))
}

/// How long an empty call takes, in milliseconds.
pub(super) async fn empty_call(connection: &mut Connection) -> Result<f64> {
    let begun = Instant::now();
    connection.send(Method::GET, "/healthz", "").await?;
    Ok(milliseconds(begun))
}

pub(super) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
