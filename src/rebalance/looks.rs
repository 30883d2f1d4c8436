//! Pools that rebalance by themselves.
//!
//! Such a pool is looked at each third of its lease time. A domain that is uneven, by the pool's
//! `rebalance_min_gain`, in three looks in a row is evened out to within one session; agents that
//! come and go within that time change nothing. What such a rebalance has moved it does not move
//! again for 10 minutes, so sessions cannot go back and forth.

use std::sync::Arc;

use uuid::Uuid;

use super::{MAX_MOVES, state, store};
use crate::app::App;
use crate::error::Result;
use crate::pools;
use crate::sessions;
use crate::store::Conn;

/// In how many looks in a row a domain must be uneven.
const LOOKS: i64 = 3;

/// How many sessions it moves at a time.
const MAX_PARALLEL: i32 = 10;

/// Looks at the pools that are to be looked at.
pub async fn run(app: &Arc<App>) -> Result<()> {
    let pools = app
        .db
        .read("rebalance::looks_due", |conn| {
            Box::pin(store::looks_due(conn, None))
        })
        .await?;
    for pool in pools {
        let begun = app
            .db
            .write("rebalance::look", {
                let pool = pool.clone();
                move |conn| {
                    let pool = pool.clone();
                    Box::pin(async move { look(conn, &pool).await })
                }
            })
            .await?;
        if let Some(id) = begun {
            tracing::info!(rebalance = %id, pool, "the pool is uneven: it rebalances by itself");
        }
    }
    Ok(())
}

/// Looks at a pool; the rebalance that it begins.
async fn look(conn: &mut Conn, pool: &str) -> Result<Option<Uuid>> {
    store::lock_plans(conn, pool).await?;
    // Another server may have looked meanwhile, or somebody has begun one.
    if store::looks_due(conn, Some(pool)).await?.is_empty() {
        return Ok(None);
    }
    let rules = pools::rules(conn, pool).await?;
    let Some(min_gain) = rules.rebalance_min_gain else {
        return Ok(None);
    };
    let fleet = super::fleet(conn, pool, &rules, true).await?;
    let before = store::uneven(conn, pool).await?;
    let mut uneven = std::collections::BTreeMap::new();
    let mut moves = Vec::new();
    for (domain, members) in fleet {
        if state::plan(members.clone(), i64::from(min_gain), 1).is_empty() {
            continue;
        }
        let looks = before.get(&domain).copied().unwrap_or_default() + 1;
        if looks < LOOKS {
            uneven.insert(domain, looks);
        } else if moves.len() < MAX_MOVES {
            moves.extend(state::plan(members, 1, MAX_MOVES - moves.len()));
        }
    }
    store::looked(conn, pool, uneven).await?;
    if moves.is_empty() {
        return Ok(None);
    }
    let actor = sessions::system("rebalance");
    let id = super::begin(conn, pool, (true, MAX_PARALLEL), &actor, &moves).await?;
    Ok(Some(id))
}
