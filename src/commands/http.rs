//! The calls on a session's commands.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lessor_protocol::{Command, NewCommand, Page};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::MAX_JSON_BYTES;
use crate::access::Caller;
use crate::app::App;
use crate::error::Error;
use crate::http::{
    Checks, Format, HashedJson, IdempotencyKey, Item, Json, Listing, PageQuery, Path, Query,
};
use crate::idempotency::Answer;
use crate::idempotency::http::{answered, request};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_commands, create_command))
        .routes(routes!(get_command, cancel_command))
}

/// Where a page of a session's commands ends.
#[derive(Debug, Serialize, Deserialize)]
struct Position(i64);

impl crate::http::Cursor for Position {
    const KIND: &'static str = "session_commands";
}

/// Create a command
///
/// For the session's holder, who is told at once; where nobody holds the session, for whoever does
/// next. A session's commands are delivered in the order in which they were created, each at least
/// once within one lease epoch. When the epoch ends before a delivered command is finished, it is
/// `interrupted`, or pending again with `redeliver`.
#[utoipa::path(post, path = "/sessions/{session}/commands", tag = "commands", operation_id = "create_command",
    params(("session" = String, Path, description = "The session's id or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same call again within 24 h is answered as the first was")),
    request_body(content = NewCommand, example = json!({"kind": "exec", "payload": {"command": ["uptime"]}, "deadline_seconds": 30})),
    responses((status = 201, description = "It was created", body = Command,
        headers(("Location" = String, description = "Its path"),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this answer was given before")))))]
async fn create_command(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(session): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    HashedJson { value: new, sha256 }: HashedJson<NewCommand>,
) -> Result<Response, Problem> {
    check(&new)?;
    let path = format!("/v1/sessions/{session}/commands");
    let request = request(&caller, path, key, sha256);
    let mut answer = super::create(&app, &session, new, request, caller.into(), |made| {
        Ok(Answer {
            status: 201,
            location: Some(format!(
                "/v1/sessions/{}/commands/{}",
                made.session_id, made.id
            )),
            etag: None,
            body: serde_json::to_string(&made).map_err(|e| Error::Internal(e.to_string()))?,
            replayed: false,
        })
    })
    .await?;
    // Commands have no versions, the first time as little as later.
    answer.etag = None;
    Ok(answered(answer))
}

fn check(new: &NewCommand) -> Result<(), Problem> {
    let mut checks = Checks::new();
    if new.kind.len() > 64 {
        checks.refuse("/kind", "must have at most 64 bytes");
    } else {
        checks.name("/kind", &new.kind);
    }
    checks
        .json_object("/payload", &new.payload, MAX_JSON_BYTES)
        .range_f64("/deadline_seconds", new.deadline_seconds, 1.0, 86_400.0);
    checks.finish()
}

/// List a session's commands
///
/// Newest first.
#[utoipa::path(get, path = "/sessions/{session}/commands", tag = "commands", operation_id = "list_commands",
    params(("session" = String, Path, description = "The session's id or name"), PageQuery),
    responses((status = 200, description = "A page of its commands", body = Page<Command>)))]
async fn list_commands(
    State(app): State<Arc<App>>,
    format: Format,
    Path(session): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let paging = query.paging()?;
    let before = paging.after::<Position>()?.map(|Position(seq)| seq);
    let rows = super::list(&app, &session, before, paging.fetch()).await?;
    let page = paging.page(rows, |(seq, _)| Position(*seq));
    let page = Page {
        items: page.items.into_iter().map(|(_, command)| command).collect(),
        next_cursor: page.next_cursor,
    };
    Ok(Listing::new(format, page).into_response())
}

/// Get a command
///
/// With its result, once there is one.
#[utoipa::path(get, path = "/sessions/{session}/commands/{command}", tag = "commands", operation_id = "get_command",
    params(("session" = String, Path, description = "The session's id or name"),
        ("command" = String, Path, description = "The command's id")),
    responses((status = 200, description = "The command", body = Command)))]
async fn get_command(
    State(app): State<Arc<App>>,
    format: Format,
    Path((session, command)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let command = super::get(&app, &session, &command).await?;
    Ok(Item::new(format, command).into_response())
}

/// Cancel a command
///
/// It is `cancelled` from now on, and nothing else becomes of it. An agent that it was delivered to
/// is told, and stops it.
#[utoipa::path(delete, path = "/sessions/{session}/commands/{command}", tag = "commands", operation_id = "cancel_command",
    params(("session" = String, Path, description = "The session's id or name"),
        ("command" = String, Path, description = "The command's id")),
    responses((status = 200, description = "The command as it is now", body = Command)))]
async fn cancel_command(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((session, command)): Path<(String, String)>,
) -> Result<Json<Command>, Problem> {
    let cancelled = super::cancel(&app, &session, &command, caller.into()).await?;
    Ok(Json(cancelled))
}
