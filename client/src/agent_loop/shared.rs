//! What the loop's parts share: one small lock around pure state, and bells to ring.
//!
//! Invariant: the lock is never held across an `await`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lessor_protocol::{
    Assignment, HeldSession, Lease, Report, ReportResult, ReportedFailure, ReportedState, Session,
};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use uuid::Uuid;

use super::book::{Arrival, Book, Ending};
use super::desk::Desk;
use super::driver::Resource;
use super::inventory::Wanted;
use super::lease::{LeaseClock, boottime};
use super::queue::{Answer, ReportQueue};

/// How many epochs of sessions that are no longer in hand are remembered, for acknowledgements.
const PAST: usize = 10_000;

/// See the module.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Rung when there is a report to send.
    pub(super) reports: Notify,
    /// Rung when every report has been answered.
    pub(super) reported: Notify,
    /// Rung when there is a loss to acknowledge.
    pub(super) losses: Notify,
    /// Bounds how many actions run at once.
    pub(super) acting: Semaphore,
    /// Bounds looks; apart from actions, since an offer waits for a look.
    pub(super) looking: Semaphore,
    /// Rung when the service wants an inventory.
    pub(super) inventories: Notify,
    lease_changes: watch::Sender<()>,
    hold_changes: watch::Sender<()>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) incarnation: i64,
    pub(super) lease: LeaseClock,
    pub(super) book: Book,
    pub(super) queue: ReportQueue,
    pub(super) desk: Desk,
    pub(super) inventory: Wanted,
    dropped: BTreeMap<Uuid, i64>,
    past: HashMap<Uuid, i64>,
    past_order: VecDeque<Uuid>,
    stamp: u64,
}

impl State {
    /// The next number of the counter that puts requests and arrivals in order.
    pub(super) fn stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// Whether there is something to send.
    pub(super) fn is_ready(&self) -> bool {
        self.queue.is_ready() || self.desk.is_ready()
    }

    /// Whether nothing waits for an answer.
    pub(super) fn is_answered(&self) -> bool {
        self.queue.is_empty() && self.desk.is_empty()
    }

    fn remember_epoch(&mut self, id: Uuid, epoch: i64) {
        if self.past.insert(id, epoch).is_none() {
            self.past_order.push_back(id);
        }
        if self.past_order.len() > PAST
            && let Some(oldest) = self.past_order.pop_front()
        {
            self.past.remove(&oldest);
        }
    }
}

/// A report before it has an epoch and a generation.
pub(super) struct Draft {
    state: ReportedState,
    resource: Resource,
    failure: Option<ReportedFailure>,
    clear_endpoint: bool,
}

impl Draft {
    pub(super) fn of(state: ReportedState) -> Self {
        Self {
            state,
            resource: Resource::default(),
            failure: None,
            clear_endpoint: false,
        }
    }

    pub(super) fn with(mut self, resource: Resource) -> Self {
        self.resource = resource;
        self
    }

    pub(super) fn because(mut self, failure: Option<ReportedFailure>) -> Self {
        self.failure = failure;
        self
    }

    /// A new resource has no endpoint but its own.
    pub(super) fn fresh(mut self) -> Self {
        self.clear_endpoint = true;
        self
    }

    fn report(self, held: HeldSession, generation: i64) -> Report {
        let mut report = Report::of(held, generation, self.state);
        report.platform_resource_id = self.resource.platform_resource_id.map(Some);
        report.platform_metadata = self.resource.platform_metadata.map(Some);
        report.endpoint = match self.resource.endpoint {
            Some(endpoint) => Some(Some(endpoint)),
            None => self.clear_endpoint.then_some(None),
        };
        report.failure = self.failure.map(Some);
        report
    }
}

impl Shared {
    pub(super) fn new(concurrency: usize) -> Arc<Self> {
        let slots = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            state: Mutex::default(),
            reports: Notify::new(),
            reported: Notify::new(),
            losses: Notify::new(),
            acting: Semaphore::new(slots),
            looking: Semaphore::new(slots),
            inventories: Notify::new(),
            lease_changes: watch::Sender::new(()),
            hold_changes: watch::Sender::new(()),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can leave it half changed in a way that matters more than going on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // -- the lease

    pub(super) fn may_act_for(&self) -> Duration {
        self.lock().lease.may_act_for(boottime())
    }

    pub(super) fn renewed(&self, sent_at: Duration, lease: Lease) {
        self.lock().lease.renewed(sent_at, lease);
        self.lease_changes.send_replace(());
    }

    pub(super) fn lease_ended(&self) {
        self.lock().lease.ended();
        self.lease_changes.send_replace(());
    }

    /// Ends when the agent may no longer act.
    pub(super) async fn fenced(&self) {
        let mut changes = self.lease_changes.subscribe();
        loop {
            let left = self.may_act_for();
            if left.is_zero() {
                return;
            }
            // A timer stands still while the machine is suspended, so look at the clock each second.
            tokio::select! {
                () = tokio::time::sleep(left.min(Duration::from_secs(1))) => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Ends when the agent may act.
    pub(super) async fn unfenced(&self) {
        let mut changes = self.lease_changes.subscribe();
        while self.may_act_for().is_zero() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells those who act on sessions that what is held may have changed.
    pub(super) fn hold_changed(&self) {
        self.hold_changes.send_replace(());
    }

    /// Hears of such changes.
    pub(super) fn hold_changes(&self) -> watch::Receiver<()> {
        self.hold_changes.subscribe()
    }

    // -- reports

    pub(super) fn last_state(&self, id: Uuid) -> Option<ReportedState> {
        self.lock().book.get(id).and_then(|slot| slot.last)
    }

    /// Queues a report under the assignment in hand. If the session is forgotten before there is an
    /// answer, the channel closes.
    pub(super) fn report(&self, id: Uuid, draft: Draft) -> oneshot::Receiver<Answer> {
        let mut state = self.lock();
        let Some(slot) = state.book.get_mut(id) else {
            return oneshot::channel().1;
        };
        slot.last = Some(draft.state);
        if let Some(name) = &draft.resource.platform_resource_id {
            slot.resource = Some(name.clone());
        }
        let report = draft.report(slot.key(id), slot.generation);
        let answer = state.queue.push(report);
        drop(state);
        self.reports.notify_one();
        answer
    }

    /// Reports have been answered.
    pub(super) fn answered(&self, results: &[ReportResult]) {
        let mut state = self.lock();
        let now = state.stamp();
        for result in results {
            let answer = Answer {
                outcome: result.outcome,
                code: result.code,
            };
            let Some(report) = state.queue.answered(result.session_id, answer) else {
                continue;
            };
            let (id, epoch) = (report.session_id, report.lease_epoch);
            if answer.accepted() {
                state
                    .book
                    .accepted(id, epoch, report.observed_generation, now);
                continue;
            }
            let code = result.code.map_or("", lessor_protocol::ReportCode::as_str);
            tracing::warn!(session = %id, epoch, state = %report.state, outcome = %result.outcome, code, "report not accepted");
            if answer.fenced() {
                state.book.fence(id, epoch);
            }
        }
        // What was sent and has no result in the answer is sent again.
        state.queue.put_back();
        if state.is_answered() {
            self.reported.notify_one();
        }
        drop(state);
        self.hold_changed();
    }

    // -- assignments and losses

    /// An assignment came. Returns whether a task must be begun for its session.
    pub(super) fn arrive(&self, assignment: Assignment, asked: u64) -> bool {
        let id = assignment.session.id;
        let (action, epoch) = (assignment.action, assignment.lease_epoch);
        let mut state = self.lock();
        let now = state.stamp();
        let queued = state.queue.has(id);
        let arrival = state.book.arrive(assignment, asked, now, queued);
        drop(state);
        self.hold_changed();
        match arrival {
            Arrival::New | Arrival::Mailed => {
                tracing::info!(session = %id, %action, epoch, "assigned");
            }
            Arrival::Repeat(state) => {
                tracing::debug!(session = %id, %action, epoch, "assigned again: reporting again");
                drop(self.report(id, Draft::of(state)));
            }
            Arrival::Known => {}
        }
        arrival == Arrival::New
    }

    /// The service took sessions away, in the answer to the request numbered `asked`.
    pub(super) fn lost(&self, ids: &[Uuid], asked: u64) {
        if ids.is_empty() {
            return;
        }
        let mut state = self.lock();
        for &id in ids {
            if state.book.lose(id, asked) {
                tracing::info!(session = %id, "lost");
            } else if let Some(&epoch) = state.past.get(&id) {
                // Forgotten before, so nobody acts on it: say so at once.
                state.dropped.insert(id, epoch);
                self.losses.notify_one();
            }
        }
        drop(state);
        self.hold_changed();
    }

    /// A session that was never in hand is to be acknowledged as dropped.
    pub(super) fn acknowledge(&self, held: HeldSession) {
        self.lock()
            .dropped
            .insert(held.session_id, held.lease_epoch);
        self.losses.notify_one();
    }

    /// Losses to acknowledge, at most `limit`.
    pub(super) fn dropped(&self, limit: usize) -> Vec<HeldSession> {
        let state = self.lock();
        let dropped = state.dropped.iter().take(limit);
        dropped
            .map(|(&session_id, &lease_epoch)| HeldSession {
                session_id,
                lease_epoch,
            })
            .collect()
    }

    /// The service has heard of these losses.
    pub(super) fn dropped_heard(&self, heard: &[HeldSession]) {
        let mut state = self.lock();
        for held in heard {
            if state.dropped.get(&held.session_id) == Some(&held.lease_epoch) {
                state.dropped.remove(&held.session_id);
            }
        }
    }

    // -- tasks

    /// The task takes its mail.
    pub(super) fn take_mail(&self, id: Uuid) -> Option<Assignment> {
        let mut state = self.lock();
        let (mail, other_epoch) = state.book.take_mail(id)?;
        if other_epoch {
            state.queue.forget(id);
        }
        Some(mail)
    }

    /// The session runs and is held: what the driver remembers of it.
    pub(super) fn settle(&self, id: Uuid, session: Option<Arc<Session>>) -> Option<i64> {
        let mut state = self.lock();
        let slot = state.book.get_mut(id)?;
        slot.settled = session;
        let epoch = slot.epoch;
        drop(state);
        self.hold_changed();
        Some(epoch)
    }

    /// The session's task has ended. Returns whether another one must begin with what has come.
    pub(super) fn task_ended(&self, id: Uuid) -> bool {
        let mut state = self.lock();
        let now = state.stamp();
        let Some((ending, epoch, more)) = state.book.ended(id, now) else {
            return false;
        };
        state.queue.forget(id);
        state.remember_epoch(id, epoch);
        if ending == Some(Ending::Acknowledge) {
            state.dropped.insert(id, epoch);
            self.losses.notify_one();
        }
        if state.is_answered() {
            self.reported.notify_one();
        }
        drop(state);
        self.hold_changed();
        more
    }
}
