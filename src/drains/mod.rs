//! Drains: an agent, or every agent of a pool, hands over what it holds while that runs on.
//!
//! Its agents are cordoned. A session that runs is asked for (`release`) as long as another live
//! agent of its domain, not cordoned, can adopt it; its holder lets go, and that agent adopts it. At
//! the deadline, and with `force` at once, holds are taken instead, and what nobody can adopt is
//! left to the pool's `on_lost`.
//!
//! Invariants:
//! - A drain is complete only when each session that its agents held has been taken over and
//!   reported on by another agent, or is at rest (ended, hibernated, waiting to be started anew),
//!   and they hold nothing.
//! - No session is stopped by it, but for what `on_lost` says of those that nobody can adopt.
//! - It goes on whatever becomes of its agents: they may die, leave, or register anew meanwhile. One
//!   that said goodbye and came again is a new agent, which the drain is not about.

mod advance;
pub mod http;
mod store;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use lessor_protocol::{Actor, Drain, DrainRequest, DrainStatus, EndReason};
use uuid::Uuid;

use crate::agents::{self, AgentRow};
use crate::app::App;
use crate::error::{Error, Result};
use crate::pools;
use crate::sessions::{self, Context, Draft};
use crate::store::Conn;
use crate::wakeups::Hints;

use advance::Step;
pub use wait::{Wanted, wait_for};

/// What is drained.
#[derive(Clone, Debug)]
pub enum Target {
    /// One agent.
    Agent(String),
    /// Every agent that a pool has now.
    Pool(String),
}

impl Target {
    /// For people.
    fn named(&self) -> String {
        match self {
            Self::Agent(name) => format!("agent `{name}`"),
            Self::Pool(name) => format!("pool `{name}`"),
        }
    }
}

/// Starts a drain.
///
/// # Errors
/// `AgentNotRegistered`, `PoolNotFound`, `DrainInProgress`, `DatabaseUnavailable`.
pub async fn start(
    app: &Arc<App>,
    target: Target,
    request: DrainRequest,
    actor: Actor,
) -> Result<Drain> {
    let (drain, begun) = app
        .db
        .write("drains::start", move |conn| {
            let (target, request, actor) = (target.clone(), request.clone(), actor.clone());
            Box::pin(async move { start_in(conn, &target, &request, &actor).await })
        })
        .await?;
    begun.committed(app);
    Ok(drain)
}

/// Starts the drain of one agent in a transaction that has locked it.
///
/// # Errors
/// `DrainInProgress`; when the database refuses.
pub(crate) async fn start_one(
    conn: &mut Conn,
    agent: &str,
    request: &DrainRequest,
    actor: &Actor,
) -> Result<Begun> {
    let target = Target::Agent(agent.to_owned());
    let (_, begun) = start_in(conn, &target, request, actor).await?;
    Ok(begun)
}

/// A drain that has begun, and may be over already: what is to be said of it once that has committed.
#[derive(Debug)]
#[must_use = "who waits would not be woken"]
pub(crate) struct Begun {
    id: Uuid,
    step: Step,
}

impl Begun {
    /// It has committed: counts it, and wakes whom it concerns.
    pub(crate) fn committed(self, app: &App) {
        metrics::counter!("lessor_drains_total", "status" => "started").increment(1);
        self.step.committed(app, self.id);
    }
}

/// Metrics that are there before there is anything to count.
pub(crate) fn count_from_zero() {
    metrics::counter!("lessor_sessions_handed_over_total").absolute(0);
    let ends = DrainStatus::ALL
        .iter()
        .filter(|status| **status != DrainStatus::InProgress);
    for status in ends.map(|status| status.as_str()).chain(["started"]) {
        metrics::counter!("lessor_drains_total", "status" => status).absolute(0);
    }
}

async fn start_in(
    conn: &mut Conn,
    target: &Target,
    request: &DrainRequest,
    actor: &Actor,
) -> Result<(Drain, Begun)> {
    let (names, agent) = match target {
        Target::Agent(name) => (vec![name.clone()], Some(name.as_str())),
        Target::Pool(pool) => {
            pools::rules(conn, pool).await?;
            (store::agents_of(conn, pool).await?, None)
        }
    };
    let rows = agents::lock(conn, &names).await?;
    let pool = match (target, rows.first()) {
        (Target::Pool(pool), _) => pool.clone(),
        (Target::Agent(_), Some(row)) => row.pool.clone(),
        (Target::Agent(name), None) => return Err(Error::AgentNotRegistered(name.clone())),
    };
    let before = find(conn, target).await?;
    if let Some(id) = before
        && let Some(drain) = store::show(conn, id).await?
        && drain.status == DrainStatus::InProgress
    {
        return Err(Error::DrainInProgress(target.named()));
    }
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let id = Uuid::now_v7();
    let mut hints = withdraw_offers(conn, &pool, &names).await?;
    store::begin(conn, id, (&pool, agent), request, actor, &names).await?;
    for row in rows.iter().filter(|row| !row.cordoned) {
        let reason = request.reason.as_deref();
        agents::record(conn, row, actor, "agent.cordoned", reason).await?;
    }
    hints.pool(&pool).agents.extend(names);
    store::record(conn, id, "drain.started", actor).await?;
    // At once, so that the answer says how it goes on from here.
    let mut step = advance::advance(conn, id).await?;
    step.hints.merge(hints);
    Ok((shown(conn, id).await?, Begun { id, step }))
}

/// What the agents were offered and have not accepted goes to others: it has had no effect.
async fn withdraw_offers(conn: &mut Conn, pool: &str, names: &[String]) -> Result<Hints> {
    let rules = pools::rules(conn, pool).await?;
    let actor = sessions::system("drain");
    let ctx = Context {
        now: sessions::now(conn).await?,
        pool: &rules,
        actor: &actor,
        epoch_floor: 0,
    };
    let rows = sessions::lock_assigned_to(conn, names).await?;
    let mut drafts: Vec<Draft> = rows
        .into_iter()
        .filter(sessions::SessionRow::is_offered)
        .map(Draft::of)
        .collect();
    for draft in &mut drafts {
        draft.unassign(&ctx, EndReason::Superseded, "session.requeued");
    }
    sessions::write(conn, &drafts).await
}

async fn find(conn: &mut Conn, target: &Target) -> Result<Option<Uuid>> {
    match target {
        Target::Agent(name) => store::of_agent(conn, name).await,
        Target::Pool(name) => store::of_pool(conn, name).await,
    }
}

async fn shown(conn: &mut Conn, id: Uuid) -> Result<Drain> {
    let drain = store::show(conn, id).await?;
    let drain = drain.ok_or_else(|| Error::NoDrain("it".to_owned()))?;
    let blocked = if drain.status == DrainStatus::Completed {
        Vec::new()
    } else {
        store::blocked(conn, id, &drain.agents).await?
    };
    Ok(drain.into_drain(blocked))
}

/// The newest drain of an agent or a pool, with its id.
///
/// # Errors
/// `NoDrain`, `DatabaseUnavailable`.
pub async fn get(app: &App, target: &Target) -> Result<(Uuid, Drain)> {
    let target = target.clone();
    app.db
        .read("drains::get", |conn| {
            Box::pin(async move {
                let id = find(conn, &target).await?;
                let id = id.ok_or_else(|| Error::NoDrain(target.named()))?;
                Ok((id, shown(conn, id).await?))
            })
        })
        .await
}

/// Sessions that the newest drain of an agent or a pool still has to hand over, newest first, with the
/// pool; at most `limit`, after a given one. None once it is completed or cancelled.
///
/// # Errors
/// `NoDrain`; when the database refuses.
pub(crate) async fn still_held(
    conn: &mut Conn,
    target: &Target,
    after: Option<Uuid>,
    limit: i64,
) -> Result<(String, Vec<Uuid>)> {
    let no_drain = || Error::NoDrain(target.named());
    let id = find(conn, target).await?.ok_or_else(no_drain)?;
    store::still_held(conn, id, after, limit)
        .await?
        .ok_or_else(no_drain)
}

/// Calls a drain off: its agents are as they were before it, and keep what they still hold. One that
/// is over stays as it is.
///
/// # Errors
/// `NoDrain`, `DatabaseUnavailable`.
pub async fn cancel(app: &Arc<App>, target: Target, actor: Actor) -> Result<Drain> {
    let (drain, hints) = app
        .db
        .write("drains::cancel", move |conn| {
            let (target, actor) = (target.clone(), actor.clone());
            Box::pin(async move {
                let id = find(conn, &target).await?;
                let id = id.ok_or_else(|| Error::NoDrain(target.named()))?;
                let drain = store::show(conn, id).await?;
                let drain = drain.ok_or_else(|| Error::NoDrain(target.named()))?;
                // Its pool's: only this agent leaves that.
                let members = match &target {
                    Target::Agent(name) if drain.agent.is_none() => vec![name.clone()],
                    _ => drain.agents,
                };
                let rows = agents::lock(conn, &members).await?;
                let (mut hints, left) = call_off(conn, id, (&members, &rows), &actor).await?;
                for agent in rows.iter().filter(|agent| left.contains(&agent.name)) {
                    agents::record(conn, agent, &actor, "agent.uncordoned", None).await?;
                    let hint = hints.pool(&agent.pool);
                    hint.domains.insert(agent.resource_domain.clone());
                    hint.starts = 1;
                }
                Ok((shown(conn, id).await?, hints))
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(drain)
}

/// Agents leave a drain that is in progress; with the last of them it is cancelled. Those that are
/// still there are locked. Which of them are not cordoned any more.
async fn call_off(
    conn: &mut Conn,
    id: Uuid,
    (names, agents): (&[String], &[AgentRow]),
    actor: &Actor,
) -> Result<(Hints, Vec<String>)> {
    // Each of several agents that leave at once sees who is left.
    store::lock(conn, id).await?;
    let drain = store::show(conn, id).await?;
    let Some(drain) = drain.filter(|drain| drain.status == DrainStatus::InProgress) else {
        return Ok(Default::default());
    };
    let mut hints = keep_with_holders(conn, &drain.pool, agents, actor).await?;
    hints.changed.insert(id);
    let left = store::let_go(conn, id, names, true).await?;
    let hint = hints.pool(&drain.pool);
    hint.agents
        .extend(left.iter().map(|agent| agent.name.clone()));
    if drain.agents.iter().all(|name| names.contains(name)) {
        store::finish(conn, id, DrainStatus::Cancelled).await?;
        store::record(conn, id, "drain.cancelled", actor).await?;
        metrics::counter!("lessor_drains_total", "status" => "cancelled").increment(1);
    } else {
        store::forget_members(conn, id, names).await?;
    }
    let free = left.into_iter().filter(|agent| !agent.stays);
    Ok((hints, free.map(|agent| agent.name).collect()))
}

/// Whatever these agents were asked to hand over and still hold stays with them.
async fn keep_with_holders(
    conn: &mut Conn,
    pool: &str,
    agents: &[AgentRow],
    actor: &Actor,
) -> Result<Hints> {
    let names: Vec<String> = agents.iter().map(|agent| agent.name.clone()).collect();
    let ids = store::being_handed_over(conn, &names).await?;
    let rows = sessions::lock(conn, &ids).await?;
    let rules = pools::rules(conn, pool).await?;
    let ctx = Context {
        now: sessions::now(conn).await?,
        pool: &rules,
        actor,
        epoch_floor: 0,
    };
    let mut drafts: Vec<Draft> = rows.into_iter().map(Draft::of).collect();
    for draft in &mut drafts {
        if draft.row.handing_over {
            draft.stop_hand_over(&ctx);
        }
    }
    sessions::write(conn, &drafts).await
}

/// An agent that is uncordoned leaves the drains that it takes part in; its own is cancelled. Its
/// row is locked.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn leave(conn: &mut Conn, agent: &AgentRow, actor: &Actor) -> Result<Hints> {
    let mut hints = Hints::default();
    for id in store::in_progress_of(conn, &agent.name).await? {
        let names = [agent.name.clone()];
        let (more, _) = call_off(conn, id, (&names, std::slice::from_ref(agent)), actor).await?;
        hints.merge(more);
    }
    Ok(hints)
}

/// Moves every drain on; whether any is in progress, and whether there is more to do at once.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn advance_all(app: &Arc<App>) -> Result<Duration> {
    let ids = app
        .db
        .read("drains::in_progress", |conn| {
            Box::pin(store::in_progress(conn))
        })
        .await?;
    let mut pause = Duration::from_millis(if ids.is_empty() { 500 } else { 100 });
    let mut failed = None;
    for id in ids {
        let step = app
            .db
            .write("drains::advance", move |conn| {
                Box::pin(advance::advance(conn, id))
            })
            .await;
        // One that cannot be moved on does not keep the others.
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                tracing::warn!(drain = %id, %error, "a drain was not moved on");
                failed = Some(error);
                continue;
            }
        };
        if step.more {
            pause = Duration::ZERO;
        }
        step.committed(app, id);
    }
    failed.map_or(Ok(pause), Err)
}
