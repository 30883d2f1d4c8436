//! What values may look like, written into the document: names, texts, tags, labels.
//!
//! The rules are those of [`crate::http::Checks`], which no derive can see. JSON Schema counts
//! characters and the checks count bytes, so a text of few but long characters can still be refused.
//!
//! What it does not do: say more than is refused. What the document forbids, the service refuses; a
//! fuzzer that sends it finds out otherwise.

use serde_json::{Value, json};

use crate::http::{MAX_LABEL_BYTES, MAX_LABELS, MAX_NAME_BYTES};

/// Names of pools, agents, sessions and domains.
const NAME: &str = "^[a-z0-9][a-z0-9._-]{0,127}$";

/// `*`, or entity tags between commas.
const TAGS: &str = r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#;

/// Bare or in quotes.
const KEY: &str = r#"^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$"#;

/// No NUL anywhere.
const TEXT: &str = r"^[^\u0000]*$";

/// One label of a filter.
const LABEL: &str = r"^[^:\u0000]+:[^\u0000]*$";

/// Fields of request bodies that are names.
const NAMES: &[(&str, &str)] = &[
    ("PoolSpec", "platform"),
    ("Register", "pool"),
    ("Register", "resource_domain"),
    ("NewSession", "pool"),
    ("NewSession", "name"),
    ("Migrate", "pool"),
    ("Migrate", "resource_domain"),
    ("NewWebhook", "tenant"),
];

/// What a command is to do.
const KIND: &str = "^[a-z0-9][a-z0-9._-]{0,63}$";

/// Fields of request bodies that are lists, and how many items they may have.
const LISTS: &[(&str, &str, usize)] = &[
    ("Register", "held", 10_000),
    ("Heartbeat", "activity", 10_000),
    ("Heartbeat", "dropped", 10_000),
    ("Claim", "reports", 1_000),
    ("Claim", "command_results", 1_000),
    ("Claim", "dropped", 10_000),
    ("Reports", "reports", 1_000),
    ("Reports", "command_results", 1_000),
    ("NewSessions", "sessions", 1_000),
    ("Inventory", "resources", 10_000),
    ("SimulateRequest", "lose", 1_000),
];

/// Fields of request bodies that are texts, and their most bytes.
const TEXTS: &[(&str, &str, usize)] = &[
    ("PoolSpec", "region", 128),
    ("NewSession", "platform", 128),
    ("NewSession", "region", 128),
    ("NewSession", "owner", 256),
    ("Register", "agent_version", 256),
    ("Instance", "id", 128),
    ("Instance", "host", 256),
    ("CordonRequest", "reason", 1024),
    ("DrainRequest", "reason", 1024),
    ("BulkRequest", "reason", 1024),
    ("AgentBulkRequest", "reason", 1024),
    ("InventoryResource", "platform_resource_id", 1024),
    ("NewWebhook", "name", 128),
    ("NewWebhook", "owner", 256),
    ("WebhookPatch", "name", 128),
    ("WebhookPatch", "owner", 256),
];

/// Operations whose bodies may be left out, since all in them may be: those that take an `OptionalJson`.
const WITHOUT_BODY: &[&str] = &[
    "approve_agent",
    "cordon_agent",
    "drain_agent",
    "drain_pool",
    "rebalance_pool",
    "rotate_token",
    "rotate_webhook",
    "simulate_pool",
];

/// Writes the rules into a document.
pub fn describe(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    for (schema, field) in NAMES {
        name(&mut schemas[*schema]["properties"][*field]);
    }
    for (schema, field, most) in TEXTS {
        text(&mut schemas[*schema]["properties"][*field], *most);
    }
    for (schema, field, most) in LISTS {
        schemas[*schema]["properties"][*field]["maxItems"] = json!(most);
    }
    let kind = &mut schemas["NewCommand"]["properties"]["kind"];
    text(kind, 64);
    kind["pattern"] = json!(KIND);
    schemas["NewSessions"]["properties"]["sessions"]["minItems"] = json!(1);
    name(&mut schemas["SimulateRequest"]["properties"]["lose"]["items"]);
    let labels = &mut schemas["Labels"];
    labels["maxProperties"] = json!(MAX_LABELS);
    text(&mut labels["propertyNames"], MAX_LABEL_BYTES);
    labels["additionalProperties"]["maxLength"] = json!(MAX_LABEL_BYTES);
    labels["additionalProperties"]["pattern"] = json!(TEXT);
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let calls = paths.flat_map(|(_, path)| path.as_object_mut().into_iter().flatten());
    for (_, call) in calls {
        let id = call["operationId"].as_str().unwrap_or_default();
        if WITHOUT_BODY.contains(&id) {
            call["requestBody"]["required"] = json!(false);
        }
        let parameters = call.get_mut("parameters").and_then(Value::as_array_mut);
        parameters.into_iter().flatten().for_each(parameter);
    }
}

fn parameter(parameter: &mut Value) {
    let (place, of) = (parameter["in"].clone(), parameter["name"].clone());
    let Some(schema) = parameter.get_mut("schema") else {
        return;
    };
    // A header that may be left out is not one that may be null: nobody can send that.
    if place == "header" {
        schema["type"] = json!("string");
    }
    match (
        place.as_str().unwrap_or_default(),
        of.as_str().unwrap_or_default(),
    ) {
        ("path", "pool" | "agent" | "session") => name(schema),
        ("path", "command" | "webhook") => schema["format"] = json!("uuid"),
        ("path", "owner") => text(schema, 256),
        ("query", "reason") => text(schema, 1024),
        ("query", "label") => schema["items"]["pattern"] = json!(LABEL),
        ("header", "If-Match" | "If-None-Match") => schema["pattern"] = json!(TAGS),
        ("header", "Idempotency-Key") => schema["pattern"] = json!(KEY),
        _ => {}
    }
}

fn name(schema: &mut Value) {
    schema["pattern"] = json!(NAME);
    schema["minLength"] = json!(1);
    schema["maxLength"] = json!(MAX_NAME_BYTES);
}

fn text(schema: &mut Value, most: usize) {
    schema["pattern"] = json!(TEXT);
    schema["minLength"] = json!(1);
    schema["maxLength"] = json!(most);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_place() {
        let document = crate::api::openapi();
        let schemas = &document["components"]["schemas"];
        let fields = NAMES
            .iter()
            .copied()
            .chain(TEXTS.iter().map(|(schema, field, _)| (*schema, *field)))
            .chain(LISTS.iter().map(|(schema, field, _)| (*schema, *field)));
        for (schema, field) in fields {
            // A rule for a field that is no more would have made one without a type.
            let field_type = &schemas[schema]["properties"][field]["type"];
            assert!(!field_type.is_null(), "{schema} has no {field}");
        }
        let get_pool = &document["paths"]["/v1/pools/{pool}"]["get"];
        let parameters = get_pool["parameters"].as_array().expect("parameters");
        let patterns: Vec<_> = parameters.iter().map(|p| &p["schema"]["pattern"]).collect();
        assert_eq!(patterns, [NAME, TAGS]);
    }
}
