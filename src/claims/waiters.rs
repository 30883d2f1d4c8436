//! Parked polls of one pool on this server: in memory, without a transaction or a connection.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use lessor_protocol::{Assignment, Command, Placement, Scheduling};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::placement::compare_utilisation;
use crate::error::Result;

/// What a parked claim is answered with.
#[derive(Debug, Default)]
pub struct Answer {
    /// What to do.
    pub assignments: Vec<Assignment>,
    /// Whether the agent is given new sessions, where the dispatcher has seen its row.
    pub scheduling: Option<Scheduling>,
    /// Commands for what it holds.
    pub commands: Vec<Command>,
    /// Sessions that were taken from it, likewise.
    pub lost: Option<Vec<Uuid>>,
}

/// A claim that waits for work.
#[derive(Debug)]
pub struct Waiter {
    /// The agent.
    pub agent: String,
    /// Its incarnation.
    pub incarnation: i64,
    /// The number of this claim.
    pub claim_number: i64,
    /// Its domain.
    pub resource_domain: String,
    /// How many sessions it takes.
    pub max_sessions: usize,
    /// Whether it is given new sessions, as far as it knows.
    pub scheduling: Scheduling,
    /// What it has been told was taken from it.
    pub lost: Vec<Uuid>,
    /// Its slots, as last seen; an estimate that only decides whom to look at first.
    pub capacity: i32,
    /// Those in use, likewise.
    pub slots_used: i32,
    /// It is offered nothing new before this, likewise.
    pub passed_over_until: Option<Instant>,
    /// When it is answered in any case; at once after the first look, where it does not wait.
    pub deadline: Instant,
    /// Where it is answered.
    pub reply: oneshot::Sender<Result<Answer>>,
}

impl Waiter {
    /// Whether it could be given something to start, and its client is still there, as far as is known.
    fn could_start(&self) -> bool {
        self.is_open()
            && self.max_sessions > 0
            && self.slots_used < self.capacity
            && !self.reply.is_closed()
    }

    fn is_open(&self) -> bool {
        self.scheduling == Scheduling::Active
            && self
                .passed_over_until
                .is_none_or(|until| until <= Instant::now())
    }
}

/// All of a pool's, with what wakes them.
#[derive(Debug, Default)]
pub struct Waiters {
    by_agent: HashMap<String, Waiter>,
    /// By moment: deadlines and times to look again. May name what has gone.
    timers: BTreeMap<Instant, BTreeSet<String>>,
}

impl Waiters {
    /// Parks a claim; an older one of the same agent is handed back.
    pub fn park(&mut self, waiter: Waiter) -> Option<Waiter> {
        self.look_again(&waiter.agent, waiter.deadline);
        self.by_agent.insert(waiter.agent.clone(), waiter)
    }

    /// Takes a claim out, to answer it.
    pub fn take(&mut self, agent: &str) -> Option<Waiter> {
        self.by_agent.remove(agent)
    }

    /// A parked claim, to look at.
    pub fn get(&self, agent: &str) -> Option<&Waiter> {
        self.by_agent.get(agent)
    }

    /// A parked claim.
    pub fn get_mut(&mut self, agent: &str) -> Option<&mut Waiter> {
        self.by_agent.get_mut(agent)
    }

    /// Whether this agent has a parked claim whose client is still there, as far as is known.
    pub fn is_there(&self, agent: &str) -> bool {
        self.by_agent
            .get(agent)
            .is_some_and(|waiter| !waiter.reply.is_closed())
    }

    /// Forgets the claims whose clients have hung up, which nobody would answer before their time
    /// is over.
    pub fn forget_the_gone(&mut self) {
        self.by_agent.retain(|_, waiter| !waiter.reply.is_closed());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_agent.len()
    }

    /// Every agent that has one.
    pub fn agents(&self) -> Vec<String> {
        self.by_agent.keys().cloned().collect()
    }

    /// Every one of them, to end them all.
    pub fn drain(&mut self) -> Vec<Waiter> {
        self.timers.clear();
        self.by_agent.drain().map(|(_, waiter)| waiter).collect()
    }

    /// Asks for this agent to be looked at again at a moment.
    pub fn look_again(&mut self, agent: &str, at: Instant) {
        self.timers.entry(at).or_default().insert(agent.to_owned());
    }

    /// The next moment at which something is due.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.keys().next().copied()
    }

    /// The agents whose time has come.
    pub fn due(&mut self, now: Instant) -> BTreeSet<String> {
        let later = self.timers.split_off(&(now + Duration::from_nanos(1)));
        let due = std::mem::replace(&mut self.timers, later);
        due.into_values().flatten().collect()
    }

    /// Whether anybody has a free slot, as far as is known.
    pub fn any_for_starts(&self) -> bool {
        self.by_agent.values().any(Waiter::could_start)
    }

    /// Whether this agent has one, and its client is still there, as far as is known.
    pub fn could_start(&self, agent: &str) -> bool {
        self.by_agent.get(agent).is_some_and(Waiter::could_start)
    }

    /// Those with a free slot that are not left out, in the order in which the pool's placement prefers them.
    pub fn for_starts(
        &self,
        placement: Placement,
        most: usize,
        is_left_out: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut free: Vec<&Waiter> = self
            .by_agent
            .values()
            .filter(|w| w.could_start() && !is_left_out(&w.agent))
            .collect();
        let order = |a: &&Waiter, b: &&Waiter| {
            let by = compare_utilisation((a.slots_used, a.capacity), (b.slots_used, b.capacity));
            let by = if placement == Placement::Pack {
                by.reverse()
            } else {
                by
            };
            by.then_with(|| a.agent.cmp(&b.agent))
        };
        if free.len() > most && most > 0 {
            free.select_nth_unstable_by(most - 1, order);
            free.truncate(most);
        }
        free.sort_unstable_by(order);
        free.into_iter()
            .map(|waiter| waiter.agent.clone())
            .collect()
    }

    /// Those of a domain, least utilised first; last those that are given nothing new.
    pub fn of_domain(&self, domain: &str, most: usize, but: &HashSet<String>) -> Vec<String> {
        let mut found: Vec<&Waiter> = self
            .by_agent
            .values()
            .filter(|w| w.resource_domain == domain && w.max_sessions > 0)
            .filter(|w| !w.reply.is_closed() && !but.contains(&w.agent))
            .collect();
        found.sort_unstable_by(|a, b| {
            b.is_open()
                .cmp(&a.is_open())
                .then_with(|| {
                    compare_utilisation((a.slots_used, a.capacity), (b.slots_used, b.capacity))
                })
                .then_with(|| a.agent.cmp(&b.agent))
        });
        // A cordoned agent may see to ends, but only if it is the only one there.
        if found.len() > 1 {
            found.retain(|waiter| waiter.scheduling == Scheduling::Active);
        }
        found.truncate(most);
        found
            .into_iter()
            .map(|waiter| waiter.agent.clone())
            .collect()
    }
}
