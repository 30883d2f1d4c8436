//! The calls on the shares of owners.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lessor_protocol::{Owner, OwnerShare, Page};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Position;
use crate::app::App;
use crate::http::{Checks, Format, Item, Json, Listing, PageQuery, Path, Query};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_owners))
        .routes(routes!(get_owner, put_owner, delete_owner))
}

fn check(owner: &str, share: &OwnerShare) -> Result<(), Problem> {
    let mut checks = Checks::new();
    checks.text("owner", owner, 256);
    if !(share.weight > 0.0 && share.weight <= 1000.0) {
        checks.refuse("/weight", "must be above 0 and at most 1000");
    }
    if let Some(max_running) = share.max_running {
        checks.range_i32("/max_running", max_running, 0, 1_000_000);
    }
    checks.finish()
}

/// List the owners of a pool
///
/// Those whose share has been set, newest first, with what they have.
#[utoipa::path(get, path = "/pools/{pool}/owners", tag = "pools", operation_id = "list_owners",
    params(("pool" = String, Path, description = "The pool's name", example = "local"), PageQuery),
    responses((status = 200, description = "A page of owners", body = Page<Owner>)))]
async fn list_owners(
    State(app): State<Arc<App>>,
    format: Format,
    Path(pool): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let paging = query.paging()?;
    let rows = super::list(&app, pool, paging.after::<Position>()?, paging.fetch()).await?;
    let page = paging.page(rows, |(position, _)| position.clone());
    let page = Page {
        items: page.items.into_iter().map(|(_, owner)| owner).collect(),
        next_cursor: page.next_cursor,
    };
    Ok(Listing::new(format, page).into_response())
}

/// Get an owner's share of a pool
///
/// 404 while it has not been set: weight 1 and no limit hold then.
#[utoipa::path(get, path = "/pools/{pool}/owners/{owner}", tag = "pools", operation_id = "get_owner",
    params(("pool" = String, Path, description = "The pool's name", example = "local"),
        ("owner" = String, Path, description = "The owner, percent-encoded", example = "physics")),
    responses((status = 200, description = "The share, and what the owner has", body = Owner)))]
async fn get_owner(
    State(app): State<Arc<App>>,
    format: Format,
    Path((pool, owner)): Path<(String, String)>,
) -> Result<Response, Problem> {
    Ok(Item::new(format, super::get(&app, pool, owner).await?).into_response())
}

/// Set an owner's share of a pool
///
/// What is left out takes its default: weight 1, no limit. It counts from the next claim on; what
/// runs is left alone.
#[utoipa::path(put, path = "/pools/{pool}/owners/{owner}", tag = "pools", operation_id = "put_owner",
    params(("pool" = String, Path, description = "The pool's name", example = "local"),
        ("owner" = String, Path, description = "The owner, percent-encoded: 1 to 256 bytes", example = "physics")),
    request_body(content = OwnerShare, example = json!({"weight": 2, "max_running": 10})),
    responses((status = 200, description = "The share, and what the owner has", body = Owner)))]
async fn put_owner(
    State(app): State<Arc<App>>,
    Path((pool, owner)): Path<(String, String)>,
    Json(share): Json<OwnerShare>,
) -> Result<Json<Owner>, Problem> {
    check(&owner, &share)?;
    Ok(Json(super::put(&app, pool, owner, share).await?))
}

/// Put an owner's share back to the defaults
///
/// Weight 1 and no limit.
#[utoipa::path(delete, path = "/pools/{pool}/owners/{owner}", tag = "pools", operation_id = "delete_owner",
    params(("pool" = String, Path, description = "The pool's name", example = "local"),
        ("owner" = String, Path, description = "The owner, percent-encoded", example = "physics")),
    responses((status = 204, description = "The defaults hold")))]
async fn delete_owner(
    State(app): State<Arc<App>>,
    Path((pool, owner)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    super::delete(&app, pool, owner).await?;
    Ok(StatusCode::NO_CONTENT)
}
