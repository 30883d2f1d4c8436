//! Scaling: how many agents a pool needs, and which can go.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What an autoscaler wants to know of a pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Scaling {
    /// The pool.
    pub pool: String,
    /// When this was computed.
    pub computed_at: DateTime<Utc>,
    /// How many agents the pool needs: held and waiting sessions over slots per agent, rounded up.
    #[cfg_attr(feature = "openapi", schema(example = 3))]
    pub desired_agents: i64,
    /// How many agents are live.
    pub live_agents: i64,
    /// How many sessions wait for an agent, now or after a pause.
    pub waiting_sessions: i64,
    /// For how long the oldest of them has waited; 0 if none does.
    pub oldest_waiting_seconds: f64,
    /// How many sessions use a slot of a live agent, offers included.
    pub held_sessions: i64,
    /// The slots of the live agents.
    pub capacity_slots: i64,
    /// Those that are free, on agents that are not cordoned.
    pub free_slots: i64,
    /// Slots per agent: the mean of the live ones, or without any the pool's `slots_per_agent`.
    #[cfg_attr(feature = "openapi", schema(example = 10.0))]
    pub slots_per_agent: f64,
    /// Agents that hold nothing, in the order in which to take them away: drained ones first; at most
    /// 1000. One that is only empty may be given a session at any moment: drain it first.
    pub removable_agents: Vec<RemovableAgent>,
}

/// An agent that can be taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RemovableAgent {
    /// The agent.
    pub agent: String,
    /// Why: `drained`, or `empty`.
    pub reason: String,
}
