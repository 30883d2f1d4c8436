//! A row of the old database, whatever columns its version has.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::{Map, Value};

/// A row as JSON: by column, without those that this version lacks.
#[derive(Clone, Debug, Default)]
pub struct Row(pub Map<String, Value>);

impl Row {
    /// The row in a text of JSON.
    ///
    /// # Errors
    /// When it cannot be read, as with half a surrogate pair in a `json` column.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text)
            .map(Self)
            .map_err(|error| format!("the row cannot be read: {error}"))
    }

    /// A text that says something, without blanks around it. NUL, which PostgreSQL cannot store, is
    /// replaced.
    pub fn text(&self, column: &str) -> Option<String> {
        let text = match self.0.get(column)? {
            Value::String(text) => text.trim().replace('\0', "\u{fffd}"),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        (!text.is_empty()).then_some(text)
    }

    /// Whether a flag is set.
    pub fn is_set(&self, column: &str) -> bool {
        self.text(column).is_some_and(|text| text == "true")
    }

    /// A point in time, if it can be read and is in one of the years 0001 to 9999.
    pub fn time(&self, column: &str) -> Option<DateTime<Utc>> {
        let text = self.text(column)?;
        let time = DateTime::parse_from_rfc3339(&text)
            .map(|time| time.to_utc())
            .or_else(|_| {
                NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f").map(|t| t.and_utc())
            })
            .ok()?;
        crate::http::is_moment(time).then_some(time)
    }

    /// Whatever is in a column; null if it is not there.
    pub fn value(&self, column: &str) -> &Value {
        self.0.get(column).unwrap_or(&Value::Null)
    }
}

/// How many sessions an agent takes, from the forms that its `capacity` was written in; none where it
/// says nothing.
///
/// # Errors
/// When it says something that is no number of sessions.
pub fn capacity(value: &Value) -> Result<Option<i32>, String> {
    let odd = || Err("its capacity has no number of sessions".to_owned());
    let number = match value {
        Value::Null => return Ok(None),
        Value::Object(fields) => {
            let found = ["maxSessions", "max_sessions", "maxsessions", "sessions"]
                .iter()
                .find_map(|key| fields.get(*key));
            match found {
                None => return Ok(None),
                Some(found) => found,
            }
        }
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(inner @ (Value::Object(_) | Value::Number(_))) => return capacity(&inner),
            _ => return odd(),
        },
        other => other,
    };
    let sessions = match number {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match sessions {
        #[allow(clippy::cast_possible_truncation, reason = "the range was looked at")]
        Some(sessions) if (1.0..=1_000_000.0).contains(&sessions) => Ok(Some(sessions as i32)),
        _ => odd(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn capacities() {
        for (value, expected) in [
            (json!({"maxSessions": 10, "cpu": "64"}), Ok(Some(10))),
            (json!({"max_sessions": "10"}), Ok(Some(10))),
            (json!("{\"maxSessions\": 7}"), Ok(Some(7))),
            (json!(12), Ok(Some(12))),
            (json!({"cpu": "64"}), Ok(None)),
            (json!(null), Ok(None)),
        ] {
            assert_eq!(capacity(&value), expected, "{value}");
        }
        for value in [
            json!("lots"),
            json!([]),
            json!({"maxSessions": 0}),
            json!({"maxSessions": -3}),
            json!({"maxSessions": 1e30}),
            json!({"maxSessions": null}),
        ] {
            assert!(capacity(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn times_with_and_without_zone() {
        let row = Row::parse(
            r#"{"a": "2025-12-01T10:00:00.5", "b": "2025-12-01T12:00:00.5+02:00", "c": "infinity", "d": null}"#,
        )
        .expect("a row");
        assert_eq!(row.time("a"), row.time("b"));
        assert!(row.time("a").is_some());
        assert_eq!(
            (row.time("c"), row.time("d"), row.time("e")),
            (None, None, None)
        );
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_rows() {
        let example = br#"{"id":"s1","created_at":"2024-01-01 10:00:00.5","capacity":{"maxSessions":"5"},"flag":true}"#;
        lessor_fuzz::run(
            &[example],
            &["capacity", "9999-12-31", "T00:00:00Z", "+14:00"],
            |input| {
                let Ok(row) = Row::parse(&String::from_utf8_lossy(input)) else {
                    return;
                };
                for column in row.0.keys() {
                    assert!(row.text(column).is_none_or(|text| !text.contains('\0')));
                    if let Some(time) = row.time(column) {
                        assert!(crate::http::is_moment(time), "{time}");
                    }
                    let _ = row.is_set(column);
                }
                if let Ok(Some(capacity)) = capacity(row.value("capacity")) {
                    assert!((1..=1_000_000).contains(&capacity));
                }
            },
        );
    }
}
