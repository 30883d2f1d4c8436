//! What every request passes through: its id, its span, the rendering of its error, its log line
//! and metrics; and what is judged before anything is done: the rate of calls, and whether there is room.
//!
//! It is one layer and not a stack of five, because ten thousand parked polls each hold every layer
//! they are in. Inside it only panics are caught.
//!
//! Invariants: nothing here limits how long a request takes, since long polls and streams are meant
//! to last; an answer always carries `X-Request-Id`, a panic's and an unknown path's included.
//!
//! What it does not do: read bodies or compress.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use lessor_protocol::ProblemCode;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;
use uuid::Uuid;

use super::client::ClientAddress;
use super::cors;
use super::gate::Gate;
use super::headers::secure;
use super::log::Record;
use super::rate::{self, RateLimit};
use super::render::render;
use crate::problem::Problem;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, as in its answer, its log lines and its problem. An extractor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

/// The router with everything that all requests pass through. Apply it last, once.
pub fn apply(router: Router, at: Edge) -> Router {
    let cors = cors::layer(&at.cors_origins);
    let router = router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::new(at), edge));
    match cors {
        // Outside: whether a page may ask at all is no matter of limits.
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// What is judged at the edge, before anything is done for a request.
#[derive(Clone, Debug)]
pub struct Edge {
    /// From when it is cancelled on, each answer ends its connection.
    pub leaving: CancellationToken,
    /// How much is worked on at once.
    pub gate: Arc<Gate>,
    /// How frequently one caller may call, if that is limited.
    pub rate_limit: Option<Arc<RateLimit>>,
    /// Which sites' pages may call.
    pub cors_origins: Vec<HeaderValue>,
}

impl Edge {
    /// The answer to a request that is let in, or the refusal.
    async fn judged(&self, mut request: Request, next: Next) -> Response {
        let client = request.extensions().get::<ClientAddress>().copied();
        let limit = self
            .rate_limit
            .as_ref()
            .filter(|_| rate::counts(request.method(), request.uri().path()));
        let left = match limit.map(|limit| limit.enter(request.headers(), client)) {
            Some(Err(refused)) => return *refused,
            Some(Ok(left)) => Some(left),
            None => None,
        };
        let place = self
            .gate
            .enter(request.method(), request.uri(), request.headers());
        let mut response = match place {
            Ok(Some(place)) => {
                request.extensions_mut().insert(Arc::clone(&place));
                next.run(request).await
            }
            Ok(None) => next.run(request).await,
            Err(problem) => problem.into_response(),
        };
        if let (Some(limit), Some(left)) = (limit, left) {
            limit.tell(left, response.headers_mut());
            if response.status() == StatusCode::UNAUTHORIZED {
                limit.guessed(client);
            }
        }
        response
    }
}

async fn edge(State(at): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let version = request.version();
    let id = RequestId::of(request.headers());
    let no_store = is_api(request.uri().path());
    let record = Record::begin(
        request.method(),
        request.extensions().get::<MatchedPath>(),
        request.uri(),
        request.extensions().get::<ClientAddress>().copied(),
    );
    let span = record.span(&id.0);
    request.extensions_mut().insert(id.clone());
    let response = at.judged(request, next).instrument(span.clone()).await;
    let mut response = render(response, &id.0);
    span.in_scope(|| record.finish(&response));
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    // A client that kept its connection would find it closed in the middle of its next request.
    // Later versions have frames for that, and forbid the header.
    if at.leaving.is_cancelled() && version <= Version::HTTP_11 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    secure(headers);
    if no_store {
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

/// Whether the path is one of the API's: what it tells is true for a moment only.
fn is_api(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

impl RequestId {
    /// The id that the client or a proxy gave, if it is harmless in a log, else a new one.
    fn of(headers: &HeaderMap) -> Self {
        let sane = |id: &&str| {
            (1..=128).contains(&id.len())
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        let given = headers
            .get(X_REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(sane);
        Self(given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let missing = || Problem::new(ProblemCode::Internal, "a route is not behind http::apply");
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}

/// A handler that panicked is an `internal` like any other: its message is logged, not sent.
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "no message".to_owned(),
    };
    Problem::new(
        ProblemCode::Internal,
        format!("a handler panicked: {message}"),
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Method;
    use axum::routing::{get, post};
    use lessor_protocol::Problem as Document;
    use tower::ServiceExt as _;

    use super::*;
    use crate::http::{Json, Path};

    fn router() -> Router {
        let api = Router::new()
            .route(
                "/pools/{pool}",
                get(|Path(name): Path<String>| async move { name })
                    .put(|Json(value): Json<u8>| async move { Json(value) }),
            )
            .route(
                "/panics",
                get(|| async {
                    if true {
                        panic!("secret {}", 7)
                    }
                }),
            )
            .route("/id", get(|RequestId(id): RequestId| async move { id }))
            .route(
                "/axum",
                post(|axum::Json(value): axum::Json<u8>| async move { value.to_string() }),
            )
            .route(
                "/cached",
                get(|| async { ([(header::CACHE_CONTROL, "private")], "") }),
            );
        let router = Router::new()
            .nest("/v1", api)
            .route("/healthz", get(|| async { "ok" }));
        apply(
            router,
            Edge {
                leaving: CancellationToken::new(),
                gate: Arc::new(Gate::new(10, 10)),
                rate_limit: None,
                cors_origins: Vec::new(),
            },
        )
    }

    async fn call(method: Method, path: &str, id: Option<&str>) -> (Response, String) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .expect("a request");
        if let Some(id) = id {
            request
                .headers_mut()
                .insert(X_REQUEST_ID, id.parse().expect("a header"));
        }
        let mut response = router().oneshot(request).await.expect("an answer");
        let bytes = axum::body::to_bytes(std::mem::take(response.body_mut()), 100_000)
            .await
            .expect("a body");
        (response, String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn ids_are_taken_if_they_are_harmless() {
        let (response, body) = call(Method::GET, "/v1/id", Some("abc-1.2_3")).await;
        assert_eq!(
            (body.as_str(), &response.headers()[X_REQUEST_ID]),
            ("abc-1.2_3", &"abc-1.2_3".parse().expect("a header"))
        );
        for bad in ["a b", "", "a\"b", &"a".repeat(129)] {
            let (response, body) = call(Method::GET, "/v1/id", Some(bad)).await;
            assert_eq!(
                response.headers()[X_REQUEST_ID].to_str().expect("text"),
                body
            );
            assert_eq!(Uuid::parse_str(&body).expect("a UUID").get_version_num(), 7);
        }
    }

    #[tokio::test]
    async fn every_error_is_a_problem_document() {
        for (method, path, status, code) in [
            (Method::GET, "/v1/nothing", 404, "not_found"),
            (Method::GET, "/nothing", 404, "not_found"),
            (Method::GET, "/v1/pools/%ff", 404, "not_found"),
            (Method::DELETE, "/v1/pools/a", 405, "method_not_allowed"),
            (Method::POST, "/healthz", 405, "method_not_allowed"),
            (Method::PUT, "/v1/pools/a", 415, "media_type"),
            (Method::POST, "/v1/axum", 415, "media_type"),
            (Method::GET, "/v1/panics", 500, "internal"),
        ] {
            let (response, body) = call(method, path, Some("r1")).await;
            let document: Document = serde_json::from_str(&body).expect(path);
            assert_eq!(
                (
                    response.status().as_u16(),
                    document.status,
                    document.code.as_str()
                ),
                (status, status, code),
                "{path}"
            );
            assert_eq!(
                (
                    document.request_id.as_str(),
                    &response.headers()[X_REQUEST_ID]
                ),
                ("r1", &"r1".parse().expect("a header"))
            );
            assert_eq!(
                response.headers()[header::CONTENT_TYPE],
                "application/problem+json"
            );
            assert_eq!(
                response.headers().contains_key(header::ALLOW),
                status == 405,
                "{path}"
            );
            assert!(!body.contains("secret"), "{body}");
        }
        let (response, _) = call(Method::DELETE, "/v1/pools/a", None).await;
        assert_eq!(response.headers()[header::ALLOW], "GET,HEAD,PUT");
        let (response, body) = call(Method::HEAD, "/v1/panics", None).await;
        assert_eq!((response.status().as_u16(), body.as_str()), (500, ""));
    }

    #[tokio::test]
    async fn the_api_is_not_cached() {
        for (path, expected) in [
            ("/v1/pools/a", Some("no-store")),
            ("/v1/nothing", Some("no-store")),
            ("/v1/cached", Some("private")),
            ("/healthz", None),
        ] {
            let (response, _) = call(Method::GET, path, None).await;
            assert_eq!(
                response
                    .headers()
                    .get(header::CACHE_CONTROL)
                    .map(|value| value.to_str().expect("text")),
                expected,
                "{path}"
            );
        }
    }
}
