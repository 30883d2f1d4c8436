//! What would become of a pool if agents were lost; and that asking changes nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lessor_protocol::{
    Labels, NewSession, OnLost, OwnerShare, ProblemCode, SimulateRequest, Simulation,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::checks::{dump, refused};
use crate::support::{TestAgent, TestServer, database, runbook};

async fn simulate(server: &TestServer, lose: &[&str]) -> Simulation {
    let body = SimulateRequest {
        lose: lose.iter().map(|&name| name.to_owned()).collect(),
    };
    let answer = server.client.simulate_pool("p", &body).await;
    answer.expect("an answer")
}

fn moves(simulation: &Simulation) -> Vec<(Option<&str>, &str)> {
    let steps = simulation.moves.iter();
    steps.map(|m| (m.from.as_deref(), m.to.as_str())).collect()
}

/// An agent that runs so many sessions.
async fn busy(
    server: &TestServer,
    name: &str,
    domain: &str,
    sessions: usize,
) -> (TestAgent, Vec<Uuid>) {
    let agent = server.agent(name, "p", domain, 2).await;
    let mut ids = Vec::new();
    for _ in 0..sessions {
        server.session("p").await;
        ids.push(agent.runs_one().await.session.id);
    }
    (agent, ids)
}

#[tokio::test]
async fn sessions_of_a_lost_agent_go_to_the_others_of_its_domain() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let (_one, ids) = busy(&server, "one", "d", 2).await;
    busy(&server, "two", "d", 1).await;
    let three = server.agent("three", "p", "d", 2).await;
    server.agent("far", "p", "elsewhere", 2).await;

    let now = simulate(&server, &[]).await;
    assert_eq!(
        (now.fits, now.complete, now.moves_total, now.waiting_total),
        (true, true, 0, 0)
    );

    let lost = simulate(&server, &["one"]).await;
    assert_eq!(
        (lost.fits, lost.moves_total, lost.waiting_total),
        (true, 2, 0)
    );
    let (from, to): (BTreeSet<_>, Vec<_>) = moves(&lost).into_iter().unzip();
    assert_eq!(
        (from, to),
        (BTreeSet::from([Some("one")]), vec!["three", "three"])
    );
    let named: BTreeSet<Uuid> = lost.moves.iter().map(|m| m.session_id).collect();
    assert_eq!(named, ids.iter().copied().collect());
    // Adoption needs no slot, and the reason says what it comes to.
    server
        .client
        .deregister_agent("three", None, true)
        .await
        .expect("it goes");
    drop(three);
    let lost = simulate(&server, &["one"]).await;
    assert!(lost.fits);
    let counted = async |fits: bool| {
        let line = format!("lessor_simulations_total{{fits=\"{fits}\"}}");
        server.metric(&line).await
    };
    assert_eq!((counted(true).await, counted(false).await), (3.0, 0.0));
    assert_eq!(moves(&lost), [(Some("one"), "two"); 2]);
    assert_eq!(
        lost.moves[1].reason,
        "two adopts it and then uses 3 of 2 slots, more than its capacity"
    );
    // A cordoned agent adopts nothing.
    server
        .client
        .cordon_agent("two", &Default::default())
        .await
        .expect("it is cordoned");
    let lost = simulate(&server, &["one"]).await;
    assert_eq!(
        (lost.fits, lost.moves_total, lost.waiting_total),
        (false, 0, 2)
    );
    assert!(lost.waiting[0].reason.contains("cordoned"), "{lost:#?}");
    assert_eq!((counted(true).await, counted(false).await), (3.0, 1.0));
    server.stop().await;
}

#[tokio::test]
async fn a_lost_domain_is_left_to_on_lost() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    busy(&server, "one", "d", 2).await;
    let roomy = server.agent("far", "p", "elsewhere", 1).await;
    for (policy, fits, waits) in [
        (OnLost::Wait, 0, 2),
        (OnLost::Fail, 0, 2),
        (OnLost::Restart, 1, 1),
    ] {
        server.pool("p", |pool| pool.on_lost = policy).await;
        let lost = simulate(&server, &["one"]).await;
        assert!(!lost.fits);
        assert_eq!(
            (lost.moves_total, lost.waiting_total),
            (fits, waits),
            "{policy}: {lost:#?}"
        );
    }
    let lost = simulate(&server, &["one"]).await;
    assert_eq!(moves(&lost), [(Some("one"), "far")]);
    assert!(lost.moves[0].reason.contains("starts it anew"), "{lost:#?}");
    assert!(lost.waiting[0].reason.contains("free slot"), "{lost:#?}");
    // With both gone there is nobody.
    let lost = simulate(&server, &["one", "far"]).await;
    assert_eq!((lost.moves_total, lost.waiting_total), (0, 2));
    drop(roomy);
    server.stop().await;
}

#[tokio::test]
async fn what_waits_today_is_planned_too() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("one", "p", "d", 2).await;
    server.agent("two", "p", "e", 1).await;
    let made = server.sessions("p", 4).await;
    // Offered and not accepted: it goes back.
    let offered = agent.claim(1, 5.0).await.remove(0);
    let now = simulate(&server, &[]).await;
    assert_eq!(
        (now.fits, now.moves_total, now.waiting_total),
        (false, 2, 1),
        "{now:#?}"
    );
    assert_eq!(
        now.moves[0].session_id, made[1].id,
        "in the order of the queue"
    );
    assert_eq!(now.waiting[0].session_id, made[3].id);
    assert!(now.moves.iter().all(|m| m.from.is_none()));
    let lost = simulate(&server, &["one"]).await;
    assert_eq!((lost.moves_total, lost.waiting_total), (1, 3));
    let back = lost
        .moves
        .iter()
        .map(|m| m.session_id)
        .chain(lost.waiting.iter().map(|w| w.session_id));
    let back: BTreeSet<Uuid> = back.collect();
    assert_eq!(back, made.iter().map(|s| s.id).collect());
    assert!(back.contains(&offered.session.id));
    // Labels that nobody has, and an owner that has enough.
    let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
    new.requires = Labels::from([("gpu".to_owned(), "yes".to_owned())]);
    new.priority = 9;
    let asks = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
    new.owner = Some("o".to_owned());
    new.priority = 8;
    let mine = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let share = OwnerShare {
        weight: 1.0,
        max_running: Some(0),
    };
    server
        .client
        .put_owner("p", "o", &share)
        .await
        .expect("a limit");
    let now = simulate(&server, &[]).await;
    let why = |id: Uuid| {
        let found = now.waiting.iter().find(|w| w.session_id == id);
        found.map(|w| w.reason.clone()).unwrap_or_default()
    };
    assert!(why(asks.id).contains("gpu=yes"), "{now:#?}");
    assert!(why(mine.id).contains("max_running"), "{now:#?}");
    server.stop().await;
}

#[tokio::test]
async fn agents_that_are_not_of_the_pool_are_refused_with_their_place() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.pool("q", |_| {}).await;
    server.agent("here", "p", "d", 2).await;
    server.agent("there", "q", "d", 2).await;
    let post = async |path: &str, body: serde_json::Value| {
        let answer = reqwest::Client::new()
            .post(format!("{}/v1/pools/{path}/simulate", server.url))
            .json(&body)
            .send()
            .await
            .expect("an answer");
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.expect("JSON");
        (status, body)
    };
    let (status, body) = post("p", json!({"lose": ["here", "nobody", "there"]})).await;
    assert_eq!((status, &body["code"]), (422, &json!("validation_failed")));
    let pointers: Vec<_> = body["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|e| &e["pointer"])
        .collect();
    assert_eq!(pointers, ["/lose/1", "/lose/2"]);
    assert_eq!(post("p", json!({"lose": ["A name"]})).await.0, 422);
    assert_eq!(post("p", json!({"loose": []})).await.0, 422);
    let many: Vec<String> = (0..1_001).map(|n| format!("a{n}")).collect();
    assert_eq!(
        post("p", json!({"lose": many})).await.1["errors"][0]["pointer"],
        "/lose"
    );
    let (status, body) = post("p", json!({})).await;
    assert_eq!((status, &body["fits"]), (200, &json!(true)));
    assert_eq!(
        refused(
            server
                .client
                .simulate_pool("nowhere", &SimulateRequest::default())
                .await
        ),
        ProblemCode::PoolNotFound
    );
    server.stop().await;
}

#[tokio::test]
async fn asking_changes_nothing() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.on_lost = OnLost::Restart)
        .await;
    busy(&server, "one", "d", 2).await;
    busy(&server, "two", "d", 1).await;
    let id = server.sessions("p", 3).await[0].id.to_string();
    let client = server.database.client().await;
    let before = dump(&client).await;
    assert!(before.contains(&id) && before.contains("one"), "{before}");
    for lose in [&[][..], &["one"], &["one", "two"]] {
        simulate(&server, lose).await;
    }
    server.client.explain_session(&id).await.expect("an answer");
    assert_eq!(dump(&client).await, before);
    server.stop().await;
}

#[tokio::test]
async fn a_pool_of_a_hundred_thousand_sessions_is_planned_in_time() {
    let database = database().await;
    let server = TestServer::over(database, |_| {}).await;
    server.pool("p", |_| {}).await;
    let client = server.database.client().await;
    // 500 of 2,000 agents are lost, and with them 20,000 of the 80,000 sessions; 20,000 wait.
    let text = "ALTER TABLE sessions SET (autovacuum_enabled = false);
        INSERT INTO agents (name, pool, resource_domain, capacity, slots_used, protocol_version, incarnation, live,
            lease_expires_at, last_heartbeat_at, registered_at)
        SELECT 'a' || n, 'p', 'd' || n % 50, 80, 40, 1, n, true, now() + interval '1 hour', now(), now()
        FROM generate_series(1, 2000) n;
        INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart, resource_domain,
            created_at, updated_at, queued_at, assigned_agent_id, assigned_incarnation, assigned_action, lease_epoch)
        SELECT gen_random_uuid(), 'p', 'process', '{}', 'running', 'running', 'on_failure', 'd' || (1 + n % 2000) % 50,
            now(), now(), now(), 'a' || 1 + n % 2000, 1 + n % 2000, 'start', 1
        FROM generate_series(1, 80000) n;
        INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
            created_at, updated_at, queued_at)
        SELECT gen_random_uuid(), 'p', 'process', '{}', 'running', 'pending', 'on_failure',
            now(), now(), now() + n * interval '1 millisecond'
        FROM generate_series(1, 20000) n";
    client.batch_execute(text).await.expect("a pool");
    let lose: Vec<String> = (1..=500).map(|n| format!("a{n}")).collect();
    let lose: Vec<&str> = lose.iter().map(String::as_str).collect();
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        let lost = simulate(&server, &lose).await;
        best = best.min(began.elapsed());
        assert_eq!((lost.complete, lost.fits), (true, true));
        assert_eq!((lost.moves_total, lost.moves.len()), (40_000, 1_000));
    }
    println!("best of three: {best:?}");
    // Without optimisation, beside other tests.
    assert!(best < Duration::from_secs(5), "{best:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_runbook_of_simulating() {
    let server = TestServer::start().await;
    server.pool("local", |_| {}).await;
    let agent = server.agent("local-1", "local", "d", 2).await;
    server.agent("local-2", "local", "d", 2).await;
    server.session("local").await;
    agent.runs_one().await;
    let said = runbook::run("simulate.md", &server.url).await;
    assert!(said.contains("\"fits\":true"), "{said}");
    assert!(
        said.contains("\"from\":\"local-1\",\"to\":\"local-2\""),
        "{said}"
    );
    assert!(said.contains("\"fits\":false"), "{said}");
    server.stop().await;
}
