//! The SQL of pools.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Double, Nullable, Text};
use diesel_async::RunQueryDsl;
use lessor_protocol::{
    AgentCounts, Approval, Brake, Labels, OnLost, Placement, Pool, PoolCounts, PoolSpec,
    SessionCounts, SessionState, SlotCounts,
};
use serde::{Deserialize, Serialize};

use crate::access::Reach;
use crate::error::{Error, Result};
use crate::store::schema::pools;
use crate::store::{Conn, LabelsColumn, Statement, Word};

/// A row of `pools`.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = pools)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct PoolRow {
    pub name: String,
    pub platform: String,
    pub region: Option<String>,
    pub lease_ttl_seconds: f64,
    pub accept_timeout_seconds: f64,
    #[diesel(deserialize_as = Word<Placement>)]
    pub placement: Placement,
    #[diesel(deserialize_as = Word<OnLost>)]
    pub on_lost: OnLost,
    pub adopt_timeout_seconds: f64,
    pub max_attempts: i32,
    pub attempt_reset_seconds: f64,
    pub backoff_initial_seconds: f64,
    pub backoff_max_seconds: f64,
    pub start_timeout_seconds: f64,
    pub terminate_timeout_seconds: f64,
    pub inventory_every_seconds: f64,
    pub quarantine_seconds: f64,
    pub keep_ended_seconds: f64,
    pub agent_retention_seconds: f64,
    pub slots_per_agent: i32,
    #[diesel(deserialize_as = LabelsColumn)]
    pub labels: Labels,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub brake_since: Option<DateTime<Utc>>,
    pub brake_silent_agents: Option<i64>,
    pub rebalance_min_gain: Option<i32>,
    #[diesel(deserialize_as = Word<Approval>)]
    pub approval: Approval,
}

impl PoolRow {
    /// Its settings.
    pub fn spec(&self) -> PoolSpec {
        PoolSpec {
            platform: self.platform.clone(),
            region: self.region.clone(),
            lease_ttl_seconds: self.lease_ttl_seconds,
            accept_timeout_seconds: self.accept_timeout_seconds,
            placement: self.placement,
            on_lost: self.on_lost,
            adopt_timeout_seconds: self.adopt_timeout_seconds,
            max_attempts: self.max_attempts,
            attempt_reset_seconds: self.attempt_reset_seconds,
            backoff_initial_seconds: self.backoff_initial_seconds,
            backoff_max_seconds: self.backoff_max_seconds,
            start_timeout_seconds: self.start_timeout_seconds,
            terminate_timeout_seconds: self.terminate_timeout_seconds,
            inventory_every_seconds: self.inventory_every_seconds,
            quarantine_seconds: self.quarantine_seconds,
            keep_ended_seconds: self.keep_ended_seconds,
            agent_retention_seconds: self.agent_retention_seconds,
            slots_per_agent: self.slots_per_agent,
            rebalance_min_gain: self.rebalance_min_gain,
            approval: self.approval,
            labels: self.labels.clone(),
        }
    }
}

/// The settings as a row's columns.
#[derive(AsChangeset, Insertable)]
#[diesel(table_name = pools, treat_none_as_null = true)]
struct Settings {
    platform: String,
    region: Option<String>,
    lease_ttl_seconds: f64,
    accept_timeout_seconds: f64,
    placement: &'static str,
    on_lost: &'static str,
    adopt_timeout_seconds: f64,
    max_attempts: i32,
    attempt_reset_seconds: f64,
    backoff_initial_seconds: f64,
    backoff_max_seconds: f64,
    start_timeout_seconds: f64,
    terminate_timeout_seconds: f64,
    inventory_every_seconds: f64,
    quarantine_seconds: f64,
    keep_ended_seconds: f64,
    agent_retention_seconds: f64,
    slots_per_agent: i32,
    rebalance_min_gain: Option<i32>,
    approval: &'static str,
    labels: LabelsColumn,
}

impl Settings {
    fn of(spec: &PoolSpec) -> Self {
        Self {
            platform: spec.platform.clone(),
            region: spec.region.clone(),
            lease_ttl_seconds: spec.lease_ttl_seconds,
            accept_timeout_seconds: spec.accept_timeout_seconds,
            placement: spec.placement.as_str(),
            on_lost: spec.on_lost.as_str(),
            adopt_timeout_seconds: spec.adopt_timeout_seconds,
            max_attempts: spec.max_attempts,
            attempt_reset_seconds: spec.attempt_reset_seconds,
            backoff_initial_seconds: spec.backoff_initial_seconds,
            backoff_max_seconds: spec.backoff_max_seconds,
            start_timeout_seconds: spec.start_timeout_seconds,
            terminate_timeout_seconds: spec.terminate_timeout_seconds,
            inventory_every_seconds: spec.inventory_every_seconds,
            quarantine_seconds: spec.quarantine_seconds,
            keep_ended_seconds: spec.keep_ended_seconds,
            agent_retention_seconds: spec.agent_retention_seconds,
            slots_per_agent: spec.slots_per_agent,
            rebalance_min_gain: spec.rebalance_min_gain,
            approval: spec.approval.as_str(),
            labels: LabelsColumn(spec.labels.clone()),
        }
    }
}

/// A pool's row, locked.
pub async fn lock(conn: &mut Conn, name: &str) -> Result<Option<PoolRow>> {
    Ok(pools::table
        .select(PoolRow::as_select())
        .filter(pools::name.eq(name.to_owned()))
        .for_no_key_update()
        .first(conn)
        .await
        .optional()?)
}

/// The rules that hold in a pool.
pub async fn rules(mut conn: &Conn, name: &str) -> Result<PoolSpec> {
    let row: Option<PoolRow> = pools::table
        .select(PoolRow::as_select())
        .filter(pools::name.eq(name.to_owned()))
        .first(&mut conn)
        .await
        .optional()?;
    row.map(|row| row.spec())
        .ok_or_else(|| Error::PoolNotFound(name.to_owned()))
}

/// The rules that hold in each of these pools.
///
/// # Errors
/// `PoolNotFound` where one of them is not there.
pub async fn rules_of(
    conn: &Conn,
    names: impl IntoIterator<Item = &str> + Send,
) -> Result<BTreeMap<String, PoolSpec>> {
    let names: BTreeSet<String> = names.into_iter().map(ToOwned::to_owned).collect();
    let rules = rules_of_some(conn, &names).await?;
    match names.into_iter().find(|name| !rules.contains_key(name)) {
        Some(missing) => Err(Error::PoolNotFound(missing)),
        None => Ok(rules),
    }
}

/// As [`rules_of`], of those of them that are there.
pub async fn rules_of_some(
    mut conn: &Conn,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<String, PoolSpec>> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<PoolRow> = pools::table
        .select(PoolRow::as_select())
        .filter(pools::name.eq_any(Vec::from_iter(names)))
        .load(&mut conn)
        .await?;
    let rules = rows.into_iter().map(|row| (row.name.clone(), row.spec()));
    Ok(rules.collect())
}

/// No new lease epoch is below this.
pub async fn epoch_floor(mut conn: &Conn) -> Result<i64> {
    #[derive(QueryableByName)]
    struct Floor {
        #[diesel(sql_type = BigInt)]
        lease_epoch_floor: i64,
    }
    let floor: Floor =
        Statement::new("-- pools::epoch_floor\nSELECT lease_epoch_floor FROM fences")
            .get_result(&mut conn)
            .await?;
    Ok(floor.lease_epoch_floor)
}

pub async fn insert(conn: &mut Conn, name: &str, spec: &PoolSpec) -> Result<()> {
    let inserted = diesel::insert_into(pools::table)
        .values((pools::name.eq(name.to_owned()), Settings::of(spec)))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    // Another PUT of the same name came first: run it again, as a replacement.
    if inserted == 0 {
        Err(Error::Retry(format!("pool `{name}` was created meanwhile")))
    } else {
        Ok(())
    }
}

pub async fn replace(conn: &mut Conn, name: &str, spec: &PoolSpec) -> Result<()> {
    diesel::update(pools::table.filter(pools::name.eq(name.to_owned())))
        .set((
            Settings::of(spec),
            pools::version.eq(pools::version + 1),
            pools::updated_at.eq(diesel::dsl::now),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn delete(conn: &mut Conn, name: &str) -> Result<()> {
    #[derive(QueryableByName)]
    struct Held {
        #[diesel(sql_type = BigInt)]
        agents: i64,
        #[diesel(sql_type = BigInt)]
        sessions: i64,
    }
    let held: Held = Statement::new(
        "-- pools::held\nSELECT (SELECT count(*) FROM agents WHERE pool = $1) AS agents, \
         (SELECT count(*) FROM (SELECT FROM sessions WHERE agent_pool = $1 LIMIT 1000) s) \
         + (SELECT count(*) FROM (SELECT FROM sessions WHERE migrating_from_pool = $1 AND agent_pool <> $1 \
         LIMIT 1000) m) AS sessions",
    )
    .bind::<Text, _>(name.to_owned())
    .get_result(conn)
    .await?;
    if held.agents > 0 || held.sessions > 0 {
        let what = format!("{} agents and {} sessions", held.agents, held.sessions);
        return Err(Error::PoolNotEmpty(name.to_owned(), what));
    }
    let deleted = diesel::delete(pools::table.filter(pools::name.eq(name.to_owned())))
        .execute(conn)
        .await;
    match deleted {
        Ok(_) => Ok(()),
        Err(diesel::result::Error::DatabaseError(
            diesel::result::DatabaseErrorKind::ForeignKeyViolation,
            _,
        )) => Err(Error::PoolNotEmpty(
            name.to_owned(),
            "an agent or session that came just now".to_owned(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Where a page of pools ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position {
    created_at: DateTime<Utc>,
    name: String,
}

impl Position {
    /// After this pool.
    #[must_use]
    pub fn of(pool: &Pool) -> Self {
        Self {
            created_at: pool.created_at,
            name: pool.name.clone(),
        }
    }
}

impl crate::http::Cursor for Position {
    const KIND: &'static str = "pools";
}

pub async fn list(
    conn: &mut Conn,
    reach: Reach,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<Pool>> {
    let mut query = pools::table
        .select(PoolRow::as_select())
        .order((pools::created_at.desc(), pools::name.desc()))
        .limit(limit)
        .into_boxed();
    query = match reach {
        Reach::Everything => query,
        Reach::NoTenant => query.filter(pools::name.not_like("%~%")),
        Reach::Tenant(tenant) => {
            let (from, to) = Reach::range(&tenant);
            query.filter(pools::name.ge(from).and(pools::name.lt(to)))
        }
    };
    if let Some(after) = after {
        query = query.filter(
            pools::created_at.lt(after.created_at).or(pools::created_at
                .eq(after.created_at)
                .and(pools::name.lt(after.name))),
        );
    }
    let rows: Vec<PoolRow> = query.load(conn).await?;
    with_counts(conn, rows).await
}

pub async fn get(conn: &mut Conn, name: &str) -> Result<Pool> {
    let row: Option<PoolRow> = pools::table
        .select(PoolRow::as_select())
        .filter(pools::name.eq(name.to_owned()))
        .first(conn)
        .await
        .optional()?;
    let row = row.ok_or_else(|| Error::PoolNotFound(name.to_owned()))?;
    let mut pools = with_counts(conn, vec![row]).await?;
    pools
        .pop()
        .ok_or_else(|| Error::PoolNotFound(name.to_owned()))
}

#[derive(QueryableByName)]
struct Counts {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    live: i64,
    #[diesel(sql_type = BigInt)]
    expired: i64,
    #[diesel(sql_type = BigInt)]
    cordoned: i64,
    #[diesel(sql_type = BigInt)]
    capacity: i64,
    #[diesel(sql_type = BigInt)]
    held: i64,
    #[diesel(sql_type = BigInt)]
    free: i64,
    #[diesel(sql_type = BigInt)]
    waiting: i64,
    #[diesel(sql_type = BigInt)]
    offered: i64,
    #[diesel(sql_type = BigInt)]
    unadopted: i64,
    #[diesel(sql_type = Nullable<Double>)]
    oldest_waiting_seconds: Option<f64>,
    #[diesel(sql_type = Array<Text>)]
    states: Vec<String>,
    #[diesel(sql_type = Array<BigInt>)]
    state_counts: Vec<i64>,
}

async fn with_counts(conn: &mut Conn, rows: Vec<PoolRow>) -> Result<Vec<Pool>> {
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let counts: Vec<Counts> = Statement::new(include_str!("counts.sql"))
        .bind::<Array<Text>, _>(names)
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let counts = counts.iter().find(|counts| counts.name == row.name);
            into_pool(row, counts)
        })
        .collect())
}

fn into_pool(row: PoolRow, counted: Option<&Counts>) -> Pool {
    let mut counts = PoolCounts::default();
    counts.sessions.by_state = SessionState::ALL
        .iter()
        .map(|state| (state.to_string(), 0))
        .collect();
    if let Some(c) = counted {
        counts.agents = AgentCounts {
            live: c.live,
            expired: c.expired,
            cordoned: c.cordoned,
        };
        counts.slots = SlotCounts {
            capacity: c.capacity,
            held: c.held,
            free: c.free,
        };
        let by_state = c.states.iter().cloned().zip(c.state_counts.iter().copied());
        let sessions = &mut counts.sessions;
        sessions.by_state.extend(by_state);
        *sessions = SessionCounts {
            waiting: c.waiting,
            offered: c.offered,
            unadopted: c.unadopted,
            by_state: std::mem::take(&mut sessions.by_state),
        };
    }
    Pool {
        name: row.name,
        platform: row.platform,
        region: row.region,
        lease_ttl_seconds: row.lease_ttl_seconds,
        accept_timeout_seconds: row.accept_timeout_seconds,
        placement: row.placement,
        on_lost: row.on_lost,
        adopt_timeout_seconds: row.adopt_timeout_seconds,
        max_attempts: row.max_attempts,
        attempt_reset_seconds: row.attempt_reset_seconds,
        backoff_initial_seconds: row.backoff_initial_seconds,
        backoff_max_seconds: row.backoff_max_seconds,
        start_timeout_seconds: row.start_timeout_seconds,
        terminate_timeout_seconds: row.terminate_timeout_seconds,
        inventory_every_seconds: row.inventory_every_seconds,
        quarantine_seconds: row.quarantine_seconds,
        keep_ended_seconds: row.keep_ended_seconds,
        agent_retention_seconds: row.agent_retention_seconds,
        slots_per_agent: row.slots_per_agent,
        rebalance_min_gain: row.rebalance_min_gain,
        approval: row.approval,
        labels: row.labels,
        version: row.version,
        created_at: row.created_at,
        updated_at: row.updated_at,
        oldest_waiting_seconds: counted.and_then(|counts| counts.oldest_waiting_seconds),
        counts,
        brake: row.brake_since.map(|since| Brake {
            since,
            silent_agents: row.brake_silent_agents.unwrap_or_default(),
        }),
    }
}
