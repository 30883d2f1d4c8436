//! The loop against a small fake of the service: plain HTTP over TCP, with the rules that matter.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lessor_protocol::Session;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;

/// What the fake knows, and what happened to it.
#[derive(Default)]
struct Fake {
    state: Mutex<FakeState>,
    work: Notify,
}

#[derive(Default)]
struct FakeState {
    incarnation: i64,
    /// Answers of the next claims.
    assignments: VecDeque<Value>,
    lost: Vec<Uuid>,
    dropped: Vec<Value>,
    registered: Vec<Value>,
    reports: Vec<(String, i64, String)>,
    goodbyes: usize,
    /// What the next registration keeps: session to new epoch.
    keep: BTreeMap<String, i64>,
    /// Problem codes to answer the next calls of a kind with.
    problems: Vec<(&'static str, u16, &'static str)>,
    /// Epochs that are current; others are fenced. Everything is, if empty.
    fenced: Vec<i64>,
    ttl: f64,
}

impl Fake {
    async fn start(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = Arc::clone(&fake);
                tokio::spawn(async move { fake.connection(stream).await });
            }
        });
        url
    }

    async fn connection(&self, mut stream: TcpStream) -> Option<()> {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at + 4;
                }
                (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
            };
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
            while buffer.len() < end + length.unwrap_or(0) {
                (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
            }
            let body: Vec<u8> = buffer
                .drain(..end + length.unwrap_or(0))
                .skip(end)
                .collect();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let mut words = head.split_whitespace();
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let (status, answer) = self.answer(&method, &path, &body).await;
            let answer = answer.to_string();
            let text = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
                answer.len()
            );
            stream.write_all(text.as_bytes()).await.ok()?;
        }
    }

    async fn answer(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let call = match (method, path.rsplit('/').next().unwrap()) {
            ("put", _) => "register",
            ("delete", _) => "goodbye",
            (_, call) if call.starts_with("claim") => "claim",
            (_, "heartbeat") => "heartbeat",
            _ => "reports",
        };
        {
            let mut state = self.state.lock().unwrap();
            if let Some(at) = state.problems.iter().position(|(of, ..)| *of == call) {
                let (_, status, code) = state.problems.remove(at);
                return (
                    status,
                    json!({"type": "", "title": code, "status": status, "code": code,
                    "detail": "", "request_id": "", "errors": []}),
                );
            }
        }
        match call {
            "register" => (200, self.register(body)),
            "heartbeat" => {
                let mut state = self.state.lock().unwrap();
                state
                    .dropped
                    .extend(body["dropped"].as_array().unwrap().iter().cloned());
                let lost = state.still_lost();
                (
                    200,
                    json!({"lease": state.lease(), "scheduling": "active", "lost": lost, "inventory_wanted": false}),
                )
            }
            "reports" => (200, self.reports(body)),
            "claim" => (200, self.claim().await),
            _ => {
                self.state.lock().unwrap().goodbyes += 1;
                (200, Value::Null)
            }
        }
    }

    fn register(&self, body: &Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.incarnation += 1;
        state.registered.push(body.clone());
        let keep: Vec<_> = state
            .keep
            .iter()
            .map(|(id, epoch)| json!({"session_id": id, "lease_epoch": epoch}))
            .collect();
        let drop: Vec<_> = body["held"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|held| {
                !state
                    .keep
                    .contains_key(held["session_id"].as_str().unwrap())
            })
            .map(|held| json!({"session_id": held["session_id"], "reason": "ended"}))
            .collect();
        json!({"agent": {"name": "a", "pool": "p", "resource_domain": "d", "capacity": 1,
            "held_sessions": 0, "free_slots": 1, "labels": {}, "agent_version": null,
            "protocol_version": 1, "instance": null, "incarnation": state.incarnation,
            "availability": "live", "scheduling": "active", "cordon": null,
            "lease_expires_in_seconds": 1.0, "last_heartbeat_at": "2026-01-01T00:00:00Z",
            "registered_at": "2026-01-01T00:00:00Z", "created_at": "2026-01-01T00:00:00Z"},
            "incarnation": state.incarnation, "lease": state.lease(), "protocol_version": 1,
            "keep": keep, "drop": drop, "released": []})
    }

    fn reports(&self, body: &Value) -> Value {
        let mut state = self.state.lock().unwrap();
        let mut results = Vec::new();
        for report in body["reports"].as_array().unwrap() {
            let (id, epoch) = (
                report["session_id"].as_str().unwrap(),
                report["lease_epoch"].as_i64().unwrap(),
            );
            state.reports.push((
                id.to_owned(),
                epoch,
                report["state"].as_str().unwrap().to_owned(),
            ));
            let fenced = state.fenced.contains(&epoch);
            results.push(json!({"session_id": id, "outcome": if fenced { "fenced" } else { "accepted" },
                "code": fenced.then_some("lease_epoch_stale"), "state": report["state"], "lease_epoch": epoch}));
        }
        json!({"results": results, "command_results": []})
    }

    async fn claim(&self) -> Value {
        for _ in 0..50 {
            let woken = self.work.notified();
            {
                let mut state = self.state.lock().unwrap();
                let (lost, next) = (state.still_lost(), state.assignments.pop_front());
                if next.is_some() || !lost.is_empty() {
                    let assignments: Vec<_> = next.into_iter().collect();
                    return json!({"assignments": assignments, "commands": [], "results": [],
                        "command_results": [], "lost": lost, "lease": state.lease(),
                        "scheduling": "active", "inventory_wanted": false});
                }
            }
            let _ = timeout(Duration::from_secs(1), woken).await;
        }
        Value::Null
    }

    fn with<T>(&self, change: impl FnOnce(&mut FakeState) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.work.notify_waiters();
        result
    }

    fn assign(&self, n: u128, action: &str, epoch: i64, generation: i64) {
        let session = session(n, generation);
        let assignment = json!({"session": session, "action": action, "lease_epoch": epoch,
            "generation": generation, "offered_until": null});
        self.with(|state| state.assignments.push_back(assignment));
    }

    fn states(&self, n: u128) -> Vec<(i64, String)> {
        let id = Uuid::from_u128(n).to_string();
        let of = |state: &mut FakeState| {
            let reports = state.reports.iter().filter(|(session, ..)| *session == id);
            reports
                .map(|(_, epoch, state)| (*epoch, state.clone()))
                .collect()
        };
        self.with(of)
    }
}

impl FakeState {
    fn lease(&self) -> Value {
        json!({"ttl_seconds": self.ttl, "renew_after_seconds": self.ttl / 3.0, "self_fence_after_seconds": self.ttl * 2.0 / 3.0})
    }

    fn still_lost(&self) -> Vec<Uuid> {
        let heard = |id: &Uuid| {
            self.dropped
                .iter()
                .any(|d| d["session_id"] == id.to_string())
        };
        self.lost.iter().copied().filter(|id| !heard(id)).collect()
    }
}

pub(super) fn session(n: u128, generation: i64) -> Session {
    serde_json::from_value(json!({
        "id": Uuid::from_u128(n), "name": null, "pool": "p", "platform": "fake", "region": null,
        "owner": null, "labels": {}, "priority": 0, "desired_state": "running", "state": "pending",
        "generation": generation, "observed_generation": 0, "lease_epoch": 1,
        "assigned_agent_id": "a", "offered_until": null, "resource_domain": null,
        "platform_resource_id": null, "platform_metadata": null, "endpoint": null, "requires": {},
        "prefers": {}, "attempt": 1, "not_before": null, "restart": "never",
        "start_timeout_seconds": null, "terminate_timeout_seconds": null,
        "idle_timeout_seconds": null, "idle_action": "terminate", "max_duration_seconds": null,
        "grace_seconds": null, "delete_data": false, "failure": null, "termination_reason": null,
        "last_activity_at": null, "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "started_at": null, "ended_at": null, "version": 1,
        "spec": null
    }))
    .unwrap()
}

/// Writes down what it is asked to do, next to what the service had accepted by then.
#[derive(Default)]
struct Platform {
    log: Mutex<Vec<String>>,
    found: Vec<Held>,
    slow_start: Duration,
    exit: Notify,
}

impl Platform {
    fn log(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    fn logged(&self, what: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|entry| *entry == what)
            .count()
    }
}

impl Driver for Arc<Platform> {
    async fn held(&self) -> Vec<Held> {
        self.found.clone()
    }
    async fn remember(&self, held: &Held) {
        self.log(format!("remember {}", held.lease_epoch));
    }
    async fn start(&self, _: &Work) -> Result<Resource, Stop> {
        self.log("start");
        tokio::time::sleep(self.slow_start).await;
        self.log("started");
        Ok(Resource {
            platform_resource_id: Some("r".into()),
            ..Resource::default()
        })
    }
    async fn adopt(&self, _: &Work) -> Result<Resource, Stop> {
        self.log("look");
        Ok(Resource::default())
    }
    async fn wake(&self, _: &Work) -> Result<Resource, Stop> {
        Ok(Resource::default())
    }
    async fn hibernate(&self, _: &Work) -> Result<Resource, Stop> {
        Ok(Resource::default())
    }
    async fn terminate(&self, _: &Work) -> Result<(), Stop> {
        self.log("terminate");
        Ok(())
    }
    async fn wait(&self, _: &Work) -> Exit {
        self.exit.notified().await;
        Exit::Code(7)
    }
}

struct Run {
    fake: Arc<Fake>,
    platform: Arc<Platform>,
    shutdown: CancellationToken,
    agent: tokio::task::JoinHandle<Result<(), AgentError>>,
}

async fn run(ttl: f64, platform: Platform, prepare: impl FnOnce(&mut FakeState)) -> Run {
    let fake = Arc::new(Fake::default());
    fake.with(|state| state.ttl = ttl);
    fake.with(prepare);
    let client = Client::new(&fake.start().await, None).unwrap();
    let (platform, shutdown) = (Arc::new(platform), CancellationToken::new());
    let config = AgentConfig::new("a", "p");
    let agent = tokio::spawn(Agent::run(
        client,
        config,
        Arc::clone(&platform),
        shutdown.clone(),
    ));
    Run {
        fake,
        platform,
        shutdown,
        agent,
    }
}

impl Run {
    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "never: {what}; {:?}",
            self.fake.with(|state| state.reports.clone())
        );
    }

    async fn states(&self, n: u128, expected: &[(i64, &str)]) {
        let same = |run: &Self| {
            let states = run.fake.states(n);
            states
                .iter()
                .map(|(epoch, state)| (*epoch, &**state))
                .eq(expected.iter().copied())
        };
        self.until(&format!("{expected:?}"), same).await;
    }
}

#[tokio::test]
async fn accepts_before_it_acts_and_says_goodbye() {
    let run = run(30.0, Platform::default(), |_| {}).await;
    run.fake.assign(1, "start", 5, 1);
    run.states(1, &[(5, "starting"), (5, "running")]).await;
    // The same again, twice: the first answers a claim that was parked before the service had heard
    // and is passed over, the second is told again. Neither is done again.
    run.fake.assign(1, "start", 5, 1);
    run.fake.assign(1, "start", 5, 1);
    run.states(1, &[(5, "starting"), (5, "running"), (5, "running")])
        .await;
    run.fake.assign(1, "terminate", 5, 2);
    run.until("terminated", |run| {
        run.fake.states(1).last().unwrap().1 == "terminated"
    })
    .await;
    assert_eq!(
        (
            run.platform.logged("start"),
            run.platform.logged("terminate")
        ),
        (1, 1)
    );
    run.shutdown.cancel();
    run.agent.await.unwrap().unwrap();
    assert_eq!(run.fake.with(|state| state.goodbyes), 1);
}

#[tokio::test]
async fn what_is_fenced_is_forgotten_and_never_touched() {
    let run = run(30.0, Platform::default(), |state| state.fenced = vec![5]).await;
    run.fake.assign(1, "terminate", 5, 1);
    run.states(1, &[(5, "terminating")]).await;
    run.fake.assign(2, "adopt", 6, 1);
    run.states(2, &[(6, "running")]).await;
    assert_eq!(run.platform.logged("terminate"), 0);
    run.platform.exit.notify_one();
    run.states(2, &[(6, "running"), (6, "failed")]).await;
    run.shutdown.cancel();
    run.agent.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_lost_is_let_go_and_acknowledged() {
    let platform = Platform {
        slow_start: Duration::from_secs(600),
        ..Platform::default()
    };
    let run = run(30.0, platform, |_| {}).await;
    run.fake.assign(1, "start", 5, 1);
    run.until("started", |run| run.platform.logged("start") == 1)
        .await;
    run.fake.with(|state| state.lost = vec![Uuid::from_u128(1)]);
    run.until("acknowledged", |run| {
        run.fake.with(|state| state.dropped.len()) > 0
    })
    .await;
    assert_eq!(
        run.fake
            .with(|state| state.dropped[0]["lease_epoch"].clone()),
        5
    );
    assert_eq!(
        (
            run.platform.logged("started"),
            run.platform.logged("terminate")
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn registers_again_with_what_it_holds_under_the_new_epoch() {
    let id = Uuid::from_u128(1).to_string();
    let run = run(30.0, Platform::default(), |_| {}).await;
    run.fake.assign(1, "start", 5, 1);
    run.until("remembered", |run| run.platform.logged("remember 5") == 1)
        .await;
    run.fake.with(|state| {
        state.keep.insert(id.clone(), 9);
        state.problems.push(("claim", 409, "lease_expired"));
        state.lost = vec![Uuid::from_u128(77)]; // ends the parked claim; nobody knows it
    });
    run.until("registered", |run| {
        run.fake.with(|state| state.registered.len()) == 2
    })
    .await;
    let held = run.fake.with(|state| state.registered[1]["held"].clone());
    assert_eq!(held, json!([{"session_id": id, "lease_epoch": 5}]));
    run.until("remembered", |run| run.platform.logged("remember 9") == 1)
        .await;
    run.platform.exit.notify_one();
    run.until("failed", |run| {
        run.fake.states(1).last().unwrap() == &(9, "failed".to_owned())
    })
    .await;
    assert_eq!(run.platform.logged("start"), 1);
}

#[tokio::test]
async fn a_new_process_keeps_what_its_driver_found() {
    let found = vec![
        Held {
            session: session(1, 3),
            lease_epoch: 4,
        },
        Held {
            session: session(2, 3),
            lease_epoch: 4,
        },
    ];
    let platform = Platform {
        found,
        ..Platform::default()
    };
    let run = run(30.0, platform, |state| {
        state.keep.insert(Uuid::from_u128(1).to_string(), 8);
    })
    .await;
    run.until("acknowledged", |run| {
        run.fake.with(|state| state.dropped.len()) == 1
    })
    .await;
    run.fake.assign(1, "release", 8, 4);
    run.states(1, &[(8, "running")]).await;
    assert_eq!(
        run.fake
            .with(|state| state.dropped[0]["session_id"].clone()),
        Uuid::from_u128(2).to_string()
    );
}

#[tokio::test]
async fn an_action_is_cut_off_when_the_lease_is_not_renewed_and_resumed_after() {
    let platform = Platform {
        slow_start: Duration::from_millis(1500),
        ..Platform::default()
    };
    let run = run(1.5, platform, |_| {}).await;
    run.fake.assign(1, "start", 5, 1);
    run.until("start", |run| run.platform.logged("start") == 1)
        .await;
    let refuse = ("heartbeat", 503, "database_unavailable");
    run.fake.with(|state| state.problems.extend([refuse; 4]));
    run.states(1, &[(5, "starting"), (5, "running")]).await;
    assert!(
        run.platform.logged("start") > run.platform.logged("started"),
        "cut off once"
    );
}

#[tokio::test]
async fn leaves_when_superseded_and_sits_out_what_passes() {
    let passing = |state: &mut FakeState| {
        state.problems.push(("register", 503, "stopping"));
        state.problems.push(("register", 404, "pool_not_found"));
        state.problems.push(("claim", 409, "claim_superseded"));
        state
            .problems
            .push(("reports", 503, "database_unavailable"));
    };
    let run = run(30.0, Platform::default(), passing).await;
    run.fake.assign(1, "start", 5, 1);
    run.states(1, &[(5, "starting"), (5, "running")]).await;
    run.fake
        .with(|state| state.problems.push(("claim", 409, "agent_superseded")));
    run.fake.assign(2, "start", 5, 1);
    assert!(matches!(
        run.agent.await.unwrap(),
        Err(AgentError::Superseded(_))
    ));
    assert_eq!(run.fake.with(|state| state.goodbyes), 0);

    let refused = super::tests::run(30.0, Platform::default(), |state| {
        state
            .problems
            .push(("register", 422, "protocol_version_unsupported"));
    })
    .await;
    assert!(matches!(
        refused.agent.await.unwrap(),
        Err(AgentError::Refused { .. })
    ));
}
