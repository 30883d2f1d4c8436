//! Shares: how much of a pool each owner gets while several have something waiting.

use serde::{Deserialize, Serialize};

/// What an owner is to have in a pool. What is left out takes its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OwnerShare {
    /// How much it gets beside an owner of weight 1 while both have something waiting: above 0, up to
    /// 1000. Less than 0.001 counts as 0.001.
    #[serde(default = "one")]
    #[cfg_attr(
        feature = "openapi",
        schema(exclusive_minimum = 0.0, maximum = 1000, default = 1.0)
    )]
    pub weight: f64,
    /// While so many of its sessions are on an agent or on their way, none is started: 0 to 1000000;
    /// null: no limit.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1_000_000))]
    pub max_running: Option<i32>,
}

fn one() -> f64 {
    1.0
}

impl Default for OwnerShare {
    fn default() -> Self {
        Self {
            weight: one(),
            max_running: None,
        }
    }
}

/// An owner's share of a pool, and what it has there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Owner {
    /// The pool.
    pub pool: String,
    /// The owner, as sessions name it.
    pub owner: String,
    /// How much it gets beside an owner of weight 1 while both have something waiting.
    pub weight: f64,
    /// While so many of its sessions are on an agent or on their way, none is started.
    pub max_running: Option<i32>,
    /// How many are: starting, running, waking, hibernating or terminating, or offered.
    pub running: i64,
    /// How many wait to be started.
    pub waiting: i64,
}
