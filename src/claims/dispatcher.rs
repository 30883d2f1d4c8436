//! One dispatcher per pool and server: answers parked claims in batches.
//!
//! Whatever arrives while rounds run (claims, wake-ups) makes the next ones (`rounds.rs`). A new session wakes
//! the dispatcher once, and the dispatcher looks only at as many agents as there is work for.
//!
//! Invariants:
//! - Register, then look: a claim is parked here before the round that looks for it begins, so no
//!   wake-up falls between.
//! - A claim that is known to have gone gets nothing; where that is learnt after the commit, the
//!   offer is taken back at once, if the agent has not claimed since.

use std::collections::BTreeSet;
use std::time::Duration;

use lessor_protocol::Placement;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dispatch::Asking;
use super::door::{Door, Inside};
use super::lone::Known;
use super::safety::{self, jittered};
use super::told::Told;
use super::waiters::{Answer, Waiter, Waiters};
use super::watermark::{Check, Watermark};
use crate::error::Error;
use crate::shares::{Memory, Walk};
use crate::store::{Company, Db};
use crate::wakeups::{Hub, PoolHint, Wake};

/// The most agents that one round locks.
pub(super) const MAX_ASKING: usize = 256;

/// The longest time between two looks at a pool that has waiters, if nothing wakes it; jittered,
/// so that servers do not look together.
const SAFETY: Duration = Duration::from_secs(5);

/// What a dispatcher works with.
pub struct Dispatcher {
    pub(super) pool: String,
    pub(super) db: Db,
    pub(super) hub: Hub,
    pub(super) waiters: Waiters,
    pub(super) placement: Placement,
    /// Agents to look at for anything they may take.
    pub(super) agents: BTreeSet<String>,
    /// Domains to look at on behalf of whoever is parked there.
    pub(super) domains: BTreeSet<String>,
    /// How many sessions there are said to be to start.
    pub(super) starts: usize,
    /// Whether some of those ask for labels, so that many agents are looked at for them.
    pub(super) selects: bool,
    /// Where the next round begins to look for queues of starts.
    pub(super) walk: Walk,
    /// What is remembered of those queues; a round that runs has it.
    pub(super) memory: Memory,
    /// What the last new session was made by, if it was offered at once.
    pub(super) known: Option<Known>,
    pub(super) told: Told,
    pub(super) watermark: Watermark,
    /// Where what is checked beside the rounds is told, and who waits for it at the end.
    checks: (mpsc::UnboundedSender<Check>, TaskTracker),
    /// Whether claims come together.
    pub(super) company: Company,
    pub(super) safety_at: Instant,
}

impl Dispatcher {
    /// The dispatcher of a pool, to be run; it ends when `stop` is cancelled, and ends its polls
    /// then.
    pub fn start(
        pool: &str,
        db: Db,
        hub: Hub,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> (Door, impl Future<Output = ()> + Send + use<>) {
        let (wake, wakes) = mpsc::unbounded_channel();
        let (check, checks) = mpsc::unbounded_channel();
        let (door, inside) = Door::new(wakes, checks);
        hub.register(pool, wake);
        let dispatcher = Self {
            pool: pool.to_owned(),
            db,
            hub,
            waiters: Waiters::default(),
            placement: Placement::Spread,
            agents: BTreeSet::new(),
            domains: BTreeSet::new(),
            starts: 0,
            selects: false,
            walk: Walk::default(),
            memory: Memory::default(),
            known: None,
            told: Told::new(Instant::now()),
            watermark: Watermark::new(Instant::now()),
            checks: (check, tasks),
            company: Company::default(),
            safety_at: Instant::now() + jittered(SAFETY),
        };
        (door, dispatcher.run(inside, stop))
    }

    async fn run(mut self, mut inside: Inside, stop: CancellationToken) {
        let mut new = Vec::new();
        let gauge = metrics::gauge!("lessor_waiters", "pool" => self.pool.clone());
        loop {
            let timer = self
                .waiters
                .next_timer()
                .map_or(self.safety_at, |at| at.min(self.safety_at));
            let idle = self.waiters.len() == 0;
            inside.set_open(self.waiters.any_for_starts());
            tokio::select! {
                () = stop.cancelled() => break,
                waiter = inside.parked.recv() => match waiter {
                    Some(waiter) => self.park(waiter),
                    None => break,
                },
                wake = inside.wakes.recv() => match wake {
                    Some(wake) => self.wake(wake),
                    None => break,
                },
                Some(check) = inside.checks.recv() => self.checked(check),
                newcomer = inside.newcomers.recv() => new.extend(newcomer),
                () = tokio::time::sleep_until(timer), if !idle => {}
            }
            // Until it is idle again, sessions are created without it.
            inside.set_open(false);
            self.gather(&mut inside, &mut new).await;
            // Once, so that whatever else there is to do has its turn.
            self.take_in(std::mem::take(&mut new)).await;
            self.look().await;
            #[allow(clippy::cast_precision_loss, reason = "a gauge")]
            gauge.set(self.waiters.len() as f64);
        }
        // Parked polls end with 200 and empty lists; whoever comes later is told to go elsewhere.
        inside.set_open(false);
        inside.newcomers.close();
        while let Ok(newcomer) = inside.newcomers.try_recv() {
            newcomer.not_now();
        }
        inside.parked.close();
        self.park_all(&mut inside);
        self.end_polls();
        gauge.set(0.0);
        self.hub.unregister(&self.pool);
    }

    pub(super) fn park(&mut self, waiter: Waiter) {
        self.agents.insert(waiter.agent.clone());
        if let Some(older) = self.waiters.park(waiter) {
            let agent = older.agent;
            let _ = older.reply.send(Err(Error::ClaimSuperseded(agent)));
        }
    }

    pub(super) fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::Hint(PoolHint {
                starts,
                selects,
                domains,
                agents,
                oldest,
            }) => {
                if let Some(oldest) = oldest {
                    self.watermark.fall(oldest);
                }
                if starts == u32::MAX {
                    // More than a number can say: also what shares there are may have changed.
                    self.memory.forget();
                }
                self.selects |= selects;
                self.starts = self.starts.saturating_add(starts as usize);
                self.domains.extend(domains);
                self.agents.extend(agents);
            }
            Wake::Everything => {
                self.watermark.forget();
                self.memory.forget();
                self.told.forget();
                self.safety_at = Instant::now();
            }
            Wake::EndPolls => self.end_polls(),
        }
    }

    /// Runs rounds until nothing is left that could be given to anybody.
    async fn look(&mut self) {
        let now = Instant::now();
        self.watermark.forget_the_stale(now);
        self.check_below(now);
        let mut overdue = Vec::new();
        for agent in self.waiters.due(now) {
            match self.waiters.get(&agent) {
                // Its time is over: it is answered without another look at the database, unless it
                // has just come.
                Some(waiter) if waiter.deadline <= now && !self.agents.contains(&agent) => {
                    overdue.push(agent)
                }
                Some(_) => {
                    self.agents.insert(agent);
                }
                None => {}
            }
        }
        if self.safety_at <= now {
            self.safety_at = now + jittered(SAFETY);
            self.look_for_missed().await;
        }
        self.run_rounds().await;
        for agent in overdue {
            if let Some(waiter) = self.waiters.take(&agent) {
                let _ = waiter.reply.send(Ok(Answer::default()));
            }
        }
    }

    /// A safety poll: one query that says where a notification may have been lost.
    async fn look_for_missed(&mut self) {
        self.waiters.forget_the_gone();
        if self.waiters.len() == 0 {
            return;
        }
        let pool = self.pool.clone();
        let (agents, around) = (self.waiters.agents(), self.watermark.around());
        let found = self
            .db
            .read("claims::safety", |conn| {
                Box::pin(safety::look(conn, pool, agents, around))
            })
            .await;
        match found {
            Ok(found) => {
                if found.starts {
                    // How many is not known: as many as can be given out.
                    self.memory.forget();
                    self.starts = usize::MAX;
                    self.selects = true;
                }
                self.domains.extend(found.domains);
                for (agent, claim_number) in found.standing {
                    let older = self
                        .waiters
                        .get_mut(&agent)
                        .is_some_and(|w| claim_number != Some(w.claim_number));
                    if older {
                        self.agents.insert(agent);
                    }
                }
            }
            Err(error) => tracing::debug!(pool = self.pool, %error, "the safety poll failed"),
        }
    }

    /// What is below the watermark is looked at beside the rounds, since that may take long.
    fn check_below(&mut self, now: Instant) {
        let Some(spent) = self.watermark.check_now(now) else {
            return;
        };
        let (db, pool) = (self.db.clone(), self.pool.clone());
        let (tell, tasks) = &self.checks;
        let tell = tell.clone();
        tasks.spawn(async move {
            // The dispatcher may have ended meanwhile.
            let _ = tell.send(safety::below(&db, pool, spent).await);
        });
    }

    fn checked(&mut self, check: Check) {
        self.watermark.checked(Instant::now(), &check);
        if let Ok(Some(_)) = check.found {
            self.starts = usize::MAX;
            self.selects = true;
        }
    }

    /// What these agents' claims ask for.
    pub(super) fn asking<'a>(&self, agents: impl IntoIterator<Item = &'a String>) -> Vec<Asking> {
        agents
            .into_iter()
            .filter_map(|agent| self.waiters.get(agent))
            .map(|w| Asking {
                agent: w.agent.clone(),
                incarnation: w.incarnation,
                claim_number: w.claim_number,
                max_sessions: w.max_sessions,
            })
            .collect()
    }
}
