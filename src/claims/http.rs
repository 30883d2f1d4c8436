//! The long poll.

use std::sync::Arc;

use axum::extract::State;
use lessor_protocol::{Claim, Claimed};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::{Checks, Json, Path};
use crate::problem::Problem;
use crate::reports::MAX_REPORTS;

/// The routes of this room. They must not be detached from their clients: that a client has hung
/// up is learnt from its future being dropped.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(claim_sessions))
}

/// Claim sessions
///
/// The long poll. Renews the lease, handles what it carries, then returns up to `max_sessions`
/// assignments at once or as soon as there are any, and an empty list after `wait_seconds`. What
/// is returned is an offer: act only after the first report under its `lease_epoch` has been
/// accepted. Only the newest claim of an agent is given work.
#[utoipa::path(post, path = "/agents/{agent}/claim", tag = "agents", operation_id = "claim_sessions",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    request_body(content = Claim, example = json!({"incarnation": 1, "max_sessions": 5, "wait_seconds": 30})),
    responses((status = 200, description = "What to do, and what became of the reports", body = Claimed)))]
async fn claim_sessions(
    State(app): State<Arc<App>>,
    Path(agent): Path<String>,
    Json(body): Json<Claim>,
) -> Result<Json<Claimed>, Problem> {
    let mut checks = Checks::new();
    checks
        .range_i32("/max_sessions", body.max_sessions, 0, 1000)
        .range_f64("/wait_seconds", body.wait_seconds, 0.0, 55.0)
        .at_most("/reports", body.reports.len(), MAX_REPORTS)
        .at_most(
            "/command_results",
            body.command_results.len(),
            crate::commands::MAX_RESULTS,
        )
        .at_most("/dropped", body.dropped.len(), 10_000);
    checks.finish()?;
    Ok(Json(super::claim(&app, &agent, body).await?))
}
