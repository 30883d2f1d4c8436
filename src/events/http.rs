//! The call that streams events.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use lessor_protocol::{Event, ProblemCode};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::state::{self, Filter, Kinds};
use super::stream::Reader;
use super::tail;
use crate::access::{self, Caller};
use crate::app::App;
use crate::error::Error;
use crate::http::{Checks, Query};
use crate::problem::Problem;
use crate::sessions;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The routes of this room. A stream ends with its client, so they must not be detached from it.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(stream_events))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StreamQuery {
    /// Only of this pool.
    pool: Option<String>,
    /// Only with this agent.
    agent: Option<String>,
    /// Only of this session: its id, or its name while there is a session of that name.
    session: Option<String>,
    /// Only of sessions of this owner.
    owner: Option<String>,
    /// Only of these kinds, separated by commas; `session.*` is all that begin with `session.`.
    #[param(example = "session.state_changed,drain.*")]
    kind: Option<String>,
    /// As the header `Last-Event-ID`, for tools that cannot send headers. The header goes first: a
    /// client that connects anew sends a newer one there.
    #[param(example = "0")]
    last_event_id: Option<String>,
}

/// Stream events
///
/// Server-sent events, as `EventSource` reads them. The name of each is its kind, `data` is an Event,
/// and `id` its position, the same as the Event's `id`. Without `Last-Event-ID` the stream begins
/// with the next event, with `0` at the oldest that is kept, otherwise with the one after the given:
/// on any server, with no gap and no duplicate, and each session's events in the order in which they
/// were committed. Where that cannot be, because the given one is past retention or was never
/// given (the database was restored), the stream first says `gap`, whose `data` is an EventGap. Blocks
/// with an `id` and no `data` tell how far the stream is. A comment comes at least each 15 s.
#[utoipa::path(get, path = "/events", tag = "events", operation_id = "stream_events",
    params(StreamQuery, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen; `0` for all that are kept", example = "4711")),
    responses((status = 200, description = "The stream: each event's `data` is an Event, or an EventGap after `event: gap`",
        body = Event, content_type = "text/event-stream",
        example = "id: 4712\nevent: session.created\ndata: {\"id\":\"4712\",\"kind\":\"session.created\",\"at\":\"2026-11-24T18:24:36.595Z\",\"pool\":\"local\",\"session_id\":\"01a20ecd-78f7-7075-855a-c7d7941dbe25\",\"agent\":null,\"incarnation\":null,\"lease_epoch\":0,\"generation\":1,\"actor\":{\"type\":\"user\",\"name\":\"anonymous\"},\"from\":null,\"to\":\"pending\",\"reason\":null,\"data\":{}}\n\n")))]
async fn stream_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    Query(query): Query<StreamQuery>,
) -> Result<Response, Problem> {
    let asked = asked(&headers, query.last_event_id.as_deref())?;
    let filter = filter(&app, &caller, query).await?;
    if app.stop.is_cancelled() {
        return Err(Error::Stopping.into());
    }
    let seat = app.tail.sit()?;
    app.hub.events.notify_one();
    if asked.is_none() {
        // What was committed before this call is not "the next event".
        super::settle(&app).await?;
    }
    let kept = tail::kept(&app).await?;
    let at = state::beginning(asked, kept.first, kept.last);
    let reader = Reader::new(Arc::clone(&app), seat, filter, at, asked.unwrap_or(0), kept);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies of the nginx kind hold answers back otherwise.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(reader.into_bytes())).into_response())
}

/// The position after which the stream is to go on.
fn asked(headers: &HeaderMap, query: Option<&str>) -> Result<Option<i64>, Problem> {
    let header = headers
        .get(LAST_EVENT_ID)
        .map(|value| value.to_str().unwrap_or_default());
    let (name, text) = match (header, query) {
        (Some(text), _) => ("Last-Event-ID", text),
        (None, Some(text)) => ("last_event_id", text),
        (None, None) => return Ok(None),
    };
    match state::position(text) {
        Some(position) => Ok(Some(position)),
        None => Err(Problem::invalid(name, "must be the id of an event, or 0")),
    }
}

async fn filter(app: &App, caller: &Caller, query: StreamQuery) -> Result<Filter, Problem> {
    let mut checks = Checks::new();
    for (name, value) in [("pool", &query.pool), ("agent", &query.agent)] {
        if let Some(value) = value {
            checks.qualified(name, value);
        }
    }
    if let Some(owner) = &query.owner {
        checks.text("owner", owner, 256);
    }
    let kinds = match query.kind.as_deref().map(Kinds::parse).transpose() {
        Ok(kinds) => kinds.unwrap_or_default(),
        Err(why) => {
            checks.refuse("kind", why);
            Kinds::default()
        }
    };
    checks.finish()?;
    let session = match query.session {
        None => None,
        // An id needs no session any more: its events stay for longer.
        Some(session) => Some(match Uuid::try_parse(&session) {
            Ok(id) => id,
            Err(_) => {
                let id = access::session(app, caller, &session).await?;
                sessions::get(app, &id).await?.id
            }
        }),
    };
    let scope = caller.scope();
    // What only its own owner's events may be shown to is shown nothing else, whatever it asks for.
    let owner = match (scope.owner, query.owner) {
        (Some(own), Some(asked)) if own != asked => {
            let why = "This token is for the sessions of its own owner";
            return Err(Problem::new(ProblemCode::Forbidden, why));
        }
        (own, asked) => own.or(asked),
    };
    Ok(Filter {
        reach: scope.reach,
        pool: query.pool,
        agent: query.agent,
        session,
        owner,
        kinds,
    })
}
