//! What is done to many at once: that it is what the single calls do, to what the filter matches and to
//! nothing else, once, and whatever goes on meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lessor_client::{Paging, SessionFilter};
use lessor_protocol::{
    AgentBulk, AgentBulkAction, AgentBulkFilter, AgentBulkRequest, Bulk, BulkAction, BulkFilter,
    BulkRequest, CordonRequest, DesiredState, DrainStatus, Event, LabelFilter, Labels, NewSession,
    NewSessions, ReportedFailure, ReportedState, Scheduling, Session, SessionPatch, SessionState,
    StateFilter,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::checks::{WAIT_FOR_LOCKS, count, dump, of_index, the_books_agree};
use crate::support::platform::Platform;
use crate::support::{TestAgent, TestServer, eventually, report, runbook};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn in_pool(pool: &str) -> BulkFilter {
    BulkFilter {
        pool: Some(pool.to_owned()),
        ..BulkFilter::default()
    }
}

async fn act(server: &TestServer, request: &BulkRequest) -> Bulk {
    let answer = server.client.bulk_sessions(request).await;
    answer.expect("an answer")
}

/// Asks first, then does it; what is foretold is what comes.
async fn both(server: &TestServer, mut request: BulkRequest) -> Bulk {
    request.dry_run = true;
    let foretold = act(server, &request).await;
    request.dry_run = false;
    let done = act(server, &request).await;
    assert_eq!(foretold, done, "{request:?}");
    done
}

/// Matched, changed, and whether there is more.
fn numbers(bulk: &Bulk) -> (i64, i64, bool) {
    (bulk.matched, bulk.changed, bulk.more)
}

async fn session(server: &TestServer, change: impl FnOnce(&mut NewSession)) -> Session {
    let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
    change(&mut new);
    let made = server.client.create_session(&new, None).await;
    made.expect("it is made")
}

async fn sql(server: &TestServer, text: &str) {
    let client = server.database.client().await;
    client.batch_execute(text).await.expect("the statement");
}

async fn events(server: &TestServer, id: Uuid, kind: &str) -> Vec<Event> {
    let page = server
        .client
        .session_events(&id.to_string(), &Paging::default())
        .await;
    let all = page.expect("the timeline").items;
    all.into_iter().filter(|event| event.kind == kind).collect()
}

async fn waits_for_a_lock(server: &TestServer) {
    eventually("it waits for a lock", || async {
        count(server, WAIT_FOR_LOCKS).await == 1
    })
    .await;
}

#[tokio::test]
async fn an_end_by_filter_is_the_end_that_the_single_call_gives() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.pool("q", |_| {}).await;
    let agent = server.agent("a", "p", "d", 10).await;
    let course = |new: &mut NewSession| new.labels = labels(&[("course", "c1"), ("n", "1")]);
    let runs = session(&server, course).await.id;
    agent.runs_one().await;
    let offered = session(&server, course).await.id;
    assert_eq!(agent.claim(1, 5.0).await.len(), 1);
    let waits = session(&server, course).await.id;
    let over = session(&server, course).await.id;
    let one = server
        .client
        .delete_session(&over.to_string(), &Default::default())
        .await
        .expect("it ends");
    let other = session(&server, |new| new.labels = labels(&[("course", "c2")])).await;
    let elsewhere = session(&server, |new| {
        course(new);
        new.pool = Some("q".to_owned());
    })
    .await;

    let mut request = BulkRequest::new(BulkAction::Terminate, in_pool("p"));
    request.filter.label = Some(LabelFilter(labels(&[("course", "c1")])));
    request.reason = Some("the course is over".to_owned());
    request.grace_seconds = Some(7.0);
    request.delete_data = Some(true);
    let before = server.get(runs).await;
    let done = both(&server, request.clone()).await;
    // What has ended is matched and not changed.
    assert_eq!(numbers(&done), (4, 3, false));
    assert_eq!(done.session_ids, [runs, offered, waits]);
    for id in [runs, offered, waits] {
        let session = server.get(id).await;
        assert_eq!(session.desired_state, DesiredState::Terminated);
        assert_eq!(
            (session.termination_reason.as_deref(), session.grace_seconds),
            (Some("the course is over"), Some(7.0))
        );
        assert!(session.delete_data);
        let wanted = events(&server, id, "session.desired_changed").await;
        assert_eq!(wanted.len(), 1, "{wanted:#?}");
        assert_eq!(wanted[0].reason.as_deref(), Some("the course is over"));
        let single = events(&server, over, "session.desired_changed").await;
        assert_eq!(wanted[0].actor, single[0].actor);
    }
    let after = server.get(runs).await;
    assert_eq!(
        (after.version, after.generation, after.state),
        (
            before.version + 1,
            before.generation + 1,
            SessionState::Running
        )
    );
    // An offer is void, and what never ran has ended.
    for id in [offered, waits] {
        assert_eq!(server.get(id).await.state, SessionState::Terminated);
    }
    assert_eq!(server.get(over).await.version, one.version);
    for id in [other.id, elsewhere.id] {
        let session = server.get(id).await;
        assert_eq!(
            (session.desired_state, session.version),
            (DesiredState::Running, 1)
        );
    }
    // The same again changes nothing, another reason included.
    request.reason = Some("another".to_owned());
    let again = both(&server, request).await;
    assert_eq!(numbers(&again), (4, 0, false));
    assert!(again.session_ids.is_empty());
    assert_eq!(server.get(runs).await.version, after.version);
    assert_eq!(
        server
            .metric("lessor_bulk_changed_total{action=\"terminate\"}")
            .await,
        3.0
    );
    assert_eq!(
        server
            .metric("lessor_bulk_changed_total{action=\"retry\"}")
            .await,
        0.0
    );
    // Its holder hears of it at once.
    let told = agent.claim(5, 5.0).await;
    assert_eq!(told[0].session.id, runs);
    agent.accepts(&told[0], ReportedState::Terminated).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn every_filter_matches_what_the_list_has_under_it() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.pool("q", |_| {}).await;
    let agent = server.agent("a", "p", "d", 10).await;
    session(&server, |new| {
        new.labels = labels(&[("k", "v:w"), ("x", "1")])
    })
    .await;
    agent.runs_one().await;
    session(&server, |new| new.owner = Some("ada".to_owned())).await;
    let middle = session(&server, |new| new.name = Some("mine".to_owned())).await;
    session(&server, |new| new.labels = labels(&[("k", "v:w")])).await;
    session(&server, |new| new.desired_state = DesiredState::Hibernated).await;
    session(&server, |new| new.pool = Some("q".to_owned())).await;
    sql(
        &server,
        "UPDATE sessions SET state = 'failed', ended_at = now() WHERE owner = 'ada'",
    )
    .await;
    let cases = [
        (json!({"pool": "p"}), "pool=p".to_owned(), 5),
        (json!({"pool": "nowhere"}), "pool=nowhere".to_owned(), 0),
        (json!({"state": ["failed"]}), "state=failed".to_owned(), 1),
        (
            json!({"state": "failed,running"}),
            "state=failed,running".to_owned(),
            2,
        ),
        (
            json!({"state": ["failed", "running"], "pool": "p"}),
            "state=failed,running&pool=p".to_owned(),
            2,
        ),
        (
            json!({"desired_state": "hibernated"}),
            "desired_state=hibernated".to_owned(),
            1,
        ),
        (
            json!({"assigned_agent_id": "a"}),
            "assigned_agent_id=a".to_owned(),
            1,
        ),
        (json!({"assigned": false}), "assigned=false".to_owned(), 5),
        (json!({"assigned": true}), "assigned=true".to_owned(), 1),
        (json!({"owner": "ada"}), "owner=ada".to_owned(), 1),
        (json!({"name": "mine"}), "name=mine".to_owned(), 1),
        (json!({"label": ["k:v:w"]}), "label=k:v:w".to_owned(), 2),
        (json!({"label": "k:v:w"}), "label=k:v:w".to_owned(), 2),
        (
            json!({"label": {"k": "v:w", "x": "1"}}),
            "label=k:v:w&label=x:1".to_owned(),
            1,
        ),
        (
            json!({"label": ["k:v:w", "x:1"]}),
            "label=k:v:w&label=x:1".to_owned(),
            1,
        ),
        (
            json!({"resource_domain": "d"}),
            "resource_domain=d".to_owned(),
            1,
        ),
        (
            json!({"created_after": middle.created_at}),
            format!(
                "created_after={}",
                middle.created_at.to_rfc3339().replace('+', "%2B")
            ),
            3,
        ),
        (
            json!({"created_before": middle.created_at}),
            format!(
                "created_before={}",
                middle.created_at.to_rfc3339().replace('+', "%2B")
            ),
            2,
        ),
    ];
    for (filter, query, expected) in cases {
        let body = json!({"filter": filter, "action": "terminate", "dry_run": true});
        let bulk = server
            .send("POST", "/v1/sessions/bulk", body.to_string())
            .await
            .ok(200);
        let list = server.fetch(&format!("/v1/sessions?{query}")).await.ok(200);
        let ids = |list: &Value, pick: fn(&Value) -> &Value| -> BTreeSet<String> {
            let items = list.as_array().expect("a list").iter();
            items
                .map(|item| pick(item).as_str().expect("an id").to_owned())
                .collect()
        };
        assert_eq!(
            ids(&bulk["session_ids"], |id| id),
            ids(&list["items"], |item| &item["id"]),
            "{filter}"
        );
        assert_eq!(
            (&bulk["matched"], &bulk["changed"], &bulk["more"]),
            (&json!(expected), &json!(expected), &json!(false)),
            "{filter}"
        );
    }
    server.stop().await;
}

/// A session in each state, with each wish, without a domain, in a live one and in a lost one, as far
/// as there are such, in a pool; the same at each call.
async fn every_situation(server: &TestServer, pool: &str) {
    let text = format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart, resource_domain,
            labels, created_at, updated_at, queued_at, ended_at)
        SELECT gen_random_uuid(), '{pool}', 'process', '{{}}', d, s, 'on_failure', r,
            jsonb_build_object('what', d || ' ' || s || ' ' || coalesce(r, '-')), now(), now(), now(),
            CASE WHEN s IN ('terminated', 'failed') THEN now() END
        FROM unnest(ARRAY['running', 'hibernated', 'terminated']) d,
            unnest(ARRAY['pending', 'starting', 'running', 'hibernating', 'hibernated', 'waking', 'terminating',
                'terminated', 'failed']) s,
            unnest(ARRAY[NULL, 'live', 'lost']) r
        WHERE (s IN ('pending', 'terminated', 'failed') OR r IS NOT NULL)
            AND (s <> 'terminated' OR d = 'terminated')
            -- It would be ended at once, so there is none.
            AND NOT (d = 'terminated' AND r IS NULL AND s <> 'terminated')"
    );
    sql(server, &text).await;
}

async fn all(server: &TestServer, pool: &str) -> Vec<Session> {
    let filter = SessionFilter {
        pool: Some(pool.to_owned()),
        paging: Paging {
            limit: Some(500),
            cursor: None,
        },
        ..SessionFilter::default()
    };
    let page = server.client.list_sessions(&filter).await;
    page.expect("a list").items
}

fn what(session: &Session) -> (String, DesiredState, SessionState, i64, i64, i32) {
    (
        session.labels["what"].clone(),
        session.desired_state,
        session.state,
        session.generation,
        session.version,
        session.attempt,
    )
}

/// In every situation each action does to many what the single call does to one, to those that a dry
/// run names.
#[tokio::test]
async fn in_every_situation_many_are_changed_as_one_is() {
    let server = TestServer::start().await;
    let actions = [
        (BulkAction::Terminate, false),
        (BulkAction::Terminate, true),
        (BulkAction::Retry, false),
        (BulkAction::Hibernate, false),
        (BulkAction::Run, false),
    ];
    for (action, force) in actions {
        let of = format!("{action}-{force}");
        let (one, many) = (format!("one-{of}"), format!("many-{of}"));
        for pool in [&one, &many] {
            server.pool(pool, |_| {}).await;
            server.agent(&format!("of-{pool}"), pool, "live", 10).await;
            every_situation(&server, pool).await;
        }
        let before = all(&server, &many).await;
        assert_eq!(before.len(), 55);
        for session in all(&server, &one).await {
            let id = session.id.to_string();
            let want = |desired_state| SessionPatch {
                desired_state: Some(desired_state),
                ..SessionPatch::default()
            };
            // What is refused stays as it is.
            let _ = match action {
                BulkAction::Terminate => {
                    let how = lessor_client::DeleteSession {
                        force,
                        ..Default::default()
                    };
                    server.client.delete_session(&id, &how).await
                }
                BulkAction::Retry => server.client.retry_session(&id).await,
                BulkAction::Hibernate => {
                    let patch = want(DesiredState::Hibernated);
                    server.client.patch_session(&id, &patch).await
                }
                BulkAction::Run => {
                    let patch = want(DesiredState::Running);
                    server.client.patch_session(&id, &patch).await
                }
            };
        }
        let mut request = BulkRequest::new(action, in_pool(&many));
        request.force = force.then_some(true);
        let done = both(&server, request.clone()).await;
        let sorted = |sessions: Vec<Session>| {
            let mut sessions: Vec<_> = sessions.iter().map(what).collect();
            sessions.sort();
            sessions
        };
        let after = all(&server, &many).await;
        let changed: BTreeSet<Uuid> = after
            .iter()
            .filter(|session| session.version > 1)
            .map(|session| session.id)
            .collect();
        assert_eq!(
            changed,
            done.session_ids.iter().copied().collect(),
            "{of}: what was changed is what was said"
        );
        assert_eq!(done.changed, i64::try_from(changed.len()).expect("small"));
        let failed = before.iter().filter(|s| s.state == SessionState::Failed);
        let expected = match action {
            BulkAction::Retry => failed.count(),
            _ => before.len(),
        };
        assert_eq!(done.matched, i64::try_from(expected).expect("small"));
        assert!(!changed.is_empty() && changed.len() < before.len(), "{of}");
        assert_eq!(sorted(after), sorted(all(&server, &one).await), "{of}");
        let again = both(&server, request).await;
        assert_eq!(again.changed, 0, "{of}");
    }
    server.stop().await;
}

#[tokio::test]
async fn all_dead_letters_of_a_pool_are_tried_again() {
    let server = TestServer::start().await;
    for pool in ["p", "q"] {
        server.pool(pool, |pool| pool.max_attempts = 1).await;
        let agent = server.agent(&format!("of-{pool}"), pool, "d", 10).await;
        for _ in 0..3 {
            server.session(pool).await;
            let assignment = agent.claim(1, 5.0).await.remove(0);
            let mut failed = report(&assignment, ReportedState::Failed);
            failed.failure = Some(Some(ReportedFailure {
                reason: "broken".to_owned(),
                message: "it is broken".to_owned(),
                exit_code: Some(1),
                retryable: true,
                at: None,
            }));
            agent.try_report(vec![failed]).await.expect("it reports");
        }
    }
    let fine = server.session("p").await.id;
    let state = |state| BulkFilter {
        state: Some(StateFilter(vec![state])),
        ..in_pool("p")
    };
    let request = |filter| BulkRequest::new(BulkAction::Retry, filter);
    let none = both(&server, request(state(SessionState::Pending))).await;
    assert_eq!(numbers(&none), (0, 0, false));
    let done = both(&server, request(in_pool("p"))).await;
    assert_eq!(numbers(&done), (3, 3, false));
    for id in &done.session_ids {
        let session = server.get(*id).await;
        assert_eq!(
            (session.pool.as_str(), session.state, session.attempt),
            ("p", SessionState::Pending, 2)
        );
        let moved = events(&server, *id, "session.state_changed").await;
        assert_eq!(moved[0].reason.as_deref(), Some("retried"));
    }
    assert_eq!(server.get(fine).await.attempt, 1);
    let again = both(&server, request(in_pool("p"))).await;
    assert_eq!(numbers(&again), (0, 0, false));
    // They can be claimed, and those of the other pool are dead as before.
    let other = both(&server, request(state(SessionState::Failed))).await;
    assert_eq!(numbers(&other), (0, 0, false));
    assert_eq!(
        count(
            &server,
            "SELECT count(*) FROM sessions WHERE state = 'failed' AND agent_pool = 'q'"
        )
        .await,
        3
    );
    let fresh = server.agent("fresh", "p", "e", 10).await;
    assert_eq!(fresh.claim(10, 5.0).await.len(), 4);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let mut agent = server.agent("a", "p", "d", 10).await;
    agent.restart(&[]).await;
    let id = server.session("p").await.id.to_string();
    agent.runs_one().await;
    server.session("p").await;
    let client = server.database.client().await;
    let before = dump(&client).await;
    assert!(before.contains(&id), "{before}");
    for action in BulkAction::ALL {
        let mut request = BulkRequest::new(*action, in_pool("p"));
        request.dry_run = true;
        act(&server, &request).await;
    }
    for action in AgentBulkAction::ALL {
        let mut request = AgentBulkRequest::new(*action, agents_in("p"));
        request.dry_run = true;
        act_on_agents(&server, &request).await;
    }
    assert_eq!(dump(&client).await, before);
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_place() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.session("p").await;
    let sessions = [
        (json!({"action": "terminate"}), "/filter"),
        (json!({"filter": {}, "action": "terminate"}), "/filter"),
        (
            json!({"filter": {"pool": null, "label": null}, "action": "terminate"}),
            "/filter",
        ),
        (json!({"filter": {"pool": "p"}}), "/action"),
        (
            json!({"filter": {"pool": "p"}, "action": "destroy"}),
            "/action",
        ),
        (
            json!({"filter": {"pool": "p", "colour": "red"}, "action": "retry"}),
            "/filter/colour",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "retry", "all": true}),
            "/all",
        ),
        (
            json!({"filter": {"pool": ""}, "action": "retry"}),
            "/filter/pool",
        ),
        (
            json!({"filter": {"pool": "a\0"}, "action": "retry"}),
            "/filter/pool",
        ),
        (
            json!({"filter": {"pool": 1}, "action": "retry"}),
            "/filter/pool",
        ),
        (
            json!({"filter": {"state": []}, "action": "retry"}),
            "/filter/state",
        ),
        (
            json!({"filter": {"state": ""}, "action": "retry"}),
            "/filter/state",
        ),
        (
            json!({"filter": {"state": "dead"}, "action": "retry"}),
            "/filter/state",
        ),
        (
            json!({"filter": {"state": ["failed", "dead"]}, "action": "retry"}),
            "/filter/state/1",
        ),
        (
            json!({"filter": {"desired_state": "dead"}, "action": "retry"}),
            "/filter/desired_state",
        ),
        (
            json!({"filter": {"label": []}, "action": "retry"}),
            "/filter/label",
        ),
        (
            json!({"filter": {"label": {}}, "action": "retry"}),
            "/filter/label",
        ),
        (
            json!({"filter": {"label": "k"}, "action": "retry"}),
            "/filter/label",
        ),
        (
            json!({"filter": {"label": ["k:v", "k"]}, "action": "retry"}),
            "/filter/label/1",
        ),
        (
            json!({"filter": {"label": ["k:v", "k:w"]}, "action": "retry"}),
            "/filter/label",
        ),
        (
            json!({"filter": {"label": {"k": "\0"}}, "action": "retry"}),
            "/filter/label/k",
        ),
        (
            json!({"filter": {"assigned": "yes"}, "action": "retry"}),
            "/filter/assigned",
        ),
        (
            json!({"filter": {"created_after": "yesterday"}, "action": "retry"}),
            "/filter/created_after",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "retry", "reason": "x"}),
            "/reason",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "hibernate", "force": true}),
            "/force",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "terminate", "reason": ""}),
            "/reason",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "terminate", "grace_seconds": -1}),
            "/grace_seconds",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "terminate", "dry_run": "yes"}),
            "/dry_run",
        ),
    ];
    let agents = [
        (json!({"filter": {}, "action": "cordon"}), "/filter"),
        (json!({"action": "cordon"}), "/filter"),
        (
            json!({"filter": {"pool": "p"}, "action": "remove"}),
            "/action",
        ),
        (
            json!({"filter": {"owner": "o"}, "action": "cordon"}),
            "/filter/owner",
        ),
        (
            json!({"filter": {"label": []}, "action": "drain"}),
            "/filter/label",
        ),
        (
            json!({"filter": {"scheduling": "idle"}, "action": "drain"}),
            "/filter/scheduling",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "uncordon", "reason": "x"}),
            "/reason",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "drain", "until": "2026-01-01T00:00:00Z"}),
            "/until",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "cordon", "deadline_seconds": 1}),
            "/deadline_seconds",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "cordon", "force": false}),
            "/force",
        ),
        (
            json!({"filter": {"pool": "p"}, "action": "drain", "deadline_seconds": 604_801}),
            "/deadline_seconds",
        ),
    ];
    let sessions = sessions.map(|case| ("/v1/sessions/bulk", case));
    let agents = agents.map(|case| ("/v1/agents/bulk", case));
    for (path, (body, pointer)) in sessions.into_iter().chain(agents) {
        let answer = server.send("POST", path, body.to_string()).await;
        answer.is_problem(422, "validation_failed", &body.to_string());
        let errors = answer.json()["errors"].clone();
        assert_eq!(errors[0]["pointer"], pointer, "{body}: {errors}");
        assert_eq!(errors.as_array().map(Vec::len), Some(1), "{body}: {errors}");
    }
    assert_eq!(
        count(&server, "SELECT count(*) FROM sessions WHERE version > 1").await,
        0
    );
    // A name that would stand in the place of these paths.
    for name in ["bulk", "batch"] {
        let body = json!({"pool": "p", "spec": {}, "name": name});
        let answer = server.send("POST", "/v1/sessions", body.to_string()).await;
        answer.is_problem(422, "validation_failed", name);
        assert_eq!(answer.json()["errors"][0]["pointer"], "/name");
    }
    server.stop().await;
}

/// So many sessions that wait, each with its number as a label, older than any that is created.
fn waiting(count: usize) -> String {
    format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart, labels,
            created_at, updated_at, queued_at)
        SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'p', 'process', '{{}}',
            'running', 'pending', 'on_failure', jsonb_build_object('n', n::text), now(), now(),
            now() + n * interval '1 microsecond'
        FROM generate_series(1, {count}) n"
    )
}

#[tokio::test]
async fn what_is_more_than_a_call_does_is_left_for_the_next() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    sql(&server, &waiting(10_700)).await;
    let mut request = BulkRequest::new(BulkAction::Hibernate, in_pool("p"));
    request.dry_run = true;
    let foretold = act(&server, &request).await;
    assert_eq!(numbers(&foretold), (10_700, 10_000, true));
    assert_eq!(foretold.session_ids.len(), 1_000);
    request.dry_run = false;
    let (mut calls, mut changed) = (0, 0);
    loop {
        let began = Instant::now();
        let done = act(&server, &request).await;
        assert!(began.elapsed() < Duration::from_secs(20), "{done:?}");
        (calls, changed) = (calls + 1, changed + done.changed);
        assert_eq!(done.matched, 10_700);
        assert!(done.changed <= 10_000, "{}", done.changed);
        let shown = usize::try_from(done.changed).expect("a number").min(1_000);
        assert_eq!(done.session_ids.len(), shown);
        assert!(done.session_ids.is_sorted());
        if calls == 1 && done.changed == 10_000 {
            assert_eq!(done.session_ids, foretold.session_ids);
        }
        assert_eq!(done.more, changed < 10_700, "{done:?}");
        if !done.more {
            break;
        }
    }
    assert!(calls > 1);
    assert_eq!(changed, 10_700);
    let hibernated =
        "SELECT count(*) FROM sessions WHERE desired_state = 'hibernated' AND version = 2
        AND generation = 2";
    assert_eq!(count(&server, hibernated).await, 10_700);
    let told = "SELECT count(*) FROM event_history WHERE kind = 'session.desired_changed'";
    assert_eq!(count(&server, told).await, 10_700);
    // Where the limit comes with the last of them, there is no more.
    sql(
        &server,
        "DELETE FROM sessions WHERE (labels->>'n')::int > 10000",
    )
    .await;
    let request = BulkRequest::new(BulkAction::Run, in_pool("p"));
    let mut changed = 0;
    while changed < 10_000 {
        let done = act(&server, &request).await;
        assert!(done.changed > 0, "{done:?}");
        changed += done.changed;
        assert_eq!(done.more, changed < 10_000, "{}", done.changed);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_session_that_stops_matching_meanwhile_is_left_alone() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let tagged = |new: &mut NewSession| new.labels = labels(&[("course", "c1")]);
    let first = session(&server, tagged).await.id;
    let moved = session(&server, tagged).await.id;
    let last = session(&server, tagged).await.id;
    let holder = server.database.client().await;
    holder
        .batch_execute(&format!(
            "BEGIN; UPDATE sessions SET labels = '{{\"course\": \"c2\"}}' WHERE id = '{moved}'"
        ))
        .await
        .expect("it is locked");
    let mut request = BulkRequest::new(BulkAction::Terminate, in_pool("p"));
    request.filter.label = Some(LabelFilter(labels(&[("course", "c1")])));
    let client = server.client.clone();
    let bulk = tokio::spawn(async move { client.bulk_sessions(&request).await });
    waits_for_a_lock(&server).await;
    holder.batch_execute("COMMIT").await.expect("unlocked");
    let done = bulk.await.expect("the task").expect("an answer");
    assert_eq!(numbers(&done), (3, 2, false));
    assert_eq!(done.session_ids, [first, last]);
    let left = server.get(moved).await;
    assert_eq!(
        (left.desired_state, left.version),
        (DesiredState::Running, 1)
    );
    server.stop().await;
}

/// Agents come before sessions: one that was given to an agent meanwhile is not changed while its agent
/// is not locked, but at the next look.
#[tokio::test]
async fn a_session_that_is_given_to_an_agent_meanwhile_is_changed_with_its_agent_locked() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 5).await;
    let id = server.session("p").await.id;
    let (giver, holder) = (
        server.database.client().await,
        server.database.client().await,
    );
    giver
        .batch_execute(&format!(
            "BEGIN;
             UPDATE agents SET slots_used = 1 WHERE name = 'a';
             INSERT INTO lease_ledger (session_id, lease_epoch, agent, incarnation, action, offered_at)
             VALUES ('{id}', 1, 'a', {0}, 'start', now());
             UPDATE sessions SET assigned_agent_id = 'a', assigned_incarnation = {0}, assigned_action = 'start',
                lease_epoch = 1, offered_until = now() + interval '1 hour' WHERE id = '{id}'",
            agent.incarnation
        ))
        .await
        .expect("it is given");
    let request = BulkRequest::new(BulkAction::Terminate, in_pool("p"));
    let client = server.client.clone();
    let bulk = tokio::spawn(async move { client.bulk_sessions(&request).await });
    waits_for_a_lock(&server).await;
    // Who comes for the agent next, waits for the giver only.
    let next = tokio::spawn(async move {
        let lock = "BEGIN; SELECT FROM agents WHERE name = 'a' FOR NO KEY UPDATE";
        holder.batch_execute(lock).await.expect("it is locked");
        holder
    });
    eventually("both wait", || async {
        count(&server, WAIT_FOR_LOCKS).await == 2
    })
    .await;
    giver.batch_execute("COMMIT").await.expect("it has it");
    let holder = next.await.expect("the task");
    waits_for_a_lock(&server).await;
    holder
        .batch_execute(&format!(
            "SELECT FROM sessions WHERE id = '{id}' FOR UPDATE NOWAIT; COMMIT"
        ))
        .await
        .expect("nobody holds the session while he waits for its agent");
    let done = bulk.await.expect("the task").expect("an answer");
    assert_eq!(numbers(&done), (1, 1, false));
    assert_eq!(server.get(id).await.state, SessionState::Terminated);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_end_it() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    sql(&server, &waiting(1_200)).await;
    let holder = server.database.client().await;
    holder
        .batch_execute(
            "BEGIN; SELECT FROM sessions WHERE id = (SELECT id FROM sessions ORDER BY id OFFSET 700 LIMIT 1) FOR UPDATE",
        )
        .await
        .expect("it is locked");
    let request = BulkRequest::new(BulkAction::Terminate, in_pool("p"));
    let client = server.client.clone();
    let bulk = tokio::spawn(async move { client.bulk_sessions(&request).await });
    waits_for_a_lock(&server).await;
    let ended = "SELECT count(*) FROM sessions WHERE state = 'terminated'";
    assert_eq!(count(&server, ended).await, 500);
    // What is created now is left for the next call.
    let new = server.session("p").await.id;
    bulk.abort();
    assert!(bulk.await.is_err_and(|error| error.is_cancelled()));
    holder.batch_execute("COMMIT").await.expect("unlocked");
    eventually("all of them end", || async {
        count(&server, ended).await == 1_200
    })
    .await;
    // It was the last of it: stopping waits for the call.
    server.app.begin_stop();
    server.app.finish().await;
    let left = format!("SELECT version FROM sessions WHERE id = '{new}'");
    assert_eq!(count(&server, &left).await, 1);
}

/// A database that has just been filled is planned for as a small one, in which a product of all sessions and all
/// changes seems to be cheaper than a look for each.
#[tokio::test]
async fn a_batch_is_written_by_a_look_for_each_of_its_sessions() {
    const MANY: i64 = 1_200;
    let server = TestServer::start().await;
    let database = server.database.clone();
    server.pool("p", |_| {}).await;
    sql(&server, &waiting(1_200)).await;
    let client = database.client().await;
    let looks = async || of_index(&client, "idx_scan", "sessions_pkey").await;
    let before = looks().await;
    let done = act(
        &server,
        &BulkRequest::new(BulkAction::Terminate, in_pool("p")),
    )
    .await;
    assert_eq!(numbers(&done), (MANY, MANY, false));
    server.stop().await;
    eventually("it is counted", async || looks().await - before >= MANY).await;
    let looks = looks().await - before;
    println!("{looks} looks for {MANY} sessions");
    assert!(looks < 20 * MANY, "{looks} looks for {MANY} sessions");
}

/// Twenty thousand sessions that a fleet works on, ended by two calls at a time at two servers.
#[tokio::test]
async fn a_fleet_claims_twenty_thousand_sessions_while_they_are_ended() {
    let server = TestServer::start().await;
    let other = server.beside().await;
    server
        .pool("p", |pool| {
            // The point is the claims, not how fast a crowded machine is.
            pool.accept_timeout_seconds = 120.0;
            pool.lease_ttl_seconds = 120.0;
        })
        .await;
    sql(&server, &waiting(20_000)).await;
    let platform = Platform::default();
    let fleet: Vec<_> = (0..4)
        .map(|n| {
            let at = if n % 2 == 0 { &server } else { &other };
            platform.agent(at, &format!("a{n}"), "p", &format!("d{}", n / 2))
        })
        .collect();
    eventually("the fleet is at it", || async { platform.running() > 200 }).await;
    let began = Instant::now();
    let end = async |server: &TestServer| {
        let request = BulkRequest::new(BulkAction::Terminate, in_pool("p"));
        let (mut changed, mut calls) = (0, 0);
        loop {
            let began = Instant::now();
            let done = act(server, &request).await;
            assert!(
                began.elapsed() < Duration::from_secs(25),
                "{:?}",
                began.elapsed()
            );
            assert_eq!(done.matched, 20_000);
            (changed, calls) = (changed + done.changed, calls + 1);
            assert!(calls < 40, "it does not come to an end: {}", done.changed);
            if !done.more {
                return changed;
            }
        }
    };
    let (here, there) = tokio::join!(end(&server), end(&other));
    println!("{here} and {there} in {:?}", began.elapsed());
    // Each was changed once, by one of them.
    assert_eq!(here + there, 20_000);
    let wanted =
        "SELECT count(*) FROM sessions WHERE desired_state = 'terminated' AND generation = 2";
    assert_eq!(count(&server, wanted).await, 20_000);
    let until = Instant::now() + Duration::from_secs(90);
    let open = "SELECT count(*) FROM sessions WHERE state <> 'terminated'";
    while count(&server, open).await > 0 {
        assert!(
            Instant::now() < until,
            "{} are left",
            count(&server, open).await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(platform.running(), 0);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(count(&server, deadlocks).await, 0);
    for agent in fleet {
        agent.stop().await;
    }
    the_books_agree(&server).await;
    other.stop().await;
    server.stop().await;
}

fn agents_in(pool: &str) -> AgentBulkFilter {
    AgentBulkFilter {
        pool: Some(pool.to_owned()),
        ..AgentBulkFilter::default()
    }
}

fn zone(zone: &str) -> AgentBulkFilter {
    AgentBulkFilter {
        label: Some(LabelFilter(labels(&[("zone", zone)]))),
        ..AgentBulkFilter::default()
    }
}

async fn act_on_agents(server: &TestServer, request: &AgentBulkRequest) -> AgentBulk {
    let answer = server.client.bulk_agents(request).await;
    answer.expect("an answer")
}

/// Asks first, then does it; what is foretold is what comes. Matched, and who was changed.
async fn both_on_agents(server: &TestServer, mut request: AgentBulkRequest) -> (i64, Vec<String>) {
    request.dry_run = true;
    let foretold = act_on_agents(server, &request).await;
    request.dry_run = false;
    let done = act_on_agents(server, &request).await;
    assert_eq!(foretold, done, "{request:?}");
    assert_eq!(Ok(done.changed), i64::try_from(done.agents.len()));
    assert!(!done.more);
    (done.matched, done.agents)
}

async fn agent_in(server: &TestServer, name: &str, domain: &str, zone: &str) -> TestAgent {
    let mut agent = server.agent(name, "p", domain, 10).await;
    let mut body = agent.registration(&[]);
    body.labels = labels(&[("zone", zone), ("os", "linux")]);
    let registered = server.client.register_agent(name, &body).await;
    agent.incarnation = registered.expect("it registers").incarnation;
    agent
}

async fn scheduling(server: &TestServer, name: &str) -> Scheduling {
    let agent = server.client.get_agent(name).await;
    agent.expect("it is there").scheduling
}

#[tokio::test]
async fn agents_are_cordoned_and_uncordoned_by_label() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    for (name, zone) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")] {
        agent_in(&server, name, "d", zone).await;
    }
    let mine = CordonRequest {
        reason: Some("mine".to_owned()),
        until: None,
    };
    server
        .client
        .cordon_agent("a2", &mine)
        .await
        .expect("it is cordoned");
    let until = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    let mut request = AgentBulkRequest::new(AgentBulkAction::Cordon, zone("a"));
    request.reason = Some("new image".to_owned());
    request.until = Some(until);
    let done = both_on_agents(&server, request.clone()).await;
    assert_eq!(done, (3, vec!["a1".to_owned(), "a3".to_owned()]));
    let cordon = async |name: &str| {
        let agent = server.client.get_agent(name).await.expect("it is there");
        agent.cordon
    };
    let of = cordon("a1").await.expect("a cordon");
    assert_eq!(of.reason.as_deref(), Some("new image"));
    let apart = of.until.expect("an end") - until;
    assert!(apart.abs() < chrono::TimeDelta::milliseconds(1));
    // Who was cordoned keeps his reason, and others are as they were.
    let of = cordon("a2").await.expect("a cordon");
    assert_eq!((of.reason.as_deref(), of.until), (Some("mine"), None));
    assert!(cordon("b1").await.is_none());
    assert_eq!(
        both_on_agents(&server, request).await,
        (3, Vec::new()),
        "again is nothing"
    );
    let told =
        "SELECT count(*) FROM event_history WHERE kind = 'agent.cordoned' AND reason = 'new image'
        AND actor_name = 'anonymous'";
    assert_eq!(count(&server, told).await, 2);
    assert_eq!(
        server
            .metric("lessor_bulk_changed_total{action=\"cordon\"}")
            .await,
        2.0
    );

    let mut filter = agents_in("p");
    filter.scheduling = Some(Scheduling::Cordoned);
    let uncordon = AgentBulkRequest::new(AgentBulkAction::Uncordon, filter);
    let done = both_on_agents(&server, uncordon.clone()).await;
    assert_eq!(done.1, ["a1", "a2", "a3"]);
    assert_eq!(both_on_agents(&server, uncordon).await, (0, Vec::new()));
    let uncordon = AgentBulkRequest::new(AgentBulkAction::Uncordon, agents_in("p"));
    assert_eq!(both_on_agents(&server, uncordon).await, (4, Vec::new()));
    let told = "SELECT count(*) FROM event_history WHERE kind = 'agent.uncordoned'";
    assert_eq!(count(&server, told).await, 3);
    for (filter, expected) in [
        (json!({"pool": "nowhere"}), 0),
        (json!({"availability": "live"}), 4),
        (json!({"availability": "expired"}), 0),
        (json!({"scheduling": "active"}), 4),
        (json!({"resource_domain": "d"}), 4),
        (json!({"resource_domain": "e"}), 0),
        (json!({"label": {"zone": "b", "os": "linux"}}), 1),
        (json!({"label": ["zone:b", "os:beos"]}), 0),
    ] {
        let body = json!({"filter": filter, "action": "cordon", "dry_run": true});
        let bulk = server
            .send("POST", "/v1/agents/bulk", body.to_string())
            .await
            .ok(200);
        assert_eq!(
            (&bulk["matched"], &bulk["changed"]),
            (&json!(expected), &json!(expected)),
            "{filter}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn agents_are_drained_by_label_and_hand_over_what_they_hold() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let platform = Platform::default();
    let a1 = platform.agent(&server, "a1", "p", "d");
    let made = server.sessions("p", 6).await;
    for session in &made {
        server.reaches(session.id, SessionState::Running).await;
    }
    let a2 = platform.agent(&server, "a2", "p", "d");
    let keeps = platform.agent(&server, "keeps", "p", "d");
    eventually("all have come", || async {
        count(&server, "SELECT count(*) FROM agents WHERE live").await == 3
    })
    .await;
    // What is registered in tests by hand has labels; these agents are given them so.
    sql(
        &server,
        "UPDATE agents SET labels = '{\"zone\": \"a\"}' WHERE name IN ('a1', 'a2')",
    )
    .await;
    server
        .client
        .cordon_agent("a2", &CordonRequest::default())
        .await
        .expect("it is cordoned");
    let mut request = AgentBulkRequest::new(AgentBulkAction::Drain, zone("a"));
    request.reason = Some("new image".to_owned());
    request.deadline_seconds = Some(60.0);
    let done = both_on_agents(&server, request.clone()).await;
    // One that is cordoned can be drained as well.
    assert_eq!(done, (2, vec!["a1".to_owned(), "a2".to_owned()]));
    assert_eq!(
        both_on_agents(&server, request.clone()).await,
        (2, Vec::new())
    );
    for name in ["a1", "a2"] {
        let wait = Duration::from_secs(20);
        let drain = server
            .client
            .wait_for_agent_drain(name, &[DrainStatus::Completed], wait)
            .await
            .expect("its drain");
        assert_eq!(
            (drain.status, drain.reason.as_deref()),
            (DrainStatus::Completed, Some("new image"))
        );
        let seconds = (drain.deadline_at - drain.started_at).as_seconds_f64();
        assert!((59.0..61.0).contains(&seconds), "{seconds}");
        assert_eq!(scheduling(&server, name).await, Scheduling::Drained);
    }
    for session in &made {
        let session = server.get(session.id).await;
        assert_eq!(session.assigned_agent_id.as_deref(), Some("keeps"));
        assert_eq!(platform.starts(session.id), 1);
    }
    assert_eq!(scheduling(&server, "keeps").await, Scheduling::Active);
    // A drain that is over is not begun anew.
    assert_eq!(both_on_agents(&server, request).await, (2, Vec::new()));
    let cordon = AgentBulkRequest::new(AgentBulkAction::Cordon, zone("a"));
    assert_eq!(both_on_agents(&server, cordon).await, (2, Vec::new()));
    assert_eq!(count(&server, "SELECT count(*) FROM drains").await, 2);
    assert_eq!(
        server
            .metric("lessor_drains_total{status=\"started\"}")
            .await,
        2.0
    );
    let uncordon = AgentBulkRequest::new(AgentBulkAction::Uncordon, zone("a"));
    assert_eq!(both_on_agents(&server, uncordon).await.1, ["a1", "a2"]);
    for name in ["a1", "a2"] {
        assert_eq!(scheduling(&server, name).await, Scheduling::Active);
    }
    for agent in [a1, a2, keeps] {
        agent.stop().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_stops_matching_meanwhile_is_left_alone() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    for name in ["a1", "a2", "a3"] {
        agent_in(&server, name, "d", "a").await;
    }
    let holder = server.database.client().await;
    holder
        .batch_execute("BEGIN; UPDATE agents SET labels = '{\"zone\": \"b\"}' WHERE name = 'a2'")
        .await
        .expect("it is locked");
    let client = server.client.clone();
    let request = AgentBulkRequest::new(AgentBulkAction::Cordon, zone("a"));
    let bulk = tokio::spawn(async move { client.bulk_agents(&request).await });
    waits_for_a_lock(&server).await;
    holder.batch_execute("COMMIT").await.expect("unlocked");
    let done = bulk.await.expect("the task").expect("an answer");
    assert_eq!((done.matched, done.changed), (3, 2));
    assert_eq!(done.agents, ["a1", "a3"]);
    assert_eq!(scheduling(&server, "a2").await, Scheduling::Active);
    server.stop().await;
}

#[tokio::test]
async fn the_page_on_bulk_can_be_followed() {
    let server = TestServer::start().await;
    server.pool("local", |_| {}).await;
    let agent = server.agent("local-1", "local", "d", 5).await;
    let mut body = agent.registration(&[]);
    body.labels = labels(&[("zone", "a")]);
    server
        .client
        .register_agent("local-1", &body)
        .await
        .expect("it registers");
    let new = NewSession {
        labels: labels(&[("course", "c1")]),
        ..NewSession::in_pool("local", &json!({})).expect("a spec")
    };
    let new = NewSessions {
        sessions: vec![new; 3],
    };
    let made = server.client.create_sessions(&new, None).await;
    let made = made.expect("they are made").items;
    sql(
        &server,
        &format!(
            "UPDATE sessions SET state = 'failed', ended_at = now() WHERE id = '{}'",
            made[0].id
        ),
    )
    .await;
    let said = runbook::run("bulk.md", &server.url).await;
    for part in [
        "{\"matched\":1,\"changed\":1,\"session_ids\":[",
        "{\"matched\":3,\"changed\":3,\"session_ids\":[",
        "{\"matched\":1,\"changed\":1,\"agents\":[\"local-1\"],\"more\":false}",
    ] {
        assert!(said.matches(part).count() >= 2, "{part}\n{said}");
    }
    for session in &made {
        let session = server.get(session.id).await;
        assert_eq!(session.state, SessionState::Terminated);
        assert_eq!(
            session.termination_reason.as_deref(),
            Some("the course is over")
        );
    }
    assert_eq!(server.get(made[0].id).await.attempt, 2);
    assert_eq!(scheduling(&server, "local-1").await, Scheduling::Active);
    server.stop().await;
}
