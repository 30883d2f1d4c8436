//! What is put into a queue below the place up to which it has been emptied.

use std::time::{Duration, Instant};

use lessor_protocol::{Outcome, ReportedState, Session, SessionPatch};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{TestAgent, TestServer, report};

/// Less than the shortest time between two checks of what is below.
const AT_ONCE: Duration = Duration::from_secs(3);

/// So many claims that dispatchers remember where the queue goes on.
const MANY: usize = 100;

/// A session that is not committed yet, queued some time ago.
async fn insert(client: &Client, seconds_ago: i32) -> Uuid {
    let id = Uuid::now_v7();
    let text = format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             created_at, updated_at, queued_at)
         VALUES ('{id}', 'p', 'process', '{{}}', 'running', 'pending', 'on_failure',
             now(), now(), now() - interval '{seconds_ago} s')"
    );
    client.batch_execute(&text).await.expect("a session");
    id
}

/// Lets what waits have been queued some time ago.
async fn age(client: &Client, condition: &str, seconds: i32) {
    let text = format!(
        "UPDATE sessions SET queued_at = queued_at - interval '{seconds} s' WHERE {condition}"
    );
    client.batch_execute(&text).await.expect("it has waited");
}

/// A server and an agent that has emptied a queue whose sessions had waited for a minute; the last one
/// is still there when the last but one is claimed.
async fn emptied() -> (TestServer, TestAgent, Client) {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.accept_timeout_seconds = 600.0)
        .await;
    let client = server.database.client().await;
    server.sessions("p", MANY + 1).await;
    age(&client, "true", 60).await;
    let agent = server.agent("a", "p", "d", 1_000).await;
    for count in [MANY - 1, 1, 1] {
        let count = i32::try_from(count).expect("few");
        let given = agent.claim(count, 0.0).await;
        assert_eq!(given.len(), count as usize);
        let reports = given.iter().map(|g| report(g, ReportedState::Starting));
        let accepted = agent.try_report(reports.collect()).await.expect("reports");
        assert!(accepted.iter().all(|r| r.outcome == Outcome::Accepted));
    }
    (server, agent, client)
}

async fn patched(server: &TestServer, id: Uuid, priority: i32) -> Session {
    let patch = SessionPatch {
        priority: Some(priority),
        ..SessionPatch::default()
    };
    let patched = server.client.patch_session(&id.to_string(), &patch).await;
    patched.expect("it is changed")
}

#[tokio::test]
async fn what_is_committed_late_and_announced_by_nobody_is_claimed() {
    let (server, agent, client) = emptied().await;
    // It was begun before all that was claimed since, and nobody says that it has come.
    client.batch_execute("BEGIN").await.expect("BEGIN");
    let late = insert(&client, 3_600).await;
    let parked = agent.park(1, 30.0);
    server.has_parked("p", 1).await;
    client.batch_execute("COMMIT").await.expect("COMMIT");
    let given = parked.await.expect("it ends").expect("it is answered");
    let given: Vec<Uuid> = given.assignments.iter().map(|a| a.session.id).collect();
    assert_eq!(given, [late]);
    server.stop().await;
}

#[tokio::test]
async fn what_is_put_below_by_a_server_is_claimed_at_once() {
    let (server, agent, client) = emptied().await;
    // It waits behind all others, and comes to stand before all of them.
    let old = server.session("p").await;
    patched(&server, old.id, -10).await;
    age(&client, "pool_work = 'start'", 3_600).await;
    let another = server.session("p").await;
    age(&client, &format!("id = '{}'", another.id), 60).await;
    let given = agent.claim(1, 0.0).await;
    assert_eq!(given[0].session.id, another.id, "its priority is greater");
    agent.accepts(&given[0], ReportedState::Starting).await;
    let given = agent.claim(0, 0.0).await;
    assert!(given.is_empty());
    let begun = Instant::now();
    patched(&server, old.id, 0).await;
    let given = agent.claim(1, 20.0).await;
    assert_eq!(given[0].session.id, old.id);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    server.stop().await;
}

#[tokio::test]
async fn what_has_a_greater_priority_comes_first_and_what_lapses_comes_back() {
    let (server, agent, _client) = emptied().await;
    let low = server.session("p").await;
    let high = server.session("p").await;
    patched(&server, high.id, 10).await;
    let begun = Instant::now();
    let given = agent.claim(1, 0.0).await;
    assert_eq!(given[0].session.id, high.id);
    let declined = report(&given[0], ReportedState::Declined);
    agent
        .try_report(vec![declined])
        .await
        .expect("it is declined");
    let other = server.agent("b", "p", "d", 10).await;
    let given = other.claim(1, 20.0).await;
    assert_eq!(given[0].session.id, high.id);
    other.accepts(&given[0], ReportedState::Starting).await;
    let given = other.claim(1, 20.0).await;
    assert_eq!(given[0].session.id, low.id);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    server.stop().await;
}
