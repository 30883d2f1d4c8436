//! The call that only reports.

use std::sync::Arc;

use axum::extract::State;
use lessor_protocol::{ReportResults, Reports};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::Error;
use crate::http::{Checks, Json, Path};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(send_reports))
}

/// Report on sessions
///
/// Each report stands alone and has its own outcome. The lease is not renewed by this.
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
    checks.at_most("/reports", body.reports.len(), super::MAX_REPORTS);
    checks.finish()?;
    if !body.command_results.is_empty() {
        return Err(Error::not_built("/command_results").into());
    }
    let results = super::take(&app, &agent, body.incarnation, body.reports).await?;
    Ok(Json(ReportResults {
        results,
        command_results: Vec::new(),
    }))
}
