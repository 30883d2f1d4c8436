//! The plans of the statements that every claim runs, and the schema's copy of the action table.
//!
//! A queue must be read in the order of its index, whatever the planner knows: a plan that sorts or
//! scans the table costs seconds with a million waiting sessions.

use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use lessor::claims::lone_text;
use lessor::leases::renew_texts;
use lessor::sessions::{
    DOMAIN_WORK, Next, Reach, Situation, arg_rows, insert_texts, next, write_texts,
};
use lessor::store::{Conn, Db, PLANNED_ONCE};
use lessor_protocol::{DesiredState, SessionState};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{TestServer, database};

const PICK_START: &str = include_str!("../src/claims/pick_start.sql");
const QUEUES: &str = include_str!("../src/shares/queues.sql");
const WAITS: &str = include_str!("../src/shares/waits.sql");
const BELOW: &str = include_str!("../src/claims/below.sql");
const RUNNING: &str = include_str!("../src/shares/running.sql");
const LOCK_LIMITED: &str = include_str!("../src/shares/lock_limited.sql");
const PICK_DOMAIN: &str = include_str!("../src/claims/pick_domain.sql");
const PICK_HELD: &str = include_str!("../src/claims/pick_held.sql");
const LOCK_AGENTS: &str = include_str!("../src/claims/lock_agents.sql");
const LOCK_REPORTERS: &str = include_str!("../src/reports/lock_agents.sql");
const LOCK_REPORTED: &str = include_str!("../src/sessions/lock_assigned_free.sql");
const LOCK_TO_OFFER: &str = include_str!("../src/claims/lock_to_offer.sql");
const BEFORE_NEW: &str = include_str!("../src/claims/before_new.sql");
/// Values for its parameters. Their types are said by its text, as are those of what writes sessions.
const TO_INSERT: &str = "'{}', '{}', '{p}', 0, '{}', '{}'";
/// Values for the parameters of what writes sessions.
const NOTHING: &str = "'{}', '{}', '{}', '{}', '{}', '{}', '{}'";
const LOST_STARTS: &str = include_str!("../src/leases/lost_starts.sql");
const DUE: &str = include_str!("../src/upkeep/due.sql");

/// How many sessions wait to be started; as many again wait in domains, up to 50,000.
fn backlog() -> i64 {
    std::env::var("LESSOR_TEST_BACKLOG")
        .ok()
        .map(|text| text.parse().expect("LESSOR_TEST_BACKLOG is a number"))
        .unwrap_or(1_000_000)
}

/// Values for what inserts one that is offered already.
const LONE: &str =
    r#"'{}', '{}', '{p}', 0, '{}', '{}', '{"keys": [], "owners": [], "ranges": []}'"#;

/// A database with a pool and no server.
async fn with_pool() -> (
    std::sync::Arc<crate::support::postgres::TestDatabase>,
    Client,
) {
    let database = database().await;
    let server = TestServer::over(std::sync::Arc::clone(&database), |_| {}).await;
    server.pool("p", |_| {}).await;
    server.stop().await;
    let client = database.client().await;
    (database, client)
}

/// Its ids rise, as those of version 7 do. Foreign keys and labels, of which nothing is wrong and there are
/// none, are not looked at for each of a million rows: that took half of the time.
async fn fill(client: &Client, count: i64) {
    let text = format!(
        "SET session_replication_role = replica;
         ALTER TABLE sessions SET (autovacuum_enabled = false);
         ALTER TABLE lease_ledger SET (autovacuum_enabled = false);
         ALTER TABLE agents SET (autovacuum_enabled = false);
         INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             created_at, updated_at, queued_at, owner, requires, start_domain)
         SELECT lpad(to_hex(n), 32, '0')::uuid, 'p', 'process', '{{\"command\": [\"true\"]}}', 'running', 'pending',
             'on_failure', now(), now(), now() + n * interval '1 millisecond',
             CASE WHEN n % 10 = 0 THEN 'o' || n % 700 END,
             CASE WHEN n % 50 = 0 THEN jsonb_build_object('kind', 'k' || n % 250) ELSE '{{}}' END,
             CASE WHEN n % 40 = 1 THEN 'd' || n % 50 END
         FROM generate_series(1, {count}) n;
         INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
             resource_domain, created_at, updated_at, queued_at)
         SELECT lpad(to_hex(n + {count}), 32, '0')::uuid, 'p', 'process', '{{}}', 'running', 'running', 'on_failure',
             'd' || n % 50, now(), now(), now() + n * interval '1 millisecond'
         FROM generate_series(1, {}) n;
         INSERT INTO agents (name, pool, resource_domain, capacity, protocol_version, incarnation, live,
             lease_expires_at, last_heartbeat_at, registered_at)
         SELECT 'a' || n, 'p', 'd' || n % 50, 10, 1, n, true, now() + interval '1 hour', now(), now()
         FROM generate_series(1, 5000) n;
         INSERT INTO pool_owners (pool, owner, weight, created_at)
         SELECT 'p', 'o' || n, 1 + n % 10, now() FROM generate_series(1, 20000) n;
         SET session_replication_role = DEFAULT",
        count.min(50_000)
    );
    client.batch_execute(&text).await.expect("a backlog");
}

/// As dispatchers would: offers from the head of the queue, with their ledger.
async fn claim_some(client: &Client, count: i64) {
    let text = format!(
        "WITH chosen AS (SELECT id, row_number() OVER () AS n FROM (SELECT id FROM sessions
             WHERE agent_pool = 'p' AND pool_work = 'start' ORDER BY queue_rank, queued_at LIMIT {count}) q),
         taken AS (UPDATE sessions s SET lease_epoch = 1, assigned_agent_id = 'a' || (1 + n % 5000),
             assigned_incarnation = 1 + n % 5000, assigned_action = 'start',
             offered_until = now() + interval '1 hour' + n * interval '1 second', deliver_at = now(), deliveries = 1
             FROM chosen WHERE s.id = chosen.id RETURNING s.id, s.assigned_agent_id, s.assigned_incarnation)
         INSERT INTO lease_ledger (session_id, lease_epoch, agent, incarnation, action, offered_at)
         SELECT id, 1, assigned_agent_id, assigned_incarnation, 'start', now() FROM taken"
    );
    client.batch_execute(&text).await.expect("claims");
}

/// The plan of a statement, custom or generic.
async fn plan(client: &Client, types: &str, text: &str, values: &str, generic: bool) -> String {
    let mode = if generic { "generic" } else { "custom" };
    let of = |list: &str| match list {
        "" => String::new(),
        list => format!("({list})"),
    };
    let (types, values) = (of(types), of(values));
    let prepare = format!(
        "SET plan_cache_mode = force_{mode}_plan; DEALLOCATE ALL; PREPARE it {types} AS {text}"
    );
    client.batch_execute(&prepare).await.expect("it prepares");
    let rows = client
        .simple_query(&format!("EXPLAIN EXECUTE it {values}"))
        .await
        .expect("it is explained");
    let lines = rows.iter().filter_map(|row| match row {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
        _ => None,
    });
    lines.collect::<Vec<String>>().join("\n")
}

fn assert_in_order(plan: &str, index: &str, when: &str) {
    assert!(
        plan.contains(&format!("Index Scan using {index} on sessions")),
        "{when}: not by {index}:\n{plan}"
    );
    assert!(!plan.contains("Seq Scan"), "{when}: a whole table:\n{plan}");
    // What is below the lock is the queue itself; above it only what was picked is sorted.
    let below = plan.split_once("LockRows").expect("rows are locked").1;
    assert!(
        !below.contains("Sort"),
        "{when}: the queue is sorted:\n{plan}"
    );
}

/// What is left of a pool of which something is known.
const KEYS: &str = r#"[{"from_key": "1", "to_key": "~"}]"#;
const OWNERS: &str = r#"[{"key": "", "from_owner": "1", "to_owner": "~"}]"#;
const RANGES: &str = r#"[
    {"key": "", "owner": "", "from_rank": -32768, "from_at": "-infinity", "to_rank": 0},
    {"key": "", "owner": "", "from_rank": 0, "from_at": "2026-01-01T00:00:00Z", "to_rank": 32767},
    {"key": "abc", "owner": "o1", "from_rank": -32768, "from_at": "-infinity", "to_rank": 32767}]"#;

/// The walk over the queues, and the looks at what is left of them and what is not.
async fn assert_walks(client: &Client, generic: bool, when: &str) {
    let types = "text, text[], text, text, text[], json, json, json, text";
    let labels = r#"{"{\"kind\": \"k50\"}"}"#;
    let walk =
        format!("'p', '{labels}', '', '', '{{d1,d2}}', '{KEYS}', '{OWNERS}', '{RANGES}', '~'");
    let queues = plan(client, types, QUEUES, &walk, generic).await;
    let left = format!("'p', '{KEYS}', '{OWNERS}', '{RANGES}'");
    let waits = plan(client, "text, json, json, json", WAITS, &left, generic).await;
    let spent = "'p', '[{\"key\": \"\", \"owner\": \"\", \"rank\": 0, \"below\": \"2026-01-01T00:00:00Z\"}]'";
    let below = plan(client, "text, json", BELOW, spent, generic).await;
    for (plan, looks) in [(queues, 5), (waits, 3), (below, 1)] {
        let scans = plan.matches("sessions_start_queue on sessions").count();
        assert_eq!(scans, looks, "{when}: not by the queue:\n{plan}");
        assert!(
            !plan.contains("Seq Scan on sessions") && !plan.contains("Sort"),
            "{when}: more than a walk:\n{plan}"
        );
        assert!(
            !plan.contains("Seq Scan on pool_owners"),
            "{when}: all owners are read:\n{plan}"
        );
        // Each look begins and ends by its own bounds: what is spent is not even filtered away.
        let filters = plan.lines().filter(|line| line.contains("Filter:"));
        for filter in filters {
            let by_place = ["requires_key", "owner_key", "queue_rank", "queued_at"];
            assert!(
                !by_place.iter().any(|column| filter.contains(column)),
                "{when}: a bound is a filter:\n{plan}"
            );
        }
    }
}

async fn assert_plans(client: &Client, when: &str) {
    for generic in [false, true] {
        let when = format!("{when}, generic: {generic}");
        for limit in ["1", "16", "256", "1000"] {
            let filled = |text: &str| text.replace("{columns}", "s.*").replace("{limit}", limit);
            let start = filled(PICK_START);
            let values = format!("'p', '{RANGES}', '{{a1,a2}}', '{{}}', {limit}");
            let types = "text, json, text[], uuid[], bigint";
            let start = plan(client, types, &start, &values, generic).await;
            assert_in_order(&start, "sessions_start_queue", &when);
            let domain = filled(PICK_DOMAIN);
            let values = "'p', '{d1,d2,d3}', '{terminate,adopt,hibernate,wake,wake_hibernated,start}', '{a1,a2}'";
            let types = "text, text[], text[], text[]";
            let domain = plan(client, types, &domain, values, generic).await;
            assert_in_order(&domain, "sessions_domain_queue", &when);
        }
        assert_walks(client, generic, &when).await;
        let of = "'p', '{o1,o2}'";
        let running = plan(client, "text, text[]", RUNNING, of, generic).await;
        assert!(
            running.contains("sessions_taking_place"),
            "{when}:\n{running}"
        );
        assert!(!running.contains("Seq Scan"), "{when}:\n{running}");
        let limits = plan(client, "text, text[]", LOCK_LIMITED, of, generic).await;
        assert!(!limits.contains("on sessions"), "{when}:\n{limits}");
        let held = PICK_HELD.replace("{columns}", "s.*");
        let of = "'{a1,a2}', '2026-01-01T00:00:00Z'";
        let held = plan(client, "text[], timestamptz", &held, of, generic).await;
        assert!(
            held.contains("sessions_to_deliver") || held.contains("sessions_by_assignee"),
            "{when}:\n{held}"
        );
        assert!(!held.contains("Seq Scan"), "{when}:\n{held}");
        let lock = plan(
            client,
            "text[], text",
            LOCK_AGENTS,
            "'{a1,a2}', 'p'",
            generic,
        )
        .await;
        assert!(lock.contains("agents_by_name"), "{when}:\n{lock}");
        assert!(!lock.contains("Seq Scan on agents"), "{when}:\n{lock}");
        let reported = LOCK_REPORTED.replace("{columns}", "s.*");
        let of = format!("'{{{}}}', '{{a1,a2}}'", Uuid::nil());
        let reported = plan(client, "uuid[], text[]", &reported, &of, generic).await;
        assert!(reported.contains("sessions_pkey"), "{when}:\n{reported}");
        assert_plans_of_new_sessions(client, &when, generic).await;
        assert_writes(client, &when, generic).await;
        let lost = plan(client, "", LOST_STARTS, "", generic).await;
        assert!(lost.contains("sessions_bound"), "{when}:\n{lost}");
        assert!(!lost.contains("Seq Scan on sessions"), "{when}:\n{lost}");
        let due = plan(
            client,
            "timestamptz",
            DUE,
            "'2026-01-01T00:00:00Z'",
            generic,
        )
        .await;
        assert!(due.contains("sessions_due"), "{when}:\n{due}");
        assert!(!due.contains("Seq Scan"), "{when}:\n{due}");
    }
}

/// What writes changed sessions, as it is planned once and as it is planned for callers who are rare.
async fn assert_writes(client: &Client, when: &str, generic: bool) {
    for settings in ["", PLANNED_ONCE] {
        client.batch_execute(settings).await.expect("settings");
        for text in &write_texts()[..2] {
            let write = plan(client, "", text, NOTHING, generic).await;
            assert!(
                write.contains("Index Scan Backward using sessions_pkey on sessions x"),
                "{when}:\n{write}"
            );
            assert!(!write.contains("Seq Scan on sessions"), "{when}:\n{write}");
        }
    }
    client.batch_execute("RESET ALL").await.expect("settings");
}

/// What runs for each session that is created, or for many of them.
async fn assert_plans_of_new_sessions(client: &Client, when: &str, generic: bool) {
    let values = "'{a1,a2}', 'p'";
    let lock = plan(client, "text[], text", LOCK_TO_OFFER, values, generic).await;
    for index in ["agents_by_name", "sessions_domain_queue"] {
        assert!(lock.contains(index), "{when}: not by {index}:\n{lock}");
    }
    let held = ["sessions_to_deliver", "sessions_by_assignee"];
    assert!(held.iter().any(|i| lock.contains(i)), "{when}:\n{lock}");
    for table in ["sessions", "agents"] {
        let whole = format!("Seq Scan on {table}");
        assert!(!lock.contains(&whole), "{when}: {whole}:\n{lock}");
    }
    let values = "'p', '{o1,o2}'";
    let before = plan(client, "text, text[]", BEFORE_NEW, values, generic).await;
    assert!(before.contains("pool_owners_pkey"), "{when}:\n{before}");
    let mut inserts = insert_texts().map(|text| (text, TO_INSERT)).to_vec();
    inserts.push((lone_text(), LONE));
    for (text, values) in inserts {
        let insert = plan(client, "", text, values, generic).await;
        assert!(insert.contains("agents_by_name"), "{when}:\n{insert}");
        for table in ["sessions", "agents"] {
            let whole = format!("Seq Scan on {table}");
            assert!(!insert.contains(&whole), "{when}: {whole}:\n{insert}");
        }
    }
    let lone = plan(client, "", lone_text(), LONE, generic).await;
    for part in [
        "agents_by_name",
        "sessions_domain_queue",
        "sessions_start_queue",
    ] {
        assert!(lone.contains(part), "{when}: not by {part}:\n{lone}");
    }
}

#[tokio::test]
async fn the_claims_statements_read_their_indexes_in_order_whatever_the_planner_knows() {
    let (_database, client) = with_pool().await;
    let count = backlog();
    fill(&client, count).await;
    let known = "SELECT count(*) FROM pg_statistic WHERE starelid = 'sessions'::regclass";
    let known = client.query_one(known, &[]).await.expect("statistics");
    assert_eq!(known.get::<_, i64>(0), 0, "there are statistics already");
    assert_plans(&client, "without statistics").await;
    // Filling takes a minute, so what is claimed without statistics is taken back.
    client.batch_execute("BEGIN").await.expect("a transaction");
    claim_some(&client, 50_000.min(count / 2)).await;
    assert_plans(&client, "after many claims, without statistics").await;
    client.batch_execute("ROLLBACK").await.expect("taken back");
    client.batch_execute("ANALYZE").await.expect("ANALYZE");
    assert_plans(&client, "with statistics").await;
    claim_some(&client, 50_000.min(count / 2)).await;
    assert_plans(&client, "after many claims, with statistics from before").await;
    client.batch_execute("ANALYZE").await.expect("ANALYZE");
    assert_plans(&client, "after many claims, with statistics").await;
    let ledger = plan(&client, "", write_texts()[0], NOTHING, true).await;
    assert!(
        ledger.contains("Index Scan using lease_ledger_pkey on lease_ledger l"),
        "{ledger}"
    );
}

/// What each claim, report and creation runs, with the types and values of its arguments.
fn planned_once() -> Vec<(&'static str, String, &'static str)> {
    let mut all = vec![
        ("text[], text", LOCK_AGENTS.to_owned(), "'{a1,a2}', 'p'"),
        ("text[], text", LOCK_TO_OFFER.to_owned(), "'{a1,a2}', 'p'"),
        (
            "text[]",
            LOCK_REPORTERS.replace("{others}", ""),
            "'{a1,a2}'",
        ),
    ];
    for text in insert_texts() {
        all.push(("", text.to_owned(), TO_INSERT));
    }
    all.push(("", lone_text().to_owned(), LONE));
    let reported = LOCK_REPORTED.replace("{columns}", "s.*");
    all.push(("uuid[], text[]", reported, "'{}', '{a1,a2}'"));
    let [whole, few, count] = write_texts();
    all.push(("", count.to_owned(), "'{}'"));
    for text in [whole, few] {
        all.push(("", text.to_owned(), NOTHING));
    }
    for text in renew_texts() {
        let types = "text[], bigint[], float8[], int[]";
        all.push((types, text.to_owned(), "'{a,b}', '{1,2}', '{1,1}', '{1,1}'"));
    }
    all
}

/// What is sent names no columns, only their types: two of the same type, the other way round, would pass.
#[tokio::test]
async fn rows_are_sent_with_the_columns_of_their_types_in_their_order() {
    let (_database, client) = with_pool().await;
    let made = "SELECT count(*) FROM pg_class WHERE relkind = 'c' AND relname LIKE 'arg\\_%'";
    let made: i64 = client.query_one(made, &[]).await.expect("types").get(0);
    assert_eq!(usize::try_from(made), Ok(arg_rows().len()));
    for (name, columns) in arg_rows() {
        let text = "SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
            JOIN pg_class c ON c.oid = a.attrelid WHERE c.relkind = 'c' AND c.relname = $1";
        let row = client.query_one(text, &[&name]).await.expect("columns");
        let there: Option<Vec<String>> = row.get(0);
        assert_eq!(there.unwrap_or_default(), columns, "{name}");
    }
}

/// The first scan of an index in a plan that has no condition below it, and so goes over all of it.
fn walks_over_an_index(plan: &str) -> Option<&str> {
    let mut lines = plan.lines().peekable();
    while let Some(line) = lines.next() {
        let by_key = lines
            .peek()
            .is_some_and(|next| next.contains("Index Cond:"));
        if line.contains("Index ") && line.contains(" Scan ") && !by_key {
            return Some(line);
        }
    }
    None
}

/// A plan stays with its connection: one that is made while there is next to nothing must still serve when
/// there is much.
#[tokio::test]
async fn what_is_planned_while_all_is_empty_finds_by_key() {
    let (_database, client) = with_pool().await;
    client.batch_execute(PLANNED_ONCE).await.expect("settings");
    for before in ["", "VACUUM", "VACUUM ANALYZE"] {
        // Where it is known that there is nothing, to walk over all of it looks as cheap as a look by key.
        client.batch_execute(before).await.expect("statistics");
        for (types, text, values) in planned_once() {
            let plan = plan(&client, types, &text, values, true).await;
            for table in ["sessions", "agents", "lease_ledger", "lost_holds", "pools"] {
                let whole = format!("Seq Scan on {table}");
                assert!(!plan.contains(&whole), "{before}: {whole}:\n{plan}");
            }
            // Two lists of a batch are not compared each with each; its few pools may be, and each session
            // with what it was.
            let joined = |line: &&str| {
                let each = ["Hash Join", "Merge Join", "Join Filter"];
                let few = ["= h.name", "s.version = ANY"];
                each.iter().any(|join| line.contains(join))
                    && !few.iter().any(|it| line.contains(it))
            };
            assert_eq!(plan.lines().find(joined), None, "{before}:\n{plan}");
            let walk = walks_over_an_index(&plan);
            assert_eq!(walk, None, "{before}:\n{plan}");
        }
    }
}

#[tokio::test]
async fn what_creates_a_lone_session_is_planned_a_few_times_and_then_kept() {
    let (_database, client) = with_pool().await;
    // Where a caller learns why it cannot be, with no word to the planner, which plans five times and then compares.
    for text in insert_texts() {
        let prepare = format!("DEALLOCATE ALL; PREPARE it AS {text}");
        client.batch_execute(&prepare).await.expect("it prepares");
        let run = format!("EXECUTE it ({TO_INSERT});").repeat(12);
        client.batch_execute(&run).await.expect("it runs");
        let kept =
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE name = 'it'";
        let kept = client.query_one(kept, &[]).await.expect("a statement");
        assert_eq!((kept.get(0), kept.get(1)), (5_i64, 7_i64), "{text}");
    }
}

/// Each renewal and each change of its counters leaves a version of an agent, for as long as a transaction is
/// open anywhere that is older.
#[tokio::test]
async fn agents_are_found_from_their_newest_versions_back() {
    let (_database, client) = with_pool().await;
    fill(&client, 1).await;
    client.batch_execute(PLANNED_ONCE).await.expect("settings");
    // What is counted of new sessions is rare beside renewals, and who was changed meanwhile is rarer.
    let once = |text: &str| text.contains("agents a") && !text.contains("a.name = ANY");
    let all = planned_once().into_iter();
    for (types, text, values) in all.filter(|(_, text, _)| once(text) || text == lone_text()) {
        let plan = plan(&client, types, &text, values, true).await;
        let back = "Index Scan Backward using agents_by_name on agents";
        let forward = "Index Scan using agents_by_name on agents";
        assert!(plan.contains(back), "{plan}");
        assert!(!once(&text) || !plan.contains(forward), "{plan}");
    }
}

#[tokio::test]
async fn the_generated_columns_say_what_the_action_table_says() {
    let (_database, client) = with_pool().await;
    let mut compared = 0;
    for &desired in DesiredState::ALL {
        for &state in SessionState::ALL {
            for number in 0..8 {
                let (has_domain, assigned, domain_lost) =
                    (number & 1 != 0, number & 2 != 0, number & 4 != 0);
                let situation = Situation {
                    desired,
                    state,
                    has_domain,
                    assigned,
                    domain_lost,
                    handing_over: false,
                };
                if may_be(situation) {
                    compare(&client, situation).await;
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 100, "only {compared} situations were compared");
}

/// What the schema's CHECKs let be.
fn may_be(s: Situation) -> bool {
    use SessionState as S;
    (s.has_domain || matches!(s.state, S::Pending | S::Terminated | S::Failed))
        && (s.state != S::Terminated || (!s.assigned && s.desired == DesiredState::Terminated))
        && (s.has_domain || !s.domain_lost)
}

async fn compare(client: &Client, s: Situation) {
    let insert = "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart,
            resource_domain, domain_lost, assigned_agent_id, assigned_incarnation, assigned_action, offered_until,
            ended_at, created_at, updated_at, queued_at)
        VALUES ($1::text::uuid, 'p', 'process', '{}', $2, $3::text, 'on_failure', $4, $5, $6::text, $7, $8,
            CASE WHEN $6::text IS NOT NULL THEN now() END,
            CASE WHEN $3::text IN ('terminated', 'failed') THEN now() END, now(), now(), now())
        RETURNING domain_work, pool_work";
    let row = client
        .query_one(
            insert,
            &[
                &Uuid::new_v4().to_string(),
                &s.desired.as_str(),
                &s.state.as_str(),
                &s.has_domain.then_some("d"),
                &s.domain_lost,
                &s.assigned.then_some("a"),
                &s.assigned.then_some(1_i64),
                &s.assigned.then_some("start"),
            ],
        )
        .await
        .unwrap_or_else(|error| panic!("{s:?}: {error:?}"));
    let domain_work = match next(s) {
        Next::Work {
            action,
            reach: Reach::Domain,
            needs_slot,
        } => DOMAIN_WORK
            .iter()
            .find(|(_, known, slot)| (*known, *slot) == (action, needs_slot))
            .map(|(word, _, _)| (*word).to_owned())
            .or_else(|| panic!("{s:?}: no word for {action}")),
        _ => None,
    };
    let by_pool = matches!(
        next(s),
        Next::Work {
            reach: Reach::Pool,
            ..
        }
    );
    let elsewhere = s.domain_lost
        && !s.assigned
        && s.desired == DesiredState::Running
        && !matches!(
            s.state,
            SessionState::Terminating | SessionState::Terminated | SessionState::Failed
        );
    let pool_work = (by_pool || elsewhere).then(|| "start".to_owned());
    assert_eq!(
        (
            row.get::<_, Option<String>>(0),
            row.get::<_, Option<String>>(1)
        ),
        (domain_work, pool_work),
        "{s:?}"
    );
}

#[derive(diesel::QueryableByName)]
struct Setting {
    #[diesel(sql_type = diesel::sql_types::Text)]
    value: String,
}

#[tokio::test]
async fn no_statement_is_compiled_by_the_database() {
    let (database, client) = with_pool().await;
    // As it is by default; a statement that is estimated dear is then compiled each time it is run.
    let on =
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = on', current_database()); END $$";
    client.batch_execute(on).await.expect("it is set");
    let db = Db::new(&database.url, 1, 1).expect("connections");
    let text = "SELECT current_setting('jit') AS value";
    let seen: Setting = db
        .read("jit", move |conn| {
            Box::pin(async move { Ok(diesel::sql_query(text).get_result(conn).await?) })
        })
        .await
        .expect("an answer");
    assert_eq!(seen.value, "off");
}

/// How the connection is told to plan, after a while in which others need connections of their own.
fn said(conn: &mut Conn) -> BoxFuture<'_, lessor::error::Result<String>> {
    const TEXT: &str = "SELECT current_setting('plan_cache_mode') AS value, pg_sleep(0.3)";
    Box::pin(async move {
        let said: Setting = diesel::sql_query(TEXT).get_result(conn).await?;
        Ok(said.value)
    })
}

#[tokio::test]
async fn what_runs_all_the_time_has_connections_of_its_own_and_is_planned_once_there() {
    let (database, _client) = with_pool().await;
    let db = Db::new(&database.url, 5, 1).expect("connections");
    let (mut often, mut seldom) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        often.push(db.read_often("often", said).boxed());
        often.push(db.write_often("often", said).boxed());
        often.push(db.write_at_once("often", said).boxed());
        let once = db.write_once(
            "often",
            |_| Box::pin(async { Ok(()) }),
            |conn, ()| said(conn),
        );
        often.push(once.boxed());
        seldom.push(db.read("seldom", said).boxed());
        seldom.push(db.write("seldom", said).boxed());
        seldom.push(db.statement("seldom", said).boxed());
    }
    often.push(db.beat("often", said).boxed());
    let (often, seldom) = tokio::join!(join_all(often), join_all(seldom));
    for (said, wanted) in [(often, "force_generic_plan"), (seldom, "auto")] {
        for said in said {
            assert_eq!(said.expect("an answer"), wanted);
        }
    }
    // Together no more than were asked for.
    let open = db.usage().map(|(kind, open, _)| (kind, open));
    assert_eq!(open, [("work", 2), ("often", 3), ("beats", 1)]);
}

#[tokio::test]
async fn every_table_and_column_says_what_it_is() {
    let (_database, client) = with_pool().await;
    let text = "SELECT c.relname || coalesce('.' || a.attname, '') AS what
        FROM pg_class c
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname !~ '^__diesel'
            AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)";
    let silent: Vec<String> = client
        .query(text, &[])
        .await
        .expect("the catalogue answers")
        .iter()
        .map(|row| row.get("what"))
        .collect();
    assert_eq!(silent, Vec::<String>::new());
}

#[tokio::test]
async fn the_migrations_go_down_and_up_again() {
    let (_database, client) = with_pool().await;
    let migrations = crate::support::migrations();
    for (_, down) in migrations.iter().rev() {
        client.batch_execute(down).await.expect("down");
    }
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace
        AND relkind IN ('r', 'S') AND relname !~ '^__diesel'";
    let left: i64 = client.query_one(left, &[]).await.expect("a count").get(0);
    assert_eq!(left, 0, "nothing is left");
    for (up, _) in &migrations {
        client.batch_execute(up).await.expect("up again");
    }
}
