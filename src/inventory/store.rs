//! The SQL of inventories.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use diesel::sql_types::{
    Array, BigInt, Bool, Double, Integer, Json, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{DesiredState, InventoryResource, Leftover, LeftoverKind, SessionState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::state::{Facts, Known, Missed, Running};
use super::{LeftoverFilter, Place};
use crate::error::{Error, Result};
use crate::store::{AsJson, Conn, Statement};

#[derive(diesel::QueryableByName)]
struct Agent {
    #[diesel(sql_type = Text)]
    pool: String,
    #[diesel(sql_type = Text)]
    resource_domain: String,
    #[diesel(sql_type = BigInt)]
    incarnation: i64,
    #[diesel(sql_type = Bool)]
    live: bool,
    #[diesel(sql_type = Timestamptz)]
    begun_at: DateTime<Utc>,
}

/// Where an agent is, and when an inventory was begun that is so old. Nothing is locked: whether
/// the agent may send one is asked again before anything is written under its name.
pub async fn place(
    conn: &mut Conn,
    agent: &str,
    incarnation: i64,
    begun_seconds_ago: f64,
) -> Result<Place> {
    let found: Vec<Agent> = Statement::new(
        "-- inventory::place\nSELECT pool, resource_domain, incarnation, live, \
         clock_timestamp() - make_interval(secs => $2) AS begun_at FROM agents WHERE name = $1",
    )
    .bind::<Text, _>(agent.to_owned())
    .bind::<Double, _>(begun_seconds_ago)
    .load(conn)
    .await?;
    let found = found
        .into_iter()
        .next()
        .ok_or_else(|| Error::AgentNotRegistered(agent.to_owned()))?;
    crate::agents::fence(agent, incarnation, found.incarnation, found.live)?;
    Ok(Place {
        pool: found.pool,
        resource_domain: found.resource_domain,
        begun_at: found.begun_at,
    })
}

#[derive(diesel::QueryableByName)]
struct KnownRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    agent_pool: String,
    #[diesel(sql_type = Nullable<Text>)]
    resource_domain: Option<String>,
    #[diesel(sql_type = Text)]
    desired_state: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Integer)]
    attempt: i32,
    #[diesel(sql_type = Nullable<Text>)]
    platform_resource_id: Option<String>,
}

#[derive(diesel::QueryableByName)]
struct LeftRow {
    #[diesel(sql_type = SqlUuid)]
    session_id: Uuid,
    #[diesel(sql_type = Integer)]
    attempt: i32,
    #[diesel(sql_type = Nullable<Text>)]
    platform_resource_id: Option<String>,
}

/// What is known about resources. Sessions are read before leftovers: an attempt that fails in
/// between is then still taken for wanted.
pub async fn facts(
    conn: &mut Conn,
    place: &Place,
    names: &[String],
    labels: &[Uuid],
) -> Result<Facts> {
    let mut facts = Facts {
        pool: place.pool.clone(),
        resource_domain: place.resource_domain.clone(),
        ..Facts::default()
    };
    let named: HashSet<&String> = names.iter().collect();
    let known: Vec<KnownRow> = Statement::new(include_str!("sessions.sql"))
        .bind::<Array<SqlUuid>, _>(labels.to_vec())
        .bind::<Array<Text>, _>(names.to_vec())
        .bind::<Text, _>(place.pool.clone())
        .bind::<Text, _>(place.resource_domain.clone())
        .load(conn)
        .await?;
    for row in known {
        let word = |error: lessor_protocol::UnknownWord| Error::Internal(error.to_string());
        let session = Known {
            pool: row.agent_pool,
            resource_domain: row.resource_domain,
            desired: row.desired_state.parse::<DesiredState>().map_err(word)?,
            state: row.state.parse::<SessionState>().map_err(word)?,
            attempt: row.attempt,
            platform_resource_id: row.platform_resource_id,
        };
        if facts.is_in_use_here(&session)
            && let Some(name) = &session.platform_resource_id
            && named.contains(name)
        {
            facts.in_use.insert(name.clone());
        }
        facts.sessions.insert(row.id, session);
    }
    let left: Vec<LeftRow> = Statement::new(include_str!("leftovers.sql"))
        .bind::<Text, _>(place.pool.clone())
        .bind::<Text, _>(place.resource_domain.clone())
        .bind::<Array<Text>, _>(names.to_vec())
        .bind::<Array<SqlUuid>, _>(labels.to_vec())
        .load(conn)
        .await?;
    for row in left {
        facts.left_by_attempt.insert((row.session_id, row.attempt));
        facts.left_by_name.extend(row.platform_resource_id);
    }
    Ok(facts)
}

/// One inventory of a domain writes at a time, until its transaction ends: they lock many rows of
/// the same few tables, in whatever order. Nobody who holds an agent or a session waits for this.
pub async fn take_turn(conn: &mut Conn, place: &Place) -> Result<()> {
    Statement::new(
        "-- inventory::take_turn\nSELECT pg_advisory_xact_lock(hashtextextended($1, 711))",
    )
    .bind::<Text, _>(format!("{} {}", place.pool, place.resource_domain))
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct UnknownResource<'a> {
    id: &'a str,
    session_id: Option<Uuid>,
    attempt: Option<i32>,
}

#[derive(diesel::QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    id: String,
}

/// Notes what nobody knows, forgets what is not there or is known by now, and says of which the
/// time is over.
pub async fn quarantine(
    conn: &mut Conn,
    place: &Place,
    unknown: &[&InventoryResource],
    seconds: f64,
) -> Result<HashSet<String>> {
    let mut over = HashSet::new();
    if !unknown.is_empty() {
        let rows: Vec<UnknownResource> = unknown
            .iter()
            .map(|resource| UnknownResource {
                id: &resource.platform_resource_id,
                session_id: resource.session_id,
                attempt: resource.attempt,
            })
            .collect();
        let found: Vec<Name> = Statement::new(include_str!("quarantine.sql"))
            .bind::<Text, _>(place.pool.clone())
            .bind::<Text, _>(place.resource_domain.clone())
            .bind::<Json, _>(AsJson(rows))
            .bind::<Timestamptz, _>(place.begun_at)
            .bind::<Double, _>(seconds)
            .load(conn)
            .await?;
        over.extend(found.into_iter().map(|row| row.id));
    }
    let names: Vec<String> = unknown
        .iter()
        .map(|resource| resource.platform_resource_id.clone())
        .collect();
    Statement::new(include_str!("forget_quarantined.sql"))
        .bind::<Text, _>(place.pool.clone())
        .bind::<Text, _>(place.resource_domain.clone())
        .bind::<Timestamptz, _>(place.begun_at)
        .bind::<Array<Text>, _>(names)
        .execute(conn)
        .await?;
    Ok(over)
}

/// A leftover that an inventory does not have any more, or has again.
#[derive(diesel::QueryableByName)]
pub struct Settled {
    /// The session.
    #[diesel(sql_type = SqlUuid)]
    pub session_id: Uuid,
    /// Its attempt.
    #[diesel(sql_type = Integer)]
    pub attempt: i32,
    /// The platform's name, where it was known.
    #[diesel(sql_type = Nullable<Text>)]
    pub platform_resource_id: Option<String>,
    /// Whether it is gone.
    #[diesel(sql_type = Bool)]
    pub gone: bool,
}

/// Notes which leftovers of the domain are gone; `unwanted` are those resources of the inventory
/// that are to be deleted.
pub async fn settle_leftovers(
    conn: &mut Conn,
    place: &Place,
    unwanted: &[&InventoryResource],
) -> Result<Vec<Settled>> {
    let names: Vec<String> = unwanted
        .iter()
        .map(|resource| resource.platform_resource_id.clone())
        .collect();
    let attempts: Vec<(Uuid, i32)> = unwanted
        .iter()
        .filter_map(|resource| resource.session_id.zip(resource.attempt))
        .collect();
    let keys: Vec<String> = attempts
        .iter()
        .map(|(id, attempt)| format!("{id}/{attempt}"))
        .collect();
    let ids: Vec<Uuid> = attempts.into_iter().map(|(id, _)| id).collect();
    Ok(Statement::new(include_str!("settle_leftovers.sql"))
        .bind::<Text, _>(place.pool.clone())
        .bind::<Text, _>(place.resource_domain.clone())
        .bind::<Array<Text>, _>(names)
        .bind::<Array<Text>, _>(keys)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Timestamptz, _>(place.begun_at)
        .load(conn)
        .await?)
}

#[derive(diesel::QueryableByName)]
struct RunningRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = BigInt)]
    lease_epoch: i64,
    #[diesel(sql_type = Integer)]
    attempt: i32,
    #[diesel(sql_type = Nullable<Text>)]
    platform_resource_id: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    updated_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<BigInt>)]
    missed_epoch: Option<i64>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    begun_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    received_at: Option<DateTime<Utc>>,
}

/// The running sessions that an agent holds. Its row must be locked.
pub async fn running(conn: &mut Conn, agent: &str, incarnation: i64) -> Result<Vec<Running>> {
    let rows: Vec<RunningRow> = Statement::new(include_str!("running.sql"))
        .bind::<Text, _>(agent.to_owned())
        .bind::<BigInt, _>(incarnation)
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| Running {
            id: row.id,
            lease_epoch: row.lease_epoch,
            attempt: row.attempt,
            platform_resource_id: row.platform_resource_id,
            updated_at: row.updated_at,
            missed: row.missed_epoch.zip(row.begun_at).zip(row.received_at).map(
                |((lease_epoch, begun_at), received_at)| Missed {
                    lease_epoch,
                    begun_at,
                    received_at,
                },
            ),
        })
        .collect())
}

/// Notes what this inventory did not list, keeps the notes on `staying`, forgets all others of the
/// agent.
pub async fn note_absent(
    conn: &mut Conn,
    agent: &str,
    staying: Vec<Uuid>,
    missed: &[&Running],
    begun_at: DateTime<Utc>,
) -> Result<()> {
    Statement::new(include_str!("note_absent.sql"))
        .bind::<Text, _>(agent.to_owned())
        .bind::<Array<SqlUuid>, _>(staying)
        .bind::<Array<SqlUuid>, _>(missed.iter().map(|session| session.id).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(
            missed
                .iter()
                .map(|session| session.lease_epoch)
                .collect::<Vec<_>>(),
        )
        .bind::<Timestamptz, _>(begun_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes when the agent's newest inventory was begun. Its row must be locked.
pub async fn note_taken(conn: &mut Conn, agent: &str, begun_at: DateTime<Utc>) -> Result<()> {
    Statement::new(
        "-- inventory::note_taken\nUPDATE agents SET inventory_taken_at = greatest(inventory_taken_at, $2) \
         WHERE name = $1",
    )
    .bind::<Text, _>(agent.to_owned())
    .bind::<Timestamptz, _>(begun_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Where a page of leftovers ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position {
    since: DateTime<Utc>,
    kind: LeftoverKind,
    id: i64,
}

impl crate::http::Cursor for Position {
    const KIND: &'static str = "leftovers";
}

#[derive(diesel::QueryableByName)]
struct ListRow {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    pool: String,
    #[diesel(sql_type = Text)]
    resource_domain: String,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    session_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Integer>)]
    attempt: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    platform_resource_id: Option<String>,
    #[diesel(sql_type = Text)]
    reason: String,
    #[diesel(sql_type = Timestamptz)]
    since: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    delete_after: Option<DateTime<Utc>>,
}

/// Leftovers and quarantined resources, newest first, each with its place in the list.
pub async fn list(
    conn: &mut Conn,
    filter: LeftoverFilter,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<(Position, Leftover)>> {
    let rows: Vec<ListRow> = Statement::new(include_str!("list.sql"))
        .bind::<Nullable<Text>, _>(filter.pool)
        .bind::<Nullable<Text>, _>(filter.resource_domain)
        .bind::<Nullable<Text>, _>(filter.kind.map(|kind| kind.as_str().to_owned()))
        .bind::<Nullable<Timestamptz>, _>(after.as_ref().map(|at| at.since))
        .bind::<Nullable<Text>, _>(after.as_ref().map(|at| at.kind.as_str().to_owned()))
        .bind::<Nullable<BigInt>, _>(after.as_ref().map(|at| at.id))
        .bind::<BigInt, _>(limit)
        .bind::<Nullable<Text>, _>(filter.reach.as_prefix())
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|row| {
            let kind: LeftoverKind =
                row.kind
                    .parse()
                    .map_err(|error: lessor_protocol::UnknownWord| {
                        Error::Internal(error.to_string())
                    })?;
            let position = Position {
                since: row.since,
                kind,
                id: row.id,
            };
            let leftover = Leftover {
                id: format!("{kind}-{}", row.id),
                kind,
                pool: row.pool,
                resource_domain: row.resource_domain,
                session_id: row.session_id,
                attempt: row.attempt,
                platform_resource_id: row.platform_resource_id,
                reason: row.reason,
                since: row.since,
                delete_after: row.delete_after,
            };
            Ok((position, leftover))
        })
        .collect()
}

/// How many of each kind a pool has.
#[derive(diesel::QueryableByName)]
pub struct Counts {
    /// The pool.
    #[diesel(sql_type = Text)]
    pub pool: String,
    /// Its leftovers.
    #[diesel(sql_type = BigInt)]
    pub leftovers: i64,
    /// What is in quarantine.
    #[diesel(sql_type = BigInt)]
    pub quarantined: i64,
}

/// How many of each kind every pool has, the newest 1,000 pools.
pub async fn counts(conn: &mut Conn) -> Result<Vec<Counts>> {
    Ok(Statement::new(include_str!("counts.sql"))
        .load(conn)
        .await?)
}
