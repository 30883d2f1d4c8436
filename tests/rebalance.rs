//! Rebalances: running sessions move to the agents that hold few.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use lessor_protocol::{
    Action, Assignment, CordonRequest, DrainRequest, EndReason, MoveState, Placement, ProblemCode,
    Rebalance, RebalanceRequest, RebalanceStatus, ReportedState, SessionPatch,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::checks::{count, ends, ledger, refused, the_books_agree};
use crate::support::platform::{FleetAgent, Platform};
use crate::support::{TestAgent, TestServer, eventually};

fn all() -> RebalanceRequest {
    RebalanceRequest::default()
}

fn dry() -> RebalanceRequest {
    RebalanceRequest {
        dry_run: true,
        ..all()
    }
}

async fn rebalance(server: &TestServer, body: &RebalanceRequest) -> Rebalance {
    let answer = server.client.rebalance_pool("p", body).await;
    answer.expect("it is understood")
}

async fn newest(server: &TestServer) -> Rebalance {
    server
        .client
        .pool_rebalance("p")
        .await
        .expect("there is one")
}

/// Waits until the newest one is over.
async fn over(server: &TestServer) -> Rebalance {
    eventually("the rebalance is over", || async {
        newest(server).await.status != RebalanceStatus::InProgress
    })
    .await;
    newest(server).await
}

fn states(rebalance: &Rebalance) -> Vec<MoveState> {
    rebalance.moves.iter().map(|m| m.state).collect()
}

/// How many sessions each agent holds; 0 for those that hold none.
async fn held(server: &TestServer, names: &[&str]) -> Vec<i64> {
    let mut held = Vec::new();
    for name in names {
        let text = format!(
            "SELECT count(*) FROM sessions WHERE assigned_agent_id = '{name}' AND offered_until IS NULL"
        );
        held.push(count(server, &text).await);
    }
    held
}

/// Answers what one claim gives: lets go of what it is asked for, takes over what it is given.
async fn answer(agent: &TestAgent, assignments: Vec<Assignment>) -> usize {
    let told = assignments.len();
    for assignment in assignments {
        assert!(
            matches!(assignment.action, Action::Release | Action::Adopt),
            "{assignment:#?}"
        );
        agent.accepts(&assignment, ReportedState::Running).await;
    }
    told
}

/// Answers whatever it is told, until the task is aborted.
fn at_work(agent: &TestAgent) -> tokio::task::JoinHandle<()> {
    let agent = agent.clone();
    tokio::spawn(async move {
        loop {
            match agent.try_claim(100, 1.0).await {
                Ok(claimed) => {
                    for assignment in claimed.assignments {
                        let _ = agent.reports(&assignment, ReportedState::Running).await;
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
}

/// A pool in which agent `one` runs so many sessions.
async fn one_runs(server: &TestServer, sessions: usize) -> (TestAgent, Vec<Uuid>) {
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "host", 10).await;
    let ids: Vec<Uuid> = server
        .sessions("p", sessions)
        .await
        .iter()
        .map(|session| session.id)
        .collect();
    for _ in &ids {
        one.runs_one().await;
    }
    (one, ids)
}

#[tokio::test]
async fn sessions_move_to_the_agent_that_holds_few() {
    let server = TestServer::start().await;
    let (one, ids) = one_runs(&server, 4).await;
    assert_eq!(
        refused(server.client.pool_rebalance("p").await),
        ProblemCode::NotFound
    );
    let nothing = rebalance(&server, &all()).await;
    assert_eq!(
        (nothing.id, nothing.status, nothing.moves.len()),
        (None, RebalanceStatus::Completed, 0),
        "one agent has nobody to give to"
    );
    let two = server.agent("two", "p", "host", 10).await;
    let far = server.agent("far", "p", "elsewhere", 10).await;

    // A dry run says what would happen, and nothing does.
    let generations = "SELECT sum(generation)::bigint FROM sessions";
    let before = count(&server, generations).await;
    let planned = rebalance(&server, &dry()).await;
    assert_eq!(
        (planned.id, planned.dry_run, planned.status),
        (None, true, RebalanceStatus::Planned)
    );
    assert_eq!(planned.moves.len(), 2);
    for m in &planned.moves {
        assert_eq!((m.from.as_str(), m.to.as_str()), ("one", "two"));
    }
    assert_eq!(
        planned.moves[0].reason,
        "one holds 4 of 10 and two 0 of 10; after this move 3 and 1"
    );
    assert_eq!(
        refused(server.client.pool_rebalance("p").await),
        ProblemCode::NotFound
    );

    let begun = rebalance(&server, &all()).await;
    assert_eq!(count(&server, "SELECT count(*) FROM rebalances").await, 1);
    assert!(begun.id.is_some() && !begun.dry_run);
    assert_eq!(begun.status, RebalanceStatus::InProgress);
    assert_eq!(begun.moves, planned.moves, "the plan is a pure rule");
    // The newest-started go.
    let mut newest_first = Vec::new();
    for id in &ids {
        newest_first.push((server.get(*id).await.started_at, *id));
    }
    newest_first.sort();
    let expected: Vec<Uuid> = newest_first.iter().rev().take(2).map(|s| s.1).collect();
    let moving: Vec<Uuid> = begun.moves.iter().map(|m| m.session_id).collect();
    assert_eq!(moving, expected);
    eventually("both are asked for", || async {
        states(&newest(&server).await) == [MoveState::InProgress; 2]
    })
    .await;
    assert_eq!(
        count(&server, generations).await,
        before + 2,
        "the dry run raised none"
    );
    // Moves on their way count as made.
    let again = rebalance(&server, &all()).await;
    assert_eq!((again.id, again.status), (None, RebalanceStatus::Completed));

    let asked = one.claim(10, 5.0).await;
    assert_eq!(answer(&one, asked).await, 2);
    let given = two.claim(10, 5.0).await;
    assert!(given.iter().all(|given| given.action == Action::Adopt));
    assert_eq!(answer(&two, given).await, 2);
    assert!(far.claim(10, 0.0).await.is_empty());
    let done = over(&server).await;
    assert_eq!(
        (done.id, done.status),
        (begun.id, RebalanceStatus::Completed)
    );
    assert_eq!(states(&done), [MoveState::Moved; 2]);
    assert_eq!(held(&server, &["one", "two", "far"]).await, [2, 2, 0]);
    for id in moving {
        assert_eq!(ends(&server, id).await, [Some(EndReason::Released), None]);
    }
    for (kind, moved) in [("started", 0), ("completed", 2)] {
        let text = format!(
            "SELECT count(*) FROM event_history WHERE kind = 'rebalance.{kind}' AND pool = 'p' \
             AND (data->>'moves')::int = 2 AND (data->>'moved')::int = {moved}"
        );
        assert_eq!(count(&server, &text).await, 1, "{kind}");
    }
    let line = "lessor_rebalance_moves_total{outcome=\"moved\"}";
    assert_eq!(server.find_metric(line).await, Some(2.0));
    the_books_agree(&server).await;
}

#[tokio::test]
async fn the_target_gets_it_and_others_only_when_it_does_not_come() {
    let server = TestServer::start().await;
    let (one, ids) = one_runs(&server, 4).await;
    server
        .pool("p", |pool| pool.accept_timeout_seconds = 1.5)
        .await;
    let two = server.agent("two", "p", "host", 10).await;
    // It could take them as well, and holds fewer than the target will; but it is not the target.
    let three = server.agent("three", "p", "host", 10).await;
    server
        .client
        .cordon_agent(
            "three",
            &CordonRequest {
                reason: None,
                until: None,
            },
        )
        .await
        .expect("a cordon");
    let body = RebalanceRequest {
        max_moves: Some(2),
        max_parallel: 1,
        ..all()
    };
    let begun = rebalance(&server, &body).await;
    assert!(begun.moves.iter().all(|m| m.to == "two"), "{begun:#?}");
    server
        .client
        .uncordon_agent("three")
        .await
        .expect("no cordon");
    let asked = one.claim(10, 5.0).await;
    assert_eq!(answer(&one, asked).await, 1, "one at a time");
    // Now it is kept for the target, and the other one asks in vain.
    assert!(three.claim(10, 0.0).await.is_empty(), "it is kept");
    let parked = three.park(10, 20.0);
    server.has_parked("p", 1).await;
    let given = two.claim(10, 5.0).await;
    assert_eq!(given[0].session.id, begun.moves[0].session_id);
    assert!(!parked.is_finished(), "it was not told of it");
    assert_eq!(answer(&two, given).await, 1);

    // The target does not come for the second: after its time anybody may have it.
    let asked = one.claim(10, 5.0).await;
    assert_eq!(answer(&one, asked).await, 1);
    let claimed = parked.await.expect("a task").expect("an answer");
    assert_eq!(claimed.assignments[0].session.id, begun.moves[1].session_id);
    let lines = ledger(&server, begun.moves[1].session_id).await;
    let waited = lines[1].offered_at - lines[0].ended_at.expect("it has ended");
    assert!(waited.as_seconds_f64() >= 1.5, "{waited}");
    assert!(waited.as_seconds_f64() < 4.0, "{waited}: nobody was told");
    answer(&three, claimed.assignments).await;
    let done = over(&server).await;
    assert_eq!(states(&done), [MoveState::Moved, MoveState::Failed]);
    assert_eq!(held(&server, &["one", "two", "three"]).await, [2, 1, 1]);
    assert_eq!(ids.len(), 4);
    the_books_agree(&server).await;
}

#[tokio::test]
async fn limits_on_moves_and_the_least_gain() {
    let server = TestServer::start().await;
    let (_one, _) = one_runs(&server, 8).await;
    server.agent("two", "p", "host", 10).await;
    let plan = |max_moves, min_gain| {
        let server = &server;
        async move {
            let body = RebalanceRequest {
                max_moves,
                min_gain,
                ..dry()
            };
            rebalance(server, &body).await.moves.len()
        }
    };
    assert_eq!(plan(None, 1).await, 4);
    assert_eq!(plan(Some(3), 1).await, 3);
    assert_eq!(plan(Some(10_000), 1).await, 4);
    assert_eq!(plan(None, 4).await, 2, "4 apart are left so");
    assert_eq!(plan(None, 8).await, 0);
    assert_eq!(plan(None, 1_000_000).await, 0);
}

#[tokio::test]
async fn who_gives_and_who_takes() {
    let server = TestServer::start().await;
    let (one, ids) = one_runs(&server, 4).await;
    let two = server.agent("two", "p", "host", 1).await;
    let to_two = rebalance(&server, &dry()).await;
    assert_eq!(to_two.moves.len(), 0, "4 of 10 is less than 1 of 1");
    server.agent("none", "p", "host", 0).await;
    assert!(rebalance(&server, &dry()).await.moves.is_empty());
    let three = server.agent("three", "p", "host", 10).await;
    assert_eq!(rebalance(&server, &dry()).await.moves.len(), 2);

    // Nothing from or to the cordoned.
    for name in ["one", "three"] {
        server
            .client
            .cordon_agent(
                name,
                &CordonRequest {
                    reason: None,
                    until: None,
                },
            )
            .await
            .expect("a cordon");
        assert!(rebalance(&server, &dry()).await.moves.is_empty(), "{name}");
        server.client.uncordon_agent(name).await.expect("no cordon");
    }
    // Nothing to whom is passed over.
    let client = server.database.client().await;
    let pass_over = |until: &'static str| {
        let client = &client;
        async move {
            let text =
                format!("UPDATE agents SET passed_over_until = {until} WHERE name = 'three'");
            client.execute(&text, &[]).await.expect("it is passed over");
        }
    };
    pass_over("now() + interval '1 hour'").await;
    assert!(rebalance(&server, &dry()).await.moves.is_empty());
    pass_over("NULL").await;
    // Nothing that is not both running and wanted so.
    let hibernate = SessionPatch {
        desired_state: Some(lessor_protocol::DesiredState::Hibernated),
        ..SessionPatch::default()
    };
    for id in &ids[..3] {
        let id = id.to_string();
        server
            .client
            .patch_session(&id, &hibernate)
            .await
            .expect("a rest");
    }
    let moves = rebalance(&server, &dry()).await.moves;
    assert_eq!(moves.len(), 1);
    assert_eq!(moves[0].session_id, ids[3]);
    // Nothing that a drain moves already, nothing to an agent that is gone.
    server
        .client
        .drain_agent("one", &DrainRequest::default())
        .await
        .expect("it begins");
    assert!(rebalance(&server, &dry()).await.moves.is_empty());
    server
        .client
        .cancel_agent_drain("one")
        .await
        .expect("called off");
    for agent in [&two, &three] {
        server
            .client
            .deregister_agent(&agent.name, Some(agent.incarnation), false)
            .await
            .expect("goodbye");
    }
    assert!(rebalance(&server, &dry()).await.moves.is_empty());
    assert_eq!(one.name, "one");
}

#[tokio::test]
async fn a_pool_that_packs_stays_packed() {
    let server = TestServer::start().await;
    let (_one, _) = one_runs(&server, 4).await;
    server.agent("two", "p", "host", 10).await;
    assert_eq!(rebalance(&server, &dry()).await.moves.len(), 2);
    server
        .pool("p", |pool| pool.placement = Placement::Pack)
        .await;
    assert!(rebalance(&server, &dry()).await.moves.is_empty());
    let answer = rebalance(&server, &all()).await;
    assert_eq!(
        (answer.id, answer.status),
        (None, RebalanceStatus::Completed)
    );
}

#[tokio::test]
async fn a_holder_that_does_not_answer_keeps_its_sessions() {
    let server = TestServer::start().await;
    let (one, _) = one_runs(&server, 2).await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 2.0;
            pool.accept_timeout_seconds = 1.0;
        })
        .await;
    let two = server.agent("two", "p", "host", 10).await;
    let beating = [one.keep_beating(0.5), two.keep_beating(0.5)];
    let begun = rebalance(&server, &all()).await;
    assert_eq!(begun.moves.len(), 1);
    let id = begun.moves[0].session_id;
    let asked = one.claim(10, 5.0).await;
    assert_eq!(asked[0].action, Action::Release);
    let done = over(&server).await;
    assert_eq!(states(&done), [MoveState::Failed]);
    // It was taken back: a late answer ends nothing, and it is told to go on.
    one.accepts(&asked[0], ReportedState::Running).await;
    let session = server.get(id).await;
    assert_eq!(session.assigned_agent_id.as_deref(), Some("one"));
    assert!(session.generation > asked[0].generation);
    let told = one.claim(10, 5.0).await;
    assert_eq!(told[0].action, Action::Adopt);
    one.accepts(&told[0], ReportedState::Running).await;
    let line = "lessor_rebalance_moves_total{outcome=\"failed\"}";
    assert_eq!(server.find_metric(line).await, Some(1.0));
    for task in beating {
        task.abort();
    }
    the_books_agree(&server).await;
}

#[tokio::test]
async fn what_changes_meanwhile_is_skipped_and_a_target_that_goes_is_not_waited_for() {
    let server = TestServer::start().await;
    let (one, _) = one_runs(&server, 8).await;
    let two = server.agent("two", "p", "host", 10).await;
    let body = RebalanceRequest {
        max_parallel: 1,
        ..all()
    };
    let begun = rebalance(&server, &body).await;
    assert_eq!(begun.moves.len(), 4);
    let asked = one.claim(10, 5.0).await;
    assert_eq!(asked.len(), 1);
    // One on its way is wanted at an end, and so is one that has not begun.
    for m in [&begun.moves[0], &begun.moves[1]] {
        let id = m.session_id.to_string();
        server
            .client
            .delete_session(&id, &Default::default())
            .await
            .expect("an end");
    }
    eventually("the third is asked for", || async {
        states(&newest(&server).await)
            == [
                MoveState::Skipped,
                MoveState::Skipped,
                MoveState::InProgress,
                MoveState::Planned,
            ]
    })
    .await;
    // The target leaves: the request is taken back, and the last has nobody to go to.
    server
        .client
        .deregister_agent("two", Some(two.incarnation), false)
        .await
        .expect("goodbye");
    let done = over(&server).await;
    assert_eq!(
        states(&done),
        [
            MoveState::Skipped,
            MoveState::Skipped,
            MoveState::Failed,
            MoveState::Skipped
        ]
    );
    let held = held(&server, &["one"]).await;
    assert_eq!(held, [8], "ends that were not made yet included");
    for m in &done.moves[2..] {
        assert_eq!(ends(&server, m.session_id).await, [None]);
    }
    the_books_agree(&server).await;
}

#[tokio::test]
async fn a_cancelled_one_finishes_what_it_has_begun() {
    let server = TestServer::start().await;
    let (one, _) = one_runs(&server, 8).await;
    let two = server.agent("two", "p", "host", 10).await;
    assert_eq!(
        refused(server.client.cancel_rebalance("p").await),
        ProblemCode::NotFound
    );
    let body = RebalanceRequest {
        max_parallel: 1,
        ..all()
    };
    rebalance(&server, &body).await;
    let asked = one.claim(10, 5.0).await;
    let off = server.client.cancel_rebalance("p").await.expect("off");
    assert_eq!(off.status, RebalanceStatus::Cancelled);
    let mut expected = [MoveState::Cancelled; 4];
    expected[0] = MoveState::InProgress;
    assert_eq!(states(&off), expected);
    assert_eq!(answer(&one, asked).await, 1);
    let given = two.claim(10, 5.0).await;
    assert_eq!(answer(&two, given).await, 1);
    expected[0] = MoveState::Moved;
    eventually("the one that had begun is made", || async {
        states(&newest(&server).await) == expected
    })
    .await;
    assert!(one.claim(10, 0.0).await.is_empty(), "no others begin");
    let same = server.client.cancel_rebalance("p").await.expect("still");
    assert_eq!((same.status, same.id), (RebalanceStatus::Cancelled, off.id));
    let kinds = "SELECT count(*) FROM event_history WHERE kind LIKE 'rebalance.%'";
    assert_eq!(count(&server, kinds).await, 2);
    // The next one plans what is left.
    let next = rebalance(&server, &all()).await;
    assert_eq!(next.moves.len(), 3);
    the_books_agree(&server).await;
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let path = "/v1/pools/p/rebalance";
    for (field, values) in [
        ("dry_run", vec![json!("yes"), json!(1), json!(null)]),
        (
            "max_moves",
            vec![json!(0), json!(-1), json!(10_001), json!(1.5), json!("3")],
        ),
        (
            "max_parallel",
            vec![json!(0), json!(1_001), json!(null), json!("1")],
        ),
        (
            "min_gain",
            vec![json!(0), json!(1_000_001), json!(null), json!(1e30)],
        ),
        ("agents", vec![json!([])]),
    ] {
        for value in values {
            let body = json!({ field: value }).to_string();
            let answer = server.send("POST", path, body.clone()).await;
            answer.is_problem(422, "validation_failed", &body);
            assert_eq!(
                answer.json()["errors"][0]["pointer"],
                format!("/{field}"),
                "{body}"
            );
        }
    }
    for body in ["{", "[1"] {
        let answer = server.send("POST", path, body).await;
        answer.is_problem(400, "malformed_json", body);
    }
    let empty = server.send("POST", path, "").await;
    assert_eq!(empty.status, 200, "every field may be left out: {empty:?}");
    let all_fields = r#"{"dry_run":true,"max_moves":null,"max_parallel":1000,"min_gain":1000000}"#;
    assert_eq!(server.send("POST", path, all_fields).await.status, 200);
    for (method, status, code) in [
        ("POST", 404, "pool_not_found"),
        ("GET", 404, "not_found"),
        ("DELETE", 404, "not_found"),
        ("PUT", 405, "method_not_allowed"),
    ] {
        let answer = server.send(method, "/v1/pools/nowhere/rebalance", "").await;
        answer.is_problem(status, code, method);
    }
    // And the pool's own setting.
    for value in [json!(1), json!(0), json!(1_000_001), json!("2"), json!(2.5)] {
        let body = json!({"platform": "process", "rebalance_min_gain": value}).to_string();
        let answer = server.send("PUT", "/v1/pools/q", body.clone()).await;
        answer.is_problem(422, "validation_failed", &body);
    }
    let body = json!({"platform": "process", "rebalance_min_gain": 2}).to_string();
    let made = server.send("PUT", "/v1/pools/q", body).await;
    assert_eq!(made.json()["rebalance_min_gain"], 2);
    let patched = server
        .send("PATCH", "/v1/pools/q", r#"{"rebalance_min_gain":null}"#)
        .await;
    assert_eq!(patched.json()["rebalance_min_gain"], json!(null));
    assert_eq!(patched.json()["version"], 2);
}

const RUNNING: &str = "SELECT count(*) FROM sessions WHERE state = 'running' \
    AND offered_until IS NULL AND assigned_agent_id IS NOT NULL AND NOT handing_over";

/// How many sessions each agent holds, those without any left out.
async fn by_agent(server: &TestServer) -> BTreeMap<String, i64> {
    let client = server.database.client().await;
    let text = "SELECT a.name, (SELECT count(*) FROM sessions s WHERE s.assigned_agent_id = a.name) \
        FROM agents a WHERE a.live";
    let rows = client.query(text, &[]).await.expect("the query");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn spread(held: &BTreeMap<String, i64>) -> i64 {
    let most = held.values().max().copied().unwrap_or_default();
    most - held.values().min().copied().unwrap_or_default()
}

fn none_was_stopped(platform: &Platform, ids: &[Uuid]) {
    for id in ids {
        assert_eq!((platform.starts(*id), platform.ends(*id)), (1, 0), "{id}");
    }
    assert_eq!(platform.running(), ids.len());
}

/// Notes the most moves that are ever on their way at a time.
fn watch_moves(server: &TestServer) -> (Arc<AtomicI64>, tokio::task::JoinHandle<()>) {
    let most = Arc::new(AtomicI64::new(0));
    let (seen, database) = (Arc::clone(&most), Arc::clone(&server.database));
    let task = tokio::spawn(async move {
        let client = database.client().await;
        let text = "SELECT count(*) FROM sessions WHERE handing_over OR \
            (assigned_agent_id IS NULL AND reserved_for IS NOT NULL)";
        loop {
            let row = client.query_one(text, &[]).await.expect("the query");
            seen.fetch_max(row.get(0), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    (most, task)
}

/// Three servers, one agent with forty sessions, and three that join.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_even_after_three_join_and_no_session_notices() {
    let first = TestServer::start().await;
    let servers = [first.beside().await, first.beside().await, first];
    let server = &servers[0];
    server.pool("p", |pool| pool.lease_ttl_seconds = 6.0).await;
    let platform = Platform::default();
    let mut fleet = vec![platform.agent(server, "a", "p", "host")];
    let made = server.sessions("p", 42).await;
    let ids: Vec<Uuid> = made.iter().map(|session| session.id).collect();
    let all_run = || async { count(server, RUNNING).await == 42 };
    eventually("all run", all_run).await;
    for (n, name) in ["b", "c", "d"].into_iter().enumerate() {
        fleet.push(platform.agent(&servers[n % 3], name, "p", "host"));
    }
    eventually("all have joined", || async {
        by_agent(server).await.len() == 4
    })
    .await;
    let (most, watching) = watch_moves(server);
    let body = RebalanceRequest {
        max_parallel: 3,
        ..all()
    };
    let begun = rebalance(&servers[1], &body).await;
    assert_eq!(begun.moves.len(), 31, "42 by 4 is 10 or 11 each");
    let done = over(server).await;
    assert_eq!(states(&done), vec![MoveState::Moved; 31]);
    watching.abort();
    let most = most.load(Ordering::Relaxed);
    assert!(
        (1..=3).contains(&most),
        "{most} were on their way at a time"
    );
    let even = by_agent(server).await;
    assert_eq!(spread(&even), 1, "{even:?}");
    // Each went where the plan said.
    for m in &done.moves {
        let holder = server.get(m.session_id).await.assigned_agent_id;
        assert_eq!(holder.as_ref(), Some(&m.to));
    }
    let again = rebalance(&servers[2], &all()).await;
    assert_eq!((again.id, again.moves.len()), (None, 0));
    assert_eq!(by_agent(server).await, even, "nothing moved a second time");
    none_was_stopped(&platform, &ids);
    the_books_agree(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_loses_an_agent_in_the_middle() {
    for victim in ["a", "b"] {
        let server = TestServer::start().await;
        let (first, second) = (server.beside().await, server.beside().await);
        server
            .pool("p", |pool| {
                pool.lease_ttl_seconds = 2.0;
                pool.accept_timeout_seconds = 1.0;
            })
            .await;
        let platform = Platform::default();
        let mut fleet: BTreeMap<&str, FleetAgent> = BTreeMap::new();
        fleet.insert("a", platform.agent(&first, "a", "p", "host"));
        let made = server.sessions("p", 40).await;
        let ids: Vec<Uuid> = made.iter().map(|session| session.id).collect();
        let all_run = || async { count(&server, RUNNING).await == 40 };
        eventually("all run", all_run).await;
        for name in ["b", "c"] {
            fleet.insert(name, platform.agent(&second, name, "p", "host"));
        }
        eventually("both have joined", || async {
            by_agent(&server).await.len() == 3
        })
        .await;
        let body = RebalanceRequest {
            max_parallel: 2,
            ..all()
        };
        rebalance(&server, &body).await;
        eventually("it is in its middle", || async {
            states(&newest(&server).await)
                .iter()
                .filter(|state| **state == MoveState::Moved)
                .count()
                >= 3
        })
        .await;
        fleet.remove(victim).expect("it runs").kill().await;
        let done = over(&server).await;
        assert!(
            states(&done).iter().all(|state| matches!(
                state,
                MoveState::Moved | MoveState::Skipped | MoveState::Failed
            )),
            "{done:#?}"
        );
        eventually("what is left holds all of it", || async {
            by_agent(&server).await.len() == 2 && count(&server, RUNNING).await == 40
        })
        .await;
        // And can be evened out.
        rebalance(&server, &all()).await;
        over(&server).await;
        let even = by_agent(&server).await;
        assert!(spread(&even) <= 1, "{victim}: {even:?}");
        none_was_stopped(&platform, &ids);
        the_books_agree(&server).await;
    }
}

/// By itself: agents join and leave, and no session moves twice by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_evens_itself_out_and_does_not_oscillate() {
    let server = TestServer::start().await;
    let other = server.beside().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 3.0;
            pool.accept_timeout_seconds = 1.0;
            pool.rebalance_min_gain = Some(3);
        })
        .await;
    let platform = Platform::default();
    let mut fleet = vec![platform.agent(&server, "a", "p", "host")];
    let made = server.sessions("p", 24).await;
    let ids: Vec<Uuid> = made.iter().map(|session| session.id).collect();
    let all_run = || async { count(&server, RUNNING).await == 24 };
    eventually("all run", all_run).await;
    fleet.push(platform.agent(&other, "b", "p", "host"));
    let is_even = |agents: usize| {
        let server = &server;
        async move {
            let held = by_agent(server).await;
            held.len() == agents && spread(&held) <= 1 && count(server, RUNNING).await == 24
        }
    };
    eventually("b has its part", || is_even(2)).await;
    // Three looks, a second apart at least, came before it.
    let waited = "SELECT count(*) FROM rebalances r, agents a WHERE a.name = 'b' \
        AND r.started_at >= a.registered_at + interval '1900 milliseconds'";
    assert_eq!(count(&server, waited).await, 1);
    let by_itself = "SELECT count(*) FROM rebalances WHERE automatic AND started_by = 'rebalance'";
    assert_eq!(count(&server, by_itself).await, 1);

    // One leaves and one joins.
    fleet.pop().expect("b").stop().await;
    eventually("a holds all", || async {
        by_agent(&server).await == BTreeMap::from([("a".to_owned(), 24)])
    })
    .await;
    fleet.push(platform.agent(&other, "c", "p", "host"));
    let rested = |id: &str| {
        format!(
            "SELECT count(*) FROM rebalance_moves m JOIN rebalances r ON r.id = m.rebalance_id \
             WHERE r.automatic AND m.state = 'moved' AND m.session_id::text = '{id}'"
        )
    };
    eventually("c has got those that had not moved yet", || async {
        by_agent(&server)
            .await
            .get("c")
            .is_some_and(|held| *held == 12)
    })
    .await;
    eventually("it rests", || async {
        count(
            &server,
            "SELECT count(*) FROM rebalances WHERE finished_at IS NULL",
        )
        .await
            == 0
    })
    .await;
    // Nothing more, over as many looks as it would need to begin again.
    let looks = || async {
        count(
            &server,
            "SELECT extract(epoch FROM looked_at)::bigint FROM rebalance_looks",
        )
        .await
    };
    let (rebalances, since) = (count(&server, by_itself).await, looks().await);
    eventually("it has looked several times more", || async {
        looks().await >= since + 5
    })
    .await;
    assert_eq!(count(&server, by_itself).await, rebalances);
    for id in &ids {
        let moves = count(&server, &rested(&id.to_string())).await;
        assert!(moves <= 1, "{id} was moved {moves} times by it");
    }
    none_was_stopped(&platform, &ids);
    the_books_agree(&server).await;
}

#[tokio::test]
async fn what_is_uneven_for_a_moment_only_is_left_alone() {
    let server = TestServer::start().await;
    let (one, _) = one_runs(&server, 8).await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 3.0;
            pool.rebalance_min_gain = Some(2);
        })
        .await;
    let beating = one.keep_beating(0.5);
    // Uneven in one look, or two; then not any more.
    for n in 0..2 {
        let two = server.agent(&format!("guest-{n}"), "p", "host", 10).await;
        eventually("it was seen", || async {
            count(
                &server,
                "SELECT count(*) FROM rebalance_looks WHERE uneven ? 'host'",
            )
            .await
                == 1
        })
        .await;
        server
            .client
            .deregister_agent(&two.name, Some(two.incarnation), false)
            .await
            .expect("goodbye");
        eventually("it was seen no more", || async {
            count(
                &server,
                "SELECT count(*) FROM rebalance_looks WHERE uneven = '{}'",
            )
            .await
                == 1
        })
        .await;
    }
    assert_eq!(count(&server, "SELECT count(*) FROM rebalances").await, 0);
    // Two apart is what this pool leaves as it is.
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 3.0;
            pool.rebalance_min_gain = Some(8);
        })
        .await;
    let two = server.agent("two", "p", "host", 10).await;
    let beating_too = two.keep_beating(0.5);
    let working = [at_work(&one), at_work(&two)];
    let looks = || async {
        count(
            &server,
            "SELECT extract(epoch FROM looked_at)::bigint FROM rebalance_looks",
        )
        .await
    };
    let since = looks().await;
    eventually("it has looked several times", || async {
        looks().await >= since + 5
    })
    .await;
    assert_eq!(count(&server, "SELECT count(*) FROM rebalances").await, 0);
    for task in working.into_iter().chain([beating, beating_too]) {
        task.abort();
    }
}
