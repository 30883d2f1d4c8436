//! What autoscalers are told, and the manifests in `deploy/` that ask for it.

use std::path::Path;

use lessor_protocol::{DrainRequest, ProblemCode, RemovableAgent, ReportedState, Scaling};
use serde::Deserialize as _;
use serde_json::Value;

use crate::support::checks::refused;
use crate::support::{TestServer, eventually, runbook};

async fn scaling(server: &TestServer) -> Scaling {
    server.client.pool_scaling("local").await.expect("numbers")
}

fn removable(agents: &[(&str, &str)]) -> Vec<RemovableAgent> {
    agents
        .iter()
        .map(|(agent, reason)| RemovableAgent {
            agent: (*agent).to_owned(),
            reason: (*reason).to_owned(),
        })
        .collect()
}

#[tokio::test]
async fn a_pool_is_scaled_from_zero_up_and_down_again() {
    let server = TestServer::start().await;
    server.pool("local", |pool| pool.slots_per_agent = 4).await;
    let nothing = scaling(&server).await;
    assert_eq!((nothing.desired_agents, nothing.live_agents), (0, 0));
    assert_eq!(nothing.pool, "local");
    assert!(nothing.oldest_waiting_seconds == 0.0 && nothing.slots_per_agent == 4.0);

    server.sessions("local", 5).await;
    let waiting = scaling(&server).await;
    assert_eq!((waiting.desired_agents, waiting.waiting_sessions), (2, 5));
    assert!(waiting.oldest_waiting_seconds > 0.0);
    assert!(waiting.removable_agents.is_empty());

    // Agents come, with other slots than the pool expects.
    let one = server.agent("one", "local", "d", 3).await;
    let two = server.agent("two", "local", "d", 3).await;
    for agent in [&one, &one, &one, &two, &two] {
        agent.runs_one().await;
    }
    server.agent("three", "local", "d", 3).await;
    let running = scaling(&server).await;
    assert_eq!((running.held_sessions, running.waiting_sessions), (5, 0));
    assert_eq!((running.capacity_slots, running.free_slots), (9, 4));
    assert_eq!((running.desired_agents, running.live_agents), (2, 3));
    assert_eq!(running.removable_agents, removable(&[("three", "empty")]));

    // A busy agent is never named; a drained one comes before one that is only empty.
    let body = DrainRequest::default();
    server
        .client
        .drain_agent("two", &body)
        .await
        .expect("a drain");
    let draining = scaling(&server).await;
    assert_eq!(draining.removable_agents, removable(&[("three", "empty")]));
    for told in two.claim(10, 5.0).await {
        two.accepts(&told, ReportedState::Running).await;
    }
    for adopted in one.claim(10, 5.0).await {
        one.accepts(&adopted, ReportedState::Running).await;
    }
    let expected = removable(&[("two", "drained"), ("three", "empty")]);
    eventually("two is drained", || async {
        scaling(&server).await.removable_agents == expected
    })
    .await;
    assert_eq!(scaling(&server).await.held_sessions, 5);
    let unknown = server.client.pool_scaling("nowhere").await;
    assert_eq!(refused(unknown), ProblemCode::PoolNotFound);
}

/// The triggers of the scalers in a manifest of `deploy/`.
fn triggers(manifest: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(manifest);
    let text = std::fs::read_to_string(&path).expect("the manifest");
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let documents = documents.map(|document| Value::deserialize(document).expect("YAML"));
    documents
        .filter(|document| document["kind"] == "ScaledObject")
        .flat_map(|document| {
            document["spec"]["triggers"]
                .as_array()
                .cloned()
                .expect("triggers")
        })
        .collect()
}

#[tokio::test]
async fn the_manifests_ask_for_what_is_there() {
    let server = TestServer::start().await;
    server.pool("local", |pool| pool.slots_per_agent = 2).await;
    server.sessions("local", 5).await;

    let found = triggers("keda-metrics-api.yaml");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["type"], "metrics-api");
    let url = found[0]["metadata"]["url"].as_str().expect("a url");
    let path = &url[url.find("/v1/").expect("a path of Lessor")..];
    let answer = reqwest::get(format!("{}{path}", server.url))
        .await
        .expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    // Its form of a path: names with dots between.
    let location = found[0]["metadata"]["valueLocation"]
        .as_str()
        .expect("where");
    let value = location
        .split('.')
        .fold(&answer, |value, name| &value[name]);
    assert_eq!(value.as_f64(), Some(3.0), "{location} of {answer}");

    let found = triggers("keda-prometheus.yaml");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["type"], "prometheus");
    let query = found[0]["metadata"]["query"].as_str().expect("a query");
    let series = query
        .strip_prefix("max(")
        .and_then(|rest| rest.strip_suffix(')'));
    let series = series.expect("max(series)");
    eventually("the gauge says it", || async {
        server.find_metric(series).await == Some(3.0)
    })
    .await;
}

#[tokio::test]
async fn the_runbook_of_scaling() {
    let server = TestServer::start().await;
    server.pool("local", |_| {}).await;
    server.agent("one", "local", "d", 3).await;
    eventually("the gauges are there", || async {
        let line = "lessor_agents_live{pool=\"local\"}";
        server.find_metric(line).await == Some(1.0)
    })
    .await;
    let said = runbook::run("scaling.md", &server.url).await;
    assert!(
        said.contains("\"desired_agents\":0") && said.contains("DESIRED_AGENTS"),
        "{said}"
    );
}
