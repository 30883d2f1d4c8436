//! The SQL of imports, on the side of Lessor.

use std::collections::{BTreeMap, HashMap};

use diesel::sql_types::{
    Array, BigInt, Bool, Double, Json, Jsonb, Nullable, Text, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use uuid::Uuid;

use super::report::Counts;
use crate::error::{Error, Result};
use crate::store::{AsJson, Conn, Statement};

/// What was brought in before, of one row.
#[derive(Clone, Debug, diesel::QueryableByName)]
#[allow(missing_docs, reason = "known.sql says what they are")]
pub struct Known {
    #[diesel(sql_type = Text)]
    pub old_id: String,
    #[diesel(sql_type = SqlUuid)]
    pub session_id: Uuid,
    #[diesel(sql_type = Text)]
    pub fingerprint: String,
    #[diesel(sql_type = BigInt)]
    pub version: i64,
    #[diesel(sql_type = Bool)]
    pub deleted: bool,
    #[diesel(sql_type = Bool)]
    pub untouched: bool,
}

/// A pool that is there.
#[derive(Clone, Debug, diesel::QueryableByName)]
#[allow(missing_docs, reason = "they are columns of `pools`")]
pub struct Present {
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Text)]
    pub platform: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub region: Option<String>,
    #[diesel(sql_type = Double)]
    pub keep_ended_seconds: f64,
}

/// A pool that stands for a place there.
#[derive(Clone, Debug, diesel::QueryableByName)]
#[allow(missing_docs, reason = "they are columns of `imported_pools`")]
pub struct Placed {
    #[diesel(sql_type = Text)]
    pub platform: String,
    #[diesel(sql_type = Text)]
    pub region: String,
    #[diesel(sql_type = Text)]
    pub cluster: String,
    #[diesel(sql_type = Text)]
    pub pool: String,
}

/// A session that has a name or a resource already.
#[derive(Clone, Debug, diesel::QueryableByName)]
#[allow(missing_docs, reason = "they are columns of `sessions`")]
pub struct Taken {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Nullable<Text>)]
    pub name: Option<String>,
    #[diesel(sql_type = Text)]
    pub agent_pool: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub resource_domain: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub platform_resource_id: Option<String>,
}

#[derive(diesel::QueryableByName)]
struct Flag {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

#[derive(diesel::QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    removed: i64,
}

#[derive(diesel::QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(diesel::QueryableByName)]
struct Pair {
    #[diesel(sql_type = Text)]
    old_id: String,
    #[diesel(sql_type = Text)]
    text: String,
}

/// Begins a run: alone, and in a database that has the tables for it.
pub async fn begin(conn: &mut Conn, write: bool) -> Result<()> {
    let ready: Flag = Statement::new(
        "-- import::ready\nSELECT to_regclass('imported_sessions') IS NOT NULL AS yes",
    )
    .get_result(conn)
    .await?;
    if !ready.yes {
        return Err(Error::DatabaseUnavailable(
            "the schema of DATABASE_URL is not up to date; run `lessor migrate`".to_owned(),
        ));
    }
    if write {
        // "import" in ASCII; it goes with the transaction.
        let alone: Flag = Statement::new(
            "-- import::alone\nSELECT pg_try_advisory_xact_lock(x'696d706f7274'::bigint) AS yes",
        )
        .get_result(conn)
        .await?;
        if !alone.yes {
            return Err(Error::DatabaseUnavailable(
                "another import is running".to_owned(),
            ));
        }
    } else {
        Statement::new("-- import::read_only\nSET TRANSACTION READ ONLY")
            .execute(conn)
            .await?;
    }
    Ok(())
}

pub async fn known(conn: &mut Conn, source: &str) -> Result<HashMap<String, Known>> {
    let rows: Vec<Known> = Statement::new(include_str!("known.sql"))
        .bind::<Text, _>(source.to_owned())
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.old_id.clone(), row))
        .collect())
}

pub async fn pools(conn: &mut Conn) -> Result<BTreeMap<String, Present>> {
    let rows: Vec<Present> = Statement::new(
        "-- import::pools\nSELECT name, platform, region, keep_ended_seconds FROM pools",
    )
    .load(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.name.clone(), row))
        .collect())
}

pub async fn placed(conn: &mut Conn, source: &str) -> Result<Vec<Placed>> {
    let text = "-- import::placed\nSELECT platform, region, cluster, pool FROM imported_pools WHERE source = $1";
    Ok(Statement::new(text)
        .bind::<Text, _>(source.to_owned())
        .load(conn)
        .await?)
}

pub async fn place(
    conn: &mut Conn,
    source: &str,
    key: (&str, &str, &str),
    pool: &str,
    created: bool,
) -> Result<()> {
    Statement::new(
        "-- import::place\nINSERT INTO imported_pools (source, platform, region, cluster, pool, created) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
    )
    .bind::<Text, _>(source.to_owned())
    .bind::<Text, _>(key.0.to_owned())
    .bind::<Text, _>(key.1.to_owned())
    .bind::<Text, _>(key.2.to_owned())
    .bind::<Text, _>(pool.to_owned())
    .bind::<Bool, _>(created)
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn taken(
    conn: &mut Conn,
    names: Vec<String>,
    resources: Vec<String>,
) -> Result<Vec<Taken>> {
    Ok(Statement::new(include_str!("taken.sql"))
        .bind::<Array<Text>, _>(names)
        .bind::<Array<Text>, _>(resources)
        .load(conn)
        .await?)
}

pub async fn insert<T: Serialize + std::fmt::Debug + Send>(
    conn: &mut Conn,
    rows: Vec<T>,
    source: &str,
) -> Result<()> {
    Statement::new(include_str!("insert.sql"))
        .bind::<Json, _>(AsJson(rows))
        .bind::<Text, _>(source.to_owned())
        .execute(conn)
        .await?;
    Ok(())
}

/// The old ids of those that were written; the others have moved on.
pub async fn update<T: Serialize + std::fmt::Debug + Send>(
    conn: &mut Conn,
    rows: Vec<T>,
    source: &str,
) -> Result<Vec<String>> {
    #[derive(diesel::QueryableByName)]
    struct Written {
        #[diesel(sql_type = Text)]
        old_id: String,
    }
    let written: Vec<Written> = Statement::new(include_str!("update.sql"))
        .bind::<Json, _>(AsJson(rows))
        .bind::<Text, _>(source.to_owned())
        .load(conn)
        .await?;
    Ok(written.into_iter().map(|row| row.old_id).collect())
}

/// Digests of texts, in their order.
pub async fn digests(conn: &mut Conn, texts: Vec<String>) -> Result<Vec<String>> {
    let rows: Vec<Name> = Statement::new(
        "-- import::digests\nSELECT encode(sha256(convert_to(t.text, 'UTF8')), 'hex') AS name \
         FROM unnest($1) WITH ORDINALITY AS t (text, place) ORDER BY t.place",
    )
    .bind::<Array<Text>, _>(texts)
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

#[derive(Debug, Serialize)]
pub struct NewDomain {
    pub pool: String,
    pub name: String,
}

pub async fn domains(
    conn: &mut Conn,
    source: &str,
    domains: Vec<NewDomain>,
    grace_seconds: f64,
) -> Result<()> {
    Statement::new(include_str!("domains.sql"))
        .bind::<Text, _>(source.to_owned())
        .bind::<Json, _>(AsJson(domains))
        .bind::<Double, _>(grace_seconds)
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes down that there was a run.
pub async fn note(conn: &mut Conn, source: &str, kind: &str, counts: &Counts) -> Result<()> {
    let counts =
        serde_json::to_value(counts).map_err(|error| Error::Internal(error.to_string()))?;
    Statement::new("-- import::note\nINSERT INTO imports (source, kind, at, counts) VALUES ($1, $2, now(), $3)")
        .bind::<Text, _>(source.to_owned())
        .bind::<Text, _>(kind.to_owned())
        .bind::<Jsonb, _>(counts)
        .execute(conn)
        .await?;
    Ok(())
}

/// How many sessions were removed, and which pools.
pub async fn rollback(conn: &mut Conn, source: &str) -> Result<(u64, Vec<String>)> {
    let count: Count = Statement::new(include_str!("rollback.sql"))
        .bind::<Text, _>(source.to_owned())
        .get_result(conn)
        .await?;
    Statement::new(include_str!("rollback_domains.sql"))
        .bind::<Text, _>(source.to_owned())
        .execute(conn)
        .await?;
    let pools: Vec<Name> = Statement::new(include_str!("rollback_pools.sql"))
        .bind::<Text, _>(source.to_owned())
        .load(conn)
        .await?;
    Ok((
        count.removed.unsigned_abs(),
        pools.into_iter().map(|pool| pool.name).collect(),
    ))
}

/// What is left of an import, and why.
pub async fn left(conn: &mut Conn, source: &str) -> Result<Vec<(String, String)>> {
    let left = Statement::new(include_str!("left.sql")).bind::<Text, _>(source.to_owned());
    Ok(pairs(left.load(conn).await?))
}

/// Sessions as they are here, by their old ids, as JSON.
pub async fn present(
    conn: &mut Conn,
    source: &str,
    old_ids: Vec<String>,
) -> Result<Vec<(String, String)>> {
    let rows = Statement::new(include_str!("present.sql"))
        .bind::<Text, _>(source.to_owned())
        .bind::<Array<Text>, _>(old_ids)
        .load(conn)
        .await?;
    Ok(pairs(rows))
}

fn pairs(rows: Vec<Pair>) -> Vec<(String, String)> {
    rows.into_iter().map(|row| (row.old_id, row.text)).collect()
}

/// By source: how many of its sessions are here, and when its last import was.
pub async fn gauges(conn: &mut Conn) -> Result<Vec<(String, String, i64)>> {
    #[derive(diesel::QueryableByName)]
    struct Gauge {
        #[diesel(sql_type = Text)]
        source: String,
        #[diesel(sql_type = Text)]
        outcome: String,
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let rows: Vec<Gauge> = Statement::new(include_str!("gauges.sql"))
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.source, row.outcome, row.count))
        .collect())
}
