//! The calls on rebalances.

use std::sync::Arc;

use axum::extract::State;
use lessor_protocol::{Rebalance, RebalanceRequest};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::app::App;
use crate::http::{Checks, Format, Item, Json, OptionalJson, Path};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(rebalance_pool, get_rebalance, cancel_rebalance))
}

fn check(body: &RebalanceRequest) -> Result<(), Problem> {
    let mut checks = Checks::new();
    if let Some(most) = body.max_moves {
        checks.range_i32("/max_moves", most, 1, 10_000);
    }
    checks
        .range_i32("/max_parallel", body.max_parallel, 1, 1_000)
        .range_i32("/min_gain", body.min_gain, 1, 1_000_000);
    checks.finish()
}

/// Rebalance a pool
///
/// Running sessions move, while they run, from the agents of each resource domain that hold many to
/// those that hold few, in proportion to their capacities. Moves on their way count as made, so it
/// can be asked for again at any time. `completed` without an id says that there is nothing to move;
/// so it is in a pool whose placement is `pack`. With `dry_run` it only says what would be moved.
#[utoipa::path(post, path = "/pools/{pool}/rebalance", tag = "pools", operation_id = "rebalance_pool",
    params(("pool" = String, Path, description = "The pool's name", example = "local")),
    request_body(content = RebalanceRequest, example = json!({"dry_run": true})),
    responses((status = 200, description = "What it moves", body = Rebalance)))]
async fn rebalance_pool(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(pool): Path<String>,
    OptionalJson(body): OptionalJson<RebalanceRequest>,
) -> Result<Json<Rebalance>, Problem> {
    check(&body)?;
    Ok(Json(super::start(&app, &pool, body, caller.into()).await?))
}

/// Get a pool's rebalance
///
/// The newest one, with the state of each move.
#[utoipa::path(get, path = "/pools/{pool}/rebalance", tag = "pools", operation_id = "get_rebalance",
    params(("pool" = String, Path, description = "The pool's name", example = "local")),
    responses((status = 200, description = "The rebalance", body = Rebalance)))]
async fn get_rebalance(
    State(app): State<Arc<App>>,
    format: Format,
    Path(pool): Path<String>,
) -> Result<Item<Rebalance>, Problem> {
    Ok(Item::new(format, super::get(&app, &pool).await?))
}

/// Cancel a pool's rebalance
///
/// Every one that is in progress: moves on their way go on, no others begin. One that is over stays
/// as it is.
#[utoipa::path(delete, path = "/pools/{pool}/rebalance", tag = "pools", operation_id = "cancel_rebalance",
    params(("pool" = String, Path, description = "The pool's name", example = "local")),
    responses((status = 200, description = "The rebalance as it is now", body = Rebalance)))]
async fn cancel_rebalance(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(pool): Path<String>,
) -> Result<Json<Rebalance>, Problem> {
    Ok(Json(super::cancel(&app, &pool, caller.into()).await?))
}
