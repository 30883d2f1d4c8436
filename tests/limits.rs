//! Time limits of sessions: idleness, the longest life, `not_before`, and activity.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lessor_protocol::{
    Action, Activity, Assignment, DesiredState, Heartbeat, IdleAction, NewSession, ReportedState,
    Session, SessionPatch, SessionState,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::agents::{Folder, ProcessAgent, pid_of, state_of};
use crate::support::checks::{WAIT_FOR_LOCKS, count, ledger, the_books_agree};
use crate::support::{TestAgent, TestServer, eventually, runbook};

async fn server() -> TestServer {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 60.0).await;
    server
}

async fn makes(server: &TestServer, change: impl FnOnce(&mut NewSession)) -> Session {
    let mut new = NewSession::in_pool("p", &json!({"command": ["true"]})).expect("a spec");
    change(&mut new);
    let made = server.client.create_session(&new, None).await;
    made.expect("it is made")
}

/// A session with limits, which agent `a` runs.
async fn runs(
    server: &TestServer,
    agent: &TestAgent,
    change: impl FnOnce(&mut NewSession),
) -> Assignment {
    let made = makes(server, change).await;
    let assignment = agent.runs_one().await;
    assert_eq!(assignment.session.id, made.id);
    assignment
}

async fn patch(server: &TestServer, id: Uuid, change: impl FnOnce(&mut SessionPatch)) -> Session {
    let mut patch = SessionPatch::default();
    change(&mut patch);
    let id = id.to_string();
    server.client.patch_session(&id, &patch).await.expect("200")
}

async fn is_used(agent: &TestAgent, ids: &[Uuid], idle_seconds: f64) {
    let body = Heartbeat {
        incarnation: agent.incarnation,
        activity: ids
            .iter()
            .map(|id| Activity {
                session_id: *id,
                idle_seconds,
            })
            .collect(),
        dropped: Vec::new(),
    };
    let beat = agent.client.heartbeat(&agent.name, &body).await;
    beat.expect("it is renewed");
}

async fn sql(server: &TestServer, text: &str) {
    let client = server.database.client().await;
    client.batch_execute(text).await.expect("the statement");
}

async fn comes_to_want(server: &TestServer, id: Uuid, desired: DesiredState) -> Session {
    eventually("it is wanted", || async {
        server.get(id).await.desired_state == desired
    })
    .await;
    server.get(id).await
}

/// What changed what is wanted of a session: to what, why, by whom.
async fn wishes(server: &TestServer, id: Uuid) -> Vec<(String, String, String)> {
    let client = server.database.client().await;
    let text = format!(
        "SELECT to_value, coalesce(reason, ''), actor_type || ':' || actor_name FROM event_history
         WHERE session_id = '{id}' AND kind = 'session.desired_changed' ORDER BY position, batch, ordinal"
    );
    let rows = client.query(&text, &[]).await.expect("the events");
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

fn by_limit(to: &str, reason: &str) -> (String, String, String) {
    (to.to_owned(), reason.to_owned(), "system:limits".to_owned())
}

/// Waits until a session has run for so long, by the database's clock.
async fn has_run_for(server: &TestServer, id: Uuid, seconds: f64) {
    let text = format!(
        "SELECT count(*) FROM sessions WHERE id = '{id}'
            AND clock_timestamp() - started_at > make_interval(secs => {seconds})"
    );
    eventually("it has run for a while", || async {
        count(server, &text).await == 1
    })
    .await;
}

/// Beats can be taken, for as long as the test lasts, and there was no outage.
const PULSE: &str = "INSERT INTO pulse (at) VALUES (now() + interval '1 hour')
    ON CONFLICT (single) DO UPDATE SET at = excluded.at, gap_at = NULL";

#[tokio::test]
async fn an_idle_session_is_hibernated_or_ended_as_it_says() {
    let server = server().await;
    let other = server.beside().await;
    let a = server.agent("a", "p", "d", 10).await;
    let rests = runs(&server, &a, |new| new.idle_timeout_seconds = Some(1.0)).await;
    let before = server.get(rests.session.id).await;
    assert_eq!(
        (before.idle_timeout_seconds, before.idle_action),
        (Some(1.0), IdleAction::Hibernate)
    );
    let ends = runs(&server, &a, |new| {
        new.idle_timeout_seconds = Some(1.0);
        new.idle_action = Some(IdleAction::Terminate);
    })
    .await;
    let stays = runs(&server, &a, |_| {}).await;
    let rested = comes_to_want(&other, rests.session.id, DesiredState::Hibernated).await;
    let started = rested.started_at.expect("it runs");
    let took = (rested.updated_at - started).as_seconds_f64();
    assert!((1.0..4.0).contains(&took), "after {took} s");
    assert_eq!(rested.termination_reason, None);
    let ended = comes_to_want(&other, ends.session.id, DesiredState::Terminated).await;
    assert_eq!(ended.termination_reason.as_deref(), Some("idle"));
    let work = a.claim(10, 5.0).await;
    for assignment in &work {
        let state = match assignment.action {
            Action::Hibernate => ReportedState::Hibernated,
            Action::Terminate => ReportedState::Terminated,
            other => panic!("{other}"),
        };
        a.accepts(assignment, state).await;
    }
    for given in a.claim(10, 0.0).await {
        a.accepts(&given, ReportedState::Terminated).await;
    }
    server
        .reaches(rests.session.id, SessionState::Hibernated)
        .await;
    server
        .reaches(ends.session.id, SessionState::Terminated)
        .await;
    let wished = [
        wishes(&server, rests.session.id).await,
        wishes(&server, ends.session.id).await,
    ];
    assert_eq!(
        wished,
        [
            [by_limit("hibernated", "idle")],
            [by_limit("terminated", "idle")]
        ]
    );
    let untouched = server.get(stays.session.id).await;
    assert_eq!(untouched.desired_state, DesiredState::Running);
    assert_eq!(
        server
            .metric("lessor_session_limits_total{limit=\"idle\"}")
            .await,
        2.0
    );
    // A new run begins a new idle time.
    patch(&server, rests.session.id, |p| {
        p.desired_state = Some(DesiredState::Running)
    })
    .await;
    let woken = a.claim(1, 5.0).await.remove(0);
    a.accepts(&woken, ReportedState::Running).await;
    has_run_for(&server, rests.session.id, 0.4).await;
    assert_eq!(wishes(&server, rests.session.id).await.len(), 2);
    comes_to_want(&server, rests.session.id, DesiredState::Hibernated).await;
    the_books_agree(&server).await;
    eventually("only what still has a limit is looked at", || async {
        count(&server, "SELECT count(*) FROM limit_checks").await == 0
    })
    .await;
    other.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn the_longest_life_counts_from_the_first_run_and_goes_on_at_rest() {
    let server = server().await;
    let a = server.agent("a", "p", "d", 10).await;
    let runs_on = runs(&server, &a, |new| new.max_duration_seconds = Some(3.0)).await;
    let rests = runs(&server, &a, |new| new.max_duration_seconds = Some(3.0)).await;
    let id = rests.session.id;
    let first = server.get(id).await.started_at.expect("it runs");
    assert_eq!(server.get(id).await.max_duration_seconds, Some(3.0));
    let waits = makes(&server, |new| {
        new.max_duration_seconds = Some(1.0);
        new.not_before = Some(chrono::Utc::now() + chrono::TimeDelta::hours(1));
    })
    .await;
    // It rests, runs again, and rests again: none of that begins a new life.
    for desired in [
        DesiredState::Hibernated,
        DesiredState::Running,
        DesiredState::Hibernated,
    ] {
        patch(&server, id, |p| p.desired_state = Some(desired)).await;
        let work = a.claim(10, 5.0).await.remove(0);
        assert_eq!(work.session.id, id);
        let state = match desired {
            DesiredState::Hibernated => ReportedState::Hibernated,
            _ => ReportedState::Running,
        };
        a.accepts(&work, state).await;
    }
    assert!(server.get(id).await.started_at.expect("it ran") > first);
    let over = comes_to_want(&server, id, DesiredState::Terminated).await;
    let took = (over.updated_at - first).as_seconds_f64();
    assert!((3.0..6.0).contains(&took), "after {took} s");
    assert_eq!(over.termination_reason.as_deref(), Some("max_duration"));
    assert_eq!(
        wishes(&server, id).await.last(),
        Some(&by_limit("terminated", "max_duration"))
    );
    let over = comes_to_want(&server, runs_on.session.id, DesiredState::Terminated).await;
    assert_eq!(over.termination_reason.as_deref(), Some("max_duration"));
    let waiting = server.get(waits.id).await;
    assert_eq!(waiting.desired_state, DesiredState::Running, "it never ran");
    for work in a.claim(10, 5.0).await {
        a.accepts(&work, ReportedState::Terminated).await;
    }
    let line = "lessor_session_limits_total{limit=\"max_duration\"}";
    assert_eq!(server.metric(line).await, 2.0);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn activity_keeps_a_session_running_and_leaves_its_row_alone() {
    let server = server().await;
    let other = server.beside().await;
    let a = server.agent("a", "p", "d", 10).await.at(&other);
    let held = runs(&server, &a, |new| new.idle_timeout_seconds = Some(2.0)).await;
    let id = held.session.id;
    assert_eq!(
        server.get(id).await.last_activity_at,
        None,
        "nobody has said so yet"
    );
    let row = || async {
        let client = server.database.client().await;
        let text =
            format!("SELECT xmin::text, ctid::text, version FROM sessions WHERE id = '{id}'");
        let row = client.query_one(&text, &[]).await.expect("the session");
        (
            row.get::<_, String>(0),
            row.get::<_, String>(1),
            row.get::<_, i64>(2),
        )
    };
    let before = row().await;
    let sum = |what: &str, of: &str| {
        format!("SELECT {what} FROM pg_stat_user_tables WHERE relname = '{of}'")
    };
    // Twice the idle time and more passes, with a beat of activity now and then.
    let ran = format!(
        "SELECT count(*) FROM sessions WHERE id = '{id}' AND clock_timestamp() - started_at > interval '5 seconds'"
    );
    eventually("it has run for long", || async {
        is_used(&a, &[id], 0.0).await;
        count(&server, &ran).await == 1
    })
    .await;
    assert_eq!(row().await, before, "its row is as it was");
    let now = server.get(id).await;
    assert_eq!(
        (now.desired_state, now.state),
        (DesiredState::Running, SessionState::Running)
    );
    let used = now.last_activity_at.expect("it is known");
    assert!(used > now.updated_at && used > chrono::Utc::now() - chrono::TimeDelta::seconds(5));
    let listed = server
        .client
        .list_sessions(&Default::default())
        .await
        .expect("200")
        .items;
    assert!(listed[0].last_activity_at >= Some(used));
    // What is older than what is known changes nothing, and of two words the newer one counts.
    let known = server.get(id).await.last_activity_at;
    is_used(&a, &[id], 3600.0).await;
    assert_eq!(server.get(id).await.last_activity_at, known);
    eventually("the beats' writes are counted", || async {
        count(&server, &sum("n_tup_upd", "session_activity")).await >= 10
    })
    .await;
    let cold = sum("n_tup_upd - n_tup_hot_upd", "session_activity");
    assert!(
        count(&server, &cold).await <= 2,
        "updates stay in their page"
    );
    // Offered, accepted: nothing else has ever written the session.
    let written = count(&server, &sum("n_tup_upd", "sessions")).await;
    assert!(
        written <= 2 + i64::from(row().await != before),
        "{written} updates"
    );
    comes_to_want(&server, id, DesiredState::Hibernated).await;
    let last = server.get(id).await;
    let idle = (last.updated_at - last.last_activity_at.expect("known")).as_seconds_f64();
    assert!((2.0..5.0).contains(&idle), "idle for {idle} s");
    other.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn only_the_agent_that_holds_a_session_can_say_that_it_is_used() {
    let server = server().await;
    let mut a = server.agent("a", "p", "d", 10).await;
    let b = server.agent("b", "p", "d", 10).await;
    let held = runs(&server, &a, |_| {}).await;
    let id = held.session.id;
    server.session("p").await;
    let offered = a.claim(1, 5.0).await.remove(0).session.id;
    let waiting = server.session("p").await.id;
    let all = [id, offered, waiting, Uuid::nil()];
    is_used(&b, &all, 0.0).await;
    is_used(&a, &all[1..], 0.0).await;
    let known = "SELECT count(*) FROM session_activity";
    assert_eq!(
        count(&server, known).await,
        0,
        "none of it is theirs to say"
    );
    let before = chrono::Utc::now();
    is_used(&a, &[id, id], 100.0).await;
    let used = server.get(id).await.last_activity_at.expect("it is known");
    let ago = (before - used).as_seconds_f64();
    assert!((95.0..101.0).contains(&ago), "{ago} s ago");
    assert_eq!(count(&server, known).await, 1);
    // An older run of the same agent is none that holds it.
    let old = a.clone();
    a.restart(&TestAgent::held(&[held])).await;
    let beat = Heartbeat {
        incarnation: old.incarnation,
        activity: vec![Activity {
            session_id: id,
            idle_seconds: 0.0,
        }],
        dropped: Vec::new(),
    };
    assert!(old.client.heartbeat("a", &beat).await.is_err());
    assert_eq!(server.get(id).await.last_activity_at, Some(used));
    is_used(&a, &[id], 0.0).await;
    assert!(server.get(id).await.last_activity_at > Some(used));
    server.stop().await;
}

#[tokio::test]
async fn a_beat_is_renewed_whatever_becomes_of_its_activity() {
    let server = server().await;
    let a = server.agent("a", "p", "d", 10).await;
    let id = runs(&server, &a, |_| {}).await.session.id;
    let holder = server.database.client().await;
    holder
        .batch_execute("BEGIN; LOCK TABLE session_activity IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("a lock");
    let last = "SELECT (extract(epoch FROM last_heartbeat_at) * 1000000)::bigint FROM agents";
    for _ in 0..3 {
        let (before, asked) = (count(&server, last).await, Instant::now());
        is_used(&a, &[id], 0.0).await;
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        assert!(count(&server, last).await > before, "it was renewed");
    }
    // Without activity nobody waits for it.
    let asked = Instant::now();
    a.beat().await.expect("renewed");
    assert!(
        asked.elapsed() < Duration::from_millis(450),
        "{:?}",
        asked.elapsed()
    );
    holder.batch_execute("COMMIT").await.expect("unlocked");
    eventually("the next one is written", || async {
        is_used(&a, &[id], 0.0).await;
        server.get(id).await.last_activity_at.is_some()
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_changed_timeout_takes_effect_at_once() {
    let server = server().await;
    let a = server.agent("a", "p", "d", 10).await;
    let sooner = runs(&server, &a, |new| new.idle_timeout_seconds = Some(3600.0))
        .await
        .session
        .id;
    let never = runs(&server, &a, |new| new.idle_timeout_seconds = Some(3.0))
        .await
        .session
        .id;
    let first = runs(&server, &a, |_| {}).await.session.id;
    makes(&server, |new| new.start_timeout_seconds = Some(3600.0)).await;
    let starting = a.claim(1, 5.0).await.remove(0);
    a.accepts(&starting, ReportedState::Starting).await;
    let cleared = patch(&server, never, |p| p.idle_timeout_seconds = Some(None)).await;
    assert_eq!(cleared.idle_timeout_seconds, None);
    has_run_for(&server, first, 1.2).await;
    for id in [sooner, first] {
        let (before, now) = (server.get(id).await, chrono::Utc::now());
        let patched = patch(&server, id, |p| p.idle_timeout_seconds = Some(Some(1.0))).await;
        assert_eq!(patched.idle_timeout_seconds, Some(1.0));
        assert_eq!(
            (patched.generation, patched.version),
            (before.generation, before.version + 1)
        );
        let idle = comes_to_want(&server, id, DesiredState::Hibernated).await;
        let took = (idle.updated_at - now).as_seconds_f64();
        assert!(took < 2.0, "{took} s after the change");
    }
    patch(&server, starting.session.id, |p| {
        p.start_timeout_seconds = Some(Some(1.0))
    })
    .await;
    eventually("its hold is taken away", || async {
        server
            .get(starting.session.id)
            .await
            .assigned_agent_id
            .is_none()
    })
    .await;
    has_run_for(&server, never, 4.0).await;
    assert_eq!(server.get(never).await.desired_state, DesiredState::Running);
    assert!(wishes(&server, never).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_session_for_later_stands_in_nobodys_way_and_starts_when_its_time_comes() {
    let server = server().await;
    let other = server.beside().await;
    let a = server.agent("a", "p", "d", 10).await.at(&other);
    let at = chrono::Utc::now() + chrono::TimeDelta::milliseconds(2_500);
    let later = makes(&server, |new| {
        new.not_before = Some(at);
        new.priority = 1000;
    })
    .await;
    assert_eq!(
        later.not_before.map(|t| t.timestamp_millis()),
        Some(at.timestamp_millis())
    );
    let now = makes(&server, |_| {}).await;
    let claimed = a.claim(10, 0.0).await;
    assert_eq!(
        claimed.iter().map(|c| c.session.id).collect::<Vec<_>>(),
        [now.id]
    );
    assert!(
        chrono::Utc::now() < at,
        "this machine is too slow for this test"
    );
    a.accepts(&claimed[0], ReportedState::Running).await;
    // A change of what is wanted brings it no sooner.
    for desired in [DesiredState::Hibernated, DesiredState::Running] {
        patch(&server, later.id, |p| p.desired_state = Some(desired)).await;
    }
    let started = a.claim(1, 50.0).await.remove(0);
    assert_eq!(started.session.id, later.id);
    let late = (ledger(&server, later.id).await[0].offered_at - at).as_seconds_f64();
    assert!(
        (0.0..1.0).contains(&late),
        "offered {late} s after its time"
    );
    other.stop().await;
    server.stop().await;
}

/// Sessions that have long been idle, and servers that do nothing by themselves.
async fn long_idle(sessions: usize, servers: usize) -> (TestServer, Vec<TestServer>, Vec<Uuid>) {
    let server = server().await;
    let mut others = Vec::new();
    for _ in 1..servers {
        others.push(server.beside().await);
    }
    let a = server.agent("a", "p", "d", 1000).await;
    let mut ids = Vec::new();
    for _ in 0..sessions {
        ids.push(
            runs(&server, &a, |new| new.idle_timeout_seconds = Some(60.0))
                .await
                .session
                .id,
        );
    }
    server.app.finish().await;
    for other in &others {
        other.app.finish().await;
    }
    sql(&server, PULSE).await;
    sql(
        &server,
        "UPDATE sessions SET started_at = started_at - interval '100 seconds',
            first_started_at = first_started_at - interval '100 seconds';
         UPDATE lease_ledger SET offered_at = offered_at - interval '200 seconds',
            accepted_at = accepted_at - interval '200 seconds';
         UPDATE limit_checks SET check_at = now() - interval '40 seconds'",
    )
    .await;
    (server, others, ids)
}

const IDLE: &str =
    "SELECT count(*) FROM event_history WHERE kind = 'session.desired_changed' AND reason = 'idle'";

async fn look(server: &TestServer) {
    let next = lessor::limits::run(&server.app).await;
    next.expect("it looks");
}

#[tokio::test]
async fn many_servers_make_one_change() {
    let (server, others, ids) = long_idle(30, 3).await;
    let apps: Vec<_> = others
        .iter()
        .chain([&server])
        .map(|s| Arc::clone(&s.app))
        .collect();
    let crowd = apps.iter().cycle().take(12);
    for looked in join_all(crowd.map(lessor::limits::run)).await {
        looked.expect("it looks");
    }
    // Whoever found a check in another's hand has left it to that one.
    look(&server).await;
    assert_eq!(count(&server, IDLE).await, ids.len() as i64);
    let generations =
        "SELECT count(*) FROM sessions WHERE generation = 2 AND desired_state = 'hibernated'";
    assert_eq!(count(&server, generations).await, ids.len() as i64);
    assert_eq!(count(&server, "SELECT count(*) FROM limit_checks").await, 0);
    the_books_agree(&server).await;
}

#[tokio::test]
async fn activity_that_comes_while_the_change_waits_saves_the_session() {
    let (server, _, ids) = long_idle(1, 1).await;
    let id = ids[0];
    let holder = server.database.client().await;
    let lock = format!("BEGIN; SELECT FROM sessions WHERE id = '{id}' FOR UPDATE");
    holder.batch_execute(&lock).await.expect("a lock");
    let app = Arc::clone(&server.app);
    let task = tokio::spawn(async move { lessor::limits::run(&app).await });
    eventually("it waits for the session", || async {
        count(&server, WAIT_FOR_LOCKS).await == 1
    })
    .await;
    let used = format!("INSERT INTO session_activity VALUES ('{id}', clock_timestamp())");
    sql(&server, &used).await;
    holder.batch_execute("COMMIT").await.expect("unlocked");
    task.await.expect("the task").expect("it looks");
    look(&server).await;
    assert_eq!(count(&server, IDLE).await, 0);
    let put_off =
        "SELECT count(*) FROM limit_checks WHERE check_at > now() + interval '50 seconds'";
    assert_eq!(count(&server, put_off).await, 1);
}

#[tokio::test]
async fn a_timeout_that_is_set_during_a_look_is_not_forgotten() {
    let (server, _, ids) = long_idle(1, 1).await;
    let id = ids[0];
    // Its limit is gone: the next look removes the check. A change that gives it another one,
    // which runs later than the check that is there, comes in before that look has locked it.
    sql(&server, "UPDATE sessions SET idle_timeout_seconds = NULL").await;
    let holder = server.database.client().await;
    let set = format!(
        "BEGIN; UPDATE sessions SET idle_timeout_seconds = 130 WHERE id = '{id}';
         INSERT INTO limit_checks AS l VALUES ('{id}', now() + interval '30 seconds')
            ON CONFLICT (session_id) DO UPDATE SET check_at = least(l.check_at, excluded.check_at)"
    );
    holder.batch_execute(&set).await.expect("the change");
    look(&server).await;
    holder.batch_execute("COMMIT").await.expect("done");
    look(&server).await;
    let kept = "SELECT count(*) FROM limit_checks WHERE check_at > now() + interval '20 seconds'";
    assert_eq!(count(&server, kept).await, 1);
}

#[tokio::test]
async fn an_outage_does_not_count_as_idleness() {
    let (server, _, _) = long_idle(1, 1).await;
    let due = "UPDATE limit_checks SET check_at = now() - interval '1 second'";
    for (pulse, changed, what) in [
        (
            "at = clock_timestamp() - interval '6 seconds', gap_at = NULL",
            0,
            "no fresh pulse",
        ),
        (
            "at = clock_timestamp() + interval '1 hour', gap_at = clock_timestamp() - interval '50 seconds'",
            0,
            "an outage within a lease time of 60 s",
        ),
        (
            "at = clock_timestamp() + interval '1 hour', gap_at = clock_timestamp() - interval '61 seconds'",
            1,
            "an outage before that",
        ),
    ] {
        sql(&server, &format!("UPDATE pulse SET {pulse}; {due}")).await;
        look(&server).await;
        assert_eq!(count(&server, IDLE).await, changed, "{what}");
    }
}

#[tokio::test]
async fn what_nobody_holds_is_not_idle_and_its_adopter_has_time_to_say_so() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 3.0).await;
    let a = server.agent("a", "p", "d", 10).await;
    let held = runs(&server, &a, |new| new.idle_timeout_seconds = Some(2.0)).await;
    let id = held.session.id;
    server
        .client
        .deregister_agent("a", Some(a.incarnation), false)
        .await
        .expect("204");
    has_run_for(&server, id, 4.0).await;
    let b = server.agent("b", "p", "d", 10).await;
    let adopted = b.claim(1, 5.0).await.remove(0);
    assert_eq!(
        (adopted.action, adopted.session.desired_state),
        (Action::Adopt, DesiredState::Running)
    );
    b.accepts(&adopted, ReportedState::Running).await;
    let beating = b.keep_beating(0.5);
    let idle = comes_to_want(&server, id, DesiredState::Hibernated).await;
    let accepted = ledger(&server, id).await[1].accepted_at.expect("accepted");
    let took = (idle.updated_at - accepted).as_seconds_f64();
    assert!((3.0..6.0).contains(&took), "{took} s after the adoption");
    beating.abort();
    server.stop().await;
}

#[tokio::test]
async fn sessions_without_limits_leave_nothing_to_look_at() {
    let server = server().await;
    let a = server.agent("a", "p", "d", 2000).await;
    server.sessions("p", 1_000).await;
    for given in a.claim(1_000, 5.0).await.chunks(500) {
        let reports = given
            .iter()
            .map(|g| crate::support::report(g, ReportedState::Running));
        a.try_report(reports.collect()).await.expect("reported");
    }
    let running = "SELECT count(*) FROM sessions WHERE state = 'running'";
    assert_eq!(count(&server, running).await, 1_000);
    assert_eq!(count(&server, "SELECT count(*) FROM limit_checks").await, 0);
    // Where there is much to look at, the look reads as much as is due.
    sql(
        &server,
        "INSERT INTO limit_checks SELECT gen_random_uuid(), now() + n * interval '1 second'
            FROM generate_series(100, 100000) n",
    )
    .await;
    let client = server.database.client().await;
    for text in [
        include_str!("../src/limits/due.sql"),
        "SELECT min(check_at) FROM limit_checks",
    ] {
        for analyze in ["SELECT 1", "ANALYZE limit_checks"] {
            client.batch_execute(analyze).await.expect("done");
            let explain = format!("EXPLAIN {text}");
            let plan = client.query(&explain, &[]).await.expect("a plan");
            let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
            let plan = plan.join("\n");
            assert!(
                plan.contains("limit_checks_due") && !plan.contains("Seq Scan"),
                "{plan}"
            );
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn activity_goes_with_its_session() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.keep_ended_seconds = 0.0).await;
    let a = server.agent("a", "p", "d", 10).await;
    let held = runs(&server, &a, |new| new.max_duration_seconds = Some(3600.0)).await;
    is_used(&a, &[held.session.id], 0.0).await;
    assert_eq!(
        count(&server, "SELECT count(*) FROM session_activity").await,
        1
    );
    a.accepts(&held, ReportedState::Terminated).await;
    sql(&server, "UPDATE limit_checks SET check_at = now()").await;
    // What the server does each minute, at once.
    let text = include_str!("../src/upkeep/delete_ended.sql");
    eventually("it is deleted", || async {
        count(&server, text).await == 1
    })
    .await;
    assert_eq!(
        count(&server, "SELECT count(*) FROM session_activity").await,
        0
    );
    eventually("nothing is left to look at", || async {
        count(&server, "SELECT count(*) FROM limit_checks").await == 0
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_process_that_prints_is_kept_and_a_silent_one_is_hibernated() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 2.0).await;
    let folder = Folder::new();
    let agent = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let with = |script: &str| {
        let spec = json!({"command": ["sh", "-c", script]});
        let mut new = NewSession::in_pool("p", &spec).expect("a spec");
        new.idle_timeout_seconds = Some(3.0);
        new
    };
    let prints = with("while :; do echo still here; sleep 0.2; done");
    let prints = server
        .client
        .create_session(&prints, None)
        .await
        .expect("made");
    let silent = with("exec sleep 3600");
    let silent = server
        .client
        .create_session(&silent, None)
        .await
        .expect("made");
    let rests = server.reaches(silent.id, SessionState::Hibernated).await;
    assert_eq!(state_of(pid_of(&rests)), Some('T'));
    has_run_for(&server, prints.id, 7.0).await;
    // Another run of the agent finds it and goes on watching.
    agent.kill().await;
    let _again = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let restarted = chrono::Utc::now();
    eventually("it is seen to be used again", || async {
        server.get(prints.id).await.last_activity_at > Some(restarted)
    })
    .await;
    let now = server.get(prints.id).await;
    assert_eq!(
        (now.state, now.desired_state),
        (SessionState::Running, DesiredState::Running)
    );
    assert!(wishes(&server, prints.id).await.is_empty());
    for id in [prints.id, silent.id] {
        let end = lessor_client::DeleteSession::default();
        server
            .client
            .delete_session(&id.to_string(), &end)
            .await
            .expect("202");
        server.reaches(id, SessionState::Terminated).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn the_runbook_of_limits_can_be_typed() {
    let server = TestServer::start().await;
    server
        .pool("local", |pool| pool.lease_ttl_seconds = 5.0)
        .await;
    let folder = Folder::new();
    let _agent = ProcessAgent::start(&server.url, "local", "local-1", &folder.0);
    let said = runbook::run("limits.md", &server.url).await;
    for word in [
        "system:limits",
        "\"state\":\"hibernated\"",
        "\"termination_reason\":\"max_duration\"",
        "lessor_session_limits_total{limit=\"idle\"} 1",
        "lessor_session_limits_total{limit=\"max_duration\"} 1",
    ] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    for name in ["silent", "later"] {
        eventually("it has ended", || async {
            let session = server.client.get_session(name).await.expect("it");
            session.state == SessionState::Terminated
        })
        .await;
    }
    server.stop().await;
}
