//! History: events and the lease ledger.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Action, ActorType, EndReason};

/// Something that happened, written in the transaction in which it happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Opaque; the same in streams and timelines.
    pub id: String,
    /// What happened, such as `session.state_changed`.
    #[cfg_attr(feature = "openapi", schema(example = "session.state_changed"))]
    pub kind: String,
    /// When.
    pub at: DateTime<Utc>,
    /// In which pool.
    pub pool: String,
    /// To which session.
    pub session_id: Option<Uuid>,
    /// With which agent.
    pub agent: Option<String>,
    /// Which run of it.
    pub incarnation: Option<i64>,
    /// Under which lease epoch.
    pub lease_epoch: Option<i64>,
    /// At which generation.
    pub generation: Option<i64>,
    /// Caused by whom.
    pub actor: Actor,
    /// What it was before.
    pub from: Option<String>,
    /// What it became.
    pub to: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// What else belongs to it.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: serde_json::Value,
}

/// Says in a stream that some of what was asked for cannot be shown: it is past retention, or its
/// positions were never given, as after a database was restored. The stream goes on all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventGap {
    /// The id after which the stream was to go on.
    pub asked: String,
    /// The id of the oldest event that is kept, or of the next one if none is.
    pub oldest: String,
    /// The id of the newest event.
    pub newest: String,
}

/// Who or what caused an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Actor {
    /// Its kind.
    #[serde(rename = "type")]
    pub actor_type: ActorType,
    /// Its name.
    pub name: String,
}

/// Who held a session, under which epoch, from when to when, and why it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LedgerItem {
    /// The epoch of the assignment.
    pub lease_epoch: i64,
    /// The agent.
    pub agent: String,
    /// Which run of it.
    pub incarnation: i64,
    /// What it was to do.
    pub action: Action,
    /// When it was offered.
    pub offered_at: DateTime<Utc>,
    /// When it was accepted.
    pub accepted_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it ended.
    pub end_reason: Option<EndReason>,
}
