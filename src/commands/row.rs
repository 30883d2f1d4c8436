//! A command as its row has it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use lessor_protocol::{Command, CommandStatus, Failure, RawJson};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::store::schema::commands;
use crate::store::{JsonText, MaybeJson, MaybeJsonText, Word};

/// A row of `commands`; serialized, it is an argument of the statement that writes.
#[derive(Clone, Debug, Queryable, Selectable, QueryableByName, Serialize)]
#[diesel(table_name = commands)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct CommandRow {
    pub id: Uuid,
    #[serde(skip)]
    pub seq: i64,
    pub session_id: Uuid,
    pub kind: String,
    // Text, since nothing that JSON can say may be lost on the way into the column.
    #[serde(serialize_with = "as_text")]
    #[diesel(deserialize_as = JsonText)]
    pub payload: RawJson,
    #[diesel(deserialize_as = Word<CommandStatus>)]
    pub status: CommandStatus,
    pub redeliver: bool,
    pub lease_epoch: Option<i64>,
    pub agent: Option<String>,
    #[serde(serialize_with = "as_maybe_text")]
    #[diesel(deserialize_as = MaybeJsonText)]
    pub result: Option<RawJson>,
    #[diesel(deserialize_as = MaybeJson<Failure>)]
    pub failure: Option<Failure>,
    pub deadline_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub delivered_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub holder: Option<String>,
    pub deliver_at: Option<DateTime<Utc>>,
    pub deliveries: i32,
}

fn as_text<S: Serializer>(json: &RawJson, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(json.get())
}

fn as_maybe_text<S: Serializer>(json: &Option<RawJson>, serializer: S) -> Result<S::Ok, S::Error> {
    json.as_ref().map(|json| json.get()).serialize(serializer)
}

impl From<CommandRow> for Command {
    fn from(row: CommandRow) -> Self {
        Self {
            id: row.id,
            session_id: row.session_id,
            kind: row.kind,
            payload: row.payload,
            status: row.status,
            redeliver: row.redeliver,
            lease_epoch: row.lease_epoch,
            agent: row.agent,
            result: row.result,
            failure: row.failure,
            deadline_at: row.deadline_at,
            created_at: row.created_at,
            delivered_at: row.delivered_at,
            finished_at: row.finished_at,
        }
    }
}
