//! What the log says of calls: JSON where there is no terminal, and of whom each line is.

use serde_json::{Value, json};

use crate::support::agents::Folder;
use crate::support::process::ServerProcess;
use crate::support::{database, eventually};

/// The lines that were logged so far; each must be an object of its own.
fn lines(file: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("the log");
    // The last one may be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    whole.lines().map(line).collect()
}

#[tokio::test]
async fn each_line_of_a_call_has_its_request_its_session_and_its_agent() {
    let folder = Folder::new();
    let log = folder.0.join("log");
    let environment = [("LESSOR_LOG", "debug")];
    let database = database().await;
    let server = ServerProcess::start_with(&database.url, &environment, Some(&log)).await;
    let http = reqwest::Client::new();
    let call = async |method: &str, path: &str, body: Value| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let call = http.request(method, format!("{}{path}", server.url));
        let answer = call.json(&body).send().await.expect("an answer");
        let id = answer.headers()["x-request-id"]
            .to_str()
            .expect("text")
            .to_owned();
        let body: Value = answer.json().await.expect("JSON");
        (id, body)
    };
    call("PUT", "/v1/pools/p", json!({"platform": "process"})).await;
    let (create, session) = call("POST", "/v1/sessions", json!({"pool": "p", "spec": {}})).await;
    let session = session["id"].as_str().expect("an id").to_owned();
    let get = call("GET", &format!("/v1/sessions/{session}"), Value::Null)
        .await
        .0;
    let agent =
        json!({"pool": "p", "resource_domain": "d", "capacity": 1, "instance": {"id": "i"}});
    let register = call("PUT", "/v1/agents/a", agent).await.0;
    let claim = call("POST", "/v1/agents/a/claim", json!({"incarnation": 9})).await;
    assert_eq!(
        claim.1["request_id"], *claim.0,
        "a problem names its request"
    );
    let missing = call("GET", "/v1/sessions/none", Value::Null).await.0;

    let expected = [
        (&create, Some(&*session), None),
        (&get, Some(&*session), None),
        (&register, None, Some("a")),
        (&claim.0, None, Some("a")),
        (&missing, Some("none"), None),
    ];
    let of = |id: &str| -> Vec<Value> {
        let all = lines(&log).into_iter();
        all.filter(|line| line["span"]["request_id"] == id)
            .collect()
    };
    for (id, session, agent) in expected {
        eventually("it is logged", || async { !of(id).is_empty() }).await;
        for line in of(id) {
            assert_eq!(line["span"]["session"].as_str(), session, "{line}");
            assert_eq!(line["span"]["agent"].as_str(), agent, "{line}");
        }
    }
    for line in lines(&log) {
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].is_string(), "no {field}: {line}");
        }
    }
    drop(server);
}
