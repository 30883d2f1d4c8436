//! The bytes of a JSON body into a type.
//!
//! The parse goes straight into the type, since raw values ([`lessor_protocol::RawJson`]) must
//! come through byte for byte and claims are hot. Only a body that failed is looked at again, to
//! tell syntax (400) from values (422) and to find the JSON pointer.
//!
//! Invariant: no value nests deeper than [`MAX_DEPTH`], opaque ones included, which `serde_json`
//! itself would not check.

use lessor_protocol::ProblemCode;
use serde::de::DeserializeOwned;

use super::body_error;
use crate::problem::Problem;

/// How deep arrays and objects may nest. Parsers commonly stop at 128 (`serde_json` does); the
/// answers to a client wrap what it sent in up to 4 more levels, and must be readable too.
pub const MAX_DEPTH: usize = 120;

/// Parses a whole body.
///
/// # Errors
/// `malformed_json` for what is no JSON, `validation_failed` for JSON that does not fit `T`.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if too_deep(body) {
        let detail = format!("The body nests deeper than {MAX_DEPTH} levels");
        return Err(Problem::new(ProblemCode::MalformedJson, detail));
    }
    // serde reads a struct from an array too, field by field, which nobody means.
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    match serde_json::from_slice(body) {
        Ok(value) if !is_array => Ok(value),
        Ok(_) => Err(Problem::invalid("", "must be a JSON object, not an array")),
        Err(error) => Err(body_error::explain::<T>(body, &error)),
    }
}

/// Whether brackets outside strings nest too deep. Opaque values are skipped over without
/// recursion by the parser, so it would let any depth through, to a database and to clients that
/// have limits.
fn too_deep(body: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use lessor_protocol::{Claim, NewSessions, Reports};

    use super::*;

    #[test]
    fn raw_values_survive_byte_for_byte() {
        let raw = r#"{ "a":1e400,"a":123456789012345678901234567890, "z" : [ 1.0 ] }"#;
        let body = format!(r#"{{"sessions":[{{"spec":{raw}}},{{"spec":null}}]}}"#);
        let parsed: NewSessions = parse(body.as_bytes()).expect("a body");
        assert_eq!(parsed.sessions[0].spec.get(), raw);
        assert_eq!(parsed.sessions[1].spec.get(), "null");
        let report = |metadata: &str| {
            let body = format!(
                r#"{{"incarnation":1,"reports":[{{"session_id":"01890a5d-ac96-774b-bcce-b302099a8057","lease_epoch":1,
                "observed_generation":1,"state":"running"{metadata}}}]}}"#
            );
            parse::<Reports>(body.as_bytes())
                .expect("a body")
                .reports
                .remove(0)
                .platform_metadata
                .map(|m| m.map(|m| m.get().to_owned()))
        };
        assert_eq!(report(""), None);
        assert_eq!(report(r#","platform_metadata":null"#), Some(None));
        assert_eq!(
            report(&format!(r#","platform_metadata":{raw}"#)),
            Some(Some(raw.to_owned()))
        );
    }

    #[test]
    fn opaque_values_do_not_nest_for_ever() {
        let spec = |levels: usize| {
            format!(
                r#"{{"sessions":[{{"spec":{}{}}}]}}"#,
                "[".repeat(levels),
                "]".repeat(levels)
            )
        };
        assert!(parse::<NewSessions>(spec(MAX_DEPTH - 3).as_bytes()).is_ok());
        let refused = parse::<NewSessions>(spec(MAX_DEPTH - 2).as_bytes())
            .err()
            .map(|problem| problem.code);
        assert_eq!(refused, Some(ProblemCode::MalformedJson));
        assert!(!too_deep(
            format!(r#"{{"a":"\"{}"}}"#, "[".repeat(500)).as_bytes()
        ));
    }

    #[test]
    fn an_array_is_no_object() {
        let problem = parse::<Claim>(b" [1]").expect_err("an array");
        assert_eq!(problem.code, ProblemCode::ValidationFailed);
    }
}

#[cfg(test)]
mod fuzz {
    use lessor_protocol as protocol;
    use serde::Serialize;

    use super::*;

    fn judge<T: DeserializeOwned + Serialize>(input: &[u8]) {
        let readable = serde_json::from_slice::<serde_json::Value>(input).is_ok();
        match parse::<T>(input) {
            Ok(value) => {
                let again = serde_json::to_vec(&value).expect("it is written");
                assert!(!too_deep(input) && parse::<T>(&again).is_ok());
            }
            Err(problem) if problem.code == ProblemCode::MalformedJson => {
                // What anybody can read is not called malformed, unless it is too deep.
                assert!(!readable || too_deep(input), "{problem}");
            }
            Err(problem) => {
                assert_eq!(problem.code, ProblemCode::ValidationFailed);
                assert!(!problem.errors.is_empty() && !problem.detail.is_empty());
            }
        }
    }

    #[test]
    fn fuzz_bodies() {
        let examples: &[&[u8]] = &[
            br#"{"pool":"p","spec":{"command":["sleep"]},"labels":{"a":"b"},"priority":5,"not_before":"2026-01-01T00:00:00Z"}"#,
            br#"{"platform":"process","lease_ttl_seconds":30,"placement":"spread","max_attempts":5}"#,
            br#"{"incarnation":1,"reports":[{"session_id":"01890a5d-ac96-774b-bcce-b302099a8057","lease_epoch":1,"observed_generation":1,"state":"running","endpoint":null}]}"#,
            br#"{"incarnation":1,"max_sessions":1,"wait_seconds":20.5,"dropped":[]}"#,
            br#"{"pool":"p","capacity":1,"instance":{"id":"x"},"held":[]}"#,
            br#"{"filter":{"label":["a:b"],"state":"running,failed"},"action":"terminate"}"#,
            br#"{"incarnation":1,"resources":[{"platform_resource_id":"r","attempt":1}]}"#,
            br#"{"incarnation":1,"activity":[{"session_id":"01890a5d-ac96-774b-bcce-b302099a8057","idle_seconds":0.5}]}"#,
        ];
        let words = [
            "\"pool\"",
            "\"spec\"",
            "\"state\"",
            "\"label\"",
            "1.5",
            "true",
            "{}",
            "[]",
        ];
        lessor_fuzz::run(examples, &words, |input| {
            judge::<protocol::NewSession>(input);
            judge::<protocol::PoolSpec>(input);
            judge::<protocol::Reports>(input);
            judge::<protocol::Claim>(input);
            judge::<protocol::Register>(input);
            judge::<protocol::BulkRequest>(input);
            judge::<protocol::Inventory>(input);
            judge::<protocol::Heartbeat>(input);
        });
    }
}
