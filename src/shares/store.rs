//! The SQL of shares.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use diesel::sql_types::{
    Array, BigInt, Bool, Double, Integer, Json, Jsonb, Nullable, SmallInt, Text, Timestamptz,
};
use diesel::{OptionalExtension as _, QueryableByName};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Labels, Owner, OwnerShare};
use serde::{Deserialize, Serialize};

use super::around::after_owners;
use super::state::{Moved, Turns};
use super::{Around, Queue, Queues, Walk};
use crate::error::{Error, Result};
use crate::store::{AsJson, Conn, Statement};

/// The most selectors, and the most queues, that one walk sees.
const MAX_WALK: usize = 1_000;

#[derive(QueryableByName)]
struct QueueRow {
    #[diesel(sql_type = BigInt)]
    selectors: i64,
    #[diesel(sql_type = Nullable<Text>)]
    last_selector: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    requires_key: Option<String>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    requires: Option<serde_json::Value>,
    #[diesel(sql_type = Nullable<Text>)]
    start_domain: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    owner: Option<String>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    queue_rank: Option<i16>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    queued_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Double)]
    weight: f64,
    #[diesel(sql_type = Nullable<Integer>)]
    max_running: Option<i32>,
    #[diesel(sql_type = Nullable<Double>)]
    virtual_time: Option<f64>,
    #[diesel(sql_type = Nullable<Double>)]
    last_start: Option<f64>,
    #[diesel(sql_type = Double)]
    pool_time: f64,
}

/// The queues that agents with one of these sets of labels, in one of these domains, could serve.
///
/// # Errors
/// When the database refuses.
pub async fn queues(
    conn: &mut Conn,
    pool: &str,
    labels: &BTreeSet<&Labels>,
    domains: &BTreeSet<&str>,
    walk: &Walk,
    around: &Around,
) -> Result<Queues> {
    let labels: Vec<String> = labels
        .iter()
        .map(serde_json::to_string)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::Internal(error.to_string()))?;
    let rows: Vec<QueueRow> = Statement::new(include_str!("queues.sql"))
        .bind::<Text, _>(pool.to_owned())
        .bind::<Array<Text>, _>(labels)
        .bind::<Text, _>(walk.selector.clone())
        .bind::<Text, _>(walk.owner.clone())
        .bind::<Array<Text>, _>(
            domains
                .iter()
                .copied()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
        .bind::<Json, _>(AsJson(&around.keys))
        .bind::<Json, _>(AsJson(&around.owners))
        .bind::<Json, _>(AsJson(&around.ranges))
        .bind::<Text, _>(after_owners())
        .load(conn)
        .await?;
    let mut found = Queues::default();
    let Some(first) = rows.as_slice().first() else {
        return Ok(found);
    };
    found.turns = Turns::at(first.pool_time);
    let selectors = usize::try_from(first.selectors).unwrap_or(0);
    if selectors >= MAX_WALK {
        found.next.selector = first.last_selector.clone().unwrap_or_default();
    }
    // How far the walk came in each selector, past where it began.
    let mut reached: HashMap<String, String> = HashMap::new();
    let mut satisfied: BTreeSet<String> = BTreeSet::new();
    // Of a queue that is read in several ranges each of these has a head.
    let mut heads: HashMap<(String, String), usize> = HashMap::new();
    for row in rows {
        let (Some(requires_key), Some(owner)) = (row.requires_key, row.owner) else {
            continue;
        };
        let Some(head) = row.queue_rank.zip(row.queued_at) else {
            continue;
        };
        let at = found.queues.len();
        let known = *heads
            .entry((requires_key.clone(), owner.clone()))
            .or_insert(at);
        if known < at {
            let queue: &mut Queue = &mut found.queues[known];
            queue.head = queue.head.min(head);
            continue;
        }
        satisfied.insert(requires_key.clone());
        if owner > walk.owner {
            reached.insert(requires_key.clone(), owner.clone());
        }
        let kept = row.virtual_time.zip(row.last_start);
        let turn = found.turns.join(&owner, row.weight, kept);
        if turn == found.limited.len() {
            found.limited.push(row.max_running.is_some());
        }
        let requires = row.requires.map(serde_json::from_value).transpose();
        found.queues.push(Queue {
            requires_key,
            requires: requires
                .map_err(|error| Error::Internal(error.to_string()))?
                .unwrap_or_default(),
            start_domain: row.start_domain,
            turn,
            head,
        });
    }
    if found.queues.len() >= MAX_WALK {
        found.next.owner = reached.into_values().min().unwrap_or_default();
    }
    found.unsatisfied = selectors > satisfied.len();
    Ok(found)
}

#[derive(QueryableByName)]
struct Waits {
    #[diesel(sql_type = Bool)]
    waits: bool,
}

/// The text of [`waits`], for those who ask it together with something else by [`with_waits`].
pub const WAITS: &str = include_str!("waits.sql");

/// A statement that has [`WAITS`] in it, with the first four parameters, which are for that.
pub fn with_waits<'a>(text: &'a str, pool: &str, around: &'a Around) -> Statement<'a> {
    Statement::new(text)
        .bind::<Text, _>(pool.to_owned())
        .bind::<Json, _>(AsJson(&around.keys))
        .bind::<Json, _>(AsJson(&around.owners))
        .bind::<Json, _>(AsJson(&around.ranges))
}

/// [`WAITS`] as a part of another statement, in which `pool` is the pool and `around` an [`Around`] as JSON. Neither
/// may be named by an alias that is in [`WAITS`] too.
pub fn waits_in(pool: &str, around: &str) -> String {
    let of = |part: &str| format!("{around} -> '{part}'");
    WAITS
        .replace("$1", pool)
        .replace("$2", &of("keys"))
        .replace("$3", &of("owners"))
        .replace("$4", &of("ranges"))
}

/// Whether anything waits to be started in a pool, where it is not known to be spent. It may be sent
/// together with other statements.
///
/// # Errors
/// When the database refuses.
pub async fn waits(mut conn: &Conn, pool: &str, around: &Around) -> Result<bool> {
    let row: Waits = with_waits(WAITS, pool, around)
        .get_result(&mut conn)
        .await?;
    Ok(row.waits)
}

#[derive(QueryableByName)]
struct LimitRow {
    #[diesel(sql_type = Text)]
    owner: String,
    #[diesel(sql_type = Integer)]
    max_running: i32,
}

#[derive(QueryableByName)]
struct RunningRow {
    #[diesel(sql_type = Text)]
    owner: String,
    #[diesel(sql_type = BigInt)]
    running: i64,
}

/// How many places each of these owners has left, of those that have a limit. Their limits are
/// locked first and then counted by another statement, which sees what was committed before.
///
/// # Errors
/// When the database refuses.
pub async fn places(
    conn: &mut Conn,
    pool: &str,
    owners: Vec<String>,
) -> Result<HashMap<String, usize>> {
    let limits: Vec<LimitRow> = Statement::new(include_str!("lock_limited.sql"))
        .bind::<Text, _>(pool.to_owned())
        .bind::<Array<Text>, _>(owners)
        .load(conn)
        .await?;
    if limits.is_empty() {
        return Ok(HashMap::new());
    }
    let owners: Vec<String> = limits.iter().map(|limit| limit.owner.clone()).collect();
    let running: Vec<RunningRow> = Statement::new(include_str!("running.sql"))
        .bind::<Text, _>(pool.to_owned())
        .bind::<Array<Text>, _>(owners)
        .load(conn)
        .await?;
    let running: HashMap<String, i64> = running.into_iter().map(|r| (r.owner, r.running)).collect();
    Ok(limits
        .into_iter()
        .map(|limit| {
            let running = running.get(&limit.owner).copied().unwrap_or(0);
            let left = i64::from(limit.max_running) - running;
            (limit.owner, usize::try_from(left).unwrap_or(0))
        })
        .collect())
}

#[derive(Debug, Serialize)]
struct MovedRow {
    owner: String,
    virtual_time: f64,
    last_start: f64,
}

/// Keeps what a round has moved on.
///
/// # Errors
/// When the database refuses.
pub async fn record(conn: &mut Conn, pool: &str, moved: Moved) -> Result<()> {
    let rows: Vec<MovedRow> = moved
        .owners
        .into_iter()
        .map(|(owner, virtual_time, last_start)| MovedRow {
            owner,
            virtual_time,
            last_start,
        })
        .collect();
    Statement::new(include_str!("record.sql"))
        .bind::<Text, _>(pool.to_owned())
        .bind::<Json, _>(AsJson(rows))
        .bind::<Double, _>(moved.pool_time)
        .execute(conn)
        .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct PoolName {
    #[diesel(sql_type = Text)]
    pool: String,
}

/// In which pools these owners, each with its pool, have a limit.
///
/// # Errors
/// When the database refuses.
pub async fn limited(conn: &mut Conn, of: Vec<(String, String)>) -> Result<Vec<String>> {
    let (pools, owners): (Vec<String>, Vec<String>) = of.into_iter().unzip();
    let rows: Vec<PoolName> = Statement::new(include_str!("limited.sql"))
        .bind::<Array<Text>, _>(pools)
        .bind::<Array<Text>, _>(owners)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| row.pool).collect())
}

/// Where a page of owners ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position {
    created_at: DateTime<Utc>,
    owner: String,
}

impl crate::http::Cursor for Position {
    const KIND: &'static str = "owners";
}

#[derive(QueryableByName)]
struct OwnerRow {
    #[diesel(sql_type = Text)]
    pool: String,
    #[diesel(sql_type = Text)]
    owner: String,
    #[diesel(sql_type = Double)]
    weight: f64,
    #[diesel(sql_type = Nullable<Integer>)]
    max_running: Option<i32>,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
    #[diesel(sql_type = BigInt)]
    running: i64,
    #[diesel(sql_type = BigInt)]
    waiting: i64,
}

/// Owners of a pool whose share is set, newest first: one, or those after a position.
///
/// # Errors
/// When the database refuses.
pub async fn show(
    conn: &mut Conn,
    pool: &str,
    owner: Option<&str>,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<(Position, Owner)>> {
    let rows: Vec<OwnerRow> = Statement::new(include_str!("show.sql"))
        .bind::<Text, _>(pool.to_owned())
        .bind::<Nullable<Text>, _>(owner.map(ToOwned::to_owned))
        .bind::<Nullable<Timestamptz>, _>(after.as_ref().map(|after| after.created_at))
        .bind::<Nullable<Text>, _>(after.map(|after| after.owner))
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await?;
    let of = |row: OwnerRow| {
        let position = Position {
            created_at: row.created_at,
            owner: row.owner.clone(),
        };
        let owner = Owner {
            pool: row.pool,
            owner: row.owner,
            weight: row.weight,
            max_running: row.max_running,
            running: row.running,
            waiting: row.waiting,
        };
        (position, owner)
    };
    Ok(rows.into_iter().map(of).collect())
}

/// Sets an owner's share. The pool must be there.
///
/// # Errors
/// `PoolNotFound`; when the database refuses.
pub async fn put(conn: &mut Conn, pool: &str, owner: &str, share: &OwnerShare) -> Result<()> {
    let written = Statement::new(
        "-- shares::put\nINSERT INTO pool_owners (pool, owner, weight, max_running, created_at) \
         SELECT p.name, $2, $3, $4, now() FROM pools p WHERE p.name = $1 \
         ON CONFLICT (pool, owner) DO UPDATE SET weight = excluded.weight, max_running = excluded.max_running",
    )
    .bind::<Text, _>(pool.to_owned())
    .bind::<Text, _>(owner.to_owned())
    .bind::<Double, _>(share.weight)
    .bind::<Nullable<Integer>, _>(share.max_running)
    .execute(conn)
    .await?;
    if written == 0 {
        return Err(Error::PoolNotFound(pool.to_owned()));
    }
    Ok(())
}

/// Takes an owner's share back; whether there was one.
///
/// # Errors
/// When the database refuses.
pub async fn delete(conn: &mut Conn, pool: &str, owner: &str) -> Result<bool> {
    let text = "-- shares::delete\nDELETE FROM pool_owners WHERE pool = $1 AND owner = $2";
    let deleted = Statement::new(text)
        .bind::<Text, _>(pool.to_owned())
        .bind::<Text, _>(owner.to_owned())
        .execute(conn)
        .await?;
    Ok(deleted > 0)
}

/// Whether there is such a pool.
///
/// # Errors
/// `PoolNotFound`; when the database refuses.
pub async fn pool_is_there(conn: &mut Conn, pool: &str) -> Result<()> {
    let text = "-- shares::pool_is_there\nSELECT p.name AS pool FROM pools p WHERE p.name = $1";
    let found: Option<PoolName> = Statement::new(text)
        .bind::<Text, _>(pool.to_owned())
        .get_result(conn)
        .await
        .optional()?;
    found
        .map(|_| ())
        .ok_or_else(|| Error::PoolNotFound(pool.to_owned()))
}
