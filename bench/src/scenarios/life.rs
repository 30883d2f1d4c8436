//! The whole life of a session, beside the whole life of a job of other queues on PostgreSQL.
//!
//! Ours, over HTTP: an agent claims a session, reports it running, and reports it terminated: three changes
//! in the database, each fenced and with its history, and the slot is free again. A request carries what it
//! can: each claim reports `running` what the agent's claim before it was given (which also accepts it), and
//! `terminated` what that one reported `running`. So each request makes one step of three sessions. 1,024
//! agents, 256 requests under way. What is counted is accepted reports of `terminated`, from when as many
//! have ended as are on their way at a time, beside those that were left from before.
//!
//! The peers: a job is fetched, given to a handler that does nothing, and completed; see [`crate::peers`]
//! for how they are run. Two changes in the database, no HTTP: the drivers run in the workers themselves.
//!
//! The targets are those of one session per claim, whatever the peer fetches at once. A second figure is
//! for comparison with those that fetch many: 50 sessions per claim, 32 requests under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::bench::{Bench, Database, connect};
use crate::error::{Error, Result};
use crate::http::Connection;
use crate::load::{self, Agent, Offer};
use crate::measure::{Line, Target};
use crate::peers::{self, Ring};
use crate::service::Service;

const AGENTS: usize = 1_024;
/// More sessions a second than were ever brought to their end here.
const RATE_AT_MOST: usize = 20_000;

const AGENTS_PER_CONNECTION: usize = 4;
const WARM_AT_MOST: Duration = Duration::from_secs(60);

/// How many sessions a claim asks for, and how many requests are under way.
const WAYS: [(usize, usize); 2] = [(1, 256), (50, 32)];

/// An agent, and what it has reported `running` and not `terminated`.
type Living = (Agent, Vec<Offer>);

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let peers = peers::install(bench).await?;
    let mut lines = Vec::new();
    let mut rings = Vec::new();
    for contender in peers::ALL {
        match Ring::enter(bench, &peers, contender).await? {
            Ok(ring) => rings.push((ring, Vec::new())),
            Err(why) => lines.push(Line::unmeasured(contender.name, why)),
        }
    }
    let database = bench.database().await?;
    let service = Service::start(bench, &database.url).await?;
    load::pool(&service, "p", load::LONG_LEASE_SECONDS).await?;
    let agents = load::agents(&service, "p", bench.effort.size(AGENTS, 64)).await?;
    let mut living: Vec<Living> = agents.into_iter().map(|a| (a, Vec::new())).collect();
    let mut ours = [Vec::new(), Vec::new()];
    for _ in 0..bench.effort.rounds {
        for (way, rates) in WAYS.iter().zip(&mut ours) {
            let time = bench.effort.time;
            rates.push(live(&service, &database, &mut living, *way, time).await?);
        }
        let client = connect(&database.url).await?;
        load::settle(&client).await?;
        for (ring, rates) in &mut rings {
            rates.push(ring.rate().await?);
        }
    }
    service.stop().await?;
    bench.drop_database(database).await?;
    for ((batch, in_flight), ours) in WAYS.iter().zip(&ours) {
        for (ring, theirs) in &rings {
            let rounds: Vec<(f64, f64)> =
                ours.iter().copied().zip(theirs.iter().copied()).collect();
            let who = ring.contender;
            let target = match who.times {
                Some(times) if *batch == 1 => Target::AtLeast(times),
                _ => Target::None,
            };
            lines.push(Line::ratio(
                format!("{batch} a claim, {in_flight} in flight"),
                "/s",
                format!("{} {}, {}", who.name, who.version, ring.setup.words),
                &rounds,
                target,
            ));
        }
    }
    for (ring, _) in rings {
        ring.leave().await?;
    }
    Ok(lines)
}

/// Sessions a second that were brought to their end.
async fn live(
    service: &Service,
    database: &Database,
    living: &mut Vec<Living>,
    (batch, in_flight): (usize, usize),
    time: Duration,
) -> Result<f64> {
    let client = connect(&database.url).await?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a count, rounded"
    )]
    let enough = (time.as_secs_f64() * 1.3 * RATE_AT_MOST as f64) as usize;
    load::top_up(&client, "p", enough).await?;
    // An agent's first end is reported by its third request, so few agents are in play at a time.
    let mut shares: Vec<Vec<Living>> = vec![Vec::new(); in_flight.min(living.len())];
    let count = shares.len();
    let playing = living.len().min(count * AGENTS_PER_CONNECTION);
    // What was measured before may have left them as many as fifty each, which end in a few large reports.
    let mut left = 0;
    for (number, living) in living.drain(..playing).enumerate() {
        left += living.0.offers.len() + living.1.len();
        shares[number % count].push(living);
    }
    let (stop, ended) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut tasks = Vec::new();
    for share in shares {
        let connection = service.connect().await?;
        let (stop, ended) = (Arc::clone(&stop), Arc::clone(&ended));
        tasks.push(tokio::spawn(in_turn(connection, share, batch, stop, ended)));
    }
    // Until what was left has ended, and as many more as there are on their way at a time.
    let (warming, full) = (Instant::now(), (left + playing * batch) as u64);
    while ended.load(Ordering::Relaxed) < full {
        if warming.elapsed() > WARM_AT_MOST {
            return Err(Error::said("sessions do not come to their ends"));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let per_second = load::rate(&ended, time).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        let share = task
            .await
            .map_err(|error| Error::said(error.to_string()))??;
        living.extend(share);
    }
    if load::waiting(&client, "p").await? == 0 {
        return Err(Error::said(
            "the backlog was claimed before the time was up",
        ));
    }
    Ok(per_second)
}

async fn in_turn(
    mut connection: Connection,
    mut share: Vec<Living>,
    batch: usize,
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicU64>,
) -> Result<Vec<Living>> {
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let (agent, running) = &mut share[turn];
        let mut reports: Vec<_> = agent
            .offers
            .iter()
            .map(|o| load::report(o, "running"))
            .collect();
        reports.extend(running.iter().map(|o| load::report(o, "terminated")));
        let given = std::mem::take(&mut agent.offers);
        load::claim_with(&mut connection, agent, batch, 20.0, reports).await?;
        ended.fetch_add(running.len() as u64, Ordering::Relaxed);
        *running = given;
        turn = (turn + 1) % share.len();
    }
    Ok(share)
}
