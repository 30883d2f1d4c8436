//! Agents: registration, heartbeats, cordons.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Availability, Labels, Scheduling, Secret};

/// An agent as the service sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Agent {
    /// Its name, chosen by who deploys it; the same over restarts.
    #[cfg_attr(feature = "openapi", schema(example = "local-1"))]
    pub name: String,
    /// The pool whose sessions it claims.
    pub pool: String,
    /// The cluster or host whose resources it can reach.
    pub resource_domain: String,
    /// Its session slots.
    pub capacity: i32,
    /// How many sessions it holds, offers included; may exceed `capacity`.
    pub held_sessions: i64,
    /// Slots that are free.
    pub free_slots: i32,
    /// Its labels.
    pub labels: Labels,
    /// The version of its software, as it said.
    pub agent_version: Option<String>,
    /// The protocol version it speaks.
    pub protocol_version: i32,
    /// The process that runs as this agent.
    pub instance: Option<Instance>,
    /// The number of that run; an older one is fenced.
    pub incarnation: i64,
    /// Whether its lease holds.
    pub availability: Availability,
    /// Whether it is given new sessions.
    pub scheduling: Scheduling,
    /// The cordon, if there is one.
    pub cordon: Option<Cordon>,
    /// How long its lease still lasts; null when it has ended.
    pub lease_expires_in_seconds: Option<f64>,
    /// When its lease was last renewed.
    pub last_heartbeat_at: DateTime<Utc>,
    /// When this incarnation registered.
    pub registered_at: DateTime<Utc>,
    /// When its name was first registered.
    pub created_at: DateTime<Utc>,
}

/// One run of an agent's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// A random id, drawn at each start of the process; 1 to 128 bytes.
    pub id: String,
    /// The host it runs on.
    #[serde(default)]
    pub host: Option<String>,
    /// Its process id there.
    #[serde(default)]
    pub pid: Option<i64>,
}

/// Why an agent is given no new sessions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cordon {
    /// Why, in somebody's words.
    pub reason: Option<String>,
    /// By whom.
    pub by: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Until when; null until somebody lifts it.
    pub until: Option<DateTime<Utc>>,
}

/// The body of a registration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The pool whose sessions it claims.
    pub pool: String,
    /// The cluster or host whose resources it can reach; its own name if left out: nothing shared.
    #[serde(default)]
    pub resource_domain: Option<String>,
    /// Its session slots: 0 to 1000000.
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1000000))]
    pub capacity: i32,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// The version of its software.
    #[serde(default)]
    pub agent_version: Option<String>,
    /// The protocol version it speaks; the newest if left out.
    #[serde(default)]
    pub protocol_version: Option<i32>,
    /// This run of its process; without it every registration is a new incarnation.
    #[serde(default)]
    pub instance: Option<Instance>,
    /// What the process still drives: at most 10,000.
    #[serde(default)]
    pub held: Vec<HeldSession>,
}

/// A session under the epoch by which an agent knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HeldSession {
    /// The session.
    pub session_id: Uuid,
    /// The lease epoch.
    pub lease_epoch: i64,
}

/// The answer to a registration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Registered {
    /// The agent as it is now.
    pub agent: Agent,
    /// What every call of this run carries.
    pub incarnation: i64,
    /// The lease.
    pub lease: Lease,
    /// The protocol version that is spoken.
    pub protocol_version: i32,
    /// Sessions it holds on to, under these epochs.
    pub keep: Vec<HeldSession>,
    /// Sessions to stop acting on and forget; their resources must be left alone.
    pub drop: Vec<DroppedSession>,
    /// Sessions that were assigned to its name, which it did not list: others can claim them now.
    pub released: Vec<Uuid>,
    /// The agent's own token, where a token with role `enroll` registered it: for all its other calls.
    /// It is shown here only; the one before works for another minute.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub token: Option<Secret>,
}

/// A session that an agent must stop acting on, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DroppedSession {
    /// The session.
    pub session_id: Uuid,
    /// Why: `assigned_elsewhere`, `lease_epoch_stale`, `other_domain`, `other_pool`, `ended`, `taken`, `session_not_found`.
    pub reason: String,
}

/// The terms of a lease. Its end is decided by the database's clock alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lease {
    /// How long it lasts.
    pub ttl_seconds: f64,
    /// Renew after this long: a third of it.
    pub renew_after_seconds: f64,
    /// Stop acting after this long without an answer: two thirds of it.
    pub self_fence_after_seconds: f64,
}

/// The body of a heartbeat.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The incarnation.
    pub incarnation: i64,
    /// How long sessions that it holds have been idle: at most 10,000.
    #[serde(default)]
    pub activity: Vec<Activity>,
    /// Sessions it has stopped acting on, after `lost` named them.
    #[serde(default)]
    pub dropped: Vec<HeldSession>,
}

/// How long a session has been idle.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Activity {
    /// The session.
    pub session_id: Uuid,
    /// For how long: 0 if it is in use now.
    #[cfg_attr(feature = "openapi", schema(minimum = 0))]
    pub idle_seconds: f64,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Renewed {
    /// The lease.
    pub lease: Lease,
    /// Whether the agent is given new sessions.
    pub scheduling: Scheduling,
    /// Sessions taken away from it: stop acting, forget, say so in `dropped`.
    pub lost: Vec<Uuid>,
    /// Whether an inventory is due.
    pub inventory_wanted: bool,
}

/// The body of a cordon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CordonRequest {
    /// Why, for people.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it lifts by itself.
    #[serde(default)]
    pub until: Option<DateTime<Utc>>,
}
