//! The call that reads the audit.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};
use lessor_protocol::{AuditEntry, Page};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::Filter;
use crate::access::Caller;
use crate::app::App;
use crate::http::{Checks, Cursor, Format, Listing, Paging, Query};
use crate::problem::Problem;

const JSON_LINES: &str = "application/x-ndjson";

/// How many entries the export has in hand.
const EXPORTED_AT_ONCE: i64 = 500;

/// The routes of this room. They only read, so nothing is lost where a client goes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_audit))
}

/// Where a page of entries ends.
#[derive(Debug, Serialize, Deserialize)]
struct Position(i64);

impl Cursor for Position {
    const KIND: &'static str = "audit";
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// Only what was begun at this time or later.
    since: Option<DateTime<Utc>>,
    /// Only what was begun before this time.
    until: Option<DateTime<Utc>>,
    /// Only by the actor of this name.
    actor: Option<String>,
    /// Only with the token of this id.
    token_id: Option<Uuid>,
    /// How many items: 1 to 500, by default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
}

/// List who changed what
///
/// Newest first. Each change has an entry that was written before it began; `status` says how it was
/// answered. Where `Accept` is `application/x-ndjson`, the answer is all that the filters match, from
/// `cursor` on and whatever `limit` says, one entry a line. A token of a tenant sees what that tenant's
/// tokens changed. While access is open nothing is written here.
#[utoipa::path(get, path = "/audit", tag = "tokens", operation_id = "list_audit", params(AuditQuery),
    responses((status = 200, description = "A page of entries", body = Page<AuditEntry>)))]
async fn list_audit(
    State(app): State<Arc<App>>,
    caller: Caller,
    format: Format,
    headers: HeaderMap,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    let paging = Paging::new(query.limit, query.cursor)?;
    let mut checks = Checks::new();
    for (name, time) in [("since", query.since), ("until", query.until)] {
        if let Some(time) = time {
            checks.moment(name, time);
        }
    }
    checks.finish()?;
    let filter = Filter {
        before: paging.after::<Position>()?.map(|Position(id)| id),
        since: query.since,
        until: query.until,
        actor: query.actor,
        token_id: query.token_id,
        tenant: caller.grant.tenant.clone(),
    };
    if wants_lines(&headers) {
        let headers = [(header::CONTENT_TYPE, JSON_LINES)];
        let first = super::list(&app, filter.clone(), EXPORTED_AT_ONCE).await?;
        return Ok((headers, Body::from_stream(lines(app, filter, first))).into_response());
    }
    let rows = super::list(&app, filter, paging.fetch()).await?;
    let page: Page<AuditEntry> = paging.page(rows, |entry| Position(entry.id));
    Ok(Listing::new(format, page).into_response())
}

fn wants_lines(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            range
                .split(';')
                .next()
                .is_some_and(|media| media.trim() == JSON_LINES)
        })
}

/// What is left to say: a page in hand, and from where to go on. None: it was cut off.
struct Export {
    app: Arc<App>,
    filter: Filter,
    page: Option<Vec<AuditEntry>>,
}

/// All of it, a page at a time. Where the database goes away in between, the answer breaks off without its
/// end, which clients see.
fn lines(
    app: Arc<App>,
    filter: Filter,
    first: Vec<AuditEntry>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    let export = Export {
        app,
        filter,
        page: Some(first),
    };
    stream::try_unfold(export, |mut export| async move {
        let Some(page) = export.page.take() else {
            return Ok::<_, std::io::Error>(None);
        };
        let Some(last) = page.last().map(|entry| entry.id) else {
            return Ok(None);
        };
        let mut text = String::new();
        for entry in &page {
            text.push_str(&serde_json::to_string(entry).map_err(std::io::Error::other)?);
            text.push('\n');
        }
        export.filter.before = Some(last);
        let full = i64::try_from(page.len()) == Ok(EXPORTED_AT_ONCE);
        if full {
            let next = super::list(&export.app, export.filter.clone(), EXPORTED_AT_ONCE).await;
            export.page = Some(next.map_err(|error| std::io::Error::other(error.to_string()))?);
        }
        Ok(Some((Bytes::from(text), export)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_lines() {
        for (accept, wanted) in [
            ("application/x-ndjson", true),
            ("text/html, application/x-ndjson;q=0.9", true),
            ("application/json", false),
            ("*/*", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header"));
            assert_eq!(wants_lines(&headers), wanted, "{accept}");
        }
    }
}
