//! The call by which agents tell what they see, and the list of what nobody wants.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lessor_protocol::{Inventory, Leftover, LeftoverKind, MAX_RESOURCES, Page, Verdicts};
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{LeftoverFilter, Position};
use crate::access::Caller;
use crate::app::App;
use crate::http::{Checks, Format, Json, Listing, Paging, Path, Query};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(send_inventory))
        .routes(routes!(list_leftovers))
}

/// Send an inventory
///
/// All that the agent sees of its domain, never a part of it: when it has registered, and when
/// `inventory_wanted` says so. Delete what the verdict `delete` names, and nothing else. The lease
/// is not renewed by this.
#[utoipa::path(post, path = "/agents/{agent}/inventory", tag = "agents", operation_id = "send_inventory",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1")),
    request_body(content = Inventory, example = json!({"incarnation": 1, "taken_seconds_ago": 0.2, "resources": [{
        "platform_resource_id": "4711@123456", "session_id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "attempt": 1, "state": "running"}]})),
    responses((status = 200, description = "What is to become of each", body = Verdicts)))]
async fn send_inventory(
    State(app): State<Arc<App>>,
    Path(agent): Path<String>,
    Json(body): Json<Inventory>,
) -> Result<Json<Verdicts>, Problem> {
    let arrived = Instant::now();
    check(&body)?;
    Ok(Json(super::take(&app, &agent, body, arrived).await?))
}

fn check(body: &Inventory) -> Result<(), Problem> {
    let mut checks = Checks::new();
    checks
        .range_f64("/taken_seconds_ago", body.taken_seconds_ago, 0.0, 86_400.0)
        .at_most("/resources", body.resources.len(), MAX_RESOURCES);
    for (at, resource) in body.resources.iter().take(MAX_RESOURCES).enumerate() {
        let id = &resource.platform_resource_id;
        if id.is_empty() || id.len() > 1024 || id.contains('\0') {
            checks.text(format!("/resources/{at}/platform_resource_id"), id, 1024);
        }
        if let Some(attempt) = resource.attempt.filter(|attempt| *attempt < 0) {
            checks.range_i32(format!("/resources/{at}/attempt"), attempt, 0, i32::MAX);
        }
        if let Some(state) = &resource.state {
            checks.text_or_empty(format!("/resources/{at}/state"), state, 256);
        }
    }
    checks.finish()
}

#[derive(Debug, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this pool.
    pool: Option<String>,
    /// Only of this resource domain.
    resource_domain: Option<String>,
    /// Only of this kind.
    kind: Option<LeftoverKind>,
    /// How many items: 1 to 500, by default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
}

/// List leftovers
///
/// What sessions left behind and their domains must delete, and what is in quarantine because
/// nobody knows it. Newest first.
#[utoipa::path(get, path = "/leftovers", tag = "leftovers", operation_id = "list_leftovers", params(ListQuery),
    responses((status = 200, description = "A page of them", body = Page<Leftover>)))]
async fn list_leftovers(
    State(app): State<Arc<App>>,
    caller: Caller,
    format: Format,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let paging = Paging::new(query.limit, query.cursor)?;
    let filter = LeftoverFilter {
        pool: query.pool,
        resource_domain: query.resource_domain,
        kind: query.kind,
        reach: caller.scope().reach,
    };
    let rows = super::list(&app, filter, paging.after::<Position>()?, paging.fetch()).await?;
    let page = paging.page(rows, |(position, _)| position.clone());
    let page = Page {
        items: page
            .items
            .into_iter()
            .map(|(_, leftover)| leftover)
            .collect(),
        next_cursor: page.next_cursor,
    };
    Ok(Listing::new(format, page).into_response())
}
