//! The bodies of problems: written once, for the service's own errors and for axum's.
//!
//! A [`Problem`] comes in the response's extensions. What axum answers by itself (no such path, no
//! such method, a panic caught on the way) has a status and at most a line of text; it gets the
//! listed code of its status.
//!
//! Invariant: a body that is JSON already is left alone, so a handler may answer an error of its
//! own making (`/readyz`).

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use lessor_protocol::ProblemCode;

use crate::problem::Problem;

/// The media type of problem documents (RFC 9457, 6.1).
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// The response with a problem document as its body, if it is an error.
pub(super) fn render(response: Response, request_id: &str) -> Response {
    let (mut parts, body) = response.into_parts();
    let problem = match parts.extensions.get::<Problem>() {
        Some(problem) => problem.clone(),
        None => match bare(&parts.status, parts.headers.get(header::CONTENT_TYPE)) {
            Some(problem) => problem,
            None => return Response::from_parts(parts, body),
        },
    };
    // Our own types cannot fail to serialise; without a body the status still says most of it.
    let document = serde_json::to_vec(&problem.document(request_id)).unwrap_or_default();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts
        .headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    parts.extensions.insert(problem);
    Response::from_parts(parts, Body::from(document))
}

/// The problem of an error response that carries none.
fn bare(status: &StatusCode, content_type: Option<&HeaderValue>) -> Option<Problem> {
    let is_json = content_type
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("json"));
    if is_json {
        return None;
    }
    let (code, detail) = match *status {
        StatusCode::BAD_REQUEST => (ProblemCode::MalformedJson, "The request could not be read"),
        StatusCode::NOT_FOUND => (ProblemCode::NotFound, "There is nothing at this path"),
        StatusCode::METHOD_NOT_ALLOWED => (
            ProblemCode::MethodNotAllowed,
            "`Allow` lists the methods of this path",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => (ProblemCode::BodyTooLarge, "The body is too large"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            (ProblemCode::MediaType, "The media type is not understood")
        }
        StatusCode::UNPROCESSABLE_ENTITY => (
            ProblemCode::ValidationFailed,
            "The request could not be understood",
        ),
        StatusCode::INTERNAL_SERVER_ERROR => {
            (ProblemCode::Internal, "a response without a problem")
        }
        _ => return None,
    };
    Some(Problem::new(code, detail))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    use super::*;

    async fn rendered(response: impl IntoResponse) -> (Response, String) {
        let mut response = render(response.into_response(), "r1");
        let body = std::mem::take(response.body_mut());
        let bytes = body.collect().await.expect("a body").to_bytes();
        (response, String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn problems_become_documents() {
        let (response, body) = rendered(Problem::invalid("/capacity", "must be from 0 to 5")).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        let document: Value = serde_json::from_str(&body).expect("JSON");
        let expected = serde_json::json!({
            "type": "urn:lessor:problem:validation_failed", "title": "A value is not allowed", "status": 422,
            "code": "validation_failed", "detail": "/capacity: must be from 0 to 5", "request_id": "r1",
            "errors": [{"pointer": "/capacity", "message": "must be from 0 to 5"}],
        });
        assert_eq!(document, expected);
    }

    #[tokio::test]
    async fn bare_errors_get_the_code_of_their_status() {
        for (status, code) in [
            (400, "malformed_json"),
            (404, "not_found"),
            (405, "method_not_allowed"),
            (413, "body_too_large"),
            (415, "media_type"),
            (422, "validation_failed"),
            (500, "internal"),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let (response, body) = rendered((status, "some text")).await;
            assert_eq!(response.status(), status);
            assert!(body.contains(&format!("\"code\":\"{code}\"")), "{body}");
        }
    }

    #[tokio::test]
    async fn the_rest_is_left_alone() {
        let (_, body) = rendered((StatusCode::SERVICE_UNAVAILABLE, "not ready")).await;
        assert_eq!(body, "not ready");
        let (_, body) = rendered((StatusCode::NOT_FOUND, axum::Json(1))).await;
        assert_eq!(body, "1");
        let (response, _) = rendered(StatusCode::NOT_MODIFIED).await;
        assert!(response.headers().get(header::CONTENT_TYPE).is_none());
    }
}
