//! The schema: made once whoever comes first, by servers or by `lessor migrate`, and it refuses rows whose
//! state and columns do not belong together.

use std::collections::BTreeSet;
use std::process::Stdio;

use futures_util::future::join_all;
use lessor_protocol::ReportedState;
use tokio::process::Command;

use crate::support::agents::Folder;
use crate::support::postgres::TestDatabase;
use crate::support::process::ServerProcess;
use crate::support::{TestServer, migrations};

/// The migrations that a database says it has had.
async fn noted(database: &TestDatabase) -> i64 {
    let text = "SELECT count(*) FROM __diesel_schema_migrations";
    let row = database.client().await.query_one(text, &[]).await;
    row.expect("the table of migrations").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_start_at_once_on_an_empty_database_migrate_it_once_and_all_serve() {
    const SERVERS: usize = 4;
    let (database, folder) = (TestDatabase::create().await, Folder::new());
    let outputs: Vec<_> = (0..SERVERS)
        .map(|n| folder.0.join(format!("{n}.log")))
        .collect();
    let verbose = [("LESSOR_LOG", "info"), ("LESSOR_LOG_FORMAT", "json")];
    let begun = outputs
        .iter()
        .map(|output| ServerProcess::start_with(&database.url, &verbose, Some(output)));
    // Each panics if its process ends before it is ready.
    let mut servers = join_all(begun).await;
    let ran: Vec<String> = outputs
        .iter()
        .map(|output| std::fs::read_to_string(output).expect("its log"))
        .flat_map(|log| log.lines().map(ToOwned::to_owned).collect::<Vec<_>>())
        .filter(|line| line.contains("the schema was migrated"))
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok())
        .map(|line| line["migration"].as_str().expect("which").to_owned())
        .collect();
    let once: BTreeSet<&String> = ran.iter().collect();
    assert_eq!(ran.len(), migrations().len(), "{ran:#?}");
    assert_eq!(once.len(), ran.len(), "one was run twice: {ran:#?}");
    assert_eq!(noted(&database).await, ran.len() as i64);
    // And they are servers of one schema: what one makes, the others have.
    let first = &servers[0].client;
    first
        .put_pool("p", &lessor_protocol::PoolSpec::on("process"))
        .await
        .expect("the pool is made");
    for server in &servers[1..] {
        server.client.get_pool("p").await.expect("the same pool");
    }
    for server in &mut servers {
        server.kill().await;
    }
}

/// What `lessor migrate` prints on its output; it must succeed.
async fn migrate(url: &str) -> String {
    let ended = Command::new(env!("CARGO_BIN_EXE_lessor"))
        .arg("migrate")
        .env("DATABASE_URL", url)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("it runs");
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).expect("text")
}

#[tokio::test]
async fn migrate_makes_the_schema_says_what_it_ran_and_then_that_there_is_nothing() {
    let database = TestDatabase::create().await;
    let said = migrate(&database.url).await;
    let ran: Vec<&str> = said
        .trim_end()
        .strip_prefix("migrated: ")
        .expect("what it ran")
        .split(", ")
        .collect();
    assert_eq!(ran.len(), migrations().len(), "{said}");
    assert!(ran.is_sorted(), "{said}");
    assert_eq!(noted(&database).await, ran.len() as i64);
    let tables = "SELECT count(*) FROM pg_class WHERE relname IN ('pools', 'agents', 'sessions', 'lease_ledger') \
                  AND relkind = 'r'";
    let row = database.client().await.query_one(tables, &[]).await;
    assert_eq!(row.expect("a number").get::<_, i64>(0), 4);
    assert_eq!(
        migrate(&database.url).await,
        "the schema is up to date\n",
        "there is nothing left to run"
    );
}

/// What must not be, by the name of the constraint that refuses it: what is set where. `held` runs under a
/// lease, `waits` is pending, `ended` is terminated.
const REFUSED: &[(&str, &str)] = &[
    (
        "assignment_is_whole",
        "sessions SET assigned_action = NULL WHERE name = 'held'",
    ),
    (
        "only_an_assignment_is_offered",
        "sessions SET offered_until = now() WHERE name = 'waits'",
    ),
    (
        "only_an_assignment_is_delivered",
        "sessions SET deliver_at = now() WHERE name = 'waits'",
    ),
    (
        "only_a_hold_has_a_phase",
        "sessions SET phase_deadline_at = now() WHERE name = 'waits'",
    ),
    (
        "a_hold_has_a_domain",
        "sessions SET resource_domain = NULL, state = 'pending' WHERE name = 'held'",
    ),
    (
        "what_came_up_has_a_domain",
        "sessions SET state = 'hibernated' WHERE name = 'waits'",
    ),
    (
        "what_rests_is_held_by_nobody",
        "sessions SET state = 'terminated', desired_state = 'terminated', ended_at = now() WHERE name = 'held'",
    ),
    (
        "terminated_is_wanted",
        "sessions SET desired_state = 'running' WHERE name = 'ended'",
    ),
    (
        "only_what_ended_has_an_end",
        "sessions SET ended_at = NULL WHERE name = 'ended'",
    ),
    (
        "only_what_ended_has_an_end",
        "sessions SET ended_at = now() WHERE name = 'waits'",
    ),
    (
        "only_the_unassigned_is_held_back",
        "sessions SET held_back_until = now() WHERE name = 'held'",
    ),
    (
        "a_lost_domain_is_a_domain",
        "sessions SET domain_lost = true WHERE name = 'waits'",
    ),
    (
        "only_a_hold_is_handed_over",
        "sessions SET handing_over = true WHERE name = 'waits'",
    ),
    (
        "what_started_first_started",
        "sessions SET first_started_at = NULL WHERE name = 'held'",
    ),
    (
        "only_a_hand_over_has_a_target",
        "sessions SET reserved_for = 'b' WHERE name = 'held'",
    ),
    (
        "what_has_come_up_has_arrived",
        "sessions SET start_domain = 'd' WHERE name = 'held'",
    ),
    (
        "who_waits_for_a_stop_is_held_back",
        "sessions SET stopping_attempt = 1 WHERE name = 'waits'",
    ),
    (
        "who_waits_for_a_stop_is_held_back",
        "sessions SET stopping_lease_until = now() WHERE name = 'waits'",
    ),
    (
        "a_name_is_of_its_pools_tenant",
        "sessions SET name = 't~waits' WHERE name = 'waits'",
    ),
    (
        "timeouts_are_lengths",
        "sessions SET idle_timeout_seconds = 1, max_duration_seconds = 0 WHERE name = 'waits'",
    ),
    (
        "timeouts_are_lengths",
        "sessions SET idle_timeout_seconds = 0 WHERE name = 'waits'",
    ),
    (
        "sessions_restart_check",
        "sessions SET restart = 'always' WHERE name = 'waits'",
    ),
    (
        "sessions_idle_action_check",
        "sessions SET idle_action = 'wait' WHERE name = 'waits'",
    ),
    (
        "sessions_assigned_action_check",
        "sessions SET assigned_action = 'rest' WHERE name = 'held'",
    ),
    (
        "sessions_state_check",
        "sessions SET state = 'asleep' WHERE name = 'held'",
    ),
    (
        "sessions_check",
        "sessions SET observed_generation = generation + 1 WHERE name = 'held'",
    ),
    (
        "only_the_cordoned_drain",
        "agents SET drain_state = 'draining'",
    ),
    ("a_brake_counts_its_agents", "pools SET brake_since = now()"),
    (
        "a_delivery_is_whole",
        "commands SET delivered_at = NULL WHERE status = 'delivered'",
    ),
    (
        "only_what_was_delivered_has_an_epoch",
        "commands SET status = 'pending' WHERE status = 'delivered'",
    ),
    (
        "what_was_begun_has_an_epoch",
        "commands SET status = 'running', holder = NULL, deliver_at = NULL WHERE status = 'pending'",
    ),
    (
        "only_what_is_over_is_finished",
        "commands SET finished_at = now() WHERE status = 'delivered'",
    ),
    (
        "only_an_answer_has_a_result",
        "commands SET result = '1' WHERE status = 'delivered'",
    ),
    (
        "success_has_no_failure",
        "commands SET failure = '{}' WHERE status = 'delivered'",
    ),
];

/// A session that is held, one that waits, one that has ended, and two commands of which one was delivered.
async fn something_of_each(server: &TestServer) {
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 10).await;
    let named = |name: &str| {
        let mut new =
            lessor_protocol::NewSession::in_pool("p", &serde_json::json!({})).expect("a spec");
        new.name = Some(name.to_owned());
        new
    };
    let create = async |name| {
        let made = server.client.create_session(&named(name), None).await;
        made.expect("made")
    };
    create("ended").await;
    agent
        .accepts(&agent.runs_one().await, ReportedState::Terminated)
        .await;
    let held = create("held").await;
    agent.runs_one().await;
    create("waits").await;
    let path = format!("/v1/sessions/{}/commands", held.id);
    let exec = serde_json::json!({"kind": "exec"}).to_string();
    server.send("POST", &path, exec.as_str()).await.ok(201);
    let told = agent.try_claim(0, 5.0).await.expect("it may claim");
    assert_eq!(told.commands.len(), 1);
    server.send("POST", &path, exec.as_str()).await.ok(201);
}

#[tokio::test]
async fn rows_whose_state_and_columns_do_not_belong_together_are_refused() {
    let server = TestServer::start().await;
    something_of_each(&server).await;
    let mut client = server.database.client().await;
    for (constraint, change) in REFUSED {
        let wrong = client.execute(&format!("UPDATE {change}"), &[]).await;
        let error = wrong.expect_err(change);
        let error = error.as_db_error().expect("PostgreSQL says no");
        assert_eq!(
            (error.code().code(), error.constraint()),
            ("23514", Some(*constraint)),
            "{change}: {error}"
        );
        // Nothing else forbids it, and there is such a row: without this constraint it is taken.
        let table = change.split(' ').next().expect("a table");
        let undone = client.transaction().await.expect("a transaction");
        let drop = format!("ALTER TABLE {table} DROP CONSTRAINT {constraint}");
        undone.batch_execute(&drop).await.expect(constraint);
        let taken = undone.execute(&format!("UPDATE {change}"), &[]).await;
        assert_eq!(taken.expect(change), 1, "{change}");
        undone.rollback().await.expect("as it was");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_agent_has_a_name_of_its_pools_tenant_and_keeps_it() {
    let server = TestServer::start().await;
    for pool in ["p", "q", "t~p"] {
        server.pool(pool, |_| {}).await;
    }
    server.agent("a", "p", "d", 1).await;
    let client = server.database.client().await;
    let copied = |name: &str, pool: &str| {
        format!(
            "INSERT INTO agents (name, pool, resource_domain, capacity, protocol_version, incarnation, live,
                lease_expires_at, last_heartbeat_at, registered_at)
            SELECT '{name}', '{pool}', resource_domain, capacity, protocol_version, incarnation, live,
                lease_expires_at, last_heartbeat_at, registered_at
            FROM agents WHERE name = 'a'"
        )
    };
    let is_not = "an_agent_is_of_its_pools_tenant";
    for (constraint, change) in [
        (Some("agents_name_check"), copied("A", "p")),
        (Some("agents_name_check"), copied("t~u~a", "t~p")),
        (Some("agent_names_pkey"), copied("a", "p")),
        (Some(is_not), copied("b", "t~p")),
        (Some(is_not), copied("t~a", "p")),
        (Some(is_not), copied("u~a", "t~p")),
        (Some(is_not), "UPDATE agents SET pool = 't~p'".to_owned()),
        (None, "UPDATE agents SET name = 'b'".to_owned()),
    ] {
        let error = client.execute(&change, &[]).await.expect_err(&change);
        let error = error.as_db_error().expect("PostgreSQL says no");
        assert!(error.code().code().starts_with("23"), "{change}: {error}");
        assert_eq!(error.constraint(), constraint, "{change}: {error}");
    }
    for change in [
        copied("t~a", "t~p"),
        copied("b", "p"),
        "UPDATE agents SET pool = 'q' WHERE name = 'a'".to_owned(),
        "UPDATE agents SET capacity = 2 WHERE name = 'a'".to_owned(),
    ] {
        assert_eq!(client.execute(&change, &[]).await.expect(&change), 1);
    }
    server.stop().await;
}
