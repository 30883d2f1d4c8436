//! Checks of values, gathered so that a client learns of all its mistakes at once.
//!
//! Invariant: text that passed can be stored, since PostgreSQL refuses NUL in text.
//!
//! What it does not do: rules that need the database, or more than one field.

use std::fmt::Display;

use chrono::{DateTime, Datelike as _, Utc};
use lessor_protocol::{FieldError, Labels, MAX_TENANT_BYTES, TENANT_MARK};
use serde_json::value::RawValue;

use super::body_error::pointer_token;
use crate::problem::{MAX_FIELD_ERRORS, Problem};

/// The most labels that an object can have.
pub const MAX_LABELS: usize = 64;

/// The most bytes of a label's key, and of its value.
pub const MAX_LABEL_BYTES: usize = 256;

/// The most bytes of a name.
pub const MAX_NAME_BYTES: usize = 128;

/// Checks on their way to a `validation_failed`, if one of them fails.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    errors: Vec<FieldError>,
}

impl Checks {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a mistake. Past [`MAX_FIELD_ERRORS`] they are dropped.
    pub fn refuse(&mut self, pointer: impl Into<String>, message: impl Into<String>) -> &mut Self {
        if self.errors.len() < MAX_FIELD_ERRORS {
            self.errors.push(FieldError {
                pointer: pointer.into(),
                message: message.into(),
            });
        }
        self
    }

    /// A word such as a platform: `[a-z0-9][a-z0-9._-]{0,127}`.
    pub fn name(&mut self, pointer: impl Into<String>, value: &str) -> &mut Self {
        if is_name(value) {
            return self;
        }
        self.refuse(
            pointer,
            "must be 1 to 128 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit",
        )
    }

    /// The name of a pool, agent or session, which may begin with a tenant: `acme~local`.
    pub fn qualified(&mut self, pointer: impl Into<String>, value: &str) -> &mut Self {
        let (tenant, name) = match value.split_once(TENANT_MARK) {
            Some((tenant, name)) => (Some(tenant), name),
            None => (None, value),
        };
        if is_name(name) && tenant.is_none_or(is_tenant) {
            return self;
        }
        self.refuse(
            pointer,
            "must be 1 to 128 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit; \
             what belongs to a tenant has that and `~` before it",
        )
    }

    /// A tenant: as a name, of at most 63 bytes.
    pub fn tenant(&mut self, pointer: impl Into<String>, value: &str) -> &mut Self {
        if is_tenant(value) {
            return self;
        }
        self.refuse(
            pointer,
            "must be 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit",
        )
    }

    /// Text that is not empty, has at most `max_bytes` and no NUL.
    pub fn text(&mut self, pointer: impl Into<String>, value: &str, max_bytes: usize) -> &mut Self {
        if value.is_empty() {
            return self.refuse(pointer, "must not be empty");
        }
        self.text_or_empty(pointer, value, max_bytes)
    }

    /// Text that may be empty, has at most `max_bytes` and no NUL.
    pub fn text_or_empty(
        &mut self,
        pointer: impl Into<String>,
        value: &str,
        max_bytes: usize,
    ) -> &mut Self {
        if value.len() > max_bytes {
            return self.refuse(pointer, format!("must have at most {max_bytes} bytes"));
        }
        if value.contains('\0') {
            return self.refuse(pointer, "must not contain NUL");
        }
        self
    }

    /// A time that RFC 3339 can write: its years have four digits. The parser takes others, and
    /// PostgreSQL fails on some of them.
    pub fn moment(&mut self, pointer: impl Into<String>, value: DateTime<Utc>) -> &mut Self {
        if is_moment(value) {
            return self;
        }
        self.refuse(pointer, "must be in one of the years 0001 to 9999")
    }

    /// A number from `min` to `max`, both included; never NaN or infinite.
    pub fn range_f64(
        &mut self,
        pointer: impl Into<String>,
        value: f64,
        min: f64,
        max: f64,
    ) -> &mut Self {
        self.range(
            pointer,
            value.is_finite() && (min..=max).contains(&value),
            min,
            max,
        )
    }

    /// A whole number from `min` to `max`, both included.
    pub fn range_i32(
        &mut self,
        pointer: impl Into<String>,
        value: i32,
        min: i32,
        max: i32,
    ) -> &mut Self {
        self.range(pointer, (min..=max).contains(&value), min, max)
    }

    /// A whole number from `min` to `max`, both included.
    pub fn range_i64(
        &mut self,
        pointer: impl Into<String>,
        value: i64,
        min: i64,
        max: i64,
    ) -> &mut Self {
        self.range(pointer, (min..=max).contains(&value), min, max)
    }

    fn range(
        &mut self,
        pointer: impl Into<String>,
        fits: bool,
        min: impl Display,
        max: impl Display,
    ) -> &mut Self {
        if fits {
            self
        } else {
            self.refuse(pointer, format!("must be from {min} to {max}"))
        }
    }

    /// A list, or anything else that is counted, of at most `max`.
    pub fn at_most(&mut self, pointer: impl Into<String>, count: usize, max: usize) -> &mut Self {
        if count <= max {
            self
        } else {
            self.refuse(
                pointer,
                format!("must have at most {max} items, not {count}"),
            )
        }
    }

    /// Labels: at most 64, keys of 1 to 256 bytes, values of at most 256, without NUL.
    pub fn labels(&mut self, pointer: impl Into<String>, labels: &Labels) -> &mut Self {
        let pointer = pointer.into();
        if labels.len() > MAX_LABELS {
            return self.refuse(
                pointer,
                format!(
                    "must have at most {MAX_LABELS} labels, not {}",
                    labels.len()
                ),
            );
        }
        for (key, value) in labels {
            self.label(&pointer, key, value);
        }
        self
    }

    /// One label of those at `pointer`.
    pub fn label(&mut self, pointer: &str, key: &str, value: &str) -> &mut Self {
        // A key that is wrong is not repeated: it may be as long as the body.
        if key.is_empty() || key.len() > MAX_LABEL_BYTES || key.contains('\0') {
            return self.refuse(
                pointer,
                format!("keys must have 1 to {MAX_LABEL_BYTES} bytes and no NUL"),
            );
        }
        self.text_or_empty(
            format!("{pointer}/{}", pointer_token(key)),
            value,
            MAX_LABEL_BYTES,
        )
    }

    /// JSON of at most `max_bytes`, as it was sent.
    pub fn json(
        &mut self,
        pointer: impl Into<String>,
        value: &RawValue,
        max_bytes: usize,
    ) -> &mut Self {
        if value.get().len() <= max_bytes {
            self
        } else {
            self.refuse(pointer, format!("must have at most {max_bytes} bytes"))
        }
    }

    /// A JSON object of at most `max_bytes`, as it was sent.
    pub fn json_object(
        &mut self,
        pointer: impl Into<String>,
        value: &RawValue,
        max_bytes: usize,
    ) -> &mut Self {
        if value.get().starts_with('{') {
            self.json(pointer, value, max_bytes)
        } else {
            self.refuse(pointer, "must be an object")
        }
    }

    /// What came of the checks.
    ///
    /// # Errors
    /// `validation_failed` with every mistake.
    pub fn finish(self) -> Result<(), Problem> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid_fields(self.errors))
        }
    }
}

/// Whether this can be the name of a tenant.
pub fn is_tenant(value: &str) -> bool {
    value.len() <= MAX_TENANT_BYTES && is_name(value)
}

fn is_name(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut bytes = value.bytes();
    value.len() <= MAX_NAME_BYTES
        && bytes.next().is_some_and(plain)
        && bytes.all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whether RFC 3339 can write the time.
#[must_use]
pub fn is_moment(value: DateTime<Utc>) -> bool {
    (1..=9999).contains(&value.year())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(check: impl FnOnce(&mut Checks)) -> Vec<String> {
        let mut checks = Checks::new();
        check(&mut checks);
        checks
            .finish()
            .err()
            .map(|problem| {
                problem
                    .errors
                    .into_iter()
                    .map(|error| error.pointer)
                    .collect()
            })
            .unwrap_or_default()
    }

    #[test]
    fn names() {
        for good in ["a", "0", "local-1", "a._-", &"a".repeat(128)] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            "A",
            "-a",
            ".a",
            "_a",
            "a b",
            "ä",
            "a/b",
            "a\0",
            "a\n",
            &"a".repeat(129),
        ] {
            assert!(!is_name(bad), "{bad}");
            assert_eq!(
                pointers(|checks| {
                    checks.name("/name", bad);
                }),
                ["/name"]
            );
        }
    }

    #[test]
    fn text_and_numbers() {
        let found = pointers(|checks| {
            checks
                .text("/ok", "ab", 2)
                .text("/long", "abc", 2)
                .text("/wide", "äb", 2)
                .text("/empty", "", 2)
                .text_or_empty("/may_be_empty", "", 2)
                .text("/nul", "\0", 2)
                .range_f64("/low", 1.9, 2.0, 3600.0)
                .range_f64("/min", 2.0, 2.0, 3600.0)
                .range_f64("/max", 3600.0, 2.0, 3600.0)
                .range_f64("/nan", f64::NAN, f64::MIN, f64::MAX)
                .range_f64("/inf", f64::INFINITY, 0.0, f64::INFINITY)
                .range_i32("/i", -1, 0, 5)
                .range_i64("/j", 5, 0, 5)
                .at_most("/list", 1001, 1000);
        });
        assert_eq!(
            found,
            [
                "/long", "/wide", "/empty", "/nul", "/low", "/nan", "/inf", "/i", "/list"
            ]
        );
    }

    #[test]
    fn labels() {
        let of = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
        for good in [
            of("a", ""),
            of(&"k".repeat(256), &"v".repeat(256)),
            (0..64).map(|i| (i.to_string(), String::new())).collect(),
        ] {
            assert!(
                pointers(|checks| {
                    checks.labels("/labels", &good);
                })
                .is_empty()
            );
        }
        assert_eq!(
            pointers(|checks| {
                checks
                    .labels("/labels", &of("", ""))
                    .labels("/labels", &of("a/b", "\0"));
            }),
            ["/labels", "/labels/a~1b"]
        );
        let many: Labels = (0..65).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(
            pointers(|checks| {
                checks
                    .labels("/l", &many)
                    .labels("/l", &of(&"k".repeat(257), ""))
                    .labels("/l", &of("k", &"v".repeat(257)));
            }),
            ["/l", "/l", "/l/k"]
        );
    }

    #[test]
    fn opaque_json() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let found = pointers(|checks| {
            checks
                .json("/a", &raw("[1]"), 3)
                .json("/b", &raw("[12]"), 3)
                .json_object("/c", &raw("[]"), 9)
                .json_object("/d", &raw("{}"), 9);
        });
        assert_eq!(found, ["/b", "/c"]);
    }

    #[test]
    fn mistakes_are_bounded() {
        assert_eq!(
            pointers(|checks| (0..1000).for_each(|_| {
                checks.refuse("/x", "no");
            }))
            .len(),
            MAX_FIELD_ERRORS
        );
    }
}
