//! The document made fit for generated clients, where what utoipa writes is not.
//!
//! - Generic types have readable names (`SessionPage`, not `Page_Session`), and their items are
//!   references, so that a client has one type for a session and not two.
//! - Every field of a response is always there, so it is required, nullable ones included. utoipa
//!   takes `Option` for "may be left out", which is true of requests only.
//!
//! What it does not do: describe anything; that is said where the types and routes are.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

const SCHEMAS: &str = "#/components/schemas/";

/// The document as JSON, tidied.
#[must_use]
pub fn tidy(document: &OpenApi) -> Value {
    // Types of our own build only: if one could not be written, a test would find an empty document.
    let mut value = serde_json::to_value(document).unwrap_or_default();
    name_generics(&mut value);
    require_response_fields(&mut value);
    value
}

fn name_generics(document: &mut Value) {
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else {
        return;
    };
    let mut renamed = vec![("BTreeMap".to_owned(), "Labels".to_owned())];
    for (name, schema) in schemas.iter_mut() {
        let Some(item) = name.strip_prefix("Page_") else {
            continue;
        };
        schema["properties"]["items"]["items"] = json!({"$ref": format!("{SCHEMAS}{item}")});
        renamed.push((name.clone(), format!("{item}Page")));
    }
    for (from, to) in &renamed {
        if let Some(schema) = schemas.remove(from) {
            schemas.insert(to.clone(), schema);
        }
    }
    if let Some(labels) = schemas.get_mut("Labels") {
        labels["description"] =
            json!("Labels: at most 64, keys of 1 to 256 bytes, values of at most 256 bytes.");
    }
    each_ref(document, &mut |reference| {
        for (from, to) in &renamed {
            if reference.strip_prefix(SCHEMAS) == Some(from) {
                *reference = format!("{SCHEMAS}{to}");
            }
        }
    });
}

/// Requires every property of the schemas that only responses use.
fn require_response_fields(document: &mut Value) {
    let (mut asked, mut answered) = (BTreeSet::new(), BTreeSet::new());
    let paths = document["paths"].clone();
    for operation in paths
        .as_object()
        .into_iter()
        .flat_map(|paths| paths.values())
    {
        for call in operation
            .as_object()
            .into_iter()
            .flat_map(|item| item.values())
        {
            reach(document, &call["requestBody"], &mut asked);
            reach(document, &call["responses"], &mut answered);
        }
    }
    for name in answered.difference(&asked) {
        let schema = &mut document["components"]["schemas"][name.as_str()];
        if let Some(properties) = schema["properties"].as_object() {
            let names: Vec<String> = properties.keys().cloned().collect();
            schema["required"] = json!(names);
        }
    }
}

/// Adds the names of the schemas that a part of the document refers to, however deep.
fn reach(document: &Value, part: &Value, names: &mut BTreeSet<String>) {
    let mut part = part.clone();
    let mut found = Vec::new();
    each_ref(&mut part, &mut |reference| {
        found.extend(reference.strip_prefix(SCHEMAS).map(str::to_owned));
    });
    for name in found {
        if names.insert(name.clone()) {
            reach(document, &document["components"]["schemas"][&name], names);
        }
    }
}

fn each_ref(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(reference) if name == "$ref" => change(reference),
                    field => each_ref(field, change),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_ref(item, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
