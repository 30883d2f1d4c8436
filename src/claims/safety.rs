//! The safety poll: what a lost notification would have said.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Json, Nullable, Text, Timestamptz};
use diesel_async::RunQueryDsl;

use super::watermark::{Check, Unchecked};
use crate::error::Result;
use crate::shares::{self, Around, Spent};
use crate::store::{AsJson, Conn, Db, Statement};

/// One statement, since it is all that parked polls cost while nothing happens.
static TEXT: LazyLock<String> =
    LazyLock::new(|| include_str!("safety.sql").replace("{waits}", shares::WAITS));

/// What a pool has to give, and how its parked agents stand.
pub struct Found {
    /// Whether there is something to start.
    pub starts: bool,
    /// Domains with work.
    pub domains: BTreeSet<String>,
    /// The number of each agent's newest claim, if it is live; also none where it has work on
    /// what it holds, so that it is looked at.
    pub standing: Vec<(String, Option<i64>)>,
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Bool)]
    starts: bool,
    #[diesel(sql_type = Array<Text>)]
    domains: Vec<String>,
    #[diesel(sql_type = Array<Text>)]
    agents: Vec<String>,
    #[diesel(sql_type = Array<Nullable<BigInt>>)]
    claim_numbers: Vec<Option<i64>>,
}

/// One query over a pool and those who are parked in it.
///
/// # Errors
/// When the database refuses.
pub async fn look(
    conn: &mut Conn,
    pool: String,
    agents: Vec<String>,
    around: Around,
) -> Result<Found> {
    let row: Row = shares::with_waits(&TEXT, &pool, &around)
        .bind::<Array<Text>, _>(agents)
        .get_result(conn)
        .await?;
    Ok(Found {
        starts: row.starts,
        domains: row.domains.into_iter().collect(),
        standing: row.agents.into_iter().zip(row.claim_numbers).collect(),
    })
}

#[derive(diesel::QueryableByName)]
struct Below {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    oldest: Option<DateTime<Utc>>,
}

/// Looks at what should be spent.
pub async fn below(db: &Db, pool: String, spent: Vec<Spent>) -> Check {
    let begun = Instant::now();
    let found = db
        .read("claims::below", |conn| {
            Box::pin(async move {
                let row: Below = Statement::new(include_str!("below.sql"))
                    .bind::<Text, _>(pool)
                    .bind::<Json, _>(AsJson(spent))
                    .get_result(conn)
                    .await?;
                Ok(row.oldest)
            })
        })
        .await;
    let found = found.map_err(|error| {
        tracing::debug!(%error, "what is below the watermark could not be looked at");
        Unchecked
    });
    let took = begun.elapsed();
    Check { found, took }
}

/// Between 0.75 and 1.25 of it.
pub fn jittered(period: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() % 1_000;
    #[allow(clippy::cast_precision_loss, reason = "below a thousand")]
    period.mul_f64(0.75 + random as f64 / 2_000.0)
}
