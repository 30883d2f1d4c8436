//! What bad input gets: a listed problem, always of the same shape, never a 500.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lessor_protocol::{NewSession, Outcome, ReportCode, ReportedState};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{TestServer, database, report};

/// One wrong call, and the problem it must get.
struct Wrong {
    what: &'static str,
    method: &'static str,
    path: String,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    /// The pointer of the first error, if it matters.
    pointer: Option<&'static str>,
}

fn wrong(
    what: &'static str,
    (method, path): (&'static str, &str),
    body: impl Into<Vec<u8>>,
    (status, code): (u16, &'static str),
    pointer: &'static str,
) -> Wrong {
    Wrong {
        what,
        method,
        path: path.to_owned(),
        body: body.into(),
        status,
        code,
        pointer: Some(pointer).filter(|_| code == "validation_failed"),
    }
}

fn invalid(
    what: &'static str,
    at: (&'static str, &str),
    body: impl Into<Vec<u8>>,
    pointer: &'static str,
) -> Wrong {
    wrong(what, at, body, (422, "validation_failed"), pointer)
}

async fn check(server: &TestServer, wrongs: Vec<Wrong>) {
    for wrong in wrongs {
        let answer = server.send(wrong.method, &wrong.path, wrong.body).await;
        answer.is_problem(wrong.status, wrong.code, wrong.what);
        if let Some(pointer) = wrong.pointer {
            assert_eq!(
                answer.json()["errors"][0]["pointer"],
                pointer,
                "{}: {answer:?}",
                wrong.what
            );
        }
    }
}

const SESSIONS: (&str, &str) = ("POST", "/v1/sessions");
const POOL: (&str, &str) = ("PUT", "/v1/pools/q");
const AGENT: (&str, &str) = ("PUT", "/v1/agents/b");

/// A session with one more field.
fn session_with(field: &str, value: Value) -> String {
    let mut body = json!({"pool": "p", "spec": {}});
    body[field] = value;
    body.to_string()
}

/// A pool with one more field.
fn pool_with(field: &str, value: Value) -> String {
    let mut body = json!({"platform": "process"});
    body[field] = value;
    body.to_string()
}

/// A registration with one more field.
fn agent_with(field: &str, value: Value) -> String {
    let mut body = json!({"pool": "p", "capacity": 1});
    body[field] = value;
    body.to_string()
}

fn labels(count: usize) -> Value {
    (0..count)
        .map(|index| (format!("k{index}"), json!("v")))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test]
async fn bodies_that_are_no_json_are_malformed() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let malformed = |what, body: &[u8]| wrong(what, SESSIONS, body, (400, "malformed_json"), "");
    let nested = format!(
        "{{\"pool\":\"p\",\"labels\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let wrongs = vec![
        malformed("empty", b""),
        malformed("cut off", b"{\"pool\":\"p\",\"spec\":"),
        malformed("single quotes", b"{'pool':'p'}"),
        malformed("trailing comma", b"{\"pool\":\"p\",\"spec\":{},}"),
        malformed("two documents", b"{\"pool\":\"p\",\"spec\":{}} {}"),
        malformed("invalid UTF-8", b"{\"pool\":\"p\",\"spec\":\"\xff\"}"),
        malformed(
            "lone control character",
            b"{\"pool\":\"p\",\"spec\":\"\x01\"}",
        ),
        malformed(
            "byte order mark",
            b"\xef\xbb\xbf{\"pool\":\"p\",\"spec\":{}}",
        ),
        malformed("NaN", b"{\"pool\":\"p\",\"spec\":NaN}"),
    ];
    check(&server, wrongs).await;
    // Nested too deep: refused one way or the other, and the stack holds.
    let answer = server.send("POST", "/v1/sessions", nested).await;
    assert!(
        [(400, "malformed_json"), (422, "validation_failed")]
            .contains(&(answer.status, answer.json()["code"].as_str().unwrap_or(""))),
        "{answer:?}"
    );
    let spec = format!(
        "{{\"pool\":\"p\",\"spec\":{}{}}}",
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let answer = server.send("POST", "/v1/sessions", spec).await;
    assert!(
        (400..=422).contains(&answer.status),
        "deep inside spec: {answer:?}"
    );
    answer.is_problem(
        answer.status,
        answer.json()["code"].as_str().unwrap_or(""),
        "deep inside spec",
    );
    server.stop().await;
}

#[tokio::test]
async fn values_that_are_not_allowed_are_named() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let big = "x".repeat(65_537);
    let session =
        |what, field, value, pointer| invalid(what, SESSIONS, session_with(field, value), pointer);
    let pool = |what, field, value, pointer| invalid(what, POOL, pool_with(field, value), pointer);
    let agent =
        |what, field, value, pointer| invalid(what, AGENT, agent_with(field, value), pointer);
    let wrongs = vec![
        // Shapes.
        session("unknown field", "colour", json!("red"), "/colour"),
        session("wrong type", "priority", json!("high"), "/priority"),
        session("fraction", "priority", json!(1.5), "/priority"),
        session("unknown word", "restart", json!("always"), "/restart"),
        session(
            "null where text is",
            "labels",
            json!({"k": null}),
            "/labels/k",
        ),
        invalid("missing spec", SESSIONS, "{\"pool\":\"p\"}", "/spec"),
        invalid("no pool", SESSIONS, "{\"spec\":{}}", "/pool"),
        invalid("a list", SESSIONS, "[]", ""),
        invalid(
            "twice",
            SESSIONS,
            r#"{"pool":"p","pool":"q","spec":{}}"#,
            "/pool",
        ),
        invalid(
            "past 64 bits",
            SESSIONS,
            r#"{"pool":"p","spec":{},"priority":99999999999999999999}"#,
            "/priority",
        ),
        invalid(
            "past 64 bits",
            AGENT,
            r#"{"pool":"p","capacity":1,"held":[{"session_id":"01890a5d-ac96-774b-bcce-b302099a8057","lease_epoch":18446744073709551616}]}"#,
            "/held/0/lease_epoch",
        ),
        invalid(
            "past a double",
            SESSIONS,
            r#"{"pool":"p","spec":{},"grace_seconds":1e400}"#,
            "/grace_seconds",
        ),
        // Names and text.
        session("bad pool", "pool", json!("P"), "/pool"),
        session("bad name", "name", json!("-x"), "/name"),
        session("long name", "name", json!("x".repeat(129)), "/name"),
        session(
            "a UUID for a name",
            "name",
            json!("01890a5d-ac96-774b-bcce-b302099a8057"),
            "/name",
        ),
        session(
            "a UUID without dashes",
            "name",
            json!("01890a5dac96774bbcceb302099a8057"),
            "/name",
        ),
        session("NUL in owner", "owner", json!("a\0b"), "/owner"),
        session("long owner", "owner", json!("x".repeat(257)), "/owner"),
        session("NUL in a label", "labels", json!({"k": "\0"}), "/labels/k"),
        session(
            "NUL in a label's key",
            "labels",
            json!({"\0": "v"}),
            "/labels",
        ),
        session("65 labels", "labels", labels(65), "/labels"),
        session(
            "long label",
            "labels",
            json!({"k": "x".repeat(257)}),
            "/labels/k",
        ),
        session("spec over 64 KiB", "spec", json!(big), "/spec"),
        session("NUL in region", "region", json!("\0"), "/region"),
        session("NUL in platform", "platform", json!("\0"), "/platform"),
        // Numbers and times.
        session("priority too high", "priority", json!(1001), "/priority"),
        session("priority too low", "priority", json!(-1001), "/priority"),
        session(
            "timeout 0",
            "start_timeout_seconds",
            json!(0),
            "/start_timeout_seconds",
        ),
        session(
            "timeout too long",
            "terminate_timeout_seconds",
            json!(86401),
            "/terminate_timeout_seconds",
        ),
        session(
            "negative grace",
            "grace_seconds",
            json!(-1),
            "/grace_seconds",
        ),
        session(
            "wanted terminated",
            "desired_state",
            json!("terminated"),
            "/desired_state",
        ),
        session(
            "far future",
            "not_before",
            json!("9999-01-01T00:00:00Z"),
            "/not_before",
        ),
        session(
            "far past",
            "not_before",
            json!("-262000-01-01T00:00:00Z"),
            "/not_before",
        ),
        session("no time", "not_before", json!("tomorrow"), "/not_before"),
        session("requires", "requires", json!({"": "yes"}), "/requires"),
        session(
            "prefers",
            "prefers",
            json!({"gpu": "y".repeat(257)}),
            "/prefers/gpu",
        ),
        // Limits.
        session(
            "idle too soon",
            "idle_timeout_seconds",
            json!(0.5),
            "/idle_timeout_seconds",
        ),
        session(
            "idle too late",
            "idle_timeout_seconds",
            json!(31_536_001),
            "/idle_timeout_seconds",
        ),
        session(
            "no duration",
            "max_duration_seconds",
            json!(0),
            "/max_duration_seconds",
        ),
        session(
            "too long a life",
            "max_duration_seconds",
            json!(31_536_001),
            "/max_duration_seconds",
        ),
        session(
            "unknown idle action",
            "idle_action",
            json!("shrug"),
            "/idle_action",
        ),
        // Pools.
        invalid(
            "bad pool name",
            ("PUT", "/v1/pools/Bad"),
            pool_with("labels", json!({})),
            "pool",
        ),
        pool("empty platform", "platform", json!(""), "/platform"),
        pool("NUL in platform", "platform", json!("a\0"), "/platform"),
        pool("NUL in region", "region", json!("a\0"), "/region"),
        pool(
            "TTL too short",
            "lease_ttl_seconds",
            json!(1),
            "/lease_ttl_seconds",
        ),
        pool(
            "TTL too long",
            "lease_ttl_seconds",
            json!(3601),
            "/lease_ttl_seconds",
        ),
        pool("no attempts", "max_attempts", json!(0), "/max_attempts"),
        pool(
            "unknown placement",
            "placement",
            json!("random"),
            "/placement",
        ),
        pool("unknown field", "name", json!("q"), "/name"),
        pool("65 labels", "labels", labels(65), "/labels"),
        // Agents.
        invalid(
            "bad agent name",
            ("PUT", "/v1/agents/Bad"),
            agent_with("labels", json!({})),
            "agent",
        ),
        agent("negative capacity", "capacity", json!(-1), "/capacity"),
        agent(
            "capacity too large",
            "capacity",
            json!(1_000_001),
            "/capacity",
        ),
        agent(
            "bad domain",
            "resource_domain",
            json!("no domain"),
            "/resource_domain",
        ),
        agent(
            "NUL in version",
            "agent_version",
            json!("\0"),
            "/agent_version",
        ),
        agent(
            "NUL in instance",
            "instance",
            json!({"id": "\0"}),
            "/instance/id",
        ),
        agent(
            "NUL in host",
            "instance",
            json!({"id": "i", "host": "\0"}),
            "/instance/host",
        ),
        agent("65 labels", "labels", labels(65), "/labels"),
        // Queries.
        invalid("limit 0", ("GET", "/v1/sessions?limit=0"), "", "limit"),
        invalid("limit 501", ("GET", "/v1/sessions?limit=501"), "", "limit"),
        invalid(
            "limit not a number",
            ("GET", "/v1/pools?limit=ten"),
            "",
            "limit",
        ),
        invalid(
            "bad cursor",
            ("GET", "/v1/sessions?cursor=nonsense"),
            "",
            "cursor",
        ),
        invalid(
            "unknown parameter",
            ("GET", "/v1/sessions?colour=red"),
            "",
            "colour",
        ),
        invalid(
            "unknown parameter",
            ("GET", "/v1/agents?state=live"),
            "",
            "state",
        ),
        invalid(
            "unknown state",
            ("GET", "/v1/sessions?state=running,flying"),
            "",
            "state",
        ),
        invalid(
            "parameter twice",
            ("GET", "/v1/sessions?pool=a&pool=b"),
            "",
            "pool",
        ),
        invalid(
            "label without colon",
            ("GET", "/v1/sessions?label=x"),
            "",
            "label",
        ),
        invalid("NUL", ("GET", "/v1/sessions?owner=%00"), "", "owner"),
        invalid(
            "no time",
            ("GET", "/v1/sessions?created_after=now"),
            "",
            "created_after",
        ),
        invalid(
            "far past",
            ("GET", "/v1/sessions?created_after=-262000-01-01T00:00:00Z"),
            "",
            "created_after",
        ),
        invalid(
            "far future",
            (
                "GET",
                "/v1/sessions?created_before=%2B262000-01-01T00:00:00Z",
            ),
            "",
            "created_before",
        ),
        invalid(
            "empty batch",
            ("POST", "/v1/sessions/batch"),
            "{\"sessions\":[]}",
            "/sessions",
        ),
    ];
    check(&server, wrongs).await;
    // Nothing of it was made.
    assert_eq!(
        server.fetch("/v1/sessions").await.ok(200)["items"],
        json!([])
    );
    assert_eq!(server.fetch("/v1/agents").await.ok(200)["items"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let id = Uuid::now_v7();
    let wrongs = vec![
        wrong(
            "pool",
            ("GET", "/v1/pools/none"),
            "",
            (404, "pool_not_found"),
            "",
        ),
        wrong(
            "pool of a session",
            SESSIONS,
            r#"{"pool":"none","spec":{}}"#,
            (404, "pool_not_found"),
            "",
        ),
        wrong(
            "pool of an agent",
            AGENT,
            r#"{"pool":"none","capacity":1}"#,
            (404, "pool_not_found"),
            "",
        ),
        wrong(
            "pool",
            ("PATCH", "/v1/pools/none"),
            "{}",
            (404, "pool_not_found"),
            "",
        ),
        wrong(
            "pool",
            ("DELETE", "/v1/pools/none"),
            "",
            (404, "pool_not_found"),
            "",
        ),
        wrong(
            "session",
            ("GET", &format!("/v1/sessions/{id}")),
            "",
            (404, "session_not_found"),
            "",
        ),
        wrong(
            "session by name",
            ("GET", "/v1/sessions/none"),
            "",
            (404, "session_not_found"),
            "",
        ),
        wrong(
            "session",
            ("DELETE", &format!("/v1/sessions/{id}")),
            "",
            (404, "session_not_found"),
            "",
        ),
        wrong(
            "session",
            ("PATCH", &format!("/v1/sessions/{id}")),
            "{}",
            (404, "session_not_found"),
            "",
        ),
        wrong(
            "session",
            ("POST", &format!("/v1/sessions/{id}/retry")),
            "",
            (404, "session_not_found"),
            "",
        ),
        wrong(
            "its events",
            ("GET", &format!("/v1/sessions/{id}/events")),
            "",
            (404, "session_not_found"),
            "",
        ),
        wrong(
            "its leases",
            ("GET", &format!("/v1/sessions/{id}/leases")),
            "",
            (404, "session_not_found"),
            "",
        ),
        wrong(
            "agent",
            ("GET", "/v1/agents/none"),
            "",
            (404, "agent_not_registered"),
            "",
        ),
        wrong(
            "agent's beat",
            ("POST", "/v1/agents/none/heartbeat"),
            r#"{"incarnation":1}"#,
            (404, "agent_not_registered"),
            "",
        ),
        wrong(
            "agent's claim",
            ("POST", "/v1/agents/none/claim"),
            r#"{"incarnation":1}"#,
            (404, "agent_not_registered"),
            "",
        ),
        wrong(
            "agent's reports",
            ("POST", "/v1/agents/none/reports"),
            &*format!(
                r#"{{"incarnation":1,"reports":[{{"session_id":"{id}","lease_epoch":1,"observed_generation":1,"state":"running"}}]}}"#
            ),
            (404, "agent_not_registered"),
            "",
        ),
        wrong(
            "agent's cordon",
            ("POST", "/v1/agents/none/cordon"),
            "{}",
            (404, "agent_not_registered"),
            "",
        ),
        wrong(
            "agent's goodbye",
            ("DELETE", "/v1/agents/none?incarnation=1"),
            "",
            (404, "agent_not_registered"),
            "",
        ),
        wrong(
            "goodbye of what no agent can be",
            ("DELETE", "/v1/agents/no%2Cname?incarnation=1"),
            "",
            (404, "agent_not_registered"),
            "",
        ),
        wrong("path", ("GET", "/v1/nothing"), "", (404, "not_found"), ""),
        wrong("path", ("GET", "/nothing"), "", (404, "not_found"), ""),
        wrong(
            "NUL in a path",
            ("GET", "/v1/sessions/a%00b"),
            "",
            (404, "not_found"),
            "",
        ),
        wrong(
            "no UTF-8 in a path",
            ("GET", "/v1/sessions/%ff"),
            "",
            (404, "not_found"),
            "",
        ),
    ];
    check(&server, wrongs).await;
    for (method, path, allowed) in [
        ("PUT", "/v1/sessions", "GET,HEAD,POST"),
        ("POST", "/v1/pools/p", "DELETE,GET,HEAD,PATCH,PUT"),
        ("GET", "/v1/agents/a/claim", "POST"),
        ("POST", "/healthz", "GET,HEAD"),
        ("PUT", "/v1/sessions/x", "DELETE,GET,HEAD,PATCH"),
    ] {
        let answer = server.send(method, path, "").await;
        answer.is_problem(405, "method_not_allowed", path);
        let mut allow: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!(allow.join(","), allowed, "{method} {path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bodies_are_limited_in_size_and_type() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let long = vec![b' '; 8 * 1024 * 1024 + 1];
    let answer = server.send("POST", "/v1/sessions", long).await;
    answer.is_problem(413, "body_too_large", "8 MiB and a byte");
    let good = r#"{"pool":"p","spec":{}}"#;
    for media_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "",
    ] {
        let answer = server
            .raw(
                "POST",
                "/v1/sessions",
                &[("content-type", media_type)],
                good,
            )
            .await;
        answer.is_problem(415, "media_type", media_type);
    }
    server
        .raw("POST", "/v1/sessions", &[], good)
        .await
        .is_problem(415, "media_type", "no media type");
    // What is just inside the limits is taken.
    let mut spec = json!({"pool": "p", "spec": "x".repeat(65_534), "labels": labels(64)});
    spec["owner"] = json!("x".repeat(256));
    spec["name"] = json!("x".repeat(128));
    let headers = [("content-type", "application/json; charset=utf-8")];
    server
        .raw("POST", "/v1/sessions", &headers, spec.to_string())
        .await
        .ok(201);
    let many = |count: usize| json!({"sessions": vec![json!({"pool": "p", "spec": {}}); count]});
    let batch = server
        .send("POST", "/v1/sessions/batch", many(1_001).to_string())
        .await;
    batch.is_problem(422, "validation_failed", "1,001 sessions");
    let batch = server
        .send("POST", "/v1/sessions/batch", many(1_000).to_string())
        .await;
    let made = batch.ok(201);
    assert_eq!(made["items"].as_array().map(Vec::len), Some(1_000));
    server.stop().await;
}

#[tokio::test]
async fn preconditions_and_keys_are_held_to() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let session = server.session("p").await;
    let path = format!("/v1/sessions/{}", session.id);
    let stale = [("content-type", "application/json"), ("if-match", "\"99\"")];
    for (method, path, body) in [
        ("PATCH", path.clone(), r#"{"priority":1}"#),
        ("DELETE", path.clone(), ""),
        ("PUT", "/v1/pools/p".to_owned(), r#"{"platform":"process"}"#),
        (
            "PUT",
            "/v1/pools/new".to_owned(),
            r#"{"platform":"process"}"#,
        ),
        ("PATCH", "/v1/pools/p".to_owned(), "{}"),
        ("DELETE", "/v1/pools/p".to_owned(), ""),
    ] {
        let answer = server.raw(method, &path, &stale, body).await;
        answer.is_problem(412, "version_mismatch", &format!("{method} {path}"));
    }
    assert_eq!(server.get(session.id).await.version, session.version);
    let bad = [("content-type", "application/json"), ("if-match", "7")];
    server.raw("PATCH", &path, &bad, "{}").await.is_problem(
        422,
        "validation_failed",
        "If-Match without quotes",
    );
    let pool = server.send("DELETE", "/v1/pools/p", "").await;
    pool.is_problem(409, "pool_not_empty", "a pool with a session");

    let key = [
        ("content-type", "application/json"),
        ("idempotency-key", "k"),
    ];
    let post = |body: &'static str| server.raw("POST", "/v1/sessions", &key, body);
    post(r#"{"pool":"p","spec":{}}"#).await.ok(201);
    post(r#"{"pool":"p","spec":[]}"#).await.is_problem(
        422,
        "idempotency_key_reused",
        "another body",
    );
    for bad in ["", &"k".repeat(10_000)] {
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", bad),
        ];
        server
            .raw(
                "POST",
                "/v1/sessions",
                &headers,
                r#"{"pool":"p","spec":{}}"#,
            )
            .await
            .is_problem(422, "validation_failed", "a bad key");
    }
    server.stop().await;
}

#[tokio::test]
async fn agents_calls_are_fenced_and_limited() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let mut agent = server.agent("a", "p", "d", 5).await;
    let session = server.session("p").await;
    let id = session.id;
    let assignment = agent.claim(1, 5.0).await.pop().expect("an assignment");
    let of = |call: &str| format!("/v1/agents/a/{call}");
    let one = |change: &dyn Fn(&mut Value)| {
        let mut report = json!({"session_id": id, "lease_epoch": 1, "observed_generation": 1, "state": "running"});
        change(&mut report);
        report
    };
    let n = agent.incarnation;
    let body = |reports: Value| json!({"incarnation": n, "reports": reports}).to_string();
    let result = json!({"command_id": id, "lease_epoch": 1, "status": "succeeded"});
    let with_results =
        json!({"incarnation": n, "command_results": vec![result; 1_001]}).to_string();
    let many = body(json!(vec![one(&|_| {}); 1_001]));
    let wrongs = vec![
        invalid(
            "1,001 reports",
            ("POST", &of("reports")),
            many.clone(),
            "/reports",
        ),
        invalid("1,001 reports", ("POST", &of("claim")), many, "/reports"),
        invalid(
            "1,001 command results",
            ("POST", &of("reports")),
            with_results.clone(),
            "/command_results",
        ),
        invalid(
            "1,001 command results",
            ("POST", &of("claim")),
            with_results,
            "/command_results",
        ),
        invalid(
            "negative idleness",
            ("POST", &of("heartbeat")),
            json!({"incarnation": n, "activity": [{"session_id": id, "idle_seconds": 1},
                {"session_id": id, "idle_seconds": -0.1}]})
            .to_string(),
            "/activity/1/idle_seconds",
        ),
        invalid(
            "10,001 items of activity",
            ("POST", &of("heartbeat")),
            json!({"incarnation": n,
                "activity": vec![json!({"session_id": id, "idle_seconds": 1}); 10_001]})
            .to_string(),
            "/activity",
        ),
        invalid(
            "max_sessions",
            ("POST", &of("claim")),
            json!({"incarnation": n, "max_sessions": 1001}).to_string(),
            "/max_sessions",
        ),
        invalid(
            "max_sessions",
            ("POST", &of("claim")),
            json!({"incarnation": n, "max_sessions": -1}).to_string(),
            "/max_sessions",
        ),
        invalid(
            "wait_seconds",
            ("POST", &of("claim")),
            json!({"incarnation": n, "wait_seconds": 56}).to_string(),
            "/wait_seconds",
        ),
        invalid(
            "no incarnation",
            ("POST", &of("claim")),
            "{}",
            "/incarnation",
        ),
        invalid(
            "no report's state",
            ("POST", &of("reports")),
            body(json!([{"session_id": id, "lease_epoch": 1, "observed_generation": 1}])),
            "/reports/0/state",
        ),
        invalid(
            "unknown state",
            ("POST", &of("reports")),
            body(json!([one(&|r| r["state"] = json!("flying"))])),
            "/reports/0/state",
        ),
        wrong(
            "a protocol of the future",
            ("PUT", "/v1/agents/b"),
            agent_with("protocol_version", json!(99)),
            (422, "protocol_version_unsupported"),
            "",
        ),
        wrong(
            "a live agent",
            ("DELETE", "/v1/agents/a"),
            "",
            (409, "agent_live"),
            "",
        ),
        invalid(
            "NUL in a reason",
            ("POST", &of("cordon")),
            r#"{"reason":"\u0000"}"#,
            "/reason",
        ),
        invalid(
            "a cordon's end",
            ("POST", &of("cordon")),
            r#"{"until":"-262000-01-01T00:00:00Z"}"#,
            "/until",
        ),
    ];
    check(&server, wrongs).await;

    // Each report stands alone, and says why it was not taken.
    let unknown = Uuid::now_v7();
    let cases: Vec<(Value, Outcome, Option<ReportCode>)> = vec![
        (
            one(&|r| r["lease_epoch"] = json!(0)),
            Outcome::Fenced,
            Some(ReportCode::LeaseEpochStale),
        ),
        (
            one(&|r| r["lease_epoch"] = json!(2)),
            Outcome::Fenced,
            Some(ReportCode::LeaseEpochStale),
        ),
        (
            one(&|r| r["observed_generation"] = json!(2)),
            Outcome::Rejected,
            Some(ReportCode::GenerationUnknown),
        ),
        (
            one(&|r| r["state"] = json!("hibernated")),
            Outcome::Rejected,
            Some(ReportCode::TransitionNotAllowed),
        ),
        (
            one(&|r| r["session_id"] = json!(unknown)),
            Outcome::Rejected,
            Some(ReportCode::SessionNotFound),
        ),
        (
            one(&|r| r["platform_resource_id"] = json!("a\0b")),
            Outcome::Rejected,
            Some(ReportCode::ValidationFailed),
        ),
        (
            one(&|r| r["platform_metadata"] = json!([])),
            Outcome::Rejected,
            Some(ReportCode::ValidationFailed),
        ),
        (
            one(&|r| r["platform_metadata"] = json!({"x": "y".repeat(16_384)})),
            Outcome::Rejected,
            Some(ReportCode::ValidationFailed),
        ),
        (
            one(&|r| r["failure"] = json!({"reason": "\0"})),
            Outcome::Rejected,
            Some(ReportCode::ValidationFailed),
        ),
        (
            one(&|r| r["failure"] = json!({"reason": "x", "at": "-262000-01-01T00:00:00Z"})),
            Outcome::Rejected,
            Some(ReportCode::ValidationFailed),
        ),
        (
            one(&|r| r["platform_metadata"] = json!({"nul": "\0"})),
            Outcome::Accepted,
            None,
        ),
    ];
    let sent: Vec<&Value> = cases.iter().map(|(report, _, _)| report).collect();
    let answer = server
        .send("POST", &of("reports"), body(json!(sent)))
        .await
        .ok(200);
    for ((report, outcome, code), result) in cases
        .iter()
        .zip(answer["results"].as_array().expect("results"))
    {
        assert_eq!(
            (&result["outcome"], &result["code"]),
            (&json!(outcome), &json!(code)),
            "{report}: {result}"
        );
    }

    // An older run is fenced on everything.
    let old = agent.clone();
    agent.restart(&[]).await;
    for (call, body) in [
        ("heartbeat", json!({"incarnation": old.incarnation})),
        ("claim", json!({"incarnation": old.incarnation})),
        ("claim", json!({"incarnation": agent.incarnation + 1})),
        ("heartbeat", json!({"incarnation": i64::MAX})),
        (
            "reports",
            json!({"incarnation": old.incarnation, "reports": [one(&|_| {})]}),
        ),
        ("reports", json!({"incarnation": old.incarnation})),
    ] {
        let answer = server.send("POST", &of(call), body.to_string()).await;
        answer.is_problem(409, "agent_superseded", call);
    }
    let goodbye = format!("/v1/agents/a?incarnation={}", old.incarnation);
    server
        .send("DELETE", &goodbye, "")
        .await
        .is_problem(409, "agent_superseded", "goodbye");
    let late = agent
        .try_report(vec![report(&assignment, ReportedState::Running)])
        .await
        .expect("an answer");
    assert_eq!(
        (late[0].outcome, late[0].code),
        (Outcome::Fenced, Some(ReportCode::NotAssigned))
    );
    server.stop().await;
}

#[tokio::test]
async fn the_admin_token_is_asked_for_under_v1_only() {
    let server = TestServer::over(database().await, |settings| {
        settings.admin_token = Some("s3cret".to_owned().into());
    })
    .await;
    for (method, path) in [
        ("GET", "/v1"),
        ("GET", "/v1/pools"),
        ("GET", "/v1/sessions/x"),
        ("PUT", "/v1/pools/p"),
        ("POST", "/v1/agents/a/claim"),
    ] {
        for headers in [
            &[][..],
            &[("authorization", "Bearer wrong")],
            &[("authorization", "Basic s3cret")],
        ] {
            let answer = server.raw(method, path, headers, "").await;
            answer.is_problem(401, "unauthenticated", path);
            assert!(
                answer.header("www-authenticate").starts_with("Bearer"),
                "{answer:?}"
            );
        }
    }
    let right = [("authorization", "Bearer s3cret")];
    for path in ["/v1", "/v1/pools", "/v1/sessions"] {
        assert_eq!(
            server.raw("GET", path, &right, "").await.status,
            200,
            "{path}"
        );
    }
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"] {
        assert_eq!(server.fetch(path).await.status, 200, "{path}");
    }
    // Who acts with it is named in the history.
    let client = lessor_client::Client::new(&server.url, Some("s3cret")).expect("a client");
    client
        .put_pool("p", &lessor_protocol::PoolSpec::on("process"))
        .await
        .expect("a pool");
    let new = NewSession::in_pool("p", &json!({})).expect("a spec");
    let session = client.create_session(&new, None).await.expect("a session");
    let events = client
        .session_events(&session.id.to_string(), &Default::default())
        .await
        .expect("events");
    assert_eq!(
        (
            events.items[0].actor.actor_type.as_str(),
            events.items[0].actor.name.as_str()
        ),
        ("token", "admin")
    );
    server.stop().await;
}

#[test]
fn a_server_open_to_the_network_without_a_token_does_not_start() {
    let mut server = Command::new(env!("CARGO_BIN_EXE_lessor"))
        .args(["serve", "--listen", "0.0.0.0:0"])
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stderr = server.stderr.take().expect("its stderr");
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let until = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = server.try_wait().expect("its status") {
            break status;
        }
        if Instant::now() > until {
            let _ = server.kill();
            panic!("it started");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let said = said.join().expect("what it said");
    assert!(!status.success(), "{said}");
    for word in ["LESSOR_ADMIN_TOKEN", "0.0.0.0:0", "127.0.0.1:8080"] {
        assert!(said.contains(word), "it does not say {word}: {said}");
    }
}

#[test]
fn a_head_that_is_no_http_is_answered_or_cut_and_does_no_harm() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime.block_on(TestServer::start());
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut socket = std::net::TcpStream::connect(address).expect("a connection");
    socket
        .write_all(b"\x16\x03\x01\x00\xff nonsense\r\n\r\n")
        .expect("sent");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("set");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    assert_eq!(runtime.block_on(server.fetch("/healthz")).status, 200);
    runtime.block_on(server.stop());
}

/// How many items a list may have the document says: that many are judged one by one, and with one more
/// the list is refused.
#[tokio::test]
async fn a_list_beyond_its_limit_is_refused_as_the_document_says() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let document = lessor::api::openapi();
    let id = Uuid::now_v7();
    let held = json!({"session_id": id, "lease_epoch": 1});
    let told =
        json!({"session_id": id, "lease_epoch": 1, "observed_generation": 1, "state": "running"});
    let done = json!({"command_id": id, "lease_epoch": 1, "status": "running"});
    let seen = json!({"platform_resource_id": "x"});
    let run = json!({"incarnation": agent.incarnation});
    let (new, alive) = (
        json!({"pool": "p", "spec": {}}),
        json!({"session_id": id, "idle_seconds": 1}),
    );
    // In the order of a fleet's day: each is taken while the agent is live.
    let lists = [
        (
            "POST",
            "/v1/agents/a/heartbeat",
            "Heartbeat",
            "activity",
            &run,
            &alive,
        ),
        (
            "POST",
            "/v1/agents/a/heartbeat",
            "Heartbeat",
            "dropped",
            &run,
            &held,
        ),
        (
            "POST",
            "/v1/agents/a/claim",
            "Claim",
            "reports",
            &run,
            &told,
        ),
        (
            "POST",
            "/v1/agents/a/claim",
            "Claim",
            "command_results",
            &run,
            &done,
        ),
        (
            "POST",
            "/v1/agents/a/claim",
            "Claim",
            "dropped",
            &run,
            &held,
        ),
        (
            "POST",
            "/v1/agents/a/reports",
            "Reports",
            "reports",
            &run,
            &told,
        ),
        (
            "POST",
            "/v1/agents/a/reports",
            "Reports",
            "command_results",
            &run,
            &done,
        ),
        (
            "POST",
            "/v1/agents/a/inventory",
            "Inventory",
            "resources",
            &run,
            &seen,
        ),
        (
            "POST",
            "/v1/sessions/batch",
            "NewSessions",
            "sessions",
            &json!({}),
            &new,
        ),
        (
            "POST",
            "/v1/pools/p/simulate",
            "SimulateRequest",
            "lose",
            &json!({}),
            &json!("x"),
        ),
        (
            "PUT",
            "/v1/agents/b",
            "Register",
            "held",
            &json!({"pool": "p", "capacity": 1}),
            &held,
        ),
    ];
    let mut limited = 0;
    for (method, path, schema, field, base, item) in lists {
        let what = format!("{schema}.{field}");
        let most = &document["components"]["schemas"][schema]["properties"][field]["maxItems"];
        let most = usize::try_from(most.as_u64().expect(&what)).expect("a number");
        let of = |count: usize| {
            let mut body = base.clone();
            body[field] = Value::Array(vec![item.clone(); count]);
            body.to_string()
        };
        let refused = server.send(method, path, of(most + 1)).await;
        refused.is_problem(422, "validation_failed", &what);
        let pointer = format!("/{field}");
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer, "{what}");
        let judged = server.send(method, path, of(most)).await;
        assert!(judged.status < 500, "{what}: {judged:?}");
        if judged.status == 422 {
            let errors = judged.json()["errors"].clone();
            let errors = errors.as_array().expect("an array");
            let refused = errors.iter().any(|error| error["pointer"] == pointer);
            assert!(!refused, "{what}: {judged:?}");
        }
        limited += 1;
    }
    // Every list that a request may have is limited, and is one of these.
    let text = document.to_string();
    assert_eq!(text.matches("\"maxItems\"").count(), limited);
    server.stop().await;
}
