//! The calls on drains.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lessor_protocol::{Drain, DrainRequest};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Target, Wanted};
use crate::access::Caller;
use crate::app::App;
use crate::http::{Checks, Format, Item, Json, OptionalJson, Path, Query, words};
use crate::problem::Problem;

/// The routes of this room that write.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(drain_agent, cancel_agent_drain))
        .routes(routes!(drain_pool, cancel_pool_drain))
}

/// The routes of this room that wait.
pub fn waiting_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(get_agent_drain))
        .routes(routes!(get_pool_drain))
}

fn check(body: &DrainRequest) -> Result<(), Problem> {
    let mut checks = Checks::new();
    checks.range_f64("/deadline_seconds", body.deadline_seconds, 0.0, 604_800.0);
    if let Some(reason) = &body.reason {
        checks.text("/reason", reason, 1024);
    }
    checks.finish()
}

/// Drain an agent
///
/// It is cordoned, and what it holds is handed over to other agents of its domain while it runs on.
/// What nobody can adopt waits for the deadline; then `on_lost` decides about it. The drain goes on
/// by itself; ask for it with `wait_for=completed`.
#[utoipa::path(post, path = "/agents/{agent}/drain", tag = "agents", operation_id = "drain_agent",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    request_body(content = DrainRequest, example = json!({"deadline_seconds": 300, "reason": "node upgrade"})),
    responses((status = 202, description = "The drain has begun", body = Drain)))]
async fn drain_agent(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(agent): Path<String>,
    OptionalJson(body): OptionalJson<DrainRequest>,
) -> Result<(StatusCode, Json<Drain>), Problem> {
    check(&body)?;
    let drain = super::start(&app, Target::Agent(agent), body, caller.into()).await?;
    Ok((StatusCode::ACCEPTED, Json(drain)))
}

/// Drain a pool
///
/// Every agent that the pool has now is drained; agents that register later are not, and can adopt.
#[utoipa::path(post, path = "/pools/{pool}/drain", tag = "pools", operation_id = "drain_pool",
    params(("pool" = String, Path, description = "The pool's name", example = "local")),
    request_body(content = DrainRequest, example = json!({"deadline_seconds": 600, "reason": "new node image"})),
    responses((status = 202, description = "The drain has begun", body = Drain)))]
async fn drain_pool(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(pool): Path<String>,
    OptionalJson(body): OptionalJson<DrainRequest>,
) -> Result<(StatusCode, Json<Drain>), Problem> {
    check(&body)?;
    let drain = super::start(&app, Target::Pool(pool), body, caller.into()).await?;
    Ok((StatusCode::ACCEPTED, Json(drain)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DrainQuery {
    /// Wait until it has one of these statuses, separated by commas; a drain that is over is not
    /// waited for.
    #[param(example = "completed")]
    wait_for: Option<String>,
    /// For how long at most: 0 to 55.
    #[param(minimum = 0, maximum = 55)]
    wait_seconds: Option<f64>,
}

async fn answer(
    app: &Arc<App>,
    format: Format,
    target: Target,
    query: DrainQuery,
) -> Result<Response, Problem> {
    let drain = match query.wait_for {
        None if query.wait_seconds.is_some() => {
            return Err(Problem::invalid("wait_seconds", "needs wait_for"));
        }
        None => super::get(app, &target).await?.1,
        Some(statuses) => {
            let seconds = query.wait_seconds.unwrap_or(30.0);
            let mut checks = Checks::new();
            checks.range_f64("wait_seconds", seconds, 0.0, 55.0);
            checks.finish()?;
            let wanted = Wanted {
                statuses: words("wait_for", &statuses)?,
                wait: Duration::from_secs_f64(seconds),
            };
            super::wait_for(app, &target, &wanted).await?
        }
    };
    Ok(Item::new(format, drain).into_response())
}

/// Get an agent's drain
///
/// The newest one that it takes part in, its pool's included. With `wait_for` it answers when that
/// is reached, at once when the drain is over, or at the time-out with the drain as it is.
#[utoipa::path(get, path = "/agents/{agent}/drain", tag = "agents", operation_id = "get_agent_drain",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1"), DrainQuery),
    responses((status = 200, description = "The drain", body = Drain)))]
async fn get_agent_drain(
    State(app): State<Arc<App>>,
    format: Format,
    Path(agent): Path<String>,
    Query(query): Query<DrainQuery>,
) -> Result<Response, Problem> {
    answer(&app, format, Target::Agent(agent), query).await
}

/// Get a pool's drain
///
/// The newest one of the whole pool; `wait_for` as for an agent's.
#[utoipa::path(get, path = "/pools/{pool}/drain", tag = "pools", operation_id = "get_pool_drain",
    params(("pool" = String, Path, description = "The pool's name", example = "local"), DrainQuery),
    responses((status = 200, description = "The drain", body = Drain)))]
async fn get_pool_drain(
    State(app): State<Arc<App>>,
    format: Format,
    Path(pool): Path<String>,
    Query(query): Query<DrainQuery>,
) -> Result<Response, Problem> {
    answer(&app, format, Target::Pool(pool), query).await
}

/// Cancel an agent's drain
///
/// It keeps what it still holds, and is cordoned only if it was so before. One that is over stays as
/// it is.
#[utoipa::path(delete, path = "/agents/{agent}/drain", tag = "agents", operation_id = "cancel_agent_drain",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    responses((status = 200, description = "The drain as it is now", body = Drain)))]
async fn cancel_agent_drain(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(agent): Path<String>,
) -> Result<Json<Drain>, Problem> {
    Ok(Json(
        super::cancel(&app, Target::Agent(agent), caller.into()).await?,
    ))
}

/// Cancel a pool's drain
///
/// As for an agent's, for every agent that it is about.
#[utoipa::path(delete, path = "/pools/{pool}/drain", tag = "pools", operation_id = "cancel_pool_drain",
    params(("pool" = String, Path, description = "The pool's name", example = "local")),
    responses((status = 200, description = "The drain as it is now", body = Drain)))]
async fn cancel_pool_drain(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(pool): Path<String>,
) -> Result<Json<Drain>, Problem> {
    Ok(Json(
        super::cancel(&app, Target::Pool(pool), caller.into()).await?,
    ))
}
