//! The SQL of simulations: reads, which lock nothing.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{DesiredState, Labels, SessionState};
use uuid::Uuid;

use super::state::{Affected, Agent};
use crate::error::{Error, Result};
use crate::store::{Conn, LabelsColumn, Statement, Word};

/// Selectors are told only where there are any, since most sessions have none.
const COLUMNS: &str = "s.id, s.assigned_agent_id AS holder, s.resource_domain, s.state, \
s.desired_state, s.domain_lost, s.owner, s.priority, s.queued_at, s.held_back_until, \
s.start_domain, nullif(s.requires, '{}') AS requires, nullif(s.prefers, '{}') AS prefers";

#[derive(diesel::QueryableByName)]
struct AgentRow {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    resource_domain: String,
    #[diesel(sql_type = Bool)]
    live: bool,
    #[diesel(sql_type = Bool)]
    active: bool,
    #[diesel(sql_type = Integer)]
    capacity: i32,
    #[diesel(sql_type = Integer)]
    slots_used: i32,
    #[diesel(sql_type = Jsonb, deserialize_as = LabelsColumn)]
    labels: Labels,
}

/// The agents of a pool by name, 20,000 at most.
pub async fn agents(conn: &mut Conn, pool: &str) -> Result<Vec<Agent>> {
    let rows: Vec<AgentRow> = Statement::new(include_str!("agents.sql"))
        .bind::<Text, _>(pool.to_owned())
        .load(conn)
        .await?;
    let of = |row: AgentRow| Agent {
        name: row.name,
        resource_domain: row.resource_domain,
        live: row.live,
        active: row.active,
        capacity: row.capacity,
        slots_used: row.slots_used,
        labels: row.labels,
    };
    Ok(rows.into_iter().map(of).collect())
}

#[derive(diesel::QueryableByName)]
struct Home {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    pool: String,
}

/// The pools of those of these agents that are registered.
pub async fn pools_of(conn: &mut Conn, names: Vec<String>) -> Result<HashMap<String, String>> {
    let text = "-- simulate::pools_of\nSELECT a.name, a.pool FROM agents a WHERE a.name = ANY ($1)";
    let rows: Vec<Home> = Statement::new(text)
        .bind::<Array<Text>, _>(names)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.name, row.pool)).collect())
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Nullable<Text>)]
    holder: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    resource_domain: Option<String>,
    #[diesel(sql_type = Text, deserialize_as = Word<SessionState>)]
    state: SessionState,
    #[diesel(sql_type = Text, deserialize_as = Word<DesiredState>)]
    desired_state: DesiredState,
    #[diesel(sql_type = Bool)]
    domain_lost: bool,
    #[diesel(sql_type = Nullable<Text>)]
    owner: Option<String>,
    #[diesel(sql_type = Integer)]
    priority: i32,
    #[diesel(sql_type = Timestamptz)]
    queued_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    held_back_until: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    start_domain: Option<String>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    requires: Option<serde_json::Value>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    prefers: Option<serde_json::Value>,
}

impl Row {
    fn into_affected(self) -> Result<Affected> {
        let labels = |value: Option<serde_json::Value>| {
            let labels = value.map(serde_json::from_value).transpose();
            labels
                .map(Option::unwrap_or_default)
                .map_err(|error| Error::Internal(error.to_string()))
        };
        Ok(Affected {
            id: self.id,
            holder: self.holder,
            resource_domain: self.resource_domain,
            state: self.state,
            desired: self.desired_state,
            domain_lost: self.domain_lost,
            owner: self.owner,
            priority: self.priority,
            queued_at: self.queued_at,
            held_back_until: self.held_back_until,
            start_domain: self.start_domain,
            requires: labels(self.requires)?,
            prefers: labels(self.prefers)?,
        })
    }
}

/// What these agents hold or are offered, 100,001 at most.
pub async fn of_lost(conn: &mut Conn, agents: Vec<String>) -> Result<Vec<Affected>> {
    let text = include_str!("of_lost.sql").replace("{columns}", COLUMNS);
    let rows: Vec<Row> = Statement::new(&text)
        .bind::<Array<Text>, _>(agents)
        .load(conn)
        .await?;
    rows.into_iter().map(Row::into_affected).collect()
}

/// What waits in a pool today, 100,001 at most.
pub async fn waiting(conn: &mut Conn, pool: &str) -> Result<Vec<Affected>> {
    let text = include_str!("waiting.sql").replace("{columns}", COLUMNS);
    let rows: Vec<Row> = Statement::new(&text)
        .bind::<Text, _>(pool.to_owned())
        .load(conn)
        .await?;
    rows.into_iter().map(Row::into_affected).collect()
}

#[derive(diesel::QueryableByName)]
struct Limit {
    #[diesel(sql_type = Text)]
    owner: String,
    #[diesel(sql_type = Integer)]
    max_running: i32,
    #[diesel(sql_type = BigInt)]
    running: i64,
}

/// How many more sessions may run of each owner that has a limit.
pub async fn places(conn: &mut Conn, pool: &str) -> Result<HashMap<String, i64>> {
    let rows: Vec<Limit> = Statement::new(include_str!("limits.sql"))
        .bind::<Text, _>(pool.to_owned())
        .load(conn)
        .await?;
    let left = |row: Limit| (row.owner, i64::from(row.max_running) - row.running);
    Ok(rows.into_iter().map(left).collect())
}
