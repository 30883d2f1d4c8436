//! Acting on whatever a filter matches: sessions and agents by the hundred.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::filter::{LabelFilter, StateFilter};
use crate::words::words;
use crate::{Availability, DesiredState, Scheduling, UnknownWord};

words! {
    /// What is done to the sessions that a filter matches.
    BulkAction {
        /// Their end is wanted, as by DELETE.
        Terminate = "terminate",
        /// Dead letters are tried again; nothing else is matched.
        Retry = "retry",
        /// They should be hibernated, as by PATCH.
        Hibernate = "hibernate",
        /// They should run, as by PATCH.
        Run = "run",
    }
}

words! {
    /// What is done to the agents that a filter matches.
    AgentBulkAction {
        /// They are given no new sessions.
        Cordon = "cordon",
        /// They are given some again, and leave the drains that they take part in.
        Uncordon = "uncordon",
        /// Each hands over what it holds.
        Drain = "drain",
    }
}

/// Which sessions; all that is given must hold, and something must be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BulkFilter {
    /// Only of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "local"))]
    pub pool: Option<String>,
    /// Only in one of these states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateFilter>,
    /// Only with this desired state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_state: Option<DesiredState>,
    /// Only assigned to this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_agent_id: Option<String>,
    /// Only assigned, or only unassigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<bool>,
    /// Only of this owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Only with this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only with all of these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<LabelFilter>,
    /// Only of this resource domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_domain: Option<String>,
    /// Only created after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_after: Option<DateTime<Utc>>,
    /// Only created before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_before: Option<DateTime<Utc>>,
}

/// The body that acts on sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// Which sessions.
    pub filter: BulkFilter,
    /// What is done to them.
    pub action: BulkAction,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for people: 1 to 1024 bytes. Only with `terminate`, as all that follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long their resources have to end by themselves: 0 to 86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 86400))]
    pub grace_seconds: Option<f64>,
    /// Whether their data goes with them; as each session says if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_data: Option<bool>,
    /// Do not wait for domains that have no live agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

impl BulkRequest {
    /// An action, with every default.
    #[must_use]
    pub fn new(action: BulkAction, filter: BulkFilter) -> Self {
        Self {
            filter,
            action,
            dry_run: false,
            reason: None,
            grace_seconds: None,
            delete_data: None,
            force: None,
        }
    }
}

/// What was done to sessions, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Bulk {
    /// How many sessions the filter matched when the call began.
    pub matched: i64,
    /// How many were changed by this call, at most 10000; the others were so already, or it cannot
    /// be done to them.
    pub changed: i64,
    /// Which were changed, oldest first; the first 1000.
    pub session_ids: Vec<Uuid>,
    /// Whether there were more to change than one call does: repeat it.
    pub more: bool,
}

/// Which agents; all that is given must hold, and something must be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AgentBulkFilter {
    /// Only of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "local"))]
    pub pool: Option<String>,
    /// Only with this availability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<Availability>,
    /// Only with this scheduling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
    /// Only of this resource domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_domain: Option<String>,
    /// Only with all of these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<LabelFilter>,
}

/// The body that acts on agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AgentBulkRequest {
    /// Which agents.
    pub filter: AgentBulkFilter,
    /// What is done to them.
    pub action: AgentBulkAction,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for people: 1 to 1024 bytes. With `cordon` and `drain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the cordon lifts by itself. With `cordon`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// The deadline of each drain: 0 to 604800 seconds from now, 300 if left out. With `drain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 604800))]
    pub deadline_seconds: Option<f64>,
    /// Holds are taken without asking. With `drain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

impl AgentBulkRequest {
    /// An action, with every default.
    #[must_use]
    pub fn new(action: AgentBulkAction, filter: AgentBulkFilter) -> Self {
        Self {
            filter,
            action,
            dry_run: false,
            reason: None,
            until: None,
            deadline_seconds: None,
            force: None,
        }
    }
}

/// What was done to agents, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentBulk {
    /// How many agents the filter matched when the call began.
    pub matched: i64,
    /// How many were changed by this call, at most 1000; the others were so already.
    pub changed: i64,
    /// Which were changed, by name.
    #[cfg_attr(feature = "openapi", schema(example = json!(["local-1", "local-2"])))]
    pub agents: Vec<String>,
    /// Whether there were more to change than one call does: repeat it.
    pub more: bool,
}
