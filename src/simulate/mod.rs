//! Simulations: what would become of a pool's sessions if some of its agents were lost.
//!
//! Invariants:
//! - Nothing is changed and nothing locked: what is read is one snapshot, and the plan is a pure rule
//!   (`state.rs`).
//! - Each session that a lost agent holds, and each that waits today, is planned once: it goes to an
//!   agent, or it waits. Where there are more than the limits allow, the answer says so.
//!
//! What it does not do: foresee who polls. Placement is over all live agents that are not cordoned.

pub mod http;
mod queue;
mod state;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use lessor_protocol::{FieldError, SimulateRequest, Simulation};

use crate::app::App;
use crate::error::{Error, Result};
use crate::pools;
use crate::store::Conn;

use state::{Affected, Agent, Rules};

/// The most sessions that a plan is made for.
const MAX_SESSIONS: usize = 100_000;

/// The most agents, as `agents.sql` says.
const MAX_AGENTS: usize = 20_000;

/// The most of each list that is shown.
const MAX_SHOWN: usize = 1_000;

/// What a plan is made from.
struct Scene {
    agents: Vec<Agent>,
    sessions: Vec<Affected>,
    rules: Rules,
    places: HashMap<String, i64>,
    braked: bool,
    complete: bool,
}

/// What would become of a pool's sessions if these agents were lost.
///
/// # Errors
/// `PoolNotFound`, `Invalid` for agents that are unknown or of another pool, `DatabaseUnavailable`.
pub async fn simulate(app: &App, pool: &str, request: SimulateRequest) -> Result<Simulation> {
    let pool = pool.to_owned();
    let scene = app
        .db
        .snapshot("simulate::scene", move |conn| {
            let (pool, lose) = (pool.clone(), request.lose.clone());
            Box::pin(async move { scene(conn, &pool, &lose).await })
        })
        .await?;
    // Some tenths of a second for a large pool: no task of others waits for that.
    let planned = tokio::task::spawn_blocking(move || {
        let complete = scene.complete;
        let plan = state::plan(
            &scene.agents,
            scene.sessions,
            &scene.rules,
            scene.places,
            scene.braked,
        );
        (plan, complete)
    });
    let (mut plan, complete) = planned
        .await
        .map_err(|error| Error::Internal(error.to_string()))?;
    let complete = complete && !plan.too_many_selectors;
    let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    let simulation = Simulation {
        fits: complete && plan.waiting.is_empty(),
        complete,
        moves_total: count(plan.moves.len()),
        waiting_total: count(plan.waiting.len()),
        moves: plan
            .moves
            .drain(..plan.moves.len().min(MAX_SHOWN))
            .collect(),
        waiting: plan
            .waiting
            .drain(..plan.waiting.len().min(MAX_SHOWN))
            .collect(),
    };
    let fits = if simulation.fits { "true" } else { "false" };
    metrics::counter!("lessor_simulations_total", "fits" => fits).increment(1);
    Ok(simulation)
}

async fn scene(conn: &mut Conn, pool: &str, lose: &[String]) -> Result<Scene> {
    let rules = pools::rules(conn, pool).await?;
    check(pool, lose, &store::pools_of(conn, lose.to_vec()).await?)?;
    let lost: BTreeSet<&str> = lose.iter().map(String::as_str).collect();
    let mut agents = store::agents(conn, pool).await?;
    let few_enough = agents.len() < MAX_AGENTS;
    let live = agents.iter().filter(|agent| agent.live);
    let live_before = live.clone().count();
    let live_lost = live.filter(|a| lost.contains(a.name.as_str())).count();
    agents.retain(|agent| !lost.contains(agent.name.as_str()));
    let mut sessions = store::of_lost(conn, lose.to_vec()).await?;
    sessions.extend(store::waiting(conn, pool).await?);
    let complete = state::bound(&mut sessions, MAX_SESSIONS) && few_enough;
    Ok(Scene {
        agents,
        sessions,
        rules: Rules {
            placement: rules.placement,
            on_lost: rules.on_lost,
            adopt_timeout_seconds: rules.adopt_timeout_seconds,
        },
        places: store::places(conn, pool).await?,
        braked: state::brakes(live_lost, live_before),
        complete,
    })
}

fn check(pool: &str, lose: &[String], pools: &HashMap<String, String>) -> Result<()> {
    let wrong: Vec<FieldError> = lose
        .iter()
        .enumerate()
        .filter_map(|(at, name)| {
            let message = match pools.get(name) {
                None => format!("no agent `{name}` is registered"),
                Some(of) if of != pool => format!("agent `{name}` is of pool `{of}`"),
                Some(_) => return None,
            };
            Some(FieldError {
                pointer: format!("/lose/{at}"),
                message,
            })
        })
        .take(crate::problem::MAX_FIELD_ERRORS)
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Error::Invalid(wrong))
    }
}
