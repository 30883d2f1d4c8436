//! The SQL of the audit.

use chrono::{DateTime, Utc};
use diesel::QueryableByName;
use diesel::sql_types::{
    BigInt, Double, Integer, Json, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Actor, ActorType, AuditEntry};
use uuid::Uuid;

use super::{Begun, Ended};
use crate::error::Result;
use crate::store::{AsJson, Conn, Db, Statement, Word};

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

/// Writes entries of changes that are about to begin; their numbers.
pub async fn begin(db: &Db, batch: Vec<Begun>) -> Result<Vec<i64>> {
    db.statement("audit::begin", |conn| {
        Box::pin(async move {
            let made: Vec<Id> = Statement::new(include_str!("begin.sql"))
                .bind::<Json, _>(AsJson(batch))
                .load(conn)
                .await?;
            Ok(made.into_iter().map(|made| made.id).collect())
        })
    })
    .await
}

/// Writes how changes ended.
pub async fn end(db: &Db, batch: Vec<Ended>) -> Result<()> {
    db.statement("audit::end", |conn| {
        Box::pin(async move {
            Statement::new(include_str!("end.sql"))
                .bind::<Json, _>(AsJson(batch))
                .execute(conn)
                .await?;
            Ok(())
        })
    })
    .await
}

/// Which entries; what is left out filters nothing.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Before this number.
    pub before: Option<i64>,
    /// Begun at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Begun before this time.
    pub until: Option<DateTime<Utc>>,
    /// By this actor.
    pub actor: Option<String>,
    /// With this token.
    pub token_id: Option<Uuid>,
    /// By this tenant's tokens.
    pub tenant: Option<String>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Timestamptz)]
    at: DateTime<Utc>,
    #[diesel(sql_type = Text, deserialize_as = Word<ActorType>)]
    actor_type: ActorType,
    #[diesel(sql_type = Text)]
    actor_name: String,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    token_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    from_address: Option<String>,
    #[diesel(sql_type = Text)]
    method: String,
    #[diesel(sql_type = Text)]
    path: String,
    #[diesel(sql_type = Text)]
    request_id: String,
    #[diesel(sql_type = Nullable<Integer>)]
    status: Option<i32>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    finished_at: Option<DateTime<Utc>>,
}

impl From<Row> for AuditEntry {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            kind: row.kind,
            at: row.at,
            actor: Actor {
                actor_type: row.actor_type,
                name: row.actor_name,
            },
            token_id: row.token_id,
            from: row.from_address,
            method: row.method,
            path: row.path,
            request_id: row.request_id,
            status: row.status,
            finished_at: row.finished_at,
        }
    }
}

/// Entries, newest first.
pub async fn list(conn: &mut Conn, filter: Filter, limit: i64) -> Result<Vec<AuditEntry>> {
    let rows: Vec<Row> = Statement::new(include_str!("list.sql"))
        .bind::<Nullable<BigInt>, _>(filter.before)
        .bind::<Nullable<Timestamptz>, _>(filter.since)
        .bind::<Nullable<Timestamptz>, _>(filter.until)
        .bind::<Nullable<Text>, _>(filter.actor)
        .bind::<Nullable<SqlUuid>, _>(filter.token_id)
        .bind::<Nullable<Text>, _>(filter.tenant)
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(AuditEntry::from).collect())
}

#[derive(QueryableByName)]
struct Deleted {
    #[diesel(sql_type = BigInt)]
    deleted: i64,
}

/// Deletes up to 500 entries that are older than this; whether there may be more.
pub async fn delete_old(conn: &mut Conn, keep_seconds: f64) -> Result<bool> {
    let deleted: Deleted = Statement::new(include_str!("delete_old.sql"))
        .bind::<Double, _>(keep_seconds)
        .get_result(conn)
        .await?;
    Ok(deleted.deleted >= 500)
}
