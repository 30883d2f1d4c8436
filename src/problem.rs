//! The service's errors as RFC 9457 problems: a listed code, a sentence for people, and where it
//! helps the parts of the request that were wrong.
//!
//! What it does: turns a [`Problem`] into a response that has its status and headers and carries
//! the problem itself in its extensions. The JSON body is written by [`crate::http::apply`], which
//! alone knows the request id; so there is one place that renders every error, axum's own
//! included.
//!
//! Invariant: what is said about a 500 is logged and never sent; the detail of `internal` may hold
//! SQL, paths or addresses.
//!
//! What it does not do: convert errors of other layers. Each room matches its own error enum onto
//! codes, with no `_` arm, so that a new kind of error cannot become a 500 (or a 404) by accident.

use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lessor_protocol::{FieldError, Problem as Document, ProblemCode};

/// What clients are told about an `internal` problem, whatever its detail says.
const INTERNAL_DETAIL: &str = "The service failed. Its log says why, under this request_id.";

/// The most [`FieldError`]s that one problem carries: a batch of 1,000 wrong items needs no more
/// to be understood.
pub const MAX_FIELD_ERRORS: usize = 100;

/// The most bytes of a pointer, and of a message.
const MAX_FIELD_ERROR_BYTES: usize = 512;

/// An error with one of the listed codes, on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What programs branch on; it decides the status.
    pub code: ProblemCode,
    /// What went wrong this time, for people. Of an `internal` problem it is only logged.
    pub detail: String,
    /// Which parts of the request were wrong.
    pub errors: Vec<FieldError>,
    /// When it makes sense to try again.
    pub retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A problem of this code. With the codes that are about load and stopping, `Retry-After` is
    /// 1 s unless [`Problem::retry_after`] says otherwise.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: default_retry(code),
        }
    }

    /// A `validation_failed` about one part of the request: a JSON pointer into the body, or the
    /// name of a parameter or header.
    pub fn invalid(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldError {
            pointer: pointer.into(),
            message: message.into(),
        }])
    }

    /// A `validation_failed` about several parts of the request; its detail names the first.
    #[must_use]
    pub fn invalid_fields(mut errors: Vec<FieldError>) -> Self {
        errors.iter_mut().for_each(clip);
        let detail = match errors.split_first() {
            None => "A value is not allowed".to_owned(),
            Some((first, rest)) => {
                let place = if first.pointer.is_empty() {
                    "The body"
                } else {
                    &first.pointer
                };
                let more = if rest.is_empty() {
                    String::new()
                } else {
                    format!(" (and {} more)", rest.len())
                };
                format!("{place}: {}{more}", first.message)
            }
        };
        Self::new(ProblemCode::ValidationFailed, detail).with_errors(errors)
    }

    /// The same problem with these parts of the request, at most [`MAX_FIELD_ERRORS`] of them.
    #[must_use]
    pub fn with_errors(mut self, mut errors: Vec<FieldError>) -> Self {
        errors.truncate(MAX_FIELD_ERRORS);
        errors.iter_mut().for_each(clip);
        self.errors = errors;
        self
    }

    /// The same problem with a `Retry-After` of this many seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The status it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The document that the client reads. The detail of an `internal` problem stays here.
    #[must_use]
    pub fn document(&self, request_id: &str) -> Document {
        let detail = match self.code {
            ProblemCode::Internal => INTERNAL_DETAIL.to_owned(),
            _ => self.detail.clone(),
        };
        Document {
            problem_type: format!("urn:lessor:problem:{}", self.code),
            title: self.code.title().to_owned(),
            status: self.code.status(),
            code: self.code.to_string(),
            detail,
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        }
    }
}

/// A parser's message repeats what it was given, and a pointer the keys on the way: megabytes, if
/// somebody wants it.
fn clip(error: &mut FieldError) {
    for text in [&mut error.pointer, &mut error.message] {
        if text.len() > MAX_FIELD_ERROR_BYTES {
            let whole = (0..=MAX_FIELD_ERROR_BYTES)
                .rev()
                .find(|&end| text.is_char_boundary(end));
            text.truncate(whole.unwrap_or(0));
            text.push('…');
        }
    }
}

/// Codes that say "not now" always say when: a client without a rule of its own would otherwise
/// come back at once, all of them together.
fn default_retry(code: ProblemCode) -> Option<u32> {
    (code.status() == 503 || code.status() == 429).then_some(1)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self
            .retry_after_seconds
            .or_else(|| default_retry(self.code))
        {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == ProblemCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_now_always_says_when() {
        for code in [
            ProblemCode::TooManyWaiters,
            ProblemCode::DatabaseUnavailable,
            ProblemCode::Overloaded,
            ProblemCode::Stopping,
        ] {
            let response = Problem::new(code, "later").into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1", "{code}");
        }
        let response = Problem::new(ProblemCode::Stopping, "later")
            .retry_after(7)
            .into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
        assert!(
            Problem::new(ProblemCode::NameTaken, "")
                .into_response()
                .headers()
                .get(header::RETRY_AFTER)
                .is_none()
        );
    }

    #[test]
    fn every_code_has_its_status_and_travels_in_the_extensions() {
        for code in ProblemCode::ALL {
            let response = Problem::new(*code, "why").into_response();
            assert_eq!(response.status().as_u16(), code.status());
            assert_eq!(
                response
                    .extensions()
                    .get::<Problem>()
                    .map(|problem| problem.code),
                Some(*code)
            );
        }
    }

    #[test]
    fn an_internal_detail_is_not_sent() {
        let document = Problem::new(ProblemCode::Internal, "password=hunter2").document("r1");
        assert!(!document.detail.contains("hunter2"));
        assert_eq!((document.status, document.request_id.as_str()), (500, "r1"));
    }

    #[test]
    fn a_validation_names_its_first_part_and_is_bounded() {
        let problem = Problem::invalid("/capacity", "must be at least 0");
        assert_eq!(
            problem.to_string(),
            "validation_failed: /capacity: must be at least 0"
        );
        assert_eq!(
            problem.document("r").problem_type,
            "urn:lessor:problem:validation_failed"
        );
        let many = vec![
            FieldError {
                pointer: String::new(),
                message: "no".into()
            };
            1000
        ];
        let problem = Problem::invalid_fields(many);
        assert_eq!(problem.errors.len(), MAX_FIELD_ERRORS);
        assert_eq!(problem.detail, "The body: no (and 999 more)");
    }

    #[test]
    fn what_is_repeated_is_clipped() {
        let problem = Problem::invalid("/ä".repeat(300), "é".repeat(1_000_000));
        let error = &problem.errors[0];
        assert!(
            error.pointer.len() <= 515
                && error.message.len() <= 515
                && problem.detail.len() <= 1100
        );
    }
}
