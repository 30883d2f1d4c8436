//! While a transaction is open anywhere that is old, nothing that was deleted or changed since is cleaned up:
//! what is long done must not be walked over again and again.

use lessor_protocol::ReportedState;
use tokio_postgres::Client;

use crate::support::TestServer;
use crate::support::checks::{everything_has_a_position, of_index};

/// As a backup does: it sees the database as it is now, and writes nothing.
async fn hold(server: &TestServer) -> Client {
    let holder = server.database.client().await;
    let text = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pools";
    holder.batch_execute(text).await.expect("a transaction");
    holder
}

#[tokio::test]
async fn what_has_its_position_is_not_walked_over() {
    const MANY: usize = 3_000;
    const STEPS: i64 = 40;
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let (holder, database) = (hold(&server).await, server.database.clone());
    let client = database.client().await;
    for _ in 0..3 {
        server.sessions("p", MANY / 3).await;
    }
    everything_has_a_position(&server).await;
    // From here on by a server whose counts begin at nothing.
    server.stop().await;
    let before = of_index(&client, "idx_tup_read", "event_inbox_pkey").await;
    let server = TestServer::over(database.clone(), |_| {}).await;
    for _ in 0..STEPS {
        server.sessions("p", 1).await;
        everything_has_a_position(&server).await;
    }
    server.stop().await;
    let read = of_index(&client, "idx_tup_read", "event_inbox_pkey").await - before;
    println!("{read} entries of the inbox were read in {STEPS} steps and more");
    assert!(read > 0);
    let many = i64::try_from(MANY).expect("a number");
    assert!(read < many * STEPS / 2, "{read}");
    holder.batch_execute("COMMIT").await.expect("it ends");
}

#[tokio::test]
async fn what_an_agent_was_told_is_not_walked_over() {
    const MANY: i32 = 500;
    const TIMES: i64 = 5;
    const CLAIMS: i64 = 40;
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.accept_timeout_seconds = 600.0)
        .await;
    let (holder, database) = (hold(&server).await, server.database.clone());
    let client = database.client().await;
    let agent = server.agent("a", "p", "d", 1_000).await;
    server.sessions("p", 600).await;
    let accept = async |most: i32| {
        let given = agent.claim(most, 5.0).await;
        for assignment in &given {
            agent.accepts(assignment, ReportedState::Starting).await;
        }
        assert_eq!(given.len(), usize::try_from(most).expect("a number"));
    };
    accept(MANY).await;
    // As if all of it had been due, and told, hours ago.
    for hours in 1..=TIMES {
        for at in [&format!("now() - interval '{hours} hours'"), "NULL"] {
            let text = format!(
                "UPDATE sessions SET deliver_at = {at} WHERE assigned_agent_id IS NOT NULL"
            );
            client.batch_execute(&text).await.expect("they were due");
        }
    }
    accept(1).await;
    let claims = async || {
        for _ in 0..CLAIMS {
            accept(1).await;
        }
    };
    claims().await;
    server.stop().await;
    let read = of_index(&client, "idx_tup_read", "sessions_by_assignee").await;
    println!("{read} entries of what is held were read in {CLAIMS} claims and before");
    assert!(read > 0);
    assert!(read < i64::from(MANY) * TIMES * CLAIMS / 2, "{read}");
    holder.batch_execute("COMMIT").await.expect("it ends");
}
