//! The calls on the brake.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use lessor_protocol::Pool;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::app::App;
use crate::http::{Format, Item, Path, etag};
use crate::pools;
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(release_brake))
}

/// Release a pool's brake
///
/// What was held because much of the pool is silent is decided again. Agents that have not beaten
/// since do not count as silent until they beat again, so the same silence does not put it on once
/// more. Where no brake is on, nothing changes. The version stays: a brake is no setting.
#[utoipa::path(post, path = "/pools/{pool}/release-brake", tag = "pools", operation_id = "release_brake",
    params(("pool" = String, Path, description = "The pool's name", example = "local")),
    responses((status = 200, description = "The pool as it is now", body = Pool,
        headers(("ETag" = String, description = "The version")))))]
async fn release_brake(
    State(app): State<Arc<App>>,
    format: Format,
    caller: Caller,
    Path(pool): Path<String>,
) -> Result<Response, Problem> {
    super::release(&app, &pool, caller.into()).await?;
    let pool = pools::get(&app, &pool).await?;
    Ok((
        [(header::ETAG, etag(pool.version))],
        Item::new(format, pool),
    )
        .into_response())
}
