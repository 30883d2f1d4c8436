//! What the tests share: a server over a database of its own, agents driven by hand, waiting.

#![allow(dead_code, reason = "not every file uses every helper")]

pub mod access;
pub mod agents;
pub mod authority;
pub mod balancer;
pub mod checks;
pub mod desk;
pub mod platform;
pub mod postgres;
pub mod process;
pub mod provider;
pub mod random;
pub mod raw;
pub mod receiver;
pub mod rules;
pub mod runbook;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lessor::app::{App, Settings};
use lessor::wire::Limits;
use lessor::wire::tls::Tls;
use lessor_client::Client;
use lessor_protocol::{
    Assignment, Claim, Claimed, HeldSession, Instance, NewSession, Outcome, PoolSpec, Register,
    Registered, Renewed, Report, ReportResult, ReportedState, Reports, Session, SessionState,
};
use postgres::TestDatabase;
use serde_json::json;
use uuid::Uuid;

/// A server on a free port of the loopback address, over a database of its own or another's.
pub struct TestServer {
    pub app: Arc<App>,
    pub client: Client,
    /// For calls as bytes, each over a connection of its own. Made once, since that takes longer than a call.
    pub http: reqwest::Client,
    pub url: String,
    pub database: Arc<TestDatabase>,
    serving: tokio::task::JoinHandle<()>,
}

/// A database with the schema, cloned from a template.
pub async fn database() -> Arc<TestDatabase> {
    // A template belongs to one text of the migrations.
    let schema: String = migrations().into_iter().map(|(up, _)| up).collect();
    let database = TestDatabase::create_with(&schema, |url: String| async move {
        lessor::store::migrate::run(&url)
            .await
            .expect("the migrations run");
    })
    .await;
    Arc::new(database)
}

/// Every migration, oldest first: its `up` and its `down`.
pub fn migrations() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let entries = std::fs::read_dir(folder).expect("the migrations");
    let mut folders: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    folders.sort();
    let read = |path| std::fs::read_to_string(path).expect("a migration's text");
    folders
        .iter()
        .map(|folder| (read(folder.join("up.sql")), read(folder.join("down.sql"))))
        .collect()
}

impl TestServer {
    /// A server with the default settings.
    pub async fn start() -> Self {
        Self::over(database().await, |_| {}).await
    }

    /// Another server on the database of this one.
    pub async fn beside(&self) -> Self {
        Self::over(Arc::clone(&self.database), |_| {}).await
    }

    /// A server on a database, with changed settings.
    pub async fn over(database: Arc<TestDatabase>, change: impl FnOnce(&mut Settings)) -> Self {
        Self::wired(database, change, Limits::default(), None).await
    }

    /// A server on a database, with changed settings and its own limits of the wire, with or without TLS.
    pub async fn wired(
        database: Arc<TestDatabase>,
        change: impl FnOnce(&mut Settings),
        limits: Limits,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let mut settings = Settings::over(&database.url);
        change(&mut settings);
        let app = App::start(settings).expect("the app starts");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = lessor::api::router(&app);
        let stopping = app.stop.clone();
        let serving = tokio::spawn(async move {
            lessor::wire::serve(listener, router, limits, tls, stopping)
                .await
                .expect("it serves");
        });
        let client = Client::new(&url, None).expect("a client");
        Self {
            app,
            client,
            http: reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .build()
                .expect("a client"),
            url,
            database,
            serving,
        }
    }

    /// Stops in order, as SIGTERM does.
    pub async fn stop(self) {
        self.app.begin_stop();
        let _ = self.serving.await;
        self.app.finish().await;
    }

    /// Is gone at once, as after kill -9: nothing is finished.
    pub fn abandon(self) {
        self.serving.abort();
    }

    /// A pool on platform `process`, with changed settings.
    pub async fn pool(&self, name: &str, change: impl FnOnce(&mut PoolSpec)) {
        let mut spec = PoolSpec::on("process");
        change(&mut spec);
        self.client
            .put_pool(name, &spec)
            .await
            .expect("the pool is made");
    }

    /// A session of a pool.
    pub async fn session(&self, pool: &str) -> Session {
        let new = NewSession::in_pool(pool, &json!({"command": ["true"]})).expect("a spec");
        self.client
            .create_session(&new, None)
            .await
            .expect("the session is made")
    }

    /// Many sessions of a pool.
    pub async fn sessions(&self, pool: &str, count: usize) -> Vec<Session> {
        let mut made = Vec::new();
        while made.len() < count {
            let some = (count - made.len()).min(1_000);
            let new = NewSession::in_pool(pool, &json!({"command": ["true"]})).expect("a spec");
            let batch = lessor_protocol::NewSessions {
                sessions: vec![new; some],
            };
            made.extend(
                self.client
                    .create_sessions(&batch, None)
                    .await
                    .expect("they are made")
                    .items,
            );
        }
        made
    }

    /// A session as it is now.
    pub async fn get(&self, id: Uuid) -> Session {
        self.client
            .get_session(&id.to_string())
            .await
            .expect("the session is there")
    }

    /// Waits until a session is in a state; panics with the session after 20 s.
    pub async fn reaches(&self, id: Uuid, state: SessionState) -> Session {
        let mut last = self.get(id).await;
        let until = Instant::now() + Duration::from_secs(20);
        while last.state != state {
            assert!(Instant::now() < until, "not {state} but {last:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = self.get(id).await;
        }
        last
    }

    /// An agent of a pool, registered with its own instance.
    pub async fn agent(&self, name: &str, pool: &str, domain: &str, capacity: i32) -> TestAgent {
        let mut agent = TestAgent::new(&self.client, name, (pool, domain), capacity);
        agent.register(&[]).await;
        agent
    }

    /// A metric of `/metrics` by its line without the value, such as `lessor_x_total` or
    /// `lessor_x{pool="p"}`; none if it is not there.
    pub async fn find_metric(&self, line: &str) -> Option<f64> {
        let text = self
            .http
            .get(format!("{}/metrics", self.url))
            .send()
            .await
            .expect("metrics")
            .text()
            .await
            .expect("text");
        let rest = text
            .lines()
            .find_map(|l| l.strip_prefix(line).and_then(|rest| rest.strip_prefix(' ')))?;
        Some(rest.parse().expect("a number"))
    }

    /// A metric that must be there.
    pub async fn metric(&self, line: &str) -> f64 {
        self.find_metric(line)
            .await
            .unwrap_or_else(|| panic!("no metric {line}"))
    }

    /// Waits until so many polls are parked in a pool, on the servers of this process together.
    pub async fn has_parked(&self, pool: &str, count: usize) {
        let line = format!("lessor_waiters{{pool=\"{pool}\"}}");
        eventually("the polls are parked", || async {
            self.find_metric(&line)
                .await
                .is_some_and(|parked| parked as usize == count)
        })
        .await;
    }
}

/// An agent whose every call the test makes itself.
#[derive(Clone)]
pub struct TestAgent {
    pub name: String,
    pub instance: String,
    pub incarnation: i64,
    pub pool: String,
    pub domain: String,
    pub capacity: i32,
    pub client: Client,
}

impl TestAgent {
    /// One that has not registered yet, of a pool and a domain.
    pub fn new(client: &Client, name: &str, (pool, domain): (&str, &str), capacity: i32) -> Self {
        Self {
            name: name.to_owned(),
            instance: Uuid::new_v4().to_string(),
            incarnation: 0,
            pool: pool.to_owned(),
            domain: domain.to_owned(),
            capacity,
            client: client.clone(),
        }
    }

    /// The same agent at another server.
    pub fn at(&self, server: &TestServer) -> Self {
        Self {
            client: server.client.clone(),
            ..self.clone()
        }
    }

    /// The body of its registration.
    pub fn registration(&self, held: &[HeldSession]) -> Register {
        Register {
            pool: self.pool.clone(),
            resource_domain: Some(self.domain.clone()),
            capacity: self.capacity,
            labels: lessor_protocol::Labels::new(),
            agent_version: None,
            protocol_version: None,
            instance: Some(Instance {
                id: self.instance.clone(),
                host: None,
                pid: None,
            }),
            held: held.to_vec(),
        }
    }

    /// Registers this instance.
    pub async fn register(&mut self, held: &[HeldSession]) -> Registered {
        let body = self.registration(held);
        let registered = self
            .client
            .register_agent(&self.name, &body)
            .await
            .expect("it registers");
        self.incarnation = registered.incarnation;
        registered
    }

    /// Registers as a process that was started anew.
    pub async fn restart(&mut self, held: &[HeldSession]) -> Registered {
        self.instance = Uuid::new_v4().to_string();
        self.register(held).await
    }

    /// The body of a claim.
    pub fn claim_body(&self, max_sessions: i32, wait_seconds: f64) -> Claim {
        Claim {
            incarnation: self.incarnation,
            max_sessions,
            wait_seconds,
            reports: Vec::new(),
            command_results: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// Claims, and says why it could not.
    pub async fn try_claim(
        &self,
        max_sessions: i32,
        wait_seconds: f64,
    ) -> Result<Claimed, lessor_client::Error> {
        self.client
            .claim(&self.name, &self.claim_body(max_sessions, wait_seconds))
            .await
    }

    /// Claims.
    pub async fn claim(&self, max_sessions: i32, wait_seconds: f64) -> Vec<Assignment> {
        self.try_claim(max_sessions, wait_seconds)
            .await
            .expect("it may claim")
            .assignments
    }

    /// Claims in the background.
    pub fn park(
        &self,
        max_sessions: i32,
        wait_seconds: f64,
    ) -> tokio::task::JoinHandle<Result<Claimed, lessor_client::Error>> {
        let agent = self.clone();
        tokio::spawn(async move { agent.try_claim(max_sessions, wait_seconds).await })
    }

    /// Renews its lease.
    pub async fn beat(&self) -> Result<Renewed, lessor_client::Error> {
        let body = lessor_protocol::Heartbeat {
            incarnation: self.incarnation,
            activity: Vec::new(),
            dropped: Vec::new(),
        };
        self.client.heartbeat(&self.name, &body).await
    }

    /// Renews its lease every so many seconds until the task is aborted.
    pub fn keep_beating(&self, every_seconds: f64) -> tokio::task::JoinHandle<()> {
        let agent = self.clone();
        tokio::spawn(async move {
            loop {
                let _ = agent.beat().await;
                tokio::time::sleep(Duration::from_secs_f64(every_seconds)).await;
            }
        })
    }

    /// Sends reports.
    pub async fn try_report(
        &self,
        reports: Vec<Report>,
    ) -> Result<Vec<ReportResult>, lessor_client::Error> {
        let body = Reports {
            incarnation: self.incarnation,
            reports,
            command_results: Vec::new(),
        };
        Ok(self.client.report(&self.name, &body).await?.results)
    }

    /// Reports a state under an assignment, which must be accepted.
    pub async fn accepts(&self, assignment: &Assignment, state: ReportedState) -> ReportResult {
        let result = self.reports(assignment, state).await;
        assert_eq!(result.outcome, Outcome::Accepted, "{result:?}");
        result
    }

    /// Reports a state under an assignment.
    pub async fn reports(&self, assignment: &Assignment, state: ReportedState) -> ReportResult {
        self.try_report(vec![report(assignment, state)])
            .await
            .expect("it may report")
            .remove(0)
    }

    /// Claims one session and runs it: accepted, with a resource id and an endpoint.
    pub async fn runs_one(&self) -> Assignment {
        let assignment = self
            .claim(1, 5.0)
            .await
            .pop()
            .expect("there is one to claim");
        let mut report = report(&assignment, ReportedState::Running);
        report.platform_resource_id = Some(Some(format!("resource-{}", assignment.session.id)));
        report.endpoint = Some(Some(lessor_protocol::Endpoint {
            protocol: "vnc".to_owned(),
            host: Some("10.0.0.1".to_owned()),
            port: 5900,
            path: None,
        }));
        let result = self
            .try_report(vec![report])
            .await
            .expect("it may report")
            .remove(0);
        assert_eq!(result.outcome, Outcome::Accepted, "{result:?}");
        assignment
    }

    /// What it holds, for a registration.
    pub fn held(assignments: &[Assignment]) -> Vec<HeldSession> {
        assignments
            .iter()
            .map(|a| HeldSession {
                session_id: a.session.id,
                lease_epoch: a.lease_epoch,
            })
            .collect()
    }
}

/// A report of a state under an assignment.
pub fn report(assignment: &Assignment, state: ReportedState) -> Report {
    let held = HeldSession {
        session_id: assignment.session.id,
        lease_epoch: assignment.lease_epoch,
    };
    Report::of(held, assignment.generation, state)
}

/// Waits until a condition holds; panics after 20 s.
pub async fn eventually<F, R>(what: &str, mut holds: F)
where
    F: FnMut() -> R,
    R: Future<Output = bool>,
{
    let until = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < until, "it never came about: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
