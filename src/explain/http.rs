//! The calls that explain.

use std::sync::Arc;

use axum::extract::State;
use lessor_protocol::{AgentExplained, Explain, Page};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::drains::Target;
use crate::http::{Cursor, Format, ItemAndRows, Listing, PageQuery, Path, Query};
use crate::problem::Problem;

/// The routes of this room. They only read, so nothing is lost where a client goes.
pub fn waiting_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(explain_session))
        .routes(routes!(explain_agent_drain))
        .routes(routes!(explain_pool_drain))
}

/// Explain why a session waits
///
/// By id or name. What it waits for and until when, its place in its queue, what each agent of its
/// pool could do about it or why not, and what would help. It is one snapshot and changes nothing.
#[utoipa::path(get, path = "/sessions/{session}/explain", tag = "sessions", operation_id = "explain_session",
    params(("session" = String, Path, description = "The session's id or name")),
    responses((status = 200, description = "Why it waits", body = Explain)))]
async fn explain_session(
    State(app): State<Arc<App>>,
    format: Format,
    Path(session): Path<String>,
) -> Result<ItemAndRows<Explain, AgentExplained>, Problem> {
    let explained = super::session(&app, &session).await?;
    let agents = explained.agents.clone();
    Ok(ItemAndRows::new(format, explained, "agents", agents))
}

/// Where a page of explanations ends.
#[derive(Debug, Serialize, Deserialize)]
struct Position(Uuid);

impl Cursor for Position {
    const KIND: &'static str = "explained";
}

async fn page(
    app: &App,
    format: Format,
    target: Target,
    query: PageQuery,
) -> Result<Listing<Explain>, Problem> {
    let paging = query.paging()?;
    let after = paging.after::<Position>()?.map(|Position(id)| id);
    let explained = super::drain(app, target, after, paging.fetch()).await?;
    let page = paging.page(explained, |last| Position(last.session_id));
    Ok(Listing::new(format, page))
}

/// Explain what an agent's drain waits for
///
/// The sessions that its newest drain, its pool's included, still has to hand over, newest first,
/// each explained. None once the drain is completed or cancelled.
#[utoipa::path(get, path = "/agents/{agent}/drain/explain", tag = "agents", operation_id = "explain_agent_drain",
    params(("agent" = String, Path, description = "The agent's name", example = "local-1"), PageQuery),
    responses((status = 200, description = "A page of explanations", body = Page<Explain>)))]
async fn explain_agent_drain(
    State(app): State<Arc<App>>,
    format: Format,
    Path(agent): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Listing<Explain>, Problem> {
    page(&app, format, Target::Agent(agent), query).await
}

/// Explain what a pool's drain waits for
///
/// As for an agent's, for the newest drain of the whole pool.
#[utoipa::path(get, path = "/pools/{pool}/drain/explain", tag = "pools", operation_id = "explain_pool_drain",
    params(("pool" = String, Path, description = "The pool's name", example = "local"), PageQuery),
    responses((status = 200, description = "A page of explanations", body = Page<Explain>)))]
async fn explain_pool_drain(
    State(app): State<Arc<App>>,
    format: Format,
    Path(pool): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Listing<Explain>, Problem> {
    page(&app, format, Target::Pool(pool), query).await
}
