//! The SQL of explaining: reads, which lock nothing.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::sql_types::{
    Array, BigInt, Bool, Double, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Labels, Scheduling};
use uuid::Uuid;

use super::state::{Agent, LastClaim};
use crate::error::{Error, Result};
use crate::store::{Conn, LabelsColumn, Statement, Word};

/// What is known of a session beside its row.
#[derive(Clone, Debug, diesel::QueryableByName)]
pub struct Facts {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    /// The snapshot's time.
    #[diesel(sql_type = Timestamptz)]
    pub now: DateTime<Utc>,
    #[diesel(sql_type = Text)]
    pub requires_key: String,
    /// Since when the pool's brake is on.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub brake_since: Option<DateTime<Utc>>,
    /// Since when its domain is lost, by the time that counts.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub lost_since: Option<DateTime<Utc>>,
    /// Who held it before it was held back.
    #[diesel(sql_type = Nullable<Text>)]
    pub former_holder: Option<String>,
    /// How that ended.
    #[diesel(sql_type = Nullable<Text>)]
    pub end_reason: Option<String>,
    /// Whether it was taken from that agent, which has not said that it has dropped it.
    #[diesel(sql_type = Nullable<Bool>)]
    pub is_lost: Option<bool>,
    /// Its owner's limit.
    #[diesel(sql_type = Nullable<Integer>)]
    pub max_running: Option<i32>,
    /// How many count against that.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub running: Option<i64>,
    /// The deadline of a drain of its holder.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub drain_deadline_at: Option<DateTime<Utc>>,
    /// Whether its domain has a live agent.
    #[diesel(sql_type = Bool)]
    pub domain_live: bool,
    /// Its place among what its domain has to do of this kind.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub domain_position: Option<i64>,
    /// Its place among what any agent of the pool may start for its owner with its selector.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub pool_position: Option<i64>,
}

/// What is known of these sessions. Places are counted up to one more than `most`.
pub async fn facts(conn: &mut Conn, ids: Vec<Uuid>, most: i64) -> Result<HashMap<Uuid, Facts>> {
    let text = include_str!("facts.sql").replace("{limit}", &(most + 1).to_string());
    let rows: Vec<Facts> = Statement::new(&text)
        .bind::<Array<SqlUuid>, _>(ids)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.id, row)).collect())
}

#[derive(diesel::QueryableByName)]
struct AgentRow {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    resource_domain: String,
    #[diesel(sql_type = Bool)]
    live: bool,
    #[diesel(sql_type = Text, deserialize_as = Word<Scheduling>)]
    scheduling: Scheduling,
    #[diesel(sql_type = Integer)]
    capacity: i32,
    #[diesel(sql_type = Integer)]
    slots_used: i32,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    passed_over_until: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    last_claim_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Double>)]
    last_claim_wait_seconds: Option<f64>,
    #[diesel(sql_type = Nullable<Integer>)]
    last_claim_max_sessions: Option<i32>,
    #[diesel(sql_type = Bool)]
    last_of_domain: bool,
    #[diesel(sql_type = Array<BigInt>)]
    lacks: Vec<i64>,
}

/// The agents of a pool, 20,000 at most, each with the places, from 1, of those of `selectors` of
/// which it lacks a label.
pub async fn agents(
    conn: &mut Conn,
    pool: &str,
    selectors: &[Labels],
) -> Result<Vec<(Agent, Vec<i64>)>> {
    let selectors: Vec<String> = selectors
        .iter()
        .map(serde_json::to_string)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::Internal(error.to_string()))?;
    let rows: Vec<AgentRow> = Statement::new(include_str!("agents.sql"))
        .bind::<Text, _>(pool.to_owned())
        .bind::<Array<Text>, _>(selectors)
        .load(conn)
        .await?;
    let of = |row: AgentRow| {
        let claim = row.last_claim_at.map(|at| LastClaim {
            at,
            wait_seconds: row.last_claim_wait_seconds.unwrap_or_default(),
            max_sessions: row.last_claim_max_sessions.unwrap_or_default(),
        });
        let agent = Agent {
            name: row.name,
            resource_domain: row.resource_domain,
            live: row.live,
            scheduling: row.scheduling,
            capacity: row.capacity,
            slots_used: row.slots_used,
            passed_over_until: row.passed_over_until,
            last_of_domain: row.last_of_domain,
            claim,
        };
        (agent, row.lacks)
    };
    Ok(rows.into_iter().map(of).collect())
}

/// What people want to know of an agent.
#[derive(Clone, Debug, diesel::QueryableByName)]
pub struct Details {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Jsonb, deserialize_as = LabelsColumn)]
    pub labels: Labels,
    #[diesel(sql_type = Nullable<Text>)]
    pub cordon_reason: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub cordon_by: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub cordon_since: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub cordon_until: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub expired_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Timestamptz)]
    pub last_heartbeat_at: DateTime<Utc>,
}

/// The details of these agents, by name.
pub async fn details(conn: &mut Conn, names: Vec<String>) -> Result<HashMap<String, Details>> {
    let rows: Vec<Details> = Statement::new(include_str!("details.sql"))
        .bind::<Array<Text>, _>(names)
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.name.clone(), row))
        .collect())
}

#[derive(diesel::QueryableByName)]
struct Others {
    #[diesel(sql_type = BigInt)]
    others: i64,
}

/// How many owners other than this one have something waiting with a selector, 100 at most.
pub async fn other_owners(
    conn: &mut Conn,
    pool: &str,
    requires_key: &str,
    owner: &str,
) -> Result<i64> {
    let row: Others = Statement::new(include_str!("owners.sql"))
        .bind::<Text, _>(pool.to_owned())
        .bind::<Text, _>(requires_key.to_owned())
        .bind::<Text, _>(owner.to_owned())
        .get_result(conn)
        .await?;
    Ok(row.others.min(100))
}

#[derive(diesel::QueryableByName)]
struct Label {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    value: String,
}

/// Those of these labels that no live agent of the pool has.
pub async fn unmet(
    conn: &mut Conn,
    pool: &str,
    requires: &Labels,
) -> Result<Vec<(String, String)>> {
    if requires.is_empty() {
        return Ok(Vec::new());
    }
    let text = serde_json::to_string(requires).map_err(|e| Error::Internal(e.to_string()))?;
    let rows: Vec<Label> = Statement::new(include_str!("unmet.sql"))
        .bind::<Text, _>(pool.to_owned())
        .bind::<Text, _>(text)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.key, row.value)).collect())
}
