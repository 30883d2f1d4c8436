//! The calls on a session's history: its timeline and its ledger.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lessor_protocol::{Event, LedgerItem, Page};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::store;
use crate::app::App;
use crate::events;
use crate::http::{Format, Listing, PageQuery, Path, Query};
use crate::problem::Problem;

/// The routes of this part of the room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_session_events))
        .routes(routes!(list_session_leases))
}

/// Where a page of a session's timeline ends.
#[derive(Debug, Serialize, Deserialize)]
struct EventPosition(i64);

impl crate::http::Cursor for EventPosition {
    const KIND: &'static str = "session_events";
}

/// Where a page of a session's ledger ends.
#[derive(Debug, Serialize, Deserialize)]
struct LedgerPosition(i64);

impl crate::http::Cursor for LedgerPosition {
    const KIND: &'static str = "session_leases";
}

/// List a session's events
///
/// Its timeline, newest first.
#[utoipa::path(get, path = "/sessions/{session}/events", tag = "sessions", operation_id = "list_session_events",
    params(("session" = String, Path, description = "The session's id or name"), PageQuery),
    responses((status = 200, description = "A page of its timeline", body = Page<Event>)))]
async fn list_session_events(
    State(app): State<Arc<App>>,
    format: Format,
    Path(session): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let paging = query.paging()?;
    let before = paging.after::<EventPosition>()?.map(|EventPosition(id)| id);
    let id = super::get(&app, &session).await?.id;
    let limit = paging.fetch();
    // Who has just changed the session finds that in its timeline.
    events::settle(&app).await?;
    let rows = app
        .db
        .read("sessions::timeline", |conn| {
            Box::pin(store::timeline(conn, id, before, limit))
        })
        .await?;
    let page = paging.page(rows, |row| EventPosition(row.id));
    let page = Page {
        items: page.items.into_iter().map(Event::from).collect(),
        next_cursor: page.next_cursor,
    };
    Ok(Listing::new(format, page).into_response())
}

/// List a session's leases
///
/// The ledger, newest first: who held it, under which epoch, from when to when, and why it ended.
#[utoipa::path(get, path = "/sessions/{session}/leases", tag = "sessions", operation_id = "list_session_leases",
    params(("session" = String, Path, description = "The session's id or name"), PageQuery),
    responses((status = 200, description = "A page of its ledger", body = Page<LedgerItem>)))]
async fn list_session_leases(
    State(app): State<Arc<App>>,
    format: Format,
    Path(session): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let paging = query.paging()?;
    let before = paging
        .after::<LedgerPosition>()?
        .map(|LedgerPosition(epoch)| epoch);
    let id = super::get(&app, &session).await?.id;
    let limit = paging.fetch();
    let rows = app
        .db
        .read("sessions::ledger", |conn| {
            Box::pin(store::ledger(conn, id, before, limit))
        })
        .await?;
    let page = paging.page(rows, |row| LedgerPosition(row.lease_epoch));
    let page = Page {
        items: page.items.into_iter().map(LedgerItem::from).collect(),
        next_cursor: page.next_cursor,
    };
    Ok(Listing::new(format, page).into_response())
}
