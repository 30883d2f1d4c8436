//! A session that comes alone while an agent is parked: made and offered by one statement, and only where nothing
//! speaks against it.

use std::collections::BTreeSet;

use lessor_protocol::{
    Action, Labels, NewSession, OwnerShare, PoolSpec, ProblemCode, ReportedState,
};
use serde_json::json;
use uuid::Uuid;

use crate::creating::{Parked, assert_taken_back, given, is_idle, make, new, transactions, waits};
use crate::support::checks::{count, refused, the_books_agree};
use crate::support::{TestAgent, TestServer, eventually};

/// The agent of a pool of its own, whose next session comes by one statement: it has been given one before.
async fn ready(server: &TestServer, pool: &str, max_sessions: i32) -> (TestAgent, Parked) {
    server.pool(pool, |_| {}).await;
    let agent = server.agent(&format!("a-{pool}"), pool, "d", 4).await;
    let parked = park(server, pool, &agent, max_sessions).await;
    let first = make(server, new(pool)).await;
    assert!(first.offered_until.is_some(), "{pool}: {first:?}");
    for given in given(parked).await {
        agent.accepts(&given, ReportedState::Running).await;
    }
    let parked = park(server, pool, &agent, max_sessions).await;
    (agent, parked)
}

async fn park(server: &TestServer, pool: &str, agent: &TestAgent, max_sessions: i32) -> Parked {
    let parked = agent.park(max_sessions, 30.0);
    server.has_parked(pool, 1).await;
    is_idle(server, pool).await;
    parked
}

/// How often one was tried to be made by one statement.
async fn lone(server: &TestServer) -> f64 {
    transactions(server, "claims::lone").await
}

#[tokio::test]
async fn a_session_that_comes_alone_is_made_and_offered_by_one_statement() {
    let server = TestServer::start().await;
    let (agent, parked) = ready(&server, "p", 1).await;
    // What waits elsewhere is nobody's concern here.
    server.pool("elsewhere", |_| {}).await;
    make(&server, new("elsewhere")).await;
    let rounds = server.metric("lessor_claim_statements_total").await;
    let asked = NewSession {
        name: Some("mine".to_owned()),
        owner: Some("o".to_owned()),
        labels: Labels::from([("team".to_owned(), "red".to_owned())]),
        ..new("p")
    };
    let session = make(&server, asked).await;
    assert_eq!(lone(&server).await, 1.0);
    let otherwise = transactions(&server, "claims::make_and_offer").await;
    assert_eq!(otherwise, 1.0, "only the first one");
    assert_eq!(session.assigned_agent_id.as_deref(), Some("a-p"));
    assert_eq!((session.lease_epoch, session.version), (1, 1));
    let given = given(parked).await.pop().expect("it was given one");
    assert_eq!((given.action, given.lease_epoch), (Action::Start, 1));
    assert_eq!(given.offered_until, session.offered_until);
    assert_eq!(
        json!(given.session),
        json!(session),
        "both were told the same"
    );
    assert_eq!(json!(server.get(session.id).await), json!(session));
    let accepts_in = session.offered_until.expect("it is offered") - session.created_at;
    let rules = PoolSpec::on("process");
    assert_eq!(accepts_in.as_seconds_f64(), rules.accept_timeout_seconds);
    let after = server.metric("lessor_claim_statements_total").await;
    assert_eq!(after, rounds + 1.0, "one round and no more");
    let together = "SELECT count(*) FROM sessions s JOIN lease_ledger l ON l.session_id = s.id
        JOIN agents a ON a.name = s.assigned_agent_id
        WHERE s.name = 'mine' AND s.xmin = l.xmin AND s.xmin = a.xmin AND a.slots_used = 2
            AND l.offered_at = s.created_at AND s.deliver_at = s.created_at";
    assert_eq!(count(&server, together).await, 1, "not by one transaction");
    let told =
        "SELECT count(*) FROM event_history c JOIN event_history o ON o.session_id = c.session_id
        JOIN sessions s ON s.id = c.session_id
        WHERE s.name = 'mine' AND c.kind = 'session.created' AND o.kind = 'session.offered'
            AND c.at = s.created_at AND o.at = s.created_at AND c.position < o.position
            AND c.lease_epoch = 0 AND o.lease_epoch = 1 AND o.agent = 'a-p' AND c.agent IS NULL";
    eventually("both events have positions", || async {
        count(&server, told).await == 1
    })
    .await;
    agent.accepts(&given, ReportedState::Running).await;
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_has_changed_since_it_was_parked_is_offered_nothing() {
    let server = TestServer::start().await;
    server.pool("elsewhere", |_| {}).await;
    let sql = server.database.client().await;
    let changes = [
        "live = false, expired_at = now()",
        "cordoned = true, cordon_since = now()",
        "incarnation = incarnation + 1",
        "claim_number = claim_number + 1",
        "slots_used = capacity",
        "passed_over_until = now() + interval '1 hour'",
        "pool = 'elsewhere'",
    ];
    for (n, change) in changes.iter().enumerate() {
        let pool = format!("p{n}");
        let (_agent, parked) = ready(&server, &pool, 1).await;
        let text = format!("UPDATE agents SET {change} WHERE pool = $1");
        sql.execute(&text, &[&pool]).await.expect("it changes");
        let session = make(&server, new(&pool)).await;
        assert_eq!(session.assigned_agent_id, None, "{change}: {session:?}");
        parked.abort();
    }
    assert_eq!(lone(&server).await, 7.0);
    let made = count(&server, "SELECT count(*) FROM sessions").await;
    assert_eq!(made, 14, "each is made once");
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_somebody_has_in_hand_is_not_waited_for() {
    let server = TestServer::start().await;
    let (_agent, parked) = ready(&server, "p", 1).await;
    let mut sql = server.database.client().await;
    let held = sql.transaction().await.expect("a transaction");
    let lock = "SELECT FROM agents FOR UPDATE";
    held.execute(lock, &[]).await.expect("it is locked");
    let session = make(&server, new("p")).await;
    assert_eq!(session.assigned_agent_id, None);
    held.rollback().await.expect("it ends");
    assert_eq!(given(parked).await[0].session.id, session.id);
    assert_eq!(lone(&server).await, 1.0);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn what_comes_first_by_the_rules_comes_first() {
    let server = TestServer::start().await;
    let sql = server.database.client().await;

    // A session that waits already.
    let (agent, parked) = ready(&server, "p", 1).await;
    let older = waits(&sql, None, "{}").await;
    let session = make(&server, new("p")).await;
    assert_eq!(session.assigned_agent_id, None);
    assert_eq!(given(parked).await[0].session.id, older, "the older one");
    let second = agent.claim(2, 5.0).await;
    let ids: BTreeSet<Uuid> = second.iter().map(|given| given.session.id).collect();
    assert!(ids.contains(&session.id), "{second:?}");

    // An owner's limit.
    let (_agent, parked) = ready(&server, "limited", 4).await;
    let share = OwnerShare {
        weight: 1.0,
        max_running: Some(0),
    };
    let put = server.client.put_owner("limited", "o", &share).await;
    put.expect("a share");
    is_idle(&server, "limited").await;
    let of = NewSession {
        owner: Some("o".to_owned()),
        ..new("limited")
    };
    let session = make(&server, of).await;
    assert_eq!(session.assigned_agent_id, None, "{session:?}");
    parked.abort();

    // Other work of the agent, of which nobody was told.
    let (_agent, parked) = ready(&server, "busy", 4).await;
    let adoptable = "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
            created_at, updated_at, queued_at, resource_domain)
        VALUES (gen_random_uuid(), 'busy', 'process', '{}', 'running', 'running', 'on_failure', now(), now(), now(),
            'd')";
    sql.execute(adoptable, &[]).await.expect("it runs");
    let session = make(&server, new("busy")).await;
    assert_eq!(session.assigned_agent_id, None);
    let first = given(parked).await;
    assert_eq!(first[0].action, Action::Adopt, "{first:?}");

    // What was taken from it, which it hears of at the same time.
    let (_agent, parked) = ready(&server, "lost", 4).await;
    let lost = "INSERT INTO lost_holds (agent, incarnation, session_id, lease_epoch, lease_expires_at)
        SELECT name, incarnation, gen_random_uuid(), 7, lease_expires_at FROM agents WHERE pool = 'lost'";
    sql.execute(lost, &[]).await.expect("it is noted");
    make(&server, new("lost")).await;
    let claimed = parked.await.expect("it ends").expect("it may claim");
    let counts = (claimed.assignments.len(), claimed.lost.len());
    assert_eq!(counts, (1, 1), "{claimed:?}");

    assert_eq!(lone(&server).await, 4.0);
    server.stop().await;
}

#[tokio::test]
async fn what_has_changed_of_the_pool_since_the_last_one_holds_for_the_next() {
    let server = TestServer::start().await;
    let (agent, parked) = ready(&server, "p", 1).await;
    server
        .pool("p", |pool| pool.accept_timeout_seconds = 7.5)
        .await;
    let sql = server.database.client().await;
    let mut parked = Some(parked);
    // The old way, which finds it out, and by one statement again.
    for (made, floor) in [
        (1.0, 1),
        (1.0, 1),
        (2.0, 1),
        (3.0, 50),
        (3.0, 50),
        (4.0, 50),
    ] {
        let raise = "UPDATE fences SET lease_epoch_floor = greatest(lease_epoch_floor, $1)";
        sql.execute(raise, &[&i64::from(floor)])
            .await
            .expect("raised");
        let session = make(&server, new("p")).await;
        let accepts_in = session.offered_until.expect("it is offered") - session.created_at;
        assert_eq!(accepts_in.as_seconds_f64(), 7.5);
        assert_eq!(session.lease_epoch, i64::from(floor));
        assert_eq!(lone(&server).await, made, "{session:?}");
        let ended = given(parked.take().expect("it is parked")).await;
        agent.accepts(&ended[0], ReportedState::Terminated).await;
        parked = Some(park(&server, "p", &agent, 1).await);
    }
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn one_that_cannot_be_made_is_refused_for_its_own_reason() {
    let server = TestServer::start().await;
    let elsewhere = NewSession {
        region: Some("eu".to_owned()),
        ..new("region")
    };
    let on_docker = NewSession {
        platform: Some("docker".to_owned()),
        ..new("platform")
    };
    let taken = NewSession {
        name: Some("taken".to_owned()),
        ..new("name")
    };
    server.pool("q", |_| {}).await;
    let first = NewSession {
        name: Some("taken".to_owned()),
        ..new("q")
    };
    make(&server, first).await;
    for (pool, new, code) in [
        ("region", elsewhere, ProblemCode::NoMatchingPool),
        ("platform", on_docker, ProblemCode::NoMatchingPool),
        ("name", taken, ProblemCode::NameTaken),
    ] {
        let (_agent, parked) = ready(&server, pool, 1).await;
        let asked = server.client.create_session(&new, None).await;
        assert_eq!(refused(asked), code);
        assert!(!parked.is_finished(), "{pool}: it waits still");
        parked.abort();
    }
    assert_eq!(lone(&server).await, 3.0);
    the_books_agree(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_hung_up_meanwhile_has_the_offer_taken_back() {
    let server = TestServer::start().await;
    let (agent, parked) = ready(&server, "p", 1).await;
    assert_taken_back(&server, &agent, parked).await;
    assert_eq!(lone(&server).await, 1.0);
    server.stop().await;
}
