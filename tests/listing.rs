//! Pages of sessions: that every filter finds what there is, in order, by an index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lessor_protocol::SessionPatch;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::checks::{count_now, of_index};
use crate::support::postgres::TestDatabase;
use crate::support::{self, TestServer};

/// How many sessions there are, all but a few of them alike.
const MANY: i64 = 20_000;

/// One of ten thousand is rare in every way; times of creation run against the ids.
async fn fill(client: &Client) {
    let text = format!(
        "INSERT INTO sessions (id, agent_pool, platform, spec, desired_state, state, restart, owner, labels,
             resource_domain, created_at, updated_at, queued_at)
         SELECT lpad(to_hex(n), 32, '0')::uuid, 'p', 'process', '{{}}',
             CASE WHEN rare THEN 'hibernated' ELSE 'running' END,
             CASE WHEN rare THEN 'hibernated' ELSE 'running' END, 'on_failure',
             CASE WHEN rare THEN 'rare' ELSE 'o' || n % 7 END,
             jsonb_build_object('all', 'x', 'kind', CASE WHEN rare THEN 'rare' ELSE 'k' || n % 7 END),
             CASE WHEN rare THEN 'rare' ELSE 'd' || n % 7 END,
             timestamptz '2026-01-01' + ({MANY} - n) * interval '1 second', now(), now()
         FROM (SELECT n, n % 10000 = 5000 AS rare FROM generate_series(1, {MANY}) n) x;
         ANALYZE sessions; ANALYZE session_labels;"
    );
    client.batch_execute(&text).await.expect("sessions");
    count_now(client).await;
}

/// A server with those sessions, its database, which goes with the last who has it, and a connection to that.
async fn filled() -> (TestServer, Arc<TestDatabase>, Client) {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let database = server.database.clone();
    let client = database.client().await;
    fill(&client).await;
    (server, database, client)
}

/// The ids of a page.
fn of_page(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().expect("items");
    let id = |session: &Value| session["id"].as_str().expect("an id").to_owned();
    items.iter().map(id).collect()
}

/// The ids of all pages of a list.
async fn walk(server: &TestServer, (limit, query): (i64, &str)) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/sessions?limit={limit}&{query}{cursor}");
        let page = server.fetch(&path).await.ok(200);
        ids.extend(of_page(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

fn ids(numbers: impl IntoIterator<Item = i64>) -> Vec<String> {
    let id = |n| uuid::Uuid::from_u128(u128::try_from(n).unwrap_or(0)).to_string();
    numbers.into_iter().map(id).collect()
}

#[tokio::test]
async fn a_page_by_a_rare_value_is_found_by_an_index() {
    let (server, database, client) = filled().await;
    server.stop().await;
    let scans = async |index: &str| of_index(&client, "idx_scan", index).await;
    let rare = ids([15_000, 5_000]);
    for (query, index, found) in [
        ("pool=q", "sessions_by_pool", ids([])),
        ("state=hibernated", "sessions_by_state", rare.clone()),
        ("state=hibernated,failed", "sessions_by_state", rare.clone()),
        ("pool=p&state=hibernated", "sessions_by_state", rare.clone()),
        (
            "desired_state=hibernated",
            "sessions_by_desired_state",
            rare.clone(),
        ),
        ("resource_domain=rare", "sessions_by_domain", rare.clone()),
        ("owner=rare", "sessions_by_owner", rare.clone()),
        ("label=kind:rare", "session_labels_pkey", rare.clone()),
        ("label=all:x&label=kind:rare", "session_labels_pkey", rare),
        // They run against the ids, so these are the last ones and the first ones.
        (
            "created_before=2026-01-01T00:00:04Z",
            "sessions_by_creation",
            ids(MANY - 3..=MANY),
        ),
        (
            "created_after=2026-01-01T05:33:17Z",
            "sessions_by_creation",
            ids([1, 2]),
        ),
        (
            "created_after=2030-01-01T00:00:00Z",
            "sessions_by_creation",
            Vec::new(),
        ),
        (
            "created_after=2026-01-01T02:46:37Z&created_before=2026-01-01T02:46:43Z",
            "sessions_by_creation",
            ids(MANY - 10_002..=MANY - 9_998),
        ),
    ] {
        // A server each time: what its connections have counted is told when they end.
        let server = TestServer::over(database.clone(), |_| {}).await;
        let before = scans(index).await;
        assert_eq!(walk(&server, (3, query)).await, found, "{query}");
        server.stop().await;
        let is_used = async || scans(index).await > before;
        support::eventually(&format!("{query} is found by {index}"), is_used).await;
    }
}

#[tokio::test]
async fn a_page_of_several_states_is_read_no_further_than_it_goes() {
    let (server, database, client) = filled().await;
    client
        .batch_execute(
            "UPDATE sessions SET state = 'failed', ended_at = now(), failure = json_build_object('reason', 'exited',
                 'message', 'it ended', 'retryable', false, 'at', now())
             WHERE ('x' || right(id::text, 8))::bit(32)::int % 100 = 3",
        )
        .await
        .expect("some have failed");
    let settled = client.batch_execute("VACUUM ANALYZE sessions").await;
    settled.expect("vacuumed");
    count_now(&client).await;
    let wanted = (1..=MANY).filter(|n| n % 100 == 3 || n % 10_000 == 5_000);
    let wanted: Vec<String> = ids(wanted.rev());
    server.stop().await;
    let server = TestServer::over(database.clone(), |_| {}).await;
    let read = async || of_index(&client, "idx_tup_read", "sessions_by_state").await;
    let (before, all) = (read().await, i64::try_from(wanted.len()).expect("some"));
    // A state that is asked for twice gives nothing twice.
    let found = walk(&server, (20, "state=hibernated,failed,starting,failed")).await;
    assert_eq!(found, wanted);
    server.stop().await;
    // A page near the end may be found by the ids alone, where few are left.
    support::eventually("it is counted", async || read().await - before >= all / 2).await;
    let read = read().await - before;
    println!("{read} entries were read for {all} sessions");
    assert!(read < 2 * all, "{read} for {all}");
}

#[tokio::test]
async fn a_page_by_conditions_that_many_meet_is_read_no_further_than_it_goes() {
    let (server, database, client) = filled().await;
    server.pool("q", |_| {}).await;
    client
        .batch_execute(
            "UPDATE sessions SET agent_pool = 'q' WHERE ('x' || right(id::text, 8))::bit(32)::int % 4 = 0;
             INSERT INTO agents (name, pool, resource_domain, capacity, protocol_version, incarnation, live,
                 lease_expires_at, last_heartbeat_at, registered_at)
             VALUES ('a', 'q', 'd', 1000, 1, 1, true, now() + interval '1 hour', now(), now());
             UPDATE sessions SET assigned_agent_id = 'a', assigned_incarnation = 1, assigned_action = 'start'
             WHERE ('x' || right(id::text, 8))::bit(32)::int % 40 = 8",
        )
        .await
        .expect("some are in another pool, of which a few are assigned");
    let settled = client.batch_execute("VACUUM ANALYZE sessions").await;
    settled.expect("vacuumed");
    count_now(&client).await;
    let rare = |n: &i64| n % 10_000 == 5_000;
    let of_q = |n: &i64| n % 4 == 0;
    let running = ids((1..=MANY).filter(|n| of_q(n) && !rare(n)).rev());
    server.stop().await;
    let server = TestServer::over(database.clone(), |_| {}).await;
    let read = async || of_index(&client, "idx_tup_read", "sessions_by_state").await;
    let (before, all) = (read().await, i64::try_from(running.len()).expect("some"));
    assert_eq!(walk(&server, (100, "pool=q&state=running")).await, running);
    server.stop().await;
    // One in four is of that pool.
    support::eventually("it is counted", async || read().await - before >= 3 * all).await;
    let read = read().await - before;
    println!("{read} entries were read for {all} sessions");
    assert!(read < 6 * all, "{read} for {all}");

    // What few meet, or nobody, is found behind the newest thousand too, and in pages.
    let server = TestServer::over(database.clone(), |_| {}).await;
    let assigned = |n: &i64| n % 40 == 8;
    let unassigned = ids((1..=MANY).filter(|n| of_q(n) && !assigned(n)).rev());
    let others = ids((1..=MANY).filter(|n| !of_q(n)).rev());
    for (query, wanted) in [
        ("pool=q&state=hibernated", ids([15_000, 5_000])),
        ("pool=q&desired_state=hibernated", ids([15_000, 5_000])),
        ("pool=p&state=hibernated", Vec::new()),
        ("pool=q&state=terminated", Vec::new()),
        ("pool=p&assigned=true", Vec::new()),
        ("pool=q&assigned=false", unassigned),
        (
            "pool=p&assigned=false&state=running&desired_state=running",
            others,
        ),
    ] {
        assert_eq!(walk(&server, (500, query)).await, wanted, "{query}");
    }
    server.stop().await;
    // One in ten of the pool is assigned: those are found without the others.
    let server = TestServer::over(database.clone(), |_| {}).await;
    let read = async || {
        of_index(&client, "idx_tup_read", "sessions_by_pool").await
            + of_index(&client, "idx_tup_read", "sessions_assigned_by_pool").await
    };
    let wanted = ids((1..=MANY).filter(assigned).rev());
    let (before, all) = (read().await, i64::try_from(wanted.len()).expect("some"));
    let found = walk(&server, (100, "pool=q&assigned=true")).await;
    assert_eq!(found, wanted);
    server.stop().await;
    support::eventually("it is counted", async || read().await - before >= all).await;
    let read = read().await - before;
    println!("{read} entries were read for {all} assigned sessions");
    // The last page, which is not full, is read on among all of the pool.
    assert!(read < 4 * all, "{read} for {all}");
}

#[tokio::test]
async fn a_page_of_a_frequent_label_is_read_no_further_than_it_goes() {
    let (server, database, client) = filled().await;
    server.stop().await;
    // One of a hundred has it. Several processes reading all of it look cheap, as they do in a table that is large.
    let text = "UPDATE sessions SET labels = labels || jsonb_build_object('team',
                 't' || ('x' || right(id::text, 8))::bit(32)::int % 101);
         ANALYZE sessions; ANALYZE session_labels;
         DO $$ BEGIN
             EXECUTE format('ALTER DATABASE %I SET parallel_setup_cost = 0', current_database());
             EXECUTE format('ALTER DATABASE %I SET parallel_tuple_cost = 0', current_database());
             EXECUTE format('ALTER DATABASE %I SET min_parallel_table_scan_size = 0', current_database());
         END $$";
    client.batch_execute(text).await.expect("teams");
    count_now(&client).await;
    let server = TestServer::over(database.clone(), |_| {}).await;
    let read = async || of_index(&client, "idx_tup_read", "session_labels_pkey").await;
    let before = read().await;
    // Again and again, as whoever plans it looks at it anew after some.
    for _ in 0..12 {
        let page = server.fetch("/v1/sessions?limit=10&label=team:t3").await;
        let found = of_page(&page.ok(200));
        let newest = (1..=MANY).rev().filter(|n| n % 101 == 3);
        assert_eq!(found, ids(newest.take(10)));
    }
    server.stop().await;
    support::eventually("it is counted", async || read().await - before >= 120).await;
    let read = read().await - before;
    println!("{read} entries were read for 12 pages of 10");
    assert!(read < 300, "{read}");
}

#[tokio::test]
async fn of_several_labels_the_rarest_is_looked_up() {
    let (server, _database, client) = filled().await;
    // With as many values as there are in use, the planner expects few sessions of each.
    let text = "UPDATE sessions SET labels = labels || jsonb_build_object('ticket', id::text);
         ANALYZE sessions; ANALYZE session_labels;";
    client.batch_execute(text).await.expect("tickets");
    count_now(&client).await;
    let read = async || of_index(&client, "idx_tup_read", "session_labels_pkey").await;
    let before = read().await;
    let rare = ids([15_000, 5_000]);
    for query in ["label=all:x&label=kind:rare", "label=kind:rare&label=all:x"] {
        assert_eq!(walk(&server, (3, query)).await, rare, "{query}");
    }
    assert_eq!(
        walk(&server, (3, "label=all:y&label=kind:rare")).await,
        ids([])
    );
    server.stop().await;
    support::eventually("it is counted", async || read().await > before).await;
    let read = read().await - before;
    println!("{read} entries of labels were read");
    assert!(read < MANY / 2, "{read}");
}

#[tokio::test]
async fn labels_are_found_as_they_are_now() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let client = server.database.client().await;
    let new = |labels: Value| json!({"pool": "p", "spec": {}, "labels": labels});
    let one = server
        .send(
            "POST",
            "/v1/sessions",
            new(json!({"team": "a"})).to_string(),
        )
        .await
        .ok(201);
    let batch = json!({"sessions": [new(json!({"team": "a", "kind": "x"})), new(json!({}))]});
    let batch = server
        .send("POST", "/v1/sessions/batch", batch.to_string())
        .await
        .ok(201);
    let id = |session: &Value| session["id"].as_str().expect("an id").to_owned();
    let (one, two) = (id(&one), id(&batch["items"][0]));
    let found = async |query: &str| -> BTreeSet<String> {
        walk(&server, (3, query)).await.into_iter().collect()
    };
    let both = BTreeSet::from([one.clone(), two.clone()]);
    assert_eq!(found("label=team:a").await, both);
    assert_eq!(
        found("label=team:a&label=kind:x").await,
        BTreeSet::from([two.clone()])
    );
    assert_eq!(found("label=team:b").await, BTreeSet::new());

    let patch = SessionPatch {
        labels: Some(Some(BTreeMap::from([
            ("team".to_owned(), Some("b".to_owned())),
            ("kind".to_owned(), None),
        ]))),
        ..SessionPatch::default()
    };
    server
        .client
        .patch_session(&two, &patch)
        .await
        .expect("it is changed");
    assert_eq!(found("label=team:a").await, BTreeSet::from([one.clone()]));
    assert_eq!(found("label=team:b").await, BTreeSet::from([two.clone()]));
    assert_eq!(found("label=kind:x").await, BTreeSet::new());

    client
        .batch_execute(&format!("DELETE FROM sessions WHERE id = '{two}'"))
        .await
        .expect("it goes");
    let rows = client
        .query(
            "SELECT key, value, session_id::text FROM session_labels",
            &[],
        )
        .await
        .expect("labels");
    let rows: Vec<(String, String, String)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    assert_eq!(rows, [("team".to_owned(), "a".to_owned(), one)]);
}

/// The names of all pages of a list of agents, two a page.
async fn agents(server: &TestServer, query: &str) -> Vec<String> {
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/agents?limit=2&{query}{cursor}");
        let page = server.fetch(&path).await.ok(200);
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 2, "{page}");
        names.extend(
            items
                .iter()
                .map(|item| item["name"].as_str().expect("a name").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return names,
        }
    }
}

#[tokio::test]
async fn agents_are_found_by_each_filter_newest_first_page_by_page() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    server.pool("q", |pool| pool.lease_ttl_seconds = 2.0).await;
    // The name, the pool, the domain and a label.
    for (name, pool, domain, zone) in [
        ("a", "p", "one", "x"),
        ("b", "p", "one", "y"),
        ("c", "p", "two", "x"),
        ("d", "q", "one", "x"),
        ("e", "p", "two", "y"),
    ] {
        let mut agent = support::TestAgent::new(&server.client, name, (pool, domain), 1);
        let mut body = agent.registration(&[]);
        body.labels.insert("zone".to_owned(), zone.to_owned());
        body.labels.insert("all".to_owned(), "1".to_owned());
        let registered = server.client.register_agent(name, &body).await;
        agent.incarnation = registered.expect("it registers").incarnation;
    }
    let cordon = lessor_protocol::CordonRequest {
        reason: None,
        until: None,
    };
    server
        .client
        .cordon_agent("b", &cordon)
        .await
        .expect("cordoned");
    let drain = lessor_protocol::DrainRequest::default();
    server
        .client
        .drain_agent("c", &drain)
        .await
        .expect("drained");
    support::eventually("d has expired", || async {
        agents(&server, "availability=expired").await == ["d"]
    })
    .await;
    for (query, found) in [
        ("", &["e", "d", "c", "b", "a"][..]),
        ("pool=p", &["e", "c", "b", "a"]),
        ("pool=q", &["d"]),
        ("availability=live", &["e", "c", "b", "a"]),
        ("scheduling=active", &["e", "d", "a"]),
        ("scheduling=cordoned", &["b"]),
        ("scheduling=drained", &["c"]),
        ("scheduling=draining", &[]),
        ("resource_domain=one", &["d", "b", "a"]),
        ("label=zone:x", &["d", "c", "a"]),
        ("label=zone:x&label=all:1&pool=p", &["c", "a"]),
        ("label=zone:z", &[]),
        ("pool=p&resource_domain=two&scheduling=active", &["e"]),
    ] {
        assert_eq!(agents(&server, query).await, found, "{query}");
    }
    server.stop().await;
}
