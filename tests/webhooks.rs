//! Webhooks: what is sent, signed, sent again, and where nothing is sent.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lessor::webhooks::address::Allowed;
use lessor_protocol::{DeliveryType, Role, Webhook};
use serde_json::{Value, json};

use crate::support::access::{ROOT, new};
use crate::support::agents::Folder;
use crate::support::authority::Authority;
use crate::support::process::ServerProcess;
use crate::support::receiver::{Answer, Receiver};
use crate::support::{TestServer, database, eventually, runbook};

/// A server that may send to loopback addresses, and asks for tokens.
async fn server() -> TestServer {
    over(database().await).await
}

async fn over(database: std::sync::Arc<crate::support::postgres::TestDatabase>) -> TestServer {
    let mut server = TestServer::over(database, |settings| {
        settings.admin_token = Some(ROOT.to_owned().into());
        settings.webhook_allow = Allowed::new(vec!["127.0.0.0/8".parse().expect("a network")]);
    })
    .await;
    server.client = server.with(ROOT);
    server
}

/// Creates a webhook; its id and its secret.
async fn hook(server: &TestServer, url: &str, more: Value) -> (String, String) {
    let mut body = json!({"name": "w", "url": url});
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    let made = server
        .call(ROOT, "POST", "/v1/webhooks", body)
        .await
        .ok(201);
    id_and_secret(&made)
}

/// Posts to a process that asks for no token.
async fn post(server: &ServerProcess, path: &str, body: Value) -> Value {
    let call = reqwest::Client::new().post(format!("{}{path}", server.url));
    let answer = call.json(&body).send().await.expect("an answer");
    answer.json().await.expect("JSON")
}

/// As [`hook`], at such a process.
async fn hook_at(server: &ServerProcess, url: &str) -> (String, String) {
    let made = post(server, "/v1/webhooks", json!({"name": "w", "url": url})).await;
    id_and_secret(&made)
}

fn id_and_secret(made: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&made["webhook"]["id"]), text(&made["secret"]))
}

async fn shown(server: &TestServer, id: &str) -> Webhook {
    let answer = server.get_with(ROOT, &format!("/v1/webhooks/{id}")).await;
    serde_json::from_value(answer.ok(200)).expect("a webhook")
}

async fn patch(server: &TestServer, id: &str, body: Value) -> Value {
    let path = format!("/v1/webhooks/{id}");
    server.call(ROOT, "PATCH", &path, body).await.ok(200)
}

/// The ids of the events of all that came, in their order.
fn ids(receiver: &Receiver) -> Vec<i64> {
    let came = receiver.came();
    let events = came.iter().flat_map(|came| came.delivery().events);
    events
        .map(|event| event.id.parse().expect("a number"))
        .collect()
}

#[tokio::test]
async fn events_arrive_in_their_order_signed_and_soon() {
    let server = server().await;
    server.pool("p", |_| {}).await;
    let receiver = Receiver::start().await;
    let (id, secret) = hook(&server, &receiver.url, json!({})).await;
    let begun = Instant::now();
    let session = server.session("p").await;
    let first = receiver.wait_for(1).await.remove(0);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(first.header("content-type"), "application/json");
    assert!(first.header("user-agent").starts_with("lessor/"));
    assert!(first.is_signed_by(&secret));
    assert!(!first.is_signed_by("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="));
    let seconds: i64 = first.header("webhook-timestamp").parse().expect("seconds");
    assert!((chrono::Utc::now().timestamp() - seconds).abs() < 10);
    let delivery = first.delivery();
    assert_eq!(delivery.delivery_type, DeliveryType::Events);
    assert_eq!(delivery.webhook_id.to_string(), id);
    assert!(delivery.gap.is_none());
    assert_eq!(delivery.events[0].kind, "session.created");
    assert_eq!(delivery.events[0].session_id, Some(session.id));

    // Many, from two servers' worth of changes: each once, in order, none left out.
    let other = over(std::sync::Arc::clone(&server.database)).await;
    for _ in 0..150 {
        server.session("p").await;
        other.session("p").await;
    }
    eventually("all have arrived", || async { ids(&receiver).len() >= 301 }).await;
    let seen = ids(&receiver);
    let expected: Vec<i64> = (seen[0]..seen[0] + 301).collect();
    assert_eq!(seen, expected);
    for came in receiver.came() {
        let events = came.delivery().events;
        assert!((1..=100).contains(&events.len()));
        let (first, last) = (&events[0].id, &events[events.len() - 1].id);
        assert_eq!(came.header("webhook-id"), format!("{id}_{first}_{last}"));
    }
    let last = seen[seen.len() - 1].to_string();
    eventually("it is written down", || async {
        shown(&server, &id).await.delivered_through == last
    })
    .await;
    assert!(shown(&server, &id).await.last_success_at.is_some());
    other.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn what_fails_is_sent_again_as_it_was_and_nothing_is_lost() {
    let server = server().await;
    server.pool("p", |_| {}).await;
    let receiver = Receiver::start().await;
    let (id, secret) = hook(&server, &receiver.url, json!({})).await;
    receiver.answer([
        Answer::Status(500),
        Answer::With(302, "location", receiver.url.clone()),
        Answer::With(429, "retry-after", "3".to_owned()),
    ]);
    server.session("p").await;
    receiver.wait_for(1).await;
    eventually("the failure is shown", || async {
        let shown = shown(&server, &id).await;
        shown.failures == 1 && shown.next_attempt_at.is_some()
    })
    .await;
    let failing = shown(&server, &id).await;
    assert_eq!(failing.last_failure.as_deref(), Some("it answered 500"));
    assert!(failing.failing_since.is_some() && failing.enabled);
    // What happens meanwhile comes afterwards, and not within what is sent again.
    server.session("p").await;
    let came = receiver.wait_for(5).await;
    for again in &came[1..4] {
        assert_eq!(again.body, came[0].body);
        assert_eq!(again.header("webhook-id"), came[0].header("webhook-id"));
        assert!(again.is_signed_by(&secret));
    }
    assert_ne!(came[4].header("webhook-id"), came[0].header("webhook-id"));
    let pauses: Vec<f64> = came[..4]
        .windows(2)
        .map(|pair| (pair[1].at - pair[0].at).as_secs_f64())
        .collect();
    for (pause, least) in pauses.iter().zip([0.75, 1.5, 3.0]) {
        assert!(*pause >= least, "{pauses:?}");
    }
    eventually("it has recovered", || async {
        shown(&server, &id).await.failures == 0
    })
    .await;
    let seen: BTreeSet<i64> = ids(&receiver).into_iter().collect();
    assert_eq!(seen.len(), 2);
    server.stop().await;
}

/// As many sessions as need two deliveries.
async fn backlog(server: &TestServer) {
    let sessions = vec![json!({"pool": "p", "spec": {}}); 150];
    let body = json!({"sessions": sessions});
    let made = server.call(ROOT, "POST", "/v1/sessions/batch", body).await;
    made.ok(201);
    lessor::events::settle(&server.app)
        .await
        .expect("positions");
}

#[tokio::test]
async fn pauses_begin_anew_when_something_was_taken() {
    let server = server().await;
    server.pool("p", |_| {}).await;
    let receiver = Receiver::start().await;
    receiver.answer([500, 500, 204, 500].map(Answer::Status));
    let (id, _) = hook(&server, &receiver.url, json!({})).await;
    patch(&server, &id, json!({"enabled": false})).await;
    backlog(&server).await;
    patch(&server, &id, json!({"enabled": true})).await;
    let came = receiver.wait_for(5).await;
    let header = |at: usize| came[at].header("webhook-id").to_owned();
    assert_eq!(header(0), header(2));
    assert_eq!(header(3), header(4));
    assert_ne!(header(2), header(3));
    let pause = (came[4].at - came[3].at).as_secs_f64();
    // The fourth failure in a row would have been followed by three seconds at least.
    assert!((0.75..2.9).contains(&pause), "{pause}");
    server.stop().await;
}

#[tokio::test]
async fn what_was_changed_while_something_is_under_way_goes_no_further_as_it_was() {
    let server = server().await;
    server.pool("p", |_| {}).await;
    let (old, other) = (Receiver::start().await, Receiver::start().await);
    let told = std::sync::Arc::new(tokio::sync::Notify::new());
    let (id, secret) = hook(&server, &old.url, json!({})).await;
    patch(&server, &id, json!({"enabled": false})).await;
    backlog(&server).await;

    // Another address.
    old.answer([Answer::When(std::sync::Arc::clone(&told))]);
    patch(&server, &id, json!({"enabled": true})).await;
    old.wait_for(1).await;
    patch(&server, &id, json!({"url": other.url})).await;
    eventually("the other has all", || async { ids(&other).len() == 150 }).await;
    told.notify_one();
    server.session("p").await;
    eventually("it goes on there", || async { ids(&other).len() == 151 }).await;
    assert_eq!(old.came().len(), 1);

    // Another secret.
    let before = other.came().len();
    patch(&server, &id, json!({"enabled": false, "after": "0"})).await;
    other.answer([Answer::When(std::sync::Arc::clone(&told))]);
    patch(&server, &id, json!({"enabled": true})).await;
    other.wait_for(before + 1).await;
    let path = format!("/v1/webhooks/{id}/rotate");
    let now = json!({"overlap_seconds": 0});
    server.call(ROOT, "POST", &path, now).await.ok(200);
    told.notify_one();
    // The first delivery once more, since it was taken as it was no longer, and the second.
    let came = other.wait_for(before + 3).await;
    assert!(came[before].is_signed_by(&secret));
    let later = &came[before + 1..];
    assert!(later.iter().all(|came| !came.is_signed_by(&secret)));
    server.stop().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_is_cut_off_and_keeps_nobody_waiting() {
    let server = server().await;
    server.pool("p", |_| {}).await;
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    slow.always(Answer::Never);
    let mut slow_ids = Vec::new();
    for _ in 0..40 {
        slow_ids.push(hook(&server, &slow.url, json!({})).await.0);
    }
    hook(&server, &quick.url, json!({})).await;
    server.session("p").await;
    let begun = Instant::now();
    slow.wait_for(40).await;
    quick.wait_for(1).await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    eventually("it is cut off", || async {
        shown(&server, &slow_ids[0]).await.failures == 1
    })
    .await;
    let failed = shown(&server, &slow_ids[0]).await;
    assert_eq!(
        failed.last_failure.as_deref(),
        Some("it did not answer within 10 s")
    );
    // Now that they are known to fail, they are tried by a part of the places.
    server.session("p").await;
    quick.wait_for(2).await;
    server.stop().await;
}

#[tokio::test]
async fn only_what_was_asked_for_is_sent() {
    let server = server().await;
    for pool in ["p", "q", "acme~p", "globex~p"] {
        server.pool(pool, |_| {}).await;
    }
    let all = Receiver::start().await;
    let (one_pool, one_kind, one_owner, of_acme) = (
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    );
    hook(&server, &one_pool.url, json!({"pool": "q"})).await;
    let kinds = json!({"kinds": ["drain.*", "session.desired_changed"]});
    let (kinds_id, _) = hook(&server, &one_kind.url, kinds).await;
    hook(&server, &one_owner.url, json!({"owner": "alice"})).await;
    let operator = lessor_protocol::NewToken {
        tenant: Some("acme".to_owned()),
        ..new(Role::Operator)
    };
    let (_, secret) = server.token(&operator).await;
    let body = json!({"name": "w", "url": of_acme.url});
    let made = server
        .call(&secret, "POST", "/v1/webhooks", body)
        .await
        .ok(201);
    assert_eq!(made["webhook"]["tenant"], "acme");
    assert_eq!(made["webhook"]["created_by"], "a operator");
    hook(&server, &all.url, json!({})).await;

    let mut made = Vec::new();
    for (pool, owner) in [
        ("p", "bob"),
        ("q", "alice"),
        ("acme~p", "bob"),
        ("globex~p", "bob"),
    ] {
        let body = json!({"pool": pool, "owner": owner, "spec": {}});
        made.push(
            server
                .call(ROOT, "POST", "/v1/sessions", body)
                .await
                .ok(201),
        );
    }
    let path = format!("/v1/sessions/{}", made[0]["id"].as_str().expect("an id"));
    server.call(ROOT, "DELETE", &path, Value::Null).await;
    server
        .call(ROOT, "POST", "/v1/pools/p/drain", json!({}))
        .await
        .ok(202);
    // The one without a filter says when the others can have been sent everything.
    eventually("everything has arrived", || async { ids(&all).len() >= 5 }).await;
    let through = ids(&all).into_iter().max().expect("events");
    eventually("all have gone through it", || async {
        let list = server.get_with(ROOT, "/v1/webhooks").await.ok(200);
        let items = list["items"].as_array().expect("items");
        let far = |item: &Value| {
            let text = item["delivered_through"].as_str().expect("a position");
            text.parse::<i64>().expect("a number") >= through
        };
        items.iter().all(far)
    })
    .await;
    let pools = |receiver: &Receiver| {
        let came = receiver.came();
        let events = came.into_iter().flat_map(|came| came.delivery().events);
        events.map(|event| event.pool).collect::<BTreeSet<String>>()
    };
    let only = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(pools(&all), only(&["p", "q", "acme~p", "globex~p"]));
    assert_eq!(pools(&one_pool), only(&["q"]));
    assert_eq!(pools(&one_owner), only(&["q"]));
    assert_eq!(pools(&of_acme), only(&["acme~p"]));
    let came = one_kind.came();
    let kinds: BTreeSet<String> = came
        .into_iter()
        .flat_map(|came| came.delivery().events)
        .map(|event| event.kind)
        .collect();
    assert!(
        !kinds.is_empty()
            && kinds
                .iter()
                .all(|kind| kind.starts_with("drain.") || kind == "session.desired_changed"),
        "{kinds:?}"
    );

    // One tenant's operator has to do with its own only.
    let list = server.get_with(&secret, "/v1/webhooks").await.ok(200);
    assert_eq!(list["items"].as_array().expect("items").len(), 1);
    let path = format!("/v1/webhooks/{kinds_id}");
    server
        .get_with(&secret, &path)
        .await
        .is_problem(404, "not_found", "foreign");
    let body = json!({"name": "w", "url": of_acme.url, "tenant": "globex"});
    let refused = server.call(&secret, "POST", "/v1/webhooks", body).await;
    refused.is_problem(403, "forbidden", "another's tenant");
    let body = json!({"name": "w", "url": of_acme.url, "pool": "globex~p"});
    let refused = server.call(&secret, "POST", "/v1/webhooks", body).await;
    refused.is_problem(422, "validation_failed", "another's pool");
    server.stop().await;
}

#[tokio::test]
async fn nothing_inside_is_connected_to_unless_the_settings_allow_it() {
    // Allows nothing.
    let mut server = TestServer::over(database().await, |settings| {
        settings.admin_token = Some(ROOT.to_owned().into());
    })
    .await;
    server.client = server.with(ROOT);
    server.pool("p", |_| {}).await;
    let receiver = Receiver::start().await;
    let port = receiver.url.rsplit(':').next().expect("a port").to_owned();
    for url in [
        receiver.url.clone(),
        format!("http://localhost:{port}"),
        format!("https://127.0.0.1:{port}"),
        format!("https://127.1:{port}"),
        format!("https://[::ffff:127.0.0.1]:{port}"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let body = json!({"name": "w", "url": url});
        let refused = server.call(ROOT, "POST", "/v1/webhooks", body).await;
        refused.is_problem(422, "validation_failed", &url);
        assert_eq!(refused.json()["errors"][0]["pointer"], "/url", "{url}");
    }
    // A name is judged by what it means when it is connected to.
    let (id, _) = hook(&server, &format!("https://localhost:{port}"), json!({})).await;
    let path = format!("/v1/webhooks/{id}/test");
    let tested = server.call(ROOT, "POST", &path, Value::Null).await.ok(200);
    assert_eq!(tested["delivered"], false);
    let failure = tested["failure"].as_str().expect("why");
    assert!(failure.contains("not of the public Internet"), "{failure}");
    server.session("p").await;
    eventually("it has failed", || async {
        shown(&server, &id).await.failures > 0
    })
    .await;
    let shown = shown(&server, &id).await;
    assert!(
        shown
            .last_failure
            .expect("why")
            .contains("LESSOR_WEBHOOK_ALLOW")
    );
    assert!(receiver.came().is_empty());
    server.stop().await;

    // Where it is allowed, a redirect still leads nowhere.
    let server = self::server().await;
    let other = Receiver::start().await;
    let (id, _) = hook(&server, &receiver.url, json!({})).await;
    receiver.answer([Answer::With(307, "location", other.url.clone())]);
    let path = format!("/v1/webhooks/{id}/test");
    let tested = server.call(ROOT, "POST", &path, Value::Null).await.ok(200);
    assert_eq!(
        (&tested["delivered"], &tested["status"]),
        (&json!(false), &json!(307))
    );
    assert!(other.came().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn https_is_spoken_with_those_whom_the_system_trusts() {
    let (trusted, unknown) = (Authority::new(), Authority::new());
    let (folder, other_folder) = (Folder::new(), Folder::new());
    let ca = trusted.file(&folder.0, "ca.pem");
    let good = Receiver::start_tls(&trusted, &folder.0).await;
    let bad = Receiver::start_tls(&unknown, &other_folder.0).await;
    let database = database().await;
    let environment = [
        ("SSL_CERT_FILE", ca.as_str()),
        // Both ways in which a machine may resolve it.
        ("LESSOR_WEBHOOK_ALLOW", "127.0.0.0/8,::1"),
    ];
    let server = ServerProcess::start_with(&database.url, &environment, None).await;
    let mut results = Vec::new();
    for receiver in [&good, &bad] {
        let (id, secret) = hook_at(&server, &receiver.url).await;
        let tested = post(&server, &format!("/v1/webhooks/{id}/test"), Value::Null).await;
        results.push((tested, secret));
    }
    assert_eq!(results[0].0["delivered"], true, "{results:?}");
    assert_eq!(results[0].0["status"], 204);
    let came = good.came();
    assert!(came[0].is_signed_by(&results[0].1));
    assert_eq!(came[0].delivery().delivery_type, DeliveryType::Test);
    assert_eq!(results[1].0["delivered"], false);
    let failure = results[1].0["failure"].as_str().expect("why");
    assert!(
        failure.starts_with("TLS: invalid peer certificate"),
        "{failure}"
    );
    assert!(bad.came().is_empty());
}

#[tokio::test]
async fn secrets_are_shown_once_and_rotate_with_an_overlap() {
    let server = server().await;
    server.pool("p", |_| {}).await;
    let receiver = Receiver::start().await;
    let body = json!({"name": "w", "url": receiver.url});
    let made = server.call(ROOT, "POST", "/v1/webhooks", body).await;
    assert_eq!(made.header("cache-control"), "no-store");
    let location = made.header("location").to_owned();
    let made = made.ok(201);
    let (id, old) = (
        made["webhook"]["id"].as_str().expect("an id"),
        made["secret"].as_str().expect("text"),
    );
    assert_eq!(location, format!("/v1/webhooks/{id}"));
    for path in ["/v1/webhooks", &location, "/v1/audit"] {
        let shown = server.get_with(ROOT, path).await;
        assert_eq!(shown.status, 200);
        assert!(
            !shown.text.contains("whsec_") && !shown.text.contains(&old[6..]),
            "{path}"
        );
    }
    let path = format!("{location}/rotate");
    let rotated = server
        .call(ROOT, "POST", &path, json!({"overlap_seconds": 8}))
        .await
        .ok(200);
    let fresh = rotated["secret"].as_str().expect("text");
    assert_ne!(old, fresh);
    assert!(rotated["webhook"]["old_secret_until"].is_string());
    assert_eq!(rotated["webhook"]["version"], 2);
    server.session("p").await;
    let came = receiver.wait_for(1).await;
    assert!(came[0].is_signed_by(old) && came[0].is_signed_by(fresh));
    eventually("the overlap ends", || async {
        shown(&server, id).await.old_secret_until.is_none()
    })
    .await;
    server.session("p").await;
    let came = receiver.wait_for(2).await;
    assert!(!came[1].is_signed_by(old) && came[1].is_signed_by(fresh));
    // At once, when the old one is in wrong hands.
    let rotated = server
        .call(ROOT, "POST", &path, json!({"overlap_seconds": 0}))
        .await
        .ok(200);
    server.session("p").await;
    let came = receiver.wait_for(3).await;
    assert!(!came[2].is_signed_by(fresh));
    assert!(came[2].is_signed_by(rotated["secret"].as_str().expect("text")));
    server.stop().await;
}

#[tokio::test]
async fn one_that_wants_nothing_is_disabled_and_goes_on_where_it_stood() {
    let server = server().await;
    server.pool("p", |_| {}).await;
    let receiver = Receiver::start().await;
    receiver.answer([Answer::Status(410)]);
    let (id, _) = hook(&server, &receiver.url, json!({})).await;
    let session = server.session("p").await;
    eventually("it is disabled", || async {
        !shown(&server, &id).await.enabled
    })
    .await;
    let gone = shown(&server, &id).await;
    assert!(gone.disabled_reason.expect("why").contains("410"));
    server.session("p").await;
    let table = [
        ("authorization", "Bearer the-admin-token-of-the-settings"),
        ("accept", "text/plain"),
    ];
    let table = server.raw("GET", "/v1/webhooks", &table, "").await;
    assert!(
        table.text.contains("disabled") && table.text.contains("410"),
        "{}",
        table.text
    );
    assert_eq!(receiver.came().len(), 1);
    let enabled = patch(&server, &id, json!({"enabled": true})).await;
    assert_eq!(
        (&enabled["enabled"], &enabled["disabled_reason"]),
        (&json!(true), &Value::Null)
    );
    eventually("both arrive", || async {
        let mut seen = ids(&receiver);
        seen.dedup();
        seen.len() == 2
    })
    .await;
    let first = receiver.came()[1].delivery().events[0].clone();
    assert_eq!(first.session_id, Some(session.id));

    // After three days of failures the service does it.
    receiver.always(Answer::Status(503));
    server.session("p").await;
    eventually("it fails", || async {
        shown(&server, &id).await.failures > 0
    })
    .await;
    let client = server.database.client().await;
    client
        .batch_execute("UPDATE webhooks SET failing_since = now() - interval '73 hours'")
        .await
        .expect("time passes");
    eventually("it is given up", || async {
        !shown(&server, &id).await.enabled
    })
    .await;
    let given_up = shown(&server, &id).await;
    let why = given_up.disabled_reason.expect("why");
    assert!(why.starts_with("every attempt since 20"), "{why}");
    let metrics = server.raw("GET", "/metrics", &[], "").await.text;
    assert!(
        metrics.contains("lessor_webhook_deliveries_total{outcome=\"gone\"}"),
        "{metrics}"
    );

    // Sent again from where somebody says.
    receiver.always(Answer::Status(200));
    let before = receiver.came().len();
    patch(&server, &id, json!({"enabled": true, "after": "0"})).await;
    eventually("all of it comes again", || async {
        let came = receiver.came();
        let again = came[before..]
            .iter()
            .flat_map(|came| came.delivery().events);
        again.map(|event| event.id).any(|event| event == "1")
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_past_retention_is_said_to_be_missing() {
    let server = server().await;
    server.pool("p", |_| {}).await;
    let receiver = Receiver::start().await;
    let (id, _) = hook(&server, &receiver.url, json!({"kinds": ["agent.*"]})).await;
    patch(&server, &id, json!({"enabled": false})).await;
    let stood = shown(&server, &id).await.delivered_through;
    for _ in 0..5 {
        server.session("p").await;
    }
    lessor::events::settle(&server.app)
        .await
        .expect("positions");
    let client = server.database.client().await;
    client
        .batch_execute("UPDATE events SET at = now() - interval '40 days'")
        .await
        .expect("time passes");
    while lessor::events::delete_old(&server.app, Duration::from_secs(86_400))
        .await
        .expect("deleted")
    {}
    patch(&server, &id, json!({"enabled": true})).await;
    let came = receiver.wait_for(1).await.remove(0).delivery();
    let gap = came.gap.expect("a gap");
    assert_eq!(gap.asked, stood);
    assert!(gap.oldest.parse::<i64>().expect("a number") > stood.parse().expect("a number"));
    assert!(came.events.is_empty());
    eventually("it is behind it", || async {
        shown(&server, &id).await.delivered_through == gap.newest
    })
    .await;
    assert_eq!(receiver.came().len(), 1, "once");
    server.stop().await;
}

#[tokio::test]
async fn another_server_takes_over_what_one_had_in_hand() {
    let database = database().await;
    let receiver = Receiver::start().await;
    let environment = [("LESSOR_WEBHOOK_ALLOW", "127.0.0.0/8")];
    let mut dies = ServerProcess::start_with(&database.url, &environment, None).await;
    let (id, _) = hook_at(&dies, &receiver.url).await;
    receiver.answer([Answer::Never]);
    dies.client
        .put_pool("p", &lessor_protocol::PoolSpec::on("process"))
        .await
        .expect("a pool");
    let new = lessor_protocol::NewSession::in_pool("p", &json!({})).expect("a spec");
    dies.client
        .create_session(&new, None)
        .await
        .expect("a session");
    receiver.wait_for(1).await;
    dies.kill().await;
    let server = over(database).await;
    // It is in nobody's hand until that time is over.
    let client = server.database.client().await;
    let taken = "SELECT taken_until > now() FROM webhooks";
    let taken: bool = client.query_one(taken, &[]).await.expect("a row").get(0);
    assert!(taken);
    client
        .batch_execute("UPDATE webhooks SET taken_until = now() - interval '1 second'")
        .await
        .expect("time passes");
    let came = receiver.wait_for(2).await;
    assert_eq!(came[0].body, came[1].body);
    assert_eq!(came[0].header("webhook-id"), came[1].header("webhook-id"));
    eventually("it is written down", || async {
        shown(&server, &id).await.last_success_at.is_some()
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_changes_ask_for_the_version() {
    let server = server().await;
    let url = "https://hooks.example.com/";
    for (body, pointer) in [
        (json!({"name": "", "url": url}), "/name"),
        (json!({"name": "w", "url": "ftp://x/"}), "/url"),
        (
            json!({"name": "w", "url": url, "kinds": ["Session"]}),
            "/kinds",
        ),
        (
            json!({"name": "w", "url": url, "kinds": vec!["a"; 51]}),
            "/kinds",
        ),
        (json!({"name": "w", "url": url, "pool": "No"}), "/pool"),
        (json!({"name": "w", "url": url, "owner": ""}), "/owner"),
        (json!({"name": "w", "url": url, "tenant": "a~b"}), "/tenant"),
        (json!({"name": "w", "url": url, "after": "x"}), "/after"),
        (
            json!({"name": "w", "url": url, "after": "999999"}),
            "/after",
        ),
        (
            json!({"name": "w", "url": url, "secret": "mine"}),
            "/secret",
        ),
    ] {
        let refused = server
            .call(ROOT, "POST", "/v1/webhooks", body.clone())
            .await;
        refused.is_problem(422, "validation_failed", &body.to_string());
        assert_eq!(refused.json()["errors"][0]["pointer"], pointer, "{body}");
    }
    let (id, _) = hook(&server, url, json!({"pool": "p", "kinds": ["pool.*"]})).await;
    let path = format!("/v1/webhooks/{id}");
    let changed = patch(&server, &id, json!({"pool": null, "name": "v"})).await;
    assert_eq!(
        (&changed["pool"], &changed["name"]),
        (&Value::Null, &json!("v"))
    );
    assert_eq!(
        (&changed["kinds"], &changed["version"]),
        (&json!(["pool.*"]), &json!(2))
    );
    let stale = [
        ("authorization", "Bearer the-admin-token-of-the-settings"),
        ("if-match", "\"1\""),
        ("content-type", "application/json"),
    ];
    for (method, path, body) in [
        ("PATCH", path.clone(), "{}"),
        ("DELETE", path.clone(), ""),
        ("POST", format!("{path}/rotate"), "{}"),
    ] {
        let refused = server.raw(method, &path, &stale, body).await;
        refused.is_problem(412, "version_mismatch", method);
    }
    let gone = server.call(ROOT, "DELETE", &path, Value::Null).await;
    assert_eq!(gone.status, 204);
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("POST", format!("{path}/test")),
        ("GET", "/v1/webhooks/x".to_owned()),
    ] {
        server
            .call(ROOT, method, &path, Value::Null)
            .await
            .is_problem(404, "not_found", &path);
    }
    // As many as there may be, also when they come together.
    let creates = (0..110).map(|_| {
        let body = json!({"name": "w", "url": url});
        server.call(ROOT, "POST", "/v1/webhooks", body)
    });
    let statuses: Vec<u16> = futures_util::future::join_all(creates)
        .await
        .iter()
        .map(|answer| answer.status)
        .collect();
    let made = statuses.iter().filter(|status| **status == 201).count();
    let refused = statuses.iter().filter(|status| **status == 409).count();
    assert_eq!((made, refused), (100, 10), "{statuses:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_runbook_of_webhooks() {
    let server = TestServer::over(database().await, |settings| {
        settings.webhook_allow = Allowed::new(vec!["127.0.0.0/8".parse().expect("a network")]);
    })
    .await;
    server.pool("local", |_| {}).await;
    let receiver = Receiver::start().await;
    let variables = [("RECEIVER", receiver.url.as_str())];
    let said = runbook::run_with("webhooks.md", &server.url, &variables).await;
    assert!(said.contains("\"delivered\":true"), "{said}");
    assert!(!receiver.came().is_empty());
    server.stop().await;
}
