//! The SQL of rebalances.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::sql_types::{
    Array, BigInt, Bool, Double, Integer, Json, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Actor, MoveState, Rebalance, RebalanceMove, RebalanceStatus};
use serde::Serialize;
use uuid::Uuid;

use super::state::{Member, Movable, Planned};
use crate::error::Result;
use crate::store::{AsJson, Conn, Statement, Word, try_turn};

/// The live agents of a pool that are not cordoned, by domain.
pub type Fleet = BTreeMap<String, Vec<Member>>;

#[derive(diesel::QueryableByName)]
struct MemberRow {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    resource_domain: String,
    #[diesel(sql_type = BigInt)]
    capacity: i64,
    #[diesel(sql_type = BigInt)]
    used: i64,
    #[diesel(sql_type = Bool)]
    takes: bool,
}

#[derive(diesel::QueryableByName)]
struct MovableRow {
    #[diesel(sql_type = Text)]
    agent: String,
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = BigInt)]
    lease_epoch: i64,
    #[diesel(sql_type = Timestamptz)]
    since: DateTime<Utc>,
}

/// What a plan is made from. `rested` leaves out what a rebalance that began by itself has moved a
/// short while ago.
pub async fn fleet(conn: &mut Conn, pool: &str, rested: bool) -> Result<Fleet> {
    let members: Vec<MemberRow> = Statement::new(include_str!("members.sql"))
        .bind::<Text, _>(pool.to_owned())
        .load(conn)
        .await?;
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    let rows: Vec<MovableRow> = Statement::new(include_str!("movable.sql"))
        .bind::<Array<Text>, _>(names)
        .bind::<Bool, _>(rested)
        .load(conn)
        .await?;
    let mut movable: BTreeMap<String, Vec<Movable>> = BTreeMap::new();
    for row in rows {
        movable.entry(row.agent).or_default().push(Movable {
            id: row.id,
            lease_epoch: row.lease_epoch,
            started_at: row.since,
        });
    }
    let mut fleet = Fleet::new();
    for row in members {
        let movable = movable.remove(&row.name).unwrap_or_default();
        fleet.entry(row.resource_domain).or_default().push(Member {
            name: row.name,
            capacity: row.capacity,
            used: row.used,
            takes: row.takes,
            movable,
        });
    }
    Ok(fleet)
}

/// Waits until nobody else plans moves of a pool; until the end of the transaction.
pub async fn lock_plans(conn: &mut Conn, pool: &str) -> Result<()> {
    let text = "-- rebalance::lock_plans\nSELECT pg_advisory_xact_lock(hashtextextended('rebalance of ' || $1, 0))";
    Statement::new(text)
        .bind::<Text, _>(pool.to_owned())
        .execute(conn)
        .await?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct NewMove<'a> {
    place: usize,
    session_id: Uuid,
    lease_epoch: i64,
    from_agent: &'a str,
    to_agent: &'a str,
    reason: &'a str,
}

/// Inserts a rebalance with its moves.
pub async fn begin(
    conn: &mut Conn,
    (id, pool): (Uuid, &str),
    (automatic, max_parallel): (bool, i32),
    actor: &Actor,
    moves: &[Planned],
) -> Result<()> {
    let moves: Vec<NewMove<'_>> = moves
        .iter()
        .enumerate()
        .map(|(place, planned)| NewMove {
            place,
            session_id: planned.session.id,
            lease_epoch: planned.session.lease_epoch,
            from_agent: &planned.from,
            to_agent: &planned.to,
            reason: &planned.reason,
        })
        .collect();
    Statement::new(include_str!("begin.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Text, _>(pool.to_owned())
        .bind::<Bool, _>(automatic)
        .bind::<Integer, _>(max_parallel)
        .bind::<Text, _>(actor.name.clone())
        .bind::<Json, _>(AsJson(moves))
        .execute(conn)
        .await?;
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct Header {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text, deserialize_as = Word<RebalanceStatus>)]
    status: RebalanceStatus,
}

#[derive(diesel::QueryableByName)]
struct MoveRow {
    #[diesel(sql_type = SqlUuid)]
    session_id: Uuid,
    #[diesel(sql_type = Text)]
    from_agent: String,
    #[diesel(sql_type = Text)]
    to_agent: String,
    #[diesel(sql_type = Text)]
    reason: String,
    #[diesel(sql_type = Text, deserialize_as = Word<MoveState>)]
    state: MoveState,
}

/// The newest rebalance of a pool, none if there was none.
pub async fn newest(conn: &mut Conn, pool: &str) -> Result<Option<Rebalance>> {
    let text = "-- rebalance::newest\nSELECT id, status FROM rebalances WHERE pool = $1 \
        ORDER BY started_at DESC, id DESC LIMIT 1";
    let headers: Vec<Header> = Statement::new(text)
        .bind::<Text, _>(pool.to_owned())
        .load(conn)
        .await?;
    let Some(header) = headers.into_iter().next() else {
        return Ok(None);
    };
    let text = "-- rebalance::moves\nSELECT session_id, from_agent, to_agent, reason, state \
        FROM rebalance_moves WHERE rebalance_id = $1 ORDER BY place";
    let moves: Vec<MoveRow> = Statement::new(text)
        .bind::<SqlUuid, _>(header.id)
        .load(conn)
        .await?;
    Ok(Some(Rebalance {
        id: Some(header.id),
        dry_run: false,
        status: header.status,
        moves: moves
            .into_iter()
            .map(|row| RebalanceMove {
                session_id: row.session_id,
                from: row.from_agent,
                to: row.to_agent,
                reason: row.reason,
                state: row.state,
            })
            .collect(),
    }))
}

#[derive(diesel::QueryableByName)]
struct Id {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// Every rebalance of which a move is planned or on its way, the oldest first, a thousand at most.
pub async fn unfinished(conn: &mut Conn) -> Result<Vec<Uuid>> {
    let text = "-- rebalance::unfinished\nSELECT id FROM rebalances WHERE finished_at IS NULL \
        ORDER BY started_at LIMIT 1000";
    let rows: Vec<Id> = Statement::new(text).load(conn).await?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

/// The rebalances of a pool that are in progress.
pub async fn in_progress_of(conn: &mut Conn, pool: &str) -> Result<Vec<Uuid>> {
    let text = "-- rebalance::in_progress_of\nSELECT id FROM rebalances \
        WHERE pool = $1 AND status = 'in_progress' ORDER BY id";
    let rows: Vec<Id> = Statement::new(text)
        .bind::<Text, _>(pool.to_owned())
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

/// Waits until nobody else works on a rebalance; until the end of the transaction.
pub async fn lock(conn: &mut Conn, id: Uuid) -> Result<()> {
    let text =
        "-- rebalance::lock\nSELECT pg_advisory_xact_lock(hashtextextended('rebalance ' || $1, 0))";
    Statement::new(text)
        .bind::<Text, _>(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether this transaction is the one that works on the rebalance; no two do at a time.
pub async fn try_lock(conn: &mut Conn, id: Uuid) -> Result<bool> {
    try_turn(conn, &format!("rebalance {id}")).await
}

#[derive(diesel::QueryableByName)]
struct PoolName {
    #[diesel(sql_type = Text)]
    name: String,
}

/// The pool of a rebalance that is not over; none if it is.
pub async fn pool_of(conn: &mut Conn, id: Uuid) -> Result<Option<String>> {
    let text = "-- rebalance::pool_of\nSELECT r.pool AS name FROM rebalances r JOIN pools p ON p.name = r.pool \
        WHERE r.id = $1 AND r.finished_at IS NULL";
    let rows: Vec<PoolName> = Statement::new(text)
        .bind::<SqlUuid, _>(id)
        .load(conn)
        .await?;
    Ok(rows.into_iter().next().map(|row| row.name))
}

/// Notes what has become of the moves on their way; the outcomes that are new.
pub async fn settle(conn: &mut Conn, id: Uuid) -> Result<Vec<MoveState>> {
    #[derive(diesel::QueryableByName)]
    struct Settled {
        #[diesel(sql_type = Text, deserialize_as = Word<MoveState>)]
        state: MoveState,
    }
    let rows: Vec<Settled> = Statement::new(include_str!("settle.sql"))
        .bind::<SqlUuid, _>(id)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| row.state).collect())
}

/// A move about which something is to be done.
#[derive(Clone, Debug, diesel::QueryableByName)]
pub struct ToDo {
    #[diesel(sql_type = Integer)]
    pub place: i32,
    #[diesel(sql_type = SqlUuid)]
    pub session_id: Uuid,
    #[diesel(sql_type = BigInt)]
    pub lease_epoch: i64,
    #[diesel(sql_type = Text)]
    pub from_agent: String,
    #[diesel(sql_type = Text)]
    pub to_agent: String,
    #[diesel(sql_type = Text, deserialize_as = Word<MoveState>)]
    pub state: MoveState,
    /// Whether it has been on its way for too long.
    #[diesel(sql_type = Bool)]
    pub is_late: bool,
    #[diesel(sql_type = Nullable<Text>)]
    pub resource_domain: Option<String>,
    /// Whether the target is live, not cordoned, and in the session's domain.
    #[diesel(sql_type = Bool)]
    pub can_take: bool,
    /// Whether it is not passed over either.
    #[diesel(sql_type = Bool)]
    pub takes: bool,
    /// Its free slots, those counted as used that are on their way to it.
    #[diesel(sql_type = BigInt)]
    pub room: i64,
    /// Whether nobody holds the session and it is not kept for the target any more.
    #[diesel(sql_type = Bool)]
    pub is_open_to_all: bool,
}

/// The moves about which something is to be done now.
pub async fn to_do(conn: &mut Conn, id: Uuid, patience_seconds: f64) -> Result<Vec<ToDo>> {
    Ok(Statement::new(include_str!("to_do.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Double, _>(patience_seconds)
        .load(conn)
        .await?)
}

/// Sets the state of moves that have not ended; how many those were.
pub async fn set(conn: &mut Conn, id: Uuid, places: &[i32], state: MoveState) -> Result<usize> {
    if places.is_empty() {
        return Ok(0);
    }
    let text = "-- rebalance::set\nUPDATE rebalance_moves SET state = $3, \
        asked_at = CASE WHEN $3 = 'in_progress' THEN now() ELSE asked_at END, \
        done_at = CASE WHEN $3 <> 'in_progress' THEN now() END \
        WHERE rebalance_id = $1 AND place = ANY ($2) AND done_at IS NULL";
    Ok(Statement::new(text)
        .bind::<SqlUuid, _>(id)
        .bind::<Array<Integer>, _>(places.to_vec())
        .bind::<Text, _>(state.as_str())
        .execute(conn)
        .await?)
}

/// Calls a rebalance off: what has not begun does not. How many moves those are; none if it was not
/// in progress any more.
pub async fn call_off(conn: &mut Conn, id: Uuid) -> Result<Option<usize>> {
    let called_off = Statement::new(
        "-- rebalance::call_off\nUPDATE rebalances SET status = 'cancelled' \
         WHERE id = $1 AND status = 'in_progress'",
    )
    .bind::<SqlUuid, _>(id)
    .execute(conn)
    .await?;
    if called_off == 0 {
        return Ok(None);
    }
    let moves = Statement::new(
        "-- rebalance::call_moves_off\nUPDATE rebalance_moves SET state = 'cancelled', done_at = now() \
         WHERE rebalance_id = $1 AND state = 'planned'",
    )
    .bind::<SqlUuid, _>(id)
    .execute(conn)
    .await?;
    Ok(Some(moves))
}

/// Ends a rebalance if all its moves have; how it has ended then.
pub async fn finish(conn: &mut Conn, id: Uuid) -> Result<Option<RebalanceStatus>> {
    #[derive(diesel::QueryableByName)]
    struct Ended {
        #[diesel(sql_type = Text, deserialize_as = Word<RebalanceStatus>)]
        status: RebalanceStatus,
    }
    let rows: Vec<Ended> = Statement::new(include_str!("finish.sql"))
        .bind::<SqlUuid, _>(id)
        .load(conn)
        .await?;
    Ok(rows.into_iter().next().map(|row| row.status))
}

/// Writes an event of a rebalance.
pub async fn record(conn: &mut Conn, id: Uuid, kind: &str, actor: &Actor) -> Result<()> {
    Statement::new(include_str!("record.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Text, _>(kind.to_owned())
        .bind::<Text, _>(actor.actor_type.as_str())
        .bind::<Text, _>(actor.name.clone())
        .execute(conn)
        .await?;
    Ok(())
}

/// The pools that are to be looked at, or this one if it is.
pub async fn looks_due(conn: &mut Conn, pool: Option<&str>) -> Result<Vec<String>> {
    let rows: Vec<PoolName> = Statement::new(include_str!("looks_due.sql"))
        .bind::<Nullable<Text>, _>(pool.map(ToOwned::to_owned))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// The uneven domains of a pool, each with the number of looks in a row that found it so.
pub async fn uneven(conn: &mut Conn, pool: &str) -> Result<BTreeMap<String, i64>> {
    #[derive(diesel::QueryableByName)]
    struct Uneven {
        #[diesel(sql_type = Text)]
        domain: String,
        #[diesel(sql_type = BigInt)]
        looks: i64,
    }
    let text = "-- rebalance::uneven\nSELECT e.key AS domain, e.value::bigint AS looks \
        FROM rebalance_looks l, jsonb_each_text(l.uneven) e WHERE l.pool = $1";
    let rows: Vec<Uneven> = Statement::new(text)
        .bind::<Text, _>(pool.to_owned())
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.domain, row.looks))
        .collect())
}

/// Notes that a pool was looked at.
pub async fn looked(conn: &mut Conn, pool: &str, uneven: BTreeMap<String, i64>) -> Result<()> {
    let text = "-- rebalance::looked\nINSERT INTO rebalance_looks (pool, looked_at, uneven) VALUES ($1, now(), $2) \
        ON CONFLICT (pool) DO UPDATE SET looked_at = excluded.looked_at, uneven = excluded.uneven";
    Statement::new(text)
        .bind::<Text, _>(pool.to_owned())
        .bind::<Jsonb, _>(serde_json::json!(uneven))
        .execute(conn)
        .await?;
    Ok(())
}
