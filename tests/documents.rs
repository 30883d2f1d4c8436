//! What is written down agrees with what is built: the OpenAPI document, the options, the layout.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lessor::api::{PROBLEMS, everywhere};
use serde_json::Value;

use crate::support::TestServer;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> Value {
    serde_json::from_str(&lessor::api::text()).expect("the document is JSON")
}

/// Every operation: method, path, and what the document says of it.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            found.push((method.clone(), path.clone(), operation.clone()));
        }
    }
    assert!(found.len() > 20, "only {} operations", found.len());
    found
}

#[test]
fn the_committed_document_is_the_one_the_binary_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_lessor"))
        .arg("openapi")
        .output()
        .expect("it runs");
    let committed = fs::read(root().join("openapi/openapi.json")).unwrap_or_default();
    assert!(
        committed == printed.stdout && !committed.is_empty(),
        "openapi/openapi.json is stale; run: cargo run -- openapi > openapi/openapi.json"
    );
}

#[test]
fn every_operation_is_described() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let at = format!("{method} {path}");
        let id = operation["operationId"].as_str().expect(&at);
        assert!(ids.insert(id.to_owned()), "{id} comes twice");
        let (verb, noun) = id.split_once('_').expect(id);
        assert!(
            !noun.is_empty()
                && !verb.is_empty()
                && id.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{id} is not verb_noun"
        );
        assert!(
            operation["summary"].as_str().is_some_and(|s| !s.is_empty()),
            "{at}"
        );
        assert!(operation["tags"][0].is_string(), "{at}");
        if let Some(body) = operation["requestBody"].as_object() {
            for (media, content) in body["content"].as_object().expect(&at) {
                assert!(!content["schema"].is_null(), "{at}: {media} has no schema");
                assert!(
                    !content["example"].is_null() || !content["examples"].is_null(),
                    "{at}: the body has no example"
                );
            }
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(
                parameter["description"]
                    .as_str()
                    .is_some_and(|d| !d.is_empty()),
                "{at}: {parameter}"
            );
        }
        let mut good = 0;
        for (status, response) in operation["responses"].as_object().expect(&at) {
            assert!(
                response["description"]
                    .as_str()
                    .is_some_and(|d| !d.is_empty()),
                "{at}: {status} has no description"
            );
            match status.as_bytes()[0] {
                b'2' => {
                    good += 1;
                    assert!(
                        status == "204"
                            || response["content"]["text/event-stream"]["schema"]["$ref"]
                                .is_string()
                            || response["content"]["application/json"]["schema"]["$ref"]
                                .is_string(),
                        "{at}: {status} has no named schema"
                    );
                }
                b'3' => assert_eq!(status, "304", "{at}"),
                _ => assert_eq!(
                    response["content"]["application/problem+json"]["schema"]["$ref"],
                    "#/components/schemas/Problem",
                    "{at}: {status}"
                ),
            }
        }
        assert!(good > 0, "{at} has no good answer");
    }
}

#[test]
fn each_operation_has_the_problems_of_the_list_and_no_others() {
    let document = document();
    let mut listed: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (operation, codes) in PROBLEMS {
        let everywhere = everywhere(operation);
        let codes = codes.iter().chain(&everywhere).map(ToString::to_string);
        assert!(
            listed.insert(operation, codes.collect()).is_none(),
            "{operation} is listed twice"
        );
    }
    let mut described = BTreeMap::new();
    let operations = operations(&document);
    for (_, _, operation) in &operations {
        let mut codes = BTreeSet::new();
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let examples = &response["content"]["application/problem+json"]["examples"];
            for (code, example) in examples.as_object().into_iter().flatten() {
                assert_eq!(example["value"]["status"].to_string(), *status, "{code}");
                assert_eq!(example["value"]["code"], *code);
                codes.insert(code.clone());
            }
        }
        described.insert(operation["operationId"].as_str().expect("an id"), codes);
    }
    assert_eq!(listed, described);
}

#[test]
fn schemas_have_readable_names_and_no_bare_unions() {
    let document = document();
    let schemas = document["components"]["schemas"]
        .as_object()
        .expect("schemas");
    for name in schemas.keys() {
        assert!(
            name.bytes().all(|b| b.is_ascii_alphanumeric())
                && name.as_bytes()[0].is_ascii_uppercase(),
            "{name} is not a readable name"
        );
        assert!(
            !name.contains("Map") && !name.contains("Vec"),
            "{name} is Rust's name"
        );
    }
    for name in [
        "SessionPage",
        "PoolPage",
        "AgentPage",
        "EventPage",
        "LedgerItemPage",
        "Labels",
    ] {
        assert!(schemas.contains_key(name), "{name}");
    }
    walk(&document, "", &mut |at, value| {
        if let Some(reference) = value["$ref"].as_str() {
            let pointer = reference.strip_prefix('#').expect(reference);
            let kept = ["/components/schemas/", "/components/links/"];
            assert!(
                kept.iter().any(|kept| pointer.starts_with(kept)),
                "{at}: {reference}"
            );
            assert!(
                document.pointer(pointer).is_some(),
                "{at}: {reference} leads nowhere"
            );
        }
        assert!(
            value["nullable"].is_null(),
            "{at}: `nullable` is OpenAPI 3.0's"
        );
        for union in ["oneOf", "anyOf", "allOf"] {
            let Some(members) = value[union].as_array() else {
                continue;
            };
            let nullable = members.len() == 2 && members[1] == serde_json::json!({"type": "null"});
            assert!(
                nullable || value["discriminator"].is_object(),
                "{at}: a bare {union}"
            );
        }
        // Words belong to named schemas, so that clients have one type for each set.
        if value["enum"].is_array() {
            assert_eq!(at.matches('/').count(), 3, "{at}: an enum without a name");
        }
    });
    for (name, words) in [
        (
            "SessionState",
            lessor_protocol::SessionState::ALL
                .iter()
                .map(|w| w.as_str())
                .collect::<Vec<_>>(),
        ),
        (
            "Action",
            lessor_protocol::Action::ALL
                .iter()
                .map(|w| w.as_str())
                .collect(),
        ),
        (
            "ProblemCode",
            lessor_protocol::ProblemCode::ALL
                .iter()
                .map(|w| w.as_str())
                .collect(),
        ),
    ] {
        assert_eq!(schemas[name]["enum"], serde_json::json!(words), "{name}");
    }
    // Every field of a response is always there.
    for name in [
        "Session",
        "Pool",
        "Agent",
        "Event",
        "LedgerItem",
        "Claimed",
        "SessionPage",
        "Problem",
    ] {
        let fields: BTreeSet<&str> = schemas[name]["properties"]
            .as_object()
            .expect(name)
            .keys()
            .map(String::as_str)
            .collect();
        let required: BTreeSet<&str> = schemas[name]["required"]
            .as_array()
            .expect(name)
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(fields, required, "{name}");
    }
    assert_eq!(
        schemas["NewSession"]["required"],
        serde_json::json!(["spec"])
    );
}

fn walk(value: &Value, at: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(at, value);
    match value {
        Value::Object(fields) => {
            // Examples are data and not schemas.
            for (name, field) in fields
                .iter()
                .filter(|(name, _)| !name.starts_with("example"))
            {
                walk(field, &format!("{at}/{name}"), visit);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &format!("{at}/{index}"), visit);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_validator_takes_the_document_and_a_typescript_client_of_it_compiles() {
    let checked = Command::new(root().join("tests/openapi/validate.sh"))
        .arg(root().join("openapi/openapi.json"))
        .output()
        .expect("tests/openapi/validate.sh runs");
    assert!(
        checked.status.success(),
        "{}{}\n(if tools are missing: tests/openapi/prepare.sh)",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    );
}

#[test]
fn the_lock_file_names_no_registry() {
    let lock =
        fs::read_to_string(root().join("tests/openapi/package-lock.json")).expect("it is there");
    assert!(lock.contains("openapi-typescript"), "{lock}");
    assert!(
        !lock.contains("\"resolved\""),
        "it names the host of a registry"
    );
}

#[tokio::test]
async fn every_operation_is_mounted() {
    let server = TestServer::start().await;
    let nowhere = server.send("GET", "/v1/nowhere", "").await;
    assert_eq!(nowhere.json()["code"], "not_found");
    for (method, path, _) in operations(&document()) {
        let mut path = path.replace(['{', '}'], "");
        if path == "/v1/events" {
            // It has no end if it is asked rightly.
            path.push_str("?last_event_id=x");
        }
        let answer = server.send(&method.to_uppercase(), &path, "").await;
        assert_ne!(answer.status, 405, "{method} {path}");
        if answer.status == 404 {
            // What is mounted says what of it is not there.
            assert_ne!(
                answer.json()["detail"],
                nowhere.json()["detail"],
                "{method} {path} is not mounted"
            );
        }
        assert!(answer.status < 500, "{method} {path}: {answer:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_document_is_served_and_its_page_needs_no_other_server() {
    let server = TestServer::start().await;
    let served = server.fetch("/openapi.json").await;
    assert_eq!(served.header("content-type"), "application/json");
    let committed = fs::read_to_string(root().join("openapi/openapi.json")).unwrap_or_default();
    assert!(
        served.text == committed,
        "openapi/openapi.json is stale; run: cargo run -- openapi > openapi/openapi.json"
    );

    // The page is where its relative references are resolved against, so redirects count.
    let page = reqwest::get(format!("{}/docs", server.url))
        .await
        .expect("an answer");
    assert_eq!(page.status(), 200);
    let base = page.url().clone();
    let html = page.text().await.expect("text");
    let mut assets: Vec<String> = html
        .split(['"', '\''])
        .filter(|part| part.ends_with(".js") || part.ends_with(".css") || part.ends_with(".png"))
        .map(str::to_owned)
        .collect();
    assets.sort();
    assert!(
        assets.iter().any(|asset| asset.ends_with(".js"))
            && assets.iter().any(|asset| asset.ends_with(".css")),
        "{html}"
    );
    assert!(
        !html.contains("src=\"http") && !html.contains("href=\"http") && !html.contains("//cdn"),
        "{html}"
    );
    let mut scripts = String::new();
    for asset in assets {
        let url = base.join(&asset).expect("a URL");
        assert!(url.as_str().starts_with(&server.url), "{url} is elsewhere");
        let answer = reqwest::get(url.clone()).await.expect("an answer");
        assert_eq!(answer.status(), 200, "{url}");
        let body = answer.bytes().await.expect("a body");
        assert!(!body.is_empty(), "{url} is empty");
        if asset.ends_with("initializer.js") {
            scripts.push_str(&String::from_utf8_lossy(&body));
        }
    }
    assert!(
        scripts.contains("/openapi.json"),
        "the page shows another document: {scripts}"
    );
    server.stop().await;
}

#[test]
fn the_readme_and_the_help_list_every_option() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    let table = readme
        .split_once("<!-- options -->")
        .and_then(|(_, rest)| rest.split_once("<!-- /options -->"))
        .map(|(table, _)| table.trim())
        .expect("README.md has no `<!-- options -->` … `<!-- /options -->`");
    let reference = lessor::config::reference();
    assert_eq!(
        table,
        reference.trim(),
        "put the output of `cargo run -- options` into README.md"
    );
}

#[test]
fn the_help_lists_every_option() {
    let help = Command::new(env!("CARGO_BIN_EXE_lessor"))
        .args(["serve", "--help"])
        .env_clear()
        .output()
        .expect("it runs");
    let help = String::from_utf8(help.stdout).expect("text");
    let lines: Vec<Vec<String>> = lessor::config::reference()
        .lines()
        .skip(2)
        .map(|line| {
            line.split('|')
                .map(|cell| cell.trim().replace('`', ""))
                .collect()
        })
        .collect();
    assert!(lines.len() > 10, "{lines:?}");
    for cells in lines {
        let (environment, flag, default) = (&cells[1], &cells[2], &cells[3]);
        assert!(
            help.contains(&format!("{flag} ")),
            "{flag} is not in --help"
        );
        assert!(
            help.contains(&format!("[env: {environment}")),
            "{environment} is not in --help"
        );
        if !default.is_empty() {
            assert!(
                help.contains(&format!("[default: {default}]")),
                "{flag}: {default} is not in --help"
            );
        }
    }
}

#[test]
fn bodies_that_may_be_left_out_are_said_to_be() {
    let mut taken = BTreeSet::new();
    for (_, text) in sources("src") {
        for handler in text.split("operation_id = \"").skip(1) {
            let (id, rest) = handler.split_once('"').expect("an id");
            let signature = rest.split_once("\n}").map_or(rest, |(before, _)| before);
            if signature.contains("OptionalJson(") {
                taken.insert(id.to_owned());
            }
        }
    }
    assert!(taken.len() > 5, "{taken:?}");
    let document: Value = serde_json::from_str(&lessor::api::text()).expect("JSON");
    let said: BTreeSet<String> = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|item| item.as_object().expect("operations").values())
        .filter(|call| call["requestBody"]["required"] == false)
        .map(|call| call["operationId"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(said, taken);
}

/// Every Rust file below a folder, with its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    visit(&root().join(folder), &mut found);
    found.sort();
    assert!(!found.is_empty(), "{folder} is empty");
    found
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(root())
                .expect("below the root")
                .display()
                .to_string();
            (name, fs::read_to_string(path).expect("text"))
        })
        .collect()
}

/// The paths that a file names: `use` trees flattened, and paths written out in the code.
fn imports(text: &str) -> BTreeSet<String> {
    // Its tests may look into anything.
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for statement in code.split("use ").skip(1) {
        let tree = statement.split(';').next().unwrap_or_default();
        let tree: String = tree.split_whitespace().collect();
        flatten("", &tree, &mut found);
    }
    for word in code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        if word.contains("::") {
            found.insert(word.to_owned());
        }
    }
    found
}

fn flatten(before: &str, tree: &str, found: &mut BTreeSet<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        found.insert(format!("{before}{tree}"));
        return;
    };
    let (mut depth, mut start) = (0, 0);
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flatten(&format!("{before}{head}"), &inner[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
}

#[test]
fn imports_point_one_way() {
    const NO_FEATURE: &[&str] = &["store", "http", "error", "problem", "outgoing"];
    let sources = sources("src");
    let rooms: BTreeSet<String> = sources
        .iter()
        .filter_map(|(name, _)| {
            name.strip_prefix("src/")?
                .split_once('/')
                .map(|(room, _)| room.to_owned())
        })
        .collect();
    assert!(
        rooms.contains("sessions") && rooms.contains("store"),
        "{rooms:?}"
    );
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, text) in &sources {
        let inner = name.trim_start_matches("src/");
        let (room, file) = inner.split_once('/').unwrap_or(("", inner));
        for import in imports(text) {
            let Some(path) = import.strip_prefix("crate::").or_else(|| {
                // `sessions::store::…` after `use crate::sessions`; other paths may be a room's own.
                import
                    .split_once("::")
                    .is_some_and(|(head, rest)| {
                        rooms.contains(head) && rest.split("::").next() == Some("store")
                    })
                    .then_some(&*import)
            }) else {
                if file == "state.rs"
                    && ["diesel", "tokio", "axum", "reqwest"]
                        .contains(&import.split("::").next().unwrap_or_default())
                {
                    wrong.push(format!("{name} is a pure rule and imports {import}"));
                }
                continue;
            };
            seen += 1;
            let parts: Vec<&str> = path.split("::").collect();
            let target = parts[0];
            if target != room && target != "store" && parts.get(1) == Some(&"store") {
                wrong.push(format!(
                    "{name} reaches into another room's store: {import}"
                ));
            }
            if ["store", "http"].contains(&room) && !NO_FEATURE.contains(&target) {
                wrong.push(format!("{name} knows a feature: {import}"));
            }
            if file == "state.rs" && ["store", "http", "app"].contains(&target) {
                wrong.push(format!("{name} is a pure rule and imports {import}"));
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_tests_that_the_security_page_names_exist() {
    let page = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let folders = ["src", "tests", "client", "agent"];
    let sources: Vec<_> = folders.iter().flat_map(|folder| sources(folder)).collect();
    let mut seen = 0;
    for name in page.split('`').skip(1).step_by(2) {
        let Some((file, test)) = name.split_once("::") else {
            continue;
        };
        seen += 1;
        let endings = [format!("/{file}.rs"), format!("/{file}/mod.rs")];
        let there = sources.iter().any(|(path, text)| {
            endings.iter().any(|ending| path.ends_with(ending))
                && text.contains(&format!("fn {test}("))
        });
        assert!(
            there,
            "SECURITY.md names `{name}`, and there is no such test"
        );
    }
    assert!(seen > 40, "only {seen} tests are named");
}

#[test]
fn files_are_small() {
    const MOST: usize = 450;
    let long: Vec<String> = ["src", "client", "agent", "protocol", "bench", "fuzz"]
        .iter()
        .flat_map(|folder| sources(folder))
        .map(|(name, text)| (text.lines().count(), name))
        .filter(|(lines, _)| *lines > MOST)
        .map(|(lines, name)| format!("{name} has {lines} lines, more than {MOST}"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
