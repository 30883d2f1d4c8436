//! Agents: registration, goodbye, cordons.
//!
//! Invariants:
//! - Incarnations of a name only rise; the newest fences the older ones.
//! - A registration that is repeated by the same instance under a live lease changes nothing but
//!   capacity and labels: a retried PUT is harmless.
//! - What a registration does not hold is released in its own transaction: nothing runs unwatched.

mod approvals;
mod filter;
mod goodbye;
pub mod http;
mod list;
mod many;
mod register;
mod row;
mod store;
mod table;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lessor_protocol::{
    Activity, Actor, Agent, HeldSession, Register, Registered, Renewed, Scheduling,
};

use crate::access::Caller;
use crate::app::App;
use crate::drains;
use crate::error::{Error, Result};
use crate::sessions::{self, Context, Draft};
use crate::store::Conn;
use crate::wakeups::Hints;

pub use filter::AgentFilter;
pub use list::list;
pub use many::{AgentChange, ManyAgents};
pub use row::{AgentRow, fence};
// What other rooms lock and record inside their own transactions.
pub(crate) use store::{lock, lock_one, record};

/// Registers an agent, or another run of it.
///
/// # Errors
/// `PoolNotFound`, `AgentSuperseded`, `AgentHoldsSessions`, `ProtocolVersionUnsupported`,
/// `Invalid`, `Forbidden`, `AgentNotApproved`, `DatabaseUnavailable`.
pub async fn register(
    app: &Arc<App>,
    name: &str,
    body: Register,
    by: Caller,
) -> Result<(bool, Registered)> {
    register::check(name, &body, &by)?;
    let (name, body) = (name.to_owned(), Arc::new(body));
    let asks = (body.pool.clone(), name.clone());
    let registering = app
        .db
        .write("agents::register", move |conn| {
            let (name, body, by) = (name.clone(), Arc::clone(&body), by.clone());
            Box::pin(async move { register::register(conn, &name, &body, &by).await })
        })
        .await;
    if let Err(Error::AgentNotApproved(..)) = &registering {
        approvals::ask(app, asks).await?;
    }
    let (created, registered, hints) = registering?;
    app.hub.committed(hints);
    Ok((created, registered))
}

/// The agent's own goodbye, or an operator's removal of it: its sessions can be claimed at once.
///
/// # Errors
/// `AgentNotRegistered`, `AgentSuperseded`, `LeaseExpired` never; `AgentLive` for an operator who
/// does not force; `DatabaseUnavailable`.
pub async fn deregister(
    app: &Arc<App>,
    name: &str,
    incarnation: Option<i64>,
    force: bool,
    actor: Actor,
) -> Result<()> {
    let name = name.to_owned();
    let hints = app
        .db
        .write("agents::deregister", move |conn| {
            let (name, actor) = (name.clone(), actor.clone());
            Box::pin(async move { goodbye::goodbye(conn, &name, incarnation, force, &actor).await })
        })
        .await?;
    app.hub.committed(hints);
    Ok(())
}

/// A heartbeat: renews the lease, notes activity, and tells what was taken from the agent.
///
/// # Errors
/// `AgentNotRegistered`, `AgentSuperseded`, `LeaseExpired`, `DatabaseUnavailable`.
pub async fn heartbeat(
    app: &Arc<App>,
    name: &str,
    incarnation: i64,
    dropped: Vec<HeldSession>,
    activity: Vec<Activity>,
) -> Result<Renewed> {
    if !dropped.is_empty() {
        acknowledge(app, name, incarnation, dropped).await?;
    }
    let renewal = app.renewals.renew(name, incarnation, None).await?;
    app.activities.tell(name, incarnation, activity).await;
    Ok(Renewed {
        lease: renewal.lease,
        scheduling: renewal.scheduling,
        lost: renewal.lost,
        inventory_wanted: renewal.inventory_wanted,
    })
}

/// An agent has stopped acting on sessions that were taken from it: others can claim them now.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn acknowledge(
    app: &Arc<App>,
    name: &str,
    incarnation: i64,
    dropped: Vec<HeldSession>,
) -> Result<()> {
    let name = name.to_owned();
    let hints = app
        .db
        .write("agents::acknowledge", move |conn| {
            let (name, dropped) = (name.clone(), dropped.clone());
            Box::pin(async move {
                let Some(agent) = store::lock_one(conn, &name).await? else {
                    return Err(Error::AgentNotRegistered(name));
                };
                agent.fence(incarnation)?;
                let taken = store::take_lost(conn, &name, incarnation, &dropped).await?;
                let ids: Vec<_> = taken.iter().map(|(id, _)| *id).collect();
                let mut rows = sessions::lock(conn, &ids).await?;
                // Given to somebody else since, and perhaps taken from him: that is not for this
                // agent to acknowledge.
                rows.retain(|row| taken.contains(&(row.id, row.lease_epoch)));
                let now = sessions::now(conn).await?;
                let pool = crate::pools::rules(conn, &agent.pool).await?;
                let actor = sessions::system("acknowledgment");
                let ctx = Context {
                    now,
                    pool: &pool,
                    actor: &actor,
                    epoch_floor: 0,
                };
                let mut drafts: Vec<Draft> = rows.into_iter().map(Draft::of).collect();
                for draft in &mut drafts {
                    draft.acknowledge_loss(&ctx);
                }
                sessions::write(conn, &drafts).await
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(())
}

/// Gives an agent no new sessions, or gives it some again.
///
/// # Errors
/// `AgentNotRegistered`, `DatabaseUnavailable`.
pub async fn set_cordon(
    app: &Arc<App>,
    name: &str,
    cordon: Option<(Option<String>, Option<DateTime<Utc>>)>,
    actor: Actor,
) -> Result<Agent> {
    change_cordon(app, name, cordon, actor, false).await
}

/// Lifts a cordon whose time is over; one that was renewed meanwhile stays.
///
/// # Errors
/// `AgentNotRegistered`, `DatabaseUnavailable`.
pub async fn lift_cordon(app: &Arc<App>, name: &str, actor: Actor) -> Result<()> {
    change_cordon(app, name, None, actor, true).await?;
    Ok(())
}

async fn change_cordon(
    app: &Arc<App>,
    name: &str,
    cordon: Option<(Option<String>, Option<DateTime<Utc>>)>,
    actor: Actor,
    only_if_over: bool,
) -> Result<Agent> {
    let name = name.to_owned();
    let (agent, hints) = app
        .db
        .write("agents::cordon", move |conn| {
            let (name, cordon, actor) = (name.clone(), cordon.clone(), actor.clone());
            Box::pin(async move {
                let Some(before) = store::lock_one(conn, &name).await? else {
                    return Err(Error::AgentNotRegistered(name));
                };
                let mut hints = Hints::default();
                let now = sessions::now(conn).await?;
                let is_over = before.cordon_until.is_some_and(|until| until <= now);
                let stays = only_if_over && (!is_over || before.scheduling == Scheduling::Draining);
                if (before.cordoned || cordon.is_some()) && !stays {
                    hints = cordon_in(conn, &before, cordon, &actor).await?;
                }
                Ok((store::get(conn, &name).await?, hints))
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(agent)
}

/// Cordons an agent whose row is locked, or lifts its cordon.
async fn cordon_in(
    conn: &mut Conn,
    before: &AgentRow,
    cordon: Option<(Option<String>, Option<DateTime<Utc>>)>,
    actor: &Actor,
) -> Result<Hints> {
    let mut hints = Hints::default();
    if cordon.is_none() {
        hints.merge(drains::leave(conn, before, actor).await?);
    }
    store::set_cordon(conn, before, cordon, actor).await?;
    let hint = hints.pool(&before.pool);
    hint.agents.insert(before.name.clone());
    // What it was not given before, it or others may be given now.
    hint.domains.insert(before.resource_domain.clone());
    hint.starts = 1;
    Ok(hints)
}

/// One agent.
///
/// # Errors
/// `AgentNotRegistered`, `DatabaseUnavailable`.
pub async fn get(app: &App, name: &str) -> Result<Agent> {
    let name = name.to_owned();
    app.db
        .read("agents::get", |conn| {
            Box::pin(async move { store::get(conn, &name).await })
        })
        .await
}
