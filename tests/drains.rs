//! Drains: sessions move from one agent to another while they run.

use std::time::{Duration, Instant};

use lessor_protocol::{
    Action, Assignment, Drain, DrainRequest, DrainStatus, EndReason, OnLost, Outcome, ProblemCode,
    ReportedState, Scheduling, SessionPatch, SessionState,
};
use uuid::Uuid;

use crate::support::checks::{
    count, ends, history, leftovers, refused, states_since_it_ran, the_books_agree,
};
use crate::support::platform::{FleetAgent, Platform};
use crate::support::{TestAgent, TestServer, eventually};

fn within(seconds: f64) -> DrainRequest {
    DrainRequest {
        deadline_seconds: seconds,
        reason: Some("kernel update".to_owned()),
        ..DrainRequest::default()
    }
}

fn by_force() -> DrainRequest {
    DrainRequest {
        force: true,
        ..DrainRequest::default()
    }
}

/// Waits until the drain of an agent has a status.
async fn reaches(server: &TestServer, agent: &str, status: DrainStatus) -> Drain {
    let wait = Duration::from_secs(20);
    let drain = server
        .client
        .wait_for_agent_drain(agent, &[status], wait)
        .await
        .expect("the drain");
    assert_eq!(drain.status, status, "{drain:#?}");
    drain
}

/// Who waits for a drain that is over to complete is told at once that it is over.
async fn completes_no_more(server: &TestServer, agent: &str, status: DrainStatus) {
    let asked = Instant::now();
    let wait = Duration::from_secs(20);
    let completed = &[DrainStatus::Completed];
    let drain = server.client.wait_for_agent_drain(agent, completed, wait);
    assert_eq!(drain.await.expect("the drain").status, status);
    assert!(asked.elapsed() < Duration::from_secs(5));
}

async fn drain(server: &TestServer, agent: &str) -> Drain {
    server.client.agent_drain(agent).await.expect("the drain")
}

async fn scheduling(server: &TestServer, agent: &str) -> Scheduling {
    let agent = server.client.get_agent(agent).await.expect("the agent");
    agent.scheduling
}

/// Claims until there is a `release` of so many sessions, and answers each.
async fn releases(agent: &TestAgent, sessions: usize) -> Vec<Assignment> {
    let mut released = Vec::new();
    while released.len() < sessions {
        let told = agent.claim(100, 10.0).await;
        assert!(!told.is_empty(), "it was not asked for all of them");
        for assignment in told {
            assert_eq!(assignment.action, Action::Release, "{assignment:#?}");
            agent.accepts(&assignment, ReportedState::Running).await;
            released.push(assignment);
        }
    }
    released
}

/// Claims until it has adopted so many sessions.
async fn adopts(agent: &TestAgent, sessions: usize) -> Vec<Assignment> {
    let mut adopted = Vec::new();
    while adopted.len() < sessions {
        let given = agent.claim(100, 10.0).await;
        assert!(!given.is_empty(), "it was not given all of them");
        for assignment in given {
            assert_eq!(assignment.action, Action::Adopt, "{assignment:#?}");
            agent.accepts(&assignment, ReportedState::Running).await;
            adopted.push(assignment);
        }
    }
    adopted
}

#[tokio::test]
async fn sessions_move_while_they_run() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "host", 10).await;
    let ids: Vec<Uuid> = server.sessions("p", 3).await.iter().map(|s| s.id).collect();
    for _ in &ids {
        one.runs_one().await;
    }
    let two = server.agent("two", "p", "host", 1).await;
    let before = server.get(ids[0]).await;
    let parked = one.park(10, 30.0);
    server.has_parked("p", 1).await;

    let begun = server.client.drain_agent("one", &within(60.0)).await;
    let begun = begun.expect("it begins");
    assert_eq!(begun.status, DrainStatus::InProgress);
    assert_eq!(
        server.metric("lessor_sessions_handed_over_total").await,
        0.0
    );
    assert_eq!(
        (begun.agent.as_deref(), begun.pool.as_str()),
        (Some("one"), "p")
    );
    assert_eq!(
        (begun.total, begun.handed_over, begun.remaining),
        (3, 0, 3),
        "{begun:#?}"
    );
    assert_eq!(begun.reason.as_deref(), Some("kernel update"));
    assert!(!begun.last_of_domain && begun.blocked.is_empty() && begun.finished_at.is_none());
    assert_eq!(scheduling(&server, "one").await, Scheduling::Draining);

    // Its poll has ended with the news.
    let claimed = parked.await.expect("a task").expect("an answer");
    assert_eq!(claimed.scheduling, Scheduling::Draining);
    assert_eq!(claimed.assignments.len(), 3);
    for assignment in &claimed.assignments {
        assert_eq!(assignment.action, Action::Release);
        assert_eq!(assignment.generation, before.generation + 1);
        one.accepts(assignment, ReportedState::Running).await;
    }
    // Let go of, and not yet taken over: not complete.
    let now = drain(&server, "one").await;
    assert_eq!((now.status, now.remaining), (DrainStatus::InProgress, 3));
    let offered = two.claim(10, 10.0).await;
    assert_eq!(offered.len(), 3, "adoption needs no slot");
    // Time enough for several steps of the drain; and it is given nothing back.
    assert!(one.claim(10, 0.5).await.is_empty());
    let now = drain(&server, "one").await;
    assert_eq!((now.status, now.remaining), (DrainStatus::InProgress, 3));
    for assignment in &offered {
        assert_eq!(assignment.action, Action::Adopt);
        two.accepts(assignment, ReportedState::Running).await;
    }

    let done = reaches(&server, "one", DrainStatus::Completed).await;
    assert_eq!((done.total, done.handed_over, done.remaining), (3, 3, 0));
    assert!(done.finished_at.is_some());
    eventually("it is counted", || async {
        let ended = "lessor_drains_total{status=\"completed\"}";
        server.metric(ended).await == 1.0
    })
    .await;
    assert_eq!(
        server.metric("lessor_sessions_handed_over_total").await,
        3.0
    );
    eventually("it is drained", || async {
        scheduling(&server, "one").await == Scheduling::Drained
    })
    .await;
    for id in &ids {
        let session = server.get(*id).await;
        assert_eq!(session.assigned_agent_id.as_deref(), Some("two"));
        assert_eq!(session.platform_resource_id, Some(format!("resource-{id}")));
        assert_eq!(session.endpoint, before.endpoint, "users notice nothing");
        assert_eq!(session.observed_generation, session.generation);
        assert_eq!(states_since_it_ran(&server, *id).await, ["running"]);
        assert_eq!(ends(&server, *id).await, [Some(EndReason::Released), None]);
    }
    // All of it is told, of each session and of the agent.
    for id in &ids {
        let timeline = server
            .client
            .session_events(&id.to_string(), &Default::default())
            .await;
        let mut kinds: Vec<_> = timeline.expect("a page").items;
        kinds.reverse();
        let told: Vec<_> = kinds.iter().map(|event| event.kind.as_str()).collect();
        let moved = [
            "session.desired_changed",
            "session.released",
            "session.offered",
            "session.adopted",
        ];
        assert!(told.ends_with(&moved), "{told:?}");
    }
    let told = history(&server, "p", Some("one")).await;
    let drained = [
        "agent.registered",
        "agent.cordoned",
        "drain.started",
        "drain.completed",
    ];
    assert_eq!(told, drained);
    // The drained agent is given nothing, and its late word is fenced.
    let late = one
        .reports(&claimed.assignments[0], ReportedState::Running)
        .await;
    assert_eq!(late.outcome, Outcome::Fenced);
    server.session("p").await;
    assert!(one.claim(10, 0.0).await.is_empty());
    the_books_agree(&server).await;
}

#[tokio::test]
async fn what_nobody_can_adopt_is_not_asked_for() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "host", 10).await;
    server.agent("far", "p", "elsewhere", 10).await;
    let resting = server.agent("resting", "p", "host", 10).await;
    let body = lessor_protocol::CordonRequest {
        reason: None,
        until: None,
    };
    server
        .client
        .cordon_agent("resting", &body)
        .await
        .expect("a cordon");
    let id = server.session("p").await.id;
    one.runs_one().await;

    let parked = one.park(10, 30.0);
    server.has_parked("p", 1).await;
    let begun = server.client.drain_agent("one", &within(60.0)).await;
    let begun = begun.expect("it begins");
    let news = parked.await.expect("a task").expect("an answer");
    assert_eq!(news.scheduling, Scheduling::Draining, "its poll ends once");
    assert!(begun.last_of_domain, "it says in advance what will happen");
    assert_eq!(begun.on_lost, OnLost::Wait);
    assert_eq!(begun.blocked.len(), 1);
    assert_eq!(begun.blocked[0].session_id, id);
    assert_eq!(begun.blocked[0].reason, "no_other_agent");
    assert!(one.claim(10, 0.3).await.is_empty(), "it goes on holding it");

    // Somebody comes who can.
    server
        .client
        .uncordon_agent("resting")
        .await
        .expect("no cordon");
    releases(&one, 1).await;
    adopts(&resting, 1).await;
    let done = reaches(&server, "one", DrainStatus::Completed).await;
    assert!(done.blocked.is_empty() && !done.last_of_domain);
    assert_eq!(states_since_it_ran(&server, id).await, ["running"]);
}

#[tokio::test]
async fn who_let_go_does_not_get_it_back_while_another_can_take_it() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "host", 10).await;
    let two = server.agent("two", "p", "host", 10).await;
    let id = server.session("p").await.id;
    one.runs_one().await;
    server
        .client
        .drain_agent("one", &within(60.0))
        .await
        .expect("it begins");
    releases(&one, 1).await;
    server
        .client
        .uncordon_agent("one")
        .await
        .expect("no cordon");
    assert!(
        one.claim(10, 0.5).await.is_empty(),
        "though it may have more"
    );
    let adopted = adopts(&two, 1).await;
    assert_eq!(adopted[0].session.id, id);
}

#[tokio::test]
async fn the_last_adopter_goes_and_the_request_is_taken_back() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "host", 10).await;
    let two = server.agent("two", "p", "host", 10).await;
    let id = server.session("p").await.id;
    one.runs_one().await;
    server
        .client
        .drain_agent("one", &within(60.0))
        .await
        .expect("it begins");
    let asked = one.claim(10, 5.0).await;
    assert_eq!(asked[0].action, Action::Release);

    server
        .client
        .deregister_agent("two", Some(two.incarnation), false)
        .await
        .expect("goodbye");
    eventually("the request is taken back", || async {
        server.get(id).await.generation > asked[0].generation
    })
    .await;
    // Its answer comes too late to end the hold, and it is told to go on.
    one.accepts(&asked[0], ReportedState::Running).await;
    assert_eq!(
        server.get(id).await.assigned_agent_id.as_deref(),
        Some("one")
    );
    let told = one.claim(10, 5.0).await;
    assert_eq!(told[0].action, Action::Adopt, "{told:#?}");
    assert_eq!(told[0].lease_epoch, asked[0].lease_epoch);
    one.accepts(&told[0], ReportedState::Running).await;
    assert_eq!(
        drain(&server, "one").await.blocked[0].reason,
        "no_other_agent"
    );
    the_books_agree(&server).await;
}

#[tokio::test]
async fn at_the_deadline_a_pool_that_waits_keeps_what_it_has() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 2.0;
            pool.accept_timeout_seconds = 1.0;
        })
        .await;
    let one = server.agent("one", "p", "host", 10).await;
    let beating = one.keep_beating(0.5);
    let id = server.session("p").await.id;
    one.runs_one().await;
    server
        .client
        .drain_agent("one", &within(0.2))
        .await
        .expect("it begins");
    let failed = reaches(&server, "one", DrainStatus::Failed).await;
    assert_eq!((failed.total, failed.remaining), (1, 1));
    assert_eq!(failed.blocked[0].reason, "no_other_agent");
    let session = server.get(id).await;
    assert_eq!(session.state, SessionState::Running);
    assert_eq!(session.assigned_agent_id.as_deref(), Some("one"));
    assert_eq!(scheduling(&server, "one").await, Scheduling::Cordoned);
    let told = history(&server, "p", Some("one")).await;
    assert_eq!(told[told.len() - 2..], ["drain.started", "drain.failed"]);
    completes_no_more(&server, "one", DrainStatus::Failed).await;
    let failed = "lessor_drains_total{status=\"failed\"}";
    assert_eq!(server.metric(failed).await, 1.0);
    beating.abort();
}

#[tokio::test]
async fn at_the_deadline_a_pool_that_restarts_starts_elsewhere() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.on_lost = OnLost::Restart)
        .await;
    let one = server.agent("one", "p", "host", 10).await;
    let id = server.session("p").await.id;
    let held = one.runs_one().await;
    let far = server.agent("far", "p", "elsewhere", 10).await;
    let parked = one.park(10, 30.0);
    server.has_parked("p", 1).await;
    server
        .client
        .drain_agent("one", &within(0.5))
        .await
        .expect("it begins");
    assert_eq!(
        parked.await.expect("a task").expect("news").scheduling,
        Scheduling::Draining
    );
    let lost = one.try_claim(0, 20.0).await.expect("news").lost;
    assert_eq!(lost, [id]);
    assert_eq!(
        one.reports(&held, ReportedState::Running).await.outcome,
        Outcome::Fenced
    );

    let mut body = one.claim_body(0, 0.0);
    body.dropped = TestAgent::held(std::slice::from_ref(&held));
    server
        .client
        .claim("one", &body)
        .await
        .expect("it says that it dropped it");
    let start = far
        .claim(10, 10.0)
        .await
        .pop()
        .expect("it can be started elsewhere");
    assert_eq!((start.action, start.session.attempt), (Action::Start, 2));
    assert_eq!(drain(&server, "one").await.status, DrainStatus::InProgress);
    far.accepts(&start, ReportedState::Running).await;
    reaches(&server, "one", DrainStatus::Completed).await;
    let left = leftovers(&server, id).await;
    assert_eq!(
        left,
        [("host".to_owned(), 1, Some(format!("resource-{id}")))]
    );
    assert_eq!(ends(&server, id).await[0], Some(EndReason::Forced));
    the_books_agree(&server).await;
}

#[tokio::test]
async fn at_the_deadline_a_pool_that_fails_fails() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.on_lost = OnLost::Fail).await;
    let one = server.agent("one", "p", "host", 10).await;
    let id = server.session("p").await.id;
    one.runs_one().await;
    server
        .client
        .drain_agent("one", &within(0.0))
        .await
        .expect("it begins");
    let done = reaches(&server, "one", DrainStatus::Completed).await;
    assert_eq!((done.total, done.handed_over, done.remaining), (1, 0, 0));
    let session = server.get(id).await;
    assert_eq!(session.state, SessionState::Failed);
    assert_eq!(session.failure.expect("why").reason, "domain_lost");
    assert_eq!(leftovers(&server, id).await.len(), 1);
    assert_eq!(one.beat().await.expect("it is live").lost, [id]);
}

#[tokio::test]
async fn a_brake_holds_what_a_drain_would_leave_to_on_lost() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.on_lost = OnLost::Fail;
            pool.lease_ttl_seconds = 300.0;
        })
        .await;
    let one = server.agent("one", "p", "host", 10).await;
    let id = server.session("p").await.id;
    one.runs_one().await;
    for name in ["far-1", "far-2", "far-3"] {
        server.agent(name, "p", name, 10).await;
    }
    let client = server.database.client().await;
    let silence =
        "UPDATE agents SET last_heartbeat_at = now() - interval '290 seconds' WHERE name <> 'one'";
    client
        .batch_execute(silence)
        .await
        .expect("they fall silent");
    let begun = server.client.drain_agent("one", &by_force()).await;
    assert_eq!(begun.expect("it begins").status, DrainStatus::InProgress);
    eventually("the brake is on", || async {
        server
            .client
            .get_pool("p")
            .await
            .expect("the pool")
            .brake
            .is_some()
    })
    .await;
    assert_eq!(
        server.get(id).await.state,
        SessionState::Running,
        "it is held"
    );
    server
        .client
        .release_brake("p")
        .await
        .expect("it is released");
    reaches(&server, "one", DrainStatus::Completed).await;
    assert_eq!(server.get(id).await.state, SessionState::Failed);
}

#[tokio::test]
async fn force_takes_what_a_hanging_agent_does_not_give() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 3.0).await;
    let one = server.agent("one", "p", "host", 10).await;
    let two = server.agent("two", "p", "host", 10).await;
    let (beating, beating_too) = (one.keep_beating(0.5), two.keep_beating(0.5));
    let ids: Vec<Uuid> = server.sessions("p", 3).await.iter().map(|s| s.id).collect();
    let mut held = Vec::new();
    for _ in &ids {
        held.push(one.runs_one().await);
    }
    let begun = server.client.drain_agent("one", &by_force()).await;
    let begun = begun.expect("it begins");
    assert!(begun.force);
    assert_eq!(begun.blocked[0].reason, "holder_may_still_act");
    // At once, whatever it still says.
    let late = one.reports(&held[0], ReportedState::Running).await;
    assert_eq!(late.outcome, Outcome::Fenced);
    assert!(
        two.claim(10, 0.0).await.is_empty(),
        "not while it may still act"
    );
    // It beats and hangs; the lease that it had then runs out.
    adopts(&two, 3).await;
    let done = reaches(&server, "one", DrainStatus::Completed).await;
    assert_eq!(done.handed_over, 3);
    for id in &ids {
        assert_eq!(ends(&server, *id).await, [Some(EndReason::Forced), None]);
        assert_eq!(states_since_it_ran(&server, *id).await, ["running"]);
    }
    assert!(one.beat().await.is_ok(), "the agent itself is still live");
    beating.abort();
    beating_too.abort();
    the_books_agree(&server).await;
}

#[tokio::test]
async fn a_holder_that_does_not_answer_is_waited_for_until_the_deadline() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 3.0;
            pool.accept_timeout_seconds = 1.0;
        })
        .await;
    let one = server.agent("one", "p", "host", 10).await;
    let two = server.agent("two", "p", "host", 10).await;
    let (beating, beating_too) = (one.keep_beating(0.5), two.keep_beating(0.5));
    let id = server.session("p").await.id;
    one.runs_one().await;
    server
        .client
        .drain_agent("one", &within(4.0))
        .await
        .expect("it begins");
    // It polls, is told again and again, and never answers.
    let polling = {
        let one = one.clone();
        tokio::spawn(async move {
            loop {
                let _ = one.try_claim(10, 1.0).await;
            }
        })
    };
    eventually("it is known to be in the way", || async {
        let blocked = drain(&server, "one").await.blocked;
        blocked
            .first()
            .is_some_and(|b| b.reason == "holder_does_not_answer")
    })
    .await;
    assert_eq!(
        server.get(id).await.assigned_agent_id.as_deref(),
        Some("one")
    );
    adopts(&two, 1).await;
    reaches(&server, "one", DrainStatus::Completed).await;
    assert_eq!(ends(&server, id).await, [Some(EndReason::Forced), None]);
    for task in [polling, beating, beating_too] {
        task.abort();
    }
}

#[tokio::test]
async fn a_cancelled_drain_leaves_everything_as_it_was() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "host", 10).await;
    server.agent("two", "p", "host", 10).await;
    let id = server.session("p").await.id;
    one.runs_one().await;
    server
        .client
        .drain_agent("one", &within(60.0))
        .await
        .expect("it begins");
    let again = server.client.drain_agent("one", &within(60.0)).await;
    assert_eq!(refused(again), ProblemCode::DrainInProgress);
    let asked = one.claim(10, 5.0).await;
    assert_eq!(asked[0].action, Action::Release);

    let cancelled = server.client.cancel_agent_drain("one").await.expect("off");
    assert_eq!(cancelled.status, DrainStatus::Cancelled);
    assert_eq!(scheduling(&server, "one").await, Scheduling::Active);
    one.accepts(&asked[0], ReportedState::Running).await;
    assert_eq!(
        server.get(id).await.assigned_agent_id.as_deref(),
        Some("one"),
        "it holds on"
    );
    let told = one.claim(10, 5.0).await;
    assert_eq!((told[0].action, told[0].session.id), (Action::Adopt, id));
    let same = server
        .client
        .cancel_agent_drain("one")
        .await
        .expect("still off");
    assert_eq!(same.status, DrainStatus::Cancelled);

    // A cordon that was there before stays; an uncordon ends both.
    let body = lessor_protocol::CordonRequest {
        reason: Some("watch it".to_owned()),
        until: None,
    };
    server
        .client
        .cordon_agent("one", &body)
        .await
        .expect("a cordon");
    server
        .client
        .drain_agent("one", &within(60.0))
        .await
        .expect("it begins");
    server.client.cancel_agent_drain("one").await.expect("off");
    let agent = server.client.get_agent("one").await.expect("the agent");
    assert_eq!(agent.scheduling, Scheduling::Cordoned);
    assert_eq!(
        agent.cordon.expect("a cordon").reason.as_deref(),
        Some("watch it")
    );
    server
        .client
        .drain_agent("one", &within(60.0))
        .await
        .expect("it begins");
    server
        .client
        .uncordon_agent("one")
        .await
        .expect("no cordon");
    assert_eq!(drain(&server, "one").await.status, DrainStatus::Cancelled);
    assert_eq!(scheduling(&server, "one").await, Scheduling::Active);
    let kinds =
        "SELECT count(*) FROM event_history WHERE kind = 'drain.cancelled' AND agent = 'one'";
    assert_eq!(count(&server, kinds).await, 3);
    completes_no_more(&server, "one", DrainStatus::Cancelled).await;
    let cancelled = "lessor_drains_total{status=\"cancelled\"}";
    assert_eq!(server.metric(cancelled).await, 3.0);
    the_books_agree(&server).await;
}

#[tokio::test]
async fn a_whole_pool_moves_to_the_agents_that_come_after() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let old = [
        server.agent("old-1", "p", "host", 10).await,
        server.agent("old-2", "p", "host", 10).await,
    ];
    let ids: Vec<Uuid> = server.sessions("p", 4).await.iter().map(|s| s.id).collect();
    for agent in &old {
        agent.runs_one().await;
        agent.runs_one().await;
    }
    let begun = server
        .client
        .drain_pool("p", &within(60.0))
        .await
        .expect("it begins");
    assert_eq!((begun.agent, begun.total), (None, 4));
    assert!(begun.last_of_domain);
    assert_eq!(begun.blocked.len(), 4);
    let again = server.client.drain_pool("p", &within(60.0)).await;
    assert_eq!(refused(again), ProblemCode::DrainInProgress);
    let one_of_it = server.client.drain_agent("old-1", &within(60.0)).await;
    assert_eq!(refused(one_of_it), ProblemCode::DrainInProgress);

    let new = server.agent("new-1", "p", "host", 10).await;
    for agent in &old {
        releases(agent, 2).await;
    }
    adopts(&new, 4).await;
    reaches(&server, "old-2", DrainStatus::Completed).await;
    let done = server.client.pool_drain("p").await.expect("the drain");
    assert_eq!((done.status, done.handed_over), (DrainStatus::Completed, 4));
    assert_eq!(scheduling(&server, "old-1").await, Scheduling::Drained);
    assert_eq!(scheduling(&server, "new-1").await, Scheduling::Active);
    for id in ids {
        assert_eq!(states_since_it_ran(&server, id).await, ["running"]);
    }
    // One of them may leave a drain of all.
    server
        .client
        .drain_pool("p", &within(60.0))
        .await
        .expect("another one");
    server
        .client
        .uncordon_agent("new-1")
        .await
        .expect("no cordon");
    let now = server.client.pool_drain("p").await.expect("the drain");
    assert_ne!(now.status, DrainStatus::Cancelled, "the others go on");
    assert_eq!(scheduling(&server, "new-1").await, Scheduling::Active);
}

#[tokio::test]
async fn who_says_goodbye_and_comes_again_is_not_drained_any_more() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.on_lost = OnLost::Fail).await;
    let mut one = server.agent("one", "p", "host", 10).await;
    let id = server.session("p").await.id;
    one.runs_one().await;
    server
        .client
        .drain_pool("p", &within(1.0))
        .await
        .expect("it begins");
    // As a pod that is replaced: the same name, and the only agent there is.
    server
        .client
        .deregister_agent("one", Some(one.incarnation), false)
        .await
        .expect("goodbye");
    one.restart(&[]).await;
    assert_eq!(scheduling(&server, "one").await, Scheduling::Active);
    adopts(&one, 1).await;
    let done = reaches(&server, "one", DrainStatus::Completed).await;
    assert_eq!((done.total, done.handed_over), (1, 1));
    assert_eq!(states_since_it_ran(&server, id).await, ["running"]);
    assert_eq!(scheduling(&server, "one").await, Scheduling::Active);
}

#[tokio::test]
async fn of_two_drains_the_later_one_does_not_take_the_first_ones_cordon_for_an_older_one() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "host", 10).await;
    server.session("p").await;
    one.runs_one().await;
    let client = &server.client;
    client
        .drain_agent("one", &within(60.0))
        .await
        .expect("it begins");
    client
        .drain_pool("p", &within(60.0))
        .await
        .expect("another begins");
    client.cancel_agent_drain("one").await.expect("off");
    assert_eq!(scheduling(&server, "one").await, Scheduling::Draining);
    client.cancel_pool_drain("p").await.expect("off");
    assert_eq!(scheduling(&server, "one").await, Scheduling::Active);
}

#[tokio::test]
async fn an_acknowledgment_never_makes_a_taken_session_wait_longer() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 3.0;
            pool.backoff_initial_seconds = 300.0;
        })
        .await;
    let one = server.agent("one", "p", "host", 10).await;
    let two = server.agent("two", "p", "host", 10).await;
    let (beating, beating_too) = (one.keep_beating(0.5), two.keep_beating(0.5));
    server.session("p").await;
    let held = one.runs_one().await;
    // It has failed before, long ago.
    let client = server.database.client().await;
    let tried = "UPDATE sessions SET attempts_used = 4";
    client.batch_execute(tried).await.expect("it is noted");
    server
        .client
        .drain_agent("one", &by_force())
        .await
        .expect("it begins");
    let mut body = one.claim_body(0, 0.0);
    body.dropped = TestAgent::held(std::slice::from_ref(&held));
    server.client.claim("one", &body).await.expect("it lets go");
    adopts(&two, 1).await;
    beating.abort();
    beating_too.abort();
}

#[tokio::test]
async fn other_wishes_outrank_a_hand_over() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "host", 10).await;
    server.agent("two", "p", "host", 10).await;
    let ids: Vec<Uuid> = server.sessions("p", 2).await.iter().map(|s| s.id).collect();
    one.runs_one().await;
    one.runs_one().await;
    server
        .client
        .drain_agent("one", &within(60.0))
        .await
        .expect("it begins");
    server
        .client
        .delete_session(&ids[0].to_string(), &Default::default())
        .await
        .expect("an end");
    let hibernate = SessionPatch {
        desired_state: Some(lessor_protocol::DesiredState::Hibernated),
        ..SessionPatch::default()
    };
    server
        .client
        .patch_session(&ids[1].to_string(), &hibernate)
        .await
        .expect("a rest");
    for assignment in one.claim(10, 5.0).await {
        let (action, end) = if assignment.session.id == ids[0] {
            (Action::Terminate, ReportedState::Terminated)
        } else {
            (Action::Hibernate, ReportedState::Hibernated)
        };
        assert_eq!(assignment.action, action);
        one.accepts(&assignment, end).await;
    }
    let done = reaches(&server, "one", DrainStatus::Completed).await;
    assert_eq!((done.total, done.handed_over, done.remaining), (2, 0, 0));
    the_books_agree(&server).await;
}

#[tokio::test]
async fn what_is_still_starting_is_handed_over_once_it_runs() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "host", 10).await;
    let id = server.session("p").await.id;
    let start = one.claim(1, 5.0).await.pop().expect("a session");
    one.accepts(&start, ReportedState::Starting).await;
    // And an offer that it has not accepted goes elsewhere at once.
    let other = server.session("p").await.id;
    assert_eq!(one.claim(1, 5.0).await[0].session.id, other);
    let two = server.agent("two", "p", "host", 10).await;
    let begun = server
        .client
        .drain_agent("one", &within(60.0))
        .await
        .expect("it begins");
    assert_eq!(
        (begun.total, begun.blocked[0].reason.as_str()),
        (1, "not_running")
    );
    let taken = two.claim(1, 5.0).await;
    assert_eq!(taken[0].session.id, other);
    two.accepts(&taken[0], ReportedState::Running).await;

    one.accepts(&start, ReportedState::Running).await;
    releases(&one, 1).await;
    let adopted = two.claim(1, 5.0).await;
    assert_eq!(
        (adopted[0].session.id, adopted[0].action),
        (id, Action::Adopt)
    );
    two.accepts(&adopted[0], ReportedState::Running).await;
    reaches(&server, "one", DrainStatus::Completed).await;
}

#[tokio::test]
async fn it_goes_on_when_its_agent_dies_or_leaves() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 2.0).await;
    let mut one = server.agent("one", "p", "host", 10).await;
    let two = server.agent("two", "p", "host", 10).await;
    let beating = two.keep_beating(0.5);
    server.sessions("p", 2).await;
    let held = [one.runs_one().await, one.runs_one().await];
    server
        .client
        .drain_agent("one", &within(60.0))
        .await
        .expect("it begins");
    // A new run of it, in the middle, holds on to one of them.
    one.restart(&TestAgent::held(&held[..1])).await;
    assert_eq!(scheduling(&server, "one").await, Scheduling::Draining);
    adopts(&two, 1).await;
    eventually("it is asked again", || async {
        let told = one.claim(10, 0.2).await;
        told.iter().any(|told| told.action == Action::Release)
    })
    .await;
    // Then it dies.
    adopts(&two, 1).await;
    let done = reaches(&server, "one", DrainStatus::Completed).await;
    assert_eq!(done.handed_over, 2);

    // And one that leaves for good takes nothing with it, its drain included.
    let mut three = server.agent("three", "p", "host", 10).await;
    three.register(&[]).await;
    server.session("p").await;
    three.runs_one().await;
    server
        .client
        .drain_agent("three", &within(60.0))
        .await
        .expect("it begins");
    server
        .client
        .deregister_agent("three", Some(three.incarnation), false)
        .await
        .expect("goodbye");
    adopts(&two, 1).await;
    reaches(&server, "three", DrainStatus::Completed).await;
    beating.abort();
    the_books_agree(&server).await;
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.agent("one", "p", "host", 10).await;
    let drain = |body: DrainRequest| {
        let client = server.client.clone();
        async move { refused(client.drain_agent("one", &body).await) }
    };
    assert_eq!(drain(within(-1.0)).await, ProblemCode::ValidationFailed);
    assert_eq!(
        drain(within(604_801.0)).await,
        ProblemCode::ValidationFailed
    );
    let long = DrainRequest {
        reason: Some("x".repeat(1025)),
        ..DrainRequest::default()
    };
    assert_eq!(drain(long).await, ProblemCode::ValidationFailed);
    let unknown = server.client.drain_agent("nobody", &within(1.0)).await;
    assert_eq!(refused(unknown), ProblemCode::AgentNotRegistered);
    let unknown = server.client.drain_pool("nowhere", &within(1.0)).await;
    assert_eq!(refused(unknown), ProblemCode::PoolNotFound);
    assert_eq!(
        refused(server.client.agent_drain("one").await),
        ProblemCode::NotFound
    );
    assert_eq!(
        refused(server.client.cancel_pool_drain("p").await),
        ProblemCode::NotFound
    );
    for path in [
        "drain?wait_for=over",
        "drain?wait_seconds=3",
        "drain?wait_for=completed&wait_seconds=56",
    ] {
        let answer = reqwest::get(format!("{}/v1/agents/one/{path}", server.url)).await;
        assert_eq!(answer.expect("an answer").status(), 422, "{path}");
    }
    // With nothing in its hands it is drained before the answer.
    let empty = server
        .client
        .drain_agent("one", &DrainRequest::default())
        .await;
    assert_eq!(empty.expect("it begins").status, DrainStatus::Completed);
    // And that is told and counted like any other.
    let told = history(&server, "p", Some("one")).await;
    let last = ["agent.cordoned", "drain.started", "drain.completed"];
    assert_eq!(told[told.len() - 3..], last);
    for (status, count) in [
        ("started", 1.0),
        ("completed", 1.0),
        ("cancelled", 0.0),
        ("failed", 0.0),
    ] {
        let line = format!("lessor_drains_total{{status=\"{status}\"}}");
        assert_eq!(server.metric(&line).await, count, "{status}");
    }
    assert_eq!(
        server.metric("lessor_sessions_handed_over_total").await,
        0.0
    );
    assert_eq!(scheduling(&server, "one").await, Scheduling::Drained);
    let listed = lessor_client::AgentFilter {
        scheduling: Some(Scheduling::Drained),
        ..Default::default()
    };
    let page = server.client.list_agents(&listed).await.expect("a page");
    assert_eq!(page.items.len(), 1);
}

/// Three servers, twenty agents in four domains, two hundred sessions: agent after agent is drained,
/// some by force, one is killed when some of its sessions have been taken over and some have not, and not
/// one session is stopped or started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_drained_agent_by_agent_and_no_session_notices() {
    const DOMAINS: usize = 4;
    const SESSIONS: usize = 200;
    let first = TestServer::start().await;
    let servers = [first.beside().await, first.beside().await, first];
    let server = &servers[0];
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 3.0;
            pool.accept_timeout_seconds = 3.0;
        })
        .await;
    let platform = Platform::default();
    let mut agents: Vec<Option<FleetAgent>> = (0..20)
        .map(|n| {
            let domain = format!("domain-{}", n % DOMAINS);
            // Each has room for its part of them, and no more.
            let (at, name) = (&servers[n % 3], format!("agent-{n}"));
            Some(platform.agent_for((SESSIONS / 20) as i32, at, &name, ("p", &domain)))
        })
        .collect();
    let ids: Vec<Uuid> = server
        .sessions("p", SESSIONS)
        .await
        .iter()
        .map(|s| s.id)
        .collect();
    let running = "SELECT count(*) FROM sessions WHERE state = 'running' AND offered_until IS NULL \
        AND assigned_agent_id IS NOT NULL";
    let all_run = || async { count(server, running).await == SESSIONS as i64 };
    eventually("all run", all_run).await;

    // Four at a time, one of each domain; the fifth of each stays.
    for round in 0..4 {
        let names: Vec<usize> = (0..DOMAINS)
            .map(|domain| round * DOMAINS + domain)
            .collect();
        let killed = names[1];
        if round == 1 {
            let domain = format!("domain-{}", killed % DOMAINS);
            platform.let_adopt(&domain, &format!("agent-{killed}"), 2);
        }
        for &n in &names {
            let body = if n % 3 == 0 { by_force() } else { within(30.0) };
            let at = &servers[(n + 1) % 3];
            at.client
                .drain_agent(&format!("agent-{n}"), &body)
                .await
                .expect("it begins");
        }
        if round == 1
            && let Some(agent) = agents[killed].take()
        {
            let name = format!("agent-{killed}");
            eventually("two of its sessions are taken over", || async {
                drain(server, &name).await.handed_over == 2
            })
            .await;
            agent.kill().await;
            let now = drain(server, &name).await;
            assert_eq!(
                (now.status, now.handed_over),
                (DrainStatus::InProgress, 2),
                "{now:#?}"
            );
            assert!(now.remaining > 0, "{now:#?}");
            platform.let_all_adopt();
        }
        for &n in &names {
            let done = reaches(
                &servers[(n + 2) % 3],
                &format!("agent-{n}"),
                DrainStatus::Completed,
            )
            .await;
            assert_eq!(done.remaining, 0);
            assert!(done.total >= (SESSIONS / 20) as i64, "{done:#?}");
            assert_eq!(done.handed_over, done.total, "{done:#?}");
        }
        for &n in &names {
            if let Some(agent) = agents[n].take() {
                agent.stop().await;
            }
        }
    }
    eventually("all run, and are held", all_run).await;
    for id in &ids {
        assert_eq!((platform.starts(*id), platform.ends(*id)), (1, 0), "{id}");
        assert_eq!(states_since_it_ran(server, *id).await, ["running"]);
    }
    assert_eq!(platform.running(), SESSIONS);
    the_books_agree(server).await;
}
