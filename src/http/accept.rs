//! Which form of an answer a client prefers: JSON, or a table for people at a terminal.
//!
//! JSON is the answer to anything unclear. Only a client that prefers `text/plain` gets text: by a
//! higher weight, or by naming it where it names JSON at most with a wildcard. curl's `*/*` and
//! what browsers send are neither.
//!
//! What it does not do: answer 406. A client that accepts neither gets JSON, which it can ignore.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

/// The form of an answer, as an extractor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    #[default]
    Json,
    /// Text, aligned for a terminal.
    Text,
}

impl Format {
    /// The form that these request headers prefer.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        if wants_text(headers) {
            Self::Text
        } else {
            Self::Json
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Format {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

/// Whether these request headers prefer `text/plain` to `application/json`.
#[must_use]
pub fn wants_text(headers: &HeaderMap) -> bool {
    let ranges: Vec<Range> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(Range::parse)
        .collect();
    let text = preference(&ranges, "text", "plain");
    text.weight > 0 && text > preference(&ranges, "application", "json")
}

/// How much a media type is wanted; compared by weight, then by how exactly it was named.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    weight: u32,
    exactness: u8,
}

/// One media range, such as `text/*;q=0.5`.
struct Range {
    kind: String,
    subtype: String,
    weight: u32,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(Some(1.0), |weight| weight.parse::<f64>().ok())?;
        // Weights have at most three decimals; whole thousandths can be compared.
        let weight = (weight.clamp(0.0, 1.0) * 1000.0).round() as u32;
        Some(Self {
            kind: kind.to_ascii_lowercase(),
            subtype: subtype.to_ascii_lowercase(),
            weight,
        })
    }

    fn exactness(&self, kind: &str, subtype: &str) -> Option<u8> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("*", "*") => Some(1),
            (k, "*") if k == kind => Some(2),
            (k, s) if k == kind && s == subtype => Some(3),
            _ => None,
        }
    }
}

/// The weight of the range that names the type most exactly (RFC 9110, 12.5.1).
fn preference(ranges: &[Range], kind: &str, subtype: &str) -> Preference {
    ranges
        .iter()
        .filter_map(|range| Some((range.exactness(kind, subtype)?, range.weight)))
        .max()
        .map_or_else(Preference::default, |(exactness, weight)| Preference {
            weight,
            exactness,
        })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_who_prefers_text_gets_it() {
        for (accept, text) in [
            ("", false),
            ("*/*", false),
            ("application/json", false),
            ("text/plain", true),
            ("Text/Plain; charset=utf-8", true),
            ("text/*", true),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
                false,
            ),
            ("application/json, text/plain, */*", false),
            ("text/plain, */*", true),
            ("text/plain;q=0.5, application/json", false),
            ("text/plain, application/json;q=0.9", true),
            ("application/json;q=0.2, text/*;q=0.3", true),
            ("text/plain;q=0", false),
            ("text/plain;q=0, application/json;q=0", false),
            ("*/*;q=0.1, text/plain;q=0", false),
            ("text/plain;q=NaN", false),
            ("nonsense", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::ACCEPT,
                HeaderValue::from_str(accept).expect("a header"),
            );
            assert_eq!(wants_text(&headers), text, "{accept}");
        }
        assert!(!wants_text(&HeaderMap::new()));
    }

    #[test]
    fn lines_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(
            header::ACCEPT,
            HeaderValue::from_static("application/json;q=0.1"),
        );
        headers.append(header::ACCEPT, HeaderValue::from_static("text/plain"));
        assert_eq!(Format::of(&headers), Format::Text);
    }
}

#[cfg(test)]
mod fuzz {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn fuzz_accept() {
        let examples: &[&[u8]] = &[b"text/plain", b"text/*;q=0.5, application/json;q=0.4, */*"];
        lessor_fuzz::run(examples, &["q=", "NaN", "*/*", ";", ","], |input| {
            let Ok(value) = HeaderValue::from_bytes(input) else {
                return;
            };
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value);
            // Text is for those alone who named it, or a wildcard above JSON.
            let text = String::from_utf8_lossy(input).to_ascii_lowercase();
            assert!(!wants_text(&headers) || text.contains("text/") || text.contains("*/*"));
        });
    }
}
