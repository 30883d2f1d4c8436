//! What an autoscaler asks of a pool: how many agents it needs, and which can go.
//!
//! It only looks. The numbers are those of `GET /pools/{pool}` and of `/metrics`; what is added is
//! the rule that makes a number of agents of them, from zero agents up.

pub mod http;
mod state;
mod store;

use lessor_protocol::{Pool, Scaling};

use crate::app::App;
use crate::error::Result;
use crate::{pools, sessions};

pub use state::desired_agents;

/// What an autoscaler wants to know of a pool now.
///
/// # Errors
/// `PoolNotFound`, `DatabaseUnavailable`.
pub async fn get(app: &App, pool: &str) -> Result<Scaling> {
    let pool: Pool = pools::get(app, pool).await?;
    let name = pool.name.clone();
    let (computed_at, removable_agents) = app
        .db
        .read("scaling::removable", |conn| {
            Box::pin(async move {
                let now = sessions::now(conn).await?;
                Ok((now, store::removable(conn, &name).await?))
            })
        })
        .await?;
    Ok(Scaling {
        desired_agents: state::desired_agents(&pool),
        slots_per_agent: state::slots_per_agent(&pool),
        live_agents: pool.counts.agents.live,
        waiting_sessions: pool.counts.sessions.waiting,
        oldest_waiting_seconds: pool.oldest_waiting_seconds.unwrap_or_default(),
        held_sessions: pool.counts.slots.held,
        capacity_slots: pool.counts.slots.capacity,
        free_slots: pool.counts.slots.free,
        pool: pool.name,
        computed_at,
        removable_agents,
    })
}
