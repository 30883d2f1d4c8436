//! Events and ledger lines as their rows have them.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use lessor_protocol::{Action, Actor, ActorType, EndReason, Event, LedgerItem};
use uuid::Uuid;

use crate::store::schema::lease_ledger;
use crate::store::{MaybeWord, Word};

/// An event with its position, as the pages of `page.sql` have it.
#[derive(Clone, Debug, QueryableByName)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct EventRow {
    /// Its position.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    #[diesel(sql_type = Text)]
    pub kind: String,
    #[diesel(sql_type = Timestamptz)]
    pub at: DateTime<Utc>,
    #[diesel(sql_type = Text)]
    pub pool: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub owner: Option<String>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub session_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    pub agent: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub incarnation: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub lease_epoch: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub generation: Option<i64>,
    #[diesel(sql_type = Text, deserialize_as = Word<ActorType>)]
    pub actor_type: ActorType,
    #[diesel(sql_type = Text)]
    pub actor_name: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub from_value: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub to_value: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
    #[diesel(sql_type = Jsonb)]
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
