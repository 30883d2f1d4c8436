//! Who is compared with, and at which settings.
//!
//! Each peer has one job that does nothing, in a database of its own on the same PostgreSQL, and is run as
//! its manual says for speed. Where it is not plain what is best, several settings are tried in short runs
//! and the best is kept; the report names it.

use serde_json::{Value, json};

use super::install::{self, Installed, Peers};

/// A peer at work, one of its ways.
pub struct Contender {
    /// Its name in the report.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What is compared in it.
    pub program: fn(&Peers) -> &Installed,
    /// Counts the jobs that are not completed.
    pub left: &'static str,
    /// How often it must be beaten, if at all.
    pub times: Option<f64>,
    /// What is tried; the first alone in a quick run.
    pub setups: fn() -> Vec<Setup>,
    /// What is best for an idle worker; none where another way of the same peer has it.
    pub wake: fn() -> Option<Value>,
}

/// How a contender is run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// In words, for the report.
    pub words: String,
    /// How many processes.
    pub processes: usize,
    /// What its driver is told.
    pub settings: Value,
}

const GRAPHILE_LEFT: &str = "SELECT count(*) FROM graphile_worker.jobs";

/// Those ever added less those completed. Its view of jobs takes minutes to count some ten thousand.
const AWA_LEFT: &str = "SELECT ((SELECT coalesce(sum(awa.sequence_next_value(seq_name) - 1), 0) FROM awa.queue_enqueue_heads)
    - (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches)
    - (SELECT coalesce(sum(pruned_completed_count), 0) FROM awa.queue_terminal_rollups)
    - (SELECT count(*) FROM awa.done_entries))::bigint";

/// All of them.
pub const ALL: &[Contender] = &[
    // Its defaults but for the concurrency: each job is fetched and completed by a statement of its own.
    Contender {
        name: "graphile-worker unbatched",
        version: install::GRAPHILE,
        program: |peers| &peers.graphile,
        left: GRAPHILE_LEFT,
        times: Some(4.0),
        setups: || {
            vec![
                graphile(2, 24, None),
                graphile(1, 24, None),
                graphile(4, 12, None),
            ]
        },
        wake: || Some(graphile(1, 1, None).settings),
    },
    // `localQueue` fetches many at once, `completeJobBatchDelay` completes many at once.
    Contender {
        name: "graphile-worker batched",
        version: install::GRAPHILE,
        program: |peers| &peers.graphile,
        left: GRAPHILE_LEFT,
        times: Some(1.0),
        setups: || {
            vec![
                graphile(2, 24, Some((500, 0))),
                graphile(1, 24, Some((500, 0))),
                graphile(1, 100, Some((2_000, 0))),
                graphile(2, 100, Some((1_000, 5))),
            ]
        },
        wake: || None,
    },
    // It completes as many at once as it fetches.
    Contender {
        name: "pgqueuer",
        version: install::PGQUEUER,
        program: |peers| &peers.pgqueuer,
        left: "SELECT count(*) FROM pgqueuer",
        times: Some(1.0),
        setups: || {
            vec![
                pgqueuer(2, 1_000),
                pgqueuer(1, 1_000),
                pgqueuer(2, 250),
                pgqueuer(2, 4_000),
            ]
        },
        wake: || Some(pgqueuer(1, 10).settings),
    },
    // A handler of a whole batch; it completes a batch at once, and fetches on while batches are full.
    Contender {
        name: "pg-boss",
        version: install::PGBOSS,
        program: |peers| &peers.pgboss,
        left: "SELECT count(*) FROM pgboss.job WHERE state < 'completed'",
        times: None,
        setups: || vec![pgboss(1, 4, 500), pgboss(1, 2, 2_000), pgboss(2, 2, 1_000)],
        wake: || Some(pgboss(1, 1, 1).settings),
    },
    Contender {
        name: "awa",
        version: install::AWA,
        program: |peers| &peers.awa,
        left: AWA_LEFT,
        times: None,
        setups: || vec![awa(1, 512, 1), awa(1, 1_024, 4), awa(1, 256, 2)],
        wake: || Some(awa(1, 16, 1).settings),
    },
];

fn graphile(processes: usize, concurrency: usize, batches: Option<(usize, usize)>) -> Setup {
    let (local_queue, delay) =
        batches.map_or((json!(-1), json!(-1)), |(a, b)| (json!(a), json!(b)));
    let batched = batches.map_or(String::new(), |(size, ms)| {
        format!(", fetches {size}, completes after {ms} ms")
    });
    Setup {
        words: format!("{processes} processes of {concurrency}{batched}"),
        processes,
        settings: json!({"concurrency": concurrency, "local_queue": local_queue, "complete_delay_ms": delay}),
    }
}

fn pgqueuer(processes: usize, batch: usize) -> Setup {
    Setup {
        words: format!("{processes} processes, batches of {batch}"),
        processes,
        settings: json!({"batch": batch}),
    }
}

fn pgboss(processes: usize, concurrency: usize, batch: usize) -> Setup {
    Setup {
        words: format!("{processes} processes of {concurrency}, batches of {batch}"),
        processes,
        settings: json!({"concurrency": concurrency, "batch": batch}),
    }
}

fn awa(processes: usize, workers: usize, claimers: usize) -> Setup {
    Setup {
        words: format!("{processes} processes of {workers}, {claimers} claimers"),
        processes,
        settings: json!({"workers": workers, "claimers": claimers}),
    }
}
