//! The calls on pools.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use lessor_protocol::{Page, Pool, PoolSpec};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Position;
use crate::access::Caller;
use crate::app::App;
use crate::http::{
    Format, Item, Json, Listing, PageQuery, Path, Preconditions, Query, etag, not_modified,
};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_pools))
        .routes(routes!(get_pool, put_pool, patch_pool, delete_pool))
}

/// List pools
///
/// Newest first, with live counts.
#[utoipa::path(get, path = "/pools", tag = "pools", operation_id = "list_pools", params(PageQuery),
    responses((status = 200, description = "A page of pools", body = Page<Pool>)))]
async fn list_pools(
    State(app): State<Arc<App>>,
    caller: Caller,
    format: Format,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let paging = query.paging()?;
    let rows = super::list(
        &app,
        caller.scope().reach,
        paging.after::<Position>()?,
        paging.fetch(),
    )
    .await?;
    Ok(Listing::new(format, paging.page(rows, Position::of)).into_response())
}

/// Get a pool
///
/// Its settings and its live counts; the ETag is its version.
#[utoipa::path(get, path = "/pools/{pool}", tag = "pools", operation_id = "get_pool",
    params(("pool" = String, Path, description = "The pool's name", example = "local"),
        ("If-None-Match" = Option<String>, Header, description = "304 if the version is this one")),
    responses((status = 200, description = "The pool", body = Pool,
            headers(("ETag" = String, description = "The version"))),
        (status = 304, description = "The version is still the given one")))]
async fn get_pool(
    State(app): State<Arc<App>>,
    format: Format,
    preconditions: Preconditions,
    Path(pool): Path<String>,
) -> Result<Response, Problem> {
    let pool = super::get(&app, &pool).await?;
    if preconditions.not_modified(pool.version) {
        return Ok(not_modified(pool.version));
    }
    let tag = etag(pool.version);
    Ok(([(header::ETAG, tag)], Item::new(format, pool)).into_response())
}

/// Create a pool or replace its settings
///
/// What is left out takes its default. The platform of a pool that exists cannot change.
#[utoipa::path(put, path = "/pools/{pool}", tag = "pools", operation_id = "put_pool",
    params(("pool" = String, Path, description = "The pool's name: `[a-z0-9][a-z0-9._-]{0,127}`", example = "local"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    request_body(content = PoolSpec, example = json!({"platform": "process", "lease_ttl_seconds": 30})),
    responses((status = 200, description = "It was replaced", body = Pool,
            headers(("ETag" = String, description = "The version"))),
        (status = 201, description = "It was created", body = Pool,
            headers(("ETag" = String, description = "The version")))))]
async fn put_pool(
    State(app): State<Arc<App>>,
    preconditions: Preconditions,
    Path(pool): Path<String>,
    Json(spec): Json<PoolSpec>,
) -> Result<Response, Problem> {
    let put = super::put(&app, &pool, spec, preconditions).await?;
    let status = if put.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((
        status,
        [(header::ETAG, etag(put.pool.version))],
        Json(put.pool),
    )
        .into_response())
}

/// Change a pool's settings
///
/// A merge patch (RFC 7396): what is left out stays, null puts the default back.
#[utoipa::path(patch, path = "/pools/{pool}", tag = "pools", operation_id = "patch_pool",
    params(("pool" = String, Path, description = "The pool's name", example = "local"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    request_body(content = Object, content_type = "application/merge-patch+json", example = json!({"placement": "pack"})),
    responses((status = 200, description = "The pool as it is now", body = Pool,
        headers(("ETag" = String, description = "The version")))))]
async fn patch_pool(
    State(app): State<Arc<App>>,
    preconditions: Preconditions,
    Path(pool): Path<String>,
    Json(patch): Json<serde_json::Map<String, serde_json::Value>>,
) -> Result<Response, Problem> {
    let pool = super::patch(&app, &pool, patch, preconditions).await?;
    Ok(([(header::ETAG, etag(pool.version))], Json(pool)).into_response())
}

/// Delete a pool
///
/// Only one without agents and sessions.
#[utoipa::path(delete, path = "/pools/{pool}", tag = "pools", operation_id = "delete_pool",
    params(("pool" = String, Path, description = "The pool's name", example = "local"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    responses((status = 204, description = "It is gone")))]
async fn delete_pool(
    State(app): State<Arc<App>>,
    preconditions: Preconditions,
    Path(pool): Path<String>,
) -> Result<StatusCode, Problem> {
    super::delete(&app, &pool, preconditions).await?;
    Ok(StatusCode::NO_CONTENT)
}
