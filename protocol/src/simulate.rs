//! What would become of a pool if agents were lost.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The body that asks what would be if agents were lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SimulateRequest {
    /// The agents of the pool that are lost, at most 1000; none: how it stands now.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(example = json!(["local-1"])))]
    pub lose: Vec<String>,
}

/// What would become of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Simulation {
    /// Whether nothing would wait: every session that the lost agents hold, and every one that waits
    /// today, goes to an agent.
    pub fits: bool,
    /// Whether everything was looked at; see the limits of the call. Where it was not, `fits` is
    /// false.
    pub complete: bool,
    /// How many sessions would go to an agent.
    pub moves_total: i64,
    /// How many would wait.
    pub waiting_total: i64,
    /// Where sessions would go, in the order in which they are given out; the first 1000.
    pub moves: Vec<SimulatedMove>,
    /// What would wait, and why; the first 1000.
    pub waiting: Vec<SimulatedWait>,
}

/// A session that would go to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SimulatedMove {
    /// The session.
    pub session_id: Uuid,
    /// The lost agent that holds it, or to which it is offered; null if it waits today.
    #[cfg_attr(feature = "openapi", schema(example = "local-1"))]
    pub from: Option<String>,
    /// The agent that would take it.
    #[cfg_attr(feature = "openapi", schema(example = "local-2"))]
    pub to: String,
    /// How, in numbers.
    #[cfg_attr(
        feature = "openapi",
        schema(example = "local-2 adopts it and then uses 4 of 10 slots")
    )]
    pub reason: String,
}

/// A session that would wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SimulatedWait {
    /// The session.
    pub session_id: Uuid,
    /// Why.
    #[cfg_attr(
        feature = "openapi",
        schema(example = "no agent that could start it has a free slot")
    )]
    pub reason: String,
}
