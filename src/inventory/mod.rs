//! Inventories: what agents see on their platforms, held against what is wanted.
//!
//! Invariants:
//! - What may be wanted is never told `delete`; the rules are in `state`.
//! - An inventory is judged by when it was begun: what changed since is not in it.
//! - A session's resource counts as gone only by two inventories in a row of its holder.
//! - Locks: an inventory takes its domain's turn and the rows of leftovers and quarantine first,
//!   then the agent, then sessions. Nobody who holds an agent or a session waits for the former.
//!
//! What this does not do: delete anything on a platform. Agents do, and only what they are told.

pub mod http;
mod state;
mod store;
mod table;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lessor_protocol::{
    Actor, ActorType, Inventory, InventoryResource, Leftover, LeftoverKind, ResourceVerdict,
    Verdict, Verdicts,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::access::Reach;
use crate::agents::{self, AgentRow};
use crate::app::App;
use crate::error::{Error, Result};
use crate::pools;
use crate::sessions::{self, Context, Draft};
use crate::store::Conn;
use crate::wakeups::Hints;
use state::{Presence, Running, Seen, Standing};
use store::Settled;

pub use store::Position;

/// Where an inventory was taken, and when it was begun, by the database's clock.
#[derive(Clone, Debug)]
pub struct Place {
    /// The agent's pool.
    pub pool: String,
    /// Its domain.
    pub resource_domain: String,
    /// When it began to look.
    pub begun_at: DateTime<Utc>,
}

/// Which leftovers to list; what is left out filters nothing.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "named as the fields")]
pub struct LeftoverFilter {
    pub pool: Option<String>,
    pub resource_domain: Option<String>,
    pub kind: Option<LeftoverKind>,
    /// Only what this reaches.
    pub reach: Reach,
}

/// Takes an inventory that came at `arrived`, and says what is to become of each resource.
///
/// # Errors
/// `AgentNotRegistered`, `AgentSuperseded`, `LeaseExpired`, `DatabaseUnavailable`: then nothing was
/// taken.
pub async fn take(
    app: &Arc<App>,
    agent: &str,
    inventory: Inventory,
    arrived: Instant,
) -> Result<Verdicts> {
    let (agent, inventory) = (agent.to_owned(), Arc::new(inventory));
    let (verdicts, hints) = app
        .db
        .write("inventory::take", move |conn| {
            let (agent, inventory) = (agent.clone(), Arc::clone(&inventory));
            Box::pin(async move { take_in(conn, &agent, &inventory, arrived).await })
        })
        .await?;
    app.hub.committed(hints);
    metrics::counter!("lessor_inventories_total").increment(1);
    for verdict in Verdict::ALL {
        let count = verdicts.iter().filter(|v| v.verdict == *verdict).count();
        metrics::counter!("lessor_verdicts_total", "verdict" => verdict.as_str())
            .increment(count as u64);
    }
    Ok(Verdicts { verdicts })
}

async fn take_in(
    conn: &mut Conn,
    agent: &str,
    inventory: &Inventory,
    arrived: Instant,
) -> Result<(Vec<ResourceVerdict>, Hints)> {
    let ago = inventory.taken_seconds_ago + arrived.elapsed().as_secs_f64();
    let place = store::place(conn, agent, inventory.incarnation, ago).await?;
    let resources = &inventory.resources;
    let names: Vec<String> = resources
        .iter()
        .map(|resource| resource.platform_resource_id.clone())
        .collect();
    let labels: BTreeSet<Uuid> = resources.iter().filter_map(|r| r.session_id).collect();
    let labels: Vec<Uuid> = labels.into_iter().collect();
    let facts = store::facts(conn, &place, &names, &labels).await?;
    let judged = judge(resources, |resource| facts.judge(resource));
    let of = |standing: Standing| -> Vec<&InventoryResource> {
        resources
            .iter()
            .filter(|resource| judged[resource.platform_resource_id.as_str()] == standing)
            .collect()
    };

    let rules = pools::rules(conn, &place.pool).await?;
    store::take_turn(conn, &place).await?;
    let unknown = of(Standing::Unknown);
    let over = store::quarantine(conn, &place, &unknown, rules.quarantine_seconds).await?;
    let settled = store::settle_leftovers(conn, &place, &of(Standing::Unwanted)).await?;

    let row = agents::lock_one(conn, agent)
        .await?
        .ok_or_else(|| Error::AgentNotRegistered(agent.to_owned()))?;
    row.fence(inventory.incarnation)?;
    let gone = note_presence(conn, &row, &Seen::of(resources), place.begun_at).await?;
    store::note_taken(conn, agent, place.begun_at).await?;
    let actor = Actor {
        actor_type: ActorType::Agent,
        name: agent.to_owned(),
    };
    let ctx = Context {
        now: sessions::now(conn).await?,
        pool: &rules,
        actor: &actor,
        epoch_floor: 0,
    };
    let hints = change_sessions(conn, &ctx, &row, &place, &gone, &settled).await?;

    let verdicts = resources
        .iter()
        .map(|resource| {
            let name = &resource.platform_resource_id;
            let verdict = match judged[name.as_str()] {
                Standing::Wanted => Verdict::Keep,
                Standing::Unwanted => Verdict::Delete,
                Standing::Unknown if over.contains(name) => Verdict::Delete,
                Standing::Unknown => Verdict::Quarantine,
            };
            ResourceVerdict {
                platform_resource_id: name.clone(),
                verdict,
            }
        })
        .collect();
    Ok((verdicts, hints))
}

/// What each name is. One that is listed twice is one resource: where the labels disagree, what
/// speaks for keeping it wins.
fn judge(
    resources: &[InventoryResource],
    judge: impl Fn(&InventoryResource) -> Standing,
) -> HashMap<&str, Standing> {
    let mut judged: HashMap<&str, Standing> = HashMap::with_capacity(resources.len());
    for resource in resources {
        let standing = judge(resource);
        judged
            .entry(&resource.platform_resource_id)
            .and_modify(|before| {
                let wins = match (*before, standing) {
                    (Standing::Wanted, _) | (_, Standing::Wanted) => Standing::Wanted,
                    (Standing::Unknown, _) | (_, Standing::Unknown) => Standing::Unknown,
                    (Standing::Unwanted, Standing::Unwanted) => Standing::Unwanted,
                };
                *before = wins;
            })
            .or_insert(standing);
    }
    judged
}

/// Notes which running sessions of the agent its inventory does not list; those that are gone.
async fn note_presence(
    conn: &mut Conn,
    agent: &AgentRow,
    seen: &Seen,
    begun_at: DateTime<Utc>,
) -> Result<Vec<Running>> {
    let running = store::running(conn, &agent.name, agent.incarnation).await?;
    let said: Vec<(Presence, Running)> = running
        .into_iter()
        .map(|session| (session.presence(seen, begun_at), session))
        .collect();
    let staying = said
        .iter()
        .filter(|(presence, _)| *presence == Presence::NothingNew)
        .map(|(_, session)| session.id)
        .collect();
    let missed: Vec<&Running> = said
        .iter()
        .filter(|(presence, _)| *presence == Presence::Missed)
        .map(|(_, session)| session)
        .collect();
    store::note_absent(conn, &agent.name, staying, &missed, begun_at).await?;
    Ok(said
        .into_iter()
        .filter(|(presence, _)| *presence == Presence::Gone)
        .map(|(_, session)| session)
        .collect())
}

/// Fails the sessions whose resources are gone, and tells the timelines of leftovers that are.
async fn change_sessions(
    conn: &mut Conn,
    ctx: &Context<'_>,
    agent: &AgentRow,
    place: &Place,
    gone: &[Running],
    settled: &[Settled],
) -> Result<Hints> {
    let deleted: Vec<&Settled> = settled.iter().filter(|settled| settled.gone).collect();
    let ids: HashSet<Uuid> = gone
        .iter()
        .map(|session| session.id)
        .chain(deleted.iter().map(|leftover| leftover.session_id))
        .collect();
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let mut drafts: Vec<Draft> = sessions::lock(conn, &ids)
        .await?
        .into_iter()
        .map(Draft::of)
        .collect();
    for draft in &mut drafts {
        let id = draft.row.id;
        for leftover in deleted.iter().filter(|l| l.session_id == id) {
            draft.leftover_deleted(
                ctx,
                &place.resource_domain,
                leftover.attempt,
                leftover.platform_resource_id.as_deref(),
            );
        }
    }
    for draft in &mut drafts {
        let session = gone.iter().find(|session| session.id == draft.row.id);
        // Something else may have been wanted of it since it was found.
        let same = session.is_some_and(|session| {
            draft.row.is_held()
                && draft.row.assigned_agent_id.as_ref() == Some(&agent.name)
                && draft.row.lease_epoch == session.lease_epoch
                && draft.row.state == lessor_protocol::SessionState::Running
                && draft.row.desired_state == lessor_protocol::DesiredState::Running
        });
        if same {
            tracing::info!(session = %draft.row.id, agent = agent.name, "its resource is gone");
            draft.resource_gone(ctx, agent.lease_expires_at);
        }
    }
    sessions::write(conn, &drafts).await
}

/// Leftovers and quarantined resources, newest first, at most `limit`.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn list(
    app: &App,
    filter: LeftoverFilter,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<(Position, Leftover)>> {
    app.db
        .read("inventory::list", |conn| {
            Box::pin(store::list(conn, filter, after, limit))
        })
        .await
}

/// Sets the gauges of what is still to be deleted, by pool.
///
/// # Errors
/// `DatabaseUnavailable`.
#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub async fn gauges(app: &App) -> Result<()> {
    let counts = app
        .db
        .read("inventory::counts", |conn| Box::pin(store::counts(conn)))
        .await?;
    for count in counts {
        metrics::gauge!("lessor_leftovers", "pool" => count.pool.clone())
            .set(count.leftovers as f64);
        metrics::gauge!("lessor_quarantined", "pool" => count.pool).set(count.quarantined as f64);
    }
    Ok(())
}
