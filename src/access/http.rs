//! The calls on tokens.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use lessor_protocol::{CreatedToken, NewToken, Page, RotateRequest, Token};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{Caller, Keeper};
use crate::app::App;
use crate::error::Error;
use crate::http::{
    Cursor, Format, Item, Json, Listing, OptionalJson, PageQuery, Path, Preconditions, Query, etag,
    not_modified,
};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(get_token, revoke_token))
        .routes(routes!(rotate_token))
}

/// Where a page of tokens ends.
#[derive(Debug, Serialize, Deserialize)]
struct Position(Uuid);

impl Cursor for Position {
    const KIND: &'static str = "tokens";
}

/// What is not an id names no token.
fn id_of(token: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(token).map_err(|_| Error::NoToken(token.to_owned()))
}

fn created(made: CreatedToken) -> Response {
    let headers = [
        (header::LOCATION, format!("/v1/tokens/{}", made.token.id)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let tag = [(header::ETAG, etag(made.token.version))];
    (StatusCode::CREATED, headers, tag, Json(made)).into_response()
}

/// Create a token
///
/// The answer has the secret, which is kept nowhere and never shown again. A token of a tenant creates
/// tokens of that tenant.
#[utoipa::path(post, path = "/tokens", tag = "tokens", operation_id = "create_token",
    request_body(content = NewToken, example = json!({"name": "alice's laptop", "role": "user", "owner": "alice", "expires_in_seconds": 2592000})),
    responses((status = 201, description = "It was created; its secret is shown this once", body = CreatedToken,
        headers(("Location" = String, description = "Its path"), ("ETag" = String, description = "Its version")))))]
async fn create_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> Result<Response, Problem> {
    Ok(created(super::create(&app.db, new, caller.into()).await?))
}

/// List tokens
///
/// Newest first, those that have ended included until they are forgotten, 30 days later.
#[utoipa::path(get, path = "/tokens", tag = "tokens", operation_id = "list_tokens", params(PageQuery),
    responses((status = 200, description = "A page of tokens", body = Page<Token>)))]
async fn list_tokens(
    State(app): State<Arc<App>>,
    caller: Caller,
    format: Format,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let paging = query.paging()?;
    let after = paging.after::<Position>()?.map(|Position(id)| id);
    let rows = super::list(&app.db, &Keeper::from(caller), after, paging.fetch()).await?;
    Ok(Listing::new(format, paging.page(rows, |token| Position(token.id))).into_response())
}

/// Get a token
///
/// Without its secret.
#[utoipa::path(get, path = "/tokens/{token}", tag = "tokens", operation_id = "get_token",
    params(("token" = String, Path, description = "The token's id"),
        ("If-None-Match" = Option<String>, Header, description = "304 if the version is this one")),
    responses((status = 200, description = "The token", body = Token,
            headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "The version is still the given one")))]
async fn get_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    format: Format,
    preconditions: Preconditions,
    Path(token): Path<String>,
) -> Result<Response, Problem> {
    let token = super::get(&app.db, &Keeper::from(caller), id_of(&token)?).await?;
    if preconditions.not_modified(token.version) {
        return Ok(not_modified(token.version));
    }
    let tag = etag(token.version);
    Ok(([(header::ETAG, tag)], Item::new(format, token)).into_response())
}

/// Revoke a token
///
/// Within a second every server refuses it, and the polls and streams that it opened end. It stays in the
/// list for 30 days.
#[utoipa::path(delete, path = "/tokens/{token}", tag = "tokens", operation_id = "revoke_token",
    params(("token" = String, Path, description = "The token's id"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    responses((status = 200, description = "The token as it is now", body = Token,
        headers(("ETag" = String, description = "Its version")))))]
async fn revoke_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    preconditions: Preconditions,
    Path(token): Path<String>,
) -> Result<Response, Problem> {
    let id = id_of(&token)?;
    let token = super::revoke(&app.db, &Keeper::from(caller), id, preconditions).await?;
    let tag = etag(token.version);
    Ok(([(header::ETAG, tag)], Json(token)).into_response())
}

/// Rotate a token
///
/// A new one with the same scope and lifetime comes in its place; the old one works beside it for
/// `overlap_seconds`, by default an hour, and then expires.
#[utoipa::path(post, path = "/tokens/{token}/rotate", tag = "tokens", operation_id = "rotate_token",
    params(("token" = String, Path, description = "The token's id")),
    request_body(content = RotateRequest, example = json!({"overlap_seconds": 600})),
    responses((status = 201, description = "The new one; its secret is shown this once", body = CreatedToken,
        headers(("Location" = String, description = "Its path"), ("ETag" = String, description = "Its version")))))]
async fn rotate_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(token): Path<String>,
    OptionalJson(body): OptionalJson<RotateRequest>,
) -> Result<Response, Problem> {
    let id = id_of(&token)?;
    let by = Keeper::from(caller);
    Ok(created(
        super::rotate(&app.db, &by, id, body.overlap_seconds).await?,
    ))
}
