//! The SQL of drains.

use chrono::{DateTime, Utc};
use diesel::sql_types::{
    Array, BigInt, Bool, Double, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Actor, Blocked, Drain, DrainRequest, DrainStatus, OnLost};
use uuid::Uuid;

use crate::error::Result;
use crate::store::{Conn, Statement, Word, try_turn};

/// A drain as it stands.
#[derive(Clone, Debug, diesel::QueryableByName)]
pub struct Standing {
    #[diesel(sql_type = Nullable<Text>)]
    pub agent: Option<String>,
    #[diesel(sql_type = Text)]
    pub pool: String,
    #[diesel(sql_type = Text, deserialize_as = Word<DrainStatus>)]
    pub status: DrainStatus,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Text)]
    started_by: String,
    #[diesel(sql_type = Bool)]
    pub force: bool,
    #[diesel(sql_type = Timestamptz)]
    started_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    pub deadline_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    finished_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Text, deserialize_as = Word<OnLost>)]
    on_lost: OnLost,
    /// Whether its deadline has passed.
    #[diesel(sql_type = Bool)]
    pub is_late: bool,
    /// Whether much of its pool is silent, so that `on_lost` decides nothing.
    #[diesel(sql_type = Bool)]
    pub is_braked: bool,
    /// Whether it is about anybody still; those may have gone since.
    #[diesel(sql_type = Bool)]
    pub has_members: bool,
    /// Since when those who hold something after the deadline have had time.
    #[diesel(sql_type = Timestamptz)]
    pub grace_from: DateTime<Utc>,
    /// The agents that it is about and that are still there.
    #[diesel(sql_type = Array<Text>)]
    pub agents: Vec<String>,
    #[diesel(sql_type = BigInt)]
    total: i64,
    #[diesel(sql_type = BigInt)]
    handed_over: i64,
    /// Sessions that are still to be handed over.
    #[diesel(sql_type = BigInt)]
    pub remaining: i64,
    #[diesel(sql_type = Bool)]
    last_of_domain: bool,
}

impl Standing {
    /// It as the API shows it.
    pub fn into_drain(self, blocked: Vec<Blocked>) -> Drain {
        Drain {
            agent: self.agent,
            pool: self.pool,
            status: self.status,
            reason: self.reason,
            by: self.started_by,
            force: self.force,
            started_at: self.started_at,
            deadline_at: self.deadline_at,
            finished_at: self.finished_at,
            total: self.total,
            handed_over: self.handed_over,
            remaining: self.remaining,
            blocked,
            last_of_domain: self.last_of_domain,
            on_lost: self.on_lost,
        }
    }
}

/// A drain as it stands now, none if there is no such one.
pub async fn show(conn: &mut Conn, id: Uuid) -> Result<Option<Standing>> {
    let rows: Vec<Standing> = Statement::new(include_str!("show.sql"))
        .bind::<SqlUuid, _>(id)
        .load(conn)
        .await?;
    Ok(rows.into_iter().next())
}

#[derive(diesel::QueryableByName)]
struct BlockedRow {
    #[diesel(sql_type = SqlUuid)]
    session_id: Uuid,
    #[diesel(sql_type = Text)]
    reason: String,
}

/// What cannot be handed over at present.
pub async fn blocked(conn: &mut Conn, id: Uuid, agents: &[String]) -> Result<Vec<Blocked>> {
    let rows: Vec<BlockedRow> = Statement::new(include_str!("blocked.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Array<Text>, _>(agents.to_vec())
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| Blocked {
            session_id: row.session_id,
            reason: row.reason,
        })
        .collect())
}

#[derive(diesel::QueryableByName)]
struct Id {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

async fn ids(conn: &mut Conn, statement: Statement<'_>) -> Result<Vec<Uuid>> {
    let rows: Vec<Id> = statement.load(conn).await?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

/// The newest drain of an agent, its pool's included; of those in progress its own.
pub async fn of_agent(conn: &mut Conn, agent: &str) -> Result<Option<Uuid>> {
    let text = "-- drains::of_agent\nSELECT d.id FROM drain_agents x JOIN drains d ON d.id = x.drain_id \
        WHERE x.agent = $1 ORDER BY d.status = 'in_progress' DESC, d.agent IS NOT NULL DESC, d.started_at DESC LIMIT 1";
    let found = ids(conn, Statement::new(text).bind::<Text, _>(agent.to_owned()));
    Ok(found.await?.pop())
}

/// The newest drain of a whole pool.
pub async fn of_pool(conn: &mut Conn, pool: &str) -> Result<Option<Uuid>> {
    let text = "-- drains::of_pool\nSELECT d.id FROM drains d WHERE d.pool = $1 AND d.agent IS NULL \
        ORDER BY d.started_at DESC LIMIT 1";
    let found = ids(conn, Statement::new(text).bind::<Text, _>(pool.to_owned()));
    Ok(found.await?.pop())
}

/// The drains in progress that an agent takes part in.
pub async fn in_progress_of(conn: &mut Conn, agent: &str) -> Result<Vec<Uuid>> {
    let text = "-- drains::in_progress_of\nSELECT d.id FROM drain_agents x JOIN drains d ON d.id = x.drain_id \
        WHERE x.agent = $1 AND d.status = 'in_progress' ORDER BY d.id";
    ids(conn, Statement::new(text).bind::<Text, _>(agent.to_owned())).await
}

/// Every drain in progress, the oldest first, a thousand at most.
pub async fn in_progress(conn: &mut Conn) -> Result<Vec<Uuid>> {
    let text = "-- drains::in_progress\nSELECT id FROM drains WHERE status = 'in_progress' \
        ORDER BY started_at LIMIT 1000";
    ids(conn, Statement::new(text)).await
}

#[derive(diesel::QueryableByName)]
struct Held {
    #[diesel(sql_type = Text)]
    pool: String,
    #[diesel(sql_type = Array<SqlUuid>)]
    ids: Vec<Uuid>,
}

/// The pool of a drain, and the sessions that it still has to hand over.
pub async fn still_held(
    conn: &mut Conn,
    id: Uuid,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Option<(String, Vec<Uuid>)>> {
    let text = "-- drains::still_held\nSELECT d.pool, ARRAY (SELECT x.session_id FROM drain_sessions x \
        JOIN sessions s ON s.id = x.session_id \
        WHERE x.drain_id = d.id AND x.outcome IS NULL AND d.status IN ('in_progress', 'failed') \
        AND ($2::uuid IS NULL OR x.session_id < $2) ORDER BY x.session_id DESC LIMIT $3) AS ids \
        FROM drains d WHERE d.id = $1";
    let rows: Vec<Held> = Statement::new(text)
        .bind::<SqlUuid, _>(id)
        .bind::<Nullable<SqlUuid>, _>(after)
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await?;
    Ok(rows.into_iter().next().map(|row| (row.pool, row.ids)))
}

#[derive(diesel::QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// The agents of a pool.
pub async fn agents_of(conn: &mut Conn, pool: &str) -> Result<Vec<String>> {
    let rows: Vec<Name> = Statement::new(
        "-- drains::agents_of\nSELECT name FROM agents WHERE pool = $1 ORDER BY name",
    )
    .bind::<Text, _>(pool.to_owned())
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// The agents that a drain is about and that are still there.
pub async fn members(conn: &mut Conn, id: Uuid) -> Result<Vec<String>> {
    let rows: Vec<Name> = Statement::new(
        "-- drains::members\nSELECT x.agent AS name FROM drain_agents x \
         JOIN agents a ON a.name = x.agent AND a.created_at = x.agent_since \
         WHERE x.drain_id = $1 ORDER BY x.agent",
    )
    .bind::<SqlUuid, _>(id)
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// Inserts a drain of these agents, whose rows are locked, and cordons them.
pub async fn begin(
    conn: &mut Conn,
    id: Uuid,
    (pool, agent): (&str, Option<&str>),
    request: &DrainRequest,
    actor: &Actor,
    agents: &[String],
) -> Result<()> {
    Statement::new(include_str!("begin.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Text, _>(pool.to_owned())
        .bind::<Nullable<Text>, _>(agent.map(ToOwned::to_owned))
        .bind::<Nullable<Text>, _>(request.reason.clone())
        .bind::<Text, _>(actor.name.clone())
        .bind::<Bool, _>(request.force)
        .bind::<Double, _>(request.deadline_seconds)
        .bind::<Array<Text>, _>(agents.to_vec())
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether this transaction is the one that works on the drain; no two do at a time.
pub async fn try_lock(conn: &mut Conn, id: Uuid) -> Result<bool> {
    try_turn(conn, &format!("drain {id}")).await
}

/// Notes what the agents hold, and what has become of what they held; how much of that is new.
pub async fn follow(conn: &mut Conn, id: Uuid, agents: &[String]) -> Result<Vec<String>> {
    #[derive(diesel::QueryableByName)]
    struct Settled {
        #[diesel(sql_type = Text)]
        outcome: String,
    }
    Statement::new(include_str!("track.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Array<Text>, _>(agents.to_vec())
        .execute(conn)
        .await?;
    let settled: Vec<Settled> = Statement::new(include_str!("settle.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Array<Text>, _>(agents.to_vec())
        .load(conn)
        .await?;
    Ok(settled.into_iter().map(|row| row.outcome).collect())
}

/// A hold about which something is to be done.
#[derive(Clone, Copy, Debug, diesel::QueryableByName)]
pub struct ToDo {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    /// Whether another agent can adopt it.
    #[diesel(sql_type = Bool)]
    pub adoptable: bool,
}

/// The holds about which something is to be done now, at most 500.
pub async fn to_do(
    conn: &mut Conn,
    id: Uuid,
    agents: &[String],
    is_due: bool,
    decides: Option<OnLost>,
) -> Result<Vec<ToDo>> {
    Ok(Statement::new(include_str!("to_do.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Array<Text>, _>(agents.to_vec())
        .bind::<Bool, _>(is_due)
        .bind::<Text, _>(decides.map_or("", OnLost::as_str))
        .load(conn)
        .await?)
}

/// The sessions that these agents were asked to hand over and still hold.
pub async fn being_handed_over(conn: &mut Conn, agents: &[String]) -> Result<Vec<Uuid>> {
    let text = "-- drains::being_handed_over\nSELECT id FROM sessions \
        WHERE assigned_agent_id = ANY ($1) AND handing_over ORDER BY id";
    ids(
        conn,
        Statement::new(text).bind::<Array<Text>, _>(agents.to_vec()),
    )
    .await
}

/// Marks the agents that have nothing left to hand over; which those are.
pub async fn mark_drained(conn: &mut Conn, id: Uuid, agents: &[String]) -> Result<Vec<String>> {
    let rows: Vec<Name> = Statement::new(include_str!("drained.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Array<Text>, _>(agents.to_vec())
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// Whether any session is assigned to one of these agents.
pub async fn hold_anything(conn: &mut Conn, agents: &[String]) -> Result<bool> {
    #[derive(diesel::QueryableByName)]
    struct Some {
        #[diesel(sql_type = Bool)]
        some: bool,
    }
    let some: Some = Statement::new(
        "-- drains::hold_anything\nSELECT EXISTS (SELECT FROM sessions \
         WHERE assigned_agent_id = ANY ($1)) AS some",
    )
    .bind::<Array<Text>, _>(agents.to_vec())
    .get_result(conn)
    .await?;
    Ok(some.some)
}

/// Locks a drain's own row, after its agents.
pub async fn lock(conn: &mut Conn, id: Uuid) -> Result<()> {
    Statement::new("-- drains::lock\nSELECT FROM drains WHERE id = $1 FOR NO KEY UPDATE")
        .bind::<SqlUuid, _>(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes that holds were taken, or left to `on_lost`, just now.
pub async fn acted(conn: &mut Conn, id: Uuid) -> Result<()> {
    Statement::new("-- drains::acted\nUPDATE drains SET acted_at = now() WHERE id = $1")
        .bind::<SqlUuid, _>(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends a drain that is in progress.
pub async fn finish(conn: &mut Conn, id: Uuid, status: DrainStatus) -> Result<()> {
    Statement::new(
        "-- drains::finish\nUPDATE drains SET status = $2, finished_at = now() \
         WHERE id = $1 AND status = 'in_progress'",
    )
    .bind::<SqlUuid, _>(id)
    .bind::<Text, _>(status.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

/// An agent that left a drain.
#[derive(Clone, Debug, diesel::QueryableByName)]
pub struct LetGo {
    #[diesel(sql_type = Text)]
    pub name: String,
    /// Whether it stays cordoned.
    #[diesel(sql_type = Bool)]
    pub stays: bool,
}

/// Agents leave a drain, as they were before it or cordoned.
pub async fn let_go(
    conn: &mut Conn,
    id: Uuid,
    agents: &[String],
    as_before: bool,
) -> Result<Vec<LetGo>> {
    Ok(Statement::new(include_str!("let_go.sql"))
        .bind::<SqlUuid, _>(id)
        .bind::<Array<Text>, _>(agents.to_vec())
        .bind::<Bool, _>(as_before)
        .load(conn)
        .await?)
}

/// A drain is not about these agents any more, nor about what they held.
pub async fn forget_members(conn: &mut Conn, id: Uuid, agents: &[String]) -> Result<()> {
    for text in [
        "-- drains::forget_sessions\nDELETE FROM drain_sessions WHERE drain_id = $1 AND agent = ANY ($2) AND outcome IS NULL",
        "-- drains::forget_agent\nDELETE FROM drain_agents WHERE drain_id = $1 AND agent = ANY ($2)",
    ] {
        Statement::new(text)
            .bind::<SqlUuid, _>(id)
            .bind::<Array<Text>, _>(agents.to_vec())
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Writes an event of a drain.
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
