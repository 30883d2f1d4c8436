//! Commands: one after another for each session, in the order in which they came.
//!
//! `Desk` is pure: what has come, what is under way, what is to be answered. A runner per session
//! takes from it, acknowledges `running`, calls the driver and answers with the result. The
//! driver's future is dropped when the hold ends, the agent is fenced, or the command is cancelled
//! or past its deadline.
//!
//! Invariant: within one epoch a command is begun here at most once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lessor_protocol::{
    Command, CommandResult, CommandResultOutcome, CommandStatus, Outcome, RawJson,
    ReportedCommandStatus, ReportedFailure, Session,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::driver::Driver;
use super::shared::Shared;
use super::work::Work;

/// The most bytes of a result, as the protocol says.
const MAX_RESULT_BYTES: usize = 64 * 1024;
/// How many results one call carries, as the protocol says.
const MAX_RESULTS: usize = 1_000;
/// The most bytes of results in one call; bodies end at 8 MiB, and reports may be as large.
const MAX_BYTES: usize = 2 << 20;
/// How many commands of a session are remembered; the service lets no more be unfinished.
const MAX_KNOWN: usize = 4_096;
/// How many last answers of a session are kept, to be given again.
const MAX_KEPT: usize = 8;

/// A command that was delivered here.
struct Delivered {
    command: Command,
    epoch: i64,
    deadline: Instant,
    cancel: CancellationToken,
}

/// What there is of one session under one epoch.
struct Lane {
    epoch: i64,
    waiting: VecDeque<Delivered>,
    running: Option<(Uuid, CancellationToken)>,
    has_runner: bool,
    known: HashSet<Uuid>,
    known_order: VecDeque<Uuid>,
    kept: VecDeque<CommandResult>,
}

impl Lane {
    fn new(epoch: i64) -> Self {
        Self {
            epoch,
            waiting: VecDeque::new(),
            running: None,
            has_runner: false,
            known: HashSet::new(),
            known_order: VecDeque::new(),
            kept: VecDeque::new(),
        }
    }

    fn is_new(&mut self, id: Uuid) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        self.known_order.push_back(id);
        if self.known_order.len() > MAX_KNOWN
            && let Some(oldest) = self.known_order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// An answer that the service has not heard, or not said that it has.
struct Pending {
    result: CommandResult,
    sent: bool,
    heard: Option<oneshot::Sender<Outcome>>,
}

/// The commands of all sessions in hand.
#[derive(Default)]
pub(super) struct Desk {
    lanes: HashMap<Uuid, Lane>,
    answers: VecDeque<Pending>,
}

/// What a command that arrived means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It waits; a runner must begin.
    First,
    /// It waits, or is to be stopped.
    New,
    /// It is known here, or is of an epoch that is over.
    Known,
}

impl Desk {
    fn arrive(&mut self, command: Command, now: Instant) -> Arrival {
        let Some(epoch) = command.lease_epoch else {
            return Arrival::Known;
        };
        let (id, session) = (command.id, command.session_id);
        let lane = self.lanes.entry(session).or_insert_with(|| Lane::new(epoch));
        if lane.epoch > epoch {
            return Arrival::Known;
        }
        if lane.epoch < epoch {
            // The runner of the earlier epoch sees that its lane has gone.
            if let Some((_, running)) = lane.running.take() {
                running.cancel();
            }
            *lane = Lane::new(epoch);
        }
        if command.status == CommandStatus::Cancelled {
            return self.cancelled(session, id, epoch);
        }
        if !lane.is_new(id) {
            let kept = lane.kept.iter().find(|kept| kept.command_id == id).cloned();
            if let Some(kept) = kept.filter(|_| !self.is_being_answered(id)) {
                self.push(kept, None);
            }
            return Arrival::Known;
        }
        // By the service's clock from its first delivery on; ours may be another.
        let allowed = command
            .delivered_at
            .map_or(Duration::ZERO, |at| {
                (command.deadline_at - at).to_std().unwrap_or_default()
            });
        lane.waiting.push_back(Delivered {
            command,
            epoch,
            deadline: now + allowed,
            cancel: CancellationToken::new(),
        });
        if std::mem::replace(&mut lane.has_runner, true) {
            Arrival::New
        } else {
            Arrival::First
        }
    }

    /// Stops it, wherever it is. The answer says that it was heard; the service takes it for that.
    fn cancelled(&mut self, session: Uuid, id: Uuid, epoch: i64) -> Arrival {
        if let Some(lane) = self.lanes.get_mut(&session) {
            lane.is_new(id);
            lane.waiting.retain(|waiting| waiting.command.id != id);
            match &lane.running {
                Some((running, cancel)) if *running == id => {
                    // Its runner answers when it has stopped.
                    cancel.cancel();
                    return Arrival::New;
                }
                _ => {}
            }
        }
        if self.is_being_answered(id) {
            return Arrival::Known;
        }
        self.push(failed(id, epoch, failure("cancelled", "it was cancelled")), None);
        Arrival::New
    }

    fn is_being_answered(&self, id: Uuid) -> bool {
        self.answers.iter().any(|a| a.result.command_id == id)
    }

    fn push(&mut self, result: CommandResult, heard: Option<oneshot::Sender<Outcome>>) {
        self.answers.push_back(Pending {
            result,
            sent: false,
            heard,
        });
    }

    /// The next one, or the end of the runner.
    fn next(&mut self, session: Uuid, epoch: i64) -> Option<Delivered> {
        let lane = self.lanes.get_mut(&session).filter(|l| l.epoch == epoch)?;
        lane.running = None;
        let next = lane.waiting.pop_front();
        match &next {
            Some(next) => lane.running = Some((next.command.id, next.cancel.clone())),
            None => lane.has_runner = false,
        }
        next
    }

    fn keep(&mut self, session: Uuid, result: &CommandResult) {
        if let Some(lane) = self.lanes.get_mut(&session)
            && lane.epoch == result.lease_epoch
        {
            lane.kept.push_back(result.clone());
            if lane.kept.len() > MAX_KEPT {
                lane.kept.pop_front();
            }
        }
    }

    /// Forgets a session's commands under an epoch that is over, and what nobody will take.
    fn forget(&mut self, session: Uuid, epoch: i64) {
        if self.lanes.get(&session).is_some_and(|l| l.epoch == epoch) {
            self.lanes.remove(&session);
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.answers.iter().any(|answer| !answer.sent)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Takes answers to send in one call, oldest first, within its limits.
    pub(super) fn take(&mut self, limit: usize) -> Vec<CommandResult> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        for pending in self.answers.iter_mut().filter(|pending| !pending.sent) {
            let result = &pending.result;
            bytes += result.result.as_ref().map_or(0, |json| json.get().len()) + 512;
            if taken.len() >= limit.min(MAX_RESULTS) || (bytes > MAX_BYTES && !taken.is_empty()) {
                break;
            }
            pending.sent = true;
            taken.push(result.clone());
        }
        taken
    }

    /// What was sent has been answered, in its order; what has no outcome is sent again.
    pub(super) fn answered(&mut self, outcomes: &[CommandResultOutcome]) {
        let mut outcomes = outcomes.iter();
        let mut left = VecDeque::new();
        for mut pending in std::mem::take(&mut self.answers) {
            let outcome = if pending.sent { outcomes.next() } else { None };
            let Some(outcome) = outcome else {
                pending.sent = false;
                left.push_back(pending);
                continue;
            };
            if outcome.outcome != Outcome::Accepted {
                let code = outcome.code.map_or("", |code| code.as_str());
                tracing::warn!(command = %outcome.command_id, outcome = %outcome.outcome, code, "result not accepted");
            }
            if let Some(heard) = pending.heard.take() {
                // Whoever asked may have been cancelled since.
                let _ = heard.send(outcome.outcome);
            }
        }
        self.answers = left;
    }

    /// What was sent was not answered: it will be sent again.
    pub(super) fn put_back(&mut self) {
        for pending in &mut self.answers {
            pending.sent = false;
        }
    }

    /// The service refuses a body that has only these in it.
    pub(super) fn give_up_sent(&mut self) {
        self.answers.retain(|pending| !pending.sent);
    }

    /// Ends every runner, at a shutdown.
    pub(super) fn stop(&mut self) {
        for (_, lane) in self.lanes.drain() {
            if let Some((_, running)) = lane.running {
                running.cancel();
            }
        }
    }

    /// Forgets what belongs to sessions that are not in hand.
    fn sweep(&mut self, in_hand: impl Fn(Uuid) -> bool) {
        self.lanes.retain(|id, lane| lane.has_runner || in_hand(*id));
    }
}

fn failure(reason: &str, message: impl Into<String>) -> ReportedFailure {
    ReportedFailure {
        reason: reason.to_owned(),
        message: message.into(),
        exit_code: None,
        retryable: true,
        at: None,
    }
}

fn failed(command_id: Uuid, lease_epoch: i64, failure: ReportedFailure) -> CommandResult {
    CommandResult {
        command_id,
        lease_epoch,
        status: ReportedCommandStatus::Failed,
        result: None,
        failure: Some(failure),
    }
}

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
