//! Reports of many agents at the same time.

use std::sync::Arc;

use lessor_protocol::{Outcome, ReportedState};

use crate::support::{TestServer, eventually, report};

/// What somebody else has locked keeps its own agent waiting, and nobody else, however many there are of
/// that kind.
#[tokio::test]
async fn no_agent_waits_for_another_ones_session() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let mut given = Vec::new();
    for n in 0..6 {
        let agent = server.agent(&format!("a{n}"), "p", "d", 1).await;
        server.session("p").await;
        let claimed = agent.claim(1, 5.0).await;
        given.push((Arc::new(agent), claimed[0].clone()));
    }
    let sql = server.database.client().await;
    sql.batch_execute("BEGIN").await.expect("it begins");
    let (free, locked) = given.split_last().expect("there are some");
    for (_, assignment) in locked {
        let lock = format!(
            "SELECT FROM sessions WHERE id = '{}' FOR UPDATE",
            assignment.session.id
        );
        sql.batch_execute(&lock).await.expect("it is locked");
    }
    let waiting: Vec<_> = locked
        .iter()
        .map(|(agent, assignment)| {
            let (agent, report) = (
                Arc::clone(agent),
                report(assignment, ReportedState::Running),
            );
            tokio::spawn(async move { agent.try_report(vec![report]).await })
        })
        .collect();
    // All of them are at it, which the database knows.
    let watching = Arc::new(server.database.client().await);
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock'";
    eventually("five wait for a lock", || {
        let watching = Arc::clone(&watching);
        async move {
            let count: i64 = watching
                .query_one(blocked, &[])
                .await
                .expect("a count")
                .get(0);
            count == 5
        }
    })
    .await;
    let (agent, assignment) = free;
    let results = agent
        .try_report(vec![report(assignment, ReportedState::Running)])
        .await
        .expect("it is taken");
    assert_eq!(results[0].outcome, Outcome::Accepted);
    assert!(
        waiting.iter().all(|task| !task.is_finished()),
        "the others wait"
    );
    sql.batch_execute("COMMIT").await.expect("it ends");
    for task in waiting {
        let results = task.await.expect("it ends well").expect("it is taken");
        assert_eq!(results[0].outcome, Outcome::Accepted);
    }
    server.stop().await;
}
