//! Migrations: a session is stopped in one place and started in another, or comes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lessor_client::Client;
use lessor_protocol::{
    Action, Assignment, DesiredState, DrainRequest, DrainStatus, EndReason, Event, Heartbeat,
    HeldSession, Inventory, InventoryResource, Labels, Migrate, NewSession, OnLost, Outcome,
    OwnerShare, ProblemCode, Report, ReportCode, ReportedFailure, ReportedState, Session,
    SessionPatch, SessionState, Verdict,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::checks::{count, ends, ledger, leftovers, refused, the_books_agree};
use crate::support::random::Random;
use crate::support::{TestAgent, TestServer, eventually, report};

/// A server with the pools `p` and `q`.
async fn with_two_pools() -> TestServer {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.pool("q", |_| {}).await;
    server
}

/// What an agent of `p` has run, and has let go of: it is on its way to `q`.
async fn sent_to_q(server: &TestServer, agent: &TestAgent) -> Assignment {
    server.session("p").await;
    let held = agent.runs_one().await;
    migrate(server, held.session.id, &to(Some("q"), None)).await;
    drops(agent, &held).await;
    held
}

fn to(pool: Option<&str>, domain: Option<&str>) -> Migrate {
    Migrate {
        pool: pool.map(ToOwned::to_owned),
        resource_domain: domain.map(ToOwned::to_owned),
        stop_first: false,
    }
}

async fn migrate(server: &TestServer, id: Uuid, to: &Migrate) -> Session {
    let answer = server
        .client
        .migrate_session(&id.to_string(), to, None)
        .await;
    answer.expect("202")
}

async fn refuses(server: &TestServer, id: Uuid, to: &Migrate) -> ProblemCode {
    refused(
        server
            .client
            .migrate_session(&id.to_string(), to, None)
            .await,
    )
}

/// The holder says that it has dropped what was taken from it.
async fn drops(agent: &TestAgent, held: &Assignment) {
    let body = Heartbeat {
        incarnation: agent.incarnation,
        activity: Vec::new(),
        dropped: TestAgent::held(std::slice::from_ref(held)),
    };
    let answer = agent.client.heartbeat(&agent.name, &body).await;
    let lost = answer.expect("it is live").lost;
    assert!(!lost.contains(&held.session.id), "{lost:?}");
}

/// A session that runs on an agent, with metadata that says where its data is.
async fn runs_with_data(server: &TestServer, agent: &TestAgent) -> Assignment {
    server.session(&agent.pool).await;
    let held = agent.runs_one().await;
    let mut told = report(&held, ReportedState::Running);
    told.platform_metadata = Some(Some(raw(r#"{"volume":"v-1"}"#)));
    assert_eq!(outcome(agent, told).await, Outcome::Accepted);
    held
}

fn raw(text: &str) -> lessor_protocol::RawJson {
    serde_json::value::RawValue::from_string(text.to_owned()).expect("JSON")
}

async fn outcome(agent: &TestAgent, report: Report) -> Outcome {
    let results = agent.try_report(vec![report]).await;
    results.expect("it may report").remove(0).outcome
}

/// One attempt fails, for good by its own words, after it has begun something.
async fn fails(agent: &TestAgent, given: &Assignment) {
    let mut begun = report(given, ReportedState::Starting);
    begun.platform_resource_id = Some(Some(format!("half-{}", given.session.attempt)));
    begun.platform_metadata = Some(Some(raw(r#"{"of":"the attempt"}"#)));
    assert_eq!(outcome(agent, begun).await, Outcome::Accepted);
    let mut failed = report(given, ReportedState::Failed);
    failed.failure = Some(Some(ReportedFailure {
        reason: "no_image".to_owned(),
        message: "the image is not there".to_owned(),
        exit_code: None,
        retryable: false,
        at: None,
    }));
    assert_eq!(outcome(agent, failed).await, Outcome::Accepted);
}

/// What an agent's inventory is told about these.
async fn tells(agent: &TestAgent, resources: &[InventoryResource]) -> Vec<Verdict> {
    let body = Inventory {
        incarnation: agent.incarnation,
        taken_seconds_ago: 0.0,
        resources: resources.to_vec(),
    };
    let answer = agent.client.send_inventory(&agent.name, &body).await;
    let verdicts = answer.expect("it is taken").verdicts;
    verdicts.into_iter().map(|v| v.verdict).collect()
}

/// The resource that [`TestAgent::runs_one`] reports.
fn resource_of(held: &Assignment) -> InventoryResource {
    let session = &held.session;
    InventoryResource::named(format!("resource-{}", session.id)).of(session.id, session.attempt)
}

async fn events(server: &TestServer, id: Uuid) -> Vec<Event> {
    let page = lessor_client::Paging {
        limit: Some(500),
        cursor: None,
    };
    let page = server.client.session_events(&id.to_string(), &page).await;
    let mut events = page.expect("the timeline").items;
    events.reverse();
    events
}

/// The requeueings for this reason: from, to, data.
async fn requeued(server: &TestServer, id: Uuid, reason: &str) -> Vec<(String, String, Value)> {
    events(server, id)
        .await
        .into_iter()
        .filter(|e| e.kind == "session.requeued" && e.reason.as_deref() == Some(reason))
        .map(|e| (e.from.unwrap_or_default(), e.to.unwrap_or_default(), e.data))
        .collect()
}

async fn attempts_used(server: &TestServer, id: Uuid) -> i64 {
    count(
        server,
        &format!("SELECT attempts_used::bigint FROM sessions WHERE id = '{id}'"),
    )
    .await
}

async fn is_in(server: &TestServer, id: Uuid, pool: &str) {
    eventually("it is pending there", || async {
        let now = server.get(id).await;
        now.pool == pool && now.state == SessionState::Pending
    })
    .await;
}

#[tokio::test]
async fn a_running_session_moves_to_another_pool_and_what_ran_is_deleted() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server
        .pool("q", |pool| {
            pool.platform = "docker".to_owned();
            pool.region = Some("eu".to_owned());
        })
        .await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    let held = runs_with_data(&server, &a).await;
    let id = held.session.id;
    let before = server.get(id).await;
    tells(&a, &[resource_of(&held)]).await;
    assert!(!a.beat().await.expect("live").inventory_wanted);

    let moved = migrate(&server, id, &to(Some("q"), None)).await;
    assert_eq!(
        (
            moved.pool.as_str(),
            moved.platform.as_str(),
            moved.region.as_deref()
        ),
        ("q", "docker", Some("eu"))
    );
    assert_eq!(moved.state, SessionState::Pending);
    assert_eq!(moved.desired_state, DesiredState::Running);
    assert_eq!(moved.generation, before.generation + 1);
    assert_eq!(moved.attempt, before.attempt + 1);
    assert_eq!(moved.lease_epoch, before.lease_epoch);
    assert_eq!(moved.spec.get(), before.spec.get());
    assert_eq!(moved.platform_metadata.get(), r#"{"volume":"v-1"}"#);
    assert_eq!(
        (
            moved.assigned_agent_id,
            moved.resource_domain,
            moved.platform_resource_id
        ),
        (None, None, None)
    );
    assert!(moved.endpoint.is_none() && moved.started_at.is_none());
    // The database says of the platform what the answer said.
    let now = server.get(id).await;
    assert_eq!(
        (now.platform.as_str(), now.version),
        ("docker", moved.version)
    );

    // The old holder is fenced, and told until it says that it has dropped it.
    let late = a.reports(&held, ReportedState::Running).await;
    assert_eq!(
        (late.outcome, late.code),
        (Outcome::Fenced, Some(ReportCode::NotAssigned))
    );
    for _ in 0..2 {
        let beat = a.beat().await.expect("live");
        assert_eq!(beat.lost, [id]);
        assert!(beat.inventory_wanted, "what it ran is to be deleted");
    }
    assert_eq!(a.try_claim(1, 0.0).await.expect("live").lost, [id]);
    assert!(b.claim(1, 0.0).await.is_empty(), "it may still be acting");
    let parked = b.park(1, 10.0);
    server.has_parked("q", 1).await;
    drops(&a, &held).await;
    let claimed = parked.await.expect("it ends").expect("it may claim");
    let given = claimed.assignments.into_iter().next().expect("at once");
    assert_eq!((given.action, given.session.attempt), (Action::Start, 2));
    assert_eq!(given.session.platform_metadata.get(), r#"{"volume":"v-1"}"#);
    assert_eq!(given.generation, moved.generation);
    assert!(a.claim(1, 0.0).await.is_empty());
    b.accepts(&given, ReportedState::Running).await;
    let runs = server.get(id).await;
    assert_eq!(runs.state, SessionState::Running);
    assert_eq!(runs.assigned_agent_id.as_deref(), Some("b"));
    assert_eq!(runs.observed_generation, moved.generation);
    assert_eq!(attempts_used(&server, id).await, 0);

    assert_eq!(
        leftovers(&server, id).await,
        [("host-a".to_owned(), 1, Some(format!("resource-{id}")))]
    );
    assert_eq!(tells(&a, &[resource_of(&held)]).await, [Verdict::Delete]);
    tells(&a, &[]).await;
    let gone = "SELECT count(*) FROM leftovers WHERE gone_at IS NOT NULL";
    assert_eq!(count(&server, gone).await, 1);

    assert_eq!(ends(&server, id).await, [Some(EndReason::Forced), None]);
    let told = requeued(&server, id, "migrate").await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!((told[0].0.as_str(), told[0].1.as_str()), ("p/host-a", "q"));
    assert_eq!(told[0].2["migration"], "begun");
    let arrived: Vec<Value> = events(&server, id)
        .await
        .into_iter()
        .filter(|e| e.to.as_deref() == Some("running") && e.data["migrated_from"].is_object())
        .map(|e| e.data["migrated_from"].clone())
        .collect();
    assert_eq!(arrived, [json!({"pool": "p", "resource_domain": "host-a"})]);
    for (outcome, number) in [("begun", 1.0), ("completed", 1.0)] {
        let line = format!("lessor_migrations_total{{outcome=\"{outcome}\"}}");
        assert_eq!(server.metric(&line).await, number, "{line}");
    }
    the_books_agree(&server).await;
    // It has arrived: from now on its failures are its own.
    let mut broken = report(&given, ReportedState::Failed);
    broken.observed_generation = moved.generation;
    assert_eq!(outcome(&b, broken).await, Outcome::Accepted);
    let again = server.get(id).await;
    assert_eq!(
        (again.pool.as_str(), attempts_used(&server, id).await),
        ("q", 1)
    );
    server.stop().await;
}

#[tokio::test]
async fn who_does_not_answer_is_waited_for_until_its_lease_has_run_out() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 3.0).await;
    server.pool("q", |_| {}).await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    server.session("p").await;
    let held = a.runs_one().await;
    let id = held.session.id;
    a.beat().await.expect("live");
    migrate(&server, id, &to(Some("q"), None)).await;
    let lease =
        "SELECT (extract(epoch FROM lease_expires_at) * 1000)::bigint FROM agents WHERE name = 'a'";
    let lease = count(&server, lease).await;
    // Beats after that make no difference: it is the lease that it had then.
    let beating = a.keep_beating(0.5);
    let given = b
        .claim(1, 20.0)
        .await
        .pop()
        .expect("when the lease has ended");
    beating.abort();
    let offered = ledger(&server, id).await[1].offered_at.timestamp_millis();
    assert!(offered >= lease, "{offered} is before {lease}");
    assert!(offered < lease + 2_500, "{offered} is long after {lease}");
    b.accepts(&given, ReportedState::Running).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn who_registers_anew_with_it_is_told_to_drop_it() {
    let server = with_two_pools().await;
    let mut a = server.agent("a", "p", "host-a", 10).await;
    let c = server.agent("c", "p", "host-c", 10).await;
    for target in [to(Some("q"), None), to(None, Some("host-c"))] {
        server.session("p").await;
        let held = a.runs_one().await;
        migrate(&server, held.session.id, &target).await;
        let held = TestAgent::held(std::slice::from_ref(&held));
        let again = a.restart(&held).await;
        assert!(again.keep.is_empty(), "{again:?}");
        assert_eq!(again.drop.len(), 1, "{again:?}");
        assert_eq!(again.drop[0].session_id, held[0].session_id);
    }
    the_books_agree(&server).await;
    drop(c);
    server.stop().await;
}

#[tokio::test]
async fn only_agents_of_the_target_domain_start_it_within_their_slots() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "p", "host-b", 1).await;
    let c = server.agent("c", "p", "host-c", 10).await;
    // `b` is full.
    server.session("p").await;
    let first = b.runs_one().await;
    server.session("p").await;
    let held = a.runs_one().await;
    let id = held.session.id;
    migrate(&server, id, &to(None, Some("host-b"))).await;
    drops(&a, &held).await;
    let (by_a, by_b, by_c) = (a.park(5, 10.0), b.park(5, 10.0), c.park(5, 10.0));
    server.has_parked("p", 3).await;
    // What was created later is started by others: nothing waits behind it.
    let other = server.session("p").await;
    eventually("somebody has the other one", || async {
        server.get(other.id).await.assigned_agent_id.is_some()
    })
    .await;
    assert!(server.get(id).await.assigned_agent_id.is_none());
    assert!(!by_b.is_finished(), "it is full");
    b.accepts(&first, ReportedState::Terminated).await;
    let claimed = by_b.await.expect("it ends").expect("it may claim");
    assert_eq!(claimed.assignments.len(), 1);
    assert_eq!(claimed.assignments[0].session.id, id);
    b.accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    assert_eq!(
        server.get(id).await.resource_domain.as_deref(),
        Some("host-b")
    );
    by_a.abort();
    by_c.abort();
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn of_those_who_ask_at_once_the_one_in_the_target_domain_is_given_it() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "p", "host-b", 10).await;
    let c = server.agent("c", "p", "host-c", 10).await;
    for _ in 0..2 {
        server.session("p").await;
        b.runs_one().await;
    }
    server.session("p").await;
    let held = a.runs_one().await;
    // By utilisation `c` would be first, and the round that is told of the start asks all three.
    let (by_a, by_b, by_c) = (a.park(1, 10.0), b.park(1, 10.0), c.park(1, 10.0));
    server.has_parked("p", 3).await;
    migrate(&server, held.session.id, &to(None, Some("host-b"))).await;
    // Its holder hears of it, and says so.
    let told = by_a.await.expect("it ends").expect("it may claim");
    assert_eq!(told.lost, [held.session.id]);
    drops(&a, &held).await;
    let claimed = by_b.await.expect("it ends").expect("it may claim");
    assert_eq!(claimed.assignments.len(), 1);
    b.accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    assert!(!by_c.is_finished(), "it was given nothing");
    by_c.abort();
    the_books_agree(&server).await;
    server.stop().await;
}

async fn with_labels(server: &TestServer, name: &str, pool: &str, domain: &str) -> TestAgent {
    let mut agent = server.agent(name, pool, domain, 10).await;
    let mut body = agent.registration(&[]);
    body.labels = gpu();
    let registered = agent.client.register_agent(name, &body).await;
    agent.incarnation = registered.expect("it registers").incarnation;
    agent
}

fn gpu() -> Labels {
    Labels::from([("gpu".to_owned(), "yes".to_owned())])
}

#[tokio::test]
async fn labels_cordons_and_limits_of_owners_hold_in_the_target_domain() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let a = with_labels(&server, "a", "p", "host-a").await;
    let plain = server.agent("plain", "p", "host-b", 10).await;
    let elsewhere = with_labels(&server, "elsewhere", "p", "host-c").await;
    let share = OwnerShare {
        weight: 1.0,
        max_running: Some(2),
    };
    server
        .client
        .put_owner("p", "o", &share)
        .await
        .expect("a share");
    let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
    new.owner = Some("o".to_owned());
    new.requires = gpu();
    for _ in 0..2 {
        server.client.create_session(&new, None).await.expect("201");
    }
    let (one, two) = (a.runs_one().await, a.runs_one().await);
    migrate(&server, one.session.id, &to(None, Some("host-b"))).await;
    drops(&a, &one).await;
    // The place that it left is taken by another one of its owner's.
    server.client.create_session(&new, None).await.expect("201");
    let third = a.runs_one().await;
    assert!(plain.claim(5, 0.0).await.is_empty(), "it has not the label");
    assert!(elsewhere.claim(5, 0.0).await.is_empty(), "it is elsewhere");
    let right = with_labels(&server, "right", "p", "host-b").await;
    assert!(right.claim(5, 0.0).await.is_empty(), "the owner has enough");
    let cordon = lessor_protocol::CordonRequest {
        reason: None,
        until: None,
    };
    server
        .client
        .cordon_agent("right", &cordon)
        .await
        .expect("a cordon");
    a.accepts(&two, ReportedState::Terminated).await;
    assert!(right.claim(5, 0.0).await.is_empty(), "it is cordoned");
    let (by_plain, by_elsewhere) = (plain.park(5, 10.0), elsewhere.park(5, 10.0));
    let by_right = right.park(5, 10.0);
    server.has_parked("p", 3).await;
    server
        .client
        .uncordon_agent("right")
        .await
        .expect("none any more");
    let claimed = by_right.await.expect("it ends").expect("it may claim");
    let claimed = if claimed.assignments.is_empty() {
        // The poll has ended with the news of the cordon.
        right.claim(5, 10.0).await
    } else {
        claimed.assignments
    };
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    assert_eq!(claimed[0].session.id, one.session.id);
    right.accepts(&claimed[0], ReportedState::Running).await;
    by_plain.abort();
    by_elsewhere.abort();
    drop(third);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn one_failed_attempt_brings_it_back_where_it_was() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.pool("q", |pool| pool.max_attempts = 1).await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let other = server.agent("other", "p", "host-o", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    let held = runs_with_data(&server, &a).await;
    let id = held.session.id;
    migrate(&server, id, &to(Some("q"), Some("host-b"))).await;
    drops(&a, &held).await;
    let given = b.claim(1, 5.0).await.pop().expect("the migrated one");
    fails(&b, &given).await;

    let back = server.get(id).await;
    assert_eq!(
        (back.pool.as_str(), back.platform.as_str()),
        ("p", "process")
    );
    assert_eq!((back.state, back.attempt), (SessionState::Pending, 3));
    assert_eq!(back.resource_domain, None);
    assert_eq!(back.platform_metadata.get(), r#"{"volume":"v-1"}"#);
    assert_eq!(
        back.failure.as_ref().map(|f| f.reason.as_str()),
        Some("no_image")
    );
    assert_eq!(attempts_used(&server, id).await, 0);
    let told = requeued(&server, id, "migrate_failed").await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(
        (told[0].0.as_str(), told[0].1.as_str()),
        ("q/host-b", "p/host-a")
    );
    assert_eq!(told[0].2["failure"]["message"], "the image is not there");
    assert_eq!(
        leftovers(&server, id).await,
        [
            ("host-a".to_owned(), 1, Some(format!("resource-{id}"))),
            ("host-b".to_owned(), 2, Some("half-2".to_owned()))
        ]
    );
    let kinds: Vec<String> = events(&server, id)
        .await
        .into_iter()
        .map(|e| e.kind)
        .collect();
    assert!(
        !kinds.contains(&"session.dead_lettered".to_owned()),
        "{kinds:?}"
    );

    // In the old domain, which has a live agent.
    assert!(other.claim(5, 0.0).await.is_empty());
    assert!(b.claim(5, 0.0).await.is_empty());
    let again = a.claim(1, 5.0).await.pop().expect("it is back");
    assert_eq!((again.session.id, again.session.attempt), (id, 3));
    // And there the usual rules apply.
    a.accepts(&again, ReportedState::Failed).await;
    assert_eq!(attempts_used(&server, id).await, 1);
    let now = server.get(id).await;
    assert_eq!((now.pool.as_str(), now.state), ("p", SessionState::Pending));
    let line = "lessor_migrations_total{outcome=\"returned\"}";
    assert_eq!(server.metric(line).await, 1.0);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn it_comes_back_to_any_agent_of_its_pool_when_its_domain_has_none() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    server.session("p").await;
    let held = a.runs_one().await;
    let id = held.session.id;
    migrate(&server, id, &to(Some("q"), None)).await;
    server
        .client
        .deregister_agent("a", Some(a.incarnation), false)
        .await
        .expect("goodbye");
    // The lease that it had is waited for all the same; a word about that is no part of this test.
    let at_once = format!("UPDATE sessions SET held_back_until = now() WHERE id = '{id}'");
    server
        .database
        .client()
        .await
        .batch_execute(&at_once)
        .await
        .expect("time");
    let given = b.claim(1, 5.0).await.pop().expect("the migrated one");
    fails(&b, &given).await;
    let other = server.agent("other", "p", "host-o", 10).await;
    let again = other.claim(1, 10.0).await.pop().expect("any agent will do");
    assert_eq!((again.session.id, again.action), (id, Action::Start));
    other.accepts(&again, ReportedState::Running).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_came_back_to_a_domain_that_is_then_lost_is_started_elsewhere() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.on_lost = OnLost::Restart;
            pool.adopt_timeout_seconds = 0.5;
        })
        .await;
    server.pool("q", |_| {}).await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    let id = sent_to_q(&server, &a).await.session.id;
    let given = b.claim(1, 5.0).await.pop().expect("the migrated one");
    fails(&b, &given).await;
    let again = a.claim(1, 10.0).await.pop().expect("it is back");
    a.accepts(&again, ReportedState::Starting).await;
    server
        .client
        .deregister_agent("a", Some(a.incarnation), false)
        .await
        .expect("goodbye");
    let other = server.agent("other", "p", "host-o", 10).await;
    let last = other
        .claim(1, 20.0)
        .await
        .pop()
        .expect("others may start it");
    assert_eq!((last.session.id, last.action), (id, Action::Start));
    other.accepts(&last, ReportedState::Running).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_came_back_can_be_let_loose_in_its_pool() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 1).await;
    let b = server.agent("b", "q", "host-b", 1).await;
    let id = sent_to_q(&server, &a).await.session.id;
    let given = b.claim(1, 5.0).await.pop().expect("the migrated one");
    // Its old place is taken meanwhile.
    server.session("p").await;
    a.runs_one().await;
    fails(&b, &given).await;
    let other = server.agent("other", "p", "host-o", 1).await;
    assert!(other.claim(1, 0.0).await.is_empty(), "it is for host-a");
    migrate(&server, id, &to(Some("p"), None)).await;
    let again = other.claim(1, 10.0).await.pop().expect("any agent will do");
    assert_eq!((again.session.id, again.action), (id, Action::Start));
    other.accepts(&again, ReportedState::Running).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_start_that_takes_too_long_brings_it_back() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    server.session("p").await;
    let held = a.runs_one().await;
    let id = held.session.id;
    let patch = SessionPatch {
        start_timeout_seconds: Some(Some(1.0)),
        ..SessionPatch::default()
    };
    server
        .client
        .patch_session(&id.to_string(), &patch)
        .await
        .expect("200");
    migrate(&server, id, &to(Some("q"), None)).await;
    drops(&a, &held).await;
    let given = b.claim(1, 5.0).await.pop().expect("the migrated one");
    b.accepts(&given, ReportedState::Starting).await;
    is_in(&server, id, "p").await;
    let back = server.get(id).await;
    assert_eq!(back.failure.map(|f| f.reason).as_deref(), Some("timed_out"));
    assert_eq!(attempts_used(&server, id).await, 0);
    // Who was at it may still be.
    assert_eq!(b.beat().await.expect("live").lost, [id]);
    assert!(a.claim(1, 0.0).await.is_empty());
    drops(&b, &given).await;
    let again = a.claim(1, 5.0).await.pop().expect("it is back");
    assert_eq!((again.session.id, again.session.attempt), (id, 3));
    assert_eq!(leftovers(&server, id).await.len(), 2);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn the_fifth_that_does_not_want_it_brings_it_back() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let id = sent_to_q(&server, &a).await.session.id;
    for n in 0..5 {
        let now = server.get(id).await;
        assert_eq!(
            (now.pool.as_str(), now.attempt),
            ("q", 2),
            "{n} do not count"
        );
        let b = server.agent(&format!("b{n}"), "q", "host-b", 10).await;
        let given = b.claim(1, 5.0).await.pop().expect("the migrated one");
        b.accepts(&given, ReportedState::Declined).await;
    }
    let back = server.get(id).await;
    assert_eq!(
        (back.pool.as_str(), back.state),
        ("p", SessionState::Pending)
    );
    assert_eq!(
        back.failure.map(|f| f.reason).as_deref(),
        Some("not_accepted")
    );
    assert_eq!(attempts_used(&server, id).await, 0);
    let again = a.claim(1, 5.0).await.pop().expect("it is back");
    a.accepts(&again, ReportedState::Running).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_target_that_is_lost_brings_it_back_whatever_on_lost_says() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let a = server.agent("a", "p", "host-a", 10).await;
    for on_lost in [OnLost::Wait, OnLost::Restart, OnLost::Fail] {
        let q = format!("q-{on_lost}");
        server
            .pool(&q, |pool| {
                pool.lease_ttl_seconds = 3.0;
                pool.adopt_timeout_seconds = 0.0;
                pool.on_lost = on_lost;
            })
            .await;
        // One is taken there, the other one waits for a slot.
        let b = server.agent(&format!("b-{on_lost}"), &q, "host-b", 1).await;
        let beating = b.keep_beating(0.3);
        let mut ids = Vec::new();
        for _ in 0..2 {
            server.session("p").await;
            let held = a.runs_one().await;
            migrate(&server, held.session.id, &to(Some(&q), Some("host-b"))).await;
            drops(&a, &held).await;
            ids.push(held.session.id);
        }
        let given = b.claim(2, 5.0).await;
        assert_eq!(given.len(), 1);
        b.accepts(&given[0], ReportedState::Starting).await;
        for id in &ids {
            assert_eq!(server.get(*id).await.pool, q);
        }
        // It falls silent.
        beating.abort();
        for id in &ids {
            is_in(&server, *id, "p").await;
            let back = server.get(*id).await;
            assert_eq!(
                back.failure.map(|f| f.reason).as_deref(),
                Some("domain_lost")
            );
        }
        let again = a.claim(5, 5.0).await;
        assert_eq!(again.len(), 2, "{on_lost}");
        for given in &again {
            a.accepts(given, ReportedState::Running).await;
        }
        assert_eq!(leftovers(&server, given[0].session.id).await.len(), 2);
    }
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_hibernated_session_moves_and_is_started_when_it_is_wanted() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    let held = runs_with_data(&server, &a).await;
    let id = held.session.id;
    let want = |desired| SessionPatch {
        desired_state: Some(desired),
        ..SessionPatch::default()
    };
    let name = id.to_string();
    server
        .client
        .patch_session(&name, &want(DesiredState::Hibernated))
        .await
        .expect("200");
    let told = a.claim(1, 5.0).await.pop().expect("to hibernate it");
    a.accepts(&told, ReportedState::Hibernated).await;
    let moved = migrate(&server, id, &to(Some("q"), None)).await;
    assert_eq!(
        (moved.state, moved.desired_state, moved.attempt),
        (SessionState::Pending, DesiredState::Hibernated, 2)
    );
    assert_eq!(moved.platform_metadata.get(), r#"{"volume":"v-1"}"#);
    assert_eq!(leftovers(&server, id).await.len(), 1);
    assert!(b.claim(1, 0.0).await.is_empty(), "nobody wants it to run");
    server
        .client
        .patch_session(&name, &want(DesiredState::Running))
        .await
        .expect("200");
    let given = b.claim(1, 5.0).await.pop().expect("now it is wanted");
    assert_eq!((given.action, given.session.attempt), (Action::Start, 2));
    fails(&b, &given).await;
    let again = a.claim(1, 5.0).await.pop().expect("it is back");
    a.accepts(&again, ReportedState::Running).await;
    assert_eq!(server.get(id).await.pool, "p");
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn on_its_way_it_can_be_sent_elsewhere_and_still_comes_back_to_the_first_place() {
    let server = TestServer::start().await;
    for pool in ["p", "q", "r"] {
        server.pool(pool, |_| {}).await;
    }
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    let c = server.agent("c", "r", "host-c", 10).await;
    let held = runs_with_data(&server, &a).await;
    let id = held.session.id;
    migrate(&server, id, &to(Some("q"), None)).await;
    // While its first holder is waited for it is waited for in the next pool, too.
    migrate(&server, id, &to(Some("r"), None)).await;
    assert!(c.claim(1, 0.0).await.is_empty());
    migrate(&server, id, &to(Some("q"), Some("host-b"))).await;
    drops(&a, &held).await;
    let given = b.claim(1, 5.0).await.pop().expect("the migrated one");
    assert_eq!(given.session.attempt, 4);
    let mut begun = report(&given, ReportedState::Starting);
    begun.platform_metadata = Some(Some(raw(r#"{"of":"b"}"#)));
    assert_eq!(outcome(&b, begun).await, Outcome::Accepted);
    // From the hands of the one that was starting it.
    let moved = migrate(&server, id, &to(Some("r"), None)).await;
    assert_eq!(moved.platform_metadata.get(), r#"{"volume":"v-1"}"#);
    let late = b.reports(&given, ReportedState::Running).await;
    assert_eq!(late.outcome, Outcome::Fenced);
    assert!(c.claim(1, 0.0).await.is_empty());
    drops(&b, &given).await;
    let given = c.claim(1, 5.0).await.pop().expect("the migrated one");
    fails(&c, &given).await;
    let back = server.get(id).await;
    assert_eq!(back.pool, "p");
    let told = requeued(&server, id, "migrate_failed").await;
    assert_eq!(
        (told[0].0.as_str(), told[0].1.as_str()),
        ("r/host-c", "p/host-a")
    );
    let ways: Vec<Value> = requeued(&server, id, "migrate")
        .await
        .into_iter()
        .map(|(_, _, data)| data["migration"].clone())
        .collect();
    assert_eq!(ways, ["begun", "retargeted", "retargeted", "retargeted"]);
    let again = a.claim(1, 5.0).await.pop().expect("it is back");
    a.accepts(&again, ReportedState::Running).await;

    // An offer that nobody has accepted keeps nobody waiting; and one can change one's mind.
    migrate(&server, id, &to(Some("q"), None)).await;
    drops(&a, &again).await;
    let offered = b.claim(1, 5.0).await.pop().expect("an offer");
    let recalled = migrate(&server, id, &to(Some("p"), Some("host-a"))).await;
    assert_eq!(
        (recalled.pool.as_str(), recalled.state),
        ("p", SessionState::Pending)
    );
    let late = b.reports(&offered, ReportedState::Starting).await;
    assert_eq!(late.outcome, Outcome::Fenced);
    let home = a.claim(1, 0.0).await.pop().expect("at once");
    assert_eq!(home.session.platform_metadata.get(), r#"{"volume":"v-1"}"#);
    // There it is no migration any more.
    a.accepts(&home, ReportedState::Failed).await;
    assert_eq!(attempts_used(&server, id).await, 1);
    assert_eq!(
        server
            .metric("lessor_migrations_total{outcome=\"recalled\"}")
            .await,
        1.0
    );
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_end_ends_a_migration_and_leaves_what_ran_to_be_deleted() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    // Before anybody has taken it, and after.
    for taken in [false, true] {
        server.session("p").await;
        let held = a.runs_one().await;
        let id = held.session.id;
        migrate(&server, id, &to(Some("q"), None)).await;
        if taken {
            drops(&a, &held).await;
            let given = b.claim(1, 5.0).await.pop().expect("the migrated one");
            b.accepts(&given, ReportedState::Starting).await;
        }
        let name = id.to_string();
        server
            .client
            .delete_session(&name, &Default::default())
            .await
            .expect("202");
        if taken {
            let end = b.claim(1, 5.0).await.pop().expect("an end");
            assert_eq!(end.action, Action::Terminate);
            b.accepts(&end, ReportedState::Terminated).await;
        }
        let ended = server.get(id).await;
        assert_eq!(
            (ended.pool.as_str(), ended.state),
            ("q", SessionState::Terminated)
        );
        assert_eq!(
            leftovers(&server, id).await,
            [("host-a".to_owned(), 1, Some(format!("resource-{id}")))]
        );
        assert_eq!(tells(&a, &[resource_of(&held)]).await, [Verdict::Delete]);
        let left = "SELECT count(*) FROM sessions WHERE migrating_from_pool IS NOT NULL";
        assert_eq!(count(&server, left).await, 0);
    }
    assert_eq!(
        server
            .metric("lessor_migrations_total{outcome=\"ended\"}")
            .await,
        2.0
    );
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_move_is_refused_and_stays_as_it_is() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let _b = server.agent("b", "q", "host-b", 10).await;
    server.session("p").await;
    let held = a.runs_one().await;
    let id = held.session.id;
    let path = format!("/v1/sessions/{id}/migrate");
    for (body, pointer) in [
        ("{}", "/pool"),
        (r#"{"pool": null, "resource_domain": null}"#, "/pool"),
        (r#"{"pool": "p"}"#, "/pool"),
        (r#"{"resource_domain": "host-a"}"#, "/resource_domain"),
        (
            r#"{"pool": "p", "resource_domain": "host-a"}"#,
            "/resource_domain",
        ),
        (r#"{"resource_domain": "host-b"}"#, "/resource_domain"),
        (
            r#"{"pool": "q", "resource_domain": "host-a"}"#,
            "/resource_domain",
        ),
        (r#"{"pool": "No"}"#, "/pool"),
        (r#"{"pool": "q", "when": "now"}"#, "/when"),
        (r#"{"pool": 7}"#, "/pool"),
        (r#"{"pool": "q", "stop_first": "yes"}"#, "/stop_first"),
    ] {
        let answer = server.send("POST", &path, body).await;
        answer.is_problem(422, "validation_failed", body);
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{body}");
    }
    assert_eq!(
        refuses(&server, id, &to(Some("nowhere"), None)).await,
        ProblemCode::PoolNotFound
    );
    assert_eq!(
        refuses(&server, Uuid::now_v7(), &to(Some("q"), None)).await,
        ProblemCode::SessionNotFound
    );
    assert_eq!(server.get(id).await.version, 3, "nothing has changed");
    // Failed, and wanted gone.
    a.accepts(&held, ReportedState::Running).await;
    let mut broken = report(&held, ReportedState::Failed);
    broken.failure = Some(Some(ReportedFailure {
        reason: "broken".to_owned(),
        message: String::new(),
        exit_code: Some(1),
        retryable: false,
        at: None,
    }));
    assert_eq!(outcome(&a, broken).await, Outcome::Accepted);
    let not_allowed = ProblemCode::TransitionNotAllowed;
    assert_eq!(
        refuses(&server, id, &to(Some("q"), None)).await,
        not_allowed
    );
    server.session("p").await;
    let ending = a.runs_one().await.session.id;
    let name = ending.to_string();
    server
        .client
        .delete_session(&name, &Default::default())
        .await
        .expect("202");
    assert_eq!(
        refuses(&server, ending, &to(Some("q"), None)).await,
        not_allowed
    );
    let pending = server.session("p").await;
    let name = pending.id.to_string();
    server
        .client
        .delete_session(&name, &Default::default())
        .await
        .expect("202");
    assert_eq!(
        refuses(&server, pending.id, &to(Some("q"), None)).await,
        not_allowed
    );
    let begun = server
        .find_metric("lessor_migrations_total{outcome=\"begun\"}")
        .await;
    assert_eq!(begun, None);
    server.stop().await;
}

#[tokio::test]
async fn the_same_call_again_is_answered_as_the_first_and_versions_are_heeded() {
    let server = with_two_pools().await;
    let session = server.session("p").await;
    let path = format!("/v1/sessions/{}/migrate", session.id);
    let call = |key: &'static str, if_match: Option<&'static str>, body: &'static str| {
        let url = format!("{}{path}", server.url);
        async move {
            let mut request = reqwest::Client::new()
                .post(url)
                .header("content-type", "application/json")
                .header("Idempotency-Key", key)
                .body(body);
            if let Some(version) = if_match {
                request = request.header("If-Match", version);
            }
            let answer = request.send().await.expect("an answer");
            let header = |name: &str| {
                let value = answer.headers().get(name);
                value.map(|v| v.to_str().expect("text").to_owned())
            };
            let (tag, replayed) = (header("etag"), header("idempotency-replayed"));
            let status = answer.status().as_u16();
            (status, tag, replayed, answer.text().await.expect("text"))
        }
    };
    let stale = call("k0", Some("\"7\""), r#"{"pool": "q"}"#).await;
    assert_eq!(stale.0, 412, "{stale:?}");
    let first = call("k1", Some("\"1\""), r#"{"pool": "q"}"#).await;
    assert_eq!(
        (first.0, first.1.as_deref(), first.2.as_deref()),
        (202, Some("\"2\""), None)
    );
    let again = call("k1", Some("\"1\""), r#"{"pool": "q"}"#).await;
    assert_eq!(
        (again.0, again.1.as_deref(), again.2.as_deref()),
        (202, Some("\"2\""), Some("true"))
    );
    assert_eq!(again.3, first.3);
    let other = call("k1", None, r#"{"pool": "p"}"#).await;
    assert_eq!(other.0, 422, "{other:?}");
    assert_eq!(server.get(session.id).await.version, 2);
    server.stop().await;
}

#[tokio::test]
async fn a_pool_to_which_something_may_come_back_is_not_empty() {
    let server = with_two_pools().await;
    let session = server.session("p").await;
    migrate(&server, session.id, &to(Some("q"), None)).await;
    assert_eq!(
        refused(server.client.delete_pool("p").await),
        ProblemCode::PoolNotEmpty
    );
    let b = server.agent("b", "q", "host-b", 10).await;
    let given = b.claim(1, 5.0).await.pop().expect("the migrated one");
    b.accepts(&given, ReportedState::Running).await;
    server
        .client
        .delete_pool("p")
        .await
        .expect("nothing comes back any more");
    server.stop().await;
}

#[tokio::test]
async fn a_drain_counts_what_has_moved_as_gone() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 10).await;
    server.session("p").await;
    let held = a.runs_one().await;
    server
        .client
        .drain_agent("a", &DrainRequest::default())
        .await
        .expect("a drain");
    migrate(&server, held.session.id, &to(Some("q"), None)).await;
    eventually("the drain is over", || async {
        let drain = server.client.agent_drain("a").await.expect("a drain");
        drain.status == DrainStatus::Completed
    })
    .await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn it_starts_when_what_ran_is_known_to_be_gone() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    server.session("p").await;
    let held = a.runs_one().await;
    let id = held.session.id;
    let safely = Migrate {
        stop_first: true,
        ..to(Some("q"), None)
    };
    migrate(&server, id, &safely).await;
    let told = requeued(&server, id, "migrate").await;
    assert_eq!(told[0].2["waits_for_stop_of_attempt"], 1);
    drops(&a, &held).await;
    let parked = b.park(1, 20.0);
    server.has_parked("q", 1).await;
    assert_eq!(tells(&a, &[resource_of(&held)]).await, [Verdict::Delete]);
    assert!(
        server.get(id).await.assigned_agent_id.is_none(),
        "it is there still"
    );
    tells(&a, &[]).await;
    let claimed = parked.await.expect("it ends").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, id);
    b.accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn gone_is_not_enough_while_its_holder_may_still_act() {
    let server = with_two_pools().await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    server.session("p").await;
    let held = a.runs_one().await;
    let safely = Migrate {
        stop_first: true,
        ..to(Some("q"), None)
    };
    migrate(&server, held.session.id, &safely).await;
    tells(&a, &[]).await;
    assert!(
        b.claim(1, 0.0).await.is_empty(),
        "its holder has said nothing"
    );
    drops(&a, &held).await;
    assert_eq!(b.claim(1, 5.0).await.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn it_comes_back_when_what_ran_is_not_known_to_be_gone_in_time() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.terminate_timeout_seconds = 1.0)
        .await;
    server.pool("q", |_| {}).await;
    let a = server.agent("a", "p", "host-a", 10).await;
    let b = server.agent("b", "q", "host-b", 10).await;
    server.session("p").await;
    let held = a.runs_one().await;
    let id = held.session.id;
    let safely = Migrate {
        stop_first: true,
        ..to(Some("q"), None)
    };
    migrate(&server, id, &safely).await;
    drops(&a, &held).await;
    let parked = b.park(1, 20.0);
    is_in(&server, id, "p").await;
    let back = server.get(id).await;
    assert_eq!((back.attempt, back.state), (3, SessionState::Pending));
    assert_eq!(
        back.failure.map(|f| f.reason).as_deref(),
        Some("not_stopped")
    );
    let again = a.claim(1, 5.0).await.pop().expect("it is back");
    a.accepts(&again, ReportedState::Running).await;
    parked.abort();
    assert_eq!(
        ledger(&server, id).await.len(),
        2,
        "nobody else was offered it"
    );
    the_books_agree(&server).await;
    server.stop().await;
}

/// Claims, runs and drops for as long as it may, and notes what it drives under which attempt.
async fn work(
    mut agent: TestAgent,
    servers: Arc<Vec<Client>>,
    random: Random,
    over: Arc<AtomicBool>,
) -> TestAgent {
    let mut held: HashMap<Uuid, Assignment> = HashMap::new();
    let mut dropped: Vec<HeldSession> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        agent.client = random.pick(&servers).clone();
        let mut body = agent.claim_body(4, 0.1);
        body.dropped = std::mem::take(&mut dropped);
        let Ok(claimed) = agent.client.claim(&agent.name, &body).await else {
            dropped = body.dropped;
            continue;
        };
        for lost in claimed.lost {
            if let Some(given) = held.remove(&lost) {
                dropped.extend(TestAgent::held(std::slice::from_ref(&given)));
            }
        }
        let reports: Vec<Report> = claimed
            .assignments
            .iter()
            .map(|given| {
                let state = match given.action {
                    Action::Terminate => ReportedState::Terminated,
                    Action::Start if random.percent(15) => ReportedState::Failed,
                    Action::Start if random.percent(20) => ReportedState::Starting,
                    _ => ReportedState::Running,
                };
                report(given, state)
            })
            .collect();
        if reports.is_empty() {
            continue;
        }
        if let Ok(results) = agent.try_report(reports).await {
            for (given, result) in claimed.assignments.into_iter().zip(results) {
                let id = given.session.id;
                let runs = result.outcome == Outcome::Accepted
                    && !matches!(
                        result.state,
                        Some(
                            SessionState::Terminated | SessionState::Pending | SessionState::Failed
                        )
                    );
                if runs {
                    held.insert(id, given);
                } else {
                    held.remove(&id);
                }
            }
        }
    }
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_race_with_claims_reports_and_ends_on_three_servers() {
    let random = Random::seeded();
    let first = TestServer::start().await;
    let (second, third) = (first.beside().await, first.beside().await);
    for pool in ["p", "q"] {
        first
            .pool(pool, |pool| {
                pool.lease_ttl_seconds = 5.0;
                pool.backoff_initial_seconds = 0.02;
                pool.backoff_max_seconds = 0.1;
                pool.max_attempts = 1_000;
            })
            .await;
    }
    let clients = Arc::new(vec![
        first.client.clone(),
        second.client.clone(),
        third.client.clone(),
    ]);
    let over = Arc::new(AtomicBool::new(false));
    let sessions = first.sessions("p", 40).await;
    let mut working = Vec::new();
    for n in 0..8 {
        let pool = if n % 2 == 0 { "p" } else { "q" };
        let domain = format!("host-{}", n / 2 % 2);
        let agent = first.agent(&format!("a{n}"), pool, &domain, 45).await;
        let task = work(
            agent,
            Arc::clone(&clients),
            random.split(),
            Arc::clone(&over),
        );
        working.push(tokio::spawn(task));
    }
    let mut moving = Vec::new();
    for _ in 0..4 {
        let (clients, random) = (Arc::clone(&clients), random.split());
        let ids: Vec<String> = sessions.iter().map(|s| s.id.to_string()).collect();
        moving.push(tokio::spawn(async move {
            let mut moved = 0;
            for n in 0..50 {
                let (client, id) = (random.pick(&clients), random.pick(&ids));
                if n % 10 == 9 {
                    let ended = client.delete_session(id, &Default::default()).await;
                    ended.expect("202");
                    continue;
                }
                let pool = random.percent(70).then(|| *random.pick(&["p", "q"]));
                let domain = random
                    .percent(50)
                    .then(|| *random.pick(&["host-0", "host-1"]));
                match client.migrate_session(id, &to(pool, domain), None).await {
                    Ok(_) => moved += 1,
                    Err(error) => {
                        let code = error.code().unwrap_or_else(|| panic!("{error}"));
                        let known = [
                            ProblemCode::ValidationFailed,
                            ProblemCode::TransitionNotAllowed,
                        ];
                        assert!(known.contains(&code), "{error}");
                    }
                }
            }
            moved
        }));
    }
    let mut moved = 0;
    for task in moving {
        moved += task.await.expect("it ends well");
    }
    assert!(moved > 40, "only {moved} migrations");
    // What is wanted comes to rest: everything that did not end runs somewhere, once.
    let unsettled = "SELECT count(*) FROM sessions WHERE NOT (state = 'terminated'
        OR (state IN ('starting', 'running') AND assigned_agent_id IS NOT NULL))";
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while count(&first, unsettled).await > 0 {
        let what =
            "SELECT string_agg(state || ' ' || coalesce(start_domain, '-'), ', ') FROM sessions
            WHERE state NOT IN ('terminated', 'running')";
        if std::time::Instant::now() > until {
            let row = first
                .database
                .client()
                .await
                .query_one(what, &[])
                .await
                .expect("a row");
            panic!("not settled: {:?}", row.get::<_, Option<String>>(0));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    over.store(true, Ordering::Relaxed);
    for worker in working {
        worker.await.expect("the agent ends well");
    }
    the_books_agree(&first).await;
    for (what, query) in [
        (
            "a session held outside its pool",
            "SELECT count(*) FROM sessions s JOIN agents a ON a.name = s.assigned_agent_id WHERE a.pool <> s.agent_pool",
        ),
        (
            "a session held outside its domain",
            "SELECT count(*) FROM sessions s JOIN agents a ON a.name = s.assigned_agent_id
                WHERE s.offered_until IS NULL AND a.resource_domain <> s.resource_domain",
        ),
        (
            "an attempt that was accepted in two domains",
            "SELECT count(*) FROM (SELECT session_id, attempt FROM leftovers
                GROUP BY 1, 2 HAVING count(DISTINCT (pool, resource_domain)) > 1) twice",
        ),
        (
            "the present attempt is a leftover",
            "SELECT count(*) FROM sessions s JOIN leftovers l ON l.session_id = s.id AND l.attempt = s.attempt
                WHERE s.state <> 'terminated'",
        ),
        (
            "a running session that is still on its way",
            "SELECT count(*) FROM sessions WHERE state = 'running' AND migrating_from_pool IS NOT NULL",
        ),
    ] {
        assert_eq!(count(&first, query).await, 0, "{what}");
    }
    for server in [first, second, third] {
        server.stop().await;
    }
}
