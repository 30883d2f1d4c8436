//! The table of sessions in hand: what each assignment, loss and registration means for them. Pure:
//! it decides, and others act.
//!
//! Every request and arrival is numbered by one counter of the process. The number tells an answer
//! that was overtaken (a poll answered before our report arrived, a `lost` older than the
//! assignment it seems to end) from one that must be heeded.

use std::collections::HashMap;
use std::sync::Arc;

use lessor_protocol::{Action, Assignment, HeldSession, InventoryResource, ReportedState, Session};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Why a session's task must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its hold has ended, or it was fenced.
    Forget,
    /// As `Forget`, and the service waits to hear that nobody acts on it any more.
    Acknowledge,
}

/// A session in hand.
#[derive(Debug)]
pub(super) struct Slot {
    /// The epoch and generation that reports carry now.
    pub(super) epoch: i64,
    pub(super) generation: i64,
    /// Whether a report under this epoch has been accepted: a hold, not an offer.
    pub(super) held: bool,
    /// The newest accepted report, and when it was known to be accepted.
    acknowledged: Option<(i64, i64, u64)>,
    /// What was last reported under this epoch, answered or not.
    pub(super) last: Option<ReportedState>,
    /// The newest assignment that arrived; no action for a session found at the start.
    newest: (i64, i64, Option<Action>),
    arrived: u64,
    /// An assignment that its task has not looked at.
    mailbox: Option<Assignment>,
    /// Rung when something is put into the mailbox.
    pub(super) bell: Arc<Notify>,
    /// Ends its task.
    pub(super) cancel: CancellationToken,
    /// Why its task must end, if it must.
    pub(super) ending: Option<Ending>,
    /// The attempt that it is at, and its resource, once that was reported.
    pub(super) attempt: i32,
    pub(super) resource: Option<String>,
    /// Set while the driver remembers it as held and running.
    pub(super) settled: Option<Arc<Session>>,
}

/// What an assignment that arrived means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is for a session that is not in hand: begin a task with what is in the mailbox.
    New,
    /// It is newer than what is in hand: it lies in the mailbox.
    Mailed,
    /// It is in hand, but the service has not heard so: report the present state again.
    Repeat(ReportedState),
    /// It is in hand already, or has been overtaken.
    Known,
}

/// All sessions in hand.
#[derive(Debug, Default)]
pub(super) struct Book {
    slots: HashMap<Uuid, Slot>,
}

impl Slot {
    fn new(epoch: i64, generation: i64, action: Option<Action>, arrived: u64) -> Self {
        Self {
            epoch,
            generation,
            held: false,
            acknowledged: None,
            last: None,
            newest: (epoch, generation, action),
            arrived,
            mailbox: None,
            bell: Arc::default(),
            cancel: CancellationToken::new(),
            ending: None,
            attempt: i32::MIN,
            resource: None,
            settled: None,
        }
    }

    pub(super) fn key(&self, session_id: Uuid) -> HeldSession {
        HeldSession {
            session_id,
            lease_epoch: self.epoch,
        }
    }

    pub(super) fn has_mail(&self) -> bool {
        self.mailbox.is_some()
    }

    pub(super) fn has_newer_epoch(&self) -> bool {
        self.mailbox
            .as_ref()
            .is_some_and(|mail| mail.lease_epoch > self.epoch)
    }
}

impl Book {
    pub(super) fn get(&self, id: Uuid) -> Option<&Slot> {
        self.slots.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: Uuid) -> Option<&mut Slot> {
        self.slots.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Uuid, &Slot)> {
        self.slots.iter().map(|(&id, slot)| (id, slot))
    }

    /// Whether this may be what a session in hand runs as: then it is not for anybody to delete.
    pub(super) fn may_be_in_hand(&self, resource: &InventoryResource) -> bool {
        let name = &resource.platform_resource_id;
        self.iter().any(|(id, slot)| {
            let named = slot.resource.as_ref() == Some(name)
                || slot
                    .mailbox
                    .as_ref()
                    .is_some_and(|mail| mail.session.platform_resource_id.as_ref() == Some(name));
            let labelled = resource.session_id == Some(id)
                && resource
                    .attempt
                    .is_none_or(|attempt| attempt >= slot.attempt);
            named || labelled
        })
    }

    /// What the agent holds, for a registration.
    pub(super) fn held(&self) -> Vec<HeldSession> {
        let held = self
            .iter()
            .filter(|(_, slot)| slot.held && slot.ending.is_none());
        held.map(|(id, slot)| slot.key(id)).collect()
    }

    /// An assignment came with the answer to the request numbered `asked`; `queued` says whether a
    /// report of the session waits for an answer.
    pub(super) fn arrive(
        &mut self,
        assignment: Assignment,
        asked: u64,
        now: u64,
        queued: bool,
    ) -> Arrival {
        let Assignment {
            lease_epoch: epoch,
            generation,
            action,
            ..
        } = assignment;
        let id = assignment.session.id;
        let Some(slot) = self.slots.get_mut(&id) else {
            let mut slot = Slot::new(epoch, generation, Some(action), now);
            slot.mailbox = Some(assignment);
            self.slots.insert(id, slot);
            return Arrival::New;
        };
        let newer = (epoch, generation) > (slot.newest.0, slot.newest.1);
        let same = (epoch, generation) == (slot.newest.0, slot.newest.1);
        // One epoch and generation can call for another action as the state moves on.
        let other_action = same && slot.newest.2 != Some(action) && !answered_since(slot, asked);
        if newer || other_action || (same && slot.ending.is_some()) {
            slot.newest = (epoch, generation, Some(action));
            slot.arrived = now;
            slot.mailbox = Some(assignment);
            slot.bell.notify_one();
            return Arrival::Mailed;
        }
        match slot.last {
            Some(state) if same && !queued && !slot.has_mail() && !answered_since(slot, asked) => {
                Arrival::Repeat(state)
            }
            _ => Arrival::Known,
        }
    }

    /// A session that the driver found at the start and the service let us keep: held and running.
    pub(super) fn keep(&mut self, session: &Session, now: u64) {
        let mut slot = Slot::new(session.lease_epoch, session.generation, None, now);
        slot.attempt = session.attempt;
        slot.resource.clone_from(&session.platform_resource_id);
        slot.held = true;
        slot.last = Some(ReportedState::Running);
        self.slots.insert(session.id, slot);
    }

    /// A session in hand is held under another epoch from now on.
    pub(super) fn change_epoch(&mut self, id: Uuid, epoch: i64) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.epoch = epoch;
        slot.newest.0 = epoch;
        if let Some(mail) = &mut slot.mailbox {
            mail.lease_epoch = epoch;
            mail.session.lease_epoch = epoch;
        }
    }

    /// The task takes its mail; its reports are under that assignment from now on. The flag says
    /// whether the epoch is another one, so that older reports are void.
    pub(super) fn take_mail(&mut self, id: Uuid) -> Option<(Assignment, bool)> {
        let slot = self.slots.get_mut(&id)?;
        let mail = slot.mailbox.take()?;
        let other_epoch = slot.epoch != mail.lease_epoch;
        if other_epoch {
            slot.held = false;
            slot.last = None;
        }
        (slot.epoch, slot.generation) = (mail.lease_epoch, mail.generation);
        slot.attempt = mail.session.attempt;
        slot.resource.clone_from(&mail.session.platform_resource_id);
        Some((mail, other_epoch))
    }

    /// A report under this epoch and generation was accepted.
    pub(super) fn accepted(&mut self, id: Uuid, epoch: i64, generation: i64, now: u64) {
        if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.epoch == epoch) {
            slot.held = true;
            slot.acknowledged = Some((epoch, generation, now));
        }
    }

    /// The assignment in hand was refused. If it comes again, it is to be looked at again.
    pub(super) fn refused(&mut self, id: Uuid) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.newest = (slot.epoch, i64::MIN, None);
        }
    }

    /// The service took the session away, in the answer to the request numbered `asked`. Returns
    /// whether it is in hand; its task has been told to end.
    pub(super) fn lose(&mut self, id: Uuid, asked: u64) -> bool {
        match self.slots.get_mut(&id) {
            // The assignment is newer than the question: the next answer repeats it if it is true.
            Some(slot) if slot.arrived > asked => true,
            Some(_) => {
                self.end(id, Ending::Acknowledge);
                true
            }
            None => false,
        }
    }

    /// A report under this epoch was fenced. Nothing happens if a newer epoch is in hand.
    pub(super) fn fence(&mut self, id: Uuid, epoch: i64) {
        if let Some(slot) = self.slots.get(&id)
            && slot.epoch == epoch
            // The task itself goes on with a newer assignment.
            && !slot.has_newer_epoch()
        {
            self.end(id, Ending::Forget);
        }
    }

    /// Tells a session's task to end.
    pub(super) fn end(&mut self, id: Uuid, ending: Ending) {
        if let Some(slot) = self.slots.get_mut(&id) {
            if slot.ending != Some(Ending::Acknowledge) {
                slot.ending = Some(ending);
            }
            // What lies there belongs to what has ended, unless it is a newer assignment.
            if slot
                .mailbox
                .as_ref()
                .is_some_and(|mail| mail.lease_epoch <= slot.epoch)
            {
                slot.mailbox = None;
            }
            slot.cancel.cancel();
        }
    }

    /// The session's task has ended: the slot goes, and if something newer came in the meantime a
    /// new one takes its place. Returns how it ended, under which epoch, and whether there is more.
    pub(super) fn ended(&mut self, id: Uuid, now: u64) -> Option<(Option<Ending>, i64, bool)> {
        let slot = self.slots.remove(&id)?;
        let newer = slot.mailbox.filter(|mail| mail.lease_epoch > slot.epoch);
        let more = newer.is_some();
        if let Some(mail) = newer {
            let mut next = Slot::new(mail.lease_epoch, mail.generation, Some(mail.action), now);
            next.mailbox = Some(mail);
            self.slots.insert(id, next);
        }
        Some((slot.ending, slot.epoch, more))
    }
}

/// Whether the service has learnt of the newest assignment's acceptance since it was asked.
fn answered_since(slot: &Slot, asked: u64) -> bool {
    slot.acknowledged.is_some_and(|(epoch, generation, at)| {
        (epoch, generation) == (slot.newest.0, slot.newest.1) && at > asked
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_loop::fake::session;

    fn assignment(epoch: i64, generation: i64, action: Action) -> Assignment {
        let session = session(1, generation);
        Assignment {
            session,
            action,
            lease_epoch: epoch,
            generation,
            offered_until: None,
        }
    }

    const ID: Uuid = Uuid::from_u128(1);

    /// A session that was assigned at 2, in answer to a question of 1, and accepted at 5.
    fn accepted() -> Book {
        let mut book = Book::default();
        let first = book.arrive(assignment(3, 1, Action::Start), 1, 2, false);
        assert_eq!(first, Arrival::New);
        assert!(book.take_mail(ID).is_some());
        if let Some(slot) = book.get_mut(ID) {
            slot.last = Some(ReportedState::Starting);
        }
        book.accepted(ID, 3, 1, 5);
        book
    }

    #[test]
    fn what_an_arrival_means() {
        use Action::{Adopt, Start, Terminate};
        let repeat = Arrival::Repeat(ReportedState::Starting);
        // (epoch, generation, action, asked at, a report is queued, means)
        let cases = [
            (3, 1, Start, 4, false, Arrival::Known), // asked before the service had heard
            (3, 1, Start, 6, true, Arrival::Known),  // what it waits for is on its way
            (3, 1, Start, 6, false, repeat),         // it asks again although it was told
            (3, 1, Terminate, 4, false, Arrival::Known),
            (3, 1, Terminate, 6, false, Arrival::Mailed),
            (3, 2, Terminate, 4, false, Arrival::Mailed),
            (4, 1, Adopt, 4, false, Arrival::Mailed),
            (2, 9, Terminate, 6, false, Arrival::Known), // an older epoch
            (3, 0, Terminate, 6, false, Arrival::Known), // an older generation
        ];
        for (epoch, generation, action, asked, queued, means) in cases {
            let arrival =
                accepted().arrive(assignment(epoch, generation, action), asked, 7, queued);
            assert_eq!(
                arrival, means,
                "{epoch} {generation} {action} asked at {asked}"
            );
        }
    }

    #[test]
    fn a_loss_older_than_the_assignment_is_not_heeded() {
        let mut book = accepted();
        assert!(book.lose(ID, 1) && book.get(ID).is_some_and(|slot| !slot.cancel.is_cancelled()));
        assert!(book.lose(ID, 3) && book.get(ID).is_some_and(|slot| slot.cancel.is_cancelled()));
        assert!(book.held().is_empty());
        assert_eq!(
            book.ended(ID, 9),
            Some((Some(Ending::Acknowledge), 3, false))
        );
        assert!(!book.lose(ID, 9), "not in hand");
    }

    #[test]
    fn only_the_epoch_in_hand_can_be_fenced_and_newer_work_goes_on() {
        let mut book = accepted();
        book.fence(ID, 2);
        assert_eq!(book.held().len(), 1);
        book.arrive(assignment(4, 1, Action::Adopt), 6, 7, false);
        book.fence(ID, 3);
        assert!(
            book.get(ID).is_some_and(|slot| slot.ending.is_none()),
            "its task takes the new one"
        );
        book.end(ID, Ending::Forget);
        assert_eq!(
            book.ended(ID, 9),
            Some((Some(Ending::Forget), 3, true)),
            "and so does the next"
        );
        assert!(book.take_mail(ID).is_some());
        assert!(book.held().is_empty(), "an offer is no hold");
    }

    #[test]
    fn a_new_epoch_from_a_registration_needs_to_be_told_again() {
        let mut book = accepted();
        book.change_epoch(ID, 8);
        assert_eq!(book.held()[0].lease_epoch, 8);
        let again = book.arrive(assignment(8, 1, Action::Start), 6, 7, false);
        assert_eq!(again, Arrival::Repeat(ReportedState::Starting));
    }
}
