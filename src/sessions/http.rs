//! The calls on sessions.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use lessor_protocol::{
    CreatedSessions, DesiredState, NewSession, NewSessions, Page, Session, SessionPatch,
};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::check::{NewOf, check};
use super::list::Position;
use super::show::show_one;
use super::{Ending, SessionFilter, SessionRow, Wanted};
use crate::access::{self, Caller};
use crate::app::App;
use crate::error::Error;
use crate::http::{
    Checks, Format, HashedJson, IdempotencyKey, Item, Json, Listing, Paging, Path, Preconditions,
    Query, etag, label_filter, not_modified, words,
};
use crate::idempotency::Answer;
use crate::idempotency::http::{answered, request};
use crate::problem::Problem;

const MAX_BATCH: usize = 1_000;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_sessions, create_session))
        .routes(routes!(create_sessions))
        .routes(routes!(patch_session, delete_session))
        .routes(routes!(retry_session))
        .merge(super::history::routes())
}

/// The routes that wait; they must not be detached from their clients.
pub fn waiting_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_session))
}

fn json_of<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Internal(error.to_string()))
}

async fn shown(app: &App, row: SessionRow) -> Result<Response, Error> {
    let tag = etag(row.version);
    Ok(([(header::ETAG, tag)], Json(show_one(app, row).await?)).into_response())
}

/// Create a session
///
/// In a pool, or on a platform with or without a region: then in the matching pool with the most
/// free slots. Acknowledged means written: it is never lost.
#[utoipa::path(post, path = "/sessions", tag = "sessions", operation_id = "create_session",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same call again within 24 h is answered as the first was")),
    request_body(content = NewSession, example = json!({"pool": "local", "spec": {"command": ["sleep", "600"]}})),
    responses((status = 201, description = "It was created", body = Session,
        headers(("Location" = String, description = "Its path"), ("ETag" = String, description = "Its version"),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this answer was given before")))))]
async fn create_session(
    State(app): State<Arc<App>>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    HashedJson { value: new, sha256 }: HashedJson<NewSession>,
) -> Result<Response, Problem> {
    check(&[NewOf {
        session: &new,
        at: String::new(),
    }])?;
    let mut news = vec![new];
    access::adopt_new(&caller, &mut news)?;
    let request = request(&caller, "/v1/sessions", key, sha256);
    let answer = super::create(&app, news, request, caller, |mut made| {
        let session = made
            .pop()
            .ok_or_else(|| Error::Internal("nothing was created".to_owned()))?;
        Ok(Answer {
            status: 201,
            location: Some(format!("/v1/sessions/{}", session.id)),
            etag: Some(session.version),
            body: json_of(&session)?,
            replayed: false,
        })
    })
    .await?;
    Ok(answered(answer))
}

/// Create many sessions
///
/// Up to 1,000, all or nothing.
#[utoipa::path(post, path = "/sessions/batch", tag = "sessions", operation_id = "create_sessions",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same call again within 24 h is answered as the first was")),
    request_body(content = NewSessions, example = json!({"sessions": [{"pool": "local", "spec": {"command": ["sleep", "600"]}}]})),
    responses((status = 201, description = "All of them were created", body = CreatedSessions,
        headers(("Idempotency-Replayed" = Option<String>, description = "`true` if this answer was given before")))))]
async fn create_sessions(
    State(app): State<Arc<App>>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    HashedJson {
        value: body,
        sha256,
    }: HashedJson<NewSessions>,
) -> Result<Response, Problem> {
    let mut checks = Checks::new();
    checks.at_most("/sessions", body.sessions.len(), MAX_BATCH);
    if body.sessions.is_empty() {
        checks.refuse("/sessions", "must not be empty");
    }
    checks.finish()?;
    let news: Vec<NewOf<'_>> = body
        .sessions
        .iter()
        .enumerate()
        .map(|(index, session)| NewOf {
            session,
            at: format!("/sessions/{index}"),
        })
        .collect();
    check(&news)?;
    let mut news = body.sessions;
    access::adopt_new(&caller, &mut news)?;
    let request = request(&caller, "/v1/sessions/batch", key, sha256);
    let answer = super::create(&app, news, request, caller, |items| {
        Ok(Answer {
            status: 201,
            location: None,
            etag: None,
            body: json_of(&CreatedSessions { items })?,
            replayed: false,
        })
    })
    .await?;
    Ok(answered(answer))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this pool.
    pool: Option<String>,
    /// Only in this state; several separated by commas.
    state: Option<String>,
    /// Only with this desired state.
    desired_state: Option<DesiredState>,
    /// Only assigned to this agent.
    assigned_agent_id: Option<String>,
    /// Only assigned, or only unassigned.
    assigned: Option<bool>,
    /// Only of this owner.
    owner: Option<String>,
    /// Only with this name.
    name: Option<String>,
    /// Only with this label, `key:value`; may be repeated.
    #[serde(default)]
    label: Vec<String>,
    /// Only of this resource domain.
    resource_domain: Option<String>,
    /// Only created after this time.
    created_after: Option<DateTime<Utc>>,
    /// Only created before this time.
    created_before: Option<DateTime<Utc>>,
    /// How many items: 1 to 500, by default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
}

/// List sessions
///
/// Newest first.
#[utoipa::path(get, path = "/sessions", tag = "sessions", operation_id = "list_sessions", params(ListQuery),
    responses((status = 200, description = "A page of sessions", body = Page<Session>)))]
async fn list_sessions(
    State(app): State<Arc<App>>,
    caller: Caller,
    format: Format,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let paging = Paging::new(query.limit, query.cursor)?;
    let mut checks = Checks::new();
    for (name, time) in [
        ("created_after", query.created_after),
        ("created_before", query.created_before),
    ] {
        if let Some(time) = time {
            checks.moment(name, time);
        }
    }
    checks.finish()?;
    let filter = SessionFilter {
        pool: query.pool,
        states: query
            .state
            .map(|states| words("state", &states))
            .transpose()?
            .unwrap_or_default(),
        desired_state: query.desired_state,
        assigned_agent_id: query.assigned_agent_id,
        assigned: query.assigned,
        owner: query.owner,
        name: query.name,
        labels: label_filter(&query.label)?,
        resource_domain: query.resource_domain,
        created_after: query.created_after,
        created_before: query.created_before,
        scope: caller.scope(),
    };
    let sessions = super::list(&app, filter, paging.after::<Position>()?, paging.fetch()).await?;
    Ok(Listing::new(
        format,
        paging.page(sessions, |session| Position {
            id: session.id,
            created_at: session.created_at,
        }),
    )
    .into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    /// Wait until it is in one of these states, separated by commas, at its current generation.
    #[param(example = "running,failed")]
    wait_for: Option<String>,
    /// For how long at most: 0 to 55.
    #[param(minimum = 0, maximum = 55)]
    wait_seconds: Option<f64>,
}

/// Get a session
///
/// By id or name. With `wait_for` it answers when a state is reached at the current generation,
/// at once when it can no longer be reached, or at the time-out with the session as it is.
#[utoipa::path(get, path = "/sessions/{session}", tag = "sessions", operation_id = "get_session",
    params(("session" = String, Path, description = "The session's id or name"), WaitQuery,
        ("If-None-Match" = Option<String>, Header, description = "304 if the version is this one")),
    responses((status = 200, description = "The session", body = Session,
            headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "The version is still the given one")))]
async fn get_session(
    State(app): State<Arc<App>>,
    format: Format,
    preconditions: Preconditions,
    Path(session): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Response, Problem> {
    let row = match query.wait_for {
        None if query.wait_seconds.is_some() => {
            return Err(Problem::invalid("wait_seconds", "needs wait_for"));
        }
        None => super::get(&app, &session).await?,
        Some(states) => {
            let seconds = query.wait_seconds.unwrap_or(30.0);
            let mut checks = Checks::new();
            checks.range_f64("wait_seconds", seconds, 0.0, 55.0);
            checks.finish()?;
            let wanted = Wanted {
                states: words("wait_for", &states)?,
                wait: Duration::from_secs_f64(seconds),
            };
            super::wait_for(&app, &session, &wanted).await?
        }
    };
    if preconditions.not_modified(row.version) {
        return Ok(not_modified(row.version));
    }
    let tag = etag(row.version);
    let session = show_one(&app, row).await?;
    Ok(([(header::ETAG, tag)], Item::new(format, session)).into_response())
}

/// Change a session
///
/// What is left out stays. Only `desired_state` raises the generation.
#[utoipa::path(patch, path = "/sessions/{session}", tag = "sessions", operation_id = "patch_session",
    params(("session" = String, Path, description = "The session's id or name"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    request_body(content = SessionPatch, content_type = "application/merge-patch+json", example = json!({"desired_state": "hibernated"})),
    responses((status = 200, description = "The session as it is now", body = Session,
        headers(("ETag" = String, description = "Its version")))))]
async fn patch_session(
    State(app): State<Arc<App>>,
    caller: Caller,
    preconditions: Preconditions,
    Path(session): Path<String>,
    Json(patch): Json<SessionPatch>,
) -> Result<Response, Problem> {
    let row = super::patch(&app, &session, patch, preconditions, caller.into()).await?;
    Ok(shown(&app, row).await?)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EndQuery {
    /// Why, for people: 1 to 1024 bytes.
    reason: Option<String>,
    /// How long its resource has to end by itself: 0 to 86400.
    #[param(minimum = 0, maximum = 86400)]
    grace_seconds: Option<f64>,
    /// Whether its data goes with it.
    delete_data: Option<bool>,
    /// Do not wait for a domain that has no live agent.
    #[serde(default)]
    force: bool,
}

/// End a session
///
/// Its end is wanted from now on, and that cannot be taken back. Any agent of its domain sees to
/// it; where none ever comes back, it ends all the same.
#[utoipa::path(delete, path = "/sessions/{session}", tag = "sessions", operation_id = "delete_session",
    params(("session" = String, Path, description = "The session's id or name"), EndQuery,
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    responses((status = 202, description = "Its end is wanted", body = Session,
        headers(("ETag" = String, description = "Its version")))))]
async fn delete_session(
    State(app): State<Arc<App>>,
    caller: Caller,
    preconditions: Preconditions,
    Path(session): Path<String>,
    Query(query): Query<EndQuery>,
) -> Result<Response, Problem> {
    let mut checks = Checks::new();
    if let Some(reason) = &query.reason {
        checks.text("reason", reason, 1024);
    }
    if let Some(grace) = query.grace_seconds {
        checks.range_f64("grace_seconds", grace, 0.0, 86_400.0);
    }
    checks.finish()?;
    let ending = Ending {
        reason: query.reason,
        grace_seconds: query.grace_seconds,
        delete_data: query.delete_data,
        force: query.force,
    };
    let row = super::delete(&app, &session, ending, preconditions, caller.into()).await?;
    Ok((StatusCode::ACCEPTED, shown(&app, row).await?).into_response())
}

/// Retry a dead letter
///
/// Another attempt under a new number, with a clean count.
#[utoipa::path(post, path = "/sessions/{session}/retry", tag = "sessions", operation_id = "retry_session",
    params(("session" = String, Path, description = "The session's id or name"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    responses((status = 200, description = "The session as it is now", body = Session,
        headers(("ETag" = String, description = "Its version")))))]
async fn retry_session(
    State(app): State<Arc<App>>,
    caller: Caller,
    preconditions: Preconditions,
    Path(session): Path<String>,
) -> Result<Response, Problem> {
    let row = super::retry(&app, &session, preconditions, caller.into()).await?;
    Ok(shown(&app, row).await?)
}
