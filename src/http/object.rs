//! An object's fields in their order, as text: what [`super::Item`] shows.
//!
//! It goes through the object's JSON and not through a [`serde_json::Value`], which sorts keys and
//! cannot hold what raw values can (1e400, keys that come twice).

use std::fmt;

use serde::Serialize;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields with their values: strings bare, null empty, the rest as compact JSON.
pub(super) fn fields(value: &impl Serialize) -> Result<Vec<(String, String)>, serde_json::Error> {
    let json = serde_json::to_string(value)?;
    serde_json::Deserializer::from_str(&json).deserialize_map(Fields)
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            fields.push((key, shown(value.get())));
        }
        Ok(fields)
    }
}

fn shown(json: &str) -> String {
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).unwrap_or_else(|_| json.to_owned()),
        Some(b'n') => String::new(),
        _ => compact(json),
    }
}

/// JSON without the white space between its tokens: raw values keep the layout they were sent in.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|&character| {
            if in_string {
                in_string = escaped || character != '"';
                escaped = !escaped && character == '\\';
                return true;
            }
            in_string = character == '"';
            !matches!(character, ' ' | '\t' | '\r' | '\n')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        z: &'static str,
        a: Option<i32>,
        list: Vec<i32>,
        raw: Box<RawValue>,
    }

    #[test]
    fn order_and_raw_values_are_kept() {
        let raw = RawValue::from_string("{ \"k\" : [1e400,\n \"a \\\" b\"], \"k\": 1 }".to_owned())
            .expect("JSON");
        let found = fields(&Thing {
            z: "a\"b",
            a: None,
            list: vec![1, 2],
            raw,
        })
        .expect("fields");
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("z", "a\"b"),
                ("a", ""),
                ("list", "[1,2]"),
                ("raw", r#"{"k":[1e400,"a \" b"],"k":1}"#)
            ]
        );
        assert!(fields(&7).is_err());
    }
}
