//! What walks over the queues of a pool have found, for as long as looking again would cost more than
//! it tells, pure.
//!
//! A walk is a look at the index for each queue, so with a thousand owners it costs more than all the
//! rest of a round that gives out one session. What it finds changes slowly: who has something waiting,
//! and what their shares are. So rounds that want little go on with what the last walk found.
//!
//! Invariants:
//! - It says where to look and whose turn it is, never what is given: sessions are picked from their
//!   queues, locked, in the order of those.
//! - What a round gave out has moved its owners on here as well as in the tables.
//! - It is forgotten after two seconds at most, when shares are changed, and when a round did not find in it
//!   what its agents could have taken. So an owner who is new waits for others that long and no longer,
//!   and never while somebody is idle.

use std::collections::BTreeSet;
use std::time::Duration;

use lessor_protocol::Labels;
use tokio::time::Instant;

use super::Queues;

/// Fewer queues are walked over each time: that costs less than a commit does.
const WORTHWHILE: usize = 128;

/// A walk counts for so many times what it took, so that walks take a twentieth of the time at most.
const TIMES: u32 = 20;

/// For so long it counts at most.
const AT_MOST: Duration = Duration::from_secs(2);

/// A round may go on with what is remembered if that has so many queues for each session it wants. With
/// fewer it would often find too little, and look twice.
const QUEUES_EACH: usize = 4;

/// Agents of so many kinds, which differ in what they could serve, have a walk of their own.
const MAX_WALKS: usize = 8;

/// What a walk has found.
#[derive(Clone, Debug)]
pub struct Walked {
    /// On behalf of agents with these labels,
    labels: BTreeSet<Labels>,
    /// in these domains.
    domains: BTreeSet<String>,
    /// The queues that any of those could serve, and whose turn it is.
    pub queues: Queues,
    until: Instant,
}

impl Walked {
    /// Found by a walk that began and ended at these times.
    #[must_use]
    pub fn new(
        labels: &BTreeSet<&Labels>,
        domains: &BTreeSet<&str>,
        queues: Queues,
        (begun, ended): (Instant, Instant),
    ) -> Self {
        Self {
            labels: labels.iter().map(|labels| (*labels).clone()).collect(),
            domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            queues,
            until: ended + (TIMES * (ended - begun)).min(AT_MOST),
        }
    }

    fn is_for(&self, labels: &BTreeSet<&Labels>, domains: &BTreeSet<&str>) -> bool {
        labels.iter().all(|labels| self.labels.contains(*labels))
            && domains.iter().all(|domain| self.domains.contains(*domain))
    }

    fn is_for_the_same(&self, other: &Self) -> bool {
        self.labels == other.labels && self.domains == other.domains
    }
}

/// What is remembered of a pool's queues.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The newest first.
    walks: Vec<Walked>,
}

impl Memory {
    /// What a round may go on with that wants so many sessions for agents like these: what was found on
    /// behalf of such agents and perhaps others, if enough of it `is_served` by them.
    #[must_use]
    pub fn recall(
        &self,
        labels: &BTreeSet<&Labels>,
        domains: &BTreeSet<&str>,
        wanted: usize,
        is_served: impl Fn(&super::Queue) -> bool,
        now: Instant,
    ) -> Option<Walked> {
        let enough = wanted.saturating_mul(QUEUES_EACH);
        let walked = self
            .walks
            .iter()
            .find(|walked| now < walked.until && walked.is_for(labels, domains))?;
        let served = walked.queues.queues.iter().filter(|queue| is_served(queue));
        (served.take(enough).count() == enough).then(|| walked.clone())
    }

    /// Keeps what a round has found or gone on with, if it is worth it.
    pub fn keep(&mut self, mut walked: Walked, now: Instant) {
        let moved = walked.queues.turns.settle();
        self.walks
            .retain(|known| now < known.until && !known.is_for_the_same(&walked));
        if !moved.is_empty() {
            for known in &mut self.walks {
                known.queues.turns.given_elsewhere(&moved);
            }
        }
        if now < walked.until && walked.queues.queues.len() >= WORTHWHILE {
            self.walks.insert(0, walked);
            self.walks.truncate(MAX_WALKS);
        }
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.walks.is_empty()
    }

    /// Forgets all.
    pub fn forget(&mut self) {
        self.walks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Queue, Turns};
    use super::*;

    fn labels(kind: &str) -> Labels {
        Labels::from([("kind".to_owned(), kind.to_owned())])
    }

    /// A walk of a tenth of a second over queues of owners with equal shares.
    fn walked(of: &[&Labels], owners: usize, now: Instant) -> Walked {
        let mut queues = Queues {
            turns: Turns::at(0.0),
            ..Queues::default()
        };
        for n in 0..owners {
            let turn = queues.turns.join(&format!("o{n:04}"), 1.0, None);
            queues.limited.push(false);
            queues.queues.push(Queue {
                requires_key: String::new(),
                requires: Labels::new(),
                start_domain: None,
                turn,
                head: (0, chrono::DateTime::UNIX_EPOCH),
            });
        }
        let of = of.iter().copied().collect();
        let took = (now, now + Duration::from_millis(10));
        Walked::new(&of, &BTreeSet::from(["here"]), queues, took)
    }

    fn recall(memory: &Memory, of: &Labels, wanted: usize, now: Instant) -> Option<Walked> {
        let (of, here) = (BTreeSet::from([of]), BTreeSet::from(["here"]));
        memory.recall(&of, &here, wanted, |_| true, now)
    }

    #[test]
    fn it_counts_for_a_while_for_agents_like_those_it_was_found_for() {
        let (now, mut memory) = (Instant::now(), Memory::default());
        let (a, b, c) = (labels("a"), labels("b"), labels("c"));
        memory.keep(walked(&[&a, &b], 200, now), now);
        let later = now + Duration::from_millis(200);
        assert!(recall(&memory, &a, 1, later).is_some());
        assert!(recall(&memory, &b, 1, later).is_some());
        assert!(recall(&memory, &c, 1, later).is_none(), "others");
        let there = BTreeSet::from(["there"]);
        let elsewhere = memory.recall(&BTreeSet::from([&a]), &there, 1, |_| true, later);
        assert!(elsewhere.is_none(), "another domain");
        let over = now + Duration::from_millis(10) * (TIMES + 1);
        assert!(recall(&memory, &a, 1, over).is_none(), "too long ago");
        memory.forget();
        assert!(recall(&memory, &a, 1, now).is_none());
    }

    #[test]
    fn a_long_walk_counts_for_no_longer_than_others() {
        let (now, mut memory) = (Instant::now(), Memory::default());
        let a = labels("a");
        let mut long = walked(&[&a], 200, now);
        long = Walked::new(
            &BTreeSet::from([&a]),
            &BTreeSet::from(["here"]),
            std::mem::take(&mut long.queues),
            (now, now + Duration::from_secs(3)),
        );
        memory.keep(long, now);
        let end = now + Duration::from_secs(3);
        assert!(recall(&memory, &a, 1, end + AT_MOST / 2).is_some());
        assert!(recall(&memory, &a, 1, end + AT_MOST).is_none());
    }

    #[test]
    fn few_queues_are_not_remembered_and_what_wants_much_looks_itself() {
        let (now, mut memory) = (Instant::now(), Memory::default());
        let a = labels("a");
        memory.keep(walked(&[&a], WORTHWHILE - 1, now), now);
        assert!(recall(&memory, &a, 1, now).is_none());
        memory.keep(walked(&[&a], 200, now), now);
        assert!(recall(&memory, &a, 50, now).is_some());
        assert!(recall(&memory, &a, 51, now).is_none());
        // Those that none of the agents could take do not count.
        let (of, here) = (BTreeSet::from([&a]), BTreeSet::from(["here"]));
        let few = |queue: &Queue| queue.turn < 100;
        assert!(memory.recall(&of, &here, 25, few, now).is_some());
        assert!(memory.recall(&of, &here, 26, few, now).is_none());
    }

    #[test]
    fn what_is_given_moves_owners_on_in_all_that_is_remembered() {
        let (now, mut memory) = (Instant::now(), Memory::default());
        let (a, b) = (labels("a"), labels("b"));
        memory.keep(walked(&[&a], 200, now), now);
        memory.keep(walked(&[&b], 200, now), now);
        // Everybody has a turn before anybody has a second one, whichever kind of agent asks.
        let mut given = BTreeSet::new();
        for n in 0..200 {
            let kind = if n % 2 == 0 { &a } else { &b };
            let mut walked = recall(&memory, kind, 1, now).expect("remembered");
            let next = walked.queues.turns.next(|_| true).expect("somebody");
            walked.queues.turns.give(next);
            assert!(given.insert(walked.queues.turns.owner(next).to_owned()));
            memory.keep(walked, now);
        }
        assert_eq!(given.len(), 200);
    }

    #[test]
    fn agents_of_few_kinds_are_remembered_for_the_newest_of_them() {
        let (now, mut memory) = (Instant::now(), Memory::default());
        let kinds: Vec<Labels> = (0..=MAX_WALKS).map(|n| labels(&n.to_string())).collect();
        for kind in &kinds {
            memory.keep(walked(&[kind], 200, now), now);
        }
        assert!(recall(&memory, &kinds[0], 1, now).is_none());
        assert!(
            kinds[1..]
                .iter()
                .all(|k| recall(&memory, k, 1, now).is_some())
        );
    }
}
