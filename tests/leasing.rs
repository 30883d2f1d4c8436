//! Leases: registration, incarnations, what is kept and dropped, and domains that are lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lessor_client::DeleteSession;
use lessor_protocol::{
    Action, Assignment, Availability, EndReason, HeldSession, OnLost, Outcome, PoolSpec,
    ProblemCode, ReportCode, ReportedState, SessionState,
};
use uuid::Uuid;

use crate::support::checks::{count, ends, leftovers, refused, the_books_agree};
use crate::support::{TestAgent, TestServer, eventually, report};

/// A server with pool `p`.
async fn server_with(change: impl FnOnce(&mut PoolSpec)) -> TestServer {
    let server = TestServer::start().await;
    server.pool("p", change).await;
    server
}

/// Short leases, and a domain that is given up a second after its last agent has gone.
async fn server_that_loses_domains(on_lost: OnLost) -> TestServer {
    server_with(|pool| {
        pool.lease_ttl_seconds = 2.0;
        pool.adopt_timeout_seconds = 1.0;
        pool.on_lost = on_lost;
    })
    .await
}

async fn expires(server: &TestServer, agent: &str) {
    eventually("its lease ends", || async {
        let agent = server.client.get_agent(agent).await.expect("the agent");
        agent.availability == lessor_protocol::Availability::Expired
    })
    .await;
}

async fn delete(server: &TestServer, id: Uuid, force: bool) -> SessionState {
    let how = DeleteSession {
        force,
        ..DeleteSession::default()
    };
    let session = server.client.delete_session(&id.to_string(), &how).await;
    session.expect("202").state
}

/// Another process of the same name.
fn twin(agent: &TestAgent) -> TestAgent {
    TestAgent {
        instance: Uuid::new_v4().to_string(),
        ..agent.clone()
    }
}

async fn run(server: &TestServer, agent: &TestAgent, count: usize) -> Vec<Assignment> {
    server.sessions("p", count).await;
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(agent.runs_one().await);
    }
    held
}

fn resource(id: Uuid) -> Option<String> {
    Some(format!("resource-{id}"))
}

#[tokio::test]
async fn the_same_instance_again_keeps_its_incarnation_and_releases_nothing() {
    let server = server_with(|_| {}).await;
    let mut agent = server.agent("a", "p", "d", 3).await;
    let held = run(&server, &agent, 2).await;
    let before = agent.incarnation;
    agent.capacity = 7;
    // What it lists is kept under its present epoch; what it does not list stays with it as well.
    let again = agent.register(&TestAgent::held(&held[..1])).await;
    assert_eq!(again.incarnation, before);
    assert_eq!(again.keep, TestAgent::held(&held[..1]));
    assert!(
        again.drop.is_empty() && again.released.is_empty(),
        "{again:?}"
    );
    assert_eq!((again.agent.capacity, again.agent.held_sessions), (7, 2));
    let again = agent.register(&[]).await;
    assert_eq!((again.incarnation, again.agent.held_sessions), (before, 2));
    for assignment in &held {
        agent.accepts(assignment, ReportedState::Running).await;
        assert_eq!(ends(&server, assignment.session.id).await, [None]);
    }
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_new_instance_fences_the_older_and_they_do_not_duel() {
    let server = server_with(|_| {}).await;
    let old = server.agent("a", "p", "d", 3).await;
    let held = run(&server, &old, 1).await;
    let parked = old.park(1, 50.0);
    server.has_parked("p", 1).await;
    let mut new = twin(&old);
    let registered = new.register(&[]).await;
    assert!(new.incarnation > old.incarnation);
    assert_eq!(registered.released, [held[0].session.id]);
    let superseded = ProblemCode::AgentSuperseded;
    assert_eq!(refused(parked.await.expect("the task")), superseded);
    assert_eq!(refused(old.beat().await), superseded);
    assert_eq!(refused(old.try_claim(1, 0.0).await), superseded);
    let late = old
        .try_report(vec![report(&held[0], ReportedState::Failed)])
        .await;
    assert_eq!(refused(late), superseded);
    // Nor may it come back while the newer one lives, however frequently it tries.
    for _ in 0..3 {
        let body = old.registration(&TestAgent::held(&held));
        let again = server.client.register_agent("a", &body).await;
        assert_eq!(refused(again), superseded);
    }
    let goodbye = server
        .client
        .deregister_agent("a", Some(old.incarnation), false)
        .await;
    assert_eq!(refused(goodbye), superseded);
    let adopted = new.claim(1, 5.0).await.remove(0);
    assert_eq!(
        (adopted.session.id, adopted.action),
        (held[0].session.id, Action::Adopt)
    );
    new.accepts(&adopted, ReportedState::Running).await;
    new.beat().await.expect("the newer one goes on");
    // A number from the future is fenced like one from the past.
    let mut future = new.clone();
    future.incarnation += 1;
    assert_eq!(refused(future.beat().await), superseded);
    assert_eq!(refused(future.try_claim(1, 0.0).await), superseded);
    let early = future
        .try_report(vec![report(&adopted, ReportedState::Running)])
        .await;
    assert_eq!(refused(early), superseded);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn the_older_instance_may_come_back_when_the_newer_one_has_gone() {
    let server = server_with(|pool| pool.lease_ttl_seconds = 2.0).await;
    let mut old = server.agent("a", "p", "d", 3).await;
    let mut new = twin(&old);
    new.register(&[]).await;
    expires(&server, "a").await;
    let before = new.incarnation;
    old.register(&[]).await;
    assert!(old.incarnation > before);
    // And now the other one is the superseded one.
    let again = server
        .client
        .register_agent("a", &new.registration(&[]))
        .await;
    assert_eq!(refused(again), ProblemCode::AgentSuperseded);
    server.stop().await;
}

#[tokio::test]
async fn without_an_instance_every_registration_is_a_new_run() {
    let server = server_with(|_| {}).await;
    let agent = server.agent("a", "p", "d", 3).await;
    let mut body = agent.registration(&[]);
    body.instance = None;
    let first = server.client.register_agent("a", &body).await.expect("200");
    let second = server.client.register_agent("a", &body).await.expect("200");
    assert!(agent.incarnation < first.incarnation);
    assert!(first.incarnation < second.incarnation);
    server.stop().await;
}

#[tokio::test]
async fn a_name_is_one_agents_however_many_register_and_leave_at_once() {
    const ROUNDS: usize = 20;
    let server = server_with(|_| {}).await;
    let client = server.database.client().await;
    let register = async || {
        let agent = TestAgent::new(&server.client, "a", ("p", "d"), 1);
        let body = agent.registration(&[]);
        let registered = server.client.register_agent("a", &body).await;
        registered.expect("a new process may have the name");
    };
    let leave = async || match server.client.deregister_agent("a", None, true).await {
        Ok(()) => {}
        Err(error) => assert_eq!(refused::<()>(Err(error)), ProblemCode::AgentNotRegistered),
    };
    for _ in 0..ROUNDS {
        tokio::join!(register(), register(), register(), leave());
        // Whoever was first: the name is there with its agent, or gone with it.
        let agents = count(&server, "SELECT count(*) FROM agents").await;
        let names = count(&server, "SELECT count(*) FROM agent_names").await;
        assert!(agents == names && agents <= 1, "{agents} of {names}");
    }
    register().await;
    // Nor by hand.
    let twice = "INSERT INTO agents (name, pool, resource_domain, capacity, protocol_version, incarnation, live,
            lease_expires_at, last_heartbeat_at, registered_at)
        SELECT name, pool, resource_domain, 1, 1, 1, true, now(), now(), now() FROM agents";
    for (text, code) in [
        (twice, "23505"),
        ("UPDATE agents SET name = 'b'", "23000"),
        (
            "DELETE FROM agents; SELECT 1 / count(*) FROM agent_names",
            "22012",
        ),
    ] {
        let error = client.batch_execute(text).await.expect_err(text);
        assert_eq!(error.code().expect("a code").code(), code, "{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_restart_without_memory_releases_everything_at_once() {
    let server = server_with(|_| {}).await;
    let mut agent = server.agent("a", "p", "d", 5).await;
    let other = server.agent("b", "p", "d", 0).await;
    let held = run(&server, &agent, 2).await;
    // An offer too, which was not accepted.
    let session = server.session("p").await;
    let offered = agent.claim(1, 5.0).await.remove(0);
    let parked = other.park(10, 50.0);
    server.has_parked("p", 1).await;
    let registered = agent.restart(&[]).await;
    let mut released = registered.released.clone();
    released.sort_unstable();
    let mut expected: Vec<_> = held.iter().map(|a| a.session.id).collect();
    expected.push(session.id);
    expected.sort_unstable();
    assert_eq!(released, expected);
    assert!(registered.keep.is_empty() && registered.drop.is_empty());
    let adopted = parked
        .await
        .expect("the task")
        .expect("it may claim")
        .assignments;
    assert_eq!(adopted.len(), 2);
    for assignment in &adopted {
        assert_eq!(assignment.action, Action::Adopt);
        other.accepts(assignment, ReportedState::Running).await;
        assert_eq!(
            ends(&server, assignment.session.id).await,
            [Some(EndReason::NotHeld), None]
        );
    }
    let again = agent.claim(5, 5.0).await;
    assert_eq!(again.len(), 1);
    assert_eq!(
        (again[0].session.id, again[0].action),
        (session.id, Action::Start)
    );
    assert!(again[0].lease_epoch > offered.lease_epoch);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_restart_with_memory_keeps_what_it_drives_under_new_epochs() {
    let server = server_with(|_| {}).await;
    let mut agent = server.agent("a", "p", "d", 5).await;
    let held = run(&server, &agent, 2).await;
    let mut claimed = TestAgent::held(&held);
    // One under an epoch that it does not have, which it must drop, and somebody may adopt.
    claimed[1].lease_epoch += 1;
    let registered = agent.restart(&claimed).await;
    let kept = HeldSession {
        session_id: held[0].session.id,
        lease_epoch: held[0].lease_epoch + 1,
    };
    assert_eq!(registered.keep, [kept]);
    assert_eq!(registered.drop.len(), 1);
    assert_eq!(registered.drop[0].session_id, held[1].session.id);
    assert_eq!(registered.drop[0].reason, "lease_epoch_stale");
    let old = agent.reports(&held[0], ReportedState::Running).await;
    assert_eq!(
        (old.outcome, old.code),
        (Outcome::Fenced, Some(ReportCode::LeaseEpochStale))
    );
    let mut now = held[0].clone();
    now.lease_epoch = kept.lease_epoch;
    agent.accepts(&now, ReportedState::Running).await;
    assert_eq!(
        ends(&server, kept.session_id).await,
        [Some(EndReason::Superseded), None]
    );
    let adopted = agent.claim(5, 5.0).await;
    assert_eq!(adopted.len(), 1);
    assert_eq!(
        (adopted[0].session.id, adopted[0].action),
        (held[1].session.id, Action::Adopt)
    );
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn who_comes_back_late_keeps_what_nobody_took_and_drops_the_rest() {
    let server = server_with(|pool| pool.lease_ttl_seconds = 2.0).await;
    let mut agent = server.agent("a", "p", "d", 5).await;
    let other = server.agent("b", "p", "d", 5).await;
    let beating = other.keep_beating(0.4);
    let held = run(&server, &agent, 4).await;
    expires(&server, "a").await;
    // Two of the four go to another agent, and nobody takes the rest.
    let taken = other.claim(2, 5.0).await;
    for assignment in &taken {
        other.accepts(assignment, ReportedState::Running).await;
    }
    let taken: BTreeSet<Uuid> = taken.iter().map(|a| a.session.id).collect();
    assert_eq!(taken.len(), 2);
    let registered = agent.register(&TestAgent::held(&held)).await;
    let kept: BTreeSet<Uuid> = registered.keep.iter().map(|k| k.session_id).collect();
    let dropped: BTreeSet<Uuid> = registered.drop.iter().map(|d| d.session_id).collect();
    let all: BTreeSet<Uuid> = held.iter().map(|a| a.session.id).collect();
    assert_eq!(dropped, taken, "{registered:?}");
    assert_eq!(kept, &all - &taken, "{registered:?}");
    let reasons = registered.drop.iter().map(|d| d.reason.as_str());
    assert_eq!(reasons.collect::<Vec<_>>(), ["assigned_elsewhere"; 2]);
    assert!(registered.released.is_empty());
    for assignment in &held {
        let session = server.get(assignment.session.id).await;
        let holder = if taken.contains(&session.id) {
            "b"
        } else {
            "a"
        };
        assert_eq!(session.assigned_agent_id.as_deref(), Some(holder));
        assert_eq!(session.lease_epoch, assignment.lease_epoch + 1);
        assert!(session.offered_until.is_none(), "{session:#?}");
        assert_eq!(session.platform_resource_id, resource(session.id));
    }
    the_books_agree(&server).await;
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn who_comes_back_late_drops_what_another_agent_was_offered_or_took_or_ended() {
    let server = server_with(|pool| pool.lease_ttl_seconds = 2.0).await;
    let mut agent = server.agent("a", "p", "d", 5).await;
    let other = server.agent("b", "p", "d", 5).await;
    let beating = other.keep_beating(0.4);
    let held = run(&server, &agent, 4).await;
    let [offered, taken, ended, also_taken] = [0, 1, 2, 3].map(|n: usize| held[n].clone());
    expires(&server, "a").await;
    // Two of them the other agent takes, one ends there, one is only offered.
    let adopted = other.claim(10, 5.0).await;
    assert_eq!(adopted.len(), 4);
    let of = |wanted: &Assignment| {
        let found = adopted.iter().find(|a| a.session.id == wanted.session.id);
        found.expect("it was offered").clone()
    };
    other.accepts(&of(&taken), ReportedState::Running).await;
    other.accepts(&of(&ended), ReportedState::Terminated).await;
    other
        .accepts(&of(&also_taken), ReportedState::Running)
        .await;
    let unknown = HeldSession {
        session_id: Uuid::now_v7(),
        lease_epoch: 1,
    };
    let mut claims = TestAgent::held(&held);
    claims.push(unknown);
    let registered = agent.register(&claims).await;
    assert!(registered.keep.is_empty(), "{registered:?}");
    let mut drop: Vec<(Uuid, String)> = registered
        .drop
        .into_iter()
        .map(|dropped| (dropped.session_id, dropped.reason))
        .collect();
    drop.sort_unstable();
    let mut expected = vec![
        // Offered to the other one, and not accepted yet: it is the other one's.
        (offered.session.id, "assigned_elsewhere".to_owned()),
        (taken.session.id, "assigned_elsewhere".to_owned()),
        (ended.session.id, "ended".to_owned()),
        (also_taken.session.id, "assigned_elsewhere".to_owned()),
        (unknown.session_id, "session_not_found".to_owned()),
    ];
    expected.sort_unstable();
    assert_eq!(drop, expected);
    // The other one goes: what it had is free again, but not under the epochs of before.
    server
        .client
        .deregister_agent("b", Some(other.incarnation), false)
        .await
        .expect("204");
    let registered = agent.restart(&TestAgent::held(&held)).await;
    assert!(registered.keep.is_empty(), "{registered:?}");
    let stale = registered
        .drop
        .iter()
        .filter(|d| d.reason == "lease_epoch_stale");
    assert_eq!(stale.count(), 3);
    let adopted = agent.claim(10, 5.0).await;
    assert_eq!(adopted.len(), 3);
    the_books_agree(&server).await;
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn who_comes_back_late_and_nobody_took_anything_keeps_it_all() {
    let server = server_with(|pool| pool.lease_ttl_seconds = 2.0).await;
    let mut agent = server.agent("a", "p", "d", 5).await;
    let held = run(&server, &agent, 3).await;
    expires(&server, "a").await;
    let before = agent.incarnation;
    let registered = agent.register(&TestAgent::held(&held)).await;
    assert!(registered.incarnation > before);
    assert_eq!(registered.keep.len(), 3);
    assert!(registered.drop.is_empty() && registered.released.is_empty());
    for assignment in &held {
        let id = assignment.session.id;
        let kept = registered.keep.iter().find(|kept| kept.session_id == id);
        let mut now = assignment.clone();
        now.lease_epoch = kept.expect("it is kept").lease_epoch;
        assert_eq!(now.lease_epoch, assignment.lease_epoch + 1);
        let late = agent.reports(assignment, ReportedState::Running).await;
        assert_eq!(late.outcome, Outcome::Fenced);
        agent.accepts(&now, ReportedState::Running).await;
        assert_eq!(
            ends(&server, id).await,
            [Some(EndReason::LeaseExpired), None]
        );
        assert_eq!(server.get(id).await.platform_resource_id, resource(id));
    }
    assert_eq!(registered.agent.held_sessions, 3);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_was_taken_from_an_agent_is_not_its_to_keep() {
    let server = server_with(|pool| {
        pool.lease_ttl_seconds = 60.0;
        pool.start_timeout_seconds = 1.0;
    })
    .await;
    let mut agent = server.agent("a", "p", "d", 5).await;
    let session = server.session("p").await.id;
    let start = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&start, ReportedState::Starting).await;
    eventually("it is taken at its phase deadline", || async {
        server.get(session).await.assigned_agent_id.is_none()
    })
    .await;
    // Neither a repeated registration nor a new run gets it back under the epoch of before.
    let held = TestAgent::held(&[start]);
    for registered in [agent.register(&held).await, agent.restart(&held).await] {
        assert!(registered.keep.is_empty(), "{registered:?}");
        assert_eq!(registered.drop.len(), 1);
        assert_eq!(registered.drop[0].reason, "taken");
    }
    assert_eq!(server.get(session).await.assigned_agent_id, None);
    assert_eq!(ends(&server, session).await, [Some(EndReason::TimedOut)]);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_ended_or_is_of_another_domain_or_pool_is_dropped() {
    let server = server_with(|pool| {
        pool.backoff_initial_seconds = 600.0;
        pool.backoff_max_seconds = 600.0;
    })
    .await;
    server.pool("q", |_| {}).await;
    let mut agent = server.agent("a", "p", "here", 9).await;
    let held = run(&server, &agent, 4).await;
    // One waits for its next attempt, one has ended, one sleeps; all under the epoch that it has.
    agent.accepts(&held[0], ReportedState::Failed).await;
    agent.accepts(&held[1], ReportedState::Terminated).await;
    let id = held[2].session.id.to_string();
    let sleep = serde_json::json!({"desired_state": "hibernated"});
    let sleep = serde_json::from_value(sleep).expect("a patch");
    server
        .client
        .patch_session(&id, &sleep)
        .await
        .expect("it is to sleep");
    let told = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&told, ReportedState::Hibernated).await;
    // And one still runs, with nobody.
    let goodbye = server
        .client
        .deregister_agent("a", Some(agent.incarnation), false)
        .await;
    goodbye.expect("204");
    let held = TestAgent::held(&held);
    for (pool, domain, last) in [
        ("p", "there", Some("other_domain")),
        ("q", "here", Some("other_pool")),
        ("p", "here", None),
    ] {
        agent.pool = pool.to_owned();
        agent.domain = domain.to_owned();
        let registered = agent.restart(&held).await;
        let reasons: Vec<Option<&str>> = held
            .iter()
            .map(|held| {
                let dropped = registered
                    .drop
                    .iter()
                    .find(|dropped| dropped.session_id == held.session_id);
                dropped.map(|dropped| dropped.reason.as_str())
            })
            .collect();
        let of_the_pool = if pool == "p" { "ended" } else { "other_pool" };
        assert_eq!(
            reasons,
            [Some(of_the_pool), Some("ended"), Some("ended"), last],
            "{pool} {domain}"
        );
        assert_eq!(registered.keep.len(), usize::from(last.is_none()));
    }
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_attempt_that_was_accepted_and_never_seen_is_made_anew_under_another_name() {
    let server = server_with(|_| {}).await;
    let agent = server.agent("a", "p", "here", 1).await;
    let session = server.session("p").await.id;
    let start = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&start, ReportedState::Pending).await;
    let accepted = server.get(session).await;
    assert_eq!(accepted.resource_domain.as_deref(), Some("here"));
    let goodbye = server
        .client
        .deregister_agent("a", Some(agent.incarnation), false)
        .await;
    goodbye.expect("204");
    // Something may have been made, so the domain has it to delete, and the next name differs.
    let now = server.get(session).await;
    assert_eq!(
        (now.state, now.attempt, now.resource_domain),
        (SessionState::Pending, 2, None)
    );
    assert_eq!(
        leftovers(&server, session).await,
        [("here".to_owned(), 1, None)]
    );
    let other = server.agent("b", "p", "there", 1).await;
    let again = other.claim(1, 5.0).await.remove(0);
    assert_eq!(
        (again.session.id, again.action, again.session.attempt),
        (session, Action::Start, 2)
    );
    other.accepts(&again, ReportedState::Running).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_holds_sessions_cannot_move() {
    let server = server_with(|_| {}).await;
    server.pool("q", |_| {}).await;
    let mut agent = server.agent("a", "p", "d", 5).await;
    let held = run(&server, &agent, 1).await;
    for (pool, domain) in [("q", "d"), ("p", "e"), ("q", "e")] {
        let mut body = agent.registration(&TestAgent::held(&held));
        body.pool = pool.to_owned();
        body.resource_domain = Some(domain.to_owned());
        let moved = server.client.register_agent("a", &body).await;
        assert_eq!(refused(moved), ProblemCode::AgentHoldsSessions);
        body.instance = Some(lessor_protocol::Instance {
            id: Uuid::new_v4().to_string(),
            host: None,
            pid: None,
        });
        let moved = server.client.register_agent("a", &body).await;
        assert_eq!(refused(moved), ProblemCode::AgentHoldsSessions);
    }
    // Nothing of that has changed anything.
    agent.accepts(&held[0], ReportedState::Running).await;
    agent.accepts(&held[0], ReportedState::Terminated).await;
    agent.pool = "q".to_owned();
    agent.domain = "e".to_owned();
    let moved = agent.register(&[]).await;
    assert_eq!(
        (
            moved.agent.pool.as_str(),
            moved.agent.resource_domain.as_str()
        ),
        ("q", "e")
    );
    let session = server.session("q").await;
    assert_eq!(agent.claim(1, 5.0).await[0].session.id, session.id);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_operator_removes_a_live_agent_only_by_force() {
    let server = server_with(|pool| pool.lease_ttl_seconds = 3.0).await;
    let agent = server.agent("a", "p", "d", 5).await;
    let heir = server.agent("b", "p", "d", 0).await;
    let beating = heir.keep_beating(0.4);
    let held = run(&server, &agent, 1).await;
    let session = held[0].session.id;
    let refusal = server.client.deregister_agent("a", None, false).await;
    assert_eq!(refused(refusal), ProblemCode::AgentLive);
    agent.beat().await.expect("it was not touched");
    let lease_end = "SELECT (extract(epoch FROM lease_expires_at) * 1000000)::bigint FROM agents WHERE name = 'a'";
    let lease_end = count(&server, lease_end).await;
    server
        .client
        .deregister_agent("a", None, true)
        .await
        .expect("204");
    assert_eq!(refused(agent.beat().await), ProblemCode::AgentNotRegistered);
    let late = agent
        .try_report(vec![report(&held[0], ReportedState::Failed)])
        .await;
    assert_eq!(refused(late), ProblemCode::AgentNotRegistered);
    assert!(heir.claim(5, 0.0).await.is_empty());
    let adopted = heir.claim(5, 30.0).await.remove(0);
    assert_eq!(
        (adopted.session.id, adopted.action),
        (session, Action::Adopt)
    );
    heir.accepts(&adopted, ReportedState::Running).await;
    let offered = "SELECT (extract(epoch FROM offered_at) * 1000000)::bigint FROM lease_ledger WHERE agent = 'b'";
    let offered = count(&server, offered).await;
    assert!(offered >= lease_end, "{} us early", lease_end - offered);
    assert_eq!(
        ends(&server, session).await,
        [Some(EndReason::Forced), None]
    );
    // Once its lease has ended, an operator needs no force.
    let gone = server.agent("c", "p", "d", 5).await;
    expires(&server, &gone.name).await;
    server
        .client
        .deregister_agent("c", None, false)
        .await
        .expect("204");
    let again = server.client.deregister_agent("c", None, false).await;
    assert_eq!(refused(again), ProblemCode::AgentNotRegistered);
    the_books_agree(&server).await;
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn on_lost_wait_leaves_a_session_where_it_is() {
    let server = server_that_loses_domains(OnLost::Wait).await;
    let mut agent = server.agent("a", "p", "here", 1).await;
    let session = run(&server, &agent, 1).await.remove(0).session.id;
    let stranger = server.agent("b", "p", "there", 5).await;
    let beating = stranger.keep_beating(0.4);
    expires(&server, "a").await;
    let parked = stranger.park(5, 55.0);
    // It gets what is new, and not what runs in the other domain.
    let marker = server.session("p").await;
    let claimed = parked.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, marker.id);
    let lost_for = "SELECT count(*) FROM resource_domains
        WHERE name = 'here' AND lost_since < now() - interval '3 seconds'";
    eventually("the time for adoption has long passed", || async {
        count(&server, lost_for).await == 1
    })
    .await;
    let now = server.get(session).await;
    assert_eq!(
        (now.state, now.assigned_agent_id),
        (SessionState::Running, None)
    );
    assert_eq!(now.platform_resource_id, resource(session));
    assert!(leftovers(&server, session).await.is_empty());
    stranger
        .accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    assert!(stranger.claim(5, 0.0).await.is_empty());
    agent.restart(&[]).await;
    let adopted = agent.claim(1, 5.0).await.remove(0);
    assert_eq!(
        (adopted.session.id, adopted.action),
        (session, Action::Adopt)
    );
    agent.accepts(&adopted, ReportedState::Running).await;
    the_books_agree(&server).await;
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn on_lost_restart_starts_it_in_another_domain() {
    let server = server_that_loses_domains(OnLost::Restart).await;
    let mut agent = server.agent("a", "p", "here", 1).await;
    let held = run(&server, &agent, 1).await.remove(0);
    let session = held.session.id;
    let other = server.agent("b", "p", "there", 1).await;
    let beating = other.keep_beating(0.4);
    let start = other.claim(1, 30.0).await.remove(0);
    assert_eq!((start.session.id, start.action), (session, Action::Start));
    assert_eq!(start.session.attempt, held.session.attempt + 1);
    assert_eq!(start.session.platform_resource_id, None);
    assert!(start.session.endpoint.is_none());
    // An agent that asks again before it has reported is told the same, however often.
    for turn in 0..2 {
        let again = other.claim(1, 5.0).await.remove(0);
        assert_eq!(
            (again.session.id, again.action, again.lease_epoch),
            (session, Action::Start, start.lease_epoch),
            "turn {turn}"
        );
        assert_eq!(again.session.attempt, start.session.attempt);
        assert_eq!(again.session.platform_resource_id, None);
        assert!(again.session.endpoint.is_none());
    }
    // Only the acceptance decides.
    assert!(leftovers(&server, session).await.is_empty());
    other.accepts(&start, ReportedState::Starting).await;
    let now = server.get(session).await;
    assert_eq!(
        (now.state, now.attempt),
        (SessionState::Starting, start.session.attempt)
    );
    assert_eq!(now.resource_domain.as_deref(), Some("there"));
    assert_eq!(
        leftovers(&server, session).await,
        [("here".to_owned(), held.session.attempt, resource(session))]
    );
    other.accepts(&start, ReportedState::Running).await;
    // Its first agent comes too late, with or without memory.
    let registered = agent.restart(&TestAgent::held(&[held])).await;
    assert_eq!(registered.drop[0].reason, "assigned_elsewhere");
    assert!(agent.claim(1, 0.0).await.is_empty());
    assert_eq!(
        ends(&server, session).await,
        [Some(EndReason::LeaseExpired), None]
    );
    the_books_agree(&server).await;
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn on_lost_restart_lets_its_own_domain_adopt_when_that_comes_first() {
    let server = server_that_loses_domains(OnLost::Restart).await;
    let mut agent = server.agent("a", "p", "here", 1).await;
    let held = run(&server, &agent, 1).await.remove(0);
    let session = held.session.id;
    let given_up = "SELECT count(*) FROM sessions WHERE domain_lost";
    eventually("the domain is given up", || async {
        count(&server, given_up).await == 1
    })
    .await;
    agent.restart(&[]).await;
    let adopted = agent.claim(1, 5.0).await.remove(0);
    assert_eq!(
        (adopted.session.id, adopted.action),
        (session, Action::Adopt)
    );
    assert_eq!(adopted.session.attempt, held.session.attempt);
    assert_eq!(adopted.session.platform_resource_id, resource(session));
    agent.accepts(&adopted, ReportedState::Running).await;
    assert!(leftovers(&server, session).await.is_empty());
    assert_eq!(count(&server, given_up).await, 0);
    // And nobody else starts it now.
    let other = server.agent("b", "p", "there", 1).await;
    assert!(other.claim(1, 0.0).await.is_empty());
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn the_time_of_a_lost_domain_begins_anew_when_an_agent_has_been_there() {
    let server = server_with(|pool| {
        pool.adopt_timeout_seconds = 600.0;
        pool.on_lost = OnLost::Fail;
    })
    .await;
    let mut agent = server.agent("a", "p", "here", 1).await;
    let session = run(&server, &agent, 1).await.remove(0).session.id;
    let sql = server.database.client().await;
    for turn in 0..2 {
        if turn > 0 {
            agent.restart(&[]).await;
        }
        let goodbye = server
            .client
            .deregister_agent("a", Some(agent.incarnation), false)
            .await;
        goodbye.expect("204");
        let recent = "SELECT count(*) FROM resource_domains
            WHERE name = 'here' AND lost_since > now() - interval '300 seconds'";
        assert_eq!(count(&server, recent).await, 1, "turn {turn}");
        let earlier =
            "UPDATE resource_domains SET lost_since = lost_since - interval '500 seconds'";
        assert_eq!(sql.execute(earlier, &[]).await.expect("a while"), 1);
    }
    assert_eq!(server.get(session).await.state, SessionState::Running);
    server.stop().await;
}

#[tokio::test]
async fn on_lost_fail_makes_a_dead_letter_and_a_leftover() {
    let server = server_that_loses_domains(OnLost::Fail).await;
    let agent = server.agent("a", "p", "here", 1).await;
    let session = run(&server, &agent, 1).await.remove(0).session.id;
    let failed = server.reaches(session, SessionState::Failed).await;
    assert_eq!(failed.failure.expect("a failure").reason, "domain_lost");
    assert_eq!(failed.assigned_agent_id, None);
    assert_eq!(
        leftovers(&server, session).await,
        [("here".to_owned(), failed.attempt, resource(session))]
    );
    // Nothing of it is left to end: its end is given at once, and the leftover is recorded once.
    assert_eq!(
        delete(&server, session, false).await,
        SessionState::Terminated
    );
    assert_eq!(leftovers(&server, session).await.len(), 1);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn force_ends_nothing_that_a_live_agent_of_the_domain_can_end() {
    let server = server_with(|_| {}).await;
    let agent = server.agent("a", "p", "here", 1).await;
    let session = run(&server, &agent, 1).await.remove(0).session.id;
    let other = server.agent("b", "p", "here", 1).await;
    let goodbye = server
        .client
        .deregister_agent("a", Some(agent.incarnation), false)
        .await;
    goodbye.expect("204");
    // Held by nobody, but there is one who can.
    assert_eq!(delete(&server, session, true).await, SessionState::Running);
    assert!(leftovers(&server, session).await.is_empty());
    let end = other.claim(1, 5.0).await.remove(0);
    assert_eq!((end.session.id, end.action), (session, Action::Terminate));
    other.accepts(&end, ReportedState::Terminated).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn where_no_agent_ever_comes_an_end_is_given_all_the_same() {
    let server = server_that_loses_domains(OnLost::Wait).await;
    let pending = server.session("p").await;
    assert_eq!(
        delete(&server, pending.id, false).await,
        SessionState::Terminated
    );
    assert!(leftovers(&server, pending.id).await.is_empty());

    let agent = server.agent("a", "p", "here", 2).await;
    let held = run(&server, &agent, 2).await;
    let [patient, forced] = [held[0].session.id, held[1].session.id];
    // While its agent lives, force changes nothing.
    assert_eq!(delete(&server, forced, true).await, SessionState::Running);
    expires(&server, "a").await;
    assert_eq!(
        delete(&server, forced, true).await,
        SessionState::Terminated
    );
    assert_eq!(
        leftovers(&server, forced).await,
        [("here".to_owned(), 1, resource(forced))]
    );
    assert_ne!(
        delete(&server, patient, false).await,
        SessionState::Terminated
    );
    let ended = server.reaches(patient, SessionState::Terminated).await;
    let lost_since =
        "SELECT (extract(epoch FROM expired_at) * 1000)::bigint FROM agents WHERE name = 'a'";
    let lost_since = count(&server, lost_since).await;
    let waited = ended.ended_at.expect("an end").timestamp_millis() - lost_since;
    assert!(waited >= 950, "only {waited} ms");
    assert_eq!(
        leftovers(&server, patient).await,
        [("here".to_owned(), 1, resource(patient))]
    );
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_beats_of_one_agent_do_not_keep_the_pulse_from_beating() {
    let server = server_with(|_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let agent = agent.clone();
        crowd.spawn(async move {
            loop {
                agent.beat().await.expect("its lease is renewed");
            }
        });
    }
    let sql = server.database.client().await;
    let pulses = std::cell::RefCell::new(std::collections::BTreeSet::new());
    eventually("the pulse goes on", || async {
        if let Ok(row) = sql.query_one("SELECT at::text FROM pulse", &[]).await {
            pulses.borrow_mut().insert(row.get::<_, String>(0));
        }
        pulses.borrow().len() >= 4
    })
    .await;
    crowd.shutdown().await;
    server.stop().await;
}

/// Somebody has the row of an agent whose time is over in hand: its lease cannot be ended yet, and nobody
/// asks without a pause whether it can.
#[tokio::test]
async fn a_lease_that_cannot_be_ended_yet_is_not_tried_without_a_pause() {
    let server = server_with(|pool| pool.lease_ttl_seconds = 2.0).await;
    server.agent("a", "p", "d", 1).await;
    let mut client = server.database.client().await;
    let somebody = client.transaction().await.expect("a transaction");
    let lock = "SELECT FROM agents WHERE name = 'a' FOR NO KEY UPDATE";
    assert_eq!(somebody.query(lock, &[]).await.expect("a lock").len(), 1);
    let over = "SELECT count(*) FROM agents WHERE lease_expires_at < clock_timestamp()";
    eventually("its time is over", || async {
        count(&server, over).await == 1
    })
    .await;
    let turns = "lessor_db_transaction_seconds_count{transaction=\"leases::expire\"}";
    let before = server.metric(turns).await;
    let began = Instant::now();
    eventually("it is tried some times more", || async {
        server.metric(turns).await >= before + 10.0
    })
    .await;
    let took = began.elapsed();
    assert!(took > Duration::from_millis(400), "ten turns in {took:?}");
    // And is not forgotten.
    let agent = server.client.get_agent("a").await.expect("the agent");
    assert_eq!(agent.availability, Availability::Live);
    somebody.rollback().await.expect("nobody has it any more");
    expires(&server, "a").await;
    server.stop().await;
}
