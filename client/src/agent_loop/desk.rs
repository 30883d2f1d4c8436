//! The desk of commands, pure: what has come, what is under way, what is to be answered.
//!
//! Invariant: within one epoch a command is handed to a runner at most once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use lessor_protocol::{
    Command, CommandResult, CommandResultOutcome, CommandStatus, Outcome, ReportedCommandStatus,
    ReportedFailure,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How many results one call carries, as the protocol says.
const MAX_RESULTS: usize = 1_000;
/// The most bytes of results in one call; bodies end at 8 MiB, and reports may be as large.
const MAX_BYTES: usize = 2 << 20;
/// How many commands of a session are remembered; the service lets no more be unfinished.
const MAX_KNOWN: usize = 4_096;
/// How many last answers of a session are kept, to be given again.
const MAX_KEPT: usize = 8;

/// A command that was delivered here.
pub(super) struct Delivered {
    pub(super) command: Command,
    pub(super) epoch: i64,
    pub(super) deadline: Instant,
    pub(super) cancel: CancellationToken,
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
    pub(super) fn arrive(&mut self, command: Command, now: Instant) -> Arrival {
        let Some(epoch) = command.lease_epoch else {
            return Arrival::Known;
        };
        let (id, session) = (command.id, command.session_id);
        let lane = self
            .lanes
            .entry(session)
            .or_insert_with(|| Lane::new(epoch));
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
        let allowed = command.delivered_at.map_or(Duration::ZERO, |at| {
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
        self.push(
            failed(id, epoch, failure("cancelled", "it was cancelled")),
            None,
        );
        Arrival::New
    }

    fn is_being_answered(&self, id: Uuid) -> bool {
        self.answers.iter().any(|a| a.result.command_id == id)
    }

    pub(super) fn push(&mut self, result: CommandResult, heard: Option<oneshot::Sender<Outcome>>) {
        self.answers.push_back(Pending {
            result,
            sent: false,
            heard,
        });
    }

    /// The next one, or the end of the runner.
    pub(super) fn next(&mut self, session: Uuid, epoch: i64) -> Option<Delivered> {
        let lane = self.lanes.get_mut(&session).filter(|l| l.epoch == epoch)?;
        lane.running = None;
        let next = lane.waiting.pop_front();
        match &next {
            Some(next) => lane.running = Some((next.command.id, next.cancel.clone())),
            None => lane.has_runner = false,
        }
        next
    }

    pub(super) fn keep(&mut self, session: Uuid, result: &CommandResult) {
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
    pub(super) fn forget(&mut self, session: Uuid, epoch: i64) {
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
    pub(super) fn sweep(&mut self, in_hand: impl Fn(Uuid) -> bool) {
        self.lanes
            .retain(|id, lane| lane.has_runner || in_hand(*id));
    }
}

pub(super) fn failure(reason: &str, message: impl Into<String>) -> ReportedFailure {
    ReportedFailure {
        reason: reason.to_owned(),
        message: message.into(),
        exit_code: None,
        retryable: true,
        at: None,
    }
}

pub(super) fn failed(
    command_id: Uuid,
    lease_epoch: i64,
    failure: ReportedFailure,
) -> CommandResult {
    CommandResult {
        command_id,
        lease_epoch,
        status: ReportedCommandStatus::Failed,
        result: None,
        failure: Some(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Uuid = Uuid::from_u128(1);

    fn command(n: u128, epoch: i64, status: &str) -> Command {
        let value = serde_json::json!({"id": Uuid::from_u128(n), "session_id": SESSION, "kind": "k",
            "payload": {}, "status": status, "redeliver": false, "lease_epoch": epoch, "agent": "a",
            "result": null, "failure": null, "deadline_at": "2026-01-01T00:01:00Z",
            "created_at": "2026-01-01T00:00:00Z", "delivered_at": "2026-01-01T00:00:10Z",
            "finished_at": null});
        serde_json::from_str(&value.to_string()).expect("a command")
    }

    fn arrive(desk: &mut Desk, n: u128, epoch: i64, status: &str) -> Arrival {
        desk.arrive(command(n, epoch, status), Instant::now())
    }

    fn next(desk: &mut Desk, epoch: i64) -> Option<u128> {
        desk.next(SESSION, epoch)
            .map(|next| next.command.id.as_u128())
    }

    #[test]
    fn each_is_handed_out_once_in_order() {
        let mut desk = Desk::default();
        assert_eq!(arrive(&mut desk, 1, 5, "delivered"), Arrival::First);
        assert_eq!(arrive(&mut desk, 2, 5, "delivered"), Arrival::New);
        assert_eq!(arrive(&mut desk, 1, 5, "delivered"), Arrival::Known);
        assert_eq!(next(&mut desk, 5), Some(1));
        assert_eq!(arrive(&mut desk, 1, 5, "delivered"), Arrival::Known);
        assert_eq!(next(&mut desk, 5), Some(2));
        assert_eq!(next(&mut desk, 5), None);
        assert_eq!(arrive(&mut desk, 2, 5, "delivered"), Arrival::Known);
        assert_eq!(arrive(&mut desk, 3, 5, "delivered"), Arrival::First);
    }

    #[test]
    fn the_deadline_counts_from_the_first_delivery_whatever_the_clock_here_says() {
        let (mut desk, now) = (Desk::default(), Instant::now());
        desk.arrive(command(1, 5, "delivered"), now);
        let next = desk.next(SESSION, 5).expect("one");
        assert_eq!(next.deadline - now, Duration::from_secs(50));
    }

    #[test]
    fn another_epoch_begins_anew_and_an_older_one_is_not_heeded() {
        let mut desk = Desk::default();
        arrive(&mut desk, 1, 5, "delivered");
        let running = desk.next(SESSION, 5).expect("one");
        assert_eq!(arrive(&mut desk, 1, 6, "delivered"), Arrival::First);
        assert!(running.cancel.is_cancelled());
        assert_eq!(next(&mut desk, 5), None, "that runner ends");
        assert_eq!(arrive(&mut desk, 9, 5, "delivered"), Arrival::Known);
        assert_eq!(next(&mut desk, 6), Some(1), "it is another epoch's");
    }

    #[test]
    fn what_is_cancelled_is_stopped_and_answered_for() {
        let mut desk = Desk::default();
        for n in 1..=2 {
            arrive(&mut desk, n, 5, "delivered");
        }
        let running = desk.next(SESSION, 5).expect("one");
        for n in [1, 2, 3] {
            arrive(&mut desk, n, 5, "cancelled");
        }
        assert!(running.cancel.is_cancelled());
        let answered: Vec<_> = desk
            .take(10)
            .iter()
            .map(|a| a.command_id.as_u128())
            .collect();
        assert_eq!(answered, [2, 3], "the runner answers for the one that runs");
        assert_eq!(next(&mut desk, 5), None);
        assert_eq!(arrive(&mut desk, 3, 5, "delivered"), Arrival::Known);
    }

    #[test]
    fn answers_are_kept_until_they_are_heard_and_given_again_when_asked_for() {
        let mut desk = Desk::default();
        arrive(&mut desk, 1, 5, "delivered");
        let result = failed(Uuid::from_u128(1), 5, failure("no", "no"));
        desk.keep(SESSION, &result);
        desk.push(result, None);
        assert_eq!(desk.take(10).len(), 1);
        assert!(!desk.is_ready() && !desk.is_empty());
        desk.put_back();
        assert_eq!(desk.take(10).len(), 1, "it was not answered");
        let outcome = CommandResultOutcome {
            command_id: Uuid::from_u128(1),
            outcome: Outcome::Accepted,
            code: None,
        };
        desk.answered(&[outcome]);
        assert!(desk.is_empty());
        assert_eq!(arrive(&mut desk, 1, 5, "delivered"), Arrival::Known);
        assert_eq!(desk.take(10).len(), 1, "asked again, it answers again");
    }
}
