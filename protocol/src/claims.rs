//! Claims: the long poll by which an agent is given work.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Action, Command, CommandResult, CommandResultOutcome, HeldSession, Lease, Report, ReportResult,
    Scheduling, Session,
};

/// The body of a claim. Its reports are handled before work is looked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The incarnation.
    pub incarnation: i64,
    /// How many sessions it takes at most: 0 to 1000. With 0 only work on what it holds.
    #[serde(default = "one")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1000))]
    pub max_sessions: i32,
    /// How long to wait for work: 0 to 55.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 55))]
    pub wait_seconds: f64,
    /// Reports: at most 1000.
    #[serde(default)]
    pub reports: Vec<Report>,
    /// Results of commands: at most 1000.
    #[serde(default)]
    pub command_results: Vec<CommandResult>,
    /// Sessions it has stopped acting on, after `lost` named them.
    #[serde(default)]
    pub dropped: Vec<HeldSession>,
}

fn one() -> i32 {
    1
}

/// The answer to a claim.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Claimed {
    /// What to do, in order.
    pub assignments: Vec<Assignment>,
    /// Commands for sessions that it holds, in the order in which they were created. One is
    /// repeated until it is acknowledged; one that comes as `cancelled` is to be stopped.
    pub commands: Vec<Command>,
    /// What became of each report, in the order in which they were sent.
    pub results: Vec<ReportResult>,
    /// What became of each command result.
    pub command_results: Vec<CommandResultOutcome>,
    /// Sessions taken away from it: stop acting, forget, say so in `dropped`.
    pub lost: Vec<Uuid>,
    /// The lease.
    pub lease: Lease,
    /// Whether the agent is given new sessions.
    pub scheduling: Scheduling,
    /// Whether an inventory is due.
    pub inventory_wanted: bool,
}

/// A session and what to do with it. It is repeated until a report under its epoch and generation
/// has been accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Assignment {
    /// The session as it is now.
    pub session: Session,
    /// What to do.
    pub action: Action,
    /// The epoch that every report on it must carry.
    pub lease_epoch: i64,
    /// The generation to acknowledge.
    pub generation: i64,
    /// When the offer lapses; null once it has been accepted.
    pub offered_until: Option<DateTime<Utc>>,
}
