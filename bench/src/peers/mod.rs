//! Other queues on PostgreSQL, on the same server in the same run.
//!
//! Like with like: a peer's job is fetched, handed to a handler that does nothing, and completed, and the
//! completion is in the database; that is what is counted. PostgreSQL is the bench's own, durable as it is
//! for Lessor, with a database for each peer. A backlog is there before, vacuumed and analysed, and does
//! not run out while it is counted. When a worker has stopped, the jobs that are left in the database must
//! be those that its handler was not called for, but for [`CUT_OFF`].

mod contenders;
mod drive;
mod install;

use std::time::Duration;

use serde_json::json;

pub use contenders::{ALL, Contender, Setup};
pub use install::Peers;

use crate::bench::{Bench, Database, connect};
use crate::error::{Error, Result};
use crate::measure::percentile;

/// What part of the jobs handled may not be completed, since their worker stopped in between.
const CUT_OFF: f64 = 0.01;
/// Starting takes time, in which a worker may work already.
const START: Duration = Duration::from_secs(1);
/// How often a backlog may turn out too short.
const TRIES: usize = 6;

/// Brings the peers that can be had.
///
/// # Errors
/// When the folder cannot be written.
pub async fn install(bench: &Bench) -> Result<Peers> {
    install::all(&bench.peers, bench.effort.quick).await
}

/// A contender in its database, with what is known of its speed.
pub struct Ring<'b> {
    bench: &'b Bench,
    /// Who it is.
    pub contender: &'static Contender,
    program: install::Program,
    database: Database,
    /// How it is run.
    pub setup: Setup,
    /// Jobs that a measurement is begun with at least.
    backlog: usize,
}

impl<'b> Ring<'b> {
    /// Makes its database and finds its best settings. The reason, where it is not installed.
    ///
    /// # Errors
    /// When the database refuses, or its driver fails.
    pub async fn enter(
        bench: &'b Bench,
        peers: &Peers,
        contender: &'static Contender,
    ) -> Result<std::result::Result<Self, String>> {
        let program = match (contender.program)(peers) {
            Ok(program) => program.clone(),
            Err(why) => return Ok(Err(why.clone())),
        };
        let mut setups = (contender.setups)();
        let mut ring = Self {
            bench,
            contender,
            program,
            database: bench.database().await?,
            setup: setups[0].clone(),
            backlog: bench.effort.size(40_000, 8_000),
        };
        if !bench.effort.quick {
            let short = bench.effort.time.min(Duration::from_secs(2));
            let mut best = (0.0, ring.setup.clone());
            for setup in setups.drain(..) {
                ring.setup = setup;
                let rate = ring.measure(short).await?;
                eprintln!("  {}, {}: {rate:.0}/s", contender.name, ring.setup.words);
                if rate > best.0 {
                    best = (rate, ring.setup.clone());
                }
            }
            ring.setup = best.1;
        }
        Ok(Ok(ring))
    }

    /// Jobs a second, fetched, handled and completed.
    ///
    /// # Errors
    /// When its driver fails, or handled jobs are not completed.
    pub async fn rate(&mut self) -> Result<f64> {
        self.measure(self.bench.effort.time).await
    }

    async fn measure(&mut self, time: Duration) -> Result<f64> {
        let warm = time.mul_f64(0.2);
        for _ in 0..TRIES {
            let (rate, left) = self.once(warm, time).await?;
            let seconds = (START + warm + time).as_secs_f64();
            self.backlog = self.backlog.max(count(rate * seconds * 1.5));
            if left > 0 {
                return Ok(rate);
            }
            // It ran dry, so the rate is too low.
            self.backlog *= 2;
        }
        let name = self.contender.name;
        Err(Error::said(format!("no backlog is long enough for {name}")))
    }

    /// The rate, and how many jobs were left.
    async fn once(&self, warm: Duration, time: Duration) -> Result<(f64, usize)> {
        let Setup {
            processes,
            settings,
            ..
        } = &self.setup;
        let before = self.fill().await?;
        let wanted = json!({"url": self.database.url, "mode": "work", "settings": settings,
            "warm_seconds": warm.as_secs_f64(), "seconds": time.as_secs_f64()});
        let counted = drive::work(&self.program, &wanted, *processes, warm + time).await?;
        let left = self.left().await?;
        let handled: f64 = counted.iter().map(|process| process.handled).sum();
        check(self.contender.name, before, left, handled)?;
        Ok((counted.iter().map(|p| p.count / p.seconds).sum(), left))
    }

    /// Brings the backlog to its number; gives how many jobs there are.
    async fn fill(&self) -> Result<usize> {
        let missing = self.backlog.saturating_sub(self.left().await?);
        if missing > 0 {
            let wanted =
                json!({"url": self.database.url, "mode": "fill", "count": missing, "settings": {}});
            drive::fill(&self.program, &wanted).await?;
        }
        let client = connect(&self.database.url).await?;
        client.batch_execute("VACUUM ANALYZE").await?;
        client.batch_execute("CHECKPOINT").await?;
        self.left().await
    }

    /// Jobs that are not completed; none where the tables are not made yet.
    async fn left(&self) -> Result<usize> {
        let client = connect(&self.database.url).await?;
        match client.query_one(self.contender.left, &[]).await {
            Ok(row) => Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or_default()),
            Err(error)
                if error
                    .code()
                    .is_some_and(|code| code.code().starts_with("42P01")) =>
            {
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Drops its database.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn leave(self) -> Result<()> {
        self.bench.drop_database(self.database).await
    }
}

/// Whether what a handler was called for is what was completed.
fn check(name: &str, before: usize, left: usize, handled: f64) -> Result<()> {
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let completed = before as f64 - left as f64;
    if (handled - completed).abs() <= (handled * CUT_OFF).max(1.0) {
        return Ok(());
    }
    Err(Error::said(format!(
        "{name} handled {handled} jobs, and {completed} are completed"
    )))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count, rounded"
)]
fn count(number: f64) -> usize {
    number.max(0.0) as usize
}

/// From before a job is added until its handler begins, on an idle worker.
#[derive(Clone, Copy, Debug)]
pub struct Wake {
    /// The median, in milliseconds.
    pub median_ms: f64,
    /// The 99th percentile, in milliseconds.
    pub p99_ms: f64,
}

/// A peer's wakes, or why they were not measured.
pub type Wakes = Vec<(String, std::result::Result<Wake, String>)>;

/// How long each peer takes from before a job is added until its handler begins: one process, idle, woken
/// by LISTEN and NOTIFY at its best settings, jobs one by one with pauses of 10 to 30 ms; both times are
/// taken by one clock in one process. 200 samples, 20 in a quick run.
///
/// # Errors
/// When the database refuses, or a driver fails.
pub async fn wake_latencies(bench: &Bench, peers: &Peers) -> Result<Wakes> {
    let mut wakes = Wakes::new();
    for contender in ALL {
        let Some(settings) = (contender.wake)() else {
            continue;
        };
        let short = contender.name.trim_end_matches(" unbatched");
        let name = format!("{short} {}", contender.version);
        let program = match (contender.program)(peers) {
            Ok(program) => program,
            Err(why) => {
                wakes.push((name, Err(why.clone())));
                continue;
            }
        };
        let database = bench.database().await?;
        let samples = bench.effort.size(200, 20);
        let wanted = json!({"url": database.url, "mode": "wake", "settings": settings,
            "samples": samples, "unmeasured": 10, "pause_ms": 20});
        let all = drive::wake(program, &wanted, Duration::from_secs(60)).await?;
        bench.drop_database(database).await?;
        let wake = Wake {
            median_ms: percentile(&all, 50.0),
            p99_ms: percentile(&all, 99.0),
        };
        wakes.push((name, Ok(wake)));
    }
    Ok(wakes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handled_must_be_completed() {
        assert!(check("x", 1_000, 400, 600.0).is_ok());
        assert!(check("x", 1_000, 401, 600.0).is_ok());
        assert!(check("x", 1_000, 500, 600.0).is_err());
        assert!(check("x", 1_000, 300, 600.0).is_err());
    }

    #[test]
    fn each_contender_can_be_run_and_each_peer_be_woken_once() {
        for contender in ALL {
            let setups = (contender.setups)();
            assert!(!setups.is_empty(), "{}", contender.name);
            assert!(setups.iter().all(|setup| setup.processes > 0));
        }
        let woken = ALL.iter().filter(|c| (c.wake)().is_some()).count();
        assert_eq!(woken, 4);
    }
}
