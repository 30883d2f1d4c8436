//! History: events, written in the transaction of the change they tell of.
//!
//! What this does not do yet: number events densely in commit order over all sessions and stream
//! them. Within one session their order is the order of the changes already, since each was
//! written under the session's row lock.

mod row;

use chrono::{DateTime, Utc};
use lessor_protocol::ActorType;
use serde::Serialize;
use uuid::Uuid;

pub use row::{EventRow, LedgerRow};

/// An event on its way into the table; serialized, it is an argument of the statement that writes.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct NewEvent {
    pub kind: &'static str,
    pub at: DateTime<Utc>,
    pub pool: String,
    pub session_id: Option<Uuid>,
    pub agent: Option<String>,
    pub incarnation: Option<i64>,
    pub lease_epoch: Option<i64>,
    pub generation: Option<i64>,
    pub actor_type: ActorType,
    pub actor_name: String,
    pub from_value: Option<String>,
    pub to_value: Option<String>,
    pub reason: Option<String>,
    pub data: serde_json::Value,
}
