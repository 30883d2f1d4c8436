//! The SQL of agents.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Actor, Agent, HeldSession, PROTOCOL_VERSIONS, Register};
use uuid::Uuid;

use super::row::AgentRow;
use crate::error::{Error, Result};
use crate::store::schema::{agents, sessions};
use crate::store::{Conn, LabelsColumn, Statement};

/// Locks a name, whether there is an agent of it or not, against everybody who registers or forgets one.
/// Before its row, if that is locked too.
pub async fn lock_name(conn: &mut Conn, name: &str) -> Result<()> {
    let text = "-- agents::lock_name\nINSERT INTO agent_names AS n (name) VALUES ($1) \
        ON CONFLICT (name) DO UPDATE SET name = n.name WHERE false";
    Statement::new(text)
        .bind::<Text, _>(name.to_owned())
        .execute(conn)
        .await?;
    Ok(())
}

/// An agent's row, locked against everybody who makes or ends an assignment of it.
pub async fn lock_one(conn: &mut Conn, name: &str) -> Result<Option<AgentRow>> {
    Ok(agents::table
        .select(AgentRow::as_select())
        .filter(agents::name.eq(name.to_owned()))
        .for_no_key_update()
        .first(conn)
        .await
        .optional()?)
}

/// Agents' rows, locked in key order.
pub async fn lock(conn: &mut Conn, names: &[String]) -> Result<Vec<AgentRow>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    Ok(agents::table
        .select(AgentRow::as_select())
        .filter(agents::name.eq_any(names.to_vec()))
        .order(agents::name)
        .for_no_key_update()
        .load(conn)
        .await?)
}

/// How many sessions are assigned to an agent.
pub async fn held(conn: &mut Conn, name: &str) -> Result<i64> {
    Ok(sessions::table
        .filter(sessions::assigned_agent_id.eq(name.to_owned()))
        .count()
        .get_result(conn)
        .await?)
}

/// The sessions that are assigned to an agent.
pub async fn assigned_ids(conn: &mut Conn, name: &str) -> Result<Vec<Uuid>> {
    Ok(sessions::table
        .select(sessions::id)
        .filter(sessions::assigned_agent_id.eq(name.to_owned()))
        .load(conn)
        .await?)
}

#[derive(QueryableByName)]
struct Held {
    #[diesel(sql_type = Text)]
    agent: String,
    #[diesel(sql_type = BigInt)]
    held: i64,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

/// Agents as the API shows them, in the order of the rows.
pub async fn shown(conn: &mut Conn, rows: Vec<AgentRow>) -> Result<Vec<Agent>> {
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let held: Vec<Held> = Statement::new(
        "-- agents::shown\nSELECT n.name AS agent, clock_timestamp() AS now, \
         (SELECT count(*) FROM sessions s WHERE s.assigned_agent_id = n.name) AS held \
         FROM unnest($1) AS n (name)",
    )
    .bind::<Array<Text>, _>(names)
    .load(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let held = held.iter().find(|held| held.agent == row.name);
            let now = held.map_or(row.last_heartbeat_at, |held| held.now);
            row.into_agent(held.map_or(0, |held| held.held), now)
        })
        .collect())
}

/// An agent as the API shows it.
pub async fn get(conn: &mut Conn, name: &str) -> Result<Agent> {
    let row: Option<AgentRow> = agents::table
        .select(AgentRow::as_select())
        .filter(agents::name.eq(name.to_owned()))
        .first(conn)
        .await
        .optional()?;
    let row = row.ok_or_else(|| Error::AgentNotRegistered(name.to_owned()))?;
    let mut agents = shown(conn, vec![row]).await?;
    agents
        .pop()
        .ok_or_else(|| Error::AgentNotRegistered(name.to_owned()))
}

/// Whether the agent has had this instance, before the present one.
pub async fn is_past_instance(conn: &mut Conn, name: &str, instance: &str) -> Result<bool> {
    #[derive(QueryableByName)]
    struct Past {
        #[diesel(sql_type = Bool)]
        past: bool,
    }
    let past: Past = Statement::new(
        "-- agents::is_past_instance\nSELECT EXISTS (SELECT FROM agent_instances \
         WHERE agent = $1 AND instance_id = $2) AS past",
    )
    .bind::<Text, _>(name.to_owned())
    .bind::<Text, _>(instance.to_owned())
    .get_result(conn)
    .await?;
    Ok(past.past)
}

/// The same run again: capacity, labels and the lease are made anew, the incarnation stays.
pub async fn refresh(
    conn: &mut Conn,
    row: &AgentRow,
    body: &Register,
    domain: &str,
) -> Result<AgentRow> {
    upsert(conn, &row.name, body, domain, false).await
}

/// A new run: a new incarnation, which fences the older ones.
pub async fn new_incarnation(
    conn: &mut Conn,
    name: &str,
    body: &Register,
    domain: &str,
) -> Result<AgentRow> {
    upsert(conn, name, body, domain, true).await
}

async fn upsert(
    conn: &mut Conn,
    name: &str,
    body: &Register,
    domain: &str,
    new_run: bool,
) -> Result<AgentRow> {
    let instance = body.instance.as_ref();
    let newest = PROTOCOL_VERSIONS.last().copied().unwrap_or(1);
    Ok(Statement::new(include_str!("register.sql"))
        .bind::<Text, _>(name.to_owned())
        .bind::<Text, _>(body.pool.clone())
        .bind::<Text, _>(domain.to_owned())
        .bind::<Integer, _>(body.capacity)
        .bind::<Jsonb, _>(LabelsColumn(body.labels.clone()))
        .bind::<Nullable<Text>, _>(body.agent_version.clone())
        .bind::<Integer, _>(body.protocol_version.unwrap_or(newest))
        .bind::<Nullable<Text>, _>(instance.map(|i| i.id.clone()))
        .bind::<Array<Nullable<Text>>, _>(vec![
            instance.and_then(|i| i.host.clone()),
            instance.and_then(|i| i.pid).map(|pid| pid.to_string()),
            Some(new_run.to_string()),
        ])
        .get_result(conn)
        .await?)
}

/// Writes an event of an agent.
pub async fn record(
    conn: &mut Conn,
    agent: &AgentRow,
    actor: &Actor,
    kind: &str,
    reason: Option<&str>,
) -> Result<()> {
    Statement::new(include_str!("record.sql"))
        .bind::<Text, _>(kind.to_owned())
        .bind::<Text, _>(agent.pool.clone())
        .bind::<Text, _>(agent.name.clone())
        .bind::<BigInt, _>(agent.incarnation)
        .bind::<Text, _>(actor.actor_type.as_str())
        .bind::<Text, _>(actor.name.clone())
        .bind::<Nullable<Text>, _>(reason.map(ToOwned::to_owned))
        .execute(conn)
        .await?;
    Ok(())
}

/// Sets or lifts a cordon, with its event.
pub async fn set_cordon(
    conn: &mut Conn,
    before: &AgentRow,
    cordon: Option<(Option<String>, Option<DateTime<Utc>>)>,
    actor: &Actor,
) -> Result<()> {
    let cordoned = cordon.is_some();
    let (reason, until) = cordon.clone().unwrap_or((None, None));
    let since = if before.cordoned {
        before.cordon_since
    } else {
        None
    };
    Statement::new(include_str!("cordon.sql"))
        .bind::<Text, _>(before.name.clone())
        .bind::<Bool, _>(cordoned)
        .bind::<Nullable<Text>, _>(reason.clone())
        .bind::<Text, _>(actor.name.clone())
        .bind::<Nullable<Timestamptz>, _>(since)
        .bind::<Nullable<Timestamptz>, _>(until)
        .execute(conn)
        .await?;
    let kind = if cordoned {
        "agent.cordoned"
    } else {
        "agent.uncordoned"
    };
    record(conn, before, actor, kind, reason.as_deref()).await
}

/// Forgets an agent, and what it was to be told.
pub async fn delete(conn: &mut Conn, name: &str) -> Result<()> {
    Statement::new("-- agents::forget_lost\nDELETE FROM lost_holds WHERE agent = $1")
        .bind::<Text, _>(name.to_owned())
        .execute(conn)
        .await?;
    diesel::delete(agents::table.filter(agents::name.eq(name.to_owned())))
        .execute(conn)
        .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct LostId {
    #[diesel(sql_type = SqlUuid)]
    session_id: Uuid,
    #[diesel(sql_type = BigInt)]
    lease_epoch: i64,
}

/// Removes what an agent acknowledges from its lost holds, and says which those were, each with
/// the epoch under which it was taken.
pub async fn take_lost(
    conn: &mut Conn,
    name: &str,
    incarnation: i64,
    dropped: &[HeldSession],
) -> Result<Vec<(Uuid, i64)>> {
    let rows: Vec<LostId> = Statement::new(
        "-- agents::take_lost\nDELETE FROM lost_holds l USING unnest($3, $4) AS d (session_id, lease_epoch) \
         WHERE l.agent = $1 AND l.incarnation = $2 AND l.session_id = d.session_id \
         AND l.lease_epoch = d.lease_epoch RETURNING l.session_id, l.lease_epoch",
    )
    .bind::<Text, _>(name.to_owned())
    .bind::<BigInt, _>(incarnation)
    .bind::<Array<SqlUuid>, _>(dropped.iter().map(|d| d.session_id).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(dropped.iter().map(|d| d.lease_epoch).collect::<Vec<_>>())
    .load(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.session_id, row.lease_epoch))
        .collect())
}
