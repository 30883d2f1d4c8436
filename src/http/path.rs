//! Path parameters, with problems in place of axum's plain texts.
//!
//! A parameter that cannot be decoded or is not of its type names nothing that could exist, so it
//! is `not_found` and not a complaint. The same goes for NUL, which no stored name contains and
//! PostgreSQL refuses.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use lessor_protocol::ProblemCode;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The path's parameters: one value, a tuple, or a struct. Refused with `not_found` (404).
#[derive(Clone, Copy, Debug, Default)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let not_found = || Problem::new(ProblemCode::NotFound, "There is nothing at this path");
        if parts.uri.path().contains("%00") {
            return Err(not_found());
        }
        if let Some(Resolved(values)) = parts.extensions.get() {
            return Self::of(values).ok_or_else(not_found);
        }
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            // A route and its handler that do not fit together are our mistake, not the client's.
            Err(error) if error.status().is_server_error() => {
                Err(Problem::new(ProblemCode::Internal, error.body_text()))
            }
            Err(_) => Err(not_found()),
        }
    }
}

/// The path's parameters in their order, as somebody in front of the handler has found out what they are
/// to be taken for: [`Path`] then reads these. Handlers take each as text.
#[derive(Clone, Debug)]
pub struct Resolved(pub Vec<String>);

impl<T: DeserializeOwned> Path<T> {
    fn of(values: &[String]) -> Option<Self> {
        use serde::de::value::{Error, SeqDeserializer, StrDeserializer};
        let read = match values {
            [one] => T::deserialize(StrDeserializer::<Error>::new(one)),
            all => T::deserialize(SeqDeserializer::<_, Error>::new(
                all.iter().map(String::as_str),
            )),
        };
        read.ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use axum::routing::get;
    use tower::ServiceExt as _;
    use uuid::Uuid;

    use super::*;

    async fn status(path: &str) -> u16 {
        let router = Router::new()
            .route(
                "/names/{name}",
                get(|Path(name): Path<String>| async move { name }),
            )
            .route(
                "/ids/{id}",
                get(|Path(id): Path<Uuid>| async move { id.to_string() }),
            )
            .route(
                "/pairs/{a}/{b}",
                get(|Path((a, b)): Path<(String, i64)>| async move { format!("{a}{b}") }),
            )
            .route(
                "/wrong/{a}/{b}",
                get(|Path(a): Path<String>| async move { a }),
            );
        let request = Request::get(path).body(Body::empty()).expect("a request");
        router
            .oneshot(request)
            .await
            .expect("an answer")
            .status()
            .as_u16()
    }

    #[test]
    fn what_was_resolved_is_read() {
        let values = ["a".to_owned(), "b".to_owned()];
        assert_eq!(Path::<String>::of(&values[..1]).expect("one").0, "a");
        let pair = Path::<(String, String)>::of(&values).expect("two").0;
        assert_eq!(pair, ("a".to_owned(), "b".to_owned()));
        assert!(Path::<String>::of(&values).is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_found() {
        assert_eq!(status("/names/a%20b").await, 200);
        assert_eq!(status("/pairs/a/7").await, 200);
        for path in ["/names/%ff", "/names/a%00", "/ids/7", "/pairs/a/b"] {
            assert_eq!(status(path).await, 404, "{path}");
        }
        assert_eq!(status("/wrong/a/b").await, 500);
    }
}
