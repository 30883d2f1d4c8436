//! The SQL of the stream: giving positions, reading on, what is past retention.

use diesel::deserialize::QueryableByName;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Double, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;

use super::row::EventRow;
use super::state::Filter;
use crate::error::Result;
use crate::store::{Conn, Statement};

/// The most events that one page has; `page.sql` says it as a literal, for the planner.
pub const PAGE: usize = 200;

/// From so many positions one step of retention deletes what it can; `delete_old.sql` says it as a literal.
pub const DELETED_AT_ONCE: i64 = 5_000;

/// What a step of the sequencer came to.
#[derive(Debug, QueryableByName)]
pub struct Step {
    /// Whether nobody else was at it.
    #[diesel(sql_type = Bool)]
    pub had_turn: bool,
    /// How many events got their position.
    #[diesel(sql_type = BigInt)]
    pub moved: i64,
    /// Whether it left some that it could have taken.
    #[diesel(sql_type = Bool)]
    pub more: bool,
    /// The number of a batch that was drawn last when it began.
    #[diesel(sql_type = BigInt)]
    pub drawn: i64,
    /// Its own transaction id, given out after that; 0 if it found nothing and has none.
    #[diesel(sql_type = BigInt)]
    pub own_xid: i64,
    /// The oldest transaction id that was at work when it began.
    #[diesel(sql_type = BigInt)]
    pub oldest_xid: i64,
}

/// Gives the next positions to what is committed and is in a batch from `from` on. One
/// statement, its own transaction.
pub async fn sequence(conn: &mut Conn, from: i64) -> Result<Step> {
    let text = "-- events::sequence\nSELECT had_turn, moved, more, drawn, own_xid, oldest_xid FROM sequence_events($1)";
    let step = Statement::new(text).bind::<BigInt, _>(from);
    Ok(step.get_result(conn).await?)
}

/// What is kept: the positions from `first` to `last`; `last + 1` to `last` if it is nothing.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub struct Kept {
    /// The oldest.
    #[diesel(sql_type = BigInt)]
    pub first: i64,
    /// The newest.
    #[diesel(sql_type = BigInt)]
    pub last: i64,
}

/// Which positions are kept.
pub async fn kept(conn: &mut Conn) -> Result<Kept> {
    let text = "-- events::kept\nSELECT f.first_position AS first, h.last_position AS last FROM event_floor f, event_head h";
    Ok(Statement::new(text).get_result(conn).await?)
}

/// Up to [`PAGE`] events of the positions after `after`, up to `until`, that pass the filter.
pub async fn page(
    conn: &mut Conn,
    filter: &Filter,
    after: i64,
    until: i64,
) -> Result<Vec<EventRow>> {
    let text = match filter.session {
        None => include_str!("page.sql"),
        Some(_) => include_str!("page_of_session.sql"),
    };
    let kinds = &filter.kinds;
    let page = Statement::new(text.replace("{passes}", include_str!("passes.sql")))
        .bind::<BigInt, _>(after)
        .bind::<BigInt, _>(until)
        .bind::<Array<Nullable<Text>>, _>(vec![filter.pool.clone(), filter.reach.as_prefix()])
        .bind::<Nullable<Text>, _>(filter.agent.clone())
        .bind::<Nullable<Text>, _>(filter.owner.clone())
        .bind::<Bool, _>(kinds.names.is_empty() && kinds.prefixes.is_empty())
        .bind::<Array<Text>, _>(kinds.names.clone())
        .bind::<Array<Text>, _>(kinds.prefixes.clone());
    let page = match filter.session {
        None => page,
        Some(id) => page.bind::<SqlUuid, _>(id),
    };
    Ok(page.load(conn).await?)
}

#[derive(QueryableByName)]
struct Floor {
    #[diesel(sql_type = BigInt)]
    first_position: i64,
}

#[derive(QueryableByName)]
struct Deleted {
    #[diesel(sql_type = BigInt)]
    deleted: i64,
}

/// Deletes events that are older than this, of the oldest [`DELETED_AT_ONCE`] and what is in one batch with the
/// last of these, and says how many; none where another transaction is at it.
pub async fn delete_old(conn: &mut Conn, keep_seconds: f64) -> Result<i64> {
    let text = "-- events::floor\nSELECT first_position FROM event_floor FOR UPDATE SKIP LOCKED";
    let floor: Option<Floor> = Statement::new(text).get_result(conn).await.optional()?;
    let Some(floor) = floor else { return Ok(0) };
    let deleted: Deleted = Statement::new(include_str!("delete_old.sql"))
        .bind::<BigInt, _>(floor.first_position)
        .bind::<Double, _>(keep_seconds)
        .get_result(conn)
        .await?;
    Ok(deleted.deleted)
}

/// What waits for its position.
#[derive(Debug, QueryableByName)]
pub struct Backlog {
    /// How many, of up to 100,000 batches.
    #[diesel(sql_type = BigInt)]
    pub events: i64,
    /// For how long the first of them has.
    #[diesel(sql_type = Double)]
    pub seconds: f64,
}

/// What waits for its position.
pub async fn backlog(conn: &mut Conn) -> Result<Backlog> {
    let text = "-- events::backlog\n\
        SELECT coalesce((SELECT sum(x.events) FROM (SELECT i.events FROM event_inbox i LIMIT 100000) AS x), 0) AS events, \
        coalesce((SELECT greatest(0, extract(epoch FROM clock_timestamp() - e.at)) \
            FROM (SELECT i.batch FROM event_inbox i ORDER BY i.batch LIMIT 1) AS i \
            JOIN events e ON e.batch = i.batch LIMIT 1), 0)::double precision AS seconds";
    Ok(Statement::new(text).get_result(conn).await?)
}
