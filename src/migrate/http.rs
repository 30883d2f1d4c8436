//! The call that migrates a session.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use lessor_protocol::{Migrate, Session};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::app::App;
use crate::error::Error;
use crate::http::{Checks, HashedJson, IdempotencyKey, Path, Preconditions};
use crate::idempotency::Answer;
use crate::idempotency::http::{answered, request};
use crate::problem::Problem;

/// The routes of this room.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(migrate_session))
}

/// Migrate a session
///
/// To another pool, another resource domain, or both: it is stopped where it is and started there.
/// `spec` and `platform_metadata` stay. The agent that holds it loses it at once; it can be claimed in
/// the target when that agent has acknowledged, or its lease has run out. What ran becomes a leftover.
/// One failed attempt in the target brings it back where it was. While it is on its way it can be sent
/// to yet another place, or back. It has arrived when it is `running` at the generation of the answer
/// in the pool that was asked for.
#[utoipa::path(post, path = "/sessions/{session}/migrate", tag = "sessions", operation_id = "migrate_session",
    params(("session" = String, Path, description = "The session's id or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same call again within 24 h is answered as the first was"),
        ("If-Match" = Option<String>, Header, description = "412 unless the version is this one")),
    request_body(content = Migrate, examples(
        ("pool" = (summary = "To another pool", value = json!({"pool": "other"}))),
        ("domain" = (summary = "To another domain of its pool", value = json!({"resource_domain": "host-2"}))),
        ("data" = (summary = "Started only when it is known to have stopped", value = json!({"pool": "other", "resource_domain": "host-2", "stop_first": true}))))),
    responses((status = 202, description = "It is on its way", body = Session,
        headers(("ETag" = String, description = "Its version"),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this answer was given before")))))]
async fn migrate_session(
    State(app): State<Arc<App>>,
    caller: Caller,
    preconditions: Preconditions,
    Path(session): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    HashedJson { value: to, sha256 }: HashedJson<Migrate>,
) -> Result<Response, Problem> {
    check(&to)?;
    let path = format!("/v1/sessions/{session}/migrate");
    let request = request(&caller, path, key, sha256);
    if let Some(pool) = &to.pool {
        caller.must_see_pool(pool)?;
    }
    let actor = caller.into();
    let mut answer = super::migrate(
        &app,
        &session,
        to,
        request,
        preconditions,
        actor,
        |session| {
            Ok(Answer {
                status: 202,
                location: None,
                etag: None,
                body: serde_json::to_string(&session)
                    .map_err(|error| Error::Internal(error.to_string()))?,
                replayed: false,
            })
        },
    )
    .await?;
    // Of what was answered, now or then.
    answer.etag = Some(version_of(&answer.body)?);
    Ok(answered(answer))
}

fn version_of(body: &str) -> Result<i64, Error> {
    #[derive(Deserialize)]
    struct Versioned {
        version: i64,
    }
    serde_json::from_str::<Versioned>(body)
        .map(|session| session.version)
        .map_err(|error| Error::Internal(error.to_string()))
}

fn check(to: &Migrate) -> Result<(), Problem> {
    let mut checks = Checks::new();
    if to.pool.is_none() && to.resource_domain.is_none() {
        checks.refuse("/pool", "a pool or a resource_domain is required");
    }
    if let Some(pool) = &to.pool {
        checks.qualified("/pool", pool);
    }
    if let Some(domain) = &to.resource_domain {
        checks.qualified("/resource_domain", domain);
    }
    checks.finish()
}
