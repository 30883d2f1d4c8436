//! The call that only reports.

use std::sync::Arc;

use axum::extract::State;
use lessor_protocol::{ReportResults, Reports};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::commands;
use crate::http::{Checks, Json, Path};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(send_reports))
}

/// Report on sessions and commands
///
/// Each report and each command result stands alone and has its own outcome; results of commands
/// are taken first. The lease is not renewed by this.
#[utoipa::path(post, path = "/agents/{agent}/reports", tag = "agents", operation_id = "send_reports",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    request_body(content = Reports, example = json!({"incarnation": 1, "reports": [{
        "session_id": "01890a5d-ac96-774b-bcce-b302099a8057", "lease_epoch": 1, "observed_generation": 1,
        "state": "running", "platform_resource_id": "4711@123456"}]})),
    responses((status = 200, description = "What became of each", body = ReportResults)))]
async fn send_reports(
    State(app): State<Arc<App>>,
    Path(agent): Path<String>,
    Json(body): Json<Reports>,
) -> Result<Json<ReportResults>, Problem> {
    let mut checks = Checks::new();
    checks
        .at_most("/reports", body.reports.len(), super::MAX_REPORTS)
        .at_most(
            "/command_results",
            body.command_results.len(),
            commands::MAX_RESULTS,
        );
    checks.finish()?;
    // First, since a report may end the hold under which they were made.
    let command_results =
        commands::take(&app, &agent, body.incarnation, body.command_results).await?;
    let results = super::take(&app, &agent, body.incarnation, body.reports).await?;
    Ok(Json(ReportResults {
        results,
        command_results,
    }))
}
