//! Labels from columns and tags; pure.

use lessor_protocol::Labels;
use serde_json::Value;

use super::row::Row;
use crate::http::{MAX_LABEL_BYTES, MAX_LABELS};

/// The columns that become labels under their own names; `session_id` is the old id.
pub const COLUMNS: [&str; 5] = ["agent_id", "cluster_id", "org_id", "team_id", "user_id"];

/// Labels, and what could not be one, with the reason.
pub fn labels(old_id: &str, row: &Row) -> (Labels, Vec<String>) {
    let mut labels = Labels::new();
    let mut refused = Vec::new();
    let columns = COLUMNS.map(|column| (column.to_owned(), row.text(column)));
    let id = ("session_id".to_owned(), Some(old_id.to_owned()));
    for (key, value) in [id].into_iter().chain(columns) {
        if let Some(value) = value {
            add(&mut labels, &mut refused, key, value);
        }
    }
    for (key, value) in tags(row.value("tags"), &mut refused) {
        add(&mut labels, &mut refused, key, value);
    }
    (labels, refused)
}

fn add(labels: &mut Labels, refused: &mut Vec<String>, key: String, value: String) {
    let shown: String = key.chars().take(40).collect();
    if key.is_empty() || key.len() > MAX_LABEL_BYTES || value.len() > MAX_LABEL_BYTES {
        refused.push(format!(
            "`{shown}` is empty or longer than {MAX_LABEL_BYTES} bytes"
        ));
    } else if labels.get(&key).is_some_and(|before| *before != value) {
        refused.push(format!("`{shown}` is a label with another value already"));
    } else if labels.len() >= MAX_LABELS && !labels.contains_key(&key) {
        refused.push(format!("`{shown}` would be more than {MAX_LABELS} labels"));
    } else {
        labels.insert(key, value);
    }
}

/// Tags as pairs: `key=value` and `key:value` are divided at the first of them, any other tag has the
/// value `true`.
fn tags(tags: &Value, refused: &mut Vec<String>) -> Vec<(String, String)> {
    let pair = |tag: &str| match tag.split_once(['=', ':']) {
        Some((key, value)) => (key.trim().to_owned(), value.trim().to_owned()),
        None => (tag.trim().to_owned(), "true".to_owned()),
    };
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.replace('\0', "\u{fffd}")),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let mut found = Vec::new();
    match tags {
        Value::Null => {}
        Value::Array(items) => {
            for item in items {
                match plain(item) {
                    Some(text) => found.push(pair(&text)),
                    None if item.is_null() => {}
                    None => refused.push("a tag is neither text nor a number".to_owned()),
                }
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                match plain(item) {
                    Some(value) => found.push((key.replace('\0', "\u{fffd}"), value)),
                    None => refused.push(format!("tag `{key}` is neither text nor a number")),
                }
            }
        }
        // One column of text: JSON, an array of PostgreSQL's, or words between commas.
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(inner @ (Value::Array(_) | Value::Object(_))) => {
                return self::tags(&inner, refused);
            }
            _ => {
                let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
                let words = inner.split(',').map(|word| word.trim().trim_matches('"'));
                found.extend(words.filter(|word| !word.is_empty()).map(pair));
            }
        },
        Value::Bool(_) | Value::Number(_) => refused.push("the tags are no list".to_owned()),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(tags: Value) -> (Labels, Vec<String>) {
        let row = json!({"user_id": "ann", "agent_id": "k8s-1", "org_id": null, "tags": tags});
        labels("s-1", &Row(row.as_object().expect("a row").clone()))
    }

    #[test]
    fn every_form_of_tags() {
        for tags in [
            json!(["gpu", "env=prod", "a:b=c", null, 7]),
            json!({"gpu": true, "env": "prod", "a": "b=c", "7": true}),
            json!("[\"gpu\", \"env=prod\", \"a:b=c\", 7]"),
            json!("{gpu,\"env=prod\",a:b=c,7}"),
        ] {
            let (labels, refused) = of(tags.clone());
            assert!(refused.is_empty(), "{tags}: {refused:?}");
            for (key, value) in [
                ("gpu", "true"),
                ("env", "prod"),
                ("a", "b=c"),
                ("7", "true"),
                ("session_id", "s-1"),
                ("user_id", "ann"),
                ("agent_id", "k8s-1"),
            ] {
                assert_eq!(
                    labels.get(key).map(String::as_str),
                    Some(value),
                    "{tags} {key}"
                );
            }
            assert!(!labels.contains_key("org_id"));
        }
        assert_eq!(of(json!(null)).0.len(), 3);
    }

    #[test]
    fn what_cannot_be_a_label_is_said() {
        let many: Vec<String> = (0..80).map(|i| format!("t{i}")).collect();
        let (labels, refused) = of(json!(many));
        assert_eq!(
            (labels.len(), refused.len()),
            (MAX_LABELS, 80 - (MAX_LABELS - 3))
        );
        for tags in [
            json!(["x".repeat(257)]),
            json!([format!("k={}", "v".repeat(257))]),
            json!(["=v"]),
            json!(["user_id=bob"]),
            json!([["deep"]]),
            json!(3),
        ] {
            let (labels, refused) = of(tags.clone());
            assert_eq!((labels.len(), refused.len()), (3, 1), "{tags}");
        }
    }
}
