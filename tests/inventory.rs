//! Inventories: nothing wanted is told `delete`, nothing unwanted stays, and what is gone is found.

use std::collections::{BTreeMap, BTreeSet};

use lessor_client::{DeleteSession, LeftoverFilter};
use lessor_protocol::{
    Assignment, Heartbeat, Inventory, InventoryResource, Leftover, LeftoverKind, OnLost,
    ProblemCode, ReportedState, Session, SessionState, Verdict,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::agents::{Folder, ProcessAgent, pid_of, state_of, with_word};
use crate::support::checks::{count, refused, the_books_agree};
use crate::support::random::Random;
use crate::support::{TestAgent, TestServer, eventually, report, runbook};

use Verdict::{Delete, Keep, Quarantine};

/// Sends an inventory that was begun so long ago; the verdicts in order.
async fn tells(agent: &TestAgent, ago: f64, resources: &[InventoryResource]) -> Vec<Verdict> {
    try_tell(agent, ago, resources)
        .await
        .expect("the inventory is taken")
}

async fn try_tell(
    agent: &TestAgent,
    ago: f64,
    resources: &[InventoryResource],
) -> Result<Vec<Verdict>, lessor_client::Error> {
    let body = Inventory {
        incarnation: agent.incarnation,
        taken_seconds_ago: ago,
        resources: resources.to_vec(),
    };
    let answer = agent.client.send_inventory(&agent.name, &body).await?;
    let names: Vec<&str> = answer
        .verdicts
        .iter()
        .map(|v| v.platform_resource_id.as_str())
        .collect();
    let sent: Vec<&str> = resources
        .iter()
        .map(|r| r.platform_resource_id.as_str())
        .collect();
    assert_eq!(names, sent, "one verdict each, in order");
    Ok(answer.verdicts.into_iter().map(|v| v.verdict).collect())
}

fn named(name: &str) -> InventoryResource {
    InventoryResource::named(name)
}

/// The resource that [`TestAgent::runs_one`] reports.
fn resource_of(session: &Session) -> InventoryResource {
    named(&format!("resource-{}", session.id)).of(session.id, session.attempt)
}

async fn leftovers(server: &TestServer) -> Vec<Leftover> {
    let filter = LeftoverFilter::default();
    server
        .client
        .list_leftovers(&filter)
        .await
        .expect("a page")
        .items
}

async fn fails(agent: &TestAgent, assignment: &Assignment) {
    agent.accepts(assignment, ReportedState::Failed).await;
}

async fn delete(server: &TestServer, id: Uuid) {
    server
        .client
        .delete_session(&id.to_string(), &DeleteSession::default())
        .await
        .expect("202");
}

#[tokio::test]
async fn what_is_wanted_is_kept_and_what_has_ended_or_runs_elsewhere_is_deleted() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.pool("q", |_| {}).await;
    let a = server.agent("a", "p", "d", 10).await;
    let b = server.agent("b", "p", "e", 10).await;
    let c = server.agent("c", "q", "d", 10).await;
    let ended = server.session("p").await;
    let assignment = a.runs_one().await;
    delete(&server, ended.id).await;
    a.accepts(
        &Assignment {
            generation: 2,
            ..assignment
        },
        ReportedState::Terminated,
    )
    .await;
    let here = server.session("p").await;
    a.runs_one().await;
    let elsewhere = server.session("p").await;
    b.runs_one().await;
    let in_other_pool = server.session("q").await;
    c.runs_one().await;
    // Nobody has a slot left for it in this test: nobody claims.
    let pending = server.session("p").await;
    let stranger = Uuid::now_v7();
    let here = server.get(here.id).await;
    let cases = [
        (resource_of(&here), Keep),
        // Labels can lie about what is known to run a session.
        (named("x-ended").of(ended.id, 1), Delete),
        (named("x-here").of(here.id, 1), Keep),
        (named("x-pending").of(pending.id, 1), Keep),
        (named("x-elsewhere").of(elsewhere.id, 1), Delete),
        (named("x-other-pool").of(in_other_pool.id, 1), Delete),
        (named("x-stranger").of(stranger, 1), Quarantine),
        (named("x-plain"), Quarantine),
        // Domains that share a platform see each other's: that very resource is left alone.
        (resource_of(&elsewhere), Keep),
        (resource_of(&in_other_pool), Keep),
    ];
    let resources: Vec<_> = cases.iter().map(|(resource, _)| resource.clone()).collect();
    let expected: Vec<_> = cases.iter().map(|(_, verdict)| *verdict).collect();
    assert_eq!(tells(&a, 0.0, &resources).await, expected);
    let lie = named(&format!("resource-{}", here.id)).of(ended.id, 1);
    assert_eq!(tells(&a, 0.0, &[lie]).await, [Keep]);
    // Listed twice with labels that disagree: what speaks for keeping wins.
    let twice = [named("t").of(ended.id, 1), named("t").of(here.id, 1)];
    assert_eq!(tells(&a, 0.0, &twice).await, [Keep, Keep]);
    assert!(server.metric("lessor_inventories_total").await >= 3.0);
    assert!(
        server
            .metric("lessor_verdicts_total{verdict=\"delete\"}")
            .await
            >= 3.0
    );
    server.stop().await;
}

#[tokio::test]
async fn a_leftover_is_deleted_then_forgotten_and_still_deleted_if_it_comes_late() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.backoff_initial_seconds = 0.0)
        .await;
    let a = server.agent("a", "p", "d", 10).await;
    let session = server.session("p").await;
    let first = a.runs_one().await;
    let old = resource_of(&first.session);
    fails(&a, &first).await;
    let listed = leftovers(&server).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (
            listed[0].kind,
            listed[0].session_id,
            listed[0].attempt,
            listed[0].delete_after
        ),
        (LeftoverKind::Leftover, Some(session.id), Some(1), None)
    );
    assert_eq!(
        listed[0].platform_resource_id.as_deref(),
        Some(&*old.platform_resource_id)
    );
    let second = a.runs_one().await;
    assert_eq!(second.session.attempt, 2);
    // The first attempt's own name now runs the second: it is kept. By label it is not.
    let by_label = named("other-name").of(session.id, 1);
    assert_eq!(
        tells(&a, 0.0, &[by_label.clone(), old.clone()]).await,
        [Delete, Keep]
    );
    assert_eq!(leftovers(&server).await.len(), 1, "it is still there");
    // Begun before it was recorded: says nothing about it.
    assert_eq!(tells(&a, 3600.0, &[]).await, []);
    assert_eq!(leftovers(&server).await.len(), 1);
    // Another agent of another domain does not have it, which says nothing either.
    let b = server.agent("b", "p", "e", 10).await;
    tells(&b, 0.0, &[]).await;
    assert_eq!(leftovers(&server).await.len(), 1);
    tells(&a, 0.0, std::slice::from_ref(&old)).await;
    assert!(leftovers(&server).await.is_empty(), "it is gone");
    let events = server
        .client
        .session_events(&session.id.to_string(), &Default::default())
        .await
        .expect("the timeline");
    let told = events
        .items
        .iter()
        .find(|event| event.kind == "session.leftover_deleted")
        .expect("the timeline tells of it");
    assert_eq!(told.data["attempt"], 1);
    // Begun by an agent that was slow to stop.
    assert_eq!(tells(&a, 0.0, &[by_label]).await, [Delete]);
    assert_eq!(leftovers(&server).await.len(), 1, "it is listed again");
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn the_unknown_is_kept_for_its_time_then_deleted_and_forgotten_when_it_is_gone() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.quarantine_seconds = 1.0).await;
    let a = server.agent("a", "p", "d", 10).await;
    let stranger = named("s").of(Uuid::now_v7(), 3);
    // That it was seen long ago does not shorten its time.
    let both = [named("u"), stranger.clone()];
    assert_eq!(tells(&a, 3600.0, &both).await, [Quarantine, Quarantine]);
    let listed = leftovers(&server).await;
    assert_eq!(listed.len(), 2);
    for item in &listed {
        assert_eq!(item.kind, LeftoverKind::Quarantined);
        let after = item.delete_after.expect("its time ends");
        assert_eq!((after - item.since).num_milliseconds(), 1000);
    }
    eventually("their time is over", || async {
        tells(&a, 0.0, &both).await == [Delete, Delete]
    })
    .await;
    // A late inventory without them forgets nothing; a new one does.
    tells(&a, 60.0, &[]).await;
    assert_eq!(leftovers(&server).await.len(), 2);
    tells(&a, 0.0, &[stranger]).await;
    assert_eq!(leftovers(&server).await.len(), 1);
    // Come back, it is as new.
    assert_eq!(tells(&a, 0.0, &[named("u")]).await, [Quarantine]);
    server.stop().await;
}

#[tokio::test]
async fn leftovers_are_listed_by_page_and_filter_and_as_a_table() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let a = server.agent("a", "p", "d", 10).await;
    let b = server.agent("b", "p", "e", 10).await;
    let many: Vec<_> = (0..5).map(|n| named(&format!("u{n}"))).collect();
    tells(&a, 0.0, &many).await;
    tells(&b, 0.0, &[named("v")]).await;
    server.session("p").await;
    fails(&a, &a.runs_one().await).await;
    let mut seen = BTreeSet::new();
    let mut filter = LeftoverFilter {
        pool: Some("p".to_owned()),
        ..LeftoverFilter::default()
    };
    filter.paging.limit = Some(2);
    loop {
        let page = server.client.list_leftovers(&filter).await.expect("a page");
        assert!(page.items.len() <= 2);
        for item in page.items {
            assert!(seen.insert(item.id.clone()), "{} comes twice", item.id);
        }
        filter.paging.cursor = page.next_cursor;
        if filter.paging.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 7);
    for (query, expected) in [
        ("kind=leftover", 1),
        ("kind=quarantined", 6),
        ("resource_domain=e", 1),
        ("pool=other", 0),
        ("kind=quarantined&resource_domain=d&pool=p", 5),
    ] {
        let page = server
            .send("GET", &format!("/v1/leftovers?{query}"), "")
            .await
            .ok(200);
        assert_eq!(
            page["items"].as_array().map(Vec::len),
            Some(expected),
            "{query}"
        );
    }
    let table = reqwest::Client::new()
        .get(format!("{}/v1/leftovers", server.url))
        .header("accept", "text/plain")
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("text");
    assert!(
        table.starts_with("KIND") && table.lines().count() == 8,
        "{table}"
    );
    for wrong in ["kind=x", "limit=0", "cursor=abc", "colour=red"] {
        server
            .send("GET", &format!("/v1/leftovers?{wrong}"), "")
            .await
            .is_problem(422, "validation_failed", wrong);
    }
    eventually("the gauges are set", || async {
        server.find_metric("lessor_quarantined{pool=\"p\"}").await == Some(6.0)
            && server.find_metric("lessor_leftovers{pool=\"p\"}").await == Some(1.0)
    })
    .await;
    server.stop().await;
}

/// A running session of agent `a`, in a pool with these settings.
async fn one_running(max_attempts: i32) -> (TestServer, TestAgent, Session) {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.max_attempts = max_attempts;
            pool.backoff_initial_seconds = 0.0;
        })
        .await;
    let a = server.agent("a", "p", "d", 10).await;
    let session = server.session("p").await;
    a.runs_one().await;
    let session = server.get(session.id).await;
    (server, a, session)
}

#[tokio::test]
async fn a_resource_that_is_gone_is_found_by_two_inventories_and_the_session_starts_anew() {
    let (server, a, session) = one_running(5).await;
    tells(&a, 0.0, &[]).await;
    assert_eq!(
        server.get(session.id).await.state,
        SessionState::Running,
        "once is not enough"
    );
    // Seen again: the count begins anew.
    tells(&a, 0.0, &[resource_of(&session)]).await;
    tells(&a, 0.0, &[]).await;
    assert_eq!(
        server.get(session.id).await.state,
        SessionState::Running,
        "not two in a row"
    );
    // The same again, retried, and one that was begun before the first had come.
    tells(&a, 30.0, &[]).await;
    assert_eq!(
        server.get(session.id).await.state,
        SessionState::Running,
        "a duplicate"
    );
    tells(&a, 0.0, &[]).await;
    let gone = server.get(session.id).await;
    assert_eq!((gone.state, gone.attempt), (SessionState::Pending, 2));
    assert_eq!(gone.assigned_agent_id, None);
    assert_eq!(gone.failure.expect("why").reason, "resource_gone");
    // Its holder is told until it says that it has dropped it.
    assert_eq!(a.beat().await.expect("live").lost, [session.id]);
    assert_eq!(a.try_claim(0, 0.0).await.expect("live").lost, [session.id]);
    let dropped = Heartbeat {
        incarnation: a.incarnation,
        activity: Vec::new(),
        dropped: vec![lessor_protocol::HeldSession {
            session_id: session.id,
            lease_epoch: session.lease_epoch,
        }],
    };
    let beat = a.client.heartbeat(&a.name, &dropped).await.expect("live");
    assert!(beat.lost.is_empty());
    let again = a.runs_one().await;
    assert_eq!(again.session.attempt, 2);
    // What the first attempt may have left is a leftover, and it is not there.
    tells(&a, 0.0, &[resource_of(&again.session)]).await;
    assert!(leftovers(&server).await.is_empty());
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn with_no_attempts_left_it_is_a_dead_letter() {
    let (server, a, session) = one_running(1).await;
    tells(&a, 0.0, &[]).await;
    tells(&a, 0.0, &[]).await;
    let failed = server.get(session.id).await;
    assert_eq!(failed.state, SessionState::Failed);
    assert_eq!(failed.failure.expect("why").reason, "resource_gone");
    assert_eq!(a.beat().await.expect("live").lost, [session.id]);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_inventory_from_before_the_start_and_others_partial_views_harm_nothing() {
    let (server, a, session) = one_running(5).await;
    let b = server.agent("b", "p", "d", 10).await;
    for _ in 0..3 {
        // Taken before the session came up, processed after it.
        tells(&a, 60.0, &[]).await;
        // Another agent of the domain sees nothing of it.
        tells(&b, 0.0, &[]).await;
    }
    let now = server.get(session.id).await;
    assert_eq!(
        (now.state, now.lease_epoch),
        (SessionState::Running, session.lease_epoch)
    );
    assert_eq!(
        count(&server, "SELECT count(*) FROM absent_resources").await,
        0
    );
    // A change between two inventories: the first does not count any more.
    tells(&a, 0.0, &[]).await;
    let patch = lessor_protocol::SessionPatch {
        priority: Some(3),
        ..Default::default()
    };
    server
        .client
        .patch_session(&session.id.to_string(), &patch)
        .await
        .expect("200");
    tells(&a, 0.0, &[]).await;
    assert_eq!(server.get(session.id).await.state, SessionState::Running);
    // Starting: it may have come up after the agent looked.
    let starting = server.session("p").await;
    let assignment = a.claim(1, 5.0).await.remove(0);
    a.accepts(&assignment, ReportedState::Starting).await;
    tells(&a, 0.0, &[resource_of(&session)]).await;
    tells(&a, 0.0, &[resource_of(&session)]).await;
    assert_eq!(server.get(starting.id).await.state, SessionState::Starting);
    server.stop().await;
}

#[tokio::test]
async fn an_inventory_is_wanted_at_registration_after_its_time_and_for_a_leftover() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.inventory_every_seconds = 3600.0)
        .await;
    let mut a = server.agent("a", "p", "d", 10).await;
    let b = server.agent("b", "p", "e", 10).await;
    let wanted = |agent: &TestAgent| {
        let agent = agent.clone();
        async move {
            let beat = agent.beat().await.expect("live").inventory_wanted;
            let claim = agent
                .try_claim(0, 0.0)
                .await
                .expect("live")
                .inventory_wanted;
            assert_eq!(beat, claim, "heartbeats and claims say the same");
            beat
        }
    };
    assert!(wanted(&a).await, "after the registration");
    assert!(wanted(&b).await);
    tells(&a, 0.0, &[]).await;
    tells(&b, 0.0, &[]).await;
    assert!(!wanted(&a).await && !wanted(&b).await);
    server.session("p").await;
    fails(&a, &a.runs_one().await).await;
    assert!(wanted(&a).await, "its domain has a leftover");
    assert!(!wanted(&b).await, "and the other has not");
    tells(&a, 0.0, &[]).await;
    assert!(!wanted(&a).await);
    // The same run registers again: nothing new. Another run: it has seen nothing.
    a.register(&[]).await;
    assert!(!wanted(&a).await);
    a.restart(&[]).await;
    assert!(wanted(&a).await, "a new incarnation");
    tells(&a, 4000.0, &[]).await;
    assert!(wanted(&a).await, "that one was older than the interval");
    tells(&a, 0.0, &[]).await;
    assert!(!wanted(&a).await);
    server
        .client
        .patch_pool("p", &json!({"inventory_every_seconds": 1}))
        .await
        .expect("200");
    eventually("its time has come", || async {
        a.beat().await.expect("live").inventory_wanted
    })
    .await;
    assert!(wanted(&a).await);
    server.stop().await;
}

#[tokio::test]
async fn heartbeats_touch_no_index() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let a = server.agent("a", "p", "d", 10).await;
    for _ in 0..20 {
        tells(&a, 0.0, &[]).await;
        a.beat().await.expect("live");
    }
    // The counters of a connection come some time after its transactions.
    eventually("the updates are counted", || async {
        count(
            &server,
            "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'agents'",
        )
        .await
            >= 40
    })
    .await;
    let cold = "SELECT n_tup_upd - n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'agents'";
    assert!(count(&server, cold).await <= 2);
    server.stop().await;
}

#[tokio::test]
async fn only_the_current_run_of_a_live_agent_may_send_one() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 2.0).await;
    let mut a = server.agent("a", "p", "d", 10).await;
    let old = a.clone();
    a.restart(&[]).await;
    assert_eq!(
        refused(try_tell(&old, 0.0, &[]).await),
        ProblemCode::AgentSuperseded
    );
    let mut nobody = a.clone();
    nobody.name = "nobody".to_owned();
    assert_eq!(
        refused(try_tell(&nobody, 0.0, &[]).await),
        ProblemCode::AgentNotRegistered
    );
    eventually("its lease ends", || async {
        let agent = server.client.get_agent("a").await.expect("it is there");
        agent.availability == lessor_protocol::Availability::Expired
    })
    .await;
    let unknown = [named("u")];
    assert_eq!(
        refused(try_tell(&a, 0.0, &unknown).await),
        ProblemCode::LeaseExpired
    );
    assert!(
        leftovers(&server).await.is_empty(),
        "nothing of it was taken"
    );
    server.stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let a = server.agent("a", "p", "d", 10).await;
    let with = |field: &str, value: serde_json::Value| {
        let mut body =
            json!({"incarnation": a.incarnation, "resources": [{"platform_resource_id": "r"}]});
        match field.strip_prefix("r.") {
            Some(field) => body["resources"][0][field] = value,
            None => body[field] = value,
        }
        body.to_string()
    };
    let path = "/v1/agents/a/inventory";
    let resources = "/resources/0";
    for (body, pointer) in [
        (
            with("taken_seconds_ago", json!(-1)),
            "/taken_seconds_ago".to_owned(),
        ),
        (
            with("taken_seconds_ago", json!(86_401)),
            "/taken_seconds_ago".to_owned(),
        ),
        (
            with("r.platform_resource_id", json!("")),
            format!("{resources}/platform_resource_id"),
        ),
        (
            with("r.platform_resource_id", json!("x".repeat(1025))),
            format!("{resources}/platform_resource_id"),
        ),
        (
            with("r.platform_resource_id", json!("a\0b")),
            format!("{resources}/platform_resource_id"),
        ),
        (with("r.attempt", json!(-1)), format!("{resources}/attempt")),
        (
            with("r.state", json!("x".repeat(257))),
            format!("{resources}/state"),
        ),
        (
            with("r.session_id", json!("x")),
            format!("{resources}/session_id"),
        ),
        (
            with("r.colour", json!("red")),
            format!("{resources}/colour"),
        ),
        (
            with(
                "resources",
                json!(vec![json!({"platform_resource_id": "r"}); 10_001]),
            ),
            "/resources".to_owned(),
        ),
    ] {
        let answer = server.send("POST", path, body).await;
        answer.is_problem(422, "validation_failed", &pointer);
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{answer:?}");
    }
    server
        .send("POST", path, "{")
        .await
        .is_problem(400, "malformed_json", "no JSON");
    server
        .send("GET", path, "")
        .await
        .is_problem(405, "method_not_allowed", "GET");
    // As many as there can be, twice.
    let many: Vec<_> = (0..10_000).map(|n| named(&format!("r{n}"))).collect();
    for _ in 0..2 {
        assert!(
            tells(&a, 0.0, &many)
                .await
                .iter()
                .all(|verdict| *verdict == Quarantine)
        );
    }
    assert_eq!(
        count(&server, "SELECT count(*) FROM quarantined_resources").await,
        10_000
    );
    server.stop().await;
}

/// What really runs on the platform of a domain.
type Platform = BTreeMap<String, InventoryResource>;

#[tokio::test]
async fn random_work_at_three_servers_one_call_after_another_deletes_what_is_unwanted_and_nothing_else()
 {
    let first = TestServer::start().await;
    let servers = [first.beside().await, first.beside().await, first];
    let server = &servers[2];
    server
        .pool("p", |pool| {
            pool.backoff_initial_seconds = 0.0;
            pool.max_attempts = 100;
            pool.quarantine_seconds = 3600.0;
        })
        .await;
    let random = Random::seeded();
    let mut agents = Vec::new();
    for n in 0..20 {
        let agent = server
            .agent(&format!("a{n}"), "p", &format!("d{}", n % 4), 10)
            .await;
        agents.push(agent.at(&servers[n % 3]));
    }
    let sessions = server.sessions("p", 60).await;
    let mut platforms: BTreeMap<String, Platform> = BTreeMap::new();
    let mut held: Vec<(usize, Assignment)> = Vec::new();
    for round in 0..120 {
        let n = random.below(20);
        let agent = &agents[n];
        match random.below(4) {
            // Claims and runs what comes; each attempt has a resource of its own.
            0 | 1 => {
                for assignment in agent.claim(3, 0.0).await {
                    let session = &assignment.session;
                    let name = format!("{}-{}", session.id, session.attempt);
                    let mut up = report(&assignment, ReportedState::Running);
                    up.platform_resource_id = Some(Some(name.clone()));
                    agent.try_report(vec![up]).await.expect("taken");
                    let platform = platforms.entry(agent.domain.clone()).or_default();
                    platform.insert(name.clone(), named(&name).of(session.id, session.attempt));
                    held.push((n, assignment));
                }
            }
            // One fails and leaves its resource running.
            2 if !held.is_empty() => {
                let (n, assignment) = held.swap_remove(random.below(held.len()));
                agents[n].reports(&assignment, ReportedState::Failed).await;
            }
            _ => {
                let platform = platforms.entry(agent.domain.clone()).or_default();
                look_around(server, agent, platform, random.below(2) as f64 * 5.0).await;
            }
        }
        if round % 10 == 0 {
            for agent in &agents {
                agent.beat().await.expect("live");
            }
        }
    }
    // One interval later.
    for agent in &agents {
        let platform = platforms.entry(agent.domain.clone()).or_default();
        look_around(server, agent, platform, 0.0).await;
    }
    let mut wanted = BTreeSet::new();
    for session in &sessions {
        let now = server.get(session.id).await;
        if now.state == SessionState::Running {
            wanted.insert(now.platform_resource_id.expect("a resource"));
        }
    }
    let runs: BTreeSet<String> = platforms.values().flat_map(|p| p.keys().cloned()).collect();
    assert!(!wanted.is_empty());
    assert_eq!(
        runs, wanted,
        "all that runs is wanted, and all that is wanted runs"
    );
    for agent in &agents {
        let all: Vec<_> = platforms[&agent.domain].values().cloned().collect();
        tells(agent, 0.0, &all).await;
    }
    assert!(leftovers(server).await.is_empty());
    the_books_agree(server).await;
    for server in servers {
        server.stop().await;
    }
}

/// An inventory of a domain; what it says to delete is deleted, and must not be wanted.
async fn look_around(server: &TestServer, agent: &TestAgent, platform: &mut Platform, ago: f64) {
    let all: Vec<_> = platform.values().cloned().collect();
    let verdicts = tells(agent, ago, &all).await;
    for (resource, verdict) in all.iter().zip(verdicts) {
        assert_ne!(verdict, Quarantine, "{resource:?} is known");
        if verdict == Delete {
            let session = server.get(resource.session_id.expect("labelled")).await;
            let wanted =
                session.platform_resource_id.as_ref() == Some(&resource.platform_resource_id);
            assert!(!wanted, "{resource:?} runs {session:?}");
            platform.remove(&resource.platform_resource_id);
        }
    }
}

#[tokio::test]
async fn a_lost_domain_that_returns_ends_what_it_left_and_not_what_runs_elsewhere() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 2.0;
            pool.on_lost = OnLost::Restart;
            pool.adopt_timeout_seconds = 0.5;
        })
        .await;
    let (there, here) = (Folder::new(), Folder::new());
    let start = |domain: &str, name: &str, folder: &Folder| {
        ProcessAgent::start_in(domain, &server.url, "p", name, &folder.0)
    };
    let first = start("there", "a", &there);
    let word = format!("3600.1{}", std::process::id());
    let new = lessor_protocol::NewSession::in_pool(
        "p",
        &json!({"command": ["sh", "-c", format!("sleep {word} & wait")]}),
    )
    .expect("a spec");
    let session = server
        .client
        .create_session(&new, None)
        .await
        .expect("made");
    let before = server.reaches(session.id, SessionState::Running).await;
    first.kill().await;
    let _second = start("here", "b", &here);
    eventually("it runs in the other domain", || async {
        let now = server.get(session.id).await;
        now.state == SessionState::Running && now.resource_domain.as_deref() == Some("here")
    })
    .await;
    let after = server.get(session.id).await;
    assert_eq!(after.attempt, 2);
    assert!(
        state_of(pid_of(&before)).is_some(),
        "the old process runs on"
    );
    eventually("both attempts run", || async {
        with_word(&word).len() == 2
    })
    .await;
    assert_eq!(leftovers(&server).await.len(), 1);

    let _returned = start("there", "a", &there);
    eventually("the old process was ended by its verdict", || async {
        state_of(pid_of(&before)).is_none() && with_word(&word).len() == 1
    })
    .await;
    eventually("the leftover is forgotten", || async {
        leftovers(&server).await.is_empty()
    })
    .await;
    let now = server.get(session.id).await;
    assert_eq!(
        (now.state, now.lease_epoch, &now.platform_resource_id),
        (
            SessionState::Running,
            after.lease_epoch,
            &after.platform_resource_id
        )
    );
    assert!(
        state_of(pid_of(&after)).is_some(),
        "the new one is untouched"
    );
    delete(&server, session.id).await;
    server.reaches(session.id, SessionState::Terminated).await;
    server.stop().await;
}

#[tokio::test]
async fn a_process_killed_by_somebody_else_is_noticed_by_its_agent_and_leaves_nothing() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 2.0;
            pool.backoff_initial_seconds = 0.0;
        })
        .await;
    let folder = Folder::new();
    let _agent = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let new = lessor_protocol::NewSession::in_pool("p", &json!({"command": ["sleep", "3600"]}))
        .expect("a spec");
    let session = server
        .client
        .create_session(&new, None)
        .await
        .expect("made");
    let before = server.reaches(session.id, SessionState::Running).await;
    let pid = rustix::process::Pid::from_raw(pid_of(&before)).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("SIGKILL");
    eventually("it runs again", || async {
        let now = server.get(session.id).await;
        now.state == SessionState::Running && now.attempt == 2
    })
    .await;
    assert_ne!(
        server.get(session.id).await.platform_resource_id,
        before.platform_resource_id
    );
    // It waits for the very process: what it says of it is how that ended, and no inventory was needed.
    let of = |reason| format!("SELECT count(*) FROM event_history WHERE reason = '{reason}'");
    assert!(count(&server, &of("exited")).await > 0);
    assert_eq!(count(&server, &of("resource_gone")).await, 0);
    eventually("no leftover stays", || async {
        leftovers(&server).await.is_empty()
    })
    .await;
    delete(&server, session.id).await;
    server.reaches(session.id, SessionState::Terminated).await;
    server.stop().await;
}

#[tokio::test]
async fn the_page_on_leftovers_can_be_typed() {
    let server = TestServer::start().await;
    let said = runbook::run("leftovers.md", &server.url).await;
    assert!(
        said.contains("\"delete\"") && said.contains("\"quarantine\""),
        "{said}"
    );
    server.stop().await;
}
