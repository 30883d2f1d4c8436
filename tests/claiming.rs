//! Claims: who gets which session, and how soon.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use lessor_protocol::{
    Action, CordonRequest, DesiredState, EndReason, NewSession, Outcome, Placement, ProblemCode,
    ReportCode, ReportedFailure, ReportedState, Scheduling, SessionPatch, SessionState,
};

use crate::support::checks::{WAIT_FOR_LOCKS, count, ends, ledger, refused, the_books_agree};
use crate::support::{TestAgent, TestServer, database, eventually, report};

#[tokio::test]
async fn a_session_goes_from_post_to_running_to_terminated() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 2).await;
    let session = server.session("p").await;
    let assignment = agent.runs_one().await;
    assert_eq!(
        (assignment.action, assignment.session.id),
        (Action::Start, session.id)
    );
    assert_eq!(server.get(session.id).await.state, SessionState::Running);
    server
        .client
        .delete_session(&session.id.to_string(), &Default::default())
        .await
        .expect("202");
    let end = agent.claim(0, 5.0).await.pop().expect("its end is told");
    assert_eq!(end.action, Action::Terminate);
    agent.accepts(&end, ReportedState::Terminated).await;
    assert_eq!(server.get(session.id).await.state, SessionState::Terminated);
    server.stop().await;
}

#[tokio::test]
async fn a_session_posted_while_an_agent_is_parked_reaches_it_at_once() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 20).await;
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let parked = agent.park(1, 20.0);
        server.has_parked("p", 1).await;
        let posted = Instant::now();
        let session = server.session("p").await;
        let claimed = parked.await.expect("the task").expect("it may claim");
        let took = posted.elapsed();
        assert_eq!(claimed.assignments[0].session.id, session.id);
        assert!(took < Duration::from_secs(1), "took {took:?}");
        fastest = fastest.min(took);
        let accepted = &claimed.assignments[0];
        agent.accepts(accepted, ReportedState::Running).await;
    }
    // Whatever else the machine does, one of ten is not held up by it: nothing here waits for a turn of
    // anything. This is a debug build.
    assert!(fastest < Duration::from_millis(50), "took {fastest:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_session_wakes_one_of_two_hundred_parked_agents_in_one_round() {
    wakes_one_each(false).await;
}

#[tokio::test]
async fn a_session_posted_to_another_server_wakes_one_of_two_hundred_parked_agents_in_one_round() {
    wakes_one_each(true).await;
}

/// Two sessions one after the other, perhaps at another server than the two hundred polls: each takes one
/// round, which looks at one agent.
async fn wakes_one_each(at_another: bool) {
    let server = TestServer::start().await;
    let other = server.beside().await;
    let posting = if at_another { &other } else { &server };
    server.pool("p", |_| {}).await;
    let mut polls = Vec::new();
    for n in 0..200 {
        let agent = server.agent(&format!("a{n:03}"), "p", "d", 1).await;
        polls.push((agent.name.clone(), agent.park(1, 50.0)));
    }
    let sql = server.database.client().await;
    server.has_parked("p", 200).await;
    // A safety poll that comes between a session's commit and its notification finds the session, and what was
    // notified of is then looked for once more. It comes each 3.75 s at most: hardly thrice in a row.
    let (mut seen, mut posted) = (Vec::new(), BTreeSet::new());
    while seen.len() < 3 && !seen.contains(&(2.0, 2)) {
        let before = server.metric("lessor_claim_statements_total").await;
        // A row that is locked or written has another version or another locker than before.
        sql.batch_execute(
            "DROP TABLE IF EXISTS seen;
             CREATE TEMP TABLE seen AS SELECT name, ctid AS at, xmax::text AS locker FROM agents",
        )
        .await
        .expect("a copy");
        // What the first may have set off at the dispatcher beside its own round is over with the second's.
        for _ in 0..2 {
            posted.insert(posting.session("p").await.id);
            server.has_parked("p", 200 - posted.len()).await;
        }
        let after = server.metric("lessor_claim_statements_total").await;
        let looked_at = "SELECT count(*) FROM agents a JOIN seen s USING (name)
            WHERE a.ctid <> s.at OR a.xmax::text <> s.locker";
        let looked_at: i64 = sql.query_one(looked_at, &[]).await.expect("a count").get(0);
        seen.push((after - before, looked_at));
    }
    assert_eq!(
        seen.last(),
        Some(&(2.0, 2)),
        "rounds and agents' rows: {seen:?}"
    );
    server.stop().await;
    other.stop().await;
    let mut given = Vec::new();
    for (agent, poll) in polls {
        let claimed = poll.await.expect("the task").expect("it may claim");
        given.extend(claimed.assignments.into_iter().map(|a| (agent.clone(), a)));
    }
    assert_eq!(given.len(), posted.len(), "{given:#?}");
    for (agent, assignment) in &given {
        assert!(posted.remove(&assignment.session.id), "{given:#?}");
        assert_eq!(assignment.session.assigned_agent_id.as_ref(), Some(agent));
    }
}

/// Posts 30 sessions one by one over three parked agents, and counts what each gets.
async fn thirty_over_three(placement: Placement) -> Vec<usize> {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.placement = placement).await;
    let mut agents = Vec::new();
    for name in ["a", "b", "c"] {
        agents.push(server.agent(name, "p", "d", 20).await);
    }
    let mut polls: Vec<_> = agents.iter().map(|agent| agent.park(1, 50.0)).collect();
    let mut got = vec![0; 3];
    for _ in 0..30 {
        server.has_parked("p", 3).await;
        server.session("p").await;
        let (claimed, index, _) = select_all(polls.iter_mut()).await;
        let claimed = claimed.expect("the task").expect("it may claim");
        assert_eq!(claimed.assignments.len(), 1);
        got[index] += 1;
        let agent = &agents[index];
        agent
            .accepts(&claimed.assignments[0], ReportedState::Running)
            .await;
        polls[index] = agent.park(1, 50.0);
    }
    the_books_agree(&server).await;
    server.stop().await;
    got
}

#[tokio::test]
async fn spread_evens_thirty_sessions_out() {
    assert_eq!(thirty_over_three(Placement::Spread).await, [10, 10, 10]);
}

#[tokio::test]
async fn pack_fills_one_agent_before_the_next() {
    assert_eq!(thirty_over_three(Placement::Pack).await, [20, 10, 0]);
}

#[tokio::test]
async fn a_full_agent_parks_and_gets_the_next_session_when_a_slot_is_free() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    server.session("p").await;
    let first = agent.runs_one().await;
    let second = server.session("p").await;
    assert!(agent.claim(1, 0.0).await.is_empty());
    let parked = agent.park(1, 50.0);
    server.has_parked("p", 1).await;
    // Its resource ended by itself; the report goes beside the poll.
    let ended = Instant::now();
    agent.accepts(&first, ReportedState::Terminated).await;
    let claimed = parked.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments.len(), 1);
    assert_eq!(claimed.assignments[0].session.id, second.id);
    assert!(
        ended.elapsed() < Duration::from_secs(3),
        "{:?}",
        ended.elapsed()
    );
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_claim_for_no_sessions_gets_only_work_on_what_is_held() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 5).await;
    server.session("p").await;
    let held = agent.runs_one().await;
    let waiting = server.session("p").await;
    assert!(agent.claim(0, 0.0).await.is_empty());
    let patch = SessionPatch {
        desired_state: Some(DesiredState::Hibernated),
        ..SessionPatch::default()
    };
    server
        .client
        .patch_session(&held.session.id.to_string(), &patch)
        .await
        .expect("it may hibernate");
    let work = agent.claim(0, 5.0).await;
    assert_eq!(work.len(), 1);
    assert_eq!(
        (work[0].session.id, work[0].action),
        (held.session.id, Action::Hibernate)
    );
    agent.accepts(&work[0], ReportedState::Hibernated).await;
    assert!(agent.claim(0, 0.0).await.is_empty());
    assert_eq!(server.get(waiting.id).await.state, SessionState::Pending);
    assert_eq!(server.get(waiting.id).await.lease_epoch, 0);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_told_again_comes_first_and_counts_within_max_sessions() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 9).await;
    server.sessions("p", 6).await;
    let offered = agent.claim(3, 5.0).await;
    assert_eq!(offered.len(), 3);
    let known = |given: &lessor_protocol::Assignment| {
        offered
            .iter()
            .any(|o| (o.session.id, o.lease_epoch) == (given.session.id, given.lease_epoch))
    };
    // Three are to be told again, and there is room for two.
    let again = agent.claim(2, 5.0).await;
    assert_eq!(again.len(), 2, "{again:#?}");
    assert!(again.iter().all(known), "{again:#?}");
    for told in &again {
        agent.accepts(told, ReportedState::Starting).await;
    }
    // One is still to be told again; the place that is left goes to a new one.
    let next = agent.claim(2, 5.0).await;
    assert_eq!(next.len(), 2, "{next:#?}");
    assert_eq!(next.iter().filter(|given| known(given)).count(), 1);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_was_not_reported_on_is_told_again_at_once_and_then_after_1_and_2_seconds() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.accept_timeout_seconds = 60.0)
        .await;
    let agent = server.agent("a", "p", "d", 2).await;
    let session = server.session("p").await;
    let first = agent.claim(1, 0.0).await.remove(0);
    let other = server.session("p").await;
    // It counts first within max_sessions.
    let again = agent.claim(1, 0.0).await;
    let told = Instant::now();
    assert_eq!(again.len(), 1);
    assert_eq!(
        (again[0].session.id, again[0].lease_epoch, again[0].action),
        (session.id, first.lease_epoch, Action::Start)
    );
    // Not again before its time: there is room for the other one.
    let next = agent.claim(1, 0.0).await;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].session.id, other.id);
    agent.accepts(&next[0], ReportedState::Starting).await;
    assert!(agent.claim(1, 0.0).await.is_empty());
    let third = agent.claim(1, 20.0).await;
    let after = told.elapsed().as_secs_f64();
    let told = Instant::now();
    assert_eq!(third[0].session.id, session.id);
    assert!((0.9..3.0).contains(&after), "after {after} s");
    let fourth = agent.claim(1, 20.0).await;
    let after = told.elapsed().as_secs_f64();
    assert_eq!(fourth[0].session.id, session.id);
    assert_eq!(fourth[0].lease_epoch, first.lease_epoch);
    assert!((1.9..4.0).contains(&after), "after {after} s");
    // The version rises with events alone, not with being told again.
    assert_eq!(fourth[0].session.version, first.session.version);
    agent.accepts(&fourth[0], ReportedState::Running).await;
    assert!(agent.claim(1, 0.0).await.is_empty());
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn the_newest_claim_wins_on_one_server() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 2).await;
    let older = agent.park(1, 50.0);
    server.has_parked("p", 1).await;
    let newer = agent.park(1, 50.0);
    let refusal = refused(older.await.expect("the task"));
    assert_eq!(refusal, ProblemCode::ClaimSuperseded);
    let session = server.session("p").await;
    let claimed = newer.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, session.id);
    server.stop().await;
}

#[tokio::test]
async fn the_newest_claim_wins_across_servers() {
    let server = TestServer::start().await;
    let beside = server.beside().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 2).await;
    let older = agent.park(1, 50.0);
    server.has_parked("p", 1).await;
    let newer = agent.at(&beside).park(1, 50.0);
    let began = Instant::now();
    let refusal = refused(older.await.expect("the task"));
    assert_eq!(refusal, ProblemCode::ClaimSuperseded);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // Posted at the server whose claim was superseded: the other one hears of it.
    let session = server.session("p").await;
    let claimed = newer.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, session.id);
    beside.stop().await;
    server.stop().await;
}

/// What another server has written about an agent, while this one has heard nothing of it.
#[tokio::test]
async fn a_parked_claim_is_judged_by_the_agents_row_as_it_is_now() {
    let server = TestServer::start().await;
    let sql = server.database.client().await;
    for (pool, change, refusal) in [
        (
            "expired",
            "live = false, expired_at = now()",
            Some(ProblemCode::LeaseExpired),
        ),
        (
            "superseded",
            "incarnation = incarnation + 1",
            Some(ProblemCode::AgentSuperseded),
        ),
        (
            "claimed-again",
            "claim_number = claim_number + 1",
            Some(ProblemCode::ClaimSuperseded),
        ),
        ("cordoned", "cordoned = true, cordon_since = now()", None),
    ] {
        server.pool(pool, |_| {}).await;
        let agent = server.agent(pool, pool, "d", 2).await;
        let parked = agent.park(1, 50.0);
        server.has_parked(pool, 1).await;
        let update = format!("UPDATE agents SET {change} WHERE name = '{pool}'");
        assert_eq!(sql.execute(&update, &[]).await.expect(pool), 1);
        let session = server.session(pool).await;
        let answer = parked.await.expect("the task");
        match refusal {
            Some(refusal) => assert_eq!(refused(answer), refusal),
            None => {
                let told = answer.expect("it may claim");
                assert_eq!(told.scheduling, Scheduling::Cordoned);
                assert!(told.assignments.is_empty(), "{told:?}");
            }
        }
        // Nor was it offered the session for a moment.
        assert!(ledger(&server, session.id).await.is_empty(), "{pool}");
    }
    server.stop().await;
}

/// Dispatchers of several servers do not wait for each other's sessions.
#[tokio::test]
async fn a_session_that_somebody_else_is_changing_stands_in_nobodys_way() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let leaving = server.agent("z", "p", "d", 2).await;
    server.sessions("p", 2).await;
    let running = [leaving.runs_one().await, leaving.runs_one().await];
    let goodbye = server
        .client
        .deregister_agent("z", Some(leaving.incarnation), false)
        .await;
    goodbye.expect("204");
    let waiting = server.sessions("p", 2).await;
    let sql = server.database.client().await;
    let lock = async |id: uuid::Uuid| {
        let lock = format!("BEGIN; SELECT FROM sessions WHERE id = '{id}' FOR UPDATE");
        sql.batch_execute(&lock).await.expect("its row is locked");
    };
    let agent = server.agent("a", "p", "d", 9).await;
    for [first, second] in [
        [running[0].session.id, running[1].session.id],
        [waiting[0].id, waiting[1].id],
    ] {
        lock(first).await;
        let given = agent.claim(1, 0.0).await;
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].session.id, second);
        // Nor does one that the agent itself is to be told of again.
        sql.batch_execute("COMMIT").await.expect("it is free");
        lock(second).await;
        let given = agent.claim(1, 0.0).await;
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].session.id, first);
        sql.batch_execute("COMMIT").await.expect("it is free");
        for _ in 0..2 {
            let told = agent.claim(1, 5.0).await.remove(0);
            agent.accepts(&told, ReportedState::Running).await;
        }
    }
    the_books_agree(&server).await;
    server.stop().await;
}

/// Changes that nobody was told of are found by a look of the dispatcher's own.
#[tokio::test]
async fn a_notification_that_is_lost_delays_work_and_no_more() {
    let server = TestServer::start().await;
    let sql = server.database.client().await;
    for pool in ["start", "adopt", "held", "superseded"] {
        server.pool(pool, |_| {}).await;
    }
    let holder = server.agent("holder", "held", "d", 1).await;
    let held = server.session("held").await.id;
    // A claim that does not wait, so that no timer of its own comes later.
    let given = holder.claim(1, 0.0).await.remove(0);
    holder.accepts(&given, ReportedState::Running).await;
    let gone = server.agent("gone", "adopt", "d", 1).await;
    let orphan = server.session("adopt").await.id;
    gone.runs_one().await;
    let starter = server.agent("starter", "start", "d", 1).await;
    let heir = server.agent("heir", "adopt", "d", 1).await;
    let older = server.agent("older", "superseded", "d", 1).await;
    let polls = [&starter, &heir, &holder, &older].map(|agent| agent.park(1, 50.0));
    for pool in ["start", "adopt", "held", "superseded"] {
        server.has_parked(pool, 1).await;
    }
    sql.batch_execute(&format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             created_at, updated_at, queued_at)
         VALUES (gen_random_uuid(), 'start', 'process', '{{}}', 'running', 'pending', 'on_failure',
             now(), now(), now());
         UPDATE sessions SET assigned_agent_id = NULL, assigned_incarnation = NULL,
             assigned_action = NULL, deliver_at = NULL, phase_deadline_at = NULL
         WHERE id = '{orphan}';
         UPDATE sessions SET desired_state = 'hibernated', generation = generation + 1,
             deliver_at = now(), deliveries = 0 WHERE id = '{held}';
         UPDATE agents SET claim_number = claim_number + 1 WHERE name = 'older'"
    ))
    .await
    .expect("it changes");
    let began = Instant::now();
    let [started, adopted, told, superseded] = polls;
    for (poll, action, id) in [
        (started, Action::Start, None),
        (adopted, Action::Adopt, Some(orphan)),
        (told, Action::Hibernate, Some(held)),
    ] {
        let claimed = poll.await.expect("the task").expect("it may claim");
        assert_eq!(claimed.assignments.len(), 1, "{action}");
        let given = &claimed.assignments[0];
        assert_eq!(given.action, action);
        assert!(id.is_none_or(|id| given.session.id == id));
    }
    let refusal = refused(superseded.await.expect("the task"));
    assert_eq!(refusal, ProblemCode::ClaimSuperseded);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    server.stop().await;
}

/// After the database was restored from a copy, no number is given out a second time.
#[tokio::test]
async fn epochs_and_incarnations_do_not_fall_below_the_floor() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let mut agent = server.agent("a", "p", "d", 2).await;
    server.session("p").await;
    let held = agent.runs_one().await;
    let sql = server.database.client().await;
    sql.batch_execute("UPDATE fences SET lease_epoch_floor = 5000, incarnation_floor = 7000")
        .await
        .expect("the floor is raised");
    let registered = agent.restart(&TestAgent::held(&[held])).await;
    assert_eq!(registered.incarnation, 7000);
    assert_eq!(registered.keep[0].lease_epoch, 5000);
    server.session("p").await;
    assert_eq!(agent.claim(1, 5.0).await[0].lease_epoch, 5000);
    // And above it they rise as ever.
    let registered = agent.restart(&registered.keep).await;
    assert_eq!(registered.incarnation, 7001);
    assert_eq!(registered.keep[0].lease_epoch, 5001);
    server.stop().await;
}

#[tokio::test]
async fn a_claim_waits_for_an_expiry_that_is_being_written() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 2).await;
    let parked = agent.park(1, 50.0);
    server.has_parked("p", 1).await;
    let sql = server.database.client().await;
    sql.batch_execute("BEGIN; UPDATE agents SET live = false, expired_at = now() WHERE name = 'a'")
        .await
        .expect("its row is locked");
    let session = server.session("p").await;
    eventually("the claim waits for the row", || async {
        count(&server, WAIT_FOR_LOCKS).await > 0
    })
    .await;
    sql.batch_execute("COMMIT").await.expect("it has expired");
    let refusal = refused(parked.await.expect("the task"));
    assert_eq!(refusal, ProblemCode::LeaseExpired);
    assert!(ledger(&server, session.id).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_lapsed_offer_goes_to_another_agent_though_the_first_is_parked_and_emptier() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.accept_timeout_seconds = 1.5)
        .await;
    let (a, b) = (
        server.agent("a", "p", "d", 10).await,
        server.agent("b", "p", "d", 10).await,
    );
    server.session("p").await;
    b.runs_one().await;
    let session = server.session("p").await;
    let offered = a.claim(1, 0.0).await.remove(0);
    assert_eq!(offered.session.id, session.id);
    // Told again at once and after a second; then the next repetition would come after the lapse.
    assert_eq!(a.claim(1, 0.0).await.len(), 1);
    assert_eq!(a.claim(1, 5.0).await.len(), 1);
    let waiting = a.park(1, 50.0);
    let other = b.park(1, 50.0);
    let claimed = other.await.expect("the task").expect("it may claim");
    let given = &claimed.assignments[0];
    assert_eq!(given.session.id, session.id);
    assert_eq!(given.lease_epoch, offered.lease_epoch + 1);
    assert_eq!(given.session.attempt, offered.session.attempt);
    b.accepts(given, ReportedState::Running).await;
    let late = a.reports(&offered, ReportedState::Starting).await;
    assert_eq!(
        (late.outcome, late.code),
        (Outcome::Fenced, Some(ReportCode::LeaseEpochStale))
    );
    assert_eq!(
        ends(&server, session.id).await,
        [Some(EndReason::OfferLapsed), None]
    );
    assert!(!waiting.is_finished());
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_lapsed_offer_comes_back_to_the_only_agent() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.accept_timeout_seconds = 1.0)
        .await;
    let agent = server.agent("a", "p", "d", 10).await;
    let session = server.session("p").await;
    let offered = agent.claim(1, 0.0).await.remove(0);
    eventually("the offer lapses", || async {
        server.get(session.id).await.assigned_agent_id.is_none()
    })
    .await;
    let again = agent.claim(1, 20.0).await.remove(0);
    assert_eq!(again.session.id, session.id);
    assert_eq!(again.lease_epoch, offered.lease_epoch + 1);
    assert_eq!(again.session.attempt, offered.session.attempt);
    agent.accepts(&again, ReportedState::Running).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn three_lapses_in_a_row_pass_an_agent_over() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.accept_timeout_seconds = 1.0;
            pool.backoff_initial_seconds = 4.0;
        })
        .await;
    let a = server.agent("a", "p", "d", 10).await;
    let b = server.agent("b", "p", "d", 10).await;
    server.session("p").await;
    b.runs_one().await;
    for _ in 0..3 {
        let session = server.session("p").await;
        assert_eq!(a.claim(1, 5.0).await[0].session.id, session.id);
        eventually("the offer lapses", || async {
            server.get(session.id).await.assigned_agent_id.is_none()
        })
        .await;
        let id = session.id.to_string();
        let ended = server.client.delete_session(&id, &Default::default()).await;
        assert_eq!(ended.expect("202").state, SessionState::Terminated);
    }
    let passed_over = Instant::now();
    let waiting = a.park(1, 50.0);
    let other = b.park(1, 50.0);
    server.has_parked("p", 2).await;
    let posted = Instant::now();
    let session = server.session("p").await;
    // The emptier one is passed over, and that does not keep the session from the other.
    let claimed = other.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, session.id);
    assert!(
        posted.elapsed() < Duration::from_secs(1),
        "{:?}",
        posted.elapsed()
    );
    b.accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    let next = server.session("p").await;
    let claimed = waiting.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, next.id);
    let waited = passed_over.elapsed().as_secs_f64();
    assert!((2.0..10.0).contains(&waited), "passed over for {waited} s");
    // An acceptance ends the row.
    a.accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    let more = server.session("p").await;
    assert_eq!(a.claim(1, 5.0).await[0].session.id, more.id);
    eventually("the offer lapses", || async {
        server.get(more.id).await.assigned_agent_id.is_none()
    })
    .await;
    let in_a_row = "SELECT offers_lapsed::bigint FROM agents
        WHERE name = 'a' AND coalesce(passed_over_until, now()) <= now()";
    assert_eq!(count(&server, in_a_row).await, 1);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn lapses_pass_an_agent_over_for_longer_each_time_and_an_acceptance_ends_that() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.accept_timeout_seconds = 1.0;
            pool.backoff_initial_seconds = 100.0;
            pool.backoff_max_seconds = 1_000.0;
        })
        .await;
    let sql = server.database.client().await;
    // The sixth lapse in a row, and one that the pool's longest pause cuts short.
    for (name, before, pause) in [("a", 5, 800), ("b", 20, 1_000)] {
        let agent = server.agent(name, "p", "d", 2).await;
        let session = server.session("p").await;
        assert_eq!(agent.claim(1, 5.0).await.len(), 1);
        let set = format!("UPDATE agents SET offers_lapsed = {before} WHERE name = '{name}'");
        assert_eq!(sql.execute(&set, &[]).await.expect("its lapses"), 1);
        eventually("the offer lapses", || async {
            server.get(session.id).await.assigned_agent_id.is_none()
        })
        .await;
        let left = format!(
            "SELECT extract(epoch FROM passed_over_until - now())::bigint FROM agents
             WHERE name = '{name}'"
        );
        let left = count(&server, &left).await;
        assert!((pause - 60..=pause).contains(&left), "{name}: {left} s");
        let id = session.id.to_string();
        let ended = server.client.delete_session(&id, &Default::default()).await;
        assert_eq!(ended.expect("202").state, SessionState::Terminated);
    }
    let agent = server.agent("c", "p", "d", 2).await;
    server.session("p").await;
    let offered = agent.claim(1, 5.0).await.remove(0);
    let set = "UPDATE agents SET offers_lapsed = 3, passed_over_until = now() + interval '1 hour'
        WHERE name = 'c'";
    assert_eq!(sql.execute(set, &[]).await.expect("its lapses"), 1);
    let next = server.session("p").await;
    agent.accepts(&offered, ReportedState::Running).await;
    assert_eq!(agent.claim(1, 5.0).await[0].session.id, next.id);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_held_is_told_again_at_the_latest_at_the_accept_timeout() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.accept_timeout_seconds = 30.0)
        .await;
    let agent = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await;
    agent.runs_one().await;
    let id = session.id.to_string();
    let ended = server.client.delete_session(&id, &Default::default()).await;
    assert_eq!(ended.expect("202").state, SessionState::Running);
    assert_eq!(agent.claim(1, 5.0).await.len(), 1);
    let sql = server.database.client().await;
    sql.batch_execute("UPDATE sessions SET deliveries = 12, deliver_at = now()")
        .await
        .expect("it was told often");
    assert_eq!(agent.claim(1, 5.0).await.len(), 1);
    let pause = "SELECT extract(epoch FROM deliver_at - now())::bigint FROM sessions";
    let pause = count(&server, pause).await;
    assert!((10..=30).contains(&pause), "{pause} s");
    server.stop().await;
}

#[tokio::test]
async fn a_report_on_an_older_generation_acknowledges_nothing() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 2).await;
    server.session("p").await;
    let start = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&start, ReportedState::Starting).await;
    let id = start.session.id;
    let patch = SessionPatch {
        desired_state: Some(DesiredState::Hibernated),
        ..SessionPatch::default()
    };
    let patched = server.client.patch_session(&id.to_string(), &patch).await;
    assert_eq!(patched.expect("it may").generation, start.generation + 1);
    // What it saw before it heard of that is taken, and it is told all the same.
    let mut seen = report(&start, ReportedState::Starting);
    seen.platform_resource_id = Some(Some("seen".to_owned()));
    let results = agent.try_report(vec![seen]).await.expect("an answer");
    assert_eq!(results[0].outcome, Outcome::Accepted);
    let now = server.get(id).await;
    assert_eq!(now.platform_resource_id.as_deref(), Some("seen"));
    assert_eq!(now.observed_generation, start.generation);
    let told = agent.claim(1, 5.0).await.remove(0);
    assert_eq!(
        (told.session.id, told.action, told.generation),
        (id, Action::Hibernate, start.generation + 1)
    );
    assert_eq!(told.lease_epoch, start.lease_epoch);
    // It came up while that was told: what is wanted forbids nothing that was observed.
    let came_up = agent.accepts(&start, ReportedState::Running).await;
    assert_eq!(came_up.state, Some(SessionState::Running));
    agent.accepts(&told, ReportedState::Hibernated).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn declined_hands_an_offer_back_at_once() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let (a, b) = (
        server.agent("a", "p", "d", 1).await,
        server.agent("b", "p", "d", 1).await,
    );
    let session = server.session("p").await;
    let offered = a.claim(1, 0.0).await.remove(0);
    let other = b.park(1, 50.0);
    server.has_parked("p", 1).await;
    let mut no = report(&offered, ReportedState::Declined);
    no.failure = Some(Some(ReportedFailure {
        reason: "no_gpu".to_owned(),
        message: String::new(),
        exit_code: None,
        retryable: true,
        at: None,
    }));
    let declined = Instant::now();
    let result = a
        .try_report(vec![no])
        .await
        .expect("it may report")
        .remove(0);
    assert_eq!(result.outcome, Outcome::Accepted, "{result:?}");
    let claimed = other.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments[0].session.id, session.id);
    assert!(declined.elapsed() < Duration::from_secs(2));
    b.accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    // A hold cannot be declined any more.
    let late = b
        .reports(&claimed.assignments[0], ReportedState::Declined)
        .await;
    assert_eq!(late.code, Some(ReportCode::TransitionNotAllowed));
    assert_eq!(
        ends(&server, session.id).await,
        [Some(EndReason::Declined), None]
    );
    let events = server
        .client
        .session_events(&session.id.to_string(), &Default::default())
        .await
        .expect("events");
    let told = serde_json::to_string(&events.items).expect("JSON");
    assert!(told.contains("no_gpu"), "{told}");
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_fifth_lapse_in_a_row_counts_an_attempt() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.accept_timeout_seconds = 1.0;
            pool.max_attempts = 1;
        })
        .await;
    let session = server.session("p").await;
    for n in 1..=5 {
        let now = server.get(session.id).await;
        assert_eq!(now.state, SessionState::Pending, "before offer {n}");
        let agent = server.agent(&format!("a{n}"), "p", "d", 1).await;
        assert_eq!(agent.claim(1, 5.0).await[0].session.id, session.id);
        eventually("the offer lapses", || async {
            server.get(session.id).await.assigned_agent_id.is_none()
        })
        .await;
    }
    let dead = server.get(session.id).await;
    assert_eq!(dead.state, SessionState::Failed);
    assert_eq!(dead.failure.expect("a failure").reason, "not_accepted");
    assert_eq!(
        ends(&server, session.id).await,
        [Some(EndReason::OfferLapsed); 5]
    );
    the_books_agree(&server).await;
    server.stop().await;
}

fn new_session(change: impl FnOnce(&mut NewSession)) -> NewSession {
    let mut new =
        NewSession::in_pool("p", &serde_json::json!({"command": ["true"]})).expect("a spec");
    change(&mut new);
    new
}

#[tokio::test]
async fn higher_priority_goes_first_and_then_the_order_of_posting() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 100).await;
    let priorities = [0, 5, 0, -3, 5, 0, 1000, -1000];
    let sessions = priorities
        .iter()
        .map(|priority| new_session(|new| new.priority = *priority))
        .collect();
    let body = lessor_protocol::NewSessions { sessions };
    let mut made = server
        .client
        .create_sessions(&body, None)
        .await
        .expect("they are made")
        .items;
    made.push(server.session("p").await);
    made.push(server.session("p").await);
    made.sort_by_key(|session| -session.priority);
    let expected: Vec<_> = made.iter().map(|session| session.id).collect();
    let mut got = Vec::new();
    // One by one, then several at once: the same order.
    for max_sessions in [1, 1, 1, 10] {
        for assignment in agent.claim(max_sessions, 0.0).await {
            got.push(assignment.session.id);
            agent.accepts(&assignment, ReportedState::Starting).await;
        }
    }
    assert_eq!(got, expected);
    server.stop().await;
}

/// Each kind of work before the next, whatever the priority and however long something waits.
#[tokio::test]
async fn ends_come_before_adoptions_and_so_on_and_starts_last() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let wants = async |id: uuid::Uuid, desired: DesiredState| {
        let patch = SessionPatch {
            desired_state: Some(desired),
            ..SessionPatch::default()
        };
        let id = id.to_string();
        let patched = server.client.patch_session(&id, &patch).await;
        patched.expect("it may change");
    };
    let leaving = server.agent("a", "p", "d", 9).await;
    server.sessions("p", 6).await;
    let held = leaving.claim(6, 5.0).await;
    let [starting, sleeping, dozing, to_sleep, adopted, ended] =
        [0, 1, 2, 3, 4, 5].map(|n: usize| held[n].session.id);
    leaving.accepts(&held[0], ReportedState::Starting).await;
    for given in &held[1..] {
        leaving.accepts(given, ReportedState::Running).await;
    }
    for (id, state) in [
        (sleeping, ReportedState::Hibernated),
        (dozing, ReportedState::Hibernating),
    ] {
        wants(id, DesiredState::Hibernated).await;
        let told = leaving.claim(1, 5.0).await.remove(0);
        assert_eq!(told.session.id, id);
        leaving.accepts(&told, state).await;
    }
    let goodbye = server
        .client
        .deregister_agent("a", Some(leaving.incarnation), false)
        .await;
    goodbye.expect("204");
    wants(sleeping, DesiredState::Running).await;
    wants(dozing, DesiredState::Running).await;
    wants(to_sleep, DesiredState::Hibernated).await;
    let ended_id = ended.to_string();
    let end = server
        .client
        .delete_session(&ended_id, &Default::default())
        .await;
    assert_eq!(end.expect("202").state, SessionState::Running);
    let urgent = new_session(|session| session.priority = 1000);
    let urgent = server.client.create_session(&urgent, None).await;
    let urgent = urgent.expect("201").id;
    let heir = server.agent("b", "p", "d", 9).await;
    let mut given = Vec::new();
    for _ in 0..7 {
        let next = heir.claim(1, 5.0).await.remove(0);
        given.push((next.session.id, next.action));
        let state = match next.action {
            Action::Terminate => ReportedState::Terminated,
            Action::Hibernate => ReportedState::Hibernated,
            _ => ReportedState::Running,
        };
        heir.accepts(&next, state).await;
    }
    let expected = [
        (ended, Action::Terminate),
        (adopted, Action::Adopt),
        (to_sleep, Action::Hibernate),
        (dozing, Action::Wake),
        (sleeping, Action::Wake),
        (starting, Action::Start),
        (urgent, Action::Start),
    ];
    assert_eq!(given, expected);
    the_books_agree(&server).await;
    server.stop().await;
}

/// What an agent is not to have now does not stand in front of what it may have.
#[tokio::test]
async fn what_avoids_an_agent_does_not_keep_other_work_from_it() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let leaving = server.agent("z", "p", "d", 2).await;
    server.sessions("p", 2).await;
    let running = [leaving.runs_one().await, leaving.runs_one().await];
    let goodbye = server
        .client
        .deregister_agent("z", Some(leaving.incarnation), false)
        .await;
    goodbye.expect("204");
    let waiting = server.sessions("p", 2).await;
    let sql = server.database.client().await;
    for first in [running[0].session.id, waiting[0].id] {
        let avoid = format!(
            "UPDATE sessions SET avoid_agent = 'a', avoid_until = now() + interval '1 hour',
                queued_at = now() - interval '1 hour' WHERE id = '{first}'"
        );
        assert_eq!(sql.execute(&avoid, &[]).await.expect("it avoids"), 1);
    }
    let agent = server.agent("a", "p", "d", 9).await;
    let adopted = agent.claim(1, 5.0).await;
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].session.id, running[1].session.id);
    agent.accepts(&adopted[0], ReportedState::Running).await;
    let started = agent.claim(1, 5.0).await;
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].session.id, waiting[1].id);
    // Another agent has them at once, in their turn.
    let other = server.agent("b", "p", "d", 9).await;
    let rest: Vec<_> = other.claim(9, 5.0).await;
    let rest: Vec<_> = rest.iter().map(|given| given.session.id).collect();
    assert_eq!(rest, [running[0].session.id, waiting[0].id]);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_session_for_later_becomes_claimable_in_time_and_delays_nobody() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 100).await;
    let tomorrow = chrono::Utc::now() + chrono::TimeDelta::days(1);
    let far = new_session(|new| {
        new.not_before = Some(tomorrow);
        new.priority = 1000;
    });
    let batch = lessor_protocol::NewSessions {
        sessions: vec![far; 1_000],
    };
    for _ in 0..5 {
        let made = server.client.create_sessions(&batch, None).await;
        assert_eq!(made.expect("they are made").items.len(), 1_000);
    }
    assert!(agent.claim(10, 0.0).await.is_empty());
    let at = chrono::Utc::now() + chrono::TimeDelta::milliseconds(1_500);
    let soon = new_session(|new| new.not_before = Some(at));
    let soon = server
        .client
        .create_session(&soon, None)
        .await
        .expect("made");
    assert_eq!(server.get(soon.id).await.state, SessionState::Pending);
    let parked = agent.park(10, 50.0);
    server.has_parked("p", 1).await;
    let posted = Instant::now();
    let now = server.session("p").await;
    let claimed = parked.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments.len(), 1);
    assert_eq!(claimed.assignments[0].session.id, now.id);
    assert!(
        posted.elapsed() < Duration::from_secs(1),
        "{:?}",
        posted.elapsed()
    );
    agent
        .accepts(&claimed.assignments[0], ReportedState::Running)
        .await;
    let later = agent.claim(10, 50.0).await;
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].session.id, soon.id);
    let offered = ledger(&server, soon.id).await[0].offered_at;
    let late = (offered - at).as_seconds_f64();
    // One machine, so the test's clock is the database's.
    assert!(
        (0.0..2.0).contains(&late),
        "offered {late} s after its time"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_cordon_ends_the_poll_once_and_leaves_work_on_what_is_held() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 5).await;
    server.session("p").await;
    let held = agent.runs_one().await;
    let parked = agent.park(1, 50.0);
    server.has_parked("p", 1).await;
    let cordon = CordonRequest {
        reason: Some("kernel update".to_owned()),
        until: None,
    };
    server.client.cordon_agent("a", &cordon).await.expect("200");
    let ended = parked.await.expect("the task").expect("it may claim");
    assert_eq!(ended.scheduling, Scheduling::Cordoned);
    assert!(ended.assignments.is_empty());
    let parked = agent.park(1, 50.0);
    server.has_parked("p", 1).await;
    let waiting = server.session("p").await;
    let id = held.session.id.to_string();
    server
        .client
        .delete_session(&id, &Default::default())
        .await
        .expect("202");
    let claimed = parked.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.scheduling, Scheduling::Cordoned);
    assert_eq!(claimed.assignments.len(), 1);
    assert_eq!(claimed.assignments[0].session.id, held.session.id);
    assert_eq!(claimed.assignments[0].action, Action::Terminate);
    agent
        .accepts(&claimed.assignments[0], ReportedState::Terminated)
        .await;
    assert!(agent.claim(1, 0.0).await.is_empty());
    assert_eq!(server.get(waiting.id).await.lease_epoch, 0);
    server.client.uncordon_agent("a").await.expect("200");
    assert_eq!(agent.claim(1, 5.0).await[0].session.id, waiting.id);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_cordon_lifts_itself() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 5).await;
    let until = chrono::Utc::now() + chrono::TimeDelta::milliseconds(1_500);
    let cordon = CordonRequest {
        reason: None,
        until: Some(until),
    };
    server.client.cordon_agent("a", &cordon).await.expect("200");
    let session = server.session("p").await;
    assert!(agent.claim(1, 0.0).await.is_empty());
    eventually("the cordon lifts", || async {
        let now = server.client.get_agent("a").await.expect("the agent");
        now.scheduling == Scheduling::Active && now.cordon.is_none()
    })
    .await;
    assert!(chrono::Utc::now() >= until);
    assert_eq!(agent.claim(1, 5.0).await[0].session.id, session.id);
    server.stop().await;
}

#[tokio::test]
async fn an_offer_that_was_not_accepted_is_no_hold() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let session = server.session("p").await;
    let offered = agent.claim(1, 0.0).await.remove(0);
    let id = session.id.to_string();
    let ended = server.client.delete_session(&id, &Default::default()).await;
    assert_eq!(ended.expect("202").state, SessionState::Terminated);
    let late = agent.reports(&offered, ReportedState::Running).await;
    assert_eq!(
        (late.outcome, late.code, late.state),
        (
            Outcome::Fenced,
            Some(ReportCode::NotAssigned),
            Some(SessionState::Terminated)
        )
    );
    assert!(agent.claim(1, 0.0).await.is_empty());
    // Its slot is free again.
    let next = server.session("p").await;
    assert_eq!(agent.claim(1, 5.0).await[0].session.id, next.id);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn past_the_limit_of_parked_polls_there_is_a_503() {
    let server = TestServer::over(database().await, |s| s.max_waiters = 2).await;
    server.pool("p", |_| {}).await;
    let mut parked = Vec::new();
    for name in ["a", "b"] {
        parked.push(server.agent(name, "p", "d", 1).await.park(1, 50.0));
    }
    server.has_parked("p", 2).await;
    let third = server.agent("c", "p", "d", 1).await;
    let refusal = third.try_claim(1, 20.0).await.expect_err("too many");
    assert_eq!(refusal.status(), Some(503));
    assert!(refusal.retry_after().is_some(), "{refusal:?}");
    assert_eq!(refused::<()>(Err(refusal)), ProblemCode::TooManyWaiters);
    // A place that was given back is there for others.
    server.session("p").await;
    let (first, _, rest) = select_all(parked).await;
    assert_eq!(
        first
            .expect("the task")
            .expect("it may claim")
            .assignments
            .len(),
        1
    );
    assert!(third.claim(1, 0.0).await.is_empty());
    assert_eq!(rest.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn the_last_agent_of_a_domain_ends_what_is_to_end_though_it_is_cordoned() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let leaving = server.agent("a", "p", "d", 2).await;
    server.sessions("p", 2).await;
    let held = [leaving.runs_one().await, leaving.runs_one().await];
    let other = server.agent("b", "p", "d", 0).await;
    let last = server.agent("c", "p", "d", 5).await;
    let cordon = CordonRequest::default();
    server.client.cordon_agent("c", &cordon).await.expect("200");
    let goodbye = server
        .client
        .deregister_agent("a", Some(leaving.incarnation), false);
    goodbye.await.expect("204");
    let id = held[0].session.id.to_string();
    let how = lessor_client::DeleteSession::default();
    server.client.delete_session(&id, &how).await.expect("202");
    // Another agent of the domain lives: that is for it to do.
    assert!(last.claim(5, 0.0).await.is_empty());
    let parked = last.park(5, 50.0);
    server.has_parked("p", 1).await;
    let goodbye = server
        .client
        .deregister_agent("b", Some(other.incarnation), false);
    goodbye.await.expect("204");
    let gone = Instant::now();
    let claimed = parked.await.expect("the task").expect("it may claim");
    assert!(
        gone.elapsed() < Duration::from_secs(2),
        "{:?}",
        gone.elapsed()
    );
    assert_eq!(claimed.scheduling, Scheduling::Cordoned);
    assert_eq!(claimed.assignments.len(), 1, "{claimed:#?}");
    assert_eq!(claimed.assignments[0].session.id, held[0].session.id);
    assert_eq!(claimed.assignments[0].action, Action::Terminate);
    last.accepts(&claimed.assignments[0], ReportedState::Terminated)
        .await;
    // What runs is not for it to adopt.
    assert!(last.claim(5, 0.0).await.is_empty());
    assert_eq!(
        server.get(held[1].session.id).await.state,
        SessionState::Running
    );
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_round_locks_one_session_more_than_it_can_give_out_and_leaves_the_others_to_others() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.sessions("p", 40).await;
    let agent = server.agent("a", "p", "d", 20).await;
    // So that it stops once it has what it gives out.
    let holder = server.database.client().await;
    let hold = "BEGIN; LOCK TABLE lease_ledger IN SHARE MODE";
    holder.batch_execute(hold).await.expect("the ledger");
    let claim = agent.park(5, 5.0);
    eventually("the round waits for the ledger", || async {
        count(&server, WAIT_FOR_LOCKS).await > 0
    })
    .await;
    let free = "SELECT count(*) FROM (SELECT id FROM sessions WHERE state = 'pending' FOR UPDATE SKIP LOCKED) f";
    assert_eq!(40 - count(&server, free).await, 5 + 1);
    holder.batch_execute("COMMIT").await.expect("it ends");
    let claimed = claim.await.expect("the task").expect("it may claim");
    assert_eq!(claimed.assignments.len(), 5);
}

#[tokio::test]
async fn an_agent_that_somebody_else_has_in_hand_does_not_hold_up_all_others() {
    let server = TestServer::start().await;
    // Nobody beats.
    server
        .pool("p", |pool| pool.lease_ttl_seconds = 600.0)
        .await;
    // More than one round looks at. The first is in the first round.
    let mut polls = Vec::new();
    for n in 0..300 {
        let agent = server.agent(&format!("a{n:03}"), "p", "d", 1).await;
        polls.push(agent.park(1, 30.0));
    }
    server.has_parked("p", 300).await;
    let holder = server.database.client().await;
    let hold = "BEGIN; SELECT FROM agents WHERE name = 'a000' FOR UPDATE";
    holder.batch_execute(hold).await.expect("it is locked");
    server.sessions("p", 400).await;
    eventually("those of the second round are answered", || async {
        polls.iter().filter(|poll| poll.is_finished()).count() == 300 - 256
    })
    .await;
    assert_eq!(count(&server, WAIT_FOR_LOCKS).await, 1);
    holder.batch_execute("COMMIT").await.expect("it ends");
    let mut given = BTreeSet::new();
    for poll in polls {
        let claimed = poll.await.expect("the task").expect("it may claim");
        let assigned = claimed.assignments.iter();
        given.extend(assigned.map(|a| (a.session.id, a.session.assigned_agent_id.clone())));
    }
    assert_eq!(given.len(), 300);
    the_books_agree(&server).await;
}
