//! Links in the document: what can be done next with what a call has made.
//!
//! Who makes a pool, an agent, a session or a command gets a link to every call that takes one, with
//! the parameter filled from the answer, and the body where the call would fail without it. Generated
//! clients show them, and stateful fuzzers walk along them.
//!
//! What it does not do: link lists and single reads; what they show was made by somebody. Nor does a call
//! lead to itself: walks along links begin where none leads to.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What a call makes.
struct Made {
    /// The operation that makes it.
    by: &'static str,
    /// Its statuses.
    statuses: &'static [&'static str],
    /// Path parameters that its answer, or its request, tells.
    tells: &'static [(&'static str, &'static str)],
}

const MADE: &[Made] = &[
    // Where everything begins: whoever has found the service makes a pool.
    Made {
        by: "get_versions",
        statuses: &["200"],
        tells: &[("pool", "local")],
    },
    Made {
        by: "put_pool",
        statuses: &["200", "201"],
        tells: &[("pool", "$response.body#/name")],
    },
    Made {
        by: "register_agent",
        statuses: &["200", "201"],
        tells: &[("agent", "$response.body#/agent/name")],
    },
    Made {
        by: "create_session",
        statuses: &["201"],
        tells: &[("session", "$response.body#/id")],
    },
    Made {
        by: "create_webhook",
        statuses: &["201"],
        tells: &[("webhook", "$response.body#/webhook/id")],
    },
    Made {
        by: "create_command",
        statuses: &["201"],
        tells: &[
            ("session", "$response.body#/session_id"),
            ("command", "$response.body#/id"),
        ],
    },
];

/// Adds the links to a document.
pub fn add(document: &mut Value) {
    let calls = calls(document);
    let mut links = Map::new();
    for made in MADE {
        let names: Vec<&str> = made.tells.iter().map(|(name, _)| *name).collect();
        let mut mine = Map::new();
        for (id, parameters) in &calls {
            let own = made.by == "create_command" && !parameters.contains(&"command".to_owned());
            let filled = !parameters.is_empty()
                && parameters.iter().all(|name| names.contains(&name.as_str()));
            let body = body(made.by, id);
            // Before there is a pool there is nothing else to do with one.
            let early = made.by == "get_versions" && id != "put_pool";
            if id != made.by && !early && ((filled && !own) || body.is_some()) {
                let key = format!("{}_{id}", made.by);
                mine.insert(
                    id.clone(),
                    json!({"$ref": format!("#/components/links/{key}")}),
                );
                links.insert(key, link(made, id, parameters, body));
            }
        }
        attach(document, made, &mine);
    }
    document["components"]["links"] = Value::Object(links);
}

fn link(made: &Made, id: &str, parameters: &[String], body: Option<Value>) -> Value {
    let filled: BTreeMap<&str, &str> = made
        .tells
        .iter()
        .filter(|(name, _)| parameters.iter().any(|parameter| parameter == name))
        .copied()
        .collect();
    let mut link = json!({"operationId": id});
    if !filled.is_empty() {
        link["parameters"] = json!(filled);
    }
    if let Some(body) = body {
        link["requestBody"] = body;
    }
    link
}

/// What a call's body must say of what another call made.
fn body(by: &str, id: &str) -> Option<Value> {
    match (by, id) {
        ("get_versions", "put_pool") => Some(json!({"platform": "process"})),
        ("put_pool", "register_agent") => Some(json!({"pool": "$response.body#/name"})),
        ("put_pool", "create_session") => Some(json!({
            "pool": "$response.body#/name",
            "platform": "$response.body#/platform",
            "region": "$response.body#/region",
        })),
        ("put_pool", "create_sessions") => {
            Some(json!({"sessions": [{"pool": "$response.body#/name", "spec": {}}]}))
        }
        ("register_agent", "send_heartbeat" | "send_reports" | "send_inventory") => {
            Some(json!({"incarnation": "$response.body#/incarnation"}))
        }
        // At once: whoever follows links has nothing to wait for.
        ("register_agent", "claim_sessions") => {
            Some(json!({"incarnation": "$response.body#/incarnation", "wait_seconds": 0}))
        }
        _ => None,
    }
}

/// Every operation with the names of its path parameters. A stream has no end, and nothing follows.
fn calls(document: &Value) -> Vec<(String, Vec<String>)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let calls = paths.flat_map(|(_, path)| path.as_object().into_iter().flatten());
    calls
        .filter_map(|(_, call)| {
            let id = call["operationId"].as_str()?.to_owned();
            let parameters = call["parameters"].as_array().into_iter().flatten();
            let in_path = parameters
                .filter(|parameter| parameter["in"] == "path")
                .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned));
            Some((id, in_path.collect()))
        })
        .collect()
}

fn attach(document: &mut Value, made: &Made, links: &Map<String, Value>) {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let calls = paths.flat_map(|(_, path)| path.as_object_mut().into_iter().flatten());
    for (_, call) in calls.filter(|(_, call)| call["operationId"] == made.by) {
        for status in made.statuses {
            if let Some(response) = call["responses"].get_mut(*status) {
                response["links"] = Value::Object(links.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_made_leads_on() {
        let document = crate::api::openapi();
        let links = document["components"]["links"].as_object().expect("links");
        assert!(links.len() > 40, "{}", links.len());
        assert_eq!(
            links["register_agent_claim_sessions"]["requestBody"]["wait_seconds"],
            0
        );
        for (pool, status) in [("/v1/pools/{pool}", "201"), ("/v1/agents/{agent}", "201")] {
            let answer = &document["paths"][pool]["put"]["responses"][status];
            assert!(answer["links"].as_object().is_some_and(|l| l.len() > 8));
        }
        let answer = &document["paths"]["/v1/sessions"]["post"]["responses"]["201"];
        assert!(answer["links"]["get_session"]["$ref"].is_string());
    }
}
