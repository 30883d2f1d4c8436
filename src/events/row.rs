//! Events and ledger lines as their rows have them.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use lessor_protocol::{Action, Actor, ActorType, EndReason, Event, LedgerItem};
use uuid::Uuid;

use crate::store::schema::{events, lease_ledger};
use crate::store::{MaybeWord, Word};

/// A row of `events`.
#[derive(Clone, Debug, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = events)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct EventRow {
    pub id: i64,
    pub kind: String,
    pub at: DateTime<Utc>,
    pub pool: String,
    pub owner: Option<String>,
    pub session_id: Option<Uuid>,
    pub agent: Option<String>,
    pub incarnation: Option<i64>,
    pub lease_epoch: Option<i64>,
    pub generation: Option<i64>,
    #[diesel(deserialize_as = Word<ActorType>)]
    pub actor_type: ActorType,
    pub actor_name: String,
    pub from_value: Option<String>,
    pub to_value: Option<String>,
    pub reason: Option<String>,
    pub data: serde_json::Value,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        Self {
            id: row.id.to_string(),
            kind: row.kind,
            at: row.at,
            pool: row.pool,
            session_id: row.session_id,
            agent: row.agent,
            incarnation: row.incarnation,
            lease_epoch: row.lease_epoch,
            generation: row.generation,
            actor: Actor {
                actor_type: row.actor_type,
                name: row.actor_name,
            },
            from: row.from_value,
            to: row.to_value,
            reason: row.reason,
            data: row.data,
        }
    }
}

/// A row of `lease_ledger`.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = lease_ledger)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct LedgerRow {
    pub session_id: Uuid,
    pub lease_epoch: i64,
    pub agent: String,
    pub incarnation: i64,
    #[diesel(deserialize_as = Word<Action>)]
    pub action: Action,
    pub offered_at: DateTime<Utc>,
    pub accepted_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    #[diesel(deserialize_as = MaybeWord<EndReason>)]
    pub end_reason: Option<EndReason>,
}

impl From<LedgerRow> for LedgerItem {
    fn from(row: LedgerRow) -> Self {
        Self {
            lease_epoch: row.lease_epoch,
            agent: row.agent,
            incarnation: row.incarnation,
            action: row.action,
            offered_at: row.offered_at,
            accepted_at: row.accepted_at,
            ended_at: row.ended_at,
            end_reason: row.end_reason,
        }
    }
}
