//! Outages of the database and of the service itself: no session dies of one, every answer comes
//! in bounded time, and what was acknowledged is still there afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lessor::app::{App, Settings};
use lessor_client::Client;
use lessor_protocol::{
    Assignment, Availability, NewSession, PoolSpec, ProblemCode, ReportedState, SessionState,
};
use serde_json::json;

use crate::support::postgres::OwnCluster;
use crate::support::process::ServerProcess;
use crate::support::{TestAgent, TestServer, database, eventually};

/// The shortest lease there is, in seconds.
const TTL: f64 = 2.0;

/// Three lease times, and more than the longest gap in the pulse that is not an outage.
const OUTAGE: Duration = Duration::from_millis(6_500);

/// The bound of every wait for the database is 5 s; a busy machine may add one.
const BOUND: Duration = Duration::from_millis(6_500);

fn short_leases(pool: &mut PoolSpec) {
    pool.lease_ttl_seconds = TTL;
}

/// A server over a cluster of its own.
struct OnOwnCluster {
    cluster: OwnCluster,
    app: Arc<App>,
    url: String,
    client: Client,
}

impl OnOwnCluster {
    async fn start() -> Self {
        let cluster = OwnCluster::start().await;
        lessor::store::migrate::run(cluster.url())
            .await
            .expect("the migrations run");
        let app = App::start(Settings::over(cluster.url())).expect("the app starts");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = lessor::api::router(&app);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::new(&url, None).expect("a client");
        Self {
            cluster,
            app,
            url,
            client,
        }
    }

    async fn status(&self, path: &str) -> (u16, Duration) {
        let asked = Instant::now();
        let answer = reqwest::get(format!("{}{path}", self.url))
            .await
            .expect("an answer");
        (answer.status().as_u16(), asked.elapsed())
    }
}

/// An agent of a pool with short leases, and the session that it runs.
async fn running(client: &Client, name: &str) -> (TestAgent, Assignment) {
    let mut pool = PoolSpec::on("process");
    short_leases(&mut pool);
    client.put_pool("p", &pool).await.expect("the pool is made");
    let mut agent = TestAgent::new(client, name, ("p", "d"), 5);
    agent.register(&[]).await;
    create(client).await;
    let assignment = agent.runs_one().await;
    (agent, assignment)
}

async fn create(client: &Client) -> lessor_protocol::Session {
    let new = NewSession::in_pool("p", &json!({"command": ["true"]})).expect("a spec");
    client
        .create_session(&new, None)
        .await
        .expect("the session is made")
}

/// Every kind of request gets 503 with a time to come back, in bounded time, several at once.
async fn assert_unavailable(server: &OnOwnCluster, agent: &TestAgent) {
    let asked = Instant::now();
    let new = NewSession::in_pool("p", &json!({})).expect("a spec");
    let get = async { server.client.get_pool("p").await.map(drop) };
    let list = async {
        let filter = lessor_client::SessionFilter::default();
        server.client.list_sessions(&filter).await.map(drop)
    };
    let create = async { server.client.create_session(&new, None).await.map(drop) };
    let beat = async { agent.beat().await.map(drop) };
    let claim = async { agent.try_claim(1, 0.0).await.map(drop) };
    let (get, list, create, beat, claim) = tokio::join!(get, list, create, beat, claim);
    let took = asked.elapsed();
    for (call, result) in [
        ("get", get),
        ("list", list),
        ("create", create),
        ("beat", beat),
        ("claim", claim),
    ] {
        let error = result.expect_err(call);
        assert_eq!(
            error.code(),
            Some(ProblemCode::DatabaseUnavailable),
            "{call}: {error}"
        );
        assert_eq!(error.status(), Some(503), "{call}");
        assert!(error.retry_after().is_some(), "{call}: no Retry-After");
    }
    assert!(took < BOUND, "the answers took {took:?}");
    let (ready, took) = server.status("/readyz").await;
    assert_eq!(ready, 503);
    assert!(took < BOUND, "/readyz took {took:?}");
    let (health, took) = server.status("/healthz").await;
    assert_eq!(health, 200);
    assert!(took < Duration::from_secs(1), "/healthz took {took:?}");
}

/// The lease and the hold are what they were, and stay so for two lease times more.
async fn assert_kept(url: &str, client: &Client, agent: &TestAgent, was: &Assignment) {
    let until = Instant::now() + Duration::from_secs_f64(2.0 * TTL);
    let id = was.session.id.to_string();
    let expired_before = times_expired(url).await;
    while Instant::now() < until {
        let session = client.get_session(&id).await.expect("the session is there");
        assert_eq!(session.state, SessionState::Running, "{session:#?}");
        assert_eq!(session.lease_epoch, was.lease_epoch, "{session:#?}");
        assert_eq!(session.assigned_agent_id.as_ref(), Some(&agent.name));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // An agent's lease ran out in the outage, and may not be ended yet: nobody asks without a pause
    // whether it may.
    let turns = times_expired(url).await - expired_before;
    assert!(turns < 10.0 * 2.0 * TTL, "{turns} turns in {TTL} s twice");
    agent.beat().await.expect("its next heartbeat is accepted");
    agent.accepts(was, ReportedState::Running).await;
    let page = client.session_leases(&id, &Default::default()).await;
    assert_eq!(page.expect("the ledger").items.len(), 1);
}

/// How many turns the task that ends leases has had, at the server with this address.
async fn times_expired(url: &str) -> f64 {
    let text = reqwest::get(format!("{url}/metrics")).await;
    let text = text.expect("metrics").text().await.expect("text");
    let line = "lessor_db_transaction_seconds_count{transaction=\"leases::expire\"} ";
    let turns = text.lines().find_map(|found| found.strip_prefix(line));
    turns.expect("it has had some").parse().expect("a number")
}

async fn is_expired(client: &Client, name: &str) -> bool {
    let agent = client.get_agent(name).await.expect("the agent is there");
    agent.availability == Availability::Expired
}

/// The agent that died in the outage was expired one lease time after its end, by the database's
/// clock, and soon then.
async fn assert_expired_in_time(url: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    let after = "SELECT extract(epoch FROM a.expired_at - p.gap_at)::double precision
        FROM agents a, pulse p WHERE a.name = 'dead'";
    let after: Option<f64> = client.query_one(after, &[]).await.expect("times").get(0);
    let after = after.expect("the outage was found");
    assert!(
        (TTL..TTL + 3.0).contains(&after),
        "expired {after} s after the outage"
    );
}

/// A database that goes away for three lease times, and comes back.
async fn survives(server: &mut OnOwnCluster, freeze: bool) {
    let (agent, was) = running(&server.client, "live").await;
    let (_dead, _) = running(&server.client, "dead").await;
    let beating = agent.keep_beating(0.3);
    let mut waiting = TestAgent {
        name: "waiting".to_owned(),
        domain: "elsewhere".to_owned(),
        ..agent.clone()
    };
    waiting.restart(&[]).await;
    let waiting_beats = waiting.keep_beating(0.3);
    let parked = waiting.park(1, 50.0);
    eventually("the poll is parked", || async {
        let text = reqwest::get(format!("{}/metrics", server.url)).await;
        let text = text.expect("metrics").text().await.expect("text");
        text.contains("lessor_waiters{pool=\"p\"} 1\n")
    })
    .await;
    let away = Instant::now();
    if freeze {
        server.cluster.freeze();
    } else {
        server.cluster.kill_immediately().await;
    }
    let mut asked = 0;
    while away.elapsed() < OUTAGE {
        assert_unavailable(server, &agent).await;
        asked += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(asked > 0);
    if freeze {
        server.cluster.thaw();
    } else {
        server.cluster.start_again().await;
    }
    eventually("it is ready again", || async {
        server.status("/readyz").await.0 == 200
    })
    .await;
    eventually("heartbeats are taken again", || async {
        agent.beat().await.is_ok()
    })
    .await;
    // The poll that was parked before the outage is answered after it.
    assert!(!parked.is_finished(), "the outage ended a parked poll");
    let session = create(&server.client).await;
    let claimed = tokio::time::timeout(Duration::from_secs(10), parked).await;
    let claimed = claimed.expect("an answer").expect("the task");
    let given = claimed.expect("it may claim").assignments;
    assert_eq!(given[0].session.id, session.id);
    waiting_beats.abort();
    assert_kept(&server.url, &server.client, &agent, &was).await;
    eventually("an agent that died in the outage is expired", || async {
        is_expired(&server.client, "dead").await
    })
    .await;
    assert_expired_in_time(server.cluster.url()).await;
    assert!(!is_expired(&server.client, "live").await);
    beating.abort();
    server.app.finish().await;
}

#[tokio::test]
async fn a_database_that_dies_for_three_lease_times_kills_no_session() {
    let mut server = OnOwnCluster::start().await;
    survives(&mut server, false).await;
}

#[tokio::test]
async fn a_database_that_freezes_for_three_lease_times_kills_no_session() {
    let mut server = OnOwnCluster::start().await;
    survives(&mut server, true).await;
}

#[tokio::test]
async fn a_frozen_database_bounds_a_crowd_of_requests() {
    let server = OnOwnCluster::start().await;
    let (agent, _) = running(&server.client, "live").await;
    server.cluster.freeze();
    // More than there are connections: those who find none wait no longer than the others.
    let asked = Instant::now();
    let crowd: Vec<_> = (0..100)
        .map(|n| {
            let (client, agent) = (server.client.clone(), agent.clone());
            tokio::spawn(async move {
                let result = match n % 3 {
                    0 => client.get_pool("p").await.map(drop),
                    1 => agent.beat().await.map(drop),
                    _ => {
                        let new = NewSession::in_pool("p", &json!({})).expect("a spec");
                        client.create_session(&new, None).await.map(drop)
                    }
                };
                (n, result, asked.elapsed())
            })
        })
        .collect();
    for call in crowd {
        let (n, result, took) = call.await.expect("the call ends well");
        let error = result.expect_err("nothing can be answered");
        assert_eq!(
            error.code(),
            Some(ProblemCode::DatabaseUnavailable),
            "{error}"
        );
        assert!(took < BOUND, "call {n} took {took:?}");
    }
    server.cluster.thaw();
    eventually("it answers again", || async {
        server.client.get_pool("p").await.is_ok()
    })
    .await;
    server.app.finish().await;
}

#[tokio::test]
async fn a_service_that_is_killed_for_three_lease_times_kills_no_session() {
    let database = database().await;
    let mut server = ServerProcess::start(&database.url).await;
    let (agent, was) = running(&server.client, "live").await;
    let (_dead, _) = running(&server.client, "dead").await;
    let beating = agent.keep_beating(0.3);
    // Acknowledged at the last moment: it must be there afterwards.
    let last = create(&server.client).await;
    server.kill().await;
    // Nobody is there who could say anything meanwhile: only that the time passes matters.
    tokio::time::sleep(OUTAGE).await;
    server.start_again().await;
    eventually("heartbeats are taken again", || async {
        agent.beat().await.is_ok()
    })
    .await;
    let found = server.client.get_session(&last.id.to_string()).await;
    assert_eq!(found.expect("it was acknowledged").id, last.id);
    assert_kept(&server.url, &server.client, &agent, &was).await;
    eventually("an agent that died in the outage is expired", || async {
        is_expired(&server.client, "dead").await
    })
    .await;
    assert_expired_in_time(&database.url).await;
    assert!(!is_expired(&server.client, "live").await);
    beating.abort();
}

#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_session() {
    let database = database().await;
    let mut server = ServerProcess::start(&database.url).await;
    let pool = PoolSpec::on("process");
    server.client.put_pool("p", &pool).await.expect("the pool");
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let creators: Vec<_> = (0..8)
            .map(|_| {
                let client = server.client.clone();
                tokio::spawn(async move {
                    let mut made = Vec::new();
                    let new = NewSession::in_pool("p", &json!({})).expect("a spec");
                    while let Ok(session) = client.create_session(&new, None).await {
                        made.push(session.id.to_string());
                    }
                    made
                })
            })
            .collect();
        // Killed in the middle of it, as soon as some are there.
        let sql = database.client().await;
        eventually("sessions are being made", || async {
            let count = sql.query_one("SELECT count(*) FROM sessions", &[]).await;
            count.expect("a count").get::<_, i64>(0) > 100 * (round + 1)
        })
        .await;
        server.kill().await;
        for creator in creators {
            acknowledged.extend(creator.await.expect("the creator ends well"));
        }
        server.start_again().await;
    }
    assert!(acknowledged.len() > 200, "only {}", acknowledged.len());
    let sql = database.client().await;
    let there = sql
        .query(
            "SELECT id FROM sessions WHERE id = ANY ($1::text[]::uuid[])",
            &[&acknowledged],
        )
        .await
        .expect("sessions");
    assert_eq!(there.len(), acknowledged.len());
}

#[tokio::test]
async fn sigterm_ends_parked_polls_with_empty_lists_and_the_process_in_order() {
    let database = database().await;
    let mut server = ServerProcess::start(&database.url).await;
    let (agent, _) = running(&server.client, "a").await;
    let pool = PoolSpec::on("process");
    server.client.put_pool("p", &pool).await.expect("the pool");
    agent.beat().await.expect("a lease of thirty seconds");
    let parked: Vec<_> = (0..3)
        .map(|n| {
            let client = server.client.clone();
            let mut agent = TestAgent {
                name: format!("b{n}"),
                client,
                ..agent.clone()
            };
            tokio::spawn(async move {
                agent.restart(&[]).await;
                let asked = Instant::now();
                (agent.try_claim(1, 30.0).await, asked.elapsed())
            })
        })
        .collect();
    eventually("the polls are parked", || async {
        let text = reqwest::get(format!("{}/metrics", server.url)).await;
        let text = text.expect("metrics").text().await.expect("text");
        text.contains("lessor_waiters{pool=\"p\"} 3\n")
    })
    .await;
    server.terminate();
    for poll in parked {
        let (answer, took) = poll.await.expect("the poll ends well");
        let answer = answer.expect("200");
        assert!(answer.assignments.is_empty() && answer.lost.is_empty());
        assert!(took < Duration::from_secs(20), "it ended after {took:?}");
    }
    // It is still there to be asked, and says what it does.
    let ready = reqwest::get(format!("{}/readyz", server.url)).await;
    let ready = ready.expect("an answer while it stops");
    assert_eq!(ready.status(), 503);
    let problem: serde_json::Value = ready.json().await.expect("a problem");
    assert_eq!(problem["code"], "stopping");
    let status = server.ends_within(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    // A restart in time expires nobody.
    server.start_again().await;
    agent.beat().await.expect("its lease still holds");
}

#[tokio::test]
async fn a_server_that_stops_tells_newcomers_to_go_elsewhere() {
    let server = TestServer::start().await;
    server.pool("p", short_leases).await;
    let agent = server.agent("a", "p", "d", 1).await;
    let parked = agent.park(1, 30.0);
    server.has_parked("p", 1).await;
    let newcomer = server.agent("b", "p", "d", 1).await;
    server.app.begin_stop();
    let answer = parked.await.expect("the task").expect("200");
    assert!(answer.assignments.is_empty());
    // No connection is accepted any more, but a request may be on its way over one that was: it comes to
    // the router when this one does.
    use tower::ServiceExt as _;
    let body = serde_json::to_vec(&newcomer.claim_body(1, 30.0)).expect("JSON");
    let request = axum::http::Request::post("/v1/agents/b/claim")
        .header("content-type", "application/json")
        .body(axum::body::Body::from(body))
        .expect("a request");
    let router = lessor::api::router(&server.app);
    let answer = router.oneshot(request).await.expect("an answer");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let body = axum::body::to_bytes(answer.into_body(), 65_536).await;
    let problem: serde_json::Value =
        serde_json::from_slice(&body.expect("a body")).expect("a problem");
    assert_eq!(problem["code"], "stopping");
    server.stop().await;
}

#[tokio::test]
async fn a_listening_connection_that_fell_silent_is_replaced() {
    let server = OnOwnCluster::start().await;
    let (agent, _) = running(&server.client, "a").await;
    let pool = PoolSpec::on("process");
    server.client.put_pool("p", &pool).await.expect("the pool");
    agent.beat().await.expect("a lease of thirty seconds");
    // Whoever waits on another server hears of a session by notification.
    let other = App::start(Settings::over(server.cluster.url())).expect("the app starts");
    let sessions = &server.client;
    let (sql, connection) = tokio_postgres::connect(server.cluster.url(), tokio_postgres::NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    let listening = || async {
        let text = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query ~ '^(LISTEN|SELECT pg_notify|-- wakeups::wire)'";
        let rows = sql.query(text, &[]).await.expect("backends");
        rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>()
    };
    eventually("both listen", || async { listening().await.len() == 2 }).await;
    let silent = listening().await;
    for pid in &silent {
        let pid = rustix::process::Pid::from_raw(*pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("SIGSTOP");
    }
    create(sessions).await;
    eventually("others listen in their place", || async {
        let now = listening().await;
        now.iter().filter(|pid| !silent.contains(pid)).count() == 2
    })
    .await;
    for pid in &silent {
        let pid = rustix::process::Pid::from_raw(*pid).expect("a pid");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
    }
    other.finish().await;
    server.app.finish().await;
}
