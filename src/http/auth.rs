//! Who calls: the admin token, or nobody in particular where none is set.
//!
//! Invariants: a handler behind [`AdminToken::protect`] always finds a [`Caller`]; one that is not
//! behind it and asks for one fails, and does not take the request for anonymous. The comparison
//! takes the same time for every wrong token: digests are compared, so not even a length leaks.
//!
//! What it does not do: tell agents or people apart. Without a token the service listens on the
//! loopback interface only ([`crate::config`] sees to that).

use std::fmt;

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use lessor_protocol::{ActorType, ProblemCode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::Problem;

/// The token that allows everything; only its digest is kept.
#[derive(Clone, Default)]
pub struct AdminToken(Option<[u8; 32]>);

/// Who made a request, as events name them. An extractor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What kind of caller.
    pub actor_type: ActorType,
    /// Its name.
    pub name: String,
}

impl From<Caller> for lessor_protocol::Actor {
    fn from(caller: Caller) -> Self {
        Self {
            actor_type: caller.actor_type,
            name: caller.name,
        }
    }
}

impl AdminToken {
    /// The token to ask for; with none, everybody is let in as `anonymous`.
    #[must_use]
    pub fn new(token: Option<&SecretString>) -> Self {
        Self(token.map(|token| Sha256::digest(token.expose_secret()).into()))
    }

    /// Asks for the token before any route of this router. Paths that it does not have are 404 with
    /// and without a token: there is nothing behind them to protect.
    pub fn protect<S: Clone + Send + Sync + 'static>(&self, router: Router<S>) -> Router<S> {
        router.layer(from_fn_with_state(self.clone(), authenticate))
    }

    /// The caller of a request with these headers.
    ///
    /// # Errors
    /// `unauthenticated` when a token is set and the request does not carry it.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let Some(expected) = &self.0 else {
            return Ok(Caller {
                actor_type: ActorType::User,
                name: "anonymous".to_owned(),
            });
        };
        let Some(given) = bearer(headers) else {
            return Err(Problem::new(
                ProblemCode::Unauthenticated,
                "Send `Authorization: Bearer <token>`",
            ));
        };
        let digest: [u8; 32] = Sha256::digest(given).into();
        if bool::from(digest.ct_eq(expected)) {
            Ok(Caller {
                actor_type: ActorType::Token,
                name: "admin".to_owned(),
            })
        } else {
            Err(Problem::new(
                ProblemCode::Unauthenticated,
                "The token is not valid",
            ))
        }
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "AdminToken(set)"
        } else {
            "AdminToken(none)"
        })
    }
}

async fn authenticate(
    State(token): State<AdminToken>,
    mut request: Request,
    next: Next,
) -> Response {
    match token.caller(request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// The token of `Authorization: Bearer <token>`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::new(
                ProblemCode::Internal,
                "a route that needs a caller is not behind AdminToken::protect",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    async fn call(token: Option<&str>, path: &str, authorization: Option<&str>) -> Response {
        let token = AdminToken::new(token.map(SecretString::from).as_ref());
        let protected = Router::new().route(
            "/x",
            get(|caller: Caller| async move { format!("{}/{}", caller.actor_type, caller.name) }),
        );
        let router = Router::new()
            .nest("/v1", token.protect(protected))
            .route("/open", get(|_: Caller| async {}));
        let mut request = Request::get(path).body(Body::empty()).expect("a request");
        if let Some(value) = authorization {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, value.parse().expect("a header"));
        }
        router.oneshot(request).await.expect("an answer")
    }

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1000)
            .await
            .expect("a body");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[tokio::test]
    async fn the_token_is_asked_for() {
        for good in ["Bearer s3cret", "bearer  s3cret", "BEARER s3cret "] {
            assert_eq!(
                text(call(Some("s3cret"), "/v1/x", Some(good)).await).await,
                "token/admin",
                "{good}"
            );
        }
        for bad in [
            None,
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer s3cre"),
            Some("Bearer s3crets"),
            Some("Basic s3cret"),
            Some("s3cret"),
            Some(""),
        ] {
            let response = call(Some("s3cret"), "/v1/x", bad).await;
            assert_eq!(
                (
                    response.status().as_u16(),
                    &response.headers()[header::WWW_AUTHENTICATE]
                ),
                (401, &"Bearer".parse().expect("a header")),
                "{bad:?}"
            );
        }
        assert_eq!(
            call(Some("s3cret"), "/v1/nothing", None).await.status(),
            404
        );
    }

    #[tokio::test]
    async fn without_a_token_everybody_is_anonymous() {
        assert_eq!(
            text(call(None, "/v1/x", None).await).await,
            "user/anonymous"
        );
        assert_eq!(
            text(call(None, "/v1/x", Some("Bearer any")).await).await,
            "user/anonymous"
        );
    }

    #[tokio::test]
    async fn an_unprotected_route_has_no_caller() {
        assert_eq!(call(None, "/open", None).await.status(), 500);
    }

    #[test]
    fn the_token_is_not_shown() {
        let shown = format!("{:?}", AdminToken::new(Some(&SecretString::from("s3cret"))));
        assert_eq!(shown, "AdminToken(set)");
    }
}
