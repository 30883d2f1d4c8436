//! From a request with a key to what is kept, and from what was kept to a response.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Answer, Request};
use crate::access::Caller;
use crate::http::etag;

/// The request as it is remembered; none without a key.
pub fn request(
    caller: &Caller,
    path: impl Into<String>,
    key: Option<String>,
    body_sha256: [u8; 32],
) -> Option<Request> {
    key.map(|key| Request {
        caller: caller.key(),
        path: path.into(),
        key,
        body_sha256,
    })
}

/// The response, which says whether it was given before.
pub fn answered(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (
        status,
        [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )],
        answer.body,
    )
        .into_response();
    let headers = response.headers_mut();
    if let Some(location) = answer
        .location
        .and_then(|at| HeaderValue::from_str(&at).ok())
    {
        headers.insert(header::LOCATION, location);
    }
    if let Some(version) = answer.etag {
        headers.insert(header::ETAG, etag(version));
    }
    if answer.replayed {
        headers.insert(
            HeaderName::from_static("idempotency-replayed"),
            HeaderValue::from_static("true"),
        );
    }
    response
}
