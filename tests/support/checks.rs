//! What several files of tests look at: why a call was refused, and whether sessions, agents and
//! ledger tell the same story.

use lessor_client::Error;
use lessor_protocol::{EndReason, LedgerItem, ProblemCode};
use uuid::Uuid;

use super::TestServer;

/// Every row of every table that a session could be in, but for what upkeep writes by itself.
pub async fn dump(client: &tokio_postgres::Client) -> String {
    let tables =
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        AND relname NOT IN ('pulse', '__diesel_schema_migrations') ORDER BY relname";
    let mut all = String::new();
    for table in client.query(tables, &[]).await.expect("tables") {
        let table: String = table.get(0);
        let text = format!(
            "SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM {table} t"
        );
        let rows: String = client.query_one(&text, &[]).await.expect("rows").get(0);
        all += &format!("{table}\n{rows}\n");
    }
    all
}

/// Has what this connection did until now counted at once, and not some time after it: PostgreSQL 15 and later can.
pub async fn count_now(client: &tokio_postgres::Client) {
    let text = "DO $$ BEGIN
        IF to_regproc('pg_stat_force_next_flush') IS NOT NULL THEN PERFORM pg_stat_force_next_flush(); END IF;
    END $$";
    client.batch_execute(text).await.expect("it is counted");
}

/// What the database has counted of an index (`idx_scan`, `idx_tup_read`), as far as it was told: by
/// connections that have ended.
pub async fn of_index(client: &tokio_postgres::Client, column: &str, index: &str) -> i64 {
    let clear = "SELECT pg_stat_clear_snapshot()";
    client.query_one(clear, &[]).await.expect("new numbers");
    let text = format!("SELECT {column} FROM pg_stat_user_indexes WHERE indexrelname = $1");
    let row = client.query_one(&text, &[&index]).await;
    row.expect("an index").get(0)
}

/// How many connections wait for a lock at this moment.
pub const WAIT_FOR_LOCKS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// The statement that writes these events as any writer does.
pub fn tells(columns: &str, events: &str) -> String {
    format!(
        "WITH told AS (INSERT INTO events ({columns}) {events} RETURNING batch) \
         INSERT INTO event_inbox (batch) SELECT t.batch FROM told t"
    )
}

/// Waits until all that was committed has its position in the stream.
pub async fn everything_has_a_position(server: &TestServer) {
    super::eventually("everything has a position", || async {
        count(server, "SELECT count(*) FROM event_inbox").await == 0
    })
    .await;
}

/// The problem that a call ended with; panics where it did not.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> ProblemCode {
    match result {
        Ok(value) => panic!("it was not refused but {value:#?}"),
        Err(error) => error
            .code()
            .unwrap_or_else(|| panic!("no problem but {error}")),
    }
}

/// The ledger of a session, oldest first.
pub async fn ledger(server: &TestServer, id: Uuid) -> Vec<LedgerItem> {
    let mut items = server
        .client
        .session_leases(&id.to_string(), &Default::default())
        .await
        .expect("the ledger")
        .items;
    items.sort_by_key(|item| item.lease_epoch);
    items
}

/// Why each assignment of a session ended, oldest first; none for one that has not.
pub async fn ends(server: &TestServer, id: Uuid) -> Vec<Option<EndReason>> {
    let items = ledger(server, id).await;
    items.into_iter().map(|item| item.end_reason).collect()
}

/// The states that a session has been in since it first ran.
pub async fn states_since_it_ran(server: &TestServer, id: Uuid) -> Vec<String> {
    let timeline = server
        .client
        .session_events(&id.to_string(), &Default::default())
        .await
        .expect("its timeline");
    let mut moves: Vec<_> = timeline
        .items
        .into_iter()
        .filter(|event| event.kind == "session.state_changed" && event.from != event.to)
        .filter_map(|event| event.to)
        .collect();
    moves.reverse();
    let ran = moves.iter().position(|to| to == "running").expect("it ran");
    moves.split_off(ran)
}

/// The kinds of the events about an agent, or about a pool where none is named, oldest first.
pub async fn history(server: &TestServer, pool: &str, agent: Option<&str>) -> Vec<String> {
    let client = server.database.client().await;
    let text = "SELECT kind FROM event_history WHERE session_id IS NULL AND pool = $1 \
                AND agent IS NOT DISTINCT FROM $2 ORDER BY position, batch, ordinal";
    let rows = client.query(text, &[&pool, &agent]).await;
    let rows = rows.expect("the query");
    rows.iter().map(|row| row.get(0)).collect()
}

/// A number that a query finds.
pub async fn count(server: &TestServer, query: &str) -> i64 {
    let client = server.database.client().await;
    let row = client.query_one(query, &[]).await.expect("the query");
    row.get(0)
}

/// The leftovers of a session: domain, attempt and resource.
pub async fn leftovers(server: &TestServer, id: Uuid) -> Vec<(String, i32, Option<String>)> {
    let client = server.database.client().await;
    let text = "SELECT resource_domain, attempt, platform_resource_id FROM leftovers \
                WHERE session_id::text = $1 ORDER BY id";
    let rows = client
        .query(text, &[&id.to_string()])
        .await
        .expect("the query");
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

/// Whether ledger, sessions and agents agree: one open line for each assignment and none besides,
/// every ended one with its reason, epochs that rise with time, slots counted right.
pub async fn the_books_agree(server: &TestServer) {
    let client = server.database.client().await;
    let checks = [
        (
            "an assignment without its open line in the ledger",
            "SELECT s.id::text FROM sessions s WHERE s.assigned_agent_id IS NOT NULL AND NOT EXISTS (
                SELECT FROM lease_ledger l WHERE l.session_id = s.id AND l.lease_epoch = s.lease_epoch
                AND l.agent = s.assigned_agent_id AND l.incarnation = s.assigned_incarnation
                AND l.ended_at IS NULL AND (l.accepted_at IS NULL) = (s.offered_until IS NOT NULL))",
        ),
        (
            "an open line without an assignment",
            "SELECT l.session_id::text FROM lease_ledger l WHERE l.ended_at IS NULL AND NOT EXISTS (
                SELECT FROM sessions s WHERE s.id = l.session_id AND s.lease_epoch = l.lease_epoch
                AND s.assigned_agent_id = l.agent)",
        ),
        (
            "an end without a reason, or before its beginning",
            "SELECT session_id::text FROM lease_ledger
                WHERE (ended_at IS NULL) <> (end_reason IS NULL) OR ended_at < offered_at
                OR accepted_at < offered_at OR ended_at < accepted_at",
        ),
        (
            "an epoch that began before the one below it had ended",
            "SELECT a.session_id::text FROM lease_ledger a JOIN lease_ledger b
                ON b.session_id = a.session_id AND b.lease_epoch > a.lease_epoch
                WHERE a.ended_at IS NULL OR b.offered_at < a.ended_at",
        ),
        (
            "a session whose epoch is not the newest of its ledger",
            "SELECT s.id::text FROM sessions s WHERE s.lease_epoch <> coalesce(
                (SELECT max(l.lease_epoch) FROM lease_ledger l WHERE l.session_id = s.id), 0)",
        ),
        (
            "an agent whose slots are miscounted",
            "SELECT a.name FROM agents a WHERE a.slots_used <> (SELECT count(*) FROM sessions s
                WHERE s.assigned_agent_id = a.name AND s.state NOT IN ('terminating', 'hibernating'))",
        ),
    ];
    for (what, query) in checks {
        let wrong = client.query(query, &[]).await.expect("the query");
        let wrong: Vec<String> = wrong.iter().map(|row| row.get(0)).collect();
        assert!(wrong.is_empty(), "{what}: {wrong:?}");
    }
}
