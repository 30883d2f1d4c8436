//! JSON bodies as extractors, and as answers: the media type, the size, the time to send it.
//!
//! Invariant: no more than [`MAX_BODY_BYTES`] of a body are ever held, whether it announces its
//! length or not.
//!
//! What it does not do: judge values (rooms do, with [`super::Checks`]), NUL characters included.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use lessor_protocol::ProblemCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::client::SlowAfter;
use super::parse::parse;
use crate::problem::Problem;

/// The largest body that is read.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// How long a client may take to send a body. Without a limit, a body that trickles in holds a
/// connection, and what was read of it, for ever. The server may say otherwise, with a [`SlowAfter`].
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A JSON body, in and out. Refused with `media_type` (415), `body_too_large` (413),
/// `malformed_json` (400) or `validation_failed` (422).
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

/// A JSON body that may be left out: then it is the default, and needs no `Content-Type`.
#[derive(Clone, Copy, Debug, Default)]
pub struct OptionalJson<T>(pub T);

/// A JSON body with the SHA-256 of its bytes, for calls that compare a repeated request with the
/// first one. Refused as [`Json`] is.
#[derive(Clone, Copy, Debug)]
pub struct HashedJson<T> {
    /// The body.
    pub value: T,
    /// The digest of its bytes as they came.
    pub sha256: [u8; 32],
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        require_json(request.headers())?;
        parse(&read(request).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media_type = require_json(request.headers());
        let body = read(request).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        media_type?;
        parse(&body).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for HashedJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        require_json(request.headers())?;
        let body = read(request).await?;
        Ok(Self {
            value: parse(&body)?,
            sha256: Sha256::digest(&body).into(),
        })
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => {
                let json = HeaderValue::from_static("application/json");
                ([(header::CONTENT_TYPE, json)], body).into_response()
            }
            Err(error) => Problem::new(
                ProblemCode::Internal,
                format!("an answer is no JSON: {error}"),
            )
            .into_response(),
        }
    }
}

/// Parameters (`; charset=utf-8`) are allowed; other `+json` types mean something else and are not.
fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or_default());
    let essence = given
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if ["application/json", "application/merge-patch+json"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
    {
        return Ok(());
    }
    let detail = match given {
        None => "The body needs `Content-Type: application/json`".to_owned(),
        Some(_) => format!("The body must be application/json, not `{essence}`"),
    };
    Err(Problem::new(ProblemCode::MediaType, detail))
}

async fn read(request: Request) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("A body may have at most {MAX_BODY_BYTES} bytes");
        Problem::new(ProblemCode::BodyTooLarge, detail)
    };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let patience = request
        .extensions()
        .get::<SlowAfter>()
        .map_or(BODY_TIMEOUT, |slow| slow.0);
    let body: Limited<Body> = Limited::new(request.into_body(), MAX_BODY_BYTES);
    match tokio::time::timeout(patience, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(
            ProblemCode::MalformedJson,
            "The body ended before it was complete",
        )),
        Err(_) => {
            let detail = format!("The body did not come within {} s", patience.as_secs());
            Err(Problem::new(ProblemCode::MalformedJson, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use lessor_protocol::{Claim, CordonRequest};

    use super::*;

    fn request(content_type: Option<&str>, body: impl Into<Body>) -> Request {
        let mut request = Request::new(body.into());
        if let Some(value) = content_type {
            request.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_str(value).expect("a header"),
            );
        }
        request
    }

    async fn code<T: DeserializeOwned>(
        content_type: Option<&str>,
        body: impl Into<Body>,
    ) -> Option<ProblemCode> {
        Json::<T>::from_request(request(content_type, body), &())
            .await
            .err()
            .map(|problem| problem.code)
    }

    #[tokio::test]
    async fn media_types() {
        let body = r#"{"incarnation":1}"#;
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/merge-patch+json",
        ] {
            assert_eq!(code::<Claim>(Some(good), body).await, None, "{good}");
        }
        for bad in [
            None,
            Some("text/plain"),
            Some("application/problem+json"),
            Some("application/jsonx"),
            Some(""),
        ] {
            assert_eq!(
                code::<Claim>(bad, body).await,
                Some(ProblemCode::MediaType),
                "{bad:?}"
            );
        }
    }

    #[tokio::test]
    async fn too_large_with_and_without_a_length() {
        let large = vec![b' '; MAX_BODY_BYTES + 1];
        assert_eq!(
            code::<Claim>(Some("application/json"), large.clone()).await,
            Some(ProblemCode::BodyTooLarge)
        );
        let chunks = futures_util::stream::iter(
            large
                .chunks(65_536)
                .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
                .collect::<Vec<_>>(),
        );
        assert_eq!(
            code::<Claim>(Some("application/json"), Body::from_stream(chunks)).await,
            Some(ProblemCode::BodyTooLarge)
        );
        let mut announced = request(Some("application/json"), "{}");
        announced.headers_mut().insert(
            header::CONTENT_LENGTH,
            HeaderValue::from(MAX_BODY_BYTES + 1),
        );
        let refused = Json::<Claim>::from_request(announced, &())
            .await
            .err()
            .map(|problem| problem.code);
        assert_eq!(refused, Some(ProblemCode::BodyTooLarge));
        let mut fits = br#"{"incarnation":1}"#.to_vec();
        fits.resize(MAX_BODY_BYTES, b' ');
        assert_eq!(code::<Claim>(Some("application/json"), fits).await, None);
    }

    #[tokio::test]
    async fn an_optional_body_may_be_empty_but_not_anything() {
        let empty = OptionalJson::<CordonRequest>::from_request(request(None, ""), &()).await;
        assert!(empty.is_ok_and(|body| body.0.reason.is_none()));
        let full = OptionalJson::<CordonRequest>::from_request(
            request(Some("application/json"), r#"{"reason":"x"}"#),
            &(),
        )
        .await;
        assert!(full.is_ok_and(|body| body.0.reason.as_deref() == Some("x")));
        let bare =
            OptionalJson::<CordonRequest>::from_request(request(None, r#"{"reason":"x"}"#), &())
                .await;
        assert_eq!(
            bare.err().map(|problem| problem.code),
            Some(ProblemCode::MediaType)
        );
    }

    #[tokio::test]
    async fn the_digest_is_of_the_bytes() {
        let hashed = |body: &'static str| async move {
            HashedJson::<Claim>::from_request(request(Some("application/json"), body), &())
                .await
                .expect("a body")
                .sha256
        };
        assert_eq!(
            hashed(r#"{"incarnation":1}"#).await,
            hashed(r#"{"incarnation":1}"#).await
        );
        assert_ne!(
            hashed(r#"{"incarnation":1}"#).await,
            hashed(r#"{"incarnation":2}"#).await
        );
    }

    #[test]
    fn answers_are_json() {
        let response = Json(vec![1]).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    }
}
