//! The SQL of sessions: locking and reading.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::row::{SessionRow, SqlColumns};
use crate::error::Result;
use crate::events::{EventRow, LedgerRow};
use crate::store::schema::{lease_ledger, sessions};
use crate::store::{Conn, Statement};

/// Every column of a [`SessionRow`].
pub const COLUMNS: &str = "s.id, s.name, s.agent_pool, s.platform, s.region, s.owner, s.labels, \
s.priority, s.spec, s.desired_state, s.state, s.generation, s.observed_generation, s.lease_epoch, \
s.assigned_agent_id, s.assigned_incarnation, s.assigned_action, s.offered_until, s.deliver_at, \
s.deliveries, s.resource_domain, s.platform_resource_id, s.platform_metadata, s.endpoint, \
s.requires, s.prefers, s.attempt, s.attempts_used, s.not_before, s.held_back_until, s.domain_lost, \
s.offers_lapsed, s.avoid_agent, s.avoid_until, s.phase_deadline_at, s.restart, \
s.start_timeout_seconds, s.terminate_timeout_seconds, s.idle_timeout_seconds, s.idle_action, \
s.max_duration_seconds, s.grace_seconds, s.delete_data, s.failure, s.termination_reason, \
s.created_at, s.updated_at, s.queued_at, s.started_at, s.first_started_at, s.ended_at, s.version, \
s.handing_over, s.reserved_for, s.reserved_until, s.start_domain, s.migrating_from_pool, \
s.migrating_from_domain, s.start_metadata, s.stopping_attempt, s.stopping_lease_until";

/// The text of a statement with `{columns}` replaced by [`COLUMNS`].
#[must_use]
pub fn with_columns(text: &str) -> String {
    text.replace("{columns}", COLUMNS)
}

/// The rows of a statement that selects [`COLUMNS`]. They are read by their places: to look for each of sixty
/// columns by its name takes longer than to read it.
///
/// # Errors
/// When the database refuses.
pub async fn load(mut conn: &Conn, statement: Statement<'_>) -> Result<Vec<SessionRow>> {
    let statement = statement.typed::<SqlColumns>();
    Ok(statement.load(&mut conn).await?)
}

/// Locks sessions in the order of their ids. Their agents must have been locked before.
///
/// # Errors
/// When the database refuses.
pub async fn lock(conn: &Conn, ids: &[Uuid]) -> Result<Vec<SessionRow>> {
    let text = "-- sessions::lock\nSELECT {columns} FROM sessions s \
        WHERE s.id = ANY($1) ORDER BY s.id FOR UPDATE";
    lock_by(conn, text, ids).await
}

/// As [`lock`], but leaves out what somebody else has locked.
///
/// # Errors
/// When the database refuses.
pub async fn lock_free(conn: &Conn, ids: &[Uuid]) -> Result<Vec<SessionRow>> {
    let text = "-- sessions::lock_free\nSELECT {columns} FROM sessions s \
        WHERE s.id = ANY($1) ORDER BY s.id FOR UPDATE SKIP LOCKED";
    lock_by(conn, text, ids).await
}

/// As [`lock_free`], of those that are assigned to one of these agents.
///
/// # Errors
/// When the database refuses.
pub async fn lock_assigned_free(
    conn: &Conn,
    ids: &[Uuid],
    agents: Vec<&str>,
) -> Result<Vec<SessionRow>> {
    let Some(ids) = in_order(ids) else {
        return Ok(Vec::new());
    };
    let statement = Statement::new(with_columns(include_str!("lock_assigned_free.sql")))
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Text>, _>(agents);
    load(conn, statement).await
}

async fn lock_by(conn: &Conn, text: &str, ids: &[Uuid]) -> Result<Vec<SessionRow>> {
    let Some(ids) = in_order(ids) else {
        return Ok(Vec::new());
    };
    let statement = Statement::new(with_columns(text)).bind::<Array<SqlUuid>, _>(ids);
    load(conn, statement).await
}

/// Each once, in the order in which they are locked; none where there is none.
fn in_order(ids: &[Uuid]) -> Option<Vec<Uuid>> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    Some(ids).filter(|ids| !ids.is_empty())
}

/// Locks all sessions that are assigned to these agents. The agents must have been locked before.
///
/// # Errors
/// When the database refuses.
pub async fn lock_assigned_to(conn: &mut Conn, agents: &[String]) -> Result<Vec<SessionRow>> {
    let text = with_columns(
        "-- sessions::lock_assigned_to\nSELECT {columns} FROM sessions s \
         WHERE s.assigned_agent_id = ANY($1) ORDER BY s.id FOR UPDATE",
    );
    load(conn, Statement::new(text).bind::<Array<Text>, _>(agents)).await
}

#[derive(QueryableByName)]
struct Now {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

/// The database's time in this transaction.
///
/// # Errors
/// When the database refuses.
pub async fn now(conn: &mut Conn) -> Result<DateTime<Utc>> {
    Ok(Statement::new("-- store::now\nSELECT now() AS now")
        .get_result::<Now>(conn)
        .await?
        .now)
}

/// The time now that every lock was had. Where another transaction was waited for, what that one
/// began is then not ended before its beginning, as it would be by the time at which this one began.
///
/// # Errors
/// When the database refuses.
pub async fn now_that_all_is_locked(conn: &mut Conn) -> Result<DateTime<Utc>> {
    let text = "-- sessions::now_that_all_is_locked\nSELECT clock_timestamp() AS now";
    Ok(Statement::new(text).get_result::<Now>(conn).await?.now)
}

/// A session by its id or its name.
///
/// # Errors
/// When the database refuses.
pub async fn find(conn: &mut Conn, id_or_name: &str) -> Result<Option<SessionRow>> {
    let query = sessions::table.select(SessionRow::as_select()).into_boxed();
    let query = match Uuid::try_parse(id_or_name) {
        Ok(id) => query.filter(sessions::id.eq(id)),
        Err(_) => query.filter(sessions::name.eq(id_or_name.to_owned())),
    };
    Ok(query.first(conn).await.optional()?)
}

/// Sessions by their ids, newest first.
///
/// # Errors
/// When the database refuses.
pub async fn by_ids(conn: &mut Conn, ids: Vec<Uuid>) -> Result<Vec<SessionRow>> {
    Ok(sessions::table
        .select(SessionRow::as_select())
        .filter(sessions::id.eq_any(ids))
        .order(sessions::id.desc())
        .load(conn)
        .await?)
}

/// A page of a session's timeline, newest first.
///
/// # Errors
/// When the database refuses.
pub async fn timeline(
    conn: &mut Conn,
    id: Uuid,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<EventRow>> {
    Ok(Statement::new(include_str!("timeline.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<BigInt, _>(before.unwrap_or(i64::MAX))
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await?)
}

/// A page of a session's lease ledger, newest first.
///
/// # Errors
/// When the database refuses.
pub async fn ledger(
    conn: &mut Conn,
    id: Uuid,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<LedgerRow>> {
    let mut query = lease_ledger::table
        .select(LedgerRow::as_select())
        .filter(lease_ledger::session_id.eq(id))
        .order(lease_ledger::lease_epoch.desc())
        .limit(limit)
        .into_boxed();
    if let Some(before) = before {
        query = query.filter(lease_ledger::lease_epoch.lt(before));
    }
    Ok(query.load(conn).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are read by their places, so two columns of one type must not stand the other way round.
    #[test]
    fn the_columns_stand_in_the_order_of_a_row() {
        let query = sessions::table.select(SessionRow::as_select());
        let text = diesel::debug_query::<diesel::pg::Pg, _>(&query).to_string();
        let of_row = text
            .split_once(" FROM ")
            .map(|(columns, _)| columns.trim_start_matches("SELECT "))
            .expect("columns");
        let of_row = of_row.replace("\"sessions\".", "s.").replace('"', "");
        assert_eq!(of_row, COLUMNS);
    }
}
