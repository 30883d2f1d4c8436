//! Pools: named sets of interchangeable agents, and the rules that hold in them.
//!
//! Invariants: a pool's platform never changes; a pool with agents or sessions cannot be deleted
//! (foreign keys see to that, so that no race gets round it).

pub mod http;
mod store;
mod table;

use lessor_protocol::{Pool, PoolSpec};

use crate::access::Reach;
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Checks, Preconditions};
use crate::problem::Problem;

pub use store::{Position, epoch_floor, rules, rules_of, rules_of_some};

/// How a PUT ended.
pub struct Put {
    /// The pool.
    pub pool: Pool,
    /// Whether it is new.
    pub created: bool,
}

fn check(name: &str, spec: &PoolSpec) -> Result<()> {
    const DAY: f64 = 86_400.0;
    const YEAR: f64 = 365.0 * DAY;
    let mut checks = Checks::new();
    checks
        .qualified("pool", name)
        .name("/platform", &spec.platform);
    if let Some(region) = &spec.region {
        checks.text("/region", region, 128);
    }
    checks
        .range_f64("/lease_ttl_seconds", spec.lease_ttl_seconds, 2.0, 3600.0)
        .range_f64(
            "/accept_timeout_seconds",
            spec.accept_timeout_seconds,
            1.0,
            3600.0,
        )
        .range_f64(
            "/adopt_timeout_seconds",
            spec.adopt_timeout_seconds,
            0.0,
            YEAR,
        )
        .range_i32("/max_attempts", spec.max_attempts, 1, 1000)
        .range_f64(
            "/attempt_reset_seconds",
            spec.attempt_reset_seconds,
            0.0,
            YEAR,
        )
        .range_f64(
            "/backoff_initial_seconds",
            spec.backoff_initial_seconds,
            0.0,
            DAY,
        )
        .range_f64("/backoff_max_seconds", spec.backoff_max_seconds, 0.0, DAY)
        .range_f64(
            "/start_timeout_seconds",
            spec.start_timeout_seconds,
            1.0,
            DAY,
        )
        .range_f64(
            "/terminate_timeout_seconds",
            spec.terminate_timeout_seconds,
            1.0,
            DAY,
        )
        .range_f64(
            "/inventory_every_seconds",
            spec.inventory_every_seconds,
            1.0,
            DAY,
        )
        .range_f64("/quarantine_seconds", spec.quarantine_seconds, 0.0, YEAR)
        .range_f64(
            "/keep_ended_seconds",
            spec.keep_ended_seconds,
            0.0,
            10.0 * YEAR,
        )
        .range_f64(
            "/agent_retention_seconds",
            spec.agent_retention_seconds,
            0.0,
            10.0 * YEAR,
        )
        .range_i32("/slots_per_agent", spec.slots_per_agent, 1, 1_000_000)
        .labels("/labels", &spec.labels);
    if let Some(gain) = spec.rebalance_min_gain {
        checks.range_i32("/rebalance_min_gain", gain, 2, 1_000_000);
    }
    if spec.backoff_max_seconds < spec.backoff_initial_seconds {
        checks.refuse(
            "/backoff_max_seconds",
            "must not be below backoff_initial_seconds",
        );
    }
    checks.finish().map_err(from_problem)
}

/// A problem of the checks as an error of the rooms.
pub fn from_problem(problem: Problem) -> Error {
    Error::Invalid(problem.errors)
}

/// Creates a pool or replaces its settings.
///
/// # Errors
/// `Invalid`, `PoolPlatformFixed`, `VersionMismatch`, `DatabaseUnavailable`.
pub async fn put(
    app: &App,
    name: &str,
    spec: PoolSpec,
    preconditions: Preconditions,
) -> Result<Put> {
    check(name, &spec)?;
    let name = name.to_owned();
    app.db
        .write("pools::put", move |conn| {
            let (name, spec, preconditions) = (name.clone(), spec.clone(), preconditions.clone());
            Box::pin(async move {
                let before = store::lock(conn, &name).await?;
                let version = before.as_ref().map(|row| row.version);
                if !preconditions.if_match_ok(version) {
                    return Err(Error::VersionMismatch(version.unwrap_or(0)));
                }
                if !preconditions.if_none_match_ok(version) {
                    return Err(Error::VersionMismatch(version.unwrap_or(0)));
                }
                let created = before.is_none();
                match before {
                    None => store::insert(conn, &name, &spec).await?,
                    Some(row) => replace(conn, row, &spec).await?,
                }
                Ok(Put {
                    pool: store::get(conn, &name).await?,
                    created,
                })
            })
        })
        .await
}

/// Makes a pool in a transaction of the caller's.
///
/// # Errors
/// `Invalid`, `Retry` when it has been made meanwhile.
pub async fn add(conn: &mut crate::store::Conn, name: &str, spec: &PoolSpec) -> Result<()> {
    check(name, spec)?;
    store::insert(conn, name, spec).await
}

async fn replace(
    conn: &mut crate::store::Conn,
    row: store::PoolRow,
    spec: &PoolSpec,
) -> Result<()> {
    if row.platform != spec.platform {
        return Err(Error::PoolPlatformFixed(row.name, row.platform));
    }
    // The same again is no change, so that a retried PUT raises no version.
    if row.spec() == *spec {
        Ok(())
    } else {
        store::replace(conn, &row.name, spec).await
    }
}

/// Changes a pool's settings by a merge patch (RFC 7396): null puts a default back.
///
/// # Errors
/// As [`put`], and `PoolNotFound`.
pub async fn patch(
    app: &App,
    name: &str,
    patch: serde_json::Map<String, serde_json::Value>,
    preconditions: Preconditions,
) -> Result<Pool> {
    let name = name.to_owned();
    app.db
        .write("pools::patch", move |conn| {
            let (name, patch, preconditions) = (name.clone(), patch.clone(), preconditions.clone());
            Box::pin(async move {
                let row = store::lock(conn, &name).await?;
                let row = row.ok_or_else(|| Error::PoolNotFound(name.clone()))?;
                if !preconditions.if_match_ok(Some(row.version)) {
                    return Err(Error::VersionMismatch(row.version));
                }
                let spec = merged(&row.spec(), patch)?;
                check(&name, &spec)?;
                replace(conn, row, &spec).await?;
                store::get(conn, &name).await
            })
        })
        .await
}

fn merged(spec: &PoolSpec, patch: serde_json::Map<String, serde_json::Value>) -> Result<PoolSpec> {
    let internal = |error: serde_json::Error| Error::Internal(error.to_string());
    let mut target = serde_json::to_value(spec).map_err(internal)?;
    merge(&mut target, serde_json::Value::Object(patch));
    serde_path_to_error::deserialize(target).map_err(|error| {
        let path = error.path().to_string().replace('.', "/");
        Error::invalid(
            &format!("/{}", path.trim_start_matches("./")),
            error.inner().to_string(),
        )
    })
}

/// RFC 7396, section 2.
fn merge(target: &mut serde_json::Value, patch: serde_json::Value) {
    use serde_json::Value;
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(fields) = target {
        for (key, value) in patch {
            if value.is_null() {
                fields.remove(&key);
            } else {
                merge(fields.entry(key).or_insert(Value::Null), value);
            }
        }
    }
}

/// A pool with its live counts.
///
/// # Errors
/// `PoolNotFound`, `DatabaseUnavailable`.
pub async fn get(app: &App, name: &str) -> Result<Pool> {
    let name = name.to_owned();
    app.db
        .read("pools::get", |conn| {
            Box::pin(async move { store::get(conn, &name).await })
        })
        .await
}

/// Pools that are reached, with their live counts, newest first, and one more than `limit` if there are more.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn list(
    app: &App,
    reach: Reach,
    after: Option<store::Position>,
    limit: i64,
) -> Result<Vec<Pool>> {
    app.db
        .read("pools::list", |conn| {
            Box::pin(store::list(conn, reach, after, limit))
        })
        .await
}

/// Deletes a pool that is empty.
///
/// # Errors
/// `PoolNotFound`, `PoolNotEmpty`, `VersionMismatch`, `DatabaseUnavailable`.
pub async fn delete(app: &App, name: &str, preconditions: Preconditions) -> Result<()> {
    let name = name.to_owned();
    app.db
        .write("pools::delete", move |conn| {
            let (name, preconditions) = (name.clone(), preconditions.clone());
            Box::pin(async move {
                let row = store::lock(conn, &name).await?;
                let row = row.ok_or_else(|| Error::PoolNotFound(name.clone()))?;
                if !preconditions.if_match_ok(Some(row.version)) {
                    return Err(Error::VersionMismatch(row.version));
                }
                store::delete(conn, &name).await
            })
        })
        .await
}
