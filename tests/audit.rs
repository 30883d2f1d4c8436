//! The audit: no change without an entry, and no way to change one.

use std::sync::Arc;
use std::time::Duration;

use lessor_protocol::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::access::{ROOT, agent, closed, new, user};
use crate::support::checks::count;
use crate::support::{TestServer, eventually};

async fn entries(server: &TestServer, secret: &str, query: &str) -> Vec<Value> {
    let page = server
        .get_with(secret, &format!("/v1/audit{query}"))
        .await
        .ok(200);
    page["items"].as_array().expect("items").clone()
}

#[tokio::test]
async fn changes_are_told_with_who_whence_and_which_token() {
    let server = closed().await;
    server.pool("p", |_| {}).await;
    let (id, alice) = server.token(&user("alice", None)).await;
    let bearer = format!("Bearer {alice}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("x-request-id", "the-one-that-creates"),
    ];
    let body = r#"{"pool": "p", "name": "hers", "spec": {"env": {"PASSWORD": "hunter2"}}}"#;
    server
        .raw("POST", "/v1/sessions", &headers, body)
        .await
        .ok(201);
    let path = "/v1/sessions/hers?reason=hunter2&force=true";
    server
        .call(&alice, "DELETE", path, Value::Null)
        .await
        .ok(202);
    let path = "/v1/sessions/nobodys/retry";
    server
        .call(ROOT, "POST", path, Value::Null)
        .await
        .is_problem(404, "session_not_found", path);

    let found = entries(&server, ROOT, "?limit=3").await;
    let kinds: Vec<&Value> = found.iter().map(|entry| &entry["kind"]).collect();
    assert_eq!(
        kinds,
        [
            "audit.retry_session",
            "audit.delete_session",
            "audit.create_session"
        ]
    );
    let created = &found[2];
    assert_eq!(created["actor"], json!({"type": "token", "name": "a user"}));
    assert_eq!(created["token_id"], id.as_str());
    assert_eq!(created["from"], "127.0.0.1");
    assert_eq!(
        (&created["method"], &created["path"]),
        (&json!("POST"), &json!("/v1/sessions"))
    );
    assert_eq!(created["request_id"], "the-one-that-creates");
    assert_eq!(
        (&created["status"], &found[0]["status"]),
        (&json!(201), &json!(404))
    );
    assert!(created["finished_at"].is_string());
    assert_eq!(
        found[0]["token_id"],
        Value::Null,
        "the admin token of the settings"
    );
    // Whatever a call says is not kept.
    let text = server.get_with(ROOT, "/v1/audit").await.text;
    assert!(
        !text.contains("hunter2") && !text.contains(&alice),
        "{text}"
    );

    let of_alice = entries(&server, ROOT, &format!("?token_id={id}")).await;
    assert_eq!(of_alice.len(), 2);
    assert_eq!(entries(&server, ROOT, "?actor=a%20user").await.len(), 2);
    let since = created["at"].as_str().expect("a time").replace('+', "%2B");
    assert_eq!(
        entries(&server, ROOT, &format!("?since={since}"))
            .await
            .len(),
        3
    );
    let before = entries(&server, ROOT, &format!("?until={since}")).await;
    assert!(
        before
            .iter()
            .all(|entry| entry["kind"] != "audit.create_session")
    );
    assert!(
        before
            .iter()
            .any(|entry| entry["kind"] == "audit.create_token")
    );
    assert!(before.iter().any(|entry| entry["kind"] == "audit.put_pool"));
    server.stop().await;
}

#[tokio::test]
async fn it_is_exported_as_lines_whole() {
    let server = closed().await;
    let client = server.database.client().await;
    client
        .batch_execute(
            "INSERT INTO audit (kind, actor_type, actor_name, method, path, request_id)
             SELECT 'audit.put_pool', 'token', 'many', 'PUT', '/v1/pools/' || n, 'r' || n
             FROM generate_series(1, 1203) AS n",
        )
        .await
        .expect("entries");
    let export = async |query: &str| {
        let bearer = format!("Bearer {ROOT}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("accept", "application/x-ndjson"),
        ];
        server
            .raw("GET", &format!("/v1/audit{query}"), &headers, "")
            .await
    };
    let whole = export("?actor=many").await;
    assert_eq!(whole.header("content-type"), "application/x-ndjson");
    let ids: Vec<i64> = whole
        .text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["id"]
                .as_i64()
                .expect("an id")
        })
        .collect();
    assert_eq!(ids.len(), 1203);
    assert!(
        ids.windows(2).all(|pair| pair[0] > pair[1]),
        "newest first, each once"
    );
    assert_eq!(export("?actor=nobody").await.text, "");
    assert_eq!(
        entries(&server, ROOT, "?actor=many&limit=500").await.len(),
        500
    );
    server.stop().await;
}

#[tokio::test]
async fn an_entry_comes_before_its_change_or_the_change_does_not_come() {
    let server = closed().await;
    server.pool("p", |_| {}).await;
    let mut client = server.database.client().await;
    // The change waits for a lock; its entry is there, and says that nobody knows yet.
    let held = client.transaction().await.expect("a transaction");
    held.execute("SELECT FROM pools WHERE name = 'p' FOR UPDATE", &[])
        .await
        .expect("the pool is locked");
    let change = {
        let (url, body) = (
            format!("{}/v1/pools/p", server.url),
            json!({"placement": "pack"}),
        );
        let call = reqwest::Client::new().patch(url).bearer_auth(ROOT);
        let call = call.header("content-type", "application/merge-patch+json");
        tokio::spawn(call.body(body.to_string()).send())
    };
    let open = "SELECT count(*) FROM audit WHERE kind = 'audit.patch_pool' AND status IS NULL";
    eventually("the entry is there", || async {
        count(&server, open).await == 1
    })
    .await;
    assert!(!change.is_finished());
    // A client that goes away takes nothing with it.
    change.abort();
    held.rollback().await.expect("unlocked");
    let done = "SELECT count(*) FROM audit WHERE kind = 'audit.patch_pool' AND status = 200";
    eventually("the entry is completed", || async {
        count(&server, done).await == 1
    })
    .await;

    // No entry can be written: nothing is done.
    client
        .batch_execute("ALTER TABLE audit ADD CONSTRAINT shut CHECK (false) NOT VALID")
        .await
        .expect("shut");
    let answer = server
        .call(ROOT, "PUT", "/v1/pools/q", json!({"platform": "process"}))
        .await;
    answer.is_problem(503, "database_unavailable", "no entry");
    assert_eq!(server.get_with(ROOT, "/v1/pools/q").await.status, 404);
    assert_eq!(
        server.get_with(ROOT, "/v1/pools/p").await.status,
        200,
        "reads go on"
    );
    server.stop().await;
}

#[tokio::test]
async fn an_entry_cannot_be_changed() {
    let server = closed().await;
    server.pool("p", |_| {}).await;
    let client = server.database.client().await;
    for change in [
        "UPDATE audit SET actor_name = 'somebody else'",
        "UPDATE audit SET status = 500",
        "UPDATE audit SET status = NULL, finished_at = NULL",
    ] {
        let refused = client.batch_execute(change).await.expect_err(change);
        let why = refused
            .as_db_error()
            .expect("the database")
            .message()
            .to_owned();
        assert!(why.contains("cannot be changed"), "{why}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = server.call(ROOT, method, "/v1/audit", Value::Null).await;
        answer.is_problem(405, "method_not_allowed", method);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_agents_do_over_and_over_is_left_to_the_ledger_and_retention_ends_entries() {
    let server = crate::support::access::closed_over(crate::support::database().await).await;
    server.pool("p", |_| {}).await;
    let (_, secret) = server.token(&agent("a", "p")).await;
    let client = server.with(&secret);
    let mut runs = crate::support::TestAgent::new(&client, "a", ("p", "d"), 2);
    runs.register(&[]).await;
    server.session("p").await;
    runs.runs_one().await;
    runs.beat().await.expect("it beats");
    let of_agent = entries(&server, ROOT, "?actor=a").await;
    assert_eq!(of_agent.len(), 1, "{of_agent:?}");
    assert_eq!(of_agent[0]["kind"], "audit.register_agent");
    assert_eq!(of_agent[0]["actor"]["type"], "agent");

    let (_, viewer) = server.token(&new(Role::Viewer)).await;
    for secret in [&viewer, &secret] {
        let answer = server.get_with(secret, "/v1/audit").await;
        answer.is_problem(403, "forbidden", "not for this role");
    }
    let old = Uuid::new_v4().to_string();
    let database = server.database.client().await;
    database
        .execute(
            "INSERT INTO audit (kind, at, actor_type, actor_name, method, path, request_id) \
             VALUES ('audit.put_pool', now() - interval '366 days', 'token', $1, 'PUT', '/', '')",
            &[&old],
        )
        .await
        .expect("an old one");
    lessor::audit::delete_old(&Arc::clone(&server.app))
        .await
        .expect("retention");
    let query = format!("SELECT count(*) FROM audit WHERE actor_name = '{old}'");
    assert_eq!(count(&server, &query).await, 0);
    assert!(
        !entries(&server, ROOT, "").await.is_empty(),
        "younger ones stay"
    );
    server.stop().await;
}

#[tokio::test]
async fn while_access_is_open_nothing_is_written() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.session("p").await;
    tokio::task::yield_now().await;
    assert_eq!(count(&server, "SELECT count(*) FROM audit").await, 0);
    tokio::time::timeout(Duration::from_secs(20), server.stop())
        .await
        .expect("it stops");
}
