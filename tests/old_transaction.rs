//! While a transaction is open anywhere that is old, nothing that was deleted or changed since is cleaned up:
//! what is long done must not be walked over again and again. Agents are therefore changed where their newest
//! version was found; what somebody else replaces meanwhile must be changed all the same.

use lessor::sessions::write_texts;
use lessor::store::PLANNED_ONCE;
use lessor_protocol::ReportedState;
use tokio_postgres::Client;

use crate::support::checks::{WAIT_FOR_LOCKS, count, everything_has_a_position, of_index};
use crate::support::{TestServer, eventually};

/// As a backup does: it sees the database as it is now, and writes nothing.
async fn hold(server: &TestServer) -> Client {
    let holder = server.database.client().await;
    let text = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pools";
    holder.batch_execute(text).await.expect("a transaction");
    holder
}

/// How many versions of an agent its beats leave.
const VERSIONS: i64 = 3_000;

/// As if each agent had beaten for hours.
async fn beat(client: &Client) {
    let text = format!(
        "DO $$ BEGIN FOR n IN 1..{VERSIONS} LOOP
            UPDATE agents SET last_heartbeat_at = now(); END LOOP; END $$"
    );
    client.batch_execute(&text).await.expect("versions");
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

#[tokio::test]
async fn the_versions_of_an_agent_are_not_walked_over() {
    const CLAIMS: i64 = 40;
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1_000).await;
    let (holder, database) = (hold(&server).await, server.database.clone());
    let client = database.client().await;
    beat(&client).await;
    server
        .sessions("p", usize::try_from(CLAIMS).expect("a number"))
        .await;
    let before = of_index(&client, "idx_tup_read", "agents_by_name").await;
    for _ in 0..CLAIMS {
        let given = agent.claim(1, 5.0).await;
        assert_eq!(given.len(), 1);
        agent.accepts(&given[0], ReportedState::Starting).await;
    }
    server.stop().await;
    let read = of_index(&client, "idx_tup_read", "agents_by_name").await - before;
    println!("{read} entries of agents were read in {CLAIMS} claims");
    assert!(read > 0);
    // Of one look from the oldest on: one for each page, which has some twenty.
    assert!(read < CLAIMS * VERSIONS / 30, "{read}");
    holder.batch_execute("COMMIT").await.expect("it ends");
}

#[tokio::test]
async fn whose_assignees_are_gone_is_found_without_a_walk_over_the_versions_of_the_others() {
    const HELD: i64 = 200;
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 1_000).await;
    let (holder, database) = (hold(&server).await, server.database.clone());
    let client = database.client().await;
    server
        .sessions("p", usize::try_from(HELD).expect("a number"))
        .await;
    for assignment in agent.claim(1_000, 5.0).await {
        agent.accepts(&assignment, ReportedState::Running).await;
    }
    beat(&client).await;
    server.stop().await;
    // As where nothing is known of how many sessions there are, so that a look for each seems to be the least.
    let text = "DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I SET enable_hashjoin = off', current_database());
            EXECUTE format('ALTER DATABASE %I SET enable_mergejoin = off', current_database());
        END $$";
    client.batch_execute(text).await.expect("settings");
    let before = of_index(&client, "idx_tup_read", "agents_by_name").await;
    let server = TestServer::over(database.clone(), |_| {}).await;
    // One of them has an assignee that was never there.
    let lose = "UPDATE sessions SET assigned_agent_id = 'nobody'
        WHERE id = (SELECT id FROM sessions ORDER BY id LIMIT 1)";
    client.batch_execute(lose).await.expect("it is lost");
    let swept = lessor::leases::release_orphans(&server.app).await;
    swept.expect("it is swept");
    let free = "SELECT count(*) FROM sessions WHERE assigned_agent_id IS NULL";
    assert_eq!(count(&server, free).await, 1);
    let others = "SELECT count(*) FROM sessions WHERE assigned_agent_id = 'a'";
    assert_eq!(count(&server, others).await, HELD - 1);
    server.stop().await;
    let read = of_index(&client, "idx_tup_read", "agents_by_name").await - before;
    println!("{read} entries of agents were read for {HELD} sessions");
    // Of a look for each of them: one for each page, which has some twenty.
    assert!(read < HELD * VERSIONS / 30, "{read}");
    holder.batch_execute("COMMIT").await.expect("it ends");
}

#[tokio::test]
async fn what_was_due_once_is_not_walked_over_at_each_look() {
    const TIMES: i64 = 3_000;
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 10).await;
    let (holder, database) = (hold(&server).await, server.database.clone());
    let client = database.client().await;
    server.sessions("p", 1).await;
    let assignment = agent.claim(1, 5.0).await.remove(0);
    agent.accepts(&assignment, ReportedState::Starting).await;
    // As if as many offers had been accepted, some of which would have lapsed by now, and some later.
    for at in ["now() - interval '1 hour'", "now() + interval '1 hour'"] {
        let text = format!(
            "DO $$ BEGIN FOR n IN 1..{TIMES} LOOP
                UPDATE sessions SET phase_deadline_at = {at} + n * interval '1 ms'; END LOOP;
                UPDATE sessions SET phase_deadline_at = now() + interval '2 hours'; END $$"
        );
        client.batch_execute(&text).await.expect("deadlines");
    }
    server.stop().await;
    let before = of_index(&client, "idx_tup_read", "sessions_due").await;
    let server = TestServer::over(database.clone(), |_| {}).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    // It is found all the same, and so were those that it would have walked over.
    let over = "UPDATE sessions SET phase_deadline_at = now()";
    client.batch_execute(over).await.expect("its time is over");
    eventually("it is taken back", || async {
        count(
            &server,
            "SELECT count(*) FROM sessions WHERE assigned_agent_id IS NULL",
        )
        .await
            == 1
    })
    .await;
    server.stop().await;
    let read = of_index(&client, "idx_tup_read", "sessions_due").await - before;
    println!("{read} entries of what is due were read in three seconds");
    // The first look is at all of it; there were a dozen.
    assert!(read < 4 * TIMES, "{read}");
    holder.batch_execute("COMMIT").await.expect("it ends");
}

#[tokio::test]
async fn whose_cordon_is_over_is_found_without_a_look_at_each_version_of_each_agent() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.agent("a", "p", "d", 10).await;
    let (holder, database) = (hold(&server).await, server.database.clone());
    let client = database.client().await;
    beat(&client).await;
    client.batch_execute(PLANNED_ONCE).await.expect("settings");
    let text = include_str!("../src/upkeep/cordons.sql");
    let plan = client.query(&format!("EXPLAIN {text}"), &[]).await;
    let plan: Vec<String> = plan.expect("a plan").iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("agents_by_end_of_cordon"), "{plan}");
    server.stop().await;
    holder.batch_execute("COMMIT").await.expect("it ends");
}

/// Changes agent `a` in a transaction that is still open.
async fn changing(server: &TestServer) -> Client {
    let other = server.database.client().await;
    let text = "BEGIN; UPDATE agents SET slots_used = slots_used + 2 WHERE name = 'a'";
    other.batch_execute(text).await.expect("it is changed");
    other
}

async fn somebody_waits(server: &TestServer) {
    eventually("somebody waits for it", || async {
        count(server, WAIT_FOR_LOCKS).await > 0
    })
    .await;
}

#[tokio::test]
async fn a_lease_is_renewed_whose_agent_somebody_else_changed_meanwhile() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 10).await;
    let other = changing(&server).await;
    let beat = tokio::spawn({
        let agent = agent.clone();
        async move { agent.beat().await }
    });
    somebody_waits(&server).await;
    other.batch_execute("COMMIT").await.expect("it ends");
    beat.await.expect("the task").expect("it is renewed");
    let beaten =
        "SELECT count(*) FROM agents WHERE last_heartbeat_at > registered_at AND slots_used = 2";
    assert_eq!(count(&server, beaten).await, 1);
}

#[tokio::test]
async fn slots_are_counted_whose_agent_somebody_else_changed_meanwhile() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.agent("a", "p", "d", 10).await;
    let other = changing(&server).await;
    let client = server.database.client().await;
    let effects = r#"{"(a,3,0,f)"}"#;
    let [_, text, again] = write_texts();
    let write = tokio::spawn(async move {
        let statement = format!(
            "PREPARE it AS {text};
             EXECUTE it ('{{}}', '{effects}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}')"
        );
        let rows = client.simple_query(&statement).await.expect("it writes");
        let uncounted = rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                row.get("uncounted").map(ToOwned::to_owned)
            }
            _ => None,
        });
        uncounted.expect("a row")
    });
    somebody_waits(&server).await;
    other.batch_execute("COMMIT").await.expect("it ends");
    // It says that it did not count them, so the next statement does.
    assert_eq!(write.await.expect("the task"), "{a}");
    let slots = "SELECT sum(slots_used)::bigint FROM agents";
    assert_eq!(count(&server, slots).await, 2);
    let client = server.database.client().await;
    let text = format!("PREPARE it AS {again}; EXECUTE it ('{effects}')");
    client.batch_execute(&text).await.expect("it counts");
    assert_eq!(count(&server, slots).await, 2 + 3);
}
