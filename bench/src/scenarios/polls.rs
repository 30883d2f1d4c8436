//! Ten thousand parked polls: what they cost while nothing happens, and what a wake costs.
//!
//! Each round starts a server and opens a connection per agent; each makes one small call, so that what
//! a kept-alive connection costs is there before. That is the idle service: its memory, its processor
//! time and its statements are measured with all connections open. Then every connection claims, and the
//! same is measured with the polls parked. What is judged is the difference.
//!
//! A statement is due to the polls if the server never ran one of that name before the first claim
//! came; each background task has run by then. `claims::safety`, the safety poll, is judged by its rate:
//! it comes each 3.75 to 6.25 s. The rest must run as it did before, which is judged as a ratio.
//!
//! Wakes: one posted session must answer one poll and make one claim statement. Then all at once, in two
//! ways: sessions that bare SQL has put there for all, timed from the notification by which another
//! server would tell of them; and sessions posted in batches of 1,000, timed from the first POST, so that
//! their creation is part of it. Both end when the last agent has its answer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::bench::{Bench, connect};
use crate::database::{self, Count, Statements};
use crate::error::{Error, Result};
use crate::feed;
use crate::fleet;
use crate::http::Connection;
use crate::load::{self, Agent};
use crate::measure::{Line, Target};
use crate::scenarios::wake::session;
use crate::service::Service;

/// How long a poll waits. All that is measured of parked ones ends before the first is over.
const WAIT_SECONDS: f64 = 55.0;

const PATIENCE: Duration = Duration::from_secs(30);

/// How many are parked at a time, so that no claim waits for the database for too long.
const GROUP: usize = 500;

const BATCH: usize = 1_000;

const SAFETY: &str = "-- claims::safety";

/// The shortest time between two safety polls of a pool.
const SAFETY_SECONDS: f64 = 3.75;

/// What one round has found.
#[derive(Default)]
struct Found {
    due: f64,
    safety: f64,
    others: (f64, f64),
    cpu: f64,
    memory: f64,
    woken: f64,
    statements: f64,
    by_notification: f64,
    by_batch: f64,
}

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    fleet::allow_files(12_000)?;
    let mut all = Vec::new();
    // A round takes a minute: three say enough.
    for _ in 0..bench.effort.rounds.min(3) {
        all.push(round(bench).await?);
    }
    let of = |figure: fn(&Found) -> f64| all.iter().map(figure).collect::<Vec<_>>();
    let others: Vec<_> = all.iter().map(|found| found.others).collect();
    let most = 1.0 / SAFETY_SECONDS;
    Ok(vec![
        Line::value(
            "statements due to polls",
            "",
            &of(|f| f.due),
            Target::AtMost(0.0),
        ),
        Line::value(
            "safety polls",
            "/s",
            &of(|f| f.safety),
            Target::AtMost(most),
        ),
        Line::ratio(
            "other statements",
            "/s",
            "idle",
            &others,
            Target::AtMost(1.1),
        ),
        Line::value("CPU beyond idle", "%", &of(|f| f.cpu), Target::AtMost(1.0)),
        Line::value(
            "memory of a poll",
            "KiB",
            &of(|f| f.memory),
            Target::AtMost(12.0),
        ),
        Line::value(
            "one session wakes",
            "",
            &of(|f| f.woken),
            Target::AtMost(1.0),
        ),
        Line::value(
            "… by claim statements",
            "",
            &of(|f| f.statements),
            Target::AtMost(1.0),
        ),
        Line::value(
            "wake of all, notified",
            "s",
            &of(|f| f.by_notification),
            Target::AtMost(1.0),
        ),
        Line::value(
            "wake of all, batch POST",
            "s",
            &of(|f| f.by_batch),
            Target::AtMost(1.0),
        ),
    ])
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
async fn round(bench: &Bench) -> Result<Found> {
    let database = bench.database().await?;
    let count = Count::begin(bench, &database).await?;
    let service = Service::start(bench, &database.url).await?;
    load::pool(&service, "p", load::LONG_LEASE_SECONDS).await?;
    let client = connect(&database.url).await?;
    let polls = bench.effort.size(10_000, 200);
    let agents = fleet::agents(&client, "p", "here", polls).await?;
    let mut pollers = Pollers::open(&service, agents).await?;
    let settling = Duration::from_secs(bench.effort.size(5, 1) as u64);
    tokio::time::sleep(settling).await;
    let mut found = Found::default();
    let idle = window(bench, &service, &count).await?;
    let before = count.look().await?;
    pollers.park(&service).await?;
    tokio::time::sleep(settling).await;
    let parked = window(bench, &service, &count).await?;
    pollers.check_none_is_over()?;
    found.memory = (parked.resident_kib - idle.resident_kib) / polls as f64;
    found.cpu = (parked.cpu - idle.cpu) * 100.0;
    let rate = |ran: &Statements, of: &dyn Fn(&str) -> bool| {
        let calls: f64 = ran
            .iter()
            .filter(|(name, _)| of(name))
            .map(|(_, ran)| ran.calls)
            .sum();
        // A sum of nothing is a negative zero.
        (calls + 0.0) / bench_window(bench).as_secs_f64()
    };
    let known: BTreeSet<&str> = before.keys().map(String::as_str).collect();
    let due = |name: &str| !known.contains(name) && name != SAFETY;
    found.due = rate(&parked.ran, &due) * bench_window(bench).as_secs_f64();
    found.safety = rate(&parked.ran, &|name| name == SAFETY);
    let others = |name: &str| known.contains(name) && name != SAFETY;
    found.others = (rate(&parked.ran, &others), rate(&idle.ran, &others));
    wake_one(&service, &mut pollers, &mut found).await?;
    found.by_notification = wake_all_by_notification(&client, &service, &mut pollers).await?;
    found.by_batch = wake_all_by_batch(&client, &service, &mut pollers).await?;
    drop(pollers);
    service.stop().await?;
    bench.drop_database(database).await?;
    Ok(found)
}

/// What a server does in a window of time.
struct Window {
    ran: Statements,
    /// Processor time by time.
    cpu: f64,
    resident_kib: f64,
}

fn bench_window(bench: &Bench) -> Duration {
    if bench.effort.quick {
        Duration::from_secs(1)
    } else {
        Duration::from_secs(12)
    }
}

async fn window(bench: &Bench, service: &Service, count: &Count) -> Result<Window> {
    let before = count.look().await?;
    let (begun, used) = (Instant::now(), service.usage()?);
    tokio::time::sleep(bench_window(bench)).await;
    let usage = service.usage()?;
    let cpu = (usage.cpu_seconds - used.cpu_seconds) / begun.elapsed().as_secs_f64();
    let after = count.look().await?;
    Ok(Window {
        ran: database::since(&before, &after),
        cpu,
        resident_kib: usage.resident_mib * 1024.0,
    })
}

/// An agent with a connection of its own.
type Poller = (Connection, Agent);

/// A poll that has been answered: when, and with how many sessions.
type Answered = Result<(Instant, usize, Poller)>;

/// Agents that poll.
struct Pollers {
    resting: Vec<Poller>,
    parked: JoinSet<Answered>,
    parked_at: Instant,
}

impl Pollers {
    /// Opens the connections, and makes one call over each.
    async fn open(service: &Service, agents: Vec<Agent>) -> Result<Self> {
        let mut resting = Vec::with_capacity(agents.len());
        for group in agents.chunks(100) {
            let opened = try_join_all(group.iter().map(|agent| async {
                let mut connection = service.connect().await?;
                connection.send(Method::GET, "/healthz", "").await?;
                Ok::<_, Error>((connection, agent.clone()))
            }));
            resting.extend(opened.await?);
        }
        Ok(Self {
            resting,
            parked: JoinSet::new(),
            parked_at: Instant::now(),
        })
    }

    /// Parks all that rest, a group at a time.
    async fn park(&mut self, service: &Service) -> Result<()> {
        self.parked_at = Instant::now();
        while !self.resting.is_empty() {
            let left = self.resting.len().saturating_sub(GROUP);
            for (mut connection, mut agent) in self.resting.drain(left..) {
                self.parked.spawn(async move {
                    let got = load::claim_once(&mut connection, &mut agent, 1, WAIT_SECONDS);
                    let got = got.await?;
                    Ok((Instant::now(), got, (connection, agent)))
                });
            }
            let parked = fleet::parked(service, "p", self.parked.len(), PATIENCE).await;
            self.check_none_is_over()?;
            parked?;
        }
        Ok(())
    }

    /// Takes away what those who rest were given, by SQL: ten thousand acceptances would take longer than
    /// a poll waits, and are not what is measured.
    async fn rest(&mut self, client: &Client) -> Result<()> {
        for (_, agent) in &mut self.resting {
            agent.offers.clear();
        }
        client
            .batch_execute("DELETE FROM sessions; UPDATE agents SET slots_used = 0")
            .await?;
        client.batch_execute("VACUUM ANALYZE sessions").await?;
        client.batch_execute("VACUUM ANALYZE agents").await?;
        Ok(())
    }

    fn check_none_is_over(&self) -> Result<()> {
        if self.parked_at.elapsed().as_secs_f64() >= WAIT_SECONDS {
            let why =
                "parking and measuring took longer than a poll waits: the machine is too busy";
            return Err(Error::said(why));
        }
        Ok(())
    }

    /// Waits until so many polls are answered with a session each; when the last of them was.
    async fn answered(&mut self, count: usize) -> Result<Instant> {
        let mut last = Instant::now();
        for _ in 0..count {
            let next = tokio::time::timeout(PATIENCE, self.parked.join_next()).await;
            let next = next.map_err(|_| Error::said("not all polls were woken"))?;
            let next = next.ok_or_else(|| Error::said("no poll is parked"))?;
            let (at, got, poller) = next.map_err(|error| Error::said(error.to_string()))??;
            if got == 0 {
                return Err(Error::said("a poll was answered with nothing"));
            }
            last = at;
            self.resting.push(poller);
        }
        Ok(last)
    }
}

async fn wake_one(service: &Service, pollers: &mut Pollers, found: &mut Found) -> Result<()> {
    let before = service.metric("lessor_claim_statements_total").await?;
    let mut user = service.connect().await?;
    user.post::<Value>("/v1/sessions", &session("p")?).await?;
    pollers.answered(1).await?;
    // Whoever else was woken would be answered with nothing, or look at the database, by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    found.woken = 1.0;
    while pollers.parked.try_join_next().is_some() {
        found.woken += 1.0;
    }
    found.statements = service.metric("lessor_claim_statements_total").await? - before;
    Ok(())
}

async fn wake_all_by_notification(
    client: &Client,
    service: &Service,
    pollers: &mut Pollers,
) -> Result<f64> {
    pollers.rest(client).await?;
    pollers.park(service).await?;
    let polls = pollers.parked.len();
    feed::insert(client, "p", polls).await?;
    let begun = Instant::now();
    feed::notify(client, "p", polls).await?;
    Ok(seconds(begun, pollers.answered(polls).await?))
}

async fn wake_all_by_batch(
    client: &Client,
    service: &Service,
    pollers: &mut Pollers,
) -> Result<f64> {
    pollers.rest(client).await?;
    pollers.park(service).await?;
    let polls = pollers.parked.len();
    let mut users = Vec::new();
    let one = session("p")?;
    for begin in (0..polls).step_by(BATCH) {
        let sessions = vec![one.clone(); BATCH.min(polls - begin)];
        let body = serde_json::to_vec(&json!({ "sessions": sessions }))?;
        users.push((service.connect().await?, body));
    }
    let begun = Instant::now();
    let posted = try_join_all(users.into_iter().map(|(mut user, body)| async move {
        let (status, said) = user.send(Method::POST, "/v1/sessions/batch", body).await?;
        if status.is_success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        Err(Error::said(format!("a batch was refused: {said}")))
    }));
    let (_, last) = tokio::try_join!(posted, pollers.answered(polls))?;
    Ok(seconds(begun, last))
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
