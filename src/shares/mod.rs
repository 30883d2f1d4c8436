//! Shares: who is next when several owners have something waiting in a pool, and how many of an
//! owner's sessions may run there.
//!
//! What any agent may start waits in a queue per selector and owner. A round of `claims` asks here
//! which queues there are, whose turn it is ([`Turns`], pure), and how many places an owner with a
//! limit has left.
//!
//! Invariants:
//! - A queue costs a walk one step over the index, however long it is; one whose selector none of
//!   the round's agents satisfies costs less. Where there are many, rounds go on with what a walk found
//!   ([`Memory`], pure).
//! - An owner with a limit is locked before its sessions are counted, so that two servers cannot both
//!   give its last place. Owners are locked after agents and before sessions.
//! - A lone owner writes nothing.
//!
//! What this room does not do: pick sessions, or give them to agents (`claims`).

mod around;
pub mod http;
mod memory;
mod state;
mod store;
mod table;

use chrono::{DateTime, Utc};
use lessor_protocol::{Labels, Owner, OwnerShare};

use crate::app::App;
use crate::error::{Error, Result};
use crate::wakeups::Hints;

pub use around::{Around, Range, Spent};
pub use memory::{Memory, Walked};
pub use state::{Moved, Turns};
pub use store::Position;
pub(crate) use store::{WAITS, limited, places, queues, record, waits, waits_in, with_waits};

/// Where a walk over the queues begins; at the first of them if both are empty. Pools with more
/// queues than one walk sees are seen in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// After this selector's key.
    pub selector: String,
    /// After this owner, in each selector.
    pub owner: String,
}

/// A queue of starts.
#[derive(Clone, Debug)]
pub struct Queue {
    /// The key of its selector: labels and domain.
    pub requires_key: String,
    /// The labels that an agent must have.
    pub requires: Labels,
    /// The only domain whose agents may start it; any if there is none.
    pub start_domain: Option<String>,
    /// Its owner's place among the turns.
    pub turn: usize,
    /// The rank of its first session, locked by others or not, and when that was queued.
    pub head: (i16, DateTime<Utc>),
}

/// The queues that the agents of a round could serve.
#[derive(Clone, Debug, Default)]
pub struct Queues {
    /// Each of them.
    pub queues: Vec<Queue>,
    /// Their owners.
    pub turns: Turns,
    /// Whether each of those, by its place, may have a limit.
    pub limited: Vec<bool>,
    /// Where the next walk is to begin.
    pub next: Walk,
    /// Whether there are queues whose selector none of the agents satisfies.
    pub unsatisfied: bool,
}

fn no_share(pool: &str, owner: &str) -> Error {
    Error::NoShare(format!("owner `{owner}` of pool `{pool}`"))
}

/// Sets an owner's share of a pool; what is waiting is looked at anew.
///
/// # Errors
/// `PoolNotFound`, `DatabaseUnavailable`.
pub async fn put(app: &App, pool: String, owner: String, share: OwnerShare) -> Result<Owner> {
    let hints = look_at(&pool);
    let shown = app
        .db
        .write("shares::put", move |conn| {
            let (pool, owner, share) = (pool.clone(), owner.clone(), share.clone());
            Box::pin(async move {
                store::put(conn, &pool, &owner, &share).await?;
                let shown = store::show(conn, &pool, Some(&owner), None, 1).await?.pop();
                shown
                    .map(|(_, owner)| owner)
                    .ok_or_else(|| no_share(&pool, &owner))
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(shown)
}

/// A share has changed: there may be more to start than anybody was told.
fn look_at(pool: &str) -> Hints {
    let mut hints = Hints::default();
    let hint = hints.pool(pool);
    hint.starts = u32::MAX;
    hint.selects = true;
    hints
}

/// An owner's share, and what it has.
///
/// # Errors
/// `PoolNotFound`, `NoShare`, `DatabaseUnavailable`.
pub async fn get(app: &App, pool: String, owner: String) -> Result<Owner> {
    app.db
        .read("shares::get", |conn| {
            Box::pin(async move {
                store::pool_is_there(conn, &pool).await?;
                let shown = store::show(conn, &pool, Some(&owner), None, 1).await?.pop();
                shown
                    .map(|(_, owner)| owner)
                    .ok_or_else(|| no_share(&pool, &owner))
            })
        })
        .await
}

/// The owners of a pool whose share is set, newest first, and one more than `limit` if there are more.
///
/// # Errors
/// `PoolNotFound`, `DatabaseUnavailable`.
pub async fn list(
    app: &App,
    pool: String,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<(Position, Owner)>> {
    app.db
        .read("shares::list", |conn| {
            Box::pin(async move {
                store::pool_is_there(conn, &pool).await?;
                store::show(conn, &pool, None, after, limit).await
            })
        })
        .await
}

/// Puts an owner's share back to the defaults.
///
/// # Errors
/// `PoolNotFound`, `NoShare`, `DatabaseUnavailable`.
pub async fn delete(app: &App, pool: String, owner: String) -> Result<()> {
    let hints = look_at(&pool);
    app.db
        .write("shares::delete", move |conn| {
            let (pool, owner) = (pool.clone(), owner.clone());
            Box::pin(async move {
                store::pool_is_there(conn, &pool).await?;
                if store::delete(conn, &pool, &owner).await? {
                    Ok(())
                } else {
                    Err(no_share(&pool, &owner))
                }
            })
        })
        .await?;
    app.hub.committed(hints);
    Ok(())
}
