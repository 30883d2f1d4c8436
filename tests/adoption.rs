//! Adoption: what becomes of sessions when their agent goes, or hangs.

use std::time::{Duration, Instant};

use lessor_protocol::{
    Action, Assignment, EndReason, Heartbeat, HeldSession, Outcome, ProblemCode, Renewed,
    ReportCode, ReportedState, SessionState,
};
use uuid::Uuid;

use crate::support::checks::{WAIT_FOR_LOCKS, count, ends, ledger, refused, the_books_agree};
use crate::support::{TestAgent, TestServer, eventually, report};

const TTL_SECONDS: f64 = 3.0;

/// A server with pool `p` whose leases are short.
async fn server_with(change: impl FnOnce(&mut lessor_protocol::PoolSpec)) -> TestServer {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = TTL_SECONDS;
            change(pool);
        })
        .await;
    server
}

async fn is_expired(server: &TestServer, agent: &str) -> bool {
    let agent = server.client.get_agent(agent).await.expect("the agent");
    agent.availability == lessor_protocol::Availability::Expired
}

async fn delete(server: &TestServer, id: Uuid) {
    server
        .client
        .delete_session(&id.to_string(), &Default::default())
        .await
        .expect("202");
}

async fn acknowledge(agent: &TestAgent, lost: &Assignment) -> Renewed {
    let body = Heartbeat {
        incarnation: agent.incarnation,
        activity: Vec::new(),
        dropped: vec![HeldSession {
            session_id: lost.session.id,
            lease_epoch: lost.lease_epoch,
        }],
    };
    agent
        .client
        .heartbeat(&agent.name, &body)
        .await
        .expect("it beats")
}

/// Beats until the agent is told that a session was taken from it.
async fn is_told_lost(agent: &TestAgent, id: Uuid) {
    eventually("it is told of its loss", || async {
        agent.beat().await.expect("it beats").lost.contains(&id)
    })
    .await;
}

#[tokio::test]
async fn another_agent_adopts_before_a_hundred_thousand_starts() {
    let server = server_with(|_| {}).await;
    let database = server.database.client().await;
    database
        .execute(
            "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
                created_at, updated_at, queued_at)
            SELECT gen_random_uuid(), 'p', 'process', '{\"command\": [\"true\"]}', 'running', 'pending',
                'on_failure', now(), now(), now() + n * interval '1 microsecond'
            FROM generate_series(1, 100000) AS n",
            &[],
        )
        .await
        .expect("they are inserted");
    let dead = server.agent("dead", "p", "d", 20).await;
    let heir = server.agent("heir", "p", "d", 0).await;
    let stranger = server.agent("stranger", "p", "elsewhere", 0).await;
    let beating = [
        dead.keep_beating(0.4),
        heir.keep_beating(0.4),
        stranger.keep_beating(0.4),
    ];
    let held = dead.claim(20, 5.0).await;
    assert_eq!(held.len(), 20);
    let reports = held
        .iter()
        .map(|assignment| {
            let mut report = report(assignment, ReportedState::Running);
            report.platform_resource_id = Some(Some(format!("pod-{}", assignment.session.id)));
            report.endpoint = Some(Some(lessor_protocol::Endpoint {
                protocol: "vnc".to_owned(),
                host: Some("10.0.0.1".to_owned()),
                port: 5900,
                path: None,
            }));
            report
        })
        .collect();
    let results = dead.try_report(reports).await.expect("it may report");
    assert!(results.iter().all(|r| r.outcome == Outcome::Accepted));
    let foreign = stranger.park(100, 55.0);
    let parked = heir.park(100, 55.0);
    server.has_parked("p", 2).await;
    beating[0].abort();

    let mut adopted = parked
        .await
        .expect("the task")
        .expect("it may claim")
        .assignments;
    while adopted.len() < 20 {
        adopted.extend(heir.claim(100, 5.0).await);
    }
    assert_eq!(adopted.len(), 20);
    let last_beat =
        "SELECT (extract(epoch FROM (SELECT max(offered_at) FROM lease_ledger WHERE agent = 'heir')
        - (SELECT last_heartbeat_at FROM agents WHERE name = 'dead')) * 1000)::bigint";
    let took = count(&server, last_beat).await;
    assert!(
        took as f64 <= (TTL_SECONDS + 1.0) * 1e3,
        "offered {took} ms after the last beat"
    );
    for assignment in &adopted {
        assert_eq!(assignment.action, Action::Adopt);
        let before = held
            .iter()
            .find(|a| a.session.id == assignment.session.id)
            .expect("it was the dead one's");
        assert_eq!(assignment.lease_epoch, before.lease_epoch + 1);
        heir.accepts(assignment, ReportedState::Running).await;
        let now = server.get(assignment.session.id).await;
        assert_eq!(now.state, SessionState::Running);
        assert_eq!(now.assigned_agent_id.as_deref(), Some("heir"));
        assert_eq!(now.platform_resource_id, Some(format!("pod-{}", now.id)));
        assert_eq!(now.endpoint.expect("an endpoint").port, 5900);
        assert_eq!(now.attempt, before.session.attempt);
        assert_eq!(
            ends(&server, now.id).await,
            [Some(EndReason::LeaseExpired), None]
        );
    }

    // The dead one was only away.
    let mut dead = dead;
    let late = dead
        .try_report(vec![report(&held[0], ReportedState::Failed)])
        .await;
    assert_eq!(refused(late), ProblemCode::LeaseExpired);
    assert_eq!(refused(dead.beat().await), ProblemCode::LeaseExpired);
    assert_eq!(
        refused(dead.try_claim(1, 0.0).await),
        ProblemCode::LeaseExpired
    );
    dead.register(&[]).await;
    let late = dead.reports(&held[0], ReportedState::Failed).await;
    assert_eq!(
        (late.outcome, late.code, late.state),
        (
            Outcome::Fenced,
            Some(ReportCode::LeaseEpochStale),
            Some(SessionState::Running)
        )
    );
    // No agent of another domain was given any of them.
    assert!(!foreign.is_finished());
    let elsewhere = "SELECT count(*) FROM lease_ledger WHERE agent = 'stranger'";
    assert_eq!(count(&server, elsewhere).await, 0);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_goodbye_releases_at_once_and_a_full_agent_adopts() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let leaving = server.agent("a", "p", "d", 2).await;
    server.sessions("p", 2).await;
    let held = [leaving.runs_one().await, leaving.runs_one().await];
    let heir = server.agent("b", "p", "d", 1).await;
    server.session("p").await;
    heir.runs_one().await;
    let parked = heir.park(10, 50.0);
    server.has_parked("p", 1).await;
    let stale = server
        .client
        .deregister_agent("a", Some(leaving.incarnation + 1), false)
        .await;
    assert_eq!(refused(stale), ProblemCode::AgentSuperseded);
    server
        .client
        .deregister_agent("a", Some(leaving.incarnation), false)
        .await
        .expect("204");
    let adopted = parked
        .await
        .expect("the task")
        .expect("it may claim")
        .assignments;
    assert_eq!(adopted.len(), 2);
    for assignment in &adopted {
        assert_eq!(assignment.action, Action::Adopt);
        assert!(held.iter().any(|a| a.session.id == assignment.session.id));
        heir.accepts(assignment, ReportedState::Running).await;
        assert_eq!(
            ends(&server, assignment.session.id).await,
            [Some(EndReason::Deregistered), None]
        );
    }
    let agent = server.client.get_agent("b").await.expect("the agent");
    assert_eq!((agent.held_sessions, agent.free_slots), (3, 0));
    assert_eq!(
        refused(leaving.beat().await),
        ProblemCode::AgentNotRegistered
    );
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_end_goes_on_with_another_agent_of_the_domain() {
    let server = server_with(|_| {}).await;
    let dead = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await;
    dead.runs_one().await;
    delete(&server, session.id).await;
    let end = dead.claim(0, 5.0).await.remove(0);
    dead.accepts(&end, ReportedState::Terminating).await;
    let heir = server.agent("b", "p", "d", 0).await;
    let beating = heir.keep_beating(0.4);
    let work = heir.claim(1, 30.0).await.remove(0);
    assert_eq!(
        (work.session.id, work.action, work.session.state),
        (session.id, Action::Terminate, SessionState::Terminating)
    );
    assert!(work.session.platform_resource_id.is_some());
    heir.accepts(&work, ReportedState::Terminated).await;
    assert_eq!(server.get(session.id).await.state, SessionState::Terminated);
    // One assignment: the start and the end were the same hold.
    assert_eq!(
        ends(&server, session.id).await,
        [Some(EndReason::LeaseExpired), Some(EndReason::Terminated)]
    );
    the_books_agree(&server).await;
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn what_was_not_accepted_is_started_elsewhere() {
    let server = server_with(|pool| pool.accept_timeout_seconds = 60.0).await;
    let dead = server.agent("a", "p", "here", 1).await;
    let session = server.session("p").await;
    let offered = dead.claim(1, 5.0).await.remove(0);
    let other = server.agent("b", "p", "there", 1).await;
    let beating = other.keep_beating(0.4);
    let start = other.claim(1, 30.0).await.remove(0);
    assert_eq!(
        (start.session.id, start.action),
        (session.id, Action::Start)
    );
    assert_eq!(start.session.attempt, offered.session.attempt);
    other.accepts(&start, ReportedState::Running).await;
    let now = server.get(session.id).await;
    assert_eq!(now.resource_domain.as_deref(), Some("there"));
    assert_eq!(
        ends(&server, session.id).await,
        [Some(EndReason::LeaseExpired), None]
    );
    assert_eq!(count(&server, "SELECT count(*) FROM leftovers").await, 0);
    the_books_agree(&server).await;
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn a_hanging_start_is_given_to_another_once_the_loss_is_acknowledged() {
    let server = server_with(|pool| {
        // Long enough that its end is not what hands the session on.
        pool.lease_ttl_seconds = 60.0;
        pool.start_timeout_seconds = 1.0;
    })
    .await;
    let hangs = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await;
    let start = hangs.claim(1, 5.0).await.remove(0);
    hangs.accepts(&start, ReportedState::Starting).await;
    let other = server.agent("b", "p", "d", 1).await;
    let parked = other.park(1, 55.0);
    server.has_parked("p", 1).await;
    is_told_lost(&hangs, session.id).await;
    // Fenced at once, and told again until it acknowledges; nobody else has it meanwhile.
    let late = hangs.reports(&start, ReportedState::Running).await;
    assert_eq!(
        (late.outcome, late.code),
        (Outcome::Fenced, Some(ReportCode::NotAssigned))
    );
    let again = hangs.beat().await.expect("it beats");
    assert_eq!(again.lost, [session.id]);
    let now = server.get(session.id).await;
    assert_eq!(
        (now.state, now.assigned_agent_id),
        (SessionState::Starting, None)
    );
    assert!(other.claim(1, 0.0).await.is_empty());
    assert_eq!(
        refused(parked.await.expect("the task")),
        ProblemCode::ClaimSuperseded
    );
    let parked = other.park(1, 55.0);
    server.has_parked("p", 1).await;
    // An acknowledgment of another epoch is none.
    let mut wrong = start.clone();
    wrong.lease_epoch += 1;
    assert_eq!(acknowledge(&hangs, &wrong).await.lost, [session.id]);
    assert!(acknowledge(&hangs, &start).await.lost.is_empty());
    let given = parked
        .await
        .expect("the task")
        .expect("it may claim")
        .assignments;
    assert_eq!(given.len(), 1);
    assert_eq!(
        (given[0].session.id, given[0].action, given[0].lease_epoch),
        (session.id, Action::Start, start.lease_epoch + 1)
    );
    other.accepts(&given[0], ReportedState::Running).await;
    assert_eq!(
        ends(&server, session.id).await,
        [Some(EndReason::TimedOut), None]
    );
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_holder_that_ignores_a_wanted_end_loses_it_and_one_that_came_up_keeps_its_session() {
    let server = server_with(|pool| {
        pool.lease_ttl_seconds = 60.0;
        pool.start_timeout_seconds = 2.0;
        pool.terminate_timeout_seconds = 3.0;
    })
    .await;
    let ignores = server.agent("a", "p", "d", 2).await;
    let other = server.agent("b", "p", "d", 2).await;
    let [kept, ended] = [server.session("p").await.id, server.session("p").await.id];
    for _ in 0..2 {
        let start = ignores.claim(1, 5.0).await.remove(0);
        ignores.accepts(&start, ReportedState::Starting).await;
        ignores.accepts(&start, ReportedState::Running).await;
    }
    delete(&server, ended).await;
    is_told_lost(&ignores, ended).await;
    assert_eq!(ends(&server, ended).await, [Some(EndReason::TimedOut)]);
    let epoch = ledger(&server, ended).await[0].lease_epoch;
    let body = Heartbeat {
        incarnation: ignores.incarnation,
        activity: Vec::new(),
        dropped: vec![HeldSession {
            session_id: ended,
            lease_epoch: epoch,
        }],
    };
    let told = ignores.client.heartbeat("a", &body).await;
    assert!(told.expect("it beats").lost.is_empty());
    let end = other.claim(1, 20.0).await.remove(0);
    assert_eq!((end.session.id, end.action), (ended, Action::Terminate));
    other.accepts(&end, ReportedState::Terminated).await;
    // The other one came up before that, and its deadline with it: a later one has passed.
    let now = server.get(kept).await;
    assert_eq!(
        (now.state, now.assigned_agent_id.as_deref()),
        (SessionState::Running, Some("a"))
    );
    assert_eq!(ends(&server, kept).await, [None]);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn who_made_no_progress_is_not_preferred_for_another_try() {
    let server = server_with(|pool| {
        pool.lease_ttl_seconds = 60.0;
        pool.start_timeout_seconds = 1.0;
        pool.accept_timeout_seconds = 60.0;
    })
    .await;
    let other = server.agent("b", "p", "d", 5).await;
    server.session("p").await;
    other.runs_one().await;
    let hangs = server.agent("a", "p", "d", 5).await;
    let session = server.session("p").await;
    let start = hangs.claim(1, 5.0).await.remove(0);
    hangs.accepts(&start, ReportedState::Starting).await;
    is_told_lost(&hangs, session.id).await;
    // It is the emptier one, and waits beside the other.
    let waiting = hangs.park(1, 55.0);
    let parked = other.park(1, 55.0);
    server.has_parked("p", 2).await;
    acknowledge(&hangs, &start).await;
    let given = parked.await.expect("the task").expect("it may claim");
    assert_eq!(given.assignments.len(), 1);
    assert_eq!(given.assignments[0].session.id, session.id);
    assert!(!waiting.is_finished());
    the_books_agree(&server).await;
    server.stop().await;
}

/// Agents of two domains are looked at together, and the work of one goes to its own agent only.
#[tokio::test]
async fn a_stranger_in_the_same_round_is_given_nothing_of_another_domain() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let leaving = server.agent("c", "p", "d", 1).await;
    let session = server.session("p").await.id;
    leaving.runs_one().await;
    let heir = server.agent("b", "p", "d", 1).await;
    let stranger = server.agent("a", "p", "elsewhere", 1).await;
    let first = server.agent("0", "p", "far", 1).await;
    let waiting = [first.park(1, 55.0), heir.park(1, 55.0)];
    server.has_parked("p", 2).await;
    // While a round waits for the first one's row, work and another claim gather for the next.
    let sql = server.database.client().await;
    sql.batch_execute("BEGIN; SELECT FROM agents WHERE name = '0' FOR UPDATE")
        .await
        .expect("its row is locked");
    let new = server.session("p").await.id;
    eventually("a round waits for the row", || async {
        count(&server, WAIT_FOR_LOCKS).await > 0
    })
    .await;
    let parked = stranger.park(1, 55.0);
    let claims = "SELECT claim_number FROM agents WHERE name = 'a'";
    eventually("the stranger claims", || async {
        count(&server, claims).await == 1
    })
    .await;
    server
        .client
        .deregister_agent("c", Some(leaving.incarnation), false)
        .await
        .expect("204");
    sql.batch_execute("COMMIT").await.expect("it is free");
    let mut given = Vec::new();
    for poll in waiting {
        let claimed = poll.await.expect("the task").expect("it may claim");
        given.extend(
            claimed
                .assignments
                .into_iter()
                .map(|a| (a.session.id, a.action)),
        );
    }
    assert_eq!(given, [(new, Action::Start), (session, Action::Adopt)]);
    assert!(!parked.is_finished());
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_loss_that_nobody_acknowledges_lasts_until_the_old_lease_has_run_out() {
    let server = server_with(|pool| pool.start_timeout_seconds = 1.0).await;
    let hangs = server.agent("a", "p", "d", 1).await;
    let hanging = hangs.keep_beating(0.4);
    let session = server.session("p").await;
    let start = hangs.claim(1, 5.0).await.remove(0);
    hangs.accepts(&start, ReportedState::Starting).await;
    let other = server.agent("b", "p", "d", 1).await;
    let beating = other.keep_beating(0.4);
    let given = other.claim(1, 30.0).await.remove(0);
    assert_eq!(
        (given.session.id, given.action, given.lease_epoch),
        (session.id, Action::Start, start.lease_epoch + 1)
    );
    other.accepts(&given, ReportedState::Running).await;
    // Not before the lease that it had when the session was taken was over, though it lives on.
    let early = "SELECT count(*) FROM lease_ledger l JOIN lost_holds h USING (session_id)
        WHERE l.agent = 'b' AND h.agent = 'a' AND l.offered_at < h.lease_expires_at";
    assert_eq!(count(&server, early).await, 0);
    let kept = "SELECT count(*) FROM lost_holds WHERE agent = 'a'";
    assert_eq!(count(&server, kept).await, 1);
    assert!(!is_expired(&server, "a").await);
    let late = hangs.reports(&start, ReportedState::Running).await;
    assert_eq!(late.outcome, Outcome::Fenced);
    the_books_agree(&server).await;
    hanging.abort();
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn what_is_given_back_to_an_agent_is_not_told_to_it_as_lost() {
    let server = server_with(|pool| {
        pool.start_timeout_seconds = 1.0;
        pool.accept_timeout_seconds = 1.0;
    })
    .await;
    let agent = server.agent("a", "p", "d", 1).await;
    let beating = agent.keep_beating(0.4);
    let session = server.session("p").await;
    let start = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&start, ReportedState::Starting).await;
    is_told_lost(&agent, session.id).await;
    let mut claimed = agent.try_claim(1, 20.0).await.expect("it may claim");
    while claimed.assignments.is_empty() {
        claimed = agent.try_claim(1, 20.0).await.expect("it may claim");
    }
    assert_eq!(claimed.assignments[0].session.id, session.id);
    assert!(claimed.assignments[0].lease_epoch > start.lease_epoch);
    assert!(claimed.lost.is_empty(), "{:?}", claimed.lost);
    agent
        .accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    assert!(agent.beat().await.expect("it beats").lost.is_empty());
    the_books_agree(&server).await;
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn an_acknowledgment_frees_only_what_was_taken_from_that_agent() {
    let server = server_with(|pool| {
        pool.start_timeout_seconds = 1.0;
        pool.backoff_initial_seconds = 0.0;
    })
    .await;
    let first = server.agent("a", "p", "d", 1).await;
    let first_beats = first.keep_beating(0.4);
    let session = server.session("p").await;
    let start = first.claim(1, 5.0).await.remove(0);
    first.accepts(&start, ReportedState::Starting).await;
    // The first one never acknowledges; its lease of then runs out, and the second one hangs too.
    let second = server.agent("b", "p", "d", 1).await;
    let second_beats = second.keep_beating(0.4);
    let next = second.claim(1, 30.0).await.remove(0);
    assert_eq!(next.session.id, session.id);
    second.accepts(&next, ReportedState::Starting).await;
    is_told_lost(&second, session.id).await;
    acknowledge(&first, &start).await;
    let held_back = "SELECT count(*) FROM sessions WHERE held_back_until IS NOT NULL";
    assert_eq!(count(&server, held_back).await, 1);
    acknowledge(&second, &next).await;
    assert_eq!(count(&server, held_back).await, 0);
    the_books_agree(&server).await;
    first_beats.abort();
    second_beats.abort();
    server.stop().await;
}

#[tokio::test]
async fn a_hanging_end_goes_from_agent_to_agent_and_is_never_a_dead_letter() {
    let server = server_with(|pool| {
        pool.lease_ttl_seconds = 60.0;
        pool.terminate_timeout_seconds = 1.0;
        pool.max_attempts = 1;
        pool.backoff_initial_seconds = 0.1;
        pool.backoff_max_seconds = 0.2;
    })
    .await;
    let agents = [
        server.agent("a", "p", "d", 1).await,
        server.agent("b", "p", "d", 1).await,
    ];
    let session = server.session("p").await;
    agents[0].runs_one().await;
    delete(&server, session.id).await;
    let mut work = agents[0].claim(1, 5.0).await.remove(0);
    for turn in 0..3 {
        let (agent, other) = (&agents[turn % 2], &agents[(turn + 1) % 2]);
        assert_eq!(
            (work.session.id, work.action),
            (session.id, Action::Terminate)
        );
        agent.accepts(&work, ReportedState::Terminating).await;
        is_told_lost(agent, session.id).await;
        let late = agent.reports(&work, ReportedState::Terminated).await;
        assert_eq!(late.outcome, Outcome::Fenced, "{late:?}");
        let now = server.get(session.id).await;
        assert_eq!(
            (now.state, now.assigned_agent_id),
            (SessionState::Terminating, None)
        );
        assert!(other.claim(1, 0.0).await.is_empty());
        acknowledge(agent, &work).await;
        let epoch = work.lease_epoch;
        work = other.claim(1, 20.0).await.remove(0);
        assert_eq!(work.lease_epoch, epoch + 1);
    }
    agents[1].accepts(&work, ReportedState::Terminated).await;
    assert_eq!(server.get(session.id).await.state, SessionState::Terminated);
    let reasons: Vec<_> = ledger(&server, session.id)
        .await
        .into_iter()
        .filter_map(|item| item.end_reason)
        .collect();
    let timed_out = EndReason::TimedOut;
    assert_eq!(
        reasons,
        [timed_out, timed_out, timed_out, EndReason::Terminated]
    );
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_start_that_hangs_each_time_is_a_dead_letter_in_the_end() {
    let server = server_with(|pool| {
        pool.start_timeout_seconds = 1.0;
        pool.accept_timeout_seconds = 1.0;
        pool.max_attempts = 1;
    })
    .await;
    let agent = server.agent("a", "p", "d", 1).await;
    let beating = agent.keep_beating(0.4);
    let session = server.session("p").await;
    let start = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&start, ReportedState::Starting).await;
    let dead = server.reaches(session.id, SessionState::Failed).await;
    assert_eq!(dead.failure.expect("a failure").reason, "timed_out");
    is_told_lost(&agent, session.id).await;
    assert_eq!(ends(&server, session.id).await, [Some(EndReason::TimedOut)]);
    // Its end is still for its domain to see to.
    delete(&server, session.id).await;
    let mut work = agent.claim(1, 20.0).await;
    while work.is_empty() {
        work = agent.claim(1, 20.0).await;
    }
    assert_eq!(work[0].action, Action::Terminate);
    agent.accepts(&work[0], ReportedState::Terminated).await;
    assert_eq!(server.get(session.id).await.state, SessionState::Terminated);
    the_books_agree(&server).await;
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_beats_keeps_what_it_holds() {
    let server = server_with(|pool| pool.lease_ttl_seconds = 2.0).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let silent = server.agent("b", "p", "d", 1).await;
    let beating = agent.keep_beating(0.3);
    let session = server.session("p").await;
    agent.runs_one().await;
    eventually("the silent one expires", || is_expired(&server, "b")).await;
    assert!(!is_expired(&server, "a").await);
    let now = server.get(session.id).await;
    assert_eq!(now.assigned_agent_id.as_deref(), Some("a"));
    assert_eq!(ends(&server, session.id).await, [None]);
    assert_eq!(refused(silent.beat().await), ProblemCode::LeaseExpired);
    beating.abort();
    server.stop().await;
}

/// However a lease ended: what is assigned to an agent that is not live is found.
#[tokio::test]
async fn a_session_whose_agent_is_not_live_is_found_by_the_sweep() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await.id;
    agent.runs_one().await;
    let heir = server.agent("b", "p", "d", 1).await;
    let sql = server.database.client().await;
    let ended = "UPDATE agents SET live = false, expired_at = now() WHERE name = 'a'";
    assert_eq!(sql.execute(ended, &[]).await.expect("its lease"), 1);
    let adopted = heir.claim(1, 40.0).await;
    assert_eq!(adopted.len(), 1);
    assert_eq!(
        (adopted[0].session.id, adopted[0].action),
        (session, Action::Adopt)
    );
    assert_eq!(
        ends(&server, session).await,
        [Some(EndReason::LeaseExpired), None]
    );
    the_books_agree(&server).await;
    server.stop().await;
}

/// A renewal that was begun before the lease ended, and is committed after it: it counts.
#[tokio::test]
async fn a_beat_that_is_being_written_wins_over_the_expiry() {
    let server = server_with(|pool| pool.lease_ttl_seconds = 2.0).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await;
    agent.runs_one().await;
    server.agent("b", "p", "d", 1).await;
    let ends_at = "SELECT (extract(epoch FROM max(lease_expires_at)) * 1000)::bigint FROM agents";
    let ends_at = count(&server, ends_at).await;
    let sql = server.database.client().await;
    sql.batch_execute(
        "BEGIN; UPDATE agents SET lease_expires_at = now() + interval '1 hour' WHERE name = 'a'",
    )
    .await
    .expect("its row is held");
    let passed = format!(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000 > {ends_at} + 1500)::int::bigint"
    );
    eventually("the lease that is seen outside has ended", || async {
        count(&server, &passed).await == 1
    })
    .await;
    sql.batch_execute("COMMIT").await.expect("it is renewed");
    eventually("the silent one expires", || is_expired(&server, "b")).await;
    assert!(!is_expired(&server, "a").await);
    agent.beat().await.expect("its lease holds");
    assert_eq!(ends(&server, session.id).await, [None]);
    server.stop().await;
}

#[tokio::test]
async fn a_parked_poll_ends_with_what_was_taken() {
    let server = server_with(|pool| {
        pool.lease_ttl_seconds = 60.0;
        pool.terminate_timeout_seconds = 1.0;
        pool.accept_timeout_seconds = 1.0;
    })
    .await;
    let agent = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await;
    agent.runs_one().await;
    delete(&server, session.id).await;
    let end = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&end, ReportedState::Terminating).await;
    let began = Instant::now();
    let told = agent.try_claim(1, 50.0).await.expect("it may claim");
    assert_eq!(told.lost, [session.id]);
    assert!(told.assignments.is_empty());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // Acknowledged with the next claim; then, since nobody else is there, it is its again.
    let mut body = agent.claim_body(1, 0.0);
    body.dropped = TestAgent::held(std::slice::from_ref(&end));
    let next = server.client.claim("a", &body).await.expect("it may claim");
    assert!(next.lost.is_empty(), "{next:?}");
    let again = agent.claim(1, 50.0).await.remove(0);
    assert_eq!(
        (again.session.id, again.action),
        (session.id, Action::Terminate)
    );
    assert!(again.lease_epoch > end.lease_epoch);
    agent.accepts(&again, ReportedState::Terminated).await;
    the_books_agree(&server).await;
    server.stop().await;
}
