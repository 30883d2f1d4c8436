//! Commands: one after another for each session, in the order in which they came.
//!
//! A runner per session takes from the `desk`, acknowledges `running`, calls the driver and answers
//! with the result. The driver's future is dropped when the hold ends, the agent is fenced, or the
//! command is cancelled or past its deadline.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lessor_protocol::{
    Command, CommandResult, Outcome, RawJson, ReportedCommandStatus, ReportedFailure, Session,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::desk::{Arrival, Delivered, failed, failure};
use super::driver::Driver;
use super::shared::Shared;
use super::work::Work;

/// The most bytes of a result, as the protocol says.
const MAX_RESULT_BYTES: usize = 64 * 1024;

fn finished(
    command_id: Uuid,
    lease_epoch: i64,
    done: Result<serde_json::Value, ReportedFailure>,
) -> CommandResult {
    let json = |value: &serde_json::Value| -> Result<RawJson, ReportedFailure> {
        let json = serde_json::value::to_raw_value(value)
            .map_err(|error| failure("bad_result", error.to_string()))?;
        if json.get().len() > MAX_RESULT_BYTES {
            let message = format!("its result has more than {MAX_RESULT_BYTES} bytes");
            return Err(failure("result_too_large", message));
        }
        Ok(json)
    };
    match done.and_then(|value| json(&value)) {
        Ok(result) => CommandResult {
            command_id,
            lease_epoch,
            status: ReportedCommandStatus::Succeeded,
            result: Some(result),
            failure: None,
        },
        Err(failure) => failed(command_id, lease_epoch, failure),
    }
}

/// Commands have come. Returns whether any of them was new.
pub(super) fn arrive<D: Driver>(
    tasks: &TaskTracker,
    driver: &Arc<D>,
    shared: &Arc<Shared>,
    commands: Vec<Command>,
) -> bool {
    let mut something = false;
    for command in commands {
        let (session, epoch) = (command.session_id, command.lease_epoch.unwrap_or(0));
        let arrival = {
            let mut state = shared.lock();
            let state = &mut *state;
            state.desk.sweep(|id| state.book.get(id).is_some());
            state.desk.arrive(command, Instant::now())
        };
        something |= arrival != Arrival::Known;
        if arrival == Arrival::First {
            let runner = Runner {
                session,
                epoch,
                driver: Arc::clone(driver),
                shared: Arc::clone(shared),
            };
            tasks.spawn(runner.run());
        }
    }
    shared.reports.notify_one();
    something
}

/// How the session of a command stands.
enum Standing {
    /// It runs and is held.
    Runs(Arc<Session>),
    /// It is held, and not up.
    NotYet,
    /// The epoch is over.
    Over,
}

struct Runner<D> {
    session: Uuid,
    epoch: i64,
    driver: Arc<D>,
    shared: Arc<Shared>,
}

impl<D: Driver> Runner<D> {
    async fn run(self) {
        loop {
            let next = self.shared.lock().desk.next(self.session, self.epoch);
            let Some(next) = next else { return };
            let (cancel, deadline) = (next.cancel.clone(), next.deadline);
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    self.answer(failed(next.command.id, next.epoch, failure("cancelled", "it was cancelled")), None);
                }
                // The service says by itself that it is expired.
                () = tokio::time::sleep_until(deadline) => {}
                () = self.over() => {
                    self.shared.lock().desk.forget(self.session, self.epoch);
                    return;
                }
                () = self.perform(&next) => {}
            }
        }
    }

    /// Acknowledges it, does it, and answers.
    async fn perform(&self, next: &Delivered) {
        let (id, epoch) = (next.command.id, next.epoch);
        let session = self.runs().await;
        let (heard, outcome) = oneshot::channel();
        let running = CommandResult {
            command_id: id,
            lease_epoch: epoch,
            status: ReportedCommandStatus::Running,
            result: None,
            failure: None,
        };
        self.answer(running, Some(heard));
        // Cancelled, expired or fenced meanwhile: nothing must be begun.
        if outcome.await != Ok(Outcome::Accepted) {
            return;
        }
        self.shared.unfenced().await;
        let work = Work::new((*session).clone(), Arc::clone(&self.shared));
        let done = tokio::select! {
            biased;
            () = self.shared.fenced() => {
                tracing::warn!(session = %self.session, command = %id, "fenced: the command was cut off");
                Err(failure("fenced", "the agent's lease was not renewed in time"))
            }
            done = AssertUnwindSafe(self.driver.command(&work, &next.command)).catch_unwind() => {
                done.unwrap_or_else(|_| {
                    tracing::error!(session = %self.session, command = %id, "the driver panicked");
                    Err(failure("driver_failed", "the agent failed while it was at it"))
                })
            }
        };
        let result = finished(id, epoch, done);
        self.shared.lock().desk.keep(self.session, &result);
        self.answer(result, None);
    }

    fn answer(&self, result: CommandResult, heard: Option<oneshot::Sender<Outcome>>) {
        self.shared.lock().desk.push(result, heard);
        self.shared.reports.notify_one();
    }

    fn standing(&self) -> Standing {
        let state = self.shared.lock();
        let Some(slot) = state.book.get(self.session) else {
            return Standing::Over;
        };
        if slot.ending.is_some() || slot.epoch > self.epoch || slot.has_newer_epoch() {
            return Standing::Over;
        }
        match &slot.settled {
            Some(session) if slot.epoch == self.epoch => Standing::Runs(Arc::clone(session)),
            _ => Standing::NotYet,
        }
    }

    /// Ends when the session runs and is held under this epoch.
    async fn runs(&self) -> Arc<Session> {
        let mut holds = self.shared.hold_changes();
        loop {
            if let Standing::Runs(session) = self.standing() {
                return session;
            }
            changed(&mut holds).await;
        }
    }

    /// Ends when the hold has ended.
    async fn over(&self) {
        let mut holds = self.shared.hold_changes();
        while !matches!(self.standing(), Standing::Over) {
            changed(&mut holds).await;
        }
    }
}

/// Until something changes; and each second, so that a change nobody spoke of is seen too.
async fn changed(holds: &mut tokio::sync::watch::Receiver<()>) {
    tokio::select! {
        _ = holds.changed() => {}
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
}
