//! Why a session waits: what it waits for, what each agent could do about it, and that this is what
//! agents are really given.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lessor_client::Paging;
use lessor_protocol::{
    AgentVerdict, CordonRequest, DrainRequest, Explain, Labels, Migrate, NewSession, OnLost,
    OwnerShare, ProblemCode, ReportedFailure, ReportedState, Session, WaitingFor,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::checks::refused;
use crate::support::random::Random;
use crate::support::{TestAgent, TestServer, database, eventually, report, runbook};

async fn explain(server: &TestServer, id: Uuid) -> Explain {
    let explained = server.client.explain_session(&id.to_string()).await;
    explained.expect("it is explained")
}

/// The verdicts by agent.
fn verdicts(explained: &Explain) -> BTreeMap<&str, AgentVerdict> {
    let agents = explained.agents.iter();
    agents.map(|a| (a.agent.as_str(), a.verdict)).collect()
}

fn detail<'a>(explained: &'a Explain, agent: &str) -> &'a str {
    let found = explained.agents.iter().find(|a| a.agent == agent);
    &found
        .unwrap_or_else(|| panic!("no {agent} in {explained:#?}"))
        .detail
}

async fn sql(server: &TestServer, text: &str) {
    let client = server.database.client().await;
    client.batch_execute(text).await.expect("the statement");
}

async fn session(server: &TestServer, change: impl FnOnce(&mut NewSession)) -> Session {
    let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
    change(&mut new);
    let made = server.client.create_session(&new, None).await;
    made.expect("it is made")
}

fn gpu() -> Labels {
    Labels::from([("gpu".to_owned(), "a100".to_owned())])
}

/// An agent with labels that has claimed once.
async fn claimed(server: &TestServer, name: &str, domain: &str, labels: Labels) -> TestAgent {
    let mut agent = server.agent(name, "p", domain, 1).await;
    let mut body = agent.registration(&[]);
    body.labels = labels;
    let registered = server.client.register_agent(name, &body).await;
    agent.incarnation = registered.expect("it registers").incarnation;
    assert!(agent.claim(1, 0.0).await.is_empty());
    agent
}

#[tokio::test]
async fn what_migrates_to_a_domain_can_be_taken_there_alone() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let here = server.agent("here", "p", "d", 9).await;
    server.session("p").await;
    let was = here.runs_one().await;
    claimed(&server, "there", "e", Labels::new()).await;
    let target = Migrate {
        resource_domain: Some("e".to_owned()),
        ..Migrate::default()
    };
    let id = was.session.id.to_string();
    let moved = server.client.migrate_session(&id, &target, None).await;
    moved.expect("it migrates");
    sql(
        &server,
        "UPDATE sessions SET held_back_until = NULL WHERE state = 'pending'",
    )
    .await;
    let explained = explain(&server, was.session.id).await;
    use AgentVerdict as V;
    let expected = BTreeMap::from([("here", V::OtherDomain), ("there", V::Eligible)]);
    assert_eq!(verdicts(&explained), expected, "{explained:#?}");
    assert!(detail(&explained, "here").contains("the session's is e"));
    assert!(here.claim(1, 0.0).await.is_empty());
}

#[tokio::test]
async fn each_agent_has_its_verdict_with_the_particulars() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let other = |value: &str| Labels::from([("gpu".to_owned(), value.to_owned())]);
    let full = claimed(&server, "full", "d", gpu()).await;
    server.session("p").await;
    full.runs_one().await;
    for name in ["gone", "cordoned", "over", "able"] {
        claimed(&server, name, "d", gpu()).await;
    }
    claimed(&server, "bare", "d", Labels::new()).await;
    claimed(&server, "old", "d", other("k80")).await;
    let silent = server.agent("silent", "p", "d", 1).await;
    let mut body = silent.registration(&[]);
    body.labels = gpu();
    server
        .client
        .register_agent("silent", &body)
        .await
        .expect("it");
    let cordon = CordonRequest {
        reason: Some("new disks".to_owned()),
        until: None,
    };
    server
        .client
        .cordon_agent("cordoned", &cordon)
        .await
        .expect("it is cordoned");
    sql(
        &server,
        "UPDATE agents SET live = false, expired_at = now() - interval '90 s' WHERE name = 'gone';
         UPDATE agents SET passed_over_until = now() + interval '1 hour' WHERE name = 'over'",
    )
    .await;

    let waits = session(&server, |new| new.requires = gpu()).await;
    let explained = explain(&server, waits.id).await;
    use AgentVerdict as V;
    assert_eq!(
        verdicts(&explained),
        BTreeMap::from([
            ("gone", V::Expired),
            ("cordoned", V::Cordoned),
            ("bare", V::LabelMismatch),
            ("old", V::LabelMismatch),
            ("full", V::Full),
            ("over", V::PassedOver),
            ("silent", V::NotPolling),
            ("able", V::Eligible),
        ]),
        "{explained:#?}"
    );
    assert_eq!(
        explained.agents[0].agent, "able",
        "who can take it comes first"
    );
    assert_eq!(
        (
            explained.waiting_for,
            explained.queue_position,
            explained.next_attempt_at
        ),
        (WaitingFor::Agent, Some(1), None)
    );
    for (agent, says) in [
        ("gone", "its lease ended at 20"),
        ("cordoned", "new disks"),
        ("bare", "it has no gpu, wanted is a100"),
        ("old", "gpu is k80, wanted is a100"),
        ("full", "1 of 1 slots are used"),
        ("over", "three offers in a row"),
        ("silent", "it has not claimed since it registered"),
    ] {
        let detail = detail(&explained, agent);
        assert!(detail.contains(says), "{agent}: {detail}");
    }

    // Without the one that can, the explanation says what would help and when it may change.
    server
        .client
        .deregister_agent("able", None, true)
        .await
        .expect("it goes");
    let explained = explain(&server, waits.id).await;
    let hint = |says: &str| explained.hints.iter().any(|hint| hint.contains(says));
    assert!(hint("POST /v1/agents/cordoned/uncordon"), "{explained:#?}");
    assert!(
        hint("agent silent is live and claims no sessions"),
        "{explained:#?}"
    );
    assert!(hint("raise the capacity"), "{explained:#?}");
    assert!(
        !hint("no live agent of the pool has label"),
        "{explained:#?}"
    );
    assert!(
        explained.next_attempt_at.is_some(),
        "one is passed over until then"
    );
    let tpu = session(&server, |new| {
        new.requires = Labels::from([("tpu".to_owned(), "v5".to_owned())]);
    })
    .await;
    let explained = explain(&server, tpu.id).await;
    assert!(
        explained
            .hints
            .iter()
            .any(|h| h == "no live agent of the pool has label tpu=v5"),
        "{explained:#?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn what_can_only_be_adopted_says_so_of_other_domains() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = claimed(&server, "one", "d", Labels::new()).await;
    claimed(&server, "far", "elsewhere", Labels::new()).await;
    let two = claimed(&server, "two", "d", Labels::new()).await;
    let id = server.session("p").await.id;
    one.runs_one().await;
    let explained = explain(&server, id).await;
    assert_eq!(explained.waiting_for, WaitingFor::Nothing);
    assert_eq!(explained.agents[0].agent, "one", "its holder comes first");
    assert_eq!(detail(&explained, "one"), "it holds it");
    use AgentVerdict as V;
    let expected = BTreeMap::from([
        ("one", V::Eligible),
        ("two", V::Eligible),
        ("far", V::OtherDomain),
    ]);
    assert_eq!(verdicts(&explained), expected, "who could take it over");
    // Full as it is, it may adopt.
    server.session("p").await;
    two.runs_one().await;
    server
        .client
        .deregister_agent("one", Some(one.incarnation), false)
        .await
        .expect("it goes");
    let explained = explain(&server, id).await;
    assert_eq!(explained.waiting_for, WaitingFor::Agent, "{explained:#?}");
    let expected = BTreeMap::from([("two", V::Eligible), ("far", V::OtherDomain)]);
    assert_eq!(verdicts(&explained), expected);
    assert_eq!(
        detail(&explained, "far"),
        "its domain is elsewhere, the session's is d"
    );
    server.stop().await;
}

#[tokio::test]
async fn what_a_session_waits_for_from_its_creation_to_its_end() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.start_timeout_seconds = 77.0)
        .await;
    let none = session(&server, |new| new.name = Some("mine".to_owned())).await;
    let explained = server
        .client
        .explain_session("mine")
        .await
        .expect("by name");
    assert_eq!(
        (
            explained.session_id,
            explained.waiting_for,
            explained.agents.len()
        ),
        (none.id, WaitingFor::Agent, 0)
    );
    assert!(
        explained.hints[0].contains("register an agent"),
        "{explained:#?}"
    );

    let agent = server.agent("a", "p", "d", 5).await;
    let offered = agent.claim(1, 5.0).await.remove(0);
    let explained = explain(&server, none.id).await;
    assert_eq!(explained.waiting_for, WaitingFor::Acceptance);
    assert_eq!(explained.next_attempt_at, offered.offered_until);
    assert_eq!(explained.queue_position, None);

    agent.accepts(&offered, ReportedState::Starting).await;
    let explained = explain(&server, none.id).await;
    assert_eq!(explained.waiting_for, WaitingFor::Report);
    let left = explained.next_attempt_at.expect("a deadline") - chrono::Utc::now();
    assert!((60..=77).contains(&left.num_seconds()), "{left}");

    agent.accepts(&offered, ReportedState::Running).await;
    let explained = explain(&server, none.id).await;
    assert_eq!(
        (explained.waiting_for, explained.next_attempt_at),
        (WaitingFor::Nothing, None)
    );
    assert!(explained.hints.is_empty(), "{explained:#?}");

    // It fails, and is tried again after a pause.
    let mut failed = report(&offered, ReportedState::Failed);
    failed.failure = Some(Some(ReportedFailure {
        reason: "crashed".to_owned(),
        message: "exit code 3".to_owned(),
        exit_code: Some(3),
        retryable: true,
        at: None,
    }));
    sql(
        &server,
        "UPDATE pools SET backoff_initial_seconds = 600, backoff_max_seconds = 600",
    )
    .await;
    agent.try_report(vec![failed]).await.expect("it reports");
    let now = server.get(none.id).await;
    let explained = explain(&server, none.id).await;
    assert_eq!(explained.waiting_for, WaitingFor::Backoff, "{explained:#?}");
    assert_eq!(explained.next_attempt_at, now.not_before);
    assert!(explained.summary.contains("crashed"), "{explained:#?}");

    server
        .client
        .delete_session("mine", &Default::default())
        .await
        .expect("it ends");
    let explained = explain(&server, none.id).await;
    assert_eq!(
        (explained.waiting_for, explained.agents.len()),
        (WaitingFor::Nothing, 0)
    );
    assert_eq!(
        refused(server.client.explain_session("nobody").await),
        ProblemCode::SessionNotFound
    );
    server.stop().await;
}

#[tokio::test]
async fn a_hold_that_was_taken_waits_for_who_had_it() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.start_timeout_seconds = 1.0;
            pool.lease_ttl_seconds = 60.0;
        })
        .await;
    let agent = server.agent("a", "p", "d", 5).await;
    let id = server.session("p").await.id;
    let offered = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&offered, ReportedState::Starting).await;
    eventually("the phase deadline takes it away", || async {
        explain(&server, id).await.waiting_for == WaitingFor::Backoff
    })
    .await;
    let explained = explain(&server, id).await;
    assert!(
        explained.summary.contains("its hold was taken from a"),
        "{explained:#?}"
    );
    assert!(explained.next_attempt_at.is_some());
    server.stop().await;
}

#[tokio::test]
async fn a_lost_domain_says_when_what_is_decided() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 2.0;
            pool.on_lost = OnLost::Restart;
            pool.adopt_timeout_seconds = 3600.0;
        })
        .await;
    let agent = server.agent("a", "p", "d", 5).await;
    let id = server.session("p").await.id;
    agent.runs_one().await;
    // Three that fall silent put the brake on, and it holds what would be decided.
    server.agent("b", "p", "e", 5).await;
    server.agent("c", "p", "e", 5).await;
    eventually("the brake holds it", || async {
        let explained = explain(&server, id).await;
        explained.waiting_for == WaitingFor::Domain && explained.summary.contains("brake")
    })
    .await;
    let explained = explain(&server, id).await;
    assert_eq!(explained.next_attempt_at, None, "{explained:#?}");
    let hint = |explained: &Explain, says: &str| explained.hints.iter().any(|h| h.contains(says));
    assert!(
        hint(&explained, "/v1/pools/p/release-brake"),
        "{explained:#?}"
    );
    assert_eq!(verdicts(&explained).get("a"), Some(&AgentVerdict::Expired));
    assert_eq!(explained.queue_position, Some(1));

    server
        .client
        .release_brake("p")
        .await
        .expect("it is released");
    let explained = explain(&server, id).await;
    let left = explained.next_attempt_at.expect("on_lost decides") - chrono::Utc::now();
    assert!((3500..=3600).contains(&left.num_seconds()), "{left}");
    assert!(
        explained.summary.contains("on_lost = restart"),
        "{explained:#?}"
    );
    // With the default nothing is ever decided.
    sql(&server, "UPDATE pools SET on_lost = 'wait'").await;
    let explained = explain(&server, id).await;
    assert_eq!(
        (explained.waiting_for, explained.next_attempt_at),
        (WaitingFor::Domain, None)
    );
    // A wanted end is given all the same.
    server
        .client
        .delete_session(&id.to_string(), &Default::default())
        .await
        .expect("its end is wanted");
    let explained = explain(&server, id).await;
    assert_eq!(explained.waiting_for, WaitingFor::Domain);
    assert!(explained.next_attempt_at.is_some(), "{explained:#?}");
    assert!(hint(&explained, "force=true"), "{explained:#?}");
    server.stop().await;
}

#[tokio::test]
async fn places_in_queues_are_exact_and_owners_have_their_own() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let made = server.sessions("p", 3).await;
    let first = session(&server, |new| new.priority = 10).await;
    let last = session(&server, |new| new.priority = -10).await;
    let owned = session(&server, |new| new.owner = Some("o".to_owned())).await;
    let asks = session(&server, |new| new.requires = gpu()).await;
    let mut places = Vec::new();
    for id in [
        first.id, made[0].id, made[1].id, made[2].id, last.id, owned.id, asks.id,
    ] {
        places.push(explain(&server, id).await.queue_position);
    }
    assert_eq!(places, [1, 2, 3, 4, 5, 1, 1].map(Some));
    let explained = explain(&server, owned.id).await;
    assert!(
        explained.summary.contains("1 other owners"),
        "{explained:#?}"
    );
    // What others hold is in no queue.
    let agent = server.agent("a", "p", "d", 5).await;
    agent.runs_one().await;
    assert_eq!(explain(&server, first.id).await.queue_position, None);
    assert_eq!(explain(&server, made[0].id).await.queue_position, Some(1));
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_polls_at_another_server_is_eligible_and_an_owners_limit_is_told() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let there = server.beside().await;
    let share = OwnerShare {
        weight: 1.0,
        max_running: Some(0),
    };
    server
        .client
        .put_owner("p", "o", &share)
        .await
        .expect("a limit");
    let waits = session(&server, |new| new.owner = Some("o".to_owned())).await;
    let agent = server.agent("a", "p", "d", 5).await;
    let before = explain(&server, waits.id).await;
    assert_eq!(
        verdicts(&before),
        BTreeMap::from([("a", AgentVerdict::NotPolling)])
    );
    let poll = agent.at(&there).park(1, 30.0);
    there.has_parked("p", 1).await;
    let explained = explain(&server, waits.id).await;
    assert_eq!(
        verdicts(&explained),
        BTreeMap::from([("a", AgentVerdict::Eligible)])
    );
    assert_eq!(explained.waiting_for, WaitingFor::Agent);
    assert!(explained.summary.contains("max_running"), "{explained:#?}");
    assert!(explained.hints[0].contains("/owners/"), "{explained:#?}");
    // A claim for no sessions cannot be given it, and a new run has not claimed.
    there.app.begin_stop();
    poll.await.expect("the task").expect("it is answered");
    assert!(agent.claim(0, 0.0).await.is_empty());
    let explained = explain(&server, waits.id).await;
    assert_eq!(
        verdicts(&explained),
        BTreeMap::from([("a", AgentVerdict::NotPolling)])
    );
    assert!(
        detail(&explained, "a").contains("asks for no sessions"),
        "{explained:#?}"
    );
    let mut agent = agent;
    agent.claim(1, 0.0).await;
    agent.restart(&[]).await;
    let explained = explain(&server, waits.id).await;
    assert!(
        detail(&explained, "a").contains("has not claimed since"),
        "{explained:#?}"
    );
    there.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_drain_explains_what_it_waits_for() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let one = server.agent("one", "p", "d", 5).await;
    let ids: Vec<Uuid> = server.sessions("p", 3).await.iter().map(|s| s.id).collect();
    for _ in &ids {
        one.runs_one().await;
    }
    let all = Paging::default();
    assert_eq!(
        refused(server.client.explain_agent_drain("one", &all).await),
        ProblemCode::NotFound
    );
    assert_eq!(
        refused(server.client.explain_pool_drain("p", &all).await),
        ProblemCode::NotFound
    );
    // Nobody could adopt: it waits for an agent, until the deadline.
    let drain = server
        .client
        .drain_agent("one", &DrainRequest::default())
        .await
        .expect("a drain");
    let page = server
        .client
        .explain_agent_drain("one", &all)
        .await
        .expect("a page");
    assert_eq!(page.items.len(), 3);
    for item in &page.items {
        assert_eq!(
            (item.waiting_for, item.next_attempt_at),
            (WaitingFor::Agent, Some(drain.deadline_at)),
            "{item:#?}"
        );
        assert_eq!(item.agents[0].agent, "one");
        assert!(
            item.hints.iter().any(|h| h.contains("domain d")),
            "{item:#?}"
        );
    }
    let counted = async |what: WaitingFor| {
        let line = format!("lessor_explanations_total{{waiting_for=\"{what}\"}}");
        server.metric(&line).await
    };
    assert_eq!(counted(WaitingFor::Agent).await, 3.0);
    assert_eq!(counted(WaitingFor::Report).await, 0.0);
    // One comes, so the holder is asked to let go.
    claimed(&server, "two", "d", Labels::new()).await;
    eventually("the holder is asked", || async {
        explain(&server, ids[0]).await.waiting_for == WaitingFor::Report
    })
    .await;
    assert!(counted(WaitingFor::Report).await >= 1.0);
    let explained = explain(&server, ids[0]).await;
    assert_eq!(explained.next_attempt_at, Some(drain.deadline_at));
    assert!(
        explained.summary.contains("one is asked to let go"),
        "{explained:#?}"
    );
    assert_eq!(
        verdicts(&explained).get("two"),
        Some(&AgentVerdict::Eligible),
        "{explained:#?}"
    );
    // By pages, newest first, without gaps.
    let two = Paging {
        limit: Some(2),
        cursor: None,
    };
    let page = server
        .client
        .explain_agent_drain("one", &two)
        .await
        .expect("a page");
    let seen: Vec<Uuid> = page.items.iter().map(|item| item.session_id).collect();
    assert_eq!(seen, [ids[2], ids[1]]);
    let rest = Paging {
        limit: Some(2),
        cursor: page.next_cursor,
    };
    let page = server
        .client
        .explain_agent_drain("one", &rest)
        .await
        .expect("a page");
    assert_eq!(
        (page.items.len(), page.items[0].session_id, page.next_cursor),
        (1, ids[0], None)
    );
    server
        .client
        .cancel_agent_drain("one")
        .await
        .expect("it is called off");
    let page = server
        .client
        .explain_agent_drain("one", &all)
        .await
        .expect("a page");
    assert!(page.items.is_empty(), "{page:#?}");
    // The same for a pool.
    server
        .client
        .drain_pool("p", &DrainRequest::default())
        .await
        .expect("a drain");
    let page = server
        .client
        .explain_pool_drain("p", &all)
        .await
        .expect("a page");
    assert_eq!(page.items.len(), 3);
    assert_eq!(
        verdicts(&page.items[0]).get("two"),
        Some(&AgentVerdict::Cordoned)
    );
    server.stop().await;
}

#[tokio::test]
async fn people_at_a_terminal_get_a_table() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.agent("a", "p", "d", 5).await;
    let id = server.session("p").await.id;
    let text = reqwest::Client::new()
        .get(format!("{}/v1/sessions/{id}/explain", server.url))
        .header("Accept", "text/plain")
        .send()
        .await
        .expect("an answer");
    assert_eq!(text.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(text.headers()["vary"], "Accept");
    let text = text.text().await.expect("text");
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert!(lines.contains(&vec!["WAITING_FOR", "agent"]), "{text}");
    assert!(
        lines.contains(&vec!["AGENT", "VERDICT", "DETAIL"]),
        "{text}"
    );
    assert!(
        lines.iter().any(|l| l.starts_with(&["a", "not_polling"])),
        "{text}"
    );
    assert!(!text.contains("AGENTS"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn it_locks_nothing_and_renewals_touch_no_index() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 5).await;
    let id = server.session("p").await.id;
    agent.runs_one().await;
    let mut other = server.database.client().await;
    let indexed = "SELECT count(*) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
        WHERE i.indrelid = 'agents'::regclass AND a.attname LIKE 'last_claim%' AND a.attnum = ANY (i.indkey)";
    let indexed: i64 = other.query_one(indexed, &[]).await.expect("indexes").get(0);
    assert_eq!(indexed, 0, "a renewal would not be a HOT update");
    // Nobody can write, nor lock a row for it, while this is held.
    let held = other.transaction().await.expect("a transaction");
    held.batch_execute(
        "LOCK TABLE sessions, agents, pools, drains, resource_domains IN EXCLUSIVE MODE",
    )
    .await
    .expect("the locks");
    let explained = tokio::time::timeout(Duration::from_secs(4), explain(&server, id)).await;
    assert_eq!(explained.expect("it waits for nobody").agents.len(), 1);
    held.rollback().await.expect("released");
    server.stop().await;
}

/// One random situation: agents and a session, as rows.
struct Situation {
    agents: Vec<TestAgent>,
    rows: String,
    session: String,
}

async fn situation(server: &TestServer, random: &Random, pool: &str) -> Situation {
    let mut agents = Vec::new();
    let mut rows = String::new();
    for n in 0..6 {
        let name = format!("{pool}-{n}");
        let domain = format!("d{}", random.below(3));
        let mut agent = server.agent(&name, pool, &domain, 1 + n % 3).await;
        let mut body = agent.registration(&[]);
        if random.percent(60) {
            body.labels = gpu();
        }
        let registered = server.client.register_agent(&name, &body).await;
        agent.incarnation = registered.expect("it registers").incarnation;
        if random.percent(80) {
            agent.claim(1, 0.0).await;
        }
        let (gone, cordoned) = (random.percent(15), random.percent(25));
        rows += &format!(
            "UPDATE agents SET slots_used = {used}, live = {live}, expired_at = {expired},
                 cordoned = {cordoned}, cordon_since = {since}, passed_over_until = {over},
                 last_claim_at = CASE WHEN last_claim_at IS NOT NULL THEN now() END
             WHERE name = '{name}';",
            used = if random.percent(30) { 1 + n % 3 } else { 0 },
            live = !gone,
            expired = if gone { "now()" } else { "NULL" },
            since = if cordoned { "now()" } else { "NULL" },
            over = if random.percent(15) {
                "now() + interval '1 hour'"
            } else {
                "NULL"
            },
        );
        agents.push(agent);
    }
    let (state, desired, domain, lost) = *random.pick(&[
        ("pending", "running", "NULL", false),
        ("running", "running", "'d0'", false),
        ("running", "terminated", "'d0'", false),
        ("hibernated", "running", "'d0'", false),
        ("running", "running", "'d0'", true),
        ("starting", "running", "'d0'", false),
        ("running", "hibernated", "'d0'", false),
    ]);
    let avoid = if random.percent(40) {
        format!("'{pool}-{}', now() + interval '1 hour'", random.below(6))
    } else {
        "NULL, NULL".to_owned()
    };
    let requires = if random.percent(50) {
        "{\"gpu\": \"a100\"}"
    } else {
        "{}"
    };
    let session = format!(
        "DELETE FROM lease_ledger; DELETE FROM sessions WHERE agent_pool = '{pool}';
         INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart, created_at,
             updated_at, queued_at, resource_domain, domain_lost, requires, avoid_agent, avoid_until)
         VALUES (gen_random_uuid(), '{pool}', 'process', '{{}}', '{desired}', '{state}', 'on_failure', now(),
             now(), now(), {domain}, {lost}, '{requires}', {avoid});"
    );
    Situation {
        agents,
        rows,
        session,
    }
}

#[tokio::test]
async fn who_is_called_eligible_is_given_it_and_nobody_else() {
    let random = Random::seeded();
    let server = TestServer::start().await;
    let client = server.database.client().await;
    let mut seen: BTreeMap<AgentVerdict, usize> = BTreeMap::new();
    for round in 0..30 {
        let pool = format!("p{round}");
        server
            .pool(&pool, |pool| {
                pool.lease_ttl_seconds = 600.0;
                pool.adopt_timeout_seconds = 3600.0;
            })
            .await;
        let situation = situation(&server, &random, &pool).await;
        for agent in &situation.agents {
            // Each is asked on the very same situation, since the first to claim would change it.
            client
                .batch_execute(&situation.rows)
                .await
                .expect("the agents");
            client
                .batch_execute(&situation.session)
                .await
                .expect("the session");
            let id = "SELECT id::text FROM sessions WHERE agent_pool = $1";
            let id: String = client.query_one(id, &[&pool]).await.expect("it").get(0);
            let explained = server.client.explain_session(&id).await.expect("an answer");
            assert_eq!(explained.waiting_for == WaitingFor::Domain, {
                let live = "SELECT EXISTS (SELECT FROM agents a JOIN sessions s ON s.resource_domain = a.resource_domain
                    WHERE a.pool = $1 AND s.agent_pool = $1 AND a.live)
                    OR EXISTS (SELECT FROM sessions WHERE agent_pool = $1 AND (resource_domain IS NULL OR domain_lost))";
                !client
                    .query_one(live, &[&pool])
                    .await
                    .expect("agents")
                    .get::<_, bool>(0)
            });
            let verdict = verdicts(&explained)[agent.name.as_str()];
            *seen.entry(verdict).or_default() += 1;
            let given = agent
                .try_claim(1, 0.0)
                .await
                .map(|claimed| claimed.assignments.len());
            // One that does not poll needs only to do so.
            let could = matches!(verdict, AgentVerdict::Eligible | AgentVerdict::NotPolling);
            assert_eq!(
                given.as_ref().is_ok_and(|given| *given == 1),
                could,
                "{} of {explained:#?}\n{given:?}\n{}\n{}",
                agent.name,
                situation.rows,
                situation.session
            );
        }
    }
    assert!(seen.len() >= 7, "too few kinds of situations: {seen:?}");
    server.stop().await;
}

/// How many sessions wait; `LESSOR_TEST_BACKLOG` says otherwise.
fn backlog() -> i64 {
    let set = std::env::var("LESSOR_TEST_BACKLOG").ok();
    set.map_or(200_000, |text| text.parse().expect("a number"))
}

#[tokio::test]
async fn its_cost_has_limits_however_much_waits_and_however_many_agents_there_are() {
    let database = database().await;
    let server = TestServer::over(database, |_| {}).await;
    server.pool("p", |_| {}).await;
    let count = backlog();
    let text = format!(
        "ALTER TABLE sessions SET (autovacuum_enabled = false);
         INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             created_at, updated_at, queued_at)
         SELECT gen_random_uuid(), 'p', 'process', '{{}}', 'running', 'pending', 'on_failure',
             now(), now(), now() + n * interval '1 millisecond' FROM generate_series(1, {count}) n;
         INSERT INTO agents (name, pool, resource_domain, capacity, protocol_version, incarnation, live,
             lease_expires_at, last_heartbeat_at, registered_at, cordoned, cordon_since)
         SELECT 'a' || n, 'p', 'd' || n % 50, 10, 1, n, true, now() + interval '1 hour', now(), now(),
             n > 100, CASE WHEN n > 100 THEN now() END
         FROM generate_series(1, 10000) n"
    );
    sql(&server, &text).await;
    let client = server.database.client().await;
    let at = |place: i64| {
        format!(
            "SELECT id::text FROM sessions ORDER BY queued_at OFFSET {} LIMIT 1",
            place - 1
        )
    };
    for (place, expected) in [
        (1, Some(1)),
        (10_000, Some(10_000)),
        (10_001, None),
        (count, None),
    ] {
        let id: String = client.query_one(&at(place), &[]).await.expect("one").get(0);
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            let explained = server.client.explain_session(&id).await.expect("an answer");
            best = best.min(began.elapsed());
            assert_eq!(explained.queue_position, expected);
            assert_eq!(explained.agents.len(), 200);
            // The most telling come first: the cordoned ones are the many.
            assert_eq!(explained.agents[99].verdict, AgentVerdict::NotPolling);
            assert_eq!(explained.agents[100].verdict, AgentVerdict::Cordoned);
            let hint = "9800 more agents are not listed".to_owned();
            assert!(explained.hints.contains(&hint), "{:?}", explained.hints);
        }
        // Without optimisation, beside other tests; the whole queue would take far longer.
        assert!(best < Duration::from_secs(3), "place {place}: {best:?}");
    }
    // The plan, with and without statistics.
    let facts = include_str!("../src/explain/facts.sql").replace("{limit}", "10001");
    for statistics in ["", "ANALYZE"] {
        client.batch_execute(statistics).await.expect("ANALYZE");
        for mode in ["generic", "custom"] {
            let prepare = format!(
                "SET plan_cache_mode = force_{mode}_plan; DEALLOCATE ALL; PREPARE it (uuid[]) AS {facts}"
            );
            client.batch_execute(&prepare).await.expect("it prepares");
            let explain = "EXPLAIN EXECUTE it ('{00000000-0000-0000-0000-000000000001}')";
            let rows = client.simple_query(explain).await.expect("a plan");
            let lines = rows.iter().filter_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            let plan = lines.collect::<Vec<_>>().join("\n");
            for index in [
                "sessions_start_queue on sessions x",
                "sessions_domain_queue on sessions x",
            ] {
                assert!(
                    plan.contains(index),
                    "{mode} {statistics}: not by {index}:\n{plan}"
                );
            }
            assert!(
                !plan.contains("Seq Scan on sessions"),
                "{mode} {statistics}:\n{plan}"
            );
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn the_runbook_of_explaining() {
    let server = TestServer::start().await;
    server.pool("local", |_| {}).await;
    let agent = server.agent("local-1", "local", "d", 1).await;
    let mut new = NewSession::in_pool("local", &json!({})).expect("a spec");
    new.name = Some("mine".to_owned());
    let cordon = CordonRequest::default();
    server
        .client
        .cordon_agent("local-1", &cordon)
        .await
        .expect("it is cordoned");
    let made = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let said = runbook::run("explain.md", &server.url).await;
    assert!(said.contains("\"waiting_for\":\"agent\""), "{said}");
    assert!(said.contains("\"verdict\":\"cordoned\""), "{said}");
    assert!(said.contains("not_polling"), "{said}");
    assert!(said.contains("\"items\":[]"), "{said}");
    // The drain had nothing to hand over and is over: uncordoned, the agent is given the session.
    let uncordoned = server.client.uncordon_agent("local-1").await;
    uncordoned.expect("it is uncordoned");
    assert_eq!(agent.claim(1, 5.0).await[0].session.id, made.id);
    server.stop().await;
}
