//! Drains: agents that hand over what they hold, while it runs on.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{DrainStatus, OnLost};

/// The body that starts a drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// When what has not been handed over is taken, or left to the pool's `on_lost` where nobody can
    /// adopt it: 0 to 604800 seconds from now, 300 if left out.
    #[serde(default = "five_minutes")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 604800))]
    pub deadline_seconds: f64,
    /// Do not ask the holders and do not wait: their holds are taken now, and what nobody can adopt
    /// is left to `on_lost` now.
    #[serde(default)]
    pub force: bool,
    /// Why, for people.
    #[serde(default)]
    pub reason: Option<String>,
}

fn five_minutes() -> f64 {
    300.0
}

impl Default for DrainRequest {
    fn default() -> Self {
        Self {
            deadline_seconds: five_minutes(),
            force: false,
            reason: None,
        }
    }
}

/// A drain, of one agent or of every agent that a pool had when it began.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Drain {
    /// The agent; null where the whole pool is drained.
    #[cfg_attr(feature = "openapi", schema(example = "local-1"))]
    pub agent: Option<String>,
    /// The pool.
    pub pool: String,
    /// How far it is.
    pub status: DrainStatus,
    /// Why, in somebody's words.
    pub reason: Option<String>,
    /// By whom.
    pub by: String,
    /// Whether holds are taken without asking.
    pub force: bool,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// When what has not been handed over is taken, or left to `on_lost`.
    pub deadline_at: DateTime<Utc>,
    /// When it was over; null while it is not.
    pub finished_at: Option<DateTime<Utc>>,
    /// How many sessions its agents held.
    pub total: i64,
    /// How many of them another agent has taken over and reported on.
    pub handed_over: i64,
    /// How many are still to be: neither taken over nor ended, hibernated or queued anew.
    pub remaining: i64,
    /// What cannot be handed over at present, and why; at most 1000.
    pub blocked: Vec<Blocked>,
    /// Whether, in a domain of its agents, there is no other agent that could adopt: live and not
    /// cordoned.
    pub last_of_domain: bool,
    /// What is done at the deadline with what nobody can adopt: the pool's `on_lost`. With `wait` it
    /// stays with its holder, and the drain fails.
    pub on_lost: OnLost,
}

/// A session that cannot be handed over at present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Blocked {
    /// The session.
    pub session_id: Uuid,
    /// Why: `no_other_agent` (live and not cordoned in its domain), `not_running` (it is on its way
    /// to another state), `holder_does_not_answer`, `holder_may_still_act` (its hold was taken, and
    /// neither has it said so nor has its lease run out).
    pub reason: String,
}
