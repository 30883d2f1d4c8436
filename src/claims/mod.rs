//! Claims: how agents get work.
//!
//! A claim renews the lease and raises the agent's claim number, then its reports and
//! acknowledgments are handled, then it is parked with the dispatcher of its pool, which answers it
//! at once if there is work and otherwise when there is, or when its time is over.
//!
//! Invariants:
//! - Only the waiter with the agent's newest claim number is given work, on any server.
//! - A parked claim holds no connection and no transaction.
//! - What writes runs in a task of its own: a client that hangs up stops only the waiting.

mod answer;
mod dispatch;
mod dispatcher;
mod door;
mod give;
pub mod http;
mod intake;
mod lines;
mod lone;
mod newcomers;
mod placement;
mod rounds;
mod safety;
mod starts;
mod told;
mod unoffer;
mod waiters;
mod watermark;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lessor_protocol::{Claim, Claimed};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::error::{Error, Result};
use crate::leases::ClaimOf;
use crate::sessions::{Draft, SessionRow};
use crate::store::Db;
use crate::wakeups::Hub;
use crate::{agents, commands, reports};
// Those who ask what would be given to whom ask the rule itself.
use dispatcher::Dispatcher;
use door::Door;
use intake::Newcomer;
pub use lone::text as lone_text;
pub(crate) use placement::compare_utilisation;
#[cfg(test)]
pub(crate) use placement::{Candidate, Item, MayTake, share_out};
use waiters::{Answer, Waiter};

/// The dispatchers of this server.
#[derive(Clone, Debug)]
pub struct Dispatchers {
    running: Arc<Mutex<HashMap<String, Door>>>,
    waiting: Arc<AtomicUsize>,
    max_waiters: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What became of a new session that was to be offered at once.
#[derive(Debug)]
pub enum Offered {
    /// It is made, and offered unless its row says otherwise.
    Made(Box<SessionRow>),
    /// Nothing was done.
    NotNow(Box<Draft>),
}

/// A place among the parked polls; given back when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dispatchers {
    /// None yet; their tasks are tracked by `tasks` and end with `stop`.
    #[must_use]
    pub fn new(max_waiters: usize, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            running: Arc::default(),
            waiting: Arc::default(),
            max_waiters,
            tasks,
            stop,
        }
    }

    /// How many polls are parked on this server.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether a new session of this pool could be offered at once to somebody who is parked here.
    #[must_use]
    pub fn is_open(&self, pool: &str) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(pool).is_some_and(Door::is_open)
    }

    fn place(&self) -> Result<Place> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.waiting));
        if before >= self.max_waiters {
            Err(Error::TooManyWaiters(self.max_waiters))
        } else {
            Ok(place)
        }
    }

    fn park(&self, db: &Db, hub: &Hub, pool: &str, waiter: Waiter) -> Result<()> {
        if self.stop.is_cancelled() {
            return Err(Error::Stopping);
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let door = running.entry(pool.to_owned()).or_insert_with(|| {
            let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
            let (door, run) = Dispatcher::start(pool, db.clone(), hub.clone(), tasks, stop);
            self.tasks.spawn(run);
            door
        });
        door.parking.send(waiter).map_err(|_| Error::Stopping)
    }

    /// Has a new session made and offered to an agent that is parked here, in one transaction, if that
    /// can be done at once. It may turn out that it is made and nobody could be given it.
    ///
    /// # Errors
    /// `DatabaseUnavailable`: then it is not known whether it was made.
    pub async fn offer(&self, draft: Draft) -> Result<Offered> {
        let door = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.get(&draft.row.agent_pool).cloned()
        };
        let Some(door) = door.filter(|_| draft.starts_anywhere()) else {
            return Ok(Offered::NotNow(Box::new(draft)));
        };
        let draft = Box::new(draft);
        let (reply, answer) = oneshot::channel();
        match door.offer(Newcomer { draft, reply }) {
            Ok(()) => answer.await.map_err(|_| Error::Stopping)?,
            Err(Newcomer { draft, .. }) => Ok(Offered::NotNow(draft)),
        }
    }
}

/// A claim, from its renewal to its answer.
///
/// # Errors
/// `AgentNotRegistered`, `AgentSuperseded`, `LeaseExpired`, `ClaimSuperseded`, `TooManyWaiters`,
/// `Stopping`, `DatabaseUnavailable`.
pub async fn claim(app: &Arc<App>, agent: &str, claim: Claim) -> Result<Claimed> {
    let place = app.dispatchers.place()?;
    let deadline = Instant::now() + Duration::from_secs_f64(claim.wait_seconds);
    // Dropped when the client hangs up, this future takes only the waiting with it.
    let (incarnation, max_sessions) = (
        claim.incarnation,
        usize::try_from(claim.max_sessions).unwrap_or(0),
    );
    let before = {
        let (app, agent) = (Arc::clone(app), agent.to_owned());
        app.clone().detached(async move {
            let of = ClaimOf {
                wait_seconds: claim.wait_seconds,
                max_sessions: claim.max_sessions,
            };
            if claim.dropped.is_empty()
                && claim.command_results.is_empty()
                && !claim.reports.is_empty()
            {
                let (renewal, results) =
                    reports::take_with_claim(&app, &agent, claim.incarnation, of, claim.reports)
                        .await?;
                return Ok((renewal, results, Vec::new()));
            }
            let renewal = app
                .renewals
                .renew(&agent, claim.incarnation, Some(of))
                .await?;
            if !claim.dropped.is_empty() {
                agents::acknowledge(&app, &agent, claim.incarnation, claim.dropped).await?;
            }
            // First, since a report may end the hold under which they were made.
            let command_results = claim.command_results;
            let command_results =
                commands::take(&app, &agent, claim.incarnation, command_results).await?;
            // The renewal has fenced it already; most claims carry nothing.
            let results = if claim.reports.is_empty() {
                Vec::new()
            } else {
                reports::take(&app, &agent, claim.incarnation, claim.reports).await?
            };
            Ok((renewal, results, command_results))
        })
    };
    let (renewal, results, command_results) = before.await?;
    let (reply, answer) = oneshot::channel();
    let waiter = Waiter {
        agent: agent.to_owned(),
        incarnation,
        claim_number: renewal.claim_number,
        resource_domain: renewal.resource_domain,
        max_sessions,
        scheduling: renewal.scheduling,
        lost: renewal.lost.clone(),
        capacity: renewal.capacity,
        slots_used: renewal.slots_used,
        passed_over_until: None,
        deadline,
        reply,
    };
    app.dispatchers
        .park(&app.db, &app.hub, &renewal.pool, waiter)?;
    let answered = answer.await.map_err(|_| Error::Stopping)?;
    drop(place);
    // What was reported is done and must be told, whatever became of the looking for work.
    let answer = match answered {
        Ok(answer) => answer,
        Err(error) if results.is_empty() && command_results.is_empty() => return Err(error),
        Err(Error::DatabaseUnavailable(_)) => Answer::default(),
        Err(error) => return Err(error),
    };
    Ok(Claimed {
        assignments: answer.assignments,
        commands: answer.commands,
        results,
        command_results,
        lost: answer.lost.unwrap_or(renewal.lost),
        lease: renewal.lease,
        scheduling: answer.scheduling.unwrap_or(renewal.scheduling),
        inventory_wanted: renewal.inventory_wanted,
    })
}
