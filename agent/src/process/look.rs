//! Looking: what the files and `/proc` together say about an attempt.

use std::io;
use std::time::Duration;

use lessor_client::agent_loop::Stop;
use tokio::time::{Instant, sleep};

use super::files::{AttemptDir, Ended, Record};
use super::proc::{self, ProcessId};

/// How long a shim may take over its few steps.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// What there is of an attempt.
#[derive(Debug)]
pub enum Found {
    /// It was never started here.
    Nothing,
    /// A shim is just starting it, or writing down its end.
    Unsettled,
    /// It runs.
    Running(Record, ProcessId),
    /// It has ended, and it is known how.
    Ended(Ended),
    /// It was started, does not run, and it is not known how it ended: the machine was restarted,
    /// or somebody killed the shim.
    Vanished(Record),
}

/// Looks once.
///
/// # Errors
/// When a file cannot be read.
pub fn look(dir: &AttemptDir) -> io::Result<Found> {
    if let Some(ended) = dir.ended()? {
        return Ok(Found::Ended(ended));
    }
    let Some(record) = dir.record()? else {
        return Ok(Found::Nothing);
    };
    if record.boot_id != proc::boot_id() {
        return Ok(Found::Vanished(record));
    }
    // In this order: the shim writes the end down before it goes, so if the shim is gone and the
    // end is not there now, it never will be.
    let shim_lives = record.shim.is_alive();
    if let Some(process) = record.process.filter(|process| process.is_alive()) {
        return Ok(Found::Running(record, process));
    }
    Ok(match dir.ended()? {
        Some(ended) => Found::Ended(ended),
        None if shim_lives => Found::Unsettled,
        None => Found::Vanished(record),
    })
}

/// Looks until there is something definite.
///
/// # Errors
/// `Again` when it cannot be read or does not settle.
pub async fn settled(dir: &AttemptDir) -> Result<Found, Stop> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        match look(dir) {
            Ok(Found::Unsettled) if Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await;
            }
            Ok(Found::Unsettled) => {
                return Err(Stop::Again("its shim is stuck".into()));
            }
            Ok(found) => return Ok(found),
            Err(error) => {
                return Err(Stop::Again(format!("{}: {error}", dir.path().display())));
            }
        }
    }
}
