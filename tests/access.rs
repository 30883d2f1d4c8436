//! Access: tokens from their making to their end, roles and owners, enrolment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lessor::access::rules::RULES;
use lessor_client::Client;
use lessor_protocol::{Claimed, NewToken, Register, Role, SessionState};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::access::{ROOT, agent, closed, closed_over, enroll, new, user};
use crate::support::agents::{Folder, ProcessAgent};
use crate::support::checks::{count, dump};
use crate::support::postgres::OwnCluster;
use crate::support::{TestAgent, TestServer, database, eventually, runbook};

#[test]
fn every_operation_has_a_rule_and_every_rule_an_operation() {
    let document: Value = serde_json::from_str(&lessor::api::text()).expect("JSON");
    let mut described: Vec<&str> = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|item| item.as_object().expect("operations").values())
        .map(|operation| operation["operationId"].as_str().expect("an id"))
        .collect();
    let mut ruled: Vec<&str> = RULES.iter().map(|rule| rule.operation).collect();
    described.sort_unstable();
    ruled.sort_unstable();
    assert_eq!(described, ruled);
}

#[tokio::test]
async fn a_secret_is_shown_once_and_kept_nowhere() {
    let server = closed().await;
    let body = serde_json::to_value(user("alice", None)).expect("JSON");
    let made = server.call(ROOT, "POST", "/v1/tokens", body).await;
    assert_eq!(made.header("cache-control"), "no-store");
    assert_eq!(made.header("etag"), "\"1\"");
    let location = made.header("location").to_owned();
    let made = made.ok(201);
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    let id = made["token"]["id"].as_str().expect("an id");
    assert_eq!(location, format!("/v1/tokens/{id}"));
    let random = secret.strip_prefix("lessor_user_").expect("its beginning");
    assert_eq!(random.len(), 43);
    assert_eq!(made["token"]["created_by"], "admin");
    assert_eq!(made["token"]["prefix"], secret[..16]);

    assert_eq!(server.get_with(&secret, "/v1/sessions").await.status, 200);
    for path in ["/v1/tokens", &location] {
        let shown = server.get_with(ROOT, path).await;
        assert_eq!(shown.status, 200, "{path}");
        assert!(
            shown.text.contains(id) && !shown.text.contains(random),
            "{path}"
        );
    }
    let table = server
        .raw(
            "GET",
            "/v1/tokens",
            &[
                ("authorization", &format!("Bearer {ROOT}")),
                ("accept", "text/plain"),
            ],
            "",
        )
        .await;
    assert!(
        table.text.contains("ROLE") && table.text.contains("alice"),
        "{}",
        table.text
    );
    let rows = dump(&server.database.client().await).await;
    assert!(rows.contains(id), "the token is in the database");
    assert!(!rows.contains(random), "and its secret is not");
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_bearer_gets_nowhere() {
    let server = closed().await;
    let (_, secret) = server.token(&new(Role::Viewer)).await;
    let mut altered = secret.clone();
    altered.pop();
    altered.push(if secret.ends_with('a') { 'b' } else { 'a' });
    let lower = secret.to_lowercase();
    for wrong in [
        "",
        "x",
        "lessor_",
        "lessor_viewer_",
        &altered,
        &lower,
        &secret[..56],
    ] {
        let answer = server.get_with(wrong, "/v1/pools").await;
        answer.is_problem(401, "unauthenticated", wrong);
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    assert_eq!(server.get_with(&secret, "/v1/pools").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn scopes_must_fit_their_roles() {
    let server = closed().await;
    for (body, pointer) in [
        (json!({"name": "", "role": "viewer"}), "/name"),
        (json!({"name": "x", "role": "user"}), "/owner"),
        (
            json!({"name": "x", "role": "viewer", "owner": "o"}),
            "/owner",
        ),
        (json!({"name": "x", "role": "enroll"}), "/pools"),
        (
            json!({"name": "x", "role": "agent", "pools": ["p"]}),
            "/agent",
        ),
        (
            json!({"name": "x", "role": "viewer", "tenant": "A"}),
            "/tenant",
        ),
        (
            json!({"name": "x", "role": "enroll", "pools": ["P"]}),
            "/pools/0",
        ),
        (
            json!({"name": "x", "role": "viewer", "expires_in_seconds": 0}),
            "/expires_in_seconds",
        ),
    ] {
        let answer = server.call(ROOT, "POST", "/v1/tokens", body.clone()).await;
        answer.is_problem(422, "validation_failed", &body.to_string());
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{body}");
    }
    for path in [
        "/v1/tokens/x",
        "/v1/tokens/01890a5d-ac96-774b-bcce-b302099a8057",
    ] {
        let answer = server.get_with(ROOT, path).await;
        answer.is_problem(404, "not_found", path);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_token_expires_and_takes_its_poll_with_it() {
    let server = closed().await;
    server.pool("p", |_| {}).await;
    let new = NewToken {
        expires_in_seconds: Some(2.0),
        ..agent("a", "p")
    };
    let (_, secret) = server.token(&new).await;
    let mut polls = TestAgent::new(&server.with(&secret), "a", ("p", "d"), 1);
    polls.register(&[]).await;
    let began = Instant::now();
    let error = polls.try_claim(1, 30.0).await.expect_err("it expires");
    assert_eq!(error.status(), Some(401), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let late = server.get_with(&secret, "/v1").await;
    late.is_problem(401, "unauthenticated", "expired");
    server.stop().await;
}

#[tokio::test]
async fn a_rotation_has_an_overlap() {
    let server = closed().await;
    let works = async |secret: &str| server.get_with(secret, "/v1/sessions").await.status == 200;
    let rotate = async |id: &str, body: Value| {
        let path = format!("/v1/tokens/{id}/rotate");
        server.call(ROOT, "POST", &path, body).await
    };
    let (id, old) = server.token(&user("alice", None)).await;
    let (at_once, ended) = server.token(&user("bob", None)).await;
    assert!(works(&old).await && works(&ended).await);
    let made = rotate(&id, json!({"overlap_seconds": 600})).await.ok(201);
    let fresh = made["secret"].as_str().expect("a secret").to_owned();
    assert_eq!(made["token"]["replaces"], id.as_str());
    assert_eq!(made["token"]["owner"], "alice");
    assert!(works(&fresh).await);

    rotate(&at_once, json!({"overlap_seconds": 0}))
        .await
        .ok(201);
    eventually("without an overlap it ends", || async {
        !works(&ended).await
    })
    .await;
    // The server has looked since both: what has an overlap works on.
    assert!(works(&old).await && works(&fresh).await);
    let again = rotate(&at_once, Value::Null).await;
    again.is_problem(409, "transition_not_allowed", "it has ended");

    let next = made["token"]["id"].as_str().expect("an id").to_owned();
    rotate(&next, json!({"overlap_seconds": 1})).await.ok(201);
    eventually("its overlap is over", || async { !works(&fresh).await }).await;
    assert!(works(&old).await);
    server.stop().await;
}

#[tokio::test]
async fn the_last_use_is_written_now_and_then_and_not_by_calls() {
    let server = closed().await;
    let (id, secret) = server.token(&new(Role::Viewer)).await;
    let path = format!("/v1/tokens/{id}");
    let used = async || server.get_with(ROOT, &path).await.json()["last_used_at"].clone();
    assert_eq!(used().await, Value::Null);
    let lookups = "lessor_db_transaction_seconds_count{transaction=\"access::find\"}";
    assert_eq!(server.get_with(&secret, "/v1").await.status, 200);
    eventually("the use is written", || async {
        used().await != Value::Null
    })
    .await;
    let (first, looked) = (used().await, server.metric(lookups).await);
    for _ in 0..50 {
        assert_eq!(server.get_with(&secret, "/v1").await.status, 200);
    }
    assert_eq!(used().await, first, "not again within a minute");
    assert_eq!(looked, 1.0, "found once");
    assert_eq!(server.metric(lookups).await, looked, "and then known");
    let etag = server.get_with(ROOT, &path).await;
    assert_eq!(etag.header("etag"), "\"1\"", "a use is no change");
    server.stop().await;
}

/// Waits for an answer that ends a call which was parked, and says how long that took.
async fn ends(call: tokio::task::JoinHandle<Result<Claimed, lessor_client::Error>>) -> Instant {
    let error = call.await.expect("it ends").expect_err("its token ended");
    assert_eq!(error.status(), Some(401), "{error}");
    Instant::now()
}

#[tokio::test]
async fn revoking_ends_polls_streams_and_waits_on_another_server_within_a_second() {
    let server = closed().await;
    let other = closed_over(Arc::clone(&server.database)).await;
    server.pool("p", |_| {}).await;
    let session = server.session("p").await;
    let (poll_id, poll) = server.token(&agent("a", "p")).await;
    let (read_id, read) = server.token(&new(Role::Viewer)).await;
    let (_, stays) = server.token(&agent("b", "p")).await;

    let mut polls = TestAgent::new(&other.with(&poll), "a", ("p", "d"), 0);
    polls.register(&[]).await;
    let mut others = TestAgent::new(&other.with(&stays), "b", ("p", "d"), 0);
    others.register(&[]).await;
    let (parked, left) = (polls.park(0, 50.0), others.park(0, 50.0));
    other.has_parked("p", 2).await;
    let bearer = format!("Bearer {read}");
    let get = |path: &str| {
        reqwest::Client::new()
            .get(format!("{}{path}", other.url))
            .header("authorization", &bearer)
            .send()
    };
    let mut stream = get("/v1/events").await.expect("a stream");
    assert_eq!(stream.status(), 200);
    assert!(stream.chunk().await.expect("a hello").is_some());
    let path = format!(
        "/v1/sessions/{}?wait_for=running&wait_seconds=50",
        session.id
    );
    let waits = tokio::spawn(get(&path));
    // Whoever waits is waiting once another call of that token has been answered after it.
    eventually("the wait has begun", || async {
        other
            .find_metric("lessor_db_transaction_seconds_count{transaction=\"sessions::get\"}")
            .await
            .is_some_and(|gets| gets >= 2.0)
    })
    .await;

    let revoked = Instant::now();
    for id in [&poll_id, &read_id] {
        let path = format!("/v1/tokens/{id}");
        let answer = server.call(ROOT, "DELETE", &path, Value::Null).await;
        assert_eq!(answer.header("etag"), "\"2\"");
        assert!(answer.ok(200)["revoked_at"].is_string());
    }
    let committed = Instant::now();
    let ended = ends(parked).await;
    let waited = waits.await.expect("it ends").expect("an answer");
    assert_eq!(waited.status(), 401);
    while stream
        .chunk()
        .await
        .expect("the stream ends well")
        .is_some()
    {}
    let all = committed.elapsed();
    assert!(
        all < Duration::from_secs(1),
        "{all:?} after {:?}",
        ended - revoked
    );
    for secret in [&poll, &read] {
        let answer = other.get_with(secret, "/v1").await;
        answer.is_problem(401, "unauthenticated", "revoked");
    }
    assert!(!left.is_finished(), "what was not revoked waits on");
    left.abort();

    let path = format!("/v1/tokens/{read_id}");
    let again = server.call(ROOT, "DELETE", &path, Value::Null).await;
    assert_eq!(again.header("etag"), "\"2\"", "again is no change");
    let stale = server
        .raw(
            "DELETE",
            &path,
            &[
                ("authorization", &format!("Bearer {ROOT}")),
                ("if-match", "\"1\""),
            ],
            "",
        )
        .await;
    stale.is_problem(412, "version_mismatch", "another version");
    server.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn without_the_database_known_tokens_go_on_and_unknown_ones_are_not_called_wrong() {
    let mut cluster = OwnCluster::start().await;
    let migrated = lessor::store::migrate::run(cluster.url()).await;
    migrated.expect("the migrations run");
    let mut settings = lessor::app::Settings::over(cluster.url());
    settings.admin_token = Some(ROOT.to_owned().into());
    let app = lessor::app::App::start(settings).expect("the app starts");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let router = lessor::api::router(&app);
    tokio::spawn(async move { axum::serve(listener, router).await });
    // It installs what TLS needs, which plain requests need as well.
    let _ = Client::new(&url, None).expect("a client");
    let create = async |name: &str| {
        let made = reqwest::Client::new()
            .post(format!("{url}/v1/tokens"))
            .bearer_auth(ROOT)
            .json(&json!({"name": name, "role": "viewer"}))
            .send()
            .await
            .expect("an answer");
        let made: Value = made.json().await.expect("JSON");
        made["secret"].as_str().expect("a secret").to_owned()
    };
    let status = async |secret: &str| {
        let call = reqwest::Client::new()
            .get(format!("{url}/v1"))
            .bearer_auth(secret);
        call.send().await.expect("an answer").status().as_u16()
    };
    let (known, unknown) = (create("known").await, create("unknown").await);
    assert_eq!(status(&known).await, 200);
    cluster.stop().await;
    assert_eq!(status(&known).await, 200, "what is known goes on");
    assert_eq!(status(&unknown).await, 503, "nobody can tell");
    assert_eq!(status(ROOT).await, 200);
    assert_eq!(status("wrong").await, 401, "this is none of ours");
    cluster.start_again().await;
    eventually("it can be told again", || async {
        status(&unknown).await == 200
    })
    .await;
}

#[tokio::test]
async fn a_user_has_its_own_sessions_and_no_others() {
    let server = closed().await;
    server.pool("p", |_| {}).await;
    let (_, alice) = server.token(&user("alice", None)).await;
    let (_, bob) = server.token(&user("bob", None)).await;
    let own = server.create_with(&alice, "p", Some("hers")).await.ok(201);
    assert_eq!(own["owner"], "alice", "her own without being asked");
    let his = server.create_with(&bob, "p", Some("his")).await.ok(201);
    let as_his = json!({"pool": "p", "owner": "bob", "spec": {}});
    let answer = server
        .call(&alice, "POST", "/v1/sessions", as_his.clone())
        .await;
    answer.is_problem(403, "forbidden", "another owner");
    let batch = json!({"sessions": [{"pool": "p", "spec": {}}, as_his]});
    let answer = server
        .call(&alice, "POST", "/v1/sessions/batch", batch)
        .await;
    answer.is_problem(403, "forbidden", "another owner among many");

    let listed = server.get_with(&alice, "/v1/sessions").await.ok(200);
    let ids = |listed: &Value| -> Vec<String> {
        let items = listed["items"].as_array().expect("items");
        items.iter().map(|item| item["id"].to_string()).collect()
    };
    assert_eq!(ids(&listed), [own["id"].to_string()]);
    for query in ["?owner=bob", "?name=his"] {
        let path = format!("/v1/sessions{query}");
        assert!(
            ids(&server.get_with(&alice, &path).await.ok(200)).is_empty(),
            "{query}"
        );
    }
    for name in [his["id"].as_str().expect("an id"), "his", "nobodys"] {
        let answer = server
            .get_with(&alice, &format!("/v1/sessions/{name}"))
            .await;
        answer.is_problem(404, "session_not_found", name);
    }
    assert_eq!(
        server.get_with(&alice, "/v1/sessions/hers").await.status,
        200
    );
    // All that there are: she has one.
    let all = json!({"filter": {"pool": "p"}, "action": "terminate"});
    let done = server
        .call(&alice, "POST", "/v1/sessions/bulk", all)
        .await
        .ok(200);
    assert_eq!(
        (done["matched"].as_i64(), done["changed"].as_i64()),
        (Some(1), Some(1))
    );
    let of_bob = server.get_with(&bob, "/v1/sessions/his").await.ok(200);
    assert_eq!(of_bob["desired_state"], "running");

    let bearer = format!("Bearer {alice}");
    let headers = [("authorization", bearer.as_str()), ("last-event-id", "0")];
    let mut stream = reqwest::Client::new().get(format!("{}/v1/events", server.url));
    for (name, value) in headers {
        stream = stream.header(name, value);
    }
    let mut stream = stream.send().await.expect("a stream");
    let mut seen = String::new();
    while !seen.contains("session.desired_changed") {
        let chunk = stream.chunk().await.expect("more").expect("it goes on");
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(seen.contains(own["id"].as_str().expect("an id")));
    assert!(!seen.contains(his["id"].as_str().expect("an id")), "{seen}");
    let answer = server.get_with(&alice, "/v1/events?owner=bob").await;
    answer.is_problem(403, "forbidden", "another owner's events");
    // Keys of two users are two, also where their tokens have the same name.
    let keyed = async |secret: &str| {
        let bearer = format!("Bearer {secret}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", "k"),
        ];
        let body = r#"{"pool": "p", "spec": {}}"#;
        server.raw("POST", "/v1/sessions", &headers, body).await
    };
    let (hers, replayed, other) = (keyed(&alice).await, keyed(&alice).await, keyed(&bob).await);
    assert_eq!(replayed.header("idempotency-replayed"), "true");
    assert_eq!(replayed.json()["id"], hers.json()["id"]);
    assert_eq!(other.header("idempotency-replayed"), "");
    assert_eq!(other.ok(201)["owner"], "bob");
    server.stop().await;
}

#[tokio::test]
async fn two_tenants_call_things_the_same_and_learn_nothing_of_each_other() {
    let server = closed().await;
    let operator = |tenant: &str| NewToken {
        tenant: Some(tenant.to_owned()),
        ..new(Role::Operator)
    };
    let (_, acme) = server.token(&operator("acme")).await;
    let (_, globex) = server.token(&operator("globex")).await;
    let pool = json!({"platform": "process"});
    for (secret, tenant) in [(&acme, "acme"), (&globex, "globex")] {
        let path = format!("/v1/pools/{tenant}~p");
        server
            .call(secret, "PUT", &path, pool.clone())
            .await
            .ok(201);
        let name = format!("{tenant}~web");
        let made = server
            .create_with(secret, &format!("{tenant}~p"), Some(&name))
            .await;
        assert_eq!(made.ok(201)["name"], name);
    }
    // Not its name: of no tenant, of another, of one that is only alike.
    for path in ["/v1/pools/p", "/v1/pools/globex~q", "/v1/pools/acme2~p"] {
        let answer = server.call(&acme, "PUT", path, pool.clone()).await;
        answer.is_problem(404, "pool_not_found", path);
    }
    for name in ["web", "globex~web2"] {
        let answer = server.create_with(&acme, "acme~p", Some(name)).await;
        answer.is_problem(422, "validation_failed", name);
    }
    for (path, own) in [("/v1/pools", "acme~p"), ("/v1/sessions", "acme~web")] {
        let listed = server.get_with(&acme, path).await;
        assert!(listed.text.contains(own), "{}", listed.text);
        assert!(!listed.text.contains("globex"), "{}", listed.text);
    }
    // Where no pool is named, it is one of its own; and who has no tenant gets none of a tenant's.
    let anywhere = json!({"platform": "process", "spec": {}});
    let made = server
        .call(&acme, "POST", "/v1/sessions", anywhere.clone())
        .await;
    assert_eq!(made.ok(201)["pool"], "acme~p");
    let made = server.call(ROOT, "POST", "/v1/sessions", anywhere).await;
    made.is_problem(409, "no_matching_pool", "every pool is a tenant's");
    // Nobody takes a session out of its tenant, an administrator included.
    let to = json!({"pool": "globex~p"});
    let path = "/v1/sessions/acme~web/migrate";
    let answer = server.call(&acme, "POST", path, to.clone()).await;
    answer.is_problem(404, "pool_not_found", "another tenant's pool");
    let answer = server.call(ROOT, "POST", path, to).await;
    answer.is_problem(422, "validation_failed", "out of its tenant");
    // Owners of two tenants with one name are two.
    let (_, alice) = server.token(&user("alice", None)).await;
    let (_, alices) = server.token(&user("alice", Some("acme"))).await;
    server.create_with(&alices, "acme~p", None).await.ok(201);
    let listed = server.get_with(&alice, "/v1/sessions").await.ok(200);
    assert_eq!(listed["items"], json!([]));
    // An administrator of a tenant looks after that tenant's tokens.
    let admin = NewToken {
        tenant: Some("acme".to_owned()),
        ..new(Role::Admin)
    };
    let (_, admin) = server.token(&admin).await;
    let listed = server.get_with(&admin, "/v1/tokens").await;
    assert!(listed.text.contains("acme") && !listed.text.contains("globex"));
    for (body, status) in [
        (
            json!({"name": "x", "role": "viewer", "tenant": "acme"}),
            201,
        ),
        (
            json!({"name": "x", "role": "viewer", "tenant": "globex"}),
            403,
        ),
        (json!({"name": "x", "role": "admin"}), 403),
        (
            json!({"name": "x", "role": "enroll", "pools": ["globex~p"]}),
            403,
        ),
    ] {
        let answer = server
            .call(&admin, "POST", "/v1/tokens", body.clone())
            .await;
        assert_eq!(answer.status, status, "{body}");
    }
    server.stop().await;
}

fn registration(pool: &str, instance: &str) -> Value {
    json!({"pool": pool, "capacity": 1, "instance": {"id": instance}})
}

#[tokio::test]
async fn enrolling_gives_each_agent_a_token_for_itself_alone() {
    let server = closed().await;
    for pool in ["p", "q"] {
        server.pool(pool, |_| {}).await;
    }
    server.agent("elsewhere", "q", "d", 1).await;
    let (_, secret) = server.token(&enroll("p")).await;
    let register = async |secret: &str, name: &str, pool: &str, instance: &str| {
        let path = format!("/v1/agents/{name}");
        server
            .call(secret, "PUT", &path, registration(pool, instance))
            .await
    };
    let first = register(&secret, "a", "p", "one").await.ok(201);
    let own = first["token"].as_str().expect("a token").to_owned();
    assert!(own.starts_with("lessor_agent_"), "its own");
    let path = |name: &str, call: &str| format!("/v1/agents/{name}{call}");
    let beat = json!({"incarnation": first["incarnation"]});
    let beats = async |secret: &str, name: &str| {
        server
            .call(secret, "POST", &path(name, "/heartbeat"), beat.clone())
            .await
    };
    beats(&own, "a").await.ok(200);
    // Enrolling allows nothing else, and an agent's token nothing of another agent.
    beats(&secret, "a")
        .await
        .is_problem(403, "forbidden", "enrolling beats for nobody");
    for (call, code, status) in [
        (
            server.get_with(&secret, "/v1/agents/a").await,
            "forbidden",
            403,
        ),
        (
            server.get_with(&own, "/v1/agents/a").await,
            "forbidden",
            403,
        ),
        (
            server.get_with(&own, "/v1/sessions").await,
            "forbidden",
            403,
        ),
        (beats(&own, "elsewhere").await, "agent_not_registered", 404),
        (beats(&own, "nobody").await, "agent_not_registered", 404),
        (
            register(&own, "b", "p", "x").await,
            "agent_not_registered",
            404,
        ),
        (register(&own, "a", "q", "one").await, "pool_not_found", 404),
        (
            register(&secret, "b", "q", "x").await,
            "pool_not_found",
            404,
        ),
        (
            register(&secret, "b", "nowhere", "x").await,
            "pool_not_found",
            404,
        ),
        (
            register(&secret, "elsewhere", "p", "x").await,
            "forbidden",
            403,
        ),
    ] {
        call.is_problem(status, code, &call.text);
    }
    let again = register(&own, "a", "p", "one").await.ok(200);
    assert_eq!(again["token"], Value::Null, "it has one");
    // Removing an agent is an operator's; a goodbye is its own.
    let answer = server
        .call(&own, "DELETE", &path("a", "?force=true"), Value::Null)
        .await;
    answer.is_problem(403, "forbidden", "not a goodbye");

    let second = register(&secret, "a", "p", "two").await.ok(200);
    let newer = second["token"].as_str().expect("a token").to_owned();
    assert_ne!(newer, own);
    beats(&own, "a")
        .await
        .is_problem(409, "agent_superseded", "the older run is told so");
    let left = count(
        &server,
        "SELECT count(*) FROM tokens WHERE enrolled AND expires_at < now() + interval '61 seconds'",
    );
    assert_eq!(left.await, 1, "the older token ends soon");
    // With the agent its tokens go, whoever removes it.
    let removed = server
        .call(ROOT, "DELETE", &path("a", "?force=true"), Value::Null)
        .await;
    assert_eq!(removed.status, 204);
    for secret in [&own, &newer] {
        eventually("its token ends", || async {
            server.get_with(secret, "/v1").await.status == 401
        })
        .await;
    }
    server.stop().await;
}

#[tokio::test]
async fn process_agents_enrol_and_do_so_again_when_they_are_started_anew_or_lose_their_token() {
    let server = closed().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 2.0).await;
    let (_, secret) = server.token(&enroll("p")).await;
    let folder = Folder::new();
    let start = || {
        let at = (server.url.as_str(), "p", "a");
        ProcessAgent::start_with(Some(&secret), "this-machine", at, &folder.0)
    };
    let agent = start();
    let session = server.session_that_sleeps("p").await;
    server.reaches(session, SessionState::Running).await;
    let tokens = "SELECT count(*) FROM tokens WHERE agent = 'a' AND enrolled";
    assert_eq!(count(&server, tokens).await, 1);
    agent.kill().await;
    let _again = start();
    eventually("it has enrolled again", || async {
        count(&server, tokens).await == 2
    })
    .await;
    let live = "SELECT count(*) FROM tokens WHERE agent = 'a' AND enrolled AND expires_at IS NULL \
                AND revoked_at IS NULL";
    assert_eq!(count(&server, live).await, 1);
    // Somebody revokes its token: it enrols once more, and keeps what it runs.
    let client = server.database.client().await;
    let id: String = client
        .query_one(
            "SELECT id::text FROM tokens WHERE agent = 'a' AND expires_at IS NULL AND revoked_at IS NULL",
            &[],
        )
        .await
        .expect("its token")
        .get(0);
    let before = server.get(session).await;
    server
        .call(ROOT, "DELETE", &format!("/v1/tokens/{id}"), Value::Null)
        .await
        .ok(200);
    eventually("it has a new one", || async {
        count(&server, tokens).await == 3 && count(&server, live).await == 1
    })
    .await;
    let delete = lessor_client::DeleteSession::default();
    let ended = server
        .client
        .delete_session(&session.to_string(), &delete)
        .await;
    ended.expect("202");
    let after = server.reaches(session, SessionState::Terminated).await;
    assert_eq!(after.attempt, before.attempt, "it never ran twice");
    server.stop().await;
}

impl TestServer {
    async fn session_that_sleeps(&self, pool: &str) -> uuid::Uuid {
        let spec = json!({"command": ["sleep", "3600"]});
        let new = lessor_protocol::NewSession::in_pool(pool, &spec).expect("a spec");
        let made = self.client.create_session(&new, None).await;
        made.expect("it is made").id
    }
}

#[tokio::test]
async fn one_given_token_does_for_an_agent() {
    let server = closed().await;
    server.pool("p", |_| {}).await;
    let (_, secret) = server.token(&agent("a", "p")).await;
    let client: Client = server.with(&secret);
    let mut runs = TestAgent::new(&client, "a", ("p", "d"), 2);
    runs.register(&[]).await;
    server.session("p").await;
    let assignment = runs.runs_one().await;
    runs.beat().await.expect("it beats");
    server
        .reaches(assignment.session.id, SessionState::Running)
        .await;
    let body: Register = runs.registration(&[]);
    let registered = client.register_agent("a", &body).await.expect("again");
    assert!(registered.token.is_none(), "it has been given one");
    let gone = client
        .deregister_agent("a", Some(runs.incarnation), false)
        .await;
    gone.expect("its goodbye");
    let answer = server.get_with(&secret, "/v1").await;
    assert_eq!(
        answer.status, 200,
        "a token that was given outlives its agent"
    );
    server.stop().await;
}

#[tokio::test]
async fn the_first_token_is_made_on_the_command_line() {
    let server = TestServer::over(database().await, |settings| settings.open = false).await;
    let lessor = async |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lessor"))
            .arg("token")
            .args(arguments)
            .env("DATABASE_URL", &server.database.url)
            .output()
            .await
            .expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    assert_eq!(server.fetch("/v1").await.status, 401, "nobody gets in");
    let (done, secret, error) = lessor(&["create", "--name", "first", "--role", "admin"]).await;
    assert!(done, "{error}");
    let secret = secret.trim();
    let made = server
        .call(
            secret,
            "POST",
            "/v1/tokens",
            json!({"name": "second", "role": "viewer"}),
        )
        .await
        .ok(201);
    assert_eq!(made["token"]["created_by"], "first");
    let (_, listed, _) = lessor(&["list"]).await;
    assert!(
        listed.contains("command line") || listed.contains("first"),
        "{listed}"
    );
    assert!(
        listed.contains("second") && !listed.contains(secret),
        "{listed}"
    );
    let id = made["token"]["id"].as_str().expect("an id");
    let second = made["secret"].as_str().expect("a secret");
    let (done, third, error) = lessor(&["rotate", id, "--overlap-seconds", "600"]).await;
    assert!(done, "{error}");
    assert_eq!(server.get_with(third.trim(), "/v1/pools").await.status, 200);
    assert_eq!(server.get_with(second, "/v1/pools").await.status, 200);
    let (done, said, _) = lessor(&["revoke", id]).await;
    assert!(done && said.contains("revoked"), "{said}");
    eventually("it is refused", || async {
        server.get_with(second, "/v1").await.status == 401
    })
    .await;
    let (done, _, error) = lessor(&["create", "--name", "x", "--role", "user"]).await;
    assert!(!done && error.contains("owner is needed"), "{error}");
    let (done, _, error) = lessor(&["create", "--name", "x", "--role", "king"]).await;
    assert!(!done && error.contains("operator"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn access_is_open_where_nothing_is_configured() {
    let server = TestServer::start().await;
    for headers in [&[][..], &[("authorization", "Bearer lessor_viewer_x")]] {
        let answer = server.raw("GET", "/v1/tokens", headers, "").await;
        assert_eq!(answer.status, 200, "everybody is an administrator");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_runbook_on_access_does_what_it_says() {
    let server = closed().await;
    server.pool("local", |_| {}).await;
    let variables = [
        ("ROOT", ROOT),
        ("DATABASE_URL", server.database.url.as_str()),
    ];
    let said = runbook::run_with("access.md", &server.url, &variables).await;
    for word in ["lessor_operator_", "audit.create_session", "revoked_at"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    server.stop().await;
}
