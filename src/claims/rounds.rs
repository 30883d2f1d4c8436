//! The rounds of a dispatcher: whom each looks at, and what becomes of it.
//!
//! One follows the other, and where there is work for many a second one runs beside it: a round waits for the
//! database most of its time, and may wait for an agent that somebody else has locked.
//!
//! Invariants:
//! - No agent is in two rounds at a time, so each is answered by one.
//! - What is remembered of queues is one round's. While there is any, rounds follow each other.
//! - To the database two rounds are as those of two servers. One of them locks heads that it does not give, and the
//!   other passes by these: what it misses so is looked for once more.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::dispatch::{Done, Round, begin, dispatch};
use super::dispatcher::{Dispatcher, MAX_ASKING};
use super::unoffer;
use crate::error::{Error, Result};
use crate::store::Db;

/// The most agents of one domain that one round looks at for its work.
const MAX_PER_DOMAIN: usize = 16;

/// So many rounds run at the same time at most.
const AT_ONCE: usize = 2;

/// So many agents or sessions must wait for a round to begin beside another: the next one serves fewer as well,
/// and with what comes meanwhile.
const BESIDE: usize = 128;

/// For so many rounds the agents to look at are put in order at once.
const ROUNDS_AHEAD: usize = 16;

/// A round, and who of its agents was asked for by name.
struct Begun {
    round: Arc<Round>,
    fresh: BTreeSet<String>,
}

/// The rounds since the last wake-up; those that run do so each in a task of its own.
#[derive(Default)]
struct Rounds {
    tasks: JoinSet<Result<Done>>,
    running: HashMap<Id, Begun>,
    /// Agents that rounds were begun with, and that are not to be looked at once more.
    tried: HashSet<String>,
    /// Whom the next ones look at for starts, in this order.
    in_line: VecDeque<String>,
    /// Whether one that gave something has left some, since nobody ran.
    left_some: bool,
    /// How many starts others did not find since then.
    missing: usize,
}

impl Rounds {
    fn begin(&mut self, db: &Db, (round, fresh): (Round, BTreeSet<String>)) {
        if self.running.is_empty() {
            // Nobody has anything locked that this one could miss.
            (self.left_some, self.missing) = (false, 0);
        }
        let (db, round) = (db.clone(), Arc::new(round));
        let of_task = Arc::clone(&round);
        let task = self.tasks.spawn(async move {
            let of_rest = Arc::clone(&of_task);
            db.write_in_flights(
                "claims::dispatch",
                move |conn| {
                    let round = Arc::clone(&of_task);
                    Box::pin(async move { begin(conn, &round).await })
                },
                move |conn, begun| {
                    let round = Arc::clone(&of_rest);
                    Box::pin(async move { dispatch(conn, &round, begun).await })
                },
            )
            .await
        });
        self.running.insert(task.id(), Begun { round, fresh });
    }

    /// The next that ends; none where none runs.
    async fn end(&mut self) -> Option<(Begun, Result<Done>)> {
        let (id, done) = match self.tasks.join_next_with_id().await? {
            Ok((id, done)) => (id, done),
            Err(error) => (error.id(), Err(Error::Internal(error.to_string()))),
        };
        self.running.remove(&id).map(|begun| (begun, done))
    }

    /// How many starts are to be looked for once more, by anybody: those that one of two rounds has missed, where the
    /// other one says that it has left some. Each time something was given, so there is an end to it.
    fn missed(&mut self, round: &Round, done: &Done) -> usize {
        if done.more_starts {
            self.left_some |= done.started > 0;
        } else {
            self.missing += round.starts.saturating_sub(done.started);
        }
        if !self.left_some || self.missing == 0 {
            return 0;
        }
        self.left_some = false;
        let running = self.running.values();
        let asking = running.flat_map(|begun| &begun.round.asking);
        self.tried = asking.map(|asking| asking.agent.clone()).collect();
        std::mem::take(&mut self.missing)
    }

    /// Whether one that runs has what is remembered of queues.
    fn remember(&self) -> bool {
        let mut running = self.running.values();
        running.any(|begun| !begun.round.memory.is_empty())
    }
}

impl Dispatcher {
    /// Runs rounds until nothing is left that could be given to anybody.
    pub(super) async fn run_rounds(&mut self) {
        let mut rounds = Rounds::default();
        let mut goes_on = true;
        loop {
            while goes_on
                && self.one_may_begin(&rounds)
                && let Some(next) = self.next_round(&mut rounds)
            {
                rounds.begin(&self.db, next);
            }
            let Some((begun, done)) = rounds.end().await else {
                break;
            };
            let tried = rounds.tried.len();
            let missed = match &done {
                Ok(done) => rounds.missed(&begun.round, done),
                Err(_) => 0,
            };
            goes_on &= self.settle_round(begun, done, tried).await;
            // After that, which forgets all that is left where this round has found no more.
            self.starts = self.starts.saturating_add(missed);
        }
    }

    fn one_may_begin(&self, rounds: &Rounds) -> bool {
        let many = self.agents.len().max(self.starts) >= BESIDE;
        let running = rounds.running.len();
        running == 0 || (running < AT_ONCE && many && self.memory.is_empty() && !rounds.remember())
    }

    /// Whom to look at next, and which of them were asked for by name.
    fn next_round(&mut self, rounds: &mut Rounds) -> Option<(Round, BTreeSet<String>)> {
        let mut chosen = BTreeSet::new();
        let mut domains = BTreeSet::new();
        while chosen.len() < MAX_ASKING
            && let Some(agent) = self.agents.pop_first()
        {
            if !self.waiters.is_there(&agent) {
                self.waiters.take(&agent);
                continue;
            }
            if let Some(waiter) = self.waiters.get_mut(&agent) {
                domains.insert(waiter.resource_domain.clone());
                chosen.insert(agent);
            }
        }
        let fresh = chosen.clone();
        for domain in std::mem::take(&mut self.domains) {
            let parked = self
                .waiters
                .of_domain(&domain, MAX_PER_DOMAIN, &rounds.tried);
            if !parked.is_empty() {
                domains.insert(domain);
                chosen.extend(parked);
            }
        }
        let looks_for_starts = self.starts > 0 && chosen.len() < MAX_ASKING;
        if looks_for_starts {
            let room = MAX_ASKING - chosen.len();
            let most = if self.selects {
                room
            } else {
                self.starts.min(room)
            };
            let all = chosen.len() + most;
            self.choose_for_starts(rounds, &mut chosen, all);
        }
        if chosen.is_empty() {
            if looks_for_starts {
                self.take_starts(usize::MAX);
            }
            return None;
        }
        rounds.tried.extend(chosen.iter().cloned());
        let asking = self.asking(&chosen);
        let limit = asking
            .iter()
            .map(|a| a.max_sessions)
            .sum::<usize>()
            .min(1_000);
        let (starts, selects) = if looks_for_starts {
            self.take_starts(limit)
        } else {
            (0, false)
        };
        Some((
            Round {
                pool: self.pool.clone(),
                due_from: self.told.due_from(&chosen, Instant::now()),
                asking,
                domains,
                limit,
                starts,
                walk: self.walk.clone(),
                memory: std::mem::take(&mut self.memory),
                around: self.watermark.around(),
                selects,
            },
            fresh,
        ))
    }

    /// Chooses further agents with a free slot, up to `most` in all. Where there is more to start, more of them are
    /// put in order than this round takes: to find the best of ten thousand takes as long for each round anew.
    fn choose_for_starts(&self, rounds: &mut Rounds, chosen: &mut BTreeSet<String>, most: usize) {
        let Rounds { tried, in_line, .. } = rounds;
        while chosen.len() < most {
            let Some(agent) = in_line.pop_front() else {
                let ahead = if self.starts > most { ROUNDS_AHEAD } else { 1 };
                let wanted = ahead * (most - chosen.len());
                let is_left_out = |agent: &str| chosen.contains(agent) || tried.contains(agent);
                let waiters = &self.waiters;
                let free = waiters.for_starts(self.placement, wanted, is_left_out);
                if free.is_empty() {
                    return;
                }
                in_line.extend(free);
                continue;
            };
            if !tried.contains(&agent) && self.waiters.could_start(&agent) {
                chosen.insert(agent);
            }
        }
    }

    /// Takes so many of the sessions that there are said to be to start, and whether some ask for labels; the
    /// others are left.
    fn take_starts(&mut self, most: usize) -> (usize, bool) {
        let (starts, selects) = (self.starts.min(most), self.selects);
        self.starts -= starts;
        self.selects &= self.starts > 0;
        (starts, selects)
    }

    /// What a round has found is told and kept; whether another one may begin. `tried` says with how many agents
    /// rounds have begun.
    async fn settle_round(&mut self, begun: Begun, done: Result<Done>, tried: usize) -> bool {
        let Begun { round, fresh } = begun;
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                self.refuse(&round, &fresh, &error);
                return false;
            }
        };
        let gave = done.verdicts.values().any(|v| !v.assignments.is_empty());
        let Done {
            verdicts,
            placement,
            started,
            more_starts,
            unsatisfied,
            walk,
            walked,
            look_again,
            seen,
            told,
            more_domains,
            hints,
        } = done;
        // The transaction is over, so nobody else has it.
        let mut round = Arc::unwrap_or_clone(round);
        if look_again {
            // What was remembered is not all there is: they are looked at again, without it.
            let asking = round.asking.iter();
            self.agents
                .extend(asking.map(|asking| asking.agent.clone()));
        } else {
            if !round.memory.is_empty() {
                self.memory = std::mem::take(&mut round.memory);
            }
            if let Some(walked) = walked {
                self.memory.keep(walked, Instant::now());
            }
        }
        self.walk = walk;
        if let (seen, Some(at)) = seen {
            self.watermark.saw(seen, at);
            self.told.told(told, at);
        }
        self.hub.committed(hints);
        self.placement = placement.unwrap_or(self.placement);
        let mut gone = Vec::new();
        for (agent, verdict) in verdicts {
            gone.extend(self.settle(&agent, verdict, fresh.contains(&agent)));
        }
        for (claim, offered) in gone {
            unoffer::take_back(&self.db, &self.hub, claim, offered).await;
        }
        // More than these agents could take: the others are looked at, each once per wake-up. What
        // nobody spoke of is not looked for: each session is announced once, and the safety poll
        // finds what was not. Others may have the labels that these have not; that is looked into where somebody
        // said so.
        if more_starts || (unsatisfied && round.selects) {
            let left = round.starts.saturating_sub(started);
            self.starts = self.starts.saturating_add(left);
            self.selects |= round.selects && self.starts > 0;
        } else if round.starts > 0 {
            // There is no more than what a round beside this one has; what that one leaves, `missed` knows of.
            self.take_starts(usize::MAX);
        }
        // What a domain's agents cannot take (no slot, cordoned, avoided) is not tried on thousands.
        if gave || tried < MAX_ASKING {
            self.domains.extend(more_domains);
        }
        true
    }
}
