//! Reports that have not been answered yet.
//!
//! Invariants: at most one report of a session is under way, so a session's reports arrive in
//! order; at most one more waits behind it, into which later ones are merged (a field left out of a
//! report means "unchanged", so merging loses nothing but states that nobody needs any more); no
//! report is forgotten before it is answered or its session is.

use std::collections::{BTreeMap, HashMap};

use lessor_protocol::{Outcome, Report, ReportCode};
use tokio::sync::oneshot;
use uuid::Uuid;

/// How many reports a call may carry, as the protocol says.
pub(super) const MAX_REPORTS: usize = 1000;
/// Bodies end at 8 MiB; half of it leaves room for escapes.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// What became of a report. If its session was forgotten first, there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    pub(super) code: Option<ReportCode>,
}

impl Answer {
    pub(super) fn accepted(self) -> bool {
        self.outcome == Outcome::Accepted
    }

    /// Whether it means that this agent does not hold the session under that epoch.
    pub(super) fn fenced(self) -> bool {
        self.outcome == Outcome::Fenced
            || matches!(
                self.code,
                Some(
                    ReportCode::LeaseEpochStale
                        | ReportCode::NotAssigned
                        | ReportCode::SessionNotFound
                )
            )
    }
}

#[derive(Debug)]
struct Pending {
    order: u64,
    report: Report,
    waiters: Vec<oneshot::Sender<Answer>>,
}

impl Pending {
    /// Puts a later report in the place of this one.
    fn replace(&mut self, mut later: Report, waiter: oneshot::Sender<Answer>) {
        if later.lease_epoch == self.report.lease_epoch {
            let earlier = &mut self.report;
            later.platform_resource_id = later
                .platform_resource_id
                .or(earlier.platform_resource_id.take());
            later.platform_metadata = later.platform_metadata.or(earlier.platform_metadata.take());
            later.endpoint = later.endpoint.or(earlier.endpoint.take());
        } else {
            // Under another epoch it is another assignment: nobody waits for the old word.
            self.waiters.clear();
        }
        self.report = later;
        self.waiters.push(waiter);
    }
}

#[derive(Debug, Default)]
struct Lane {
    sent: Option<Pending>,
    unsent: Option<Pending>,
}

/// The reports of all sessions.
#[derive(Debug, Default)]
pub(super) struct ReportQueue {
    lanes: HashMap<Uuid, Lane>,
    /// Sessions with a report that can be sent now, first come first.
    ready: BTreeMap<u64, Uuid>,
    last_order: u64,
}

impl ReportQueue {
    /// Adds a report; what becomes of it arrives on the returned channel.
    pub(super) fn push(&mut self, report: Report) -> oneshot::Receiver<Answer> {
        let (waiter, answer) = oneshot::channel();
        let id = report.session_id;
        let lane = self.lanes.entry(id).or_default();
        if let Some(unsent) = &mut lane.unsent {
            unsent.replace(report, waiter);
        } else {
            self.last_order += 1;
            let order = self.last_order;
            lane.unsent = Some(Pending {
                order,
                report,
                waiters: vec![waiter],
            });
            if lane.sent.is_none() {
                self.ready.insert(order, id);
            }
        }
        answer
    }

    /// Whether a report of the session has not been answered.
    pub(super) fn has(&self, id: Uuid) -> bool {
        self.lanes.contains_key(&id)
    }

    /// Whether there is something to send.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether nothing waits for an answer.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Takes reports to send in one call: oldest first, within the call's limits.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut bytes = 0;
        while reports.len() < limit {
            let Some((&order, &id)) = self.ready.first_key_value() else {
                break;
            };
            let Some(lane) = self.lanes.get_mut(&id) else {
                self.ready.remove(&order);
                continue;
            };
            let size = lane
                .unsent
                .as_ref()
                .map_or(0, |pending| size(&pending.report));
            if bytes + size > MAX_BYTES && !reports.is_empty() {
                break;
            }
            bytes += size;
            self.ready.remove(&order);
            lane.sent = lane.unsent.take();
            reports.extend(lane.sent.as_ref().map(|pending| pending.report.clone()));
        }
        reports
    }

    /// A report that was under way has been answered. Returns it.
    pub(super) fn answered(&mut self, id: Uuid, answer: Answer) -> Option<Report> {
        let lane = self.lanes.get_mut(&id)?;
        let sent = lane.sent.take()?;
        match &lane.unsent {
            Some(next) => drop(self.ready.insert(next.order, id)),
            None => drop(self.lanes.remove(&id)),
        }
        for waiter in sent.waiters {
            // Whoever asked may have been cancelled since.
            let _ = waiter.send(answer);
        }
        Some(sent.report)
    }

    /// What was under way was not answered: it will be sent again, in its old place.
    pub(super) fn put_back(&mut self) {
        for (&id, lane) in &mut self.lanes {
            let Some(mut sent) = lane.sent.take() else {
                continue;
            };
            if let Some(next) = lane.unsent.take() {
                self.ready.remove(&next.order);
                let same_epoch = next.report.lease_epoch == sent.report.lease_epoch;
                let (ours, _) = oneshot::channel();
                sent.replace(next.report, ours);
                if !same_epoch {
                    sent.waiters.clear();
                }
                sent.waiters.extend(next.waiters);
            }
            self.ready.insert(sent.order, id);
            lane.unsent = Some(sent);
        }
    }

    /// The session is held under another epoch now. Only while nothing is under way.
    pub(super) fn rewrite_epoch(&mut self, id: Uuid, lease_epoch: i64) {
        if let Some(Pending { report, .. }) = self
            .lanes
            .get_mut(&id)
            .and_then(|lane| lane.unsent.as_mut())
        {
            report.lease_epoch = lease_epoch;
        }
    }

    /// Forgets the session's reports; whoever waits for an answer learns that there is none.
    pub(super) fn forget(&mut self, id: Uuid) {
        if let Some(Lane {
            unsent: Some(unsent),
            ..
        }) = self.lanes.remove(&id)
        {
            self.ready.remove(&unsent.order);
        }
    }
}

/// About what it takes in a body.
fn size(report: &Report) -> usize {
    let text = |text: &Option<Option<String>>| {
        text.as_ref()
            .and_then(Option::as_ref)
            .map_or(0, String::len)
    };
    let metadata = report.platform_metadata.as_ref().and_then(Option::as_ref);
    let failure = report.failure.as_ref().and_then(Option::as_ref);
    512 + text(&report.platform_resource_id)
        + metadata.map_or(0, |json| json.get().len())
        + failure.map_or(0, |failure| failure.message.len())
}

#[cfg(test)]
mod tests {
    use lessor_protocol::{HeldSession, ReportedState};

    use super::*;

    const ACCEPTED: Answer = Answer {
        outcome: Outcome::Accepted,
        code: None,
    };

    fn report(n: u128, epoch: i64, state: ReportedState) -> Report {
        let held = HeldSession {
            session_id: Uuid::from_u128(n),
            lease_epoch: epoch,
        };
        Report::of(held, 1, state)
    }

    fn states(reports: &[Report]) -> Vec<(u128, &'static str)> {
        reports
            .iter()
            .map(|r| (r.session_id.as_u128(), r.state.as_str()))
            .collect()
    }

    #[test]
    fn one_under_way_per_session_and_later_ones_replace_the_unsent() {
        let mut queue = ReportQueue::default();
        drop(queue.push(report(1, 1, ReportedState::Starting)));
        drop(queue.push(report(2, 1, ReportedState::Starting)));
        assert_eq!(states(&queue.take(10)), [(1, "starting"), (2, "starting")]);

        let mut running = report(1, 1, ReportedState::Running);
        running.platform_resource_id = Some(Some("p".into()));
        let mut first = queue.push(running);
        let mut second = queue.push(report(1, 1, ReportedState::Terminated));
        assert!(!queue.is_ready(), "1 is under way");

        assert!(queue.answered(Uuid::from_u128(1), ACCEPTED).is_some());
        let sent = queue.take(10);
        assert_eq!(states(&sent), [(1, "terminated")]);
        assert_eq!(
            sent[0].platform_resource_id,
            Some(Some("p".into())),
            "nothing is lost"
        );
        queue.answered(Uuid::from_u128(1), ACCEPTED);
        assert_eq!(
            (first.try_recv(), second.try_recv()),
            (Ok(ACCEPTED), Ok(ACCEPTED))
        );
        queue.answered(Uuid::from_u128(2), ACCEPTED);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_was_not_answered_is_sent_again_in_its_place() {
        let mut queue = ReportQueue::default();
        let mut starting = queue.push(report(1, 1, ReportedState::Starting));
        drop(queue.push(report(2, 1, ReportedState::Running)));
        assert_eq!(queue.take(1).len(), 1);
        let mut running = queue.push(report(1, 1, ReportedState::Running));
        queue.put_back();
        assert_eq!(states(&queue.take(10)), [(1, "running"), (2, "running")]);
        queue.answered(Uuid::from_u128(1), ACCEPTED);
        assert_eq!(
            (starting.try_recv(), running.try_recv()),
            (Ok(ACCEPTED), Ok(ACCEPTED))
        );
    }

    #[test]
    fn another_epoch_is_another_assignment() {
        let mut queue = ReportQueue::default();
        let mut old = queue.push(report(1, 1, ReportedState::Running));
        drop(queue.push(report(1, 2, ReportedState::Running)));
        assert_eq!(old.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        queue.rewrite_epoch(Uuid::from_u128(1), 7);
        assert_eq!(queue.take(10)[0].lease_epoch, 7);
        queue.forget(Uuid::from_u128(1));
        assert!(queue.is_empty() && !queue.is_ready());
    }

    #[test]
    fn a_call_stays_within_its_limits() {
        let mut queue = ReportQueue::default();
        for n in 0..2500 {
            drop(queue.push(report(n, 1, ReportedState::Running)));
        }
        let sizes: Vec<_> = std::iter::from_fn(|| {
            let taken = queue.take(MAX_REPORTS).len();
            (taken > 0).then_some(taken)
        })
        .collect();
        assert_eq!(sizes, [1000, 1000, 500]);
    }
}
