//! Headers that keep browsers from doing with an answer what it is not for.
//!
//! Every answer: its type is not to be guessed. Pages: nothing from elsewhere, no frame around them, no
//! word of them to other sites. `style-src` allows inline styles, which the page of the document has.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Which pages of other sites share a group of windows with this one.
pub const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const PAGES: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (OPENER_POLICY, "same-origin"),
];

/// The policy of a page whose scripts may also call one other origin. None if that is no header.
#[must_use]
pub fn policy_with(origin: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("{POLICY}; connect-src 'self' {origin}")).ok()
}

/// Adds them to the headers of an answer; what a handler has said stays.
pub(super) fn secure(headers: &mut HeaderMap) {
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    let is_page = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page {
        for (name, value) in PAGES {
            headers
                .entry(name)
                .or_insert(HeaderValue::from_static(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_to_themselves() {
        let mut page = HeaderMap::new();
        page.insert(
            header::CONTENT_TYPE,
            "text/html; charset=utf-8".parse().expect("a header"),
        );
        page.insert(
            header::X_FRAME_OPTIONS,
            "SAMEORIGIN".parse().expect("a header"),
        );
        secure(&mut page);
        assert_eq!(page[header::X_FRAME_OPTIONS], "SAMEORIGIN");
        assert_eq!(page[header::REFERRER_POLICY], "no-referrer");
        assert!(page.contains_key(header::CONTENT_SECURITY_POLICY));
        let mut json = HeaderMap::new();
        json.insert(
            header::CONTENT_TYPE,
            "application/json".parse().expect("a header"),
        );
        secure(&mut json);
        assert_eq!(json[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(json.len(), 2);
    }
}
