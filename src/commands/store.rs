//! The SQL of commands: inserting, reading, writing what changed.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Json, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use lessor_protocol::CommandStatus;
use serde::Serialize;
use uuid::Uuid;

use super::row::CommandRow;
use super::state::Change;
use crate::error::{Error, Result};
use crate::events::ArgEvent;
use crate::sessions::{self, SessionRow};
use crate::store::schema::commands;
use crate::store::{AsJson, Conn, Statement};

/// Inserts a new command with its events.
///
/// # Errors
/// When the database refuses.
pub async fn insert(conn: &mut Conn, change: &Change) -> Result<()> {
    Statement::new(include_str!("insert.sql"))
        .bind::<Json, _>(AsJson([&change.row]))
        .bind::<Array<ArgEvent>, _>(&change.events)
        .execute(conn)
        .await?;
    count(change);
    Ok(())
}

#[derive(Debug, Serialize)]
struct ChangedRow<'a> {
    was_status: CommandStatus,
    #[serde(flatten)]
    row: &'a CommandRow,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    written: i64,
}

/// Writes what changed, with its events.
///
/// # Errors
/// `Internal` when a row is not as it was when its session was locked, which would be a fault here.
pub async fn write(conn: &mut Conn, changes: &[Change]) -> Result<()> {
    let changes: Vec<&Change> = changes.iter().filter(|c| c.is_changed()).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changes
        .iter()
        .map(|change| ChangedRow {
            was_status: change.was,
            row: &change.row,
        })
        .collect();
    let events: Vec<_> = changes.iter().flat_map(|change| &change.events).collect();
    let expected = rows.len();
    let count_written: Count = Statement::new(include_str!("write.sql"))
        .bind::<Json, _>(AsJson(rows))
        .bind::<Array<ArgEvent>, _>(events)
        .get_result(conn)
        .await?;
    if usize::try_from(count_written.written) != Ok(expected) {
        return Err(Error::Internal(format!(
            "{} of {expected} commands were written",
            count_written.written
        )));
    }
    changes.iter().for_each(|change| count(change));
    Ok(())
}

/// Counted as it is written: a transaction that meets a conflict after this counts twice.
fn count(change: &Change) {
    for status in &change.reached {
        metrics::counter!("lessor_commands_total", "status" => status.as_str()).increment(1);
    }
}

/// The commands of these sessions of which something can still become, oldest first. Where the
/// sessions are locked, nobody else changes them.
///
/// # Errors
/// When the database refuses.
pub async fn open(conn: &mut Conn, session_ids: &[Uuid]) -> Result<Vec<CommandRow>> {
    Ok(commands::table
        .select(CommandRow::as_select())
        .filter(commands::session_id.eq_any(session_ids.to_vec()))
        .filter(commands::open)
        .order(commands::seq.asc())
        .load(conn)
        .await?)
}

/// How many commands of a session are not finished.
///
/// # Errors
/// When the database refuses.
pub async fn unfinished(conn: &mut Conn, session_id: Uuid) -> Result<i64> {
    Ok(commands::table
        .filter(commands::session_id.eq(session_id))
        .filter(commands::open)
        .filter(commands::finished_at.is_null())
        .count()
        .get_result(conn)
        .await?)
}

/// Commands by their ids.
///
/// # Errors
/// When the database refuses.
pub async fn by_ids(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<CommandRow>> {
    Ok(commands::table
        .select(CommandRow::as_select())
        .filter(commands::id.eq_any(ids.to_vec()))
        .load(conn)
        .await?)
}

/// One command of a session.
///
/// # Errors
/// When the database refuses.
pub async fn find(conn: &mut Conn, session_id: Uuid, id: Uuid) -> Result<Option<CommandRow>> {
    Ok(commands::table
        .select(CommandRow::as_select())
        .filter(commands::id.eq(id))
        .filter(commands::session_id.eq(session_id))
        .first(conn)
        .await
        .optional()?)
}

/// A page of a session's commands, newest first.
///
/// # Errors
/// When the database refuses.
pub async fn list(
    conn: &mut Conn,
    session_id: Uuid,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<CommandRow>> {
    let mut query = commands::table
        .select(CommandRow::as_select())
        .filter(commands::session_id.eq(session_id))
        .order(commands::seq.desc())
        .limit(limit)
        .into_boxed();
    if let Some(before) = before {
        query = query.filter(commands::seq.lt(before));
    }
    Ok(query.load(conn).await?)
}

/// Locks the sessions of which these agents, their holders, are to be told something; what others
/// have locked is passed over.
///
/// # Errors
/// When the database refuses.
pub async fn pick(conn: &mut Conn, agents: &[String]) -> Result<Vec<SessionRow>> {
    let text = sessions::with_columns(include_str!("pick.sql"));
    let statement = Statement::new(text).bind::<Array<Text>, _>(agents);
    sessions::load(conn, statement).await
}

/// What is to be told of sessions that are locked, oldest first.
///
/// # Errors
/// When the database refuses.
pub async fn due(
    conn: &mut Conn,
    session_ids: Vec<Uuid>,
    agents: &[String],
) -> Result<Vec<CommandRow>> {
    Ok(Statement::new(include_str!("due.sql"))
        .bind::<Array<SqlUuid>, _>(session_ids)
        .bind::<Array<Text>, _>(agents.to_vec())
        .load(conn)
        .await?)
}

/// A command whose deadline has passed.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub struct Expired {
    /// The command.
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    /// Its session.
    #[diesel(sql_type = SqlUuid)]
    pub session_id: Uuid,
}

/// Commands whose deadline has passed, at most 200.
///
/// # Errors
/// When the database refuses.
pub async fn expired(conn: &mut Conn) -> Result<Vec<Expired>> {
    Ok(Statement::new(include_str!("expired.sql"))
        .load(conn)
        .await?)
}
