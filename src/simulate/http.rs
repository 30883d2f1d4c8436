//! The call that simulates.

use std::sync::Arc;

use axum::extract::State;
use lessor_protocol::{SimulateRequest, Simulation};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::{Checks, Json, OptionalJson, Path};
use crate::problem::Problem;

/// The most agents that a call can name.
const MAX_LOST: usize = 1_000;

/// The routes of this room. They only read, so nothing is lost where a client goes.
pub fn waiting_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(simulate_pool))
}

/// Simulate the loss of agents
///
/// Whether everything would still fit without these agents: to which agents what they hold would go,
/// and what would wait and why. What waits today is planned with it, so no agent at all says how it
/// stands now. Nothing is changed. At most 100000 sessions, 20000 agents and 64 different sets of
/// labels are looked at; `complete` says whether that was enough.
#[utoipa::path(post, path = "/pools/{pool}/simulate", tag = "pools", operation_id = "simulate_pool",
    params(("pool" = String, Path, description = "The pool's name", example = "local")),
    request_body(content = SimulateRequest, example = json!({"lose": ["local-1"]})),
    responses((status = 200, description = "What would become of it", body = Simulation)))]
async fn simulate_pool(
    State(app): State<Arc<App>>,
    Path(pool): Path<String>,
    OptionalJson(body): OptionalJson<SimulateRequest>,
) -> Result<Json<Simulation>, Problem> {
    let mut checks = Checks::new();
    checks.at_most("/lose", body.lose.len(), MAX_LOST);
    for (at, name) in body.lose.iter().enumerate().take(MAX_LOST) {
        checks.qualified(format!("/lose/{at}"), name);
    }
    checks.finish()?;
    Ok(Json(super::simulate(&app, &pool, body).await?))
}
