//! Versions as entity tags: `ETag`, `If-Match`, `If-None-Match` (RFC 9110, 8.8 and 13.1).
//!
//! The tag of a resource is its `version` in quotes. `If-Match` compares strongly, so a weak tag
//! never matches it; `If-None-Match` compares weakly.
//!
//! What it does not do: hold anything still. A writer passes the version on into its guarded
//! UPDATE; a check before the write would be a race.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

/// The entity tag of a version.
#[must_use]
pub fn etag(version: i64) -> HeaderValue {
    // Digits and quotes are always a valid header.
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// The answer to a GET whose `If-None-Match` names the present version.
#[must_use]
pub fn not_modified(version: i64) -> Response {
    (StatusCode::NOT_MODIFIED, [(header::ETAG, etag(version))]).into_response()
}

/// What a request says about the version it expects. Without the headers, anything is fine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    List(Vec<Tag>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    opaque: String,
}

impl Preconditions {
    /// Whether `If-Match` allows a change of the resource, which has this version or (`None`) does
    /// not exist. If not, answer `version_mismatch`.
    #[must_use]
    pub fn if_match_ok(&self, version: Option<i64>) -> bool {
        match (&self.if_match, version) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(tags), Some(version)) => tags.contain(version, |tag| !tag.weak),
        }
    }

    /// Whether `If-None-Match` allows a change of the resource; `*` means "only if there is none
    /// yet". If not, answer `version_mismatch`.
    #[must_use]
    pub fn if_none_match_ok(&self, version: Option<i64>) -> bool {
        version.is_none_or(|version| !self.not_modified(version))
    }

    /// Whether a GET of this version is to be answered with 304.
    #[must_use]
    pub fn not_modified(&self, version: i64) -> bool {
        self.if_none_match
            .as_ref()
            .is_some_and(|tags| tags.contain(version, |_| true))
    }

    /// Whether the request has an `If-Match` at all.
    #[must_use]
    pub fn has_if_match(&self) -> bool {
        self.if_match.is_some()
    }

    fn from_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            if_match: tags(headers, &header::IF_MATCH, "If-Match")?,
            if_none_match: tags(headers, &header::IF_NONE_MATCH, "If-None-Match")?,
        })
    }
}

impl Tags {
    fn contain(&self, version: i64, comparable: impl Fn(&Tag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => {
                let version = version.to_string();
                tags.iter()
                    .any(|tag| comparable(tag) && tag.opaque == version)
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Preconditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::from_headers(&parts.headers)
    }
}

/// The tags of a header, which may come in several lines.
fn tags(headers: &HeaderMap, name: &HeaderName, pointer: &str) -> Result<Option<Tags>, Problem> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let mut list = Vec::new();
    let mut any = false;
    for line in headers.get_all(name) {
        let line = line.to_str().unwrap_or("\u{fffd}").trim();
        if line == "*" {
            any = true;
        } else if let Some(found) = tag_list(line) {
            list.extend(found);
        } else {
            return Err(malformed(pointer));
        }
    }
    match (any, list.is_empty()) {
        (true, true) => Ok(Some(Tags::Any)),
        (false, false) => Ok(Some(Tags::List(list))),
        _ => Err(malformed(pointer)),
    }
}

fn malformed(pointer: &str) -> Problem {
    Problem::invalid(
        pointer,
        "must be `*` or entity tags in quotes, such as \"7\"",
    )
}

/// `#entity-tag`: tags between commas, empty places allowed. A comma may be part of a tag, so the
/// quotes are followed and the line is not split.
fn tag_list(line: &str) -> Option<Vec<Tag>> {
    let mut list = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(list);
        }
        let weak = rest.starts_with("W/");
        let quoted = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
        let (opaque, after) = quoted.split_once('"')?;
        if !opaque.bytes().all(|byte| byte > b' ' && byte != 0x7f) {
            return None;
        }
        list.push(Tag {
            weak,
            opaque: opaque.to_owned(),
        });
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: HeaderName, lines: &[&str]) -> Result<Preconditions, Problem> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_str(line).expect("a header"));
        }
        Preconditions::from_headers(&headers)
    }

    #[test]
    fn if_match_compares_strongly() {
        for (lines, seven, eight, absent) in [
            (vec![], true, true, true),
            (vec!["*"], true, true, false),
            (vec!["\"7\""], true, false, false),
            (vec!["W/\"7\""], false, false, false),
            (vec!["\"1\" , \"8\",,\"7\","], true, true, false),
            (vec!["\"1\"", "\"8\""], false, true, false),
            (vec!["\"1,7\""], false, false, false),
        ] {
            let preconditions = read(header::IF_MATCH, &lines).expect("a header");
            let found = [Some(7), Some(8), None].map(|version| preconditions.if_match_ok(version));
            assert_eq!(found, [seven, eight, absent], "{lines:?}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for (lines, modified) in [
            (vec![], false),
            (vec!["*"], true),
            (vec!["W/\"7\""], true),
            (vec!["\"7\", \"8\""], true),
            (vec!["\"8\""], false),
        ] {
            let preconditions = read(header::IF_NONE_MATCH, &lines).expect("a header");
            assert_eq!(preconditions.not_modified(7), modified, "{lines:?}");
            assert_eq!(
                preconditions.if_none_match_ok(Some(7)),
                !modified,
                "{lines:?}"
            );
            assert!(preconditions.if_none_match_ok(None));
        }
    }

    #[test]
    fn malformed_headers_are_named() {
        for line in [
            "7",
            "\"7",
            "\"7\" \"8\"",
            "W/7",
            "w/\"7\"",
            "",
            ",",
            "*, \"7\"",
            "\"a b\"",
            "\"7\"x",
        ] {
            let problem = read(header::IF_MATCH, &[line]).expect_err(line);
            assert_eq!(
                (
                    problem.errors[0].pointer.as_str(),
                    problem.status().as_u16()
                ),
                ("If-Match", 422),
                "{line}"
            );
        }
        assert_eq!(
            read(header::IF_NONE_MATCH, &["7"]).expect_err("7").errors[0].pointer,
            "If-None-Match"
        );
        assert!(read(header::IF_MATCH, &["*", "\"7\""]).is_err());
    }

    #[test]
    fn a_version_is_a_strong_tag() {
        assert_eq!(etag(7), "\"7\"");
        let response = not_modified(7);
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()[header::ETAG]
            ),
            (304, &etag(7))
        );
    }
}

#[cfg(test)]
mod fuzz {
    use proptest::prelude::*;

    use super::*;

    fn given(name: HeaderName, value: &[u8]) -> Option<Result<Preconditions, Problem>> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value).ok()?);
        Some(Preconditions::from_headers(&headers))
    }

    #[test]
    fn fuzz_entity_tags() {
        let examples: &[&[u8]] = &[b"\"7\"", b"W/\"7\", \"8\"", b"*", b"\"a,b\" ,, \"c\""];
        lessor_fuzz::run(examples, &["W/\"", "\"7\"", ","], |input| {
            if let Some(Ok(given)) = given(header::IF_MATCH, input) {
                assert!(given.has_if_match() && !given.if_match_ok(None));
                // Nothing but `*` and the very number matches.
                let names_it = input.windows(3).any(|part| part == b"\"7\"");
                let any = input.trim_ascii() == b"*";
                assert!(!given.if_match_ok(Some(7)) || names_it || any);
            }
            if let Some(Ok(given)) = given(header::IF_NONE_MATCH, input) {
                assert_eq!(given.if_none_match_ok(Some(7)), !given.not_modified(7));
                assert!(given.if_none_match_ok(None));
            }
        });
    }

    proptest! {
        #[test]
        fn a_version_matches_its_own_tag_and_no_other(version in any::<i64>(), other in any::<i64>()) {
            let tag = etag(version);
            let strong = given(header::IF_MATCH, tag.as_bytes()).expect("a header").expect("tags");
            prop_assert!(strong.if_match_ok(Some(version)));
            prop_assert_eq!(strong.if_match_ok(Some(other)), other == version);
            let weak = [b"W/", tag.as_bytes()].concat();
            let weak_match = given(header::IF_MATCH, &weak).expect("a header").expect("tags");
            prop_assert!(!weak_match.if_match_ok(Some(version)));
            let cached = given(header::IF_NONE_MATCH, &weak).expect("a header").expect("tags");
            prop_assert!(cached.not_modified(version));
            prop_assert_eq!(cached.not_modified(other), other == version);
        }

        #[test]
        fn one_of_many_tags_is_enough(versions in proptest::collection::vec(any::<i64>(), 1..9)) {
            let list: Vec<String> = versions.iter().map(|version| format!("\"{version}\"")).collect();
            let given = given(header::IF_MATCH, list.join(", ").as_bytes()).expect("a header").expect("tags");
            prop_assert!(versions.iter().all(|version| given.if_match_ok(Some(*version))));
        }
    }
}
