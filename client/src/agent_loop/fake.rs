//! A service of a few lines for the loop's tests: it answers over a real socket and remembers.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lessor_protocol::Session;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use uuid::Uuid;

use super::*;

/// What the fake knows, and what happened to it.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) state: Mutex<FakeState>,
    pub(super) work: Notify,
}

#[derive(Default)]
pub(super) struct FakeState {
    pub(super) incarnation: i64,
    /// Answers of the next claims.
    pub(super) assignments: VecDeque<Value>,
    /// What the next claim gives beside them.
    pub(super) commands: Vec<Value>,
    /// Results of commands: the number of the command, the epoch, the status, the reason.
    pub(super) command_results: Vec<(u128, i64, String, String)>,
    pub(super) lost: Vec<Uuid>,
    pub(super) dropped: Vec<Value>,
    pub(super) registered: Vec<Value>,
    pub(super) reports: Vec<(String, i64, String)>,
    pub(super) goodbyes: usize,
    /// What the next registration keeps: session to new epoch.
    pub(super) keep: BTreeMap<String, i64>,
    /// Problem codes to answer the next calls of a kind with.
    pub(super) problems: Vec<(&'static str, u16, &'static str)>,
    /// Epochs that are current; others are fenced. Everything is, if empty.
    pub(super) fenced: Vec<i64>,
    pub(super) ttl: f64,
    /// The heartbeats that came, and what activity they told.
    pub(super) beats: usize,
    pub(super) activity: Vec<Value>,
    /// Whether heartbeats ask for an inventory; every resource of it is to be deleted.
    pub(super) inventory_wanted: bool,
}

impl Fake {
    pub(super) async fn start(self: &Arc<Self>) -> String {
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

    pub(super) async fn connection(&self, mut stream: TcpStream) -> Option<()> {
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

    pub(super) async fn answer(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let call = match (method, path.rsplit('/').next().unwrap()) {
            ("put", _) => "register",
            ("delete", _) => "goodbye",
            (_, call) if call.starts_with("claim") => "claim",
            (_, "heartbeat") => "heartbeat",
            (_, "inventory") => "inventory",
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
                state.beats += 1;
                let told = body["activity"].as_array().unwrap();
                state.activity.extend(told.iter().cloned());
                state
                    .dropped
                    .extend(body["dropped"].as_array().unwrap().iter().cloned());
                let lost = state.still_lost();
                (
                    200,
                    json!({"lease": state.lease(), "scheduling": "active", "lost": lost, "inventory_wanted": state.inventory_wanted}),
                )
            }
            "reports" => (200, self.reports(body)),
            "inventory" => {
                let resources = body["resources"].as_array().unwrap();
                let verdicts: Vec<_> = resources
                    .iter()
                    .map(|r| json!({"platform_resource_id": r["platform_resource_id"], "verdict": "delete"}))
                    .collect();
                (200, json!({ "verdicts": verdicts }))
            }
            "claim" => (200, self.claim().await),
            _ => {
                self.state.lock().unwrap().goodbyes += 1;
                (200, Value::Null)
            }
        }
    }

    pub(super) fn register(&self, body: &Value) -> Value {
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

    pub(super) fn reports(&self, body: &Value) -> Value {
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
        let mut outcomes = Vec::new();
        for result in body["command_results"].as_array().unwrap() {
            let id: Uuid = result["command_id"].as_str().unwrap().parse().unwrap();
            state.command_results.push((
                id.as_u128(),
                result["lease_epoch"].as_i64().unwrap(),
                result["status"].as_str().unwrap().to_owned(),
                result["failure"]["reason"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            ));
            outcomes.push(json!({"command_id": id, "outcome": "accepted", "code": null}));
        }
        json!({"results": results, "command_results": outcomes})
    }

    pub(super) async fn claim(&self) -> Value {
        for _ in 0..50 {
            let woken = self.work.notified();
            {
                let mut state = self.state.lock().unwrap();
                let (lost, next) = (state.still_lost(), state.assignments.pop_front());
                let commands = std::mem::take(&mut state.commands);
                if next.is_some() || !lost.is_empty() || !commands.is_empty() {
                    let assignments: Vec<_> = next.into_iter().collect();
                    return json!({"assignments": assignments, "commands": commands, "results": [],
                        "command_results": [], "lost": lost, "lease": state.lease(),
                        "scheduling": "active", "inventory_wanted": false});
                }
            }
            let _ = timeout(Duration::from_secs(1), woken).await;
        }
        Value::Null
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut FakeState) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.work.notify_waiters();
        result
    }

    pub(super) fn assign(&self, n: u128, action: &str, epoch: i64, generation: i64) {
        let session = session(n, generation);
        let assignment = json!({"session": session, "action": action, "lease_epoch": epoch,
            "generation": generation, "offered_until": null});
        self.with(|state| state.assignments.push_back(assignment));
    }

    /// Gives a command of session 1.
    pub(super) fn command(&self, n: u128, kind: &str, epoch: i64, status: &str) {
        let command = json!({"id": Uuid::from_u128(n), "session_id": Uuid::from_u128(1), "kind": kind,
            "payload": {}, "status": status, "redeliver": false, "lease_epoch": epoch, "agent": "a",
            "result": null, "failure": null, "deadline_at": "2026-01-01T00:00:30Z",
            "created_at": "2026-01-01T00:00:00Z", "delivered_at": "2026-01-01T00:00:00Z",
            "finished_at": null});
        self.with(|state| state.commands.push(command));
    }

    /// What was answered for a command: status, or reason of a failure.
    pub(super) fn answers(&self, n: u128) -> Vec<String> {
        let of = |state: &mut FakeState| {
            let results = state.command_results.iter().filter(|(id, ..)| *id == n);
            let said = results.map(|(_, _, status, reason)| match reason.as_str() {
                "" => status.clone(),
                reason => reason.to_owned(),
            });
            said.collect()
        };
        self.with(of)
    }

    pub(super) fn states(&self, n: u128) -> Vec<(i64, String)> {
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
    pub(super) fn lease(&self) -> Value {
        json!({"ttl_seconds": self.ttl, "renew_after_seconds": self.ttl / 3.0, "self_fence_after_seconds": self.ttl * 2.0 / 3.0})
    }

    pub(super) fn still_lost(&self) -> Vec<Uuid> {
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
