//! What a claim costs when much waits, and when much was claimed and nothing was vacuumed: beside a claim
//! in a small database, in turn.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::bench::{Bench, Database, connect};
use crate::error::Result;
use crate::load::{self, Agent, Claiming};
use crate::measure::{Line, Target};
use crate::service::Service;
use crate::steady::{self, Steady};

const AGENTS: usize = 256;
pub(super) const IN_FLIGHT: usize = 64;
const SMALL: usize = 1_000;
const SIZES: [usize; 3] = [100_000, 1_000_000, 10_000_000];
/// What is claimed between two vacuums.
const CLAIMED: usize = 500_000;

/// A server with a database and agents of its own, where a thousand sessions wait.
pub(super) struct Side {
    service: Service,
    pub(super) database: Database,
    pub(super) client: Client,
    agents: Vec<Agent>,
    refill: String,
}

impl Side {
    pub(super) async fn start(bench: &Bench) -> Result<Self> {
        let database = bench.database().await?;
        let service = Service::start(bench, &database.url).await?;
        load::pool(&service, "p", load::LONG_LEASE_SECONDS).await?;
        let agents = load::agents(&service, "p", bench.effort.size(AGENTS, 64)).await?;
        let client = connect(&database.url).await?;
        // When it runs is said here.
        client
            .batch_execute("ALTER TABLE sessions SET (autovacuum_enabled = false)")
            .await?;
        let refill = steady::refill("p");
        steady::fill(&client, &refill, SMALL).await?;
        Ok(Self {
            service,
            database,
            client,
            agents,
            refill,
        })
    }

    /// Claims for a time; as many wait afterwards as before.
    pub(super) async fn claim(
        &mut self,
        in_flight: usize,
        time: Duration,
    ) -> Result<steady::Claims> {
        let steady = Steady {
            service: &self.service,
            url: &self.database.url,
            refill: &self.refill,
        };
        steady.claim(&mut self.agents, in_flight, time).await
    }

    pub(super) async fn stop(self, bench: &Bench) -> Result<()> {
        self.service.stop().await?;
        bench.drop_database(self.database).await
    }
}

/// One claim at a time, and many.
struct Medians {
    alone: Vec<(f64, f64)>,
    many: Vec<(f64, f64)>,
}

/// Both sides in turn; the small one as after a vacuum each time.
async fn compare(bench: &Bench, small: &mut Side, big: &mut Side) -> Result<Medians> {
    let mut medians = Medians {
        alone: Vec::new(),
        many: Vec::new(),
    };
    let time = bench.effort.time;
    for _ in 0..bench.effort.rounds {
        small.client.batch_execute("VACUUM sessions").await?;
        let ours = big.claim(1, time).await?.median();
        let theirs = small.claim(1, time).await?.median();
        medians.alone.push((ours, theirs));
        let ours = big.claim(IN_FLIGHT, time).await?.median();
        let theirs = small.claim(IN_FLIGHT, time).await?.median();
        medians.many.push((ours, theirs));
    }
    Ok(medians)
}

fn lines(what: &str, medians: &Medians, most: f64) -> [Line; 2] {
    let target = Target::AtMost(most);
    let line = |how: &str, rounds| {
        Line::ratio(
            format!("{what}, {how}"),
            "ms",
            "1,000 waiting",
            rounds,
            target,
        )
    };
    [
        line("1 in flight", &medians.alone),
        line("64 in flight", &medians.many),
    ]
}

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let mut small = Side::start(bench).await?;
    let mut big = Side::start(bench).await?;
    let mut found = Vec::new();
    let mut there = SMALL;
    for size in sizes(bench) {
        let begun = Instant::now();
        steady::fill(&big.client, &big.refill, size - there).await?;
        there = size;
        eprintln!("  {size} waiting after {:.0?}", begun.elapsed());
        let medians = compare(bench, &mut small, &mut big).await?;
        found.extend(lines(&format!("{size} waiting"), &medians, 1.15));
    }
    let many = bench.effort.size(CLAIMED, 5_000);
    steady::fill(&big.client, &big.refill, many).await?;
    claim_many(&mut big, many).await?;
    let medians = compare(bench, &mut small, &mut big).await?;
    found.extend(lines(&format!("{many} claimed"), &medians, 1.3));
    small.stop(bench).await?;
    big.stop(bench).await?;
    Ok(found)
}

fn sizes(bench: &Bench) -> Vec<usize> {
    if bench.effort.quick {
        return vec![20_000];
    }
    // The last one takes minutes to be put there.
    let last = if bench.effort.time < Duration::from_secs(5) {
        2
    } else {
        3
    };
    SIZES[..last].to_vec()
}

/// Claims at least so many, 50 a request, and vacuums nothing.
async fn claim_many(side: &mut Side, count: usize) -> Result<()> {
    let how = Claiming {
        max_sessions: 50,
        wait_seconds: 20.0,
        in_flight: 16,
        time: Duration::from_secs(1),
    };
    let waiting = "SELECT count(*) FROM sessions WHERE pool_work IS NULL";
    let claimed = |row: tokio_postgres::Row| usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    let before = claimed(side.client.query_one(waiting, &[]).await?);
    while claimed(side.client.query_one(waiting, &[]).await?) < before + count {
        load::claim(&side.service, &mut side.agents, how).await?;
    }
    Ok(())
}
