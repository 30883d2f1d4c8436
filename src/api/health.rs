//! Whether the process lives, whether it is ready, what it counts, which version it is.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lessor_protocol::{PROTOCOL_VERSIONS, Versions};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::Error;
use crate::http::Json;
use crate::problem::Problem;
use crate::sessions;

/// The routes outside `/v1`.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

/// `GET /v1`.
pub fn version_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_versions))
}

async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready is: not about to stop, and the database answers over the connections that heartbeats take.
async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.leaving.is_cancelled() {
        return Problem::from(Error::Stopping).into_response();
    }
    let answered = app
        .db
        .beat("api::readyz", |conn| Box::pin(sessions::now(conn)));
    match tokio::time::timeout(std::time::Duration::from_secs(2), answered).await {
        Ok(Ok(_)) => "ready\n".into_response(),
        Ok(Err(error)) => Problem::from(error).into_response(),
        Err(_) => Problem::from(Error::DatabaseUnavailable(
            "no answer within 2 s".to_owned(),
        ))
        .into_response(),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, text)],
        app.metrics.render(),
    )
        .into_response()
}

/// Get versions
///
/// Of the service and of the protocols that it speaks, and the server's time.
#[utoipa::path(get, path = "/", tag = "service", operation_id = "get_versions",
    responses((status = 200, description = "The versions", body = Versions)))]
async fn get_versions() -> Json<Versions> {
    Json(Versions {
        service: env!("CARGO_PKG_VERSION").to_owned(),
        protocols: PROTOCOL_VERSIONS.to_vec(),
        server_time: chrono::Utc::now(),
    })
}
