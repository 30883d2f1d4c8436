//! Every operation of the document, with every role and with another tenant's things.
//!
//! [`EXPECTED`] is written by hand and knows nothing of the table that the service reads: who may do
//! what is said twice, and has to agree. An operation that is not in it fails the test.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lessor_protocol::{NewToken, Role};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::access::{ROOT, agent, closed, enroll, new, user};
use crate::support::raw::Answer;
use crate::support::{TestAgent, TestServer};

/// Operation, and the roles that it is for: Admin, Operator, Viewer, User, Enroll, aGent.
const EXPECTED: &[(&str, &str)] = &[
    ("get_versions", "AOVUEG"),
    ("list_tokens", "A"),
    ("create_token", "A"),
    ("get_token", "A"),
    ("revoke_token", "A"),
    ("rotate_token", "A"),
    ("list_audit", "AO"),
    ("list_webhooks", "AO"),
    ("create_webhook", "AO"),
    ("get_webhook", "AO"),
    ("patch_webhook", "AO"),
    ("delete_webhook", "AO"),
    ("rotate_webhook", "AO"),
    ("test_webhook", "AO"),
    ("list_pools", "AOV"),
    ("get_pool", "AOV"),
    ("put_pool", "AO"),
    ("patch_pool", "AO"),
    ("delete_pool", "AO"),
    ("release_brake", "AO"),
    ("get_pool_scaling", "AOV"),
    ("list_owners", "AOV"),
    ("get_owner", "AOV"),
    ("put_owner", "AO"),
    ("delete_owner", "AO"),
    ("drain_pool", "AO"),
    ("get_pool_drain", "AOV"),
    ("cancel_pool_drain", "AO"),
    ("explain_pool_drain", "AOV"),
    ("rebalance_pool", "AO"),
    ("get_rebalance", "AOV"),
    ("cancel_rebalance", "AO"),
    ("simulate_pool", "AOV"),
    ("list_agents", "AOV"),
    ("bulk_agents", "AO"),
    ("get_agent", "AOV"),
    ("register_agent", "AOEG"),
    ("deregister_agent", "AOG"),
    ("send_heartbeat", "AOG"),
    ("claim_sessions", "AOG"),
    ("send_reports", "AOG"),
    ("send_inventory", "AOG"),
    ("approve_agent", "AO"),
    ("withdraw_approval", "AO"),
    ("list_approvals", "AOV"),
    ("cordon_agent", "AO"),
    ("uncordon_agent", "AO"),
    ("drain_agent", "AO"),
    ("get_agent_drain", "AOV"),
    ("cancel_agent_drain", "AO"),
    ("explain_agent_drain", "AOV"),
    ("list_leftovers", "AOV"),
    ("list_sessions", "AOVU"),
    ("create_session", "AOU"),
    ("create_sessions", "AOU"),
    ("bulk_sessions", "AOU"),
    ("get_session", "AOVU"),
    ("patch_session", "AOU"),
    ("delete_session", "AOU"),
    ("retry_session", "AOU"),
    ("migrate_session", "AO"),
    ("explain_session", "AOVU"),
    ("list_session_events", "AOVU"),
    ("list_session_leases", "AOVU"),
    ("list_commands", "AOVU"),
    ("create_command", "AOU"),
    ("get_command", "AOVU"),
    ("cancel_command", "AOU"),
    ("stream_events", "AOVU"),
];

/// What a tenant has, or nobody: what paths and bodies name.
#[derive(Clone, Debug)]
struct Things {
    pool: String,
    agent: String,
    incarnation: i64,
    instance: String,
    session: String,
    command: String,
    token: String,
    webhook: String,
}

struct World {
    server: TestServer,
    /// What the callers' tenant has.
    own: Things,
    /// What another one has.
    foreign: Things,
    /// Role's letter and secret, each of the tenant `acme`.
    callers: Vec<(char, String)>,
    /// A user of that tenant who owns nothing.
    stranger: String,
}

async fn things(server: &TestServer, tenant: &str) -> Things {
    let pool = format!("{tenant}~p");
    server.pool(&pool, |_| {}).await;
    let name = format!("{tenant}~a");
    let agent = server.agent(&name, &pool, "d", 100).await;
    let body = json!({"pool": pool, "owner": "alice", "name": format!("{tenant}~s"), "spec": {}});
    let session = server
        .call(ROOT, "POST", "/v1/sessions", body)
        .await
        .ok(201);
    let session = session["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/sessions/{session}/commands");
    let body = json!({"kind": "exec", "payload": {}, "deadline_seconds": 3600});
    let command = server.call(ROOT, "POST", &path, body).await.ok(201);
    let path = format!("/v1/pools/{pool}/owners/alice");
    server
        .call(ROOT, "PUT", &path, json!({"weight": 2}))
        .await
        .ok(200);
    let path = format!("/v1/agents/{name}/approve");
    let body = json!({"pool": pool});
    server.call(ROOT, "POST", &path, body).await.ok(200);
    for path in [
        format!("/v1/pools/{pool}/drain"),
        format!("/v1/agents/{name}/drain"),
    ] {
        let body = json!({"deadline_seconds": 3600});
        let drained = server.call(ROOT, "POST", &path, body).await;
        assert!([202, 409].contains(&drained.status), "{drained:?}");
    }
    let viewer = NewToken {
        tenant: Some(tenant.to_owned()),
        ..new(Role::Viewer)
    };
    // Nothing is sent there: it is no address of the public Internet.
    let body = json!({"name": "w", "url": "https://localhost/", "tenant": tenant});
    let webhook = server.call(ROOT, "POST", "/v1/webhooks", body).await;
    let webhook = webhook.ok(201)["webhook"]["id"].clone();
    Things {
        webhook: webhook.as_str().expect("an id").to_owned(),
        pool,
        agent: name,
        incarnation: agent.incarnation,
        instance: agent.instance,
        session,
        command: command["id"].as_str().expect("an id").to_owned(),
        token: server.token(&viewer).await.0,
    }
}

impl World {
    async fn new() -> Self {
        let server = closed().await;
        let own = things(&server, "acme").await;
        let foreign = things(&server, "globex").await;
        let of = |role| NewToken {
            tenant: Some("acme".to_owned()),
            ..new(role)
        };
        let mut callers = Vec::new();
        for (letter, new) in [
            ('A', of(Role::Admin)),
            ('O', of(Role::Operator)),
            ('V', of(Role::Viewer)),
            ('U', user("alice", Some("acme"))),
            ('E', enroll(&own.pool)),
            ('G', agent(&own.agent, &own.pool)),
        ] {
            callers.push((letter, server.token(&new).await.1));
        }
        let stranger = server.token(&user("bob", Some("acme"))).await.1;
        Self {
            server,
            own,
            foreign,
            callers,
            stranger,
        }
    }
}

impl Things {
    /// The same, none of which is there: names and ids that nobody has.
    fn missing(&self) -> Self {
        Self {
            pool: self.pool.replace("~p", "~nothing"),
            agent: self.agent.replace("~a", "~nobody"),
            session: Uuid::now_v7().to_string(),
            command: Uuid::now_v7().to_string(),
            token: Uuid::now_v7().to_string(),
            webhook: Uuid::now_v7().to_string(),
            ..self.clone()
        }
    }

    fn path(&self, path: &str) -> String {
        path.replace("{pool}", &self.pool)
            .replace("{agent}", &self.agent)
            .replace("{session}", &self.session)
            .replace("{command}", &self.command)
            .replace("{token}", &self.token)
            .replace("{webhook}", &self.webhook)
            .replace("{owner}", "alice")
    }

    /// A body that the operation takes; null for none.
    fn body(&self, operation: &str) -> Value {
        let incarnation = self.incarnation;
        match operation {
            "create_token" => json!({"name": "x", "role": "enroll", "pools": [self.pool]}),
            "create_webhook" => {
                json!({"name": "x", "url": "https://localhost/", "pool": self.pool})
            }
            "patch_webhook" => json!({"name": "y"}),
            "put_pool" => json!({"platform": "process"}),
            "patch_pool" => json!({"placement": "pack"}),
            "put_owner" => json!({"weight": 2}),
            "approve_agent" => json!({"pool": self.pool}),
            "bulk_agents" => {
                json!({"filter": {"pool": self.pool}, "action": "uncordon", "dry_run": true})
            }
            "bulk_sessions" => {
                json!({"filter": {"pool": self.pool}, "action": "terminate", "dry_run": true})
            }
            "register_agent" => {
                json!({"pool": self.pool, "resource_domain": "d", "capacity": 100,
                    "instance": {"id": self.instance}})
            }
            "send_heartbeat" => json!({"incarnation": incarnation}),
            "claim_sessions" => json!({"incarnation": incarnation, "max_sessions": 0}),
            "send_reports" => json!({"incarnation": incarnation, "reports": []}),
            "send_inventory" => {
                json!({"incarnation": incarnation, "taken_seconds_ago": 0, "resources": []})
            }
            "create_session" => json!({"pool": self.pool, "spec": {}}),
            "create_sessions" => json!({"sessions": [{"pool": self.pool, "spec": {}}]}),
            "patch_session" => json!({"priority": 1}),
            "migrate_session" => json!({"resource_domain": "nowhere"}),
            "create_command" => json!({"kind": "exec", "payload": {}, "deadline_seconds": 60}),
            _ => Value::Null,
        }
    }

    async fn call(&self, server: &TestServer, secret: &str, of: &Operation) -> Answer {
        let mut path = self.path(&of.path);
        let extra = match of.id.as_str() {
            // It has no end if it is asked rightly.
            "stream_events" => "?last_event_id=x",
            // A goodbye of a run that there never was.
            "deregister_agent" => "?incarnation=999999",
            _ => "",
        };
        path.push_str(extra);
        server
            .call(secret, &of.method, &path, self.body(&of.id))
            .await
    }
}

struct Operation {
    id: String,
    method: String,
    path: String,
}

fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(&lessor::api::text()).expect("JSON");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            found.push(Operation {
                id: operation["operationId"].as_str().expect("an id").to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
            });
        }
    }
    found
}

fn expected(operation: &str) -> &'static str {
    EXPECTED
        .iter()
        .find(|(id, _)| *id == operation)
        .unwrap_or_else(|| panic!("{operation} is not in the table: who may do it?"))
        .1
}

#[test]
fn the_table_has_every_operation_once() {
    let listed: Vec<&str> = EXPECTED.iter().map(|(id, _)| *id).collect();
    let unique: BTreeSet<&str> = listed.iter().copied().collect();
    let described = operations();
    let described: BTreeSet<&str> = described.iter().map(|of| of.id.as_str()).collect();
    assert_eq!(listed.len(), unique.len());
    assert_eq!(unique, described);
}

/// What an answer tells but for the names that were asked for and the request's id.
fn told(answer: &Answer, things: &Things) -> (u16, String, String) {
    let problem = answer.json();
    let mut detail = problem["detail"].as_str().expect("a detail").to_owned();
    for name in [
        &things.pool,
        &things.agent,
        &things.session,
        &things.command,
        &things.token,
        &things.webhook,
    ] {
        detail = detail.replace(name, "…");
    }
    let code = problem["code"].as_str().expect("a code").to_owned();
    let mut headers: Vec<&str> = answer.headers.keys().map(|name| name.as_str()).collect();
    headers.sort_unstable();
    (answer.status, code, format!("{detail} {headers:?}"))
}

fn is_allowed(answer: &Answer) -> bool {
    !matches!(answer.status, 401 | 403 | 404) && answer.status < 500
}

#[tokio::test]
async fn every_operation_with_every_role_and_a_foreign_tenant() {
    let world = World::new().await;
    let server = &world.server;
    for of in operations() {
        let (id, roles) = (&of.id, expected(&of.id));
        let nobody = world.own.call(server, "", &of).await;
        nobody.is_problem(401, "unauthenticated", id);
        let missing = world.foreign.missing();
        for (role, secret) in &world.callers {
            let what = format!("{id} with {role}");
            if !roles.contains(*role) {
                for things in [&world.own, &world.foreign, &missing] {
                    let answer = things.call(server, secret, &of).await;
                    answer.is_problem(403, "forbidden", &what);
                }
                continue;
            }
            let foreign = world.foreign.call(server, secret, &of).await;
            let nothing = missing.call(server, secret, &of).await;
            foreign_is_hidden(&of, (&foreign, &world.foreign), (&nothing, &missing), &what);
            let own = world.own.call(server, secret, &of).await;
            // It is asked in a way that would be wrong for anybody, so that it ends.
            let allowed = is_allowed(&own) || (id == "get_rebalance" || id == "cancel_rebalance");
            assert!(allowed, "{what}: {own:?}");
            assert!(!own.text.contains("globex"), "{what}: {}", own.text);
            again(&world, &of).await;
        }
    }
    // Whoever has no tenant sees all of them.
    for (role, reads) in [(Role::Viewer, "/v1/pools"), (Role::Operator, "/v1/agents")] {
        let (_, secret) = server.token(&new(role)).await;
        let listed = server.get_with(&secret, reads).await.ok(200).to_string();
        assert!(
            listed.contains("acme~") && listed.contains("globex~"),
            "{listed}"
        );
    }
    world.server.stop().await;
}

/// What was done to the tenant's things is such that the next caller finds them as they were.
async fn again(world: &World, of: &Operation) {
    if of.id == "withdraw_approval" {
        let path = format!("/v1/agents/{}/approve", world.own.agent);
        let body = json!({"pool": world.own.pool});
        world.server.call(ROOT, "POST", &path, body).await.ok(200);
    }
    if of.id == "delete_webhook" {
        let client = world.server.database.client().await;
        let text = format!(
            "INSERT INTO webhooks (id, name, url, tenant, secret, position, created_by) \
             VALUES ('{}', 'w', 'https://localhost/', 'acme', sha256('x'), 0, 'x')",
            world.own.webhook
        );
        client.batch_execute(&text).await.expect("it is back");
    }
    if of.id == "delete_owner" {
        let path = format!("/v1/pools/{}/owners/alice", world.own.pool);
        world
            .server
            .call(ROOT, "PUT", &path, json!({"weight": 2}))
            .await
            .ok(200);
    }
}

/// Another tenant's thing is answered as one that is not there, whether it is there or not.
fn foreign_is_hidden(
    of: &Operation,
    (foreign, of_it): (&Answer, &Things),
    (nothing, of_nothing): (&Answer, &Things),
    what: &str,
) {
    let named = ["{pool}", "{agent}", "{session}", "{token}", "{webhook}"];
    let is_named = named.iter().any(|name| of.path.contains(name));
    match of.id.as_str() {
        // By what the body names.
        "create_session" | "create_sessions" => {
            foreign.is_problem(404, "pool_not_found", what);
        }
        "create_token" => {
            foreign.is_problem(403, "forbidden", what);
        }
        "create_webhook" => {
            foreign.is_problem(422, "validation_failed", what);
        }
        "bulk_agents" | "bulk_sessions" => {
            assert_eq!(foreign.json()["matched"], 0, "{what}: {foreign:?}");
            assert_eq!(foreign.text, nothing.text, "{what}");
            return;
        }
        _ if !is_named => {
            // The stream is looked at elsewhere.
            assert!(!foreign.text.contains("globex"), "{what}: {}", foreign.text);
            return;
        }
        _ => assert_eq!(foreign.status, 404, "{what}: {foreign:?}"),
    }
    assert_eq!(told(foreign, of_it), told(nothing, of_nothing), "{what}");
}

#[tokio::test]
async fn another_owners_session_is_as_one_that_is_not_there() {
    let world = World::new().await;
    let missing = world.own.missing();
    let by_name = Things {
        session: "acme~s".to_owned(),
        ..world.own.clone()
    };
    let nobodys = Things {
        session: "acme~t".to_owned(),
        ..missing.clone()
    };
    let mut looked_at = 0;
    for of in operations() {
        if !of.path.contains("{session}") || !expected(&of.id).contains('U') {
            continue;
        }
        looked_at += 1;
        for (theirs, nothing) in [(&world.own, &missing), (&by_name, &nobodys)] {
            let hidden = theirs.call(&world.server, &world.stranger, &of).await;
            let absent = nothing.call(&world.server, &world.stranger, &of).await;
            hidden.is_problem(404, "session_not_found", &of.id);
            assert_eq!(told(&hidden, theirs), told(&absent, nothing), "{}", of.id);
        }
    }
    assert!(looked_at >= 10, "only {looked_at}");
    let session = world
        .server
        .get_with(ROOT, "/v1/sessions/acme~s")
        .await
        .ok(200);
    assert_eq!(session["version"], 1, "and nothing was done to it");
    world.server.stop().await;
}

#[tokio::test]
async fn streams_of_two_tenants_have_nothing_of_each_other() {
    let world = World::new().await;
    let server = &world.server;
    for (role, secret) in &world.callers {
        if !expected("stream_events").contains(*role) {
            continue;
        }
        // From the oldest kept on, and what comes while it is open.
        let mut stream = reqwest::Client::new()
            .get(format!("{}/v1/events?last_event_id=0", server.url))
            .bearer_auth(secret)
            .send()
            .await
            .expect("a stream");
        for things in [&world.foreign, &world.own] {
            let body = json!({"pool": things.pool, "owner": "alice", "name": null, "spec": {}});
            server
                .call(ROOT, "POST", "/v1/sessions", body)
                .await
                .ok(201);
        }
        let mut seen = String::new();
        let marks = |seen: &str| seen.matches("event: session.created").count();
        let own = count_created(server).await;
        while marks(&seen) < own {
            let more = tokio::time::timeout(Duration::from_secs(20), stream.chunk());
            let chunk = more
                .await
                .expect("in time")
                .expect("it goes on")
                .expect("more");
            seen.push_str(&String::from_utf8_lossy(&chunk));
        }
        assert!(!seen.contains("globex"), "{role}: {seen}");
        for query in ["pool=globex~p", "session=globex~s", "agent=globex~a"] {
            let url = format!("{}/v1/events?last_event_id=0&{query}", server.url);
            let answer = reqwest::Client::new().get(url).bearer_auth(secret).send();
            let mut answer = answer.await.expect("an answer");
            if query.starts_with("session") {
                assert_eq!(answer.status(), 404, "{role} {query}");
                continue;
            }
            let hello = answer.chunk().await.expect("it goes on").expect("a hello");
            let hello = String::from_utf8_lossy(&hello).into_owned();
            assert!(
                hello.starts_with(": events follow"),
                "{role} {query}: {hello}"
            );
        }
    }
    world.server.stop().await;
}

async fn count_created(server: &TestServer) -> usize {
    let query =
        "SELECT count(*) FROM event_history WHERE kind = 'session.created' AND pool LIKE 'acme~%'";
    usize::try_from(crate::support::checks::count(server, query).await).expect("a number")
}

/// The middle one of many.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn nothing_can_be_told_from_how_long_an_answer_takes() {
    let world = World::new().await;
    let (server, secret) = (&world.server, &world.stranger);
    let (_, viewer) = &world.callers[2];
    let client = reqwest::Client::new();
    let time = async |secret: &str, path: &str| {
        let began = Instant::now();
        let call = client
            .get(format!("{}{path}", server.url))
            .bearer_auth(secret);
        let answer = call.send().await.expect("an answer");
        assert_eq!(answer.status(), 404);
        answer.bytes().await.expect("a body");
        began.elapsed()
    };
    for (secret, theirs, nothing) in [
        (secret, "/v1/sessions/acme~s", "/v1/sessions/acme~t"),
        (viewer, "/v1/sessions/globex~s", "/v1/sessions/globex~t"),
        (viewer, "/v1/pools/globex~p", "/v1/pools/globex~q"),
        (viewer, "/v1/agents/globex~a", "/v1/agents/globex~b"),
    ] {
        let (mut hidden, mut absent) = (Vec::new(), Vec::new());
        for turn in 0..300 {
            // In turn, so that whatever else the machine does is in both; and each first as often as second, as what
            // an answer leaves to be done behind it (who was refused is kept) may fall into the one that follows.
            if turn % 2 == 0 {
                hidden.push(time(secret, theirs).await);
                absent.push(time(secret, nothing).await);
            } else {
                absent.push(time(secret, nothing).await);
                hidden.push(time(secret, theirs).await);
            }
        }
        let (hidden, absent) = (median(hidden), median(absent));
        let ratio = hidden.as_secs_f64() / absent.as_secs_f64();
        assert!(
            (0.8..1.25).contains(&ratio),
            "{theirs}: {hidden:?}, {nothing}: {absent:?}"
        );
    }
    world.server.stop().await;
}

#[tokio::test]
async fn an_agent_is_itself_alone() {
    let world = World::new().await;
    let server = &world.server;
    let pool = &world.own.pool;
    let mut other = TestAgent::new(&server.with(ROOT), "acme~b", (pool, "d"), 10);
    other.register(&[]).await;
    let secret = &world
        .callers
        .iter()
        .find(|(role, _)| *role == 'G')
        .expect("it")
        .1;
    let theirs = Things {
        agent: other.name.clone(),
        incarnation: other.incarnation,
        instance: other.instance.clone(),
        ..world.own.clone()
    };
    let nobodys = world.own.missing();
    for of in operations() {
        if !expected(&of.id).contains('G') || !of.path.contains("{agent}") {
            continue;
        }
        let hidden = theirs.call(server, secret, &of).await;
        let absent = nobodys.call(server, secret, &of).await;
        hidden.is_problem(404, "agent_not_registered", &of.id);
        assert_eq!(told(&hidden, &theirs), told(&absent, &nobodys), "{}", of.id);
    }
    other.beat().await.expect("it was left alone");
    world.server.stop().await;
}

#[tokio::test]
async fn an_agent_learns_nothing_of_another_tenants_sessions() {
    let world = World::new().await;
    let (server, own) = (&world.server, &world.own);
    let secret = &world
        .callers
        .iter()
        .find(|(role, _)| *role == 'G')
        .expect("it")
        .1;
    // As many answers for what is another's as for what is nobody's.
    for things in [world.foreign.clone(), world.foreign.missing()] {
        let reports = json!({"incarnation": own.incarnation,
            "reports": [{"session_id": things.session, "lease_epoch": 0, "observed_generation": 1,
                "state": "running"}],
            "command_results": [{"command_id": things.command, "lease_epoch": 1, "status": "succeeded"}]});
        let path = format!("/v1/agents/{}", own.agent);
        let told = server
            .call(secret, "POST", &format!("{path}/reports"), reports)
            .await
            .ok(200);
        assert_eq!(
            told["results"][0],
            json!({"session_id": things.session, "outcome": "rejected", "code": "session_not_found",
                "state": null, "lease_epoch": null})
        );
        assert_eq!(
            told["command_results"][0]["code"], "command_not_found",
            "{told}"
        );
        let resource = json!({"platform_resource_id": format!("r-{}", things.session),
            "session_id": things.session, "attempt": 1, "state": "running"});
        let inventory = json!({"incarnation": own.incarnation, "taken_seconds_ago": 0, "resources": [resource]});
        let path_of_it = format!("{path}/inventory");
        let told = server
            .call(secret, "POST", &path_of_it, inventory)
            .await
            .ok(200);
        assert_eq!(told["verdicts"][0]["verdict"], "quarantine", "{told}");
        let held = json!({"pool": own.pool, "resource_domain": "d", "capacity": 100,
            "instance": {"id": own.instance},
            "held": [{"session_id": things.session, "lease_epoch": 0}]});
        let told = server.call(secret, "PUT", &path, held).await.ok(200);
        assert_eq!(told["drop"][0]["reason"], "session_not_found", "{told}");
        assert_eq!(told["keep"], json!([]));
    }
    world.server.stop().await;
}
