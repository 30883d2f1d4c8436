//! Servers that are replaced one after the other, and a schema that is newer than they are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lessor_client::Client;
use lessor_protocol::{
    Availability, DesiredState, NewSession, PoolSpec, Report, ReportedState, SessionPatch,
    SessionState,
};
use serde_json::json;

use crate::support::balancer::Balancer;
use crate::support::postgres::TestDatabase;
use crate::support::process::ServerProcess;
use crate::support::{TestAgent, TestServer, database, eventually, report, runbook};

const SERVERS: usize = 3;
const AGENTS: usize = 12;

/// Shorter than it takes to replace three servers, so that whoever could not beat would expire.
const LEASE_TTL_SECONDS: f64 = 6.0;

/// What the load did, and what failed of it. Nothing is tried again: each failure counts.
#[derive(Default)]
struct Tally {
    requests: AtomicUsize,
    failures: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Tally {
    fn note<T>(&self, what: &str, result: Result<T, lessor_client::Error>) -> Option<T> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push(format!("{what}: {error}"));
                None
            }
        }
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn failures(&self) -> Vec<String> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.clone()
    }
}

/// Agents that work, people that make, look at and end sessions, all through one address.
struct Load {
    tally: Arc<Tally>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    beats: tokio::task::JoinSet<()>,
}

impl Load {
    async fn start(url: &str) -> Self {
        let client = Client::new(url, None).expect("a client");
        let mut pool = PoolSpec::on("process");
        pool.lease_ttl_seconds = LEASE_TTL_SECONDS;
        client.put_pool("p", &pool).await.expect("the pool");
        let tally = Arc::new(Tally::default());
        let (mut tasks, mut beats) = (Vec::new(), tokio::task::JoinSet::new());
        for n in 0..AGENTS {
            let mut agent = TestAgent::new(
                &Client::new(url, None).expect("a client"),
                &format!("a{n}"),
                ("p", &format!("d{}", n % 3)),
                1_000,
            );
            agent.register(&[]).await;
            tasks.push(tokio::spawn(work(agent.clone(), Arc::clone(&tally))));
            beats.spawn(beat(agent, Arc::clone(&tally)));
        }
        for _ in 0..4 {
            let client = Client::new(url, None).expect("a client");
            tasks.push(tokio::spawn(use_sessions(client, Arc::clone(&tally))));
        }
        Self {
            tally,
            tasks,
            beats,
        }
    }

    /// Waits until so many more requests have been answered.
    async fn goes_on_for(&self, requests: usize) {
        let from = self.tally.requests.load(Ordering::Relaxed);
        eventually("the load goes on", || async {
            self.tally.requests.load(Ordering::Relaxed) >= from + requests
        })
        .await;
    }

    /// Ends it, while the agents still beat: nothing failed of it, and no lease ended.
    async fn went_unnoticed(self, database: &TestDatabase) {
        self.tally.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("it ends well");
        }
        let (failures, requests) = (self.tally.failures(), &self.tally.requests);
        assert!(
            failures.is_empty(),
            "{} of {requests:?} requests failed: {:#?}",
            failures.len(),
            &failures[..failures.len().min(10)]
        );
        println!("{requests:?} requests, none failed");
        let expired =
            "SELECT count(*) FROM event_history WHERE kind = 'agent.expired' AND pool = 'p'";
        assert_eq!(one(database, expired).await, 0, "leases ended");
        let lost = "SELECT count(*) FROM lease_ledger WHERE end_reason = 'lease_expired'";
        assert_eq!(one(database, lost).await, 0);
        drop(self.beats);
    }
}

/// Claims by parked polls and does what it is given, each claim carrying the reports of the last.
async fn work(agent: TestAgent, tally: Arc<Tally>) {
    let mut reports: Vec<Report> = Vec::new();
    while tally.goes_on() || !reports.is_empty() {
        let mut body = agent.claim_body(10, 2.0);
        body.reports = std::mem::take(&mut reports);
        let Some(claimed) = tally.note("claim", agent.client.claim(&agent.name, &body).await)
        else {
            continue;
        };
        for assignment in claimed.assignments {
            let state = match assignment.action.as_str() {
                "terminate" => ReportedState::Terminated,
                "hibernate" => ReportedState::Hibernated,
                _ => ReportedState::Running,
            };
            reports.push(report(&assignment, state));
        }
    }
}

async fn beat(agent: TestAgent, tally: Arc<Tally>) {
    loop {
        tally.note("heartbeat", agent.beat().await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Makes a session, waits for it, hibernates and wakes it, ends it.
async fn use_sessions(client: Client, tally: Arc<Tally>) {
    let new = NewSession::in_pool("p", &json!({})).expect("a spec");
    while tally.goes_on() {
        let Some(made) = tally.note("create", client.create_session(&new, None).await) else {
            continue;
        };
        let id = made.id.to_string();
        let wait = Duration::from_secs(5);
        let running = [SessionState::Running];
        tally.note("wait", client.wait_for_session(&id, &running, wait).await);
        for desired in [DesiredState::Hibernated, DesiredState::Running] {
            let patch = SessionPatch {
                desired_state: Some(desired),
                ..SessionPatch::default()
            };
            tally.note("patch", client.patch_session(&id, &patch).await);
        }
        tally.note(
            "delete",
            client.delete_session(&id, &Default::default()).await,
        );
        tally.note("get", client.get_session(&id).await);
    }
}

async fn one(database: &TestDatabase, sql: &str) -> i64 {
    let client = database.client().await;
    client.query_one(sql, &[]).await.expect(sql).get(0)
}

async fn servers(database: &TestDatabase) -> Vec<ServerProcess> {
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(ServerProcess::start(&database.url).await);
    }
    servers
}

async fn before(servers: &[ServerProcess]) -> Balancer {
    let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
    Balancer::before(&urls).await
}

#[tokio::test]
async fn three_servers_are_replaced_under_load_and_nobody_notices() {
    let database = database().await;
    let mut servers = servers(&database).await;
    let balancer = before(&servers).await;
    let load = Load::start(&balancer.url).await;
    load.goes_on_for(200).await;
    let mut given = Vec::new();
    for (n, server) in servers.iter_mut().enumerate() {
        server.terminate();
        let status = server.ends_within(Duration::from_secs(20)).await;
        assert_eq!(status.code(), Some(0), "{status}");
        load.goes_on_for(200).await;
        server.start_again().await;
        eventually("it is used again", || async { balancer.uses(n) }).await;
        given.push(balancer.connections()[n]);
    }
    // Connections are kept: one that was replaced is given those of the next one to go.
    let now = balancer.connections();
    for n in 0..SERVERS - 1 {
        assert!(now[n] > given[n], "server {n} was given nothing: {now:?}");
    }
    load.went_unnoticed(&database).await;
}

#[tokio::test]
async fn an_older_server_works_on_a_newer_schema() {
    let database = database().await;
    let mut servers = servers(&database).await;
    let balancer = before(&servers).await;
    let load = Load::start(&balancer.url).await;
    load.goes_on_for(200).await;
    comes_and_goes(&servers[0], "before").await;
    migrate_beyond(&database).await;
    load.goes_on_for(300).await;
    comes_and_goes(&servers[0], "after").await;
    // One that starts on it, with every statement prepared anew.
    servers[0].terminate();
    servers[0].ends_within(Duration::from_secs(20)).await;
    servers[0].start_again().await;
    load.goes_on_for(300).await;
    load.went_unnoticed(&database).await;
    let kept = one(&database, "SELECT count(*) FROM sessions WHERE newer = 7").await;
    assert_eq!(kept, one(&database, "SELECT count(*) FROM sessions").await);
}

/// An agent that registers, again and again, and whose lease then ends: what no load does.
async fn comes_and_goes(server: &ServerProcess, name: &str) {
    let mut pool = PoolSpec::on("process");
    pool.lease_ttl_seconds = 2.0;
    server.client.put_pool("q", &pool).await.expect("the pool");
    let mut agent = TestAgent::new(&server.client, name, ("q", "q"), 1);
    for _ in 0..20 {
        agent.restart(&[]).await;
    }
    eventually("its lease ends", || async {
        let agent = server.client.get_agent(name).await.expect("the agent");
        agent.availability == Availability::Expired
    })
    .await;
}

#[tokio::test]
async fn a_prepared_statement_that_has_become_stale_is_prepared_anew() {
    let server = TestServer::start().await;
    let sql = server.database.client().await;
    let alter = async |text: &str| sql.batch_execute(text).await.expect("it is altered");
    alter("CREATE TABLE things (id bigint)").await;
    let all = || {
        server.app.db.write("test::all", |conn| {
            Box::pin(async move {
                let statement = lessor::store::Statement::new("SELECT * FROM things");
                Ok(diesel_async::RunQueryDsl::execute(statement, conn).await?)
            })
        })
    };
    // As many connections as there may be, so that none is left that is not stale.
    futures_util::future::join_all((0..16).map(|_| all())).await;
    alter("ALTER TABLE things ADD COLUMN newer integer").await;
    for result in futures_util::future::join_all((0..16).map(|_| all())).await {
        result.expect("it is run on a new connection");
    }
}

/// What the next version may do to the schema while this one serves: add.
async fn migrate_beyond(database: &TestDatabase) {
    let client = database.client().await;
    let tables = client
        .query(
            "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
             AND relnamespace = 'public'::regnamespace AND relname !~ '^__' ORDER BY 1",
            &[],
        )
        .await
        .expect("the tables");
    let tables: BTreeSet<String> = tables.iter().map(|row| row.get(0)).collect();
    assert!(
        tables.contains("sessions") && tables.contains("agents"),
        "{tables:?}"
    );
    for table in &tables {
        // Each alone, and giving up rather than making others wait behind it.
        let add = format!(
            "SET lock_timeout = '200ms'; ALTER TABLE {table} ADD COLUMN newer integer NOT NULL DEFAULT 7"
        );
        let until = Instant::now() + Duration::from_secs(20);
        while let Err(error) = client.batch_execute(&add).await {
            assert!(Instant::now() < until, "{table}: {error}");
        }
    }
    client
        .batch_execute("CREATE INDEX CONCURRENTLY sessions_by_newer ON sessions (newer)")
        .await
        .expect("an index");
    client
        .batch_execute(
            "CREATE TABLE newer_things (id bigint PRIMARY KEY);
             INSERT INTO __diesel_schema_migrations (version) VALUES ('20991231000001')",
        )
        .await
        .expect("a table");
}

#[tokio::test]
async fn a_server_that_is_about_to_stop_serves_on_until_it_was_noticed() {
    let database = database().await;
    let mut server = ServerProcess::start(&database.url).await;
    let pool = PoolSpec::on("process");
    server.client.put_pool("p", &pool).await.expect("the pool");
    let http = reqwest::Client::new();
    let ready = format!("{}/readyz", server.url);
    let kept = http.get(format!("{}/v1", server.url)).send().await;
    assert!(
        kept.expect("an answer")
            .headers()
            .get("connection")
            .is_none()
    );
    let mut agent = TestAgent::new(&server.client, "a", ("p", "d"), 1);
    agent.register(&[]).await;
    let parked = agent.park(0, 30.0);
    eventually("the poll is parked", || async {
        let text = http.get(format!("{}/metrics", server.url)).send().await;
        let text = text.expect("metrics").text().await.expect("text");
        text.contains("lessor_waiters{pool=\"p\"} 1\n")
    })
    .await;
    server.terminate();
    // It ends at once, and its client finds the server answering still.
    let ended = parked.await.expect("the poll ends well").expect("200");
    assert!(ended.assignments.is_empty());
    eventually("it says that it is going", || async {
        http.get(&ready)
            .send()
            .await
            .is_ok_and(|a| a.status() == 503)
    })
    .await;
    let new = NewSession::in_pool("p", &json!({})).expect("a spec");
    let made = server.client.create_session(&new, None).await;
    made.expect("it serves as before");
    let answer = http
        .get(format!("{}/v1", server.url))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.headers()["connection"], "close");
    let status = server.ends_within(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test]
async fn whoever_waits_at_a_terminal_does_not_wait_for_load_balancers() {
    let database = database().await;
    let mut server = ServerProcess::start(&database.url).await;
    let asked = Instant::now();
    server.interrupt();
    let status = server.ends_within(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    // SIGTERM would have it serve on for a second.
    let took = asked.elapsed();
    assert!(took < Duration::from_millis(900), "it took {took:?}");
}

#[tokio::test]
async fn a_server_that_still_starts_ends_when_it_is_told_to() {
    // A database that takes connections and never answers.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = mute.local_addr().expect("an address").port();
    let url = format!("postgres://lessor@127.0.0.1:{port}/lessor");
    for tell in [ServerProcess::terminate, ServerProcess::interrupt] {
        let mut server = ServerProcess::begin(&url, &[], None).await;
        let _waits = mute.accept().await.expect("it begins to migrate");
        tell(&server);
        let status = server.ends_within(Duration::from_secs(10)).await;
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

#[tokio::test]
async fn the_runbook_of_replacing_servers() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let said = runbook::run("rolling.md", &server.url).await;
    assert!(
        said.contains("ready") && said.contains("lessor_leases_expired_total 0"),
        "{said}"
    );
    server.stop().await;
}
