//! Rebalances: running sessions move from the agents of a domain that hold many to those that hold
//! few, after new ones have come for example.
//!
//! A move is a hand-over on behalf of one agent: the holder is asked to let go (`release`), and the
//! session is kept for the target for as long as an offer stands; after that anybody in the domain
//! can adopt it. What is to be moved is a pure rule (`state.rs`).
//!
//! Invariants:
//! - No session is stopped by it. A move that does not come about is taken back.
//! - A session is in one move at a time; moves on their way count as made, whoever plans more.
//! - No more sessions are on their way than the rebalance allows.
//! - Only sessions of live agents that are not cordoned move, and only to such: taking an agent away
//!   is what drains are for.
//! - A pool whose placement is `pack` is not evened out, since that would undo the packing.

mod advance;
pub mod http;
mod looks;
mod state;
mod store;

use std::sync::Arc;
use std::time::Duration;

use lessor_protocol::{
    Actor, MoveState, Placement, PoolSpec, Rebalance, RebalanceMove, RebalanceRequest,
    RebalanceStatus,
};
use uuid::Uuid;

use crate::app::App;
use crate::error::{Error, Result};
use crate::pools;
use crate::store::Conn;

use state::Planned;
use store::Fleet;

/// The most moves of one rebalance.
const MAX_MOVES: usize = 10_000;

/// The most steps of one rebalance in one turn.
const MAX_STEPS: usize = 100;

/// Rebalances a pool, or says what that would move.
///
/// # Errors
/// `PoolNotFound`, `DatabaseUnavailable`.
pub async fn start(
    app: &Arc<App>,
    pool: &str,
    request: RebalanceRequest,
    actor: Actor,
) -> Result<Rebalance> {
    let pool = pool.to_owned();
    app.db
        .write("rebalance::start", move |conn| {
            let (pool, request, actor) = (pool.clone(), request.clone(), actor.clone());
            Box::pin(async move { start_in(conn, &pool, &request, &actor).await })
        })
        .await
}

async fn start_in(
    conn: &mut Conn,
    pool: &str,
    request: &RebalanceRequest,
    actor: &Actor,
) -> Result<Rebalance> {
    let rules = pools::rules(conn, pool).await?;
    if !request.dry_run {
        store::lock_plans(conn, pool).await?;
    }
    let mut left = request
        .max_moves
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(MAX_MOVES)
        .min(MAX_MOVES);
    let mut moves = Vec::new();
    for members in fleet(conn, pool, &rules, false).await?.into_values() {
        let planned = state::plan(members, i64::from(request.min_gain), left);
        left -= planned.len();
        moves.extend(planned);
    }
    let (id, status) = if request.dry_run {
        (None, RebalanceStatus::Planned)
    } else if moves.is_empty() {
        (None, RebalanceStatus::Completed)
    } else {
        let id = begin(conn, pool, (false, request.max_parallel), actor, &moves).await?;
        (Some(id), RebalanceStatus::InProgress)
    };
    Ok(Rebalance {
        id,
        dry_run: request.dry_run,
        status,
        moves: moves.into_iter().map(shown).collect(),
    })
}

/// The agents whose sessions can be moved, by domain; none in a pool that packs.
async fn fleet(conn: &mut Conn, pool: &str, rules: &PoolSpec, rested: bool) -> Result<Fleet> {
    match rules.placement {
        Placement::Spread => store::fleet(conn, pool, rested).await,
        Placement::Pack => Ok(Fleet::new()),
    }
}

async fn begin(
    conn: &mut Conn,
    pool: &str,
    how: (bool, i32),
    actor: &Actor,
    moves: &[Planned],
) -> Result<Uuid> {
    let id = Uuid::now_v7();
    store::begin(conn, (id, pool), how, actor, moves).await?;
    store::record(conn, id, "rebalance.started", actor).await?;
    Ok(id)
}

fn shown(planned: Planned) -> RebalanceMove {
    RebalanceMove {
        session_id: planned.session.id,
        from: planned.from,
        to: planned.to,
        reason: planned.reason,
        state: MoveState::Planned,
    }
}

/// The newest rebalance of a pool.
///
/// # Errors
/// `NoRebalance`, `DatabaseUnavailable`.
pub async fn get(app: &App, pool: &str) -> Result<Rebalance> {
    let pool = pool.to_owned();
    app.db
        .read("rebalance::get", |conn| {
            Box::pin(async move {
                let newest = store::newest(conn, &pool).await?;
                newest.ok_or(Error::NoRebalance(pool))
            })
        })
        .await
}

/// Calls off what the rebalances of a pool have not begun yet; what is on its way goes on. Gives the
/// newest, which stays as it is if it is over.
///
/// # Errors
/// `NoRebalance`, `DatabaseUnavailable`.
pub async fn cancel(app: &Arc<App>, pool: &str, actor: Actor) -> Result<Rebalance> {
    let pool = pool.to_owned();
    let (rebalance, cancelled) = app
        .db
        .write("rebalance::cancel", move |conn| {
            let (pool, actor) = (pool.clone(), actor.clone());
            Box::pin(async move {
                let mut cancelled = 0;
                for id in store::in_progress_of(conn, &pool).await? {
                    // A step of it may be at work just now: what that begins is on its way.
                    store::lock(conn, id).await?;
                    let Some(moves) = store::call_off(conn, id).await? else {
                        continue;
                    };
                    cancelled += moves;
                    store::finish(conn, id).await?;
                    store::record(conn, id, "rebalance.cancelled", &actor).await?;
                }
                let newest = store::newest(conn, &pool).await?;
                Ok((newest.ok_or(Error::NoRebalance(pool))?, cancelled))
            })
        })
        .await?;
    count(&vec![MoveState::Cancelled; cancelled]);
    Ok(rebalance)
}

/// After the commit, since a transaction may be run again.
fn count(outcomes: &[MoveState]) {
    for outcome in outcomes {
        metrics::counter!("lessor_rebalance_moves_total", "outcome" => outcome.as_str())
            .increment(1);
    }
}

/// Moves every rebalance on, and looks at the pools that rebalance by themselves; when to do so
/// again.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn run(app: &Arc<App>) -> Result<Duration> {
    let ids = app
        .db
        .read("rebalance::unfinished", |conn| {
            Box::pin(store::unfinished(conn))
        })
        .await?;
    let pause = Duration::from_millis(if ids.is_empty() { 500 } else { 200 });
    for id in ids {
        for _ in 0..MAX_STEPS {
            let step = app
                .db
                .write("rebalance::advance", move |conn| {
                    Box::pin(advance::advance(conn, id))
                })
                .await?;
            count(&step.outcomes);
            app.hub.committed(step.hints);
            if let Some(status) = step.ended {
                tracing::info!(rebalance = %id, %status, "a rebalance is over");
            }
            if !step.more {
                break;
            }
        }
    }
    looks::run(app).await?;
    Ok(pause)
}
