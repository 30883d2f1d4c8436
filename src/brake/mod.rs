//! The brake of a pool: while much of it is silent, what cannot be undone is held.
//!
//! A load balancer's outage, or a network's, looks to Lessor like the death of half a fleet. Leases
//! end then and sessions can be adopted, which stops nothing that runs. But `on_lost` would start
//! sessions a second time, or fail them, and a wanted end would be given without an agent. While at
//! least three agents of a pool and at least half of those that count are silent, none of that is
//! decided there, and `adopt_timeout_seconds` stands still.
//!
//! Who is silent is said in one place, the view `pool_silence`.
//!
//! Invariants:
//! - Who decides by `on_lost` judges the silence in the same transaction, with the pool's row
//!   locked ([`judge`]): no decision slips through because no task has looked yet.
//! - A pool's row is locked before sessions and domains, and a brake is turned only by who has it
//!   locked. So each turn has one event, however many servers there are.
//! - A brake is no setting: the pool's version does not change with it.
//!
//! What it does not do: keep leases from ending, or anything from being claimed.

pub mod http;
mod store;

use std::sync::Arc;

use lessor_protocol::Actor;

use crate::app::App;
use crate::error::{Error, Result};
use crate::sessions;

use store::Cause;
pub use store::Verdict;

/// Looks at every pool and turns the brakes that are other than the silence says; sets the gauges.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn run(app: &Arc<App>) -> Result<()> {
    let seen = app
        .db
        .read("brake::look", |conn| Box::pin(store::look(conn)))
        .await?;
    show(&seen);
    let other: Vec<String> = seen
        .into_iter()
        .filter(|verdict| verdict.turned)
        .map(|verdict| verdict.pool)
        .collect();
    if other.is_empty() {
        return Ok(());
    }
    let verdicts = app
        .db
        .write("brake::run", move |conn| {
            let other = other.clone();
            Box::pin(async move {
                let locked = store::lock(conn, other).await?;
                store::judge(conn, locked, &Cause::silence()).await
            })
        })
        .await?;
    tell(&verdicts);
    Ok(())
}

/// Judges a pool whose row this transaction has locked: whether its brake holds, turned just now or
/// before. None while nothing is known, for want of a fresh pulse; nothing may be decided then
/// either. Once it has been committed, [`tell`] wants to know.
///
/// # Errors
/// When the database refuses.
pub async fn judge(conn: &mut crate::store::Conn, pool: &str) -> Result<Option<Verdict>> {
    let verdicts = store::judge(conn, vec![pool.to_owned()], &Cause::silence()).await?;
    Ok(verdicts.into_iter().next())
}

/// An operator's release: the brake goes off, and who has not beaten since does not count as silent
/// until it beats again. Where no brake is on, nothing changes.
///
/// # Errors
/// `PoolNotFound`, `DatabaseUnavailable`.
pub async fn release(app: &Arc<App>, pool: &str, actor: Actor) -> Result<()> {
    let name = pool.to_owned();
    let verdicts = app
        .db
        .write("brake::release", move |conn| {
            let (name, actor) = (name.clone(), actor.clone());
            Box::pin(async move {
                if !store::lock_one(conn, &name).await? {
                    return Err(Error::PoolNotFound(name));
                }
                store::judge(conn, vec![name], &Cause::released(actor)).await
            })
        })
        .await?;
    tell(&verdicts);
    Ok(())
}

/// Logs the brakes that were turned, and shows how things stand. After the commit, since a
/// transaction may be run again.
pub fn tell(verdicts: &[Verdict]) {
    for verdict in verdicts.iter().filter(|verdict| verdict.turned) {
        let (pool, silent, counted) =
            (&verdict.pool, verdict.silent_agents, verdict.counted_agents);
        if verdict.holds {
            tracing::warn!(
                pool,
                silent,
                counted,
                "much of the pool is silent: its brake is on and on_lost is held"
            );
        } else {
            tracing::info!(pool, silent, counted, "the brake of the pool is off");
        }
    }
    show(verdicts);
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn show(verdicts: &[Verdict]) {
    for verdict in verdicts {
        let on = if verdict.holds { 1.0 } else { 0.0 };
        metrics::gauge!("lessor_brake", "pool" => verdict.pool.clone()).set(on);
        metrics::gauge!("lessor_agents_silent", "pool" => verdict.pool.clone())
            .set(verdict.silent_agents as f64);
    }
}

impl Cause {
    fn silence() -> Self {
        Self {
            released: false,
            actor: sessions::system("brake"),
        }
    }

    fn released(actor: Actor) -> Self {
        Self {
            released: true,
            actor,
        }
    }
}
