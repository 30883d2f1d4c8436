//! The three calls that go on side by side under one registration: the renewals, the parked claim,
//! and the reports. Each goes on through outages, and ends only when the registration has.

use std::time::Duration;

use lessor_protocol::{
    Claim, Claimed, Heartbeat, Outcome, ProblemCode, ReportCode, ReportResult, Reports,
};
use tokio::time::{Instant, sleep, timeout};

use super::backoff::{Backoff, jittered};
use super::driver::Driver;
use super::lease::boottime;
use super::queue::MAX_REPORTS;
use super::{Agent, commands, task};
use crate::Error;

/// How many losses one heartbeat acknowledges.
const MAX_DROPPED: usize = 1000;
/// How long a new claim waits for the acceptances that the last one caused: a claim that overtakes
/// them is only given the same assignments again.
const ACCEPTANCE_WAIT: Duration = Duration::from_millis(500);
/// A poll that ends sooner than this without anything new was not parked.
const PARKED: Duration = Duration::from_millis(50);

/// Why a registration is over.
pub(super) enum Turn {
    /// The lease has ended: register again.
    Register,
    /// A newer run has taken over: exit.
    Superseded,
}

/// What an error means for the registration; none if it stands and the call may be made again.
pub(super) fn turn(error: &Error) -> Option<Turn> {
    match error.code()? {
        ProblemCode::AgentSuperseded => Some(Turn::Superseded),
        ProblemCode::LeaseExpired | ProblemCode::AgentNotRegistered => Some(Turn::Register),
        _ => None,
    }
}

impl<D: Driver> Agent<D> {
    /// Renews the lease, and acknowledges losses at once.
    pub(super) async fn keep_renewing(&self) -> Turn {
        let mut backoff = Backoff::default();
        loop {
            self.renewal_due().await;
            let renew_after = self.shared.lock().lease.renew_after();
            let activity = self.activity(renew_after).await;
            let dropped = self.shared.dropped(MAX_DROPPED);
            let (asked, incarnation) = {
                let mut state = self.shared.lock();
                (state.stamp(), state.incarnation)
            };
            let body = Heartbeat {
                incarnation,
                activity,
                dropped: dropped.clone(),
            };
            // A beat that hangs must leave time for another one.
            let limit = renew_after.clamp(Duration::from_millis(500), Duration::from_secs(10));
            let sent_at = boottime();
            let asked_for =
                match timeout(limit, self.caller().heartbeat(&self.config.name, &body)).await {
                    Ok(Ok(renewed)) => {
                        backoff.reset();
                        self.shared.renewed(sent_at, renewed.lease);
                        self.shared.dropped_heard(&dropped);
                        self.shared.lost(&renewed.lost, asked);
                        self.shared.inventory_asked(renewed.inventory_wanted, asked);
                        continue;
                    }
                    Ok(Err(error)) => {
                        if let Some(turn) = self.turn(&error) {
                            return turn;
                        }
                        tracing::warn!(%error, "the lease could not be renewed");
                        error.retry_after()
                    }
                    Err(_) => {
                        tracing::warn!("the lease could not be renewed: no answer");
                        None
                    }
                };
            // Sooner than the pause between renewals, or the lease ends over one lost answer.
            sleep(
                backoff
                    .pause(asked_for)
                    .min(renew_after.max(Duration::from_millis(100))),
            )
            .await;
        }
    }

    /// Waits until a heartbeat is due: by the clock, or because there is a loss to acknowledge.
    async fn renewal_due(&self) {
        loop {
            let loss = self.shared.losses.notified();
            let due = self.shared.lock().lease.renewal_due_in(boottime());
            if due.is_zero() || !self.shared.dropped(1).is_empty() {
                return;
            }
            // A timer stands still while the machine is suspended, so look at the clock each second.
            tokio::select! {
                () = sleep(due.min(Duration::from_secs(1))) => {}
                () = loss => {}
            }
        }
    }

    /// Parks one claim after the other, and begins what they bring.
    pub(super) async fn keep_claiming(&self) -> Turn {
        let mut backoff = Backoff::default();
        let mut unparked = Backoff::up_to(Duration::from_secs(1));
        loop {
            self.acceptances_answered().await;
            let (asked, incarnation) = {
                let mut state = self.shared.lock();
                (state.stamp(), state.incarnation)
            };
            let body = Claim {
                incarnation,
                max_sessions: self.config.max_sessions.clamp(1, 1000),
                wait_seconds: self.config.wait.as_secs_f64().min(55.0),
                reports: Vec::new(),
                command_results: Vec::new(),
                dropped: Vec::new(),
            };
            let (sent_at, began) = (boottime(), Instant::now());
            match self.caller().claim(&self.config.name, &body).await {
                Ok(claimed) => {
                    backoff.reset();
                    self.shared.renewed(sent_at, claimed.lease);
                    if self.take_in(claimed, asked) || began.elapsed() > PARKED {
                        unparked.reset();
                    } else {
                        sleep(unparked.pause(None)).await;
                    }
                }
                // A later claim of ours has come; that one is not repeated, and this one neither.
                Err(error) if error.code() == Some(ProblemCode::ClaimSuperseded) => {
                    sleep(jittered(Duration::from_millis(100))).await;
                }
                Err(error) => {
                    if let Some(turn) = self.turn(&error) {
                        return turn;
                    }
                    tracing::warn!(%error, "cannot claim");
                    sleep(backoff.pause(error.retry_after())).await;
                }
            }
        }
    }

    /// Whether the answer brought anything.
    fn take_in(&self, claimed: Claimed, asked: u64) -> bool {
        let something = !claimed.assignments.is_empty() || !claimed.lost.is_empty();
        self.shared.lost(&claimed.lost, asked);
        self.shared.inventory_asked(claimed.inventory_wanted, asked);
        for assignment in claimed.assignments {
            let id = assignment.session.id;
            if self.shared.arrive(assignment, asked) {
                task::spawn(&self.tasks, &self.driver, &self.shared, id, None);
            }
        }
        something | commands::arrive(&self.tasks, &self.driver, &self.shared, claimed.commands)
    }

    async fn acceptances_answered(&self) {
        // A task that has just begun has not reported yet.
        tokio::task::yield_now().await;
        // In an outage the reports wait, and the claim must not.
        let _ = timeout(ACCEPTANCE_WAIT, self.reports_answered()).await;
    }

    /// Ends when no report waits for an answer.
    pub(super) async fn reports_answered(&self) {
        loop {
            let reported = self.shared.reported.notified();
            if self.shared.lock().is_answered() {
                return;
            }
            reported.await;
        }
    }

    /// Sends reports until each is answered.
    pub(super) async fn keep_reporting(&self) -> Turn {
        let mut backoff = Backoff::default();
        let mut limit = MAX_REPORTS;
        loop {
            self.report_ready().await;
            let (incarnation, reports, command_results) = {
                let mut state = self.shared.lock();
                let results = state.desk.take(limit);
                (state.incarnation, state.queue.take(limit), results)
            };
            let (count, results) = (reports.len(), command_results.len());
            let only = (count == 1).then(|| reports[0].session_id);
            let body = Reports {
                incarnation,
                reports,
                command_results,
            };
            match self.caller().report(&self.config.name, &body).await {
                Ok(answer) => {
                    backoff.reset();
                    limit = (limit * 2).min(MAX_REPORTS);
                    self.shared.lock().desk.answered(&answer.command_results);
                    self.shared.answered(&answer.results);
                    if answer.results.len() < count || answer.command_results.len() < results {
                        sleep(backoff.pause(None)).await;
                    }
                }
                Err(error) => {
                    if let Some(turn) = self.turn(&error) {
                        return turn;
                    }
                    tracing::warn!(%error, count, "reports were not taken");
                    if is_the_bodys_fault(&error) {
                        limit = 1;
                        if results == 1 {
                            self.shared.lock().desk.give_up_sent();
                        }
                        if let Some(session_id) = only {
                            self.shared.answered(&[refused(session_id)]);
                            continue;
                        }
                    }
                    {
                        let mut state = self.shared.lock();
                        state.queue.put_back();
                        state.desk.put_back();
                    }
                    sleep(backoff.pause(error.retry_after())).await;
                }
            }
        }
    }

    async fn report_ready(&self) {
        loop {
            let bell = self.shared.reports.notified();
            if self.shared.lock().is_ready() {
                return;
            }
            bell.await;
        }
    }
}

/// Whether the service refused the whole body, so that one report in it spoils the others.
fn is_the_bodys_fault(error: &Error) -> bool {
    matches!(error.status(), Some(400 | 413 | 415 | 422))
}

fn refused(session_id: uuid::Uuid) -> ReportResult {
    ReportResult {
        session_id,
        outcome: Outcome::Rejected,
        code: Some(ReportCode::ValidationFailed),
        state: None,
        lease_epoch: None,
    }
}
