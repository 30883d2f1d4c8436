//! The calls on sessions and pools, as their users meet them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lessor_protocol::{
    Action, DesiredState, Outcome, ReportedFailure, ReportedState, SessionState,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::checks::{count, leftovers, the_books_agree};
use crate::support::{TestAgent, TestServer, report};

const POOL: &str = "name platform region lease_ttl_seconds accept_timeout_seconds placement on_lost \
    adopt_timeout_seconds max_attempts attempt_reset_seconds backoff_initial_seconds backoff_max_seconds \
    start_timeout_seconds terminate_timeout_seconds inventory_every_seconds quarantine_seconds \
    keep_ended_seconds agent_retention_seconds slots_per_agent rebalance_min_gain approval labels version created_at updated_at \
    oldest_waiting_seconds counts brake";
const AGENT: &str = "name pool resource_domain capacity held_sessions free_slots labels agent_version \
    protocol_version instance incarnation availability scheduling cordon lease_expires_in_seconds \
    last_heartbeat_at registered_at created_at";
const SESSION: &str = "id name pool platform region owner labels priority spec desired_state state \
    generation observed_generation lease_epoch assigned_agent_id offered_until resource_domain \
    platform_resource_id platform_metadata endpoint requires prefers attempt not_before restart \
    start_timeout_seconds terminate_timeout_seconds idle_timeout_seconds idle_action max_duration_seconds \
    grace_seconds delete_data failure termination_reason last_activity_at created_at updated_at started_at \
    ended_at version";
const REGISTERED: &str = "agent incarnation lease protocol_version keep drop released token";
const LEASE: &str = "ttl_seconds renew_after_seconds self_fence_after_seconds";
const CLAIMED: &str =
    "assignments commands results command_results lost lease scheduling inventory_wanted";
const ASSIGNMENT: &str = "session action lease_epoch generation offered_until";
const RESULT: &str = "session_id outcome code state lease_epoch";
const EVENT: &str = "id kind at pool session_id agent incarnation lease_epoch generation actor from to \
    reason data";
const LEDGER: &str =
    "lease_epoch agent incarnation action offered_at accepted_at ended_at end_reason";

/// Panics unless the object has exactly these fields.
fn has(value: &Value, fields: &str, what: &str) {
    let found: BTreeSet<&str> = value
        .as_object()
        .unwrap_or_else(|| panic!("{what} is no object: {value}"))
        .keys()
        .map(String::as_str)
        .collect();
    let expected: BTreeSet<&str> = fields.split_whitespace().collect();
    assert_eq!(found, expected, "{what}");
}

impl TestServer {
    async fn post(&self, body: Value) -> Value {
        self.send("POST", "/v1/sessions", body.to_string())
            .await
            .ok(201)
    }

    async fn show(&self, id: &Value) -> Value {
        self.fetch(&format!("/v1/sessions/{}", id.as_str().expect("an id")))
            .await
            .ok(200)
    }

    async fn patch(&self, id: &Value, body: Value) -> crate::support::raw::Answer {
        let path = format!("/v1/sessions/{}", id.as_str().expect("an id"));
        self.send("PATCH", &path, body.to_string()).await
    }

    /// The ids of a list, in its order.
    async fn ids(&self, query: &str) -> Vec<Value> {
        let page = self.fetch(&format!("/v1/sessions?{query}")).await.ok(200);
        let items = page["items"].as_array().expect("items").iter();
        items.map(|item| item["id"].clone()).collect()
    }
}

/// Takes the next assignment, accepts it and reports a failure.
async fn fails(agent: &TestAgent, retryable: bool) {
    let assignment = agent.claim(1, 10.0).await.pop().expect("an assignment");
    agent.accepts(&assignment, ReportedState::Starting).await;
    let mut failed = report(&assignment, ReportedState::Failed);
    failed.failure = Some(Some(ReportedFailure {
        reason: "image_pull".to_owned(),
        message: "no such image".to_owned(),
        exit_code: None,
        retryable,
        at: None,
    }));
    agent.try_report(vec![failed]).await.expect("taken");
}

#[tokio::test]
async fn every_field_of_every_shape_is_there() {
    let server = TestServer::start().await;
    let put = server
        .send("PUT", "/v1/pools/p", r#"{"platform":"process"}"#)
        .await;
    assert_eq!(put.header("etag"), "\"1\"");
    let pool = put.ok(201);
    has(&pool, POOL, "Pool");
    has(&pool["counts"], "agents slots sessions", "counts");
    has(&pool["counts"]["agents"], "live expired cordoned", "agents");
    has(&pool["counts"]["slots"], "capacity held free", "slots");
    has(
        &pool["counts"]["sessions"],
        "waiting offered unadopted by_state",
        "sessions",
    );
    has(
        &pool["counts"]["sessions"]["by_state"],
        "pending starting running hibernating hibernated waking terminating terminated failed",
        "by_state",
    );
    let body = r#"{"pool":"p","capacity":3,"instance":{"id":"i"}}"#;
    let registered = server.send("PUT", "/v1/agents/a", body).await.ok(201);
    has(&registered, REGISTERED, "Registered");
    has(&registered["agent"], AGENT, "Agent");
    has(&registered["agent"]["instance"], "id host pid", "instance");
    has(&registered["lease"], LEASE, "Lease");
    assert_eq!(registered["agent"]["resource_domain"], "a");
    server.send("PUT", "/v1/agents/a", body).await.ok(200);
    let cordoned = server
        .send("POST", "/v1/agents/a/cordon", "{}")
        .await
        .ok(200);
    has(&cordoned["cordon"], "reason by since until", "cordon");
    server
        .send("POST", "/v1/agents/a/uncordon", "")
        .await
        .ok(200);

    let session = server.post(json!({"pool": "p", "spec": {}})).await;
    has(&session, SESSION, "Session");
    let n = &registered["incarnation"];
    let claim = json!({"incarnation": n}).to_string();
    let claimed = server
        .send("POST", "/v1/agents/a/claim", claim)
        .await
        .ok(200);
    has(&claimed, CLAIMED, "Claimed");
    has(&claimed["assignments"][0], ASSIGNMENT, "Assignment");
    has(&claimed["assignments"][0]["session"], SESSION, "Session");
    let running = json!({"session_id": session["id"], "lease_epoch": 1, "observed_generation": 1, "state": "running",
        "endpoint": {"protocol": "vnc", "port": 5900}});
    let reports = json!({"incarnation": n, "reports": [running]}).to_string();
    let results = server
        .send("POST", "/v1/agents/a/reports", reports)
        .await
        .ok(200);
    has(&results, "results command_results", "ReportResults");
    has(&results["results"][0], RESULT, "Result");
    let failed = json!({"session_id": session["id"], "lease_epoch": 1, "observed_generation": 1, "state": "failed",
        "failure": {"reason": "broken", "retryable": false}});
    let beat = json!({"incarnation": n}).to_string();
    let renewed = server
        .send("POST", "/v1/agents/a/heartbeat", beat)
        .await
        .ok(200);
    has(
        &renewed,
        "lease scheduling lost inventory_wanted",
        "Renewed",
    );
    let shown = server.show(&session["id"]).await;
    has(&shown["endpoint"], "protocol host port path", "endpoint");
    let reports = json!({"incarnation": n, "reports": [failed]}).to_string();
    server
        .send("POST", "/v1/agents/a/reports", reports)
        .await
        .ok(200);
    let shown = server.show(&session["id"]).await;
    has(
        &shown["failure"],
        "reason message exit_code retryable at",
        "failure",
    );

    let path = format!("/v1/sessions/{}", session["id"].as_str().expect("an id"));
    for (list, fields) in [
        ("/v1/pools", POOL),
        ("/v1/agents", AGENT),
        ("/v1/sessions", SESSION),
        (&*format!("{path}/events"), EVENT),
        (&*format!("{path}/leases"), LEDGER),
    ] {
        let page = server.fetch(list).await.ok(200);
        has(&page, "items next_cursor", list);
        has(&page["items"][0], fields, list);
    }
    let events = server.fetch(&format!("{path}/events")).await.ok(200);
    has(&events["items"][0]["actor"], "type name", "actor");
    has(
        &server.fetch("/v1").await.ok(200),
        "service protocols server_time",
        "Versions",
    );
    server.stop().await;
}

#[tokio::test]
async fn sessions_find_their_pool_and_batches_are_all_or_nothing() {
    let server = TestServer::start().await;
    for (name, platform, region) in [
        ("eu", "docker", "eu"),
        ("us", "docker", "us"),
        ("bare", "process", "eu"),
    ] {
        let body = json!({"platform": platform, "region": region});
        server
            .send("PUT", &format!("/v1/pools/{name}"), body.to_string())
            .await
            .ok(201);
    }
    server.agent("a", "us", "d", 5).await;
    let by = |fields: Value| {
        let mut body = fields;
        body["spec"] = json!({});
        body
    };
    for (fields, pool) in [
        (json!({"pool": "eu"}), "eu"),
        (json!({"platform": "process"}), "bare"),
        (json!({"platform": "docker", "region": "eu"}), "eu"),
        // The most free slots.
        (json!({"platform": "docker"}), "us"),
    ] {
        let made = server.post(by(fields.clone())).await;
        assert_eq!(made["pool"], pool, "{fields}");
    }
    for fields in [
        json!({"platform": "kubernetes"}),
        json!({"platform": "docker", "region": "asia"}),
        json!({"pool": "eu", "region": "us"}),
    ] {
        let answer = server
            .send("POST", "/v1/sessions", by(fields.clone()).to_string())
            .await;
        answer.is_problem(409, "no_matching_pool", &fields.to_string());
    }
    let before = server.ids("limit=500").await.len();
    for (last, status, code) in [
        (json!({"pool": "none", "spec": {}}), 404, "pool_not_found"),
        (
            json!({"platform": "none", "spec": {}}),
            409,
            "no_matching_pool",
        ),
        (
            json!({"pool": "eu", "spec": {}, "name": "first"}),
            409,
            "name_taken",
        ),
    ] {
        let batch = json!({"sessions": [{"pool": "eu", "spec": {}, "name": "first"}, {"pool": "us", "spec": {}}, last]});
        let answer = server
            .send("POST", "/v1/sessions/batch", batch.to_string())
            .await;
        answer.is_problem(status, code, "a batch");
    }
    let invalid = json!({"sessions": [{"pool": "eu", "spec": {}}, {"pool": "us", "spec": {}, "priority": 9999}]});
    let answer = server
        .send("POST", "/v1/sessions/batch", invalid.to_string())
        .await;
    assert_eq!(
        answer.json()["errors"][0]["pointer"],
        "/sessions/1/priority"
    );
    assert_eq!(
        server.ids("limit=500").await.len(),
        before,
        "nothing of them was made"
    );
    let batch = json!({"sessions": [{"pool": "eu", "spec": 1}, {"pool": "us", "spec": 2}]});
    let made = server
        .send("POST", "/v1/sessions/batch", batch.to_string())
        .await
        .ok(201);
    assert_eq!(
        (&made["items"][0]["spec"], &made["items"][1]["pool"]),
        (&json!(1), &json!("us"))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_spec_survives_byte_for_byte() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 5).await;
    let spec = "{\"z\":1e400,\"a\":1,\"a\":2, \"nul\":\"\\u0000\",\"u\":\"\\ud83d\\ude00 ü\",\"n\":123456789012345678901234567890,\"f\":1.10}";
    let body = format!("{{\"pool\":\"p\",\"spec\":{spec}}}");
    let key = [
        ("content-type", "application/json"),
        ("idempotency-key", "k"),
    ];
    let answer = server.raw("POST", "/v1/sessions", &key, body.clone()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.text.contains(spec), "POST: {answer:?}");
    let location = answer.header("location").to_owned();
    let again = server.raw("POST", "/v1/sessions", &key, body).await;
    assert_eq!(again.text, answer.text, "replayed");
    let shown = server.fetch(&location).await;
    assert!(shown.text.contains(spec), "GET: {shown:?}");
    let list = server.fetch("/v1/sessions").await;
    assert!(list.text.contains(spec), "list: {list:?}");
    let claim = json!({"incarnation": agent.incarnation}).to_string();
    let claimed = server.send("POST", "/v1/agents/a/claim", claim).await;
    assert!(claimed.text.contains(spec), "claim: {claimed:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_name_is_a_second_id() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let made = server
        .post(json!({"pool": "p", "spec": {}, "name": "desk"}))
        .await;
    let body = r#"{"pool":"p","spec":{},"name":"desk"}"#;
    let answer = server.send("POST", "/v1/sessions", body).await;
    answer.is_problem(409, "name_taken", "the same name");
    assert!(
        answer.json()["detail"]
            .as_str()
            .is_some_and(|d| d.contains("`desk`")),
        "{answer:?}"
    );
    assert_eq!(
        server.fetch("/v1/sessions/desk").await.ok(200)["id"],
        made["id"]
    );
    assert_eq!(server.fetch("/v1/sessions/desk/events").await.status, 200);
    assert_eq!(
        server.send("DELETE", "/v1/sessions/desk", "").await.ok(202)["id"],
        made["id"]
    );
    server.stop().await;
}

#[tokio::test]
async fn lists_filter_and_page_newest_first() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.pool("q", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let run = server
        .post(json!({"pool": "p", "spec": {}, "owner": "ann", "name": "one", "labels": {"team": "blue", "tier": "1"}}))
        .await;
    agent.runs_one().await;
    let cold = server
        .post(json!({"pool": "p", "spec": {}, "owner": "bob", "desired_state": "hibernated", "labels": {"team": "blue"}}))
        .await;
    let other = server
        .post(json!({"pool": "q", "spec": {}, "owner": "ann"}))
        .await;
    let (run_id, cold_id, other_id) = (&run["id"], &cold["id"], &other["id"]);
    let middle = cold["created_at"].as_str().expect("a time");
    for (query, expected) in [
        (String::new(), vec![other_id, cold_id, run_id]),
        ("pool=p".to_owned(), vec![cold_id, run_id]),
        ("pool=none".to_owned(), vec![]),
        ("state=running".to_owned(), vec![run_id]),
        (
            "state=running,pending".to_owned(),
            vec![other_id, cold_id, run_id],
        ),
        ("desired_state=hibernated".to_owned(), vec![cold_id]),
        ("assigned_agent_id=a".to_owned(), vec![run_id]),
        ("assigned=true".to_owned(), vec![run_id]),
        ("assigned=false".to_owned(), vec![other_id, cold_id]),
        ("owner=ann".to_owned(), vec![other_id, run_id]),
        ("name=one".to_owned(), vec![run_id]),
        ("label=team:blue".to_owned(), vec![cold_id, run_id]),
        ("label=team:blue&label=tier:1".to_owned(), vec![run_id]),
        ("resource_domain=d".to_owned(), vec![run_id]),
        (format!("created_after={middle}"), vec![other_id]),
        (format!("created_before={middle}"), vec![run_id]),
        ("owner=ann&pool=p&state=running".to_owned(), vec![run_id]),
    ] {
        let found = server.ids(&query).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    // Pages: nothing twice, nothing left out, filters kept by the caller.
    server.sessions("q", 20).await;
    let whole = server.ids("limit=500").await;
    assert_eq!(whole.len(), 23);
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server
            .fetch(&format!("/v1/sessions?limit=5{cursor}"))
            .await
            .ok(200);
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 5);
        paged.extend(items.iter().map(|item| item["id"].clone()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, whole);
    let agents = format!("/v1/agents?{}", cursor.trim_start_matches('&'));
    server
        .fetch(&agents)
        .await
        .is_problem(422, "validation_failed", "another list's cursor");
    server.stop().await;
}

#[tokio::test]
async fn waiting_ends_when_the_state_is_reached_or_never_can_be_or_time_is_over() {
    let server = TestServer::start().await;
    let other = server.beside().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await;
    let path = |query: &str| format!("/v1/sessions/{}?wait_for={query}", session.id);
    let pending = server
        .fetch(&path("running&wait_seconds=0.2"))
        .await
        .ok(200);
    assert_eq!(pending["state"], "pending", "time is over");
    // Through the other server, and quickly: its own look is two seconds away.
    let wait = path("running,failed&wait_seconds=30");
    let waiting = other.fetch(&wait);
    let work = async {
        let assignment = agent.claim(1, 5.0).await.pop().expect("an assignment");
        // It waits by now, or it will find the session running at once; both are the promise.
        agent.accepts(&assignment, ReportedState::Starting).await;
        agent.accepts(&assignment, ReportedState::Running).await;
        Instant::now()
    };
    let (waited, since) = tokio::join!(async { (waiting.await, Instant::now()) }, work);
    let (answer, at) = waited;
    assert_eq!(answer.ok(200)["state"], "running");
    let late = at.saturating_duration_since(since);
    assert!(
        late < Duration::from_millis(1_500),
        "{late:?} after the report"
    );
    // A state that cannot come any more is not waited for.
    let id = session.id.to_string();
    server
        .client
        .delete_session(&id, &Default::default())
        .await
        .expect("202");
    let asked = Instant::now();
    let answer = other.fetch(&path("running&wait_seconds=30")).await.ok(200);
    assert_eq!(answer["desired_state"], "terminated");
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "it waited for what cannot be"
    );
    server
        .fetch(&path("flying"))
        .await
        .is_problem(422, "validation_failed", "no such state");
    server
        .fetch(&path("running&wait_seconds=56"))
        .await
        .is_problem(422, "validation_failed", "too long");
    let bare = format!("/v1/sessions/{id}?wait_seconds=1");
    server
        .fetch(&bare)
        .await
        .is_problem(422, "validation_failed", "without wait_for");
    other.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn versions_rise_with_changes_and_with_nothing_else() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let made = server
        .post(json!({"pool": "p", "spec": {}, "labels": {"a": "1", "b": "2"}}))
        .await;
    let id = &made["id"];
    let path = format!("/v1/sessions/{}", id.as_str().expect("an id"));
    let answer = server.fetch(&path).await;
    assert_eq!(answer.header("etag"), "\"1\"");
    let same = server
        .raw("GET", &path, &[("if-none-match", "W/\"1\"")], "")
        .await;
    assert_eq!(
        (same.status, same.text.as_str(), same.header("etag")),
        (304, "", "\"1\"")
    );
    // Labels and priority: the version, not the generation.
    let json_and = |tag: &'static str| {
        [
            ("content-type", "application/merge-patch+json"),
            ("if-match", tag),
        ]
    };
    let patch = r#"{"labels":{"a":null,"c":"3"},"priority":7,"start_timeout_seconds":9}"#;
    let answer = server.raw("PATCH", &path, &json_and("\"1\""), patch).await;
    assert_eq!(answer.header("etag"), "\"2\"");
    let patched = answer.ok(200);
    assert_eq!(
        (
            &patched["version"],
            &patched["generation"],
            &patched["labels"],
            &patched["priority"]
        ),
        (
            &json!(2),
            &json!(1),
            &json!({"b": "2", "c": "3"}),
            &json!(7)
        )
    );
    assert_eq!(patched["start_timeout_seconds"], 9.0);
    let modified = server
        .raw("GET", &path, &[("if-none-match", "\"1\"")], "")
        .await;
    assert_eq!(modified.status, 200);
    // The same again is no change; null clears.
    assert_eq!(
        server.patch(id, json!({"priority": 7})).await.ok(200)["version"],
        2
    );
    assert_eq!(server.patch(id, json!({})).await.ok(200)["version"], 2);
    let cleared = server
        .patch(id, json!({"start_timeout_seconds": null}))
        .await
        .ok(200);
    assert_eq!(
        (&cleared["version"], &cleared["start_timeout_seconds"]),
        (&json!(3), &Value::Null)
    );
    // Beats and deliveries raise nothing.
    let offered = agent.claim(1, 5.0).await.pop().expect("an offer");
    let version = server.show(id).await["version"].clone();
    for _ in 0..3 {
        agent.beat().await.expect("a beat");
    }
    // Not acknowledged, so it is told once more.
    let again = agent.claim(1, 10.0).await.pop().expect("the same again");
    assert_eq!(again.lease_epoch, offered.lease_epoch);
    assert_eq!(server.show(id).await["version"], version);
    // The same report again is no event.
    agent.accepts(&offered, ReportedState::Running).await;
    let version = server.show(id).await["version"].clone();
    agent.accepts(&offered, ReportedState::Running).await;
    assert_eq!(server.show(id).await["version"], version);
    // What is wanted raises the generation.
    let wanted = server
        .patch(id, json!({"desired_state": "hibernated"}))
        .await
        .ok(200);
    assert_eq!(
        (&wanted["generation"], &wanted["observed_generation"]),
        (&json!(2), &json!(1))
    );
    let same = server
        .patch(id, json!({"desired_state": "hibernated"}))
        .await
        .ok(200);
    assert_eq!(same["generation"], 2);
    server.stop().await;
}

#[tokio::test]
async fn hibernates_and_wakes() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await;
    let id = json!(session.id);
    agent.runs_one().await;
    server
        .patch(&id, json!({"desired_state": "hibernated"}))
        .await
        .ok(200);
    let work = agent.claim(0, 5.0).await.pop().expect("work");
    assert_eq!((work.action, work.generation), (Action::Hibernate, 2));
    agent.accepts(&work, ReportedState::Hibernating).await;
    agent.accepts(&work, ReportedState::Hibernated).await;
    let cold = server.get(session.id).await;
    assert_eq!(
        (cold.state, cold.assigned_agent_id, cold.observed_generation),
        (SessionState::Hibernated, None, 2)
    );
    assert_eq!(cold.resource_domain.as_deref(), Some("d"));
    server
        .patch(&id, json!({"desired_state": "running"}))
        .await
        .ok(200);
    let work = agent.claim(1, 5.0).await.pop().expect("work");
    assert_eq!((work.action, work.generation), (Action::Wake, 3));
    agent.accepts(&work, ReportedState::Waking).await;
    agent.accepts(&work, ReportedState::Running).await;
    let warm = server.get(session.id).await;
    assert_eq!(
        (warm.state, warm.observed_generation),
        (SessionState::Running, 3)
    );
    assert!(warm.lease_epoch > cold.lease_epoch);
    server.stop().await;
}

#[tokio::test]
async fn failures_are_tried_again_until_they_are_dead_letters() {
    let server = TestServer::start().await;
    server
        .pool("p", |spec| {
            spec.max_attempts = 2;
            spec.backoff_initial_seconds = 0.2;
            spec.backoff_max_seconds = 0.2;
        })
        .await;
    let agent = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await;
    let (id, path) = (json!(session.id), format!("/v1/sessions/{}", session.id));
    let retry = format!("{path}/retry");
    server.send("POST", &retry, "").await.is_problem(
        409,
        "session_not_failed",
        "a session that waits",
    );
    fails(&agent, true).await;
    let again = server.show(&id).await;
    assert_eq!(
        (&again["state"], &again["attempt"]),
        (&json!("pending"), &json!(2))
    );
    assert!(again["not_before"].is_string(), "{again}");
    assert_eq!(again["failure"]["reason"], "image_pull");
    assert_eq!(
        (&again["resource_domain"], &again["assigned_agent_id"]),
        (&Value::Null, &Value::Null)
    );
    fails(&agent, true).await;
    let dead = server.show(&id).await;
    assert_eq!(
        (&dead["state"], &dead["desired_state"]),
        (&json!("failed"), &json!("running"))
    );
    let events = server.fetch(&format!("{path}/events")).await.ok(200);
    let kinds: Vec<&Value> = events["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|e| &e["kind"])
        .collect();
    assert!(
        kinds.contains(&&json!("session.dead_lettered")),
        "{kinds:?}"
    );
    server
        .patch(&id, json!({"desired_state": "running"}))
        .await
        .is_problem(409, "transition_not_allowed", "a dead letter");
    let retried = server.send("POST", &retry, "").await.ok(200);
    assert_eq!(
        (&retried["state"], &retried["attempt"]),
        (&json!("pending"), &json!(3))
    );
    assert!(
        retried["generation"].as_i64() > dead["generation"].as_i64(),
        "{retried}"
    );
    // Its count is clean: one failure is not the last.
    fails(&agent, true).await;
    assert_eq!(server.show(&id).await["state"], "pending");
    // A failure that no other attempt would cure.
    fails(&agent, false).await;
    assert_eq!(server.show(&id).await["state"], "failed");
    server.send("DELETE", &path, "").await.ok(202);
    server.send("POST", &retry, "").await.is_problem(
        409,
        "session_not_failed",
        "one whose end is wanted",
    );
    // Never means the first failure.
    for assignment in agent.claim(1, 5.0).await {
        assert_eq!(assignment.action, Action::Terminate);
        agent.accepts(&assignment, ReportedState::Terminated).await;
    }
    let never = server
        .post(json!({"pool": "p", "spec": {}, "restart": "never"}))
        .await;
    fails(&agent, true).await;
    let never = server.show(&never["id"]).await;
    assert_eq!(
        (&never["state"], &never["attempt"]),
        (&json!("failed"), &json!(1)),
        "{never}"
    );
    server.stop().await;
}

/// What a failed attempt may have left is its domain's to delete, and what ran for long enough has
/// its tries anew.
#[tokio::test]
async fn each_failed_attempt_is_a_leftover_and_a_long_run_clears_the_count() {
    let server = TestServer::start().await;
    server
        .pool("p", |spec| {
            spec.max_attempts = 2;
            spec.backoff_initial_seconds = 1.0;
            spec.backoff_max_seconds = 1.0;
            spec.attempt_reset_seconds = 600.0;
        })
        .await;
    let agent = server.agent("a", "p", "d", 1).await;
    let sql = server.database.client().await;
    let id = server.session("p").await.id;
    let resource = Some(format!("resource-{id}"));
    let left = |attempt: i32| ("d".to_owned(), attempt, resource.clone());
    for attempt in 1..=2 {
        let running = agent.runs_one().await;
        assert_eq!(running.session.attempt, attempt);
        assert_eq!(running.session.platform_resource_id, None);
        // It has run for long, so that neither of these failures is the second in a row.
        sql.execute(
            "UPDATE sessions SET started_at = now() - interval '601 seconds'",
            &[],
        )
        .await
        .expect("it ran for long");
        agent.accepts(&running, ReportedState::Failed).await;
        let again = server.get(id).await;
        assert_eq!(
            (again.state, again.attempt),
            (SessionState::Pending, attempt + 1),
            "{again:#?}"
        );
        assert_eq!((again.platform_resource_id, again.endpoint), (None, None));
        let expected: Vec<_> = (1..=attempt).map(left).collect();
        assert_eq!(leftovers(&server, id).await, expected);
        // Not before the pause is over.
        assert!(agent.claim(1, 0.0).await.is_empty());
    }
    let paused = "SELECT count(*) FROM lease_ledger l JOIN lease_ledger b
        ON b.lease_epoch = l.lease_epoch - 1
        WHERE l.offered_at >= b.ended_at + interval '1 second'";
    let running = agent.runs_one().await;
    assert_eq!(count(&server, paused).await, 2);
    // The second failure in a row: what is left of it stays the session's, to be ended or retried.
    agent.accepts(&running, ReportedState::Failed).await;
    let dead = server.get(id).await;
    assert_eq!((dead.state, dead.attempt), (SessionState::Failed, 3));
    assert_eq!(dead.platform_resource_id, resource);
    assert_eq!(leftovers(&server, id).await, [left(1), left(2)]);
    let retry = format!("/v1/sessions/{id}/retry");
    server.send("POST", &retry, "").await.ok(200);
    assert_eq!(leftovers(&server, id).await, [left(1), left(2), left(3)]);
    let last = agent.runs_one().await;
    assert_eq!(last.session.attempt, 4);
    assert_eq!(last.session.platform_resource_id, None);
    agent.accepts(&last, ReportedState::Terminated).await;
    // A failure that another attempt would not cure is the last, though it is the first.
    let hopeless = server.session("p").await.id;
    fails(&agent, false).await;
    let dead = server.get(hopeless).await;
    assert_eq!((dead.state, dead.attempt), (SessionState::Failed, 1));
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_end_that_fails_is_tried_again_after_a_pause_and_is_no_dead_letter() {
    let server = TestServer::start().await;
    server
        .pool("p", |spec| {
            spec.max_attempts = 1;
            spec.backoff_initial_seconds = 1.0;
            spec.backoff_max_seconds = 1.0;
        })
        .await;
    let agent = server.agent("a", "p", "d", 1).await;
    let id = server.session("p").await.id;
    agent.runs_one().await;
    let path = format!("/v1/sessions/{id}");
    server.send("DELETE", &path, "").await.ok(202);
    let end = agent.claim(1, 5.0).await.remove(0);
    for turn in 0..2 {
        let end = if turn == 0 {
            end.clone()
        } else {
            agent.claim(1, 20.0).await.remove(0)
        };
        assert_eq!(end.action, Action::Terminate);
        let version = server.get(id).await.version;
        let mut failed = report(&end, ReportedState::Failed);
        failed.failure = Some(Some(ReportedFailure {
            reason: format!("turn_{turn}"),
            message: "the platform said no".to_owned(),
            exit_code: None,
            retryable: false,
            at: None,
        }));
        let results = agent.try_report(vec![failed]).await.expect("an answer");
        assert_eq!(results[0].outcome, Outcome::Accepted, "{results:?}");
        let now = server.get(id).await;
        assert_eq!(now.version, version + 1);
        let failure = now.failure.expect("it says why");
        assert_eq!(failure.reason, format!("turn_{turn}"));
        assert_eq!(
            (now.state, now.assigned_agent_id),
            (SessionState::Failed, None)
        );
        // The resource is still known to whoever tries next.
        assert_eq!(now.platform_resource_id, Some(format!("resource-{id}")));
        assert!(agent.claim(1, 0.0).await.is_empty());
    }
    let end = agent.claim(1, 20.0).await.remove(0);
    agent.accepts(&end, ReportedState::Terminated).await;
    assert_eq!(server.get(id).await.state, SessionState::Terminated);
    let events = server.fetch(&format!("{path}/events")).await.ok(200);
    let events = events["items"].as_array().expect("items").clone();
    assert!(
        events.iter().all(|e| e["kind"] != "session.dead_lettered"),
        "{events:?}"
    );
    let early = "SELECT count(*) FROM lease_ledger l JOIN lease_ledger b
        ON b.lease_epoch = l.lease_epoch - 1
        WHERE l.offered_at < b.ended_at + interval '1 second'";
    assert_eq!(count(&server, early).await, 0);
    assert!(leftovers(&server, id).await.is_empty());
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_ends_by_itself_or_by_wish_stays_ended() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 2).await;
    let session = server.session("p").await;
    let assignment = agent.runs_one().await;
    agent.accepts(&assignment, ReportedState::Terminated).await;
    let ended = server.get(session.id).await;
    assert_eq!(
        (
            ended.state,
            ended.desired_state,
            ended.termination_reason.as_deref()
        ),
        (
            SessionState::Terminated,
            DesiredState::Terminated,
            Some("completed")
        )
    );
    assert!(ended.ended_at.is_some() && ended.assigned_agent_id.is_none());
    server
        .patch(&json!(session.id), json!({"desired_state": "running"}))
        .await
        .is_problem(409, "transition_not_allowed", "an ended session");
    // DELETE: again is the same; the end is told with its settings.
    let other = server.session("p").await;
    agent.runs_one().await;
    let path = format!("/v1/sessions/{}", other.id);
    let query = format!("{path}?reason=bye&grace_seconds=5&delete_data=true");
    let first = server.send("DELETE", &query, "").await.ok(202);
    assert_eq!(
        (
            &first["desired_state"],
            &first["termination_reason"],
            &first["grace_seconds"],
            &first["delete_data"]
        ),
        (
            &json!("terminated"),
            &json!("bye"),
            &json!(5.0),
            &json!(true)
        )
    );
    let again = server.send("DELETE", &path, "").await.ok(202);
    assert_eq!(
        (&again["version"], &again["generation"]),
        (&first["version"], &first["generation"])
    );
    server
        .patch(&json!(other.id), json!({"desired_state": "running"}))
        .await
        .is_problem(409, "transition_not_allowed", "one that is to end");
    // One that nobody has begun ends at once.
    let idle = server.session("p").await;
    let gone = server
        .send("DELETE", &format!("/v1/sessions/{}", idle.id), "")
        .await
        .ok(202);
    assert_eq!(gone["state"], "terminated");
    server.stop().await;
}

#[tokio::test]
async fn history_tells_who_did_what_also_to_people() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 2).await;
    let session = server.session("p").await;
    let assignment = agent.runs_one().await;
    agent.accepts(&assignment, ReportedState::Terminated).await;
    let path = format!("/v1/sessions/{}", session.id);
    let events = server.fetch(&format!("{path}/events")).await.ok(200);
    let items = events["items"].as_array().expect("items");
    let mut kinds: Vec<&str> = items
        .iter()
        .map(|e| e["kind"].as_str().expect("a kind"))
        .collect();
    kinds.reverse();
    assert_eq!(
        kinds[..3],
        ["session.created", "session.offered", "session.accepted"],
        "{kinds:?}"
    );
    assert!(kinds.contains(&"session.state_changed"), "{kinds:?}");
    let (created, offered) = (&items[items.len() - 1], &items[items.len() - 2]);
    assert_eq!(
        created["actor"],
        json!({"type": "user", "name": "anonymous"})
    );
    assert_eq!(
        (
            &offered["agent"],
            &offered["lease_epoch"],
            &offered["incarnation"]
        ),
        (&json!("a"), &json!(1), &json!(agent.incarnation))
    );
    let states: Vec<(&Value, &Value)> = items
        .iter()
        .rev()
        .filter(|e| e["kind"] == "session.state_changed")
        .map(|e| (&e["from"], &e["to"]))
        .collect();
    assert_eq!(
        states,
        [
            (&json!("pending"), &json!("running")),
            (&json!("running"), &json!("terminated"))
        ]
    );
    let ids: BTreeSet<&str> = items
        .iter()
        .map(|e| e["id"].as_str().expect("an id"))
        .collect();
    assert_eq!(ids.len(), items.len());
    let page = server
        .fetch(&format!("{path}/events?limit=2"))
        .await
        .ok(200);
    let next = page["next_cursor"].as_str().expect("more");
    let rest = server
        .fetch(&format!("{path}/events?limit=500&cursor={next}"))
        .await
        .ok(200);
    assert_eq!(rest["items"][0], items[2]);
    let leases = server.fetch(&format!("{path}/leases")).await.ok(200);
    assert_eq!(leases["items"].as_array().map(Vec::len), Some(1));
    let line = &leases["items"][0];
    assert_eq!(
        (
            &line["lease_epoch"],
            &line["agent"],
            &line["action"],
            &line["end_reason"]
        ),
        (
            &json!(1),
            &json!("a"),
            &json!("start"),
            &json!("terminated")
        )
    );
    assert!(
        line["accepted_at"].is_string() && line["ended_at"].is_string(),
        "{line}"
    );
    // The same for people at a terminal.
    for (at, columns, cell) in [
        (path.clone(), "ID", "terminated"),
        (
            "/v1/sessions".to_owned(),
            "ID NAME POOL OWNER STATE",
            "terminated",
        ),
        (
            format!("{path}/events"),
            "AT KIND FROM TO AGENT",
            "session.offered",
        ),
        (
            format!("{path}/leases"),
            "EPOCH AGENT INCARNATION ACTION",
            "start",
        ),
        ("/v1/pools".to_owned(), "NAME", "process"),
        ("/v1/agents".to_owned(), "NAME", "live"),
    ] {
        let table = server
            .raw("GET", &at, &[("accept", "text/plain")], "")
            .await;
        assert_eq!(table.status, 200, "{at}");
        assert!(
            table.header("content-type").starts_with("text/plain"),
            "{table:?}"
        );
        assert!(
            table.header("vary").to_ascii_lowercase().contains("accept"),
            "{table:?}"
        );
        let head: Vec<&str> = table
            .text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        assert!(head.join(" ").starts_with(columns), "{at}: {head:?}");
        assert!(table.text.contains(cell), "{at}: {}", table.text);
        let json = server.raw("GET", &at, &[("accept", "*/*")], "").await;
        assert_eq!(json.header("content-type"), "application/json", "{at}");
        assert!(
            json.header("vary").to_ascii_lowercase().contains("accept"),
            "{json:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_key_creates_once() {
    let server = TestServer::start().await;
    let other = server.beside().await;
    server.pool("p", |_| {}).await;
    let key = [
        ("content-type", "application/json"),
        ("idempotency-key", "k-1"),
    ];
    let body = r#"{"pool":"p","spec":{"command":["true"]}}"#;
    let twins = futures_util::future::join_all((0..8).map(|index| {
        let to = if index % 2 == 0 { &server } else { &other };
        to.raw("POST", "/v1/sessions", &key, body)
    }))
    .await;
    let first = &twins[0];
    for twin in &twins {
        assert_eq!((twin.status, &twin.text), (201, &first.text));
        assert_eq!(twin.header("location"), first.header("location"));
        assert_eq!(twin.header("etag"), "\"1\"");
    }
    let replayed = twins
        .iter()
        .filter(|twin| twin.header("idempotency-replayed") == "true");
    assert_eq!(replayed.count(), 7, "one of them is the first");
    assert_eq!(server.ids("limit=500").await.len(), 1);
    // It is per path, and a refusal is not kept.
    let batch = r#"{"sessions":[{"pool":"p","spec":1},{"pool":"p","spec":2}]}"#;
    let made = server.raw("POST", "/v1/sessions/batch", &key, batch).await;
    let again = server.raw("POST", "/v1/sessions/batch", &key, batch).await;
    assert_eq!(
        (made.status, again.status, &again.text),
        (201, 201, &made.text)
    );
    assert_eq!(again.header("idempotency-replayed"), "true");
    let key = [
        ("content-type", "application/json"),
        ("idempotency-key", "k-2"),
    ];
    let early = r#"{"pool":"later","spec":{}}"#;
    server
        .raw("POST", "/v1/sessions", &key, early)
        .await
        .is_problem(404, "pool_not_found", "no pool yet");
    server.pool("later", |_| {}).await;
    assert_eq!(
        server.raw("POST", "/v1/sessions", &key, early).await.status,
        201
    );
    other.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn pools_are_put_patched_counted_and_deleted() {
    let server = TestServer::start().await;
    let put = |body: Value| server.send("PUT", "/v1/pools/p", body.to_string());
    let made = put(json!({"platform": "process", "max_attempts": 9, "labels": {"a": "1"}}))
        .await
        .ok(201);
    assert_eq!(
        (&made["version"], &made["lease_ttl_seconds"]),
        (&json!(1), &json!(30.0))
    );
    let same = put(json!({"platform": "process", "max_attempts": 9, "labels": {"a": "1"}}))
        .await
        .ok(200);
    assert_eq!(same["version"], 1, "the same again is no change");
    let replaced = put(json!({"platform": "process"})).await.ok(200);
    assert_eq!(
        (
            &replaced["version"],
            &replaced["max_attempts"],
            &replaced["labels"]
        ),
        (&json!(2), &json!(5), &json!({}))
    );
    put(json!({"platform": "docker"})).await.is_problem(
        409,
        "pool_platform_fixed",
        "another platform",
    );
    let patch = |body: Value| server.send("PATCH", "/v1/pools/p", body.to_string());
    let patched = patch(json!({"max_attempts": 3, "placement": "pack", "labels": {"x": "y"}}))
        .await
        .ok(200);
    assert_eq!(
        (&patched["max_attempts"], &patched["placement"]),
        (&json!(3), &json!("pack"))
    );
    let back = patch(json!({"max_attempts": null, "labels": {"x": null, "z": "1"}}))
        .await
        .ok(200);
    assert_eq!(
        (&back["max_attempts"], &back["placement"], &back["labels"]),
        (&json!(5), &json!("pack"), &json!({"z": "1"}))
    );
    patch(json!({"platform": "docker"})).await.is_problem(
        409,
        "pool_platform_fixed",
        "another platform",
    );
    patch(json!({"platform": null}))
        .await
        .is_problem(422, "validation_failed", "no platform");
    patch(json!({"colour": "red"}))
        .await
        .is_problem(422, "validation_failed", "unknown");
    patch(json!({"max_attempts": 0}))
        .await
        .is_problem(422, "validation_failed", "none");
    let only_new = [("content-type", "application/json"), ("if-none-match", "*")];
    let answer = server
        .raw("PUT", "/v1/pools/p", &only_new, r#"{"platform":"process"}"#)
        .await;
    answer.is_problem(412, "version_mismatch", "it is there");

    let agent = server.agent("a", "p", "d", 3).await;
    server.sessions("p", 4).await;
    agent.runs_one().await;
    agent.claim(1, 5.0).await;
    let counts = server.fetch("/v1/pools/p").await.ok(200)["counts"].clone();
    assert_eq!(
        counts["agents"],
        json!({"live": 1, "expired": 0, "cordoned": 0})
    );
    assert_eq!(
        counts["slots"],
        json!({"capacity": 3, "held": 2, "free": 1})
    );
    assert_eq!(
        (
            &counts["sessions"]["waiting"],
            &counts["sessions"]["offered"]
        ),
        (&json!(2), &json!(1))
    );
    assert_eq!(
        (
            &counts["sessions"]["by_state"]["running"],
            &counts["sessions"]["by_state"]["pending"]
        ),
        (&json!(1), &json!(3))
    );
    server
        .send("DELETE", "/v1/pools/p", "")
        .await
        .is_problem(409, "pool_not_empty", "in use");
    server.pool("empty", |_| {}).await;
    assert_eq!(
        server.send("DELETE", "/v1/pools/empty", "").await.status,
        204
    );
    server
        .fetch("/v1/pools/empty")
        .await
        .is_problem(404, "pool_not_found", "deleted");
    let names: Vec<Value> = server.fetch("/v1/pools").await.ok(200)["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|p| p["name"].clone())
        .collect();
    assert_eq!(names, ["p"]);
    server.stop().await;
}

#[tokio::test]
async fn a_session_of_another_id_is_not_found() {
    let server = TestServer::start().await;
    let path = format!("/v1/sessions/{}", Uuid::now_v7());
    server
        .fetch(&path)
        .await
        .is_problem(404, "session_not_found", "no such id");
    server.stop().await;
}
