//! Approvals: which agents may be in a pool that asks for that.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// An agent that has asked to be in a pool, or was approved for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentApproval {
    /// The pool.
    pub pool: String,
    /// The agent; it may not be registered.
    pub agent: String,
    /// When it last asked and was told to wait.
    pub asked_at: Option<DateTime<Utc>>,
    /// When it was approved; null while it waits.
    pub approved_at: Option<DateTime<Utc>>,
    /// By whom.
    pub approved_by: Option<String>,
}

/// Which pool an agent is approved for, or no more.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ApprovalRequest {
    /// The pool; the one that it asked for last if left out.
    #[serde(default)]
    pub pool: Option<String>,
}
