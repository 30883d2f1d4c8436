//! Rebalances: running sessions move to the agents of their domain that hold few.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{MoveState, RebalanceStatus};

/// The body that asks for a rebalance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RebalanceRequest {
    /// Only say what would be moved.
    #[serde(default)]
    pub dry_run: bool,
    /// The most sessions to move: 1 to 10000; null: as many as it takes, 10000 at most.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10000))]
    pub max_moves: Option<i32>,
    /// The most sessions that are moved at a time: 1 to 1000.
    #[serde(default = "ten")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub max_parallel: i32,
    /// The difference between two agents of a domain, in sessions, that is left as it is: 1 to
    /// 1000000.
    #[serde(default = "one")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000000))]
    pub min_gain: i32,
}

fn ten() -> i32 {
    10
}

fn one() -> i32 {
    1
}

impl Default for RebalanceRequest {
    fn default() -> Self {
        Self {
            dry_run: false,
            max_moves: None,
            max_parallel: ten(),
            min_gain: one(),
        }
    }
}

/// A rebalance, or what one would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rebalance {
    /// Its id; null where nothing was begun.
    pub id: Option<Uuid>,
    /// Whether it was only asked what it would do.
    pub dry_run: bool,
    /// How far it is; `planned` for a dry run.
    pub status: RebalanceStatus,
    /// Its moves, in the order in which they are made.
    pub moves: Vec<RebalanceMove>,
}

/// A session that moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RebalanceMove {
    /// The session.
    pub session_id: Uuid,
    /// The agent that holds it.
    #[cfg_attr(feature = "openapi", schema(example = "local-1"))]
    pub from: String,
    /// The agent that is to have it.
    #[cfg_attr(feature = "openapi", schema(example = "local-2"))]
    pub to: String,
    /// Why, in numbers.
    #[cfg_attr(
        feature = "openapi",
        schema(example = "local-1 holds 6 of 10 and local-2 0 of 10; after this move 5 and 1")
    )]
    pub reason: String,
    /// How far the move is.
    pub state: MoveState,
}
