//! The `Idempotency-Key` header: the same key, the same effect, once.
//!
//! Taken bare, as most clients send it, or quoted, as draft-ietf-httpapi-idempotency-key-header
//! has it; both forms of a key are the same key.
//!
//! What it does not do: remember anything. Keys and answers are kept in the transaction that does
//! the work.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::problem::Problem;

const HEADER: &str = "Idempotency-Key";

/// The longest key.
const MAX_BYTES: usize = 255;

/// The key of a request, if it has one. Refused with `validation_failed`, pointer
/// `Idempotency-Key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        key(&parts.headers).map(Self)
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut lines = headers.get_all(HEADER).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    // Two keys would be two answers to the question whether this was done before.
    if lines.next().is_some() {
        return Err(Problem::invalid(HEADER, "may be given only once"));
    }
    let refused = || {
        Problem::invalid(
            HEADER,
            format!("must be 1 to {MAX_BYTES} visible ASCII characters"),
        )
    };
    let text = line.to_str().map_err(|_| refused())?.trim();
    let key = if text.starts_with('"') {
        unquoted(text).ok_or_else(refused)?
    } else {
        text.to_owned()
    };
    let fits =
        (1..=MAX_BYTES).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(Some(key)) } else { Err(refused()) }
}

/// The contents of a quoted string (RFC 8941, 3.3.3), in which `\` precedes quotes and itself.
fn unquoted(text: &str) -> Option<String> {
    let mut characters = text.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut key = String::new();
    while let Some(character) = characters.next() {
        match character {
            '"' => return None,
            '\\' => key.push(
                characters
                    .next()
                    .filter(|next| matches!(next, '"' | '\\'))?,
            ),
            other => key.push(other),
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(line: &[u8]) -> Result<Option<String>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(line).expect("a header"));
        key(&headers)
    }

    #[test]
    fn bare_and_quoted_keys_are_the_same() {
        assert_eq!(key(&HeaderMap::new()), Ok(None));
        for line in [
            "8e03978e-40d5-43dd-bc93-6894a57f9324",
            "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        ] {
            assert_eq!(
                read(line.as_bytes()),
                Ok(Some("8e03978e-40d5-43dd-bc93-6894a57f9324".to_owned()))
            );
        }
        assert_eq!(read(br#""a\"b\\""#), Ok(Some(r#"a"b\"#.to_owned())));
        assert_eq!(
            read("k".repeat(255).as_bytes()).map(|key| key.map(|key| key.len())),
            Ok(Some(255))
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "k".repeat(256);
        for line in [
            "",
            "\"\"",
            "\"",
            "\"a",
            "\"a\"b\"",
            r#""a\""#,
            r#""a\b""#,
            "a b",
            "\"a b\"",
            "\"a\";p=1",
            &long,
            "ü",
        ] {
            assert_eq!(
                read(line.as_bytes()).expect_err(line).errors[0].pointer,
                HEADER,
                "{line}"
            );
        }
        let mut twice = HeaderMap::new();
        twice.append(HEADER, HeaderValue::from_static("a"));
        twice.append(HEADER, HeaderValue::from_static("a"));
        assert!(key(&twice).is_err());
    }
}

#[cfg(test)]
mod fuzz {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn given(value: &[u8]) -> Option<Result<Option<String>, Problem>> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).ok()?);
        Some(key(&headers))
    }

    #[test]
    fn fuzz_idempotency_keys() {
        lessor_fuzz::run(
            &[b"k-1", b"\"quoted\"", b"\"a\\\"b\""],
            &["\"", "\\"],
            |input| {
                if let Some(Ok(Some(key))) = given(input) {
                    assert!((1..=MAX_BYTES).contains(&key.len()));
                    assert!(key.bytes().all(|byte| byte.is_ascii_graphic()));
                }
            },
        );
    }

    proptest! {
        #[test]
        fn bare_or_quoted_it_is_the_same_key(plain in "[!#-~][!-~]{0,80}") {
            let quoted = format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""));
            let read = |value: &str| given(value.as_bytes()).expect("a header").expect("a key");
            prop_assert_eq!(read(&plain), Some(plain.clone()));
            prop_assert_eq!(read(&quoted), Some(plain));
        }
    }
}
