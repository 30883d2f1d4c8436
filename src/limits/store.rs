//! The SQL of limits and activity.

use chrono::{DateTime, Utc};
use diesel::OptionalExtension;
use diesel::sql_types::{
    Array, BigInt, Bool, Double, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use lessor_protocol::{DesiredState, SessionState};
use uuid::Uuid;

use super::activity::Told;
use super::state::Facts;
use crate::error::Result;
use crate::leases::PULSE_GAP_SECONDS;
use crate::store::{Conn, Statement, Word};

/// How many sessions one look is at; `due.sql` has the same as a literal.
pub const BATCH: usize = 200;

/// What is longer ago than this, ten years, is not told apart from it.
const MAX_IDLE_SECONDS: f64 = 315_360_000.0;

/// A session and what its limits are judged by.
#[derive(Clone, Debug)]
pub struct Found {
    pub id: Uuid,
    pub pool: String,
    /// Its assignee.
    pub agent: Option<String>,
    pub facts: Facts,
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    pool: String,
    #[diesel(sql_type = Nullable<Text>)]
    agent: Option<String>,
    #[diesel(sql_type = Text, deserialize_as = Word<DesiredState>)]
    desired_state: DesiredState,
    #[diesel(sql_type = Text, deserialize_as = Word<SessionState>)]
    state: SessionState,
    #[diesel(sql_type = Bool)]
    held: bool,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    started_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    first_started_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Double>)]
    idle_timeout_seconds: Option<f64>,
    #[diesel(sql_type = Nullable<Double>)]
    max_duration_seconds: Option<f64>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    last_activity_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    held_since: Option<DateTime<Utc>>,
    #[diesel(sql_type = Double)]
    lease_ttl_seconds: f64,
    #[diesel(sql_type = Bool)]
    pulse_is_fresh: bool,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    gap_at: Option<DateTime<Utc>>,
}

#[derive(diesel::QueryableByName)]
struct Due {
    #[diesel(sql_type = SqlUuid)]
    session_id: Uuid,
}

#[derive(diesel::QueryableByName)]
struct Next {
    #[diesel(sql_type = Nullable<Double>)]
    seconds: Option<f64>,
}

#[derive(diesel::QueryableByName)]
struct Used {
    #[diesel(sql_type = Timestamptz)]
    last_activity_at: DateTime<Utc>,
}

/// Locks the checks that are due, at most [`BATCH`].
pub async fn due(conn: &mut Conn) -> Result<Vec<Uuid>> {
    let due: Vec<Due> = Statement::new(include_str!("due.sql")).load(conn).await?;
    Ok(due.into_iter().map(|due| due.session_id).collect())
}

/// What the limits of these sessions are judged by; those that have gone are left out.
pub async fn facts(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<Found>> {
    let rows: Vec<Row> = Statement::new(include_str!("facts.sql"))
        .bind::<Array<SqlUuid>, _>(ids.to_vec())
        .bind::<Double, _>(PULSE_GAP_SECONDS)
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| Found {
            id: row.id,
            pool: row.pool,
            agent: row.agent,
            facts: Facts {
                desired: row.desired_state,
                state: row.state,
                held: row.held,
                held_since: row.held_since,
                started_at: row.started_at,
                first_started_at: row.first_started_at,
                idle_timeout_seconds: row.idle_timeout_seconds,
                max_duration_seconds: row.max_duration_seconds,
                last_activity_at: row.last_activity_at,
                lease_ttl_seconds: row.lease_ttl_seconds,
                pulse_is_fresh: row.pulse_is_fresh,
                gap_at: row.gap_at,
            },
        })
        .collect())
}

/// Puts locked checks off, and removes others.
pub async fn settle(
    conn: &mut Conn,
    later: Vec<(Uuid, DateTime<Utc>)>,
    never: Vec<Uuid>,
) -> Result<()> {
    let (ids, times): (Vec<_>, Vec<_>) = later.into_iter().unzip();
    Statement::new(include_str!("settle.sql"))
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Timestamptz>, _>(times)
        .bind::<Array<SqlUuid>, _>(never)
        .execute(conn)
        .await?;
    Ok(())
}

/// In how many seconds the next check is due; none if no limit runs.
pub async fn next(conn: &mut Conn) -> Result<Option<f64>> {
    let next: Next = Statement::new(
        "-- limits::next\nSELECT extract(epoch FROM min(check_at) - clock_timestamp())::double precision \
         AS seconds FROM limit_checks",
    )
    .get_result(conn)
    .await?;
    Ok(next.seconds)
}

/// Writes what agents told, in one statement.
pub async fn record(conn: &mut Conn, told: &[Told]) -> Result<()> {
    let count = told.iter().map(|told| told.items.len()).sum();
    let (mut agents, mut incarnations) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let (mut sessions, mut idle) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for told in told {
        for item in &told.items {
            agents.push(told.agent.clone());
            incarnations.push(told.incarnation);
            sessions.push(item.session_id);
            idle.push(item.idle_seconds.min(MAX_IDLE_SECONDS));
        }
    }
    Statement::new(include_str!("record.sql"))
        .bind::<Array<Text>, _>(agents)
        .bind::<Array<BigInt>, _>(incarnations)
        .bind::<Array<SqlUuid>, _>(sessions)
        .bind::<Array<Double>, _>(idle)
        .execute(conn)
        .await?;
    Ok(())
}

/// When a session was last used, as far as that is known.
pub async fn last_activity(conn: &mut Conn, id: Uuid) -> Result<Option<DateTime<Utc>>> {
    let used: Option<Used> = Statement::new(
        "-- limits::last_activity\nSELECT last_activity_at FROM session_activity WHERE session_id = $1",
    )
    .bind::<SqlUuid, _>(id)
    .get_result(conn)
    .await
    .optional()?;
    Ok(used.map(|used| used.last_activity_at))
}
