//! The call that autoscalers make.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lessor_protocol::Scaling;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::{Format, Item, Path};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_pool_scaling))
}

/// Get how many agents a pool needs
///
/// For autoscalers: how many agents to run, from zero up, and which can be taken away. The same
/// numbers are in `/metrics`.
#[utoipa::path(get, path = "/pools/{pool}/scaling", tag = "pools", operation_id = "get_pool_scaling",
    params(("pool" = String, Path, description = "The pool's name", example = "local")),
    responses((status = 200, description = "What it needs now", body = Scaling)))]
async fn get_pool_scaling(
    State(app): State<Arc<App>>,
    format: Format,
    Path(pool): Path<String>,
) -> Result<Response, Problem> {
    Ok(Item::new(format, super::get(&app, &pool).await?).into_response())
}
