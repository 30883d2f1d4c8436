//! What is wrong with a body that could not be parsed, and where.
//!
//! The parser's own word is not enough: it calls a number that overflows a field a syntax error,
//! and names no path. So a refused body is read once more: as JSON of any shape, and if it is that,
//! through `serde_path_to_error`. This happens to wrong requests only.
//!
//! Invariant: 400 is for what is no JSON at all; JSON that does not fit is 422 with a pointer.

use lessor_protocol::ProblemCode;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_path_to_error::{Path, Segment};

use crate::problem::Problem;

/// The problem of a body that did not parse as `T` with `error`.
pub(super) fn explain<T: DeserializeOwned>(body: &[u8], error: &serde_json::Error) -> Problem {
    if body.is_empty() {
        return Problem::new(ProblemCode::MalformedJson, "The body is empty");
    }
    // Skipping over a string does not look at its bytes.
    if std::str::from_utf8(body).is_err() {
        return Problem::new(ProblemCode::MalformedJson, "The body is not UTF-8");
    }
    if let Err(syntax) = serde_json::from_slice::<IgnoredAny>(body) {
        return Problem::new(
            ProblemCode::MalformedJson,
            format!("The body is not JSON: {syntax}"),
        );
    }
    let mut parser = serde_json::Deserializer::from_slice(body);
    let (pointer, message) = match serde_path_to_error::deserialize::<_, T>(&mut parser) {
        Ok(_) => (String::new(), error.to_string()),
        Err(found) => (pointer(found.path()), found.inner().to_string()),
    };
    let message = without_position(&message);
    Problem::invalid(with_field(pointer, message), message)
}

/// A JSON pointer (RFC 6901). Enum steps are left out: they name a variant, not a place.
fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                pointer.push('/');
                pointer.push_str(&index.to_string());
            }
            Segment::Map { key } => {
                pointer.push('/');
                pointer.push_str(&pointer_token(key));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// A key as one step of a JSON pointer.
pub(super) fn pointer_token(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A field that is missing or comes twice is named by its own pointer, as one that is wrong is: the
/// parser's path ends at the object that it is missing from.
fn with_field(pointer: String, message: &str) -> String {
    let rest = message
        .strip_prefix("missing field `")
        .or_else(|| message.strip_prefix("duplicate field `"));
    match rest.and_then(|rest| rest.split('`').next()) {
        Some(name) => format!("{pointer}/{}", pointer_token(name)),
        None => pointer,
    }
}

/// The message without its line and column: the pointer says it better, and they are zero where
/// a value was refused after it was read.
fn without_position(message: &str) -> &str {
    let Some((before, position)) = message.rsplit_once(" at line ") else {
        return message;
    };
    let is_position = position
        .split_once(" column ")
        .is_some_and(|(line, column)| {
            line.bytes()
                .chain(column.bytes())
                .all(|byte| byte.is_ascii_digit())
        });
    if is_position { before } else { message }
}

#[cfg(test)]
mod tests {
    use lessor_protocol::{Claim, NewSession, NewSessions, Register, Reports};

    use super::*;
    use crate::http::parse::parse;

    fn refused<T: DeserializeOwned>(body: impl AsRef<[u8]>) -> (ProblemCode, String, String) {
        let problem = parse::<T>(body.as_ref()).err().expect("a refusal");
        let (pointer, message) = problem
            .errors
            .first()
            .map(|e| (e.pointer.clone(), e.message.clone()))
            .unwrap_or_default();
        (problem.code, pointer, message)
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let bodies: [&[u8]; 12] = [
            b"",
            b" ",
            b"{",
            b"{\"incarnation\":",
            b"{\"incarnation\":1}}",
            b"{'a':1}",
            b"{\"incarnation\":1,}",
            b"nul",
            b"{\"incarnation\":01}",
            b"\xef\xbb\xbf{}",
            b"{\"incarnation\":1,\"a\":\"\xff\"}",
            b"{\"incarnation\":NaN}",
        ];
        for body in bodies {
            assert_eq!(
                refused::<Claim>(body).0,
                ProblemCode::MalformedJson,
                "{}",
                String::from_utf8_lossy(body)
            );
        }
        assert_eq!(
            refused::<NewSession>(b"{\"spec\":\"\xff\"}").0,
            ProblemCode::MalformedJson
        );
        assert_eq!(
            refused::<Claim>("[".repeat(100_000)).0,
            ProblemCode::MalformedJson
        );
    }

    #[test]
    fn what_does_not_fit_is_pointed_at() {
        let held = r#"{"session_id":"01890a5d-ac96-774b-bcce-b302099a8057","lease_epoch":1}"#;
        let cases: Vec<(&str, String)> = vec![
            ("/incarnation", r#"{}"#.into()),
            ("/incarnation", r#"{"incarnation":"1"}"#.into()),
            ("/incarnation", r#"{"incarnation":1.5}"#.into()),
            ("/incarnation", r#"{"incarnation":1e400}"#.into()),
            (
                "/incarnation",
                r#"{"incarnation":123456789012345678901234567890}"#.into(),
            ),
            (
                "/incarnation",
                r#"{"incarnation":1,"incarnation":2}"#.into(),
            ),
            (
                "/wait_seconds",
                r#"{"incarnation":1,"wait_seconds":1e999}"#.into(),
            ),
            (
                "/nonsense",
                r#"{"incarnation":1,"nonsense":{"a":[1e400]}}"#.into(),
            ),
            ("/a~1b~0c", r#"{"incarnation":1,"a/b~c":1}"#.into()),
            (
                "/dropped/1/lease_epoch",
                format!(
                    r#"{{"incarnation":1,"dropped":[{held},{{"session_id":"01890a5d-ac96-774b-bcce-b302099a8057"}}]}}"#
                ),
            ),
            (
                "/dropped/0/session_id",
                r#"{"incarnation":1,"dropped":[{"session_id":"x","lease_epoch":1}]}"#.into(),
            ),
            (
                "/dropped/1/more",
                format!(
                    r#"{{"incarnation":1,"dropped":[{held},{{"session_id":"01890a5d-ac96-774b-bcce-b302099a8057","lease_epoch":1,"more":1}}]}}"#
                ),
            ),
            ("", "null".into()),
            ("", "\"x\"".into()),
            ("", "17".into()),
        ];
        for (pointer, body) in cases {
            let (code, found, message) = refused::<Claim>(&body);
            assert_eq!(
                (code, found.as_str()),
                (ProblemCode::ValidationFailed, pointer),
                "{body}: {message}"
            );
            assert!(!message.contains(" at line "), "{message}");
        }
    }

    #[test]
    fn paths_go_through_raw_values_words_and_nullable_fields() {
        let report = |rest: &str| {
            format!(
                r#"{{"incarnation":1,"reports":[{{"session_id":"01890a5d-ac96-774b-bcce-b302099a8057","lease_epoch":1,
                "observed_generation":1,"platform_metadata":{{"n":1e400}},{rest}}}]}}"#
            )
        };
        assert_eq!(
            refused::<Reports>(report(r#""state":"gone""#)).1,
            "/reports/0/state"
        );
        assert_eq!(
            refused::<Reports>(report(r#""state":1"#)).1,
            "/reports/0/state"
        );
        assert_eq!(
            refused::<Reports>(report(
                r#""state":"running","endpoint":{"protocol":"vnc","port":70000}"#
            ))
            .1,
            "/reports/0/endpoint/port"
        );
        assert_eq!(
            refused::<Reports>(report(r#""state":"running","failure":{}"#)).1,
            "/reports/0/failure/reason"
        );
        let batch = r#"{"sessions":[{"spec":{"a":1e400}},{"spec":{"a":1e400},"pool":7}]}"#;
        assert_eq!(refused::<NewSessions>(batch).1, "/sessions/1/pool");
        assert_eq!(
            refused::<NewSessions>(r#"{"sessions":[{"pool":"p"}]}"#).1,
            "/sessions/0/spec"
        );
        assert_eq!(
            refused::<Register>(r#"{"pool":"p","capacity":1,"labels":{"a":1}}"#).1,
            "/labels/a"
        );
        assert_eq!(
            refused::<Register>(r#"{"pool":"p","capacity":99999999999}"#).1,
            "/capacity"
        );
        assert_eq!(
            refused::<Register>("{\"pool\":\"\\ud800\",\"capacity\":1}").1,
            "/pool"
        );
    }

    #[test]
    fn positions_are_cut_and_nothing_else() {
        assert_eq!(without_position("x at line 1 column 20"), "x");
        assert_eq!(
            without_position("met at line 1 of it"),
            "met at line 1 of it"
        );
    }
}
