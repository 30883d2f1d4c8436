//! The loop against a small fake of the service: plain HTTP over TCP, with the rules that matter.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lessor_protocol::{Command, ReportedFailure};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fake::{Fake, FakeState, session};
use super::*;

/// Writes down what it is asked to do, next to what the service had accepted by then.
#[derive(Default)]
pub(super) struct Platform {
    log: Mutex<Vec<String>>,
    found: Vec<Held>,
    slow_start: Duration,
    exit: Notify,
    /// Opens for one command whose kind begins with `slow`.
    pub(super) gate: Notify,
    sees: Mutex<Option<Vec<lessor_protocol::InventoryResource>>>,
    pub(super) activity: Says,
}

/// What it says when it is asked for activity.
#[derive(Default)]
pub(super) enum Says {
    /// Of the first session and of one that nobody holds.
    #[default]
    Something,
    Never,
    Panic,
}

impl Platform {
    pub(super) fn that_says(activity: Says) -> Self {
        Self {
            activity,
            ..Self::default()
        }
    }

    fn log(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    pub(super) fn logged(&self, what: &str) -> usize {
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
    async fn command(
        &self,
        _: &Work,
        command: &Command,
    ) -> Result<serde_json::Value, ReportedFailure> {
        self.log(format!("begin {}", command.kind));
        let mut cut_off = CutOff(self, &command.kind, true);
        if command.kind.starts_with("slow") {
            self.gate.notified().await;
        }
        cut_off.2 = false;
        if command.kind == "huge" {
            return Ok(json!("x".repeat(70_000)));
        }
        Ok(json!({ "did": command.kind }))
    }
    async fn activity(&self) -> Vec<(Uuid, Duration)> {
        match self.activity {
            Says::Something => [1, 99]
                .map(|id| (Uuid::from_u128(id), Duration::from_secs(5)))
                .into(),
            Says::Never => std::future::pending().await,
            Says::Panic => panic!("as the test wants it"),
        }
    }
    async fn inventory(&self) -> Option<Vec<lessor_protocol::InventoryResource>> {
        self.sees.lock().unwrap().clone()
    }
    async fn delete(&self, resource: &lessor_protocol::InventoryResource) -> Result<(), Stop> {
        self.log(format!("delete {}", resource.platform_resource_id));
        let mut sees = self.sees.lock().unwrap();
        sees.as_mut().unwrap().retain(|seen| seen != resource);
        Ok(())
    }
    async fn wait(&self, _: &Work) -> Exit {
        self.exit.notified().await;
        Exit::Code(7)
    }
}

/// Writes down that a command's future was dropped.
struct CutOff<'a>(&'a Platform, &'a str, bool);

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        if self.2 {
            self.0.log(format!("cut off {}", self.1));
        }
    }
}

pub(super) struct Run {
    pub(super) fake: Arc<Fake>,
    pub(super) platform: Arc<Platform>,
    pub(super) shutdown: CancellationToken,
    pub(super) agent: tokio::task::JoinHandle<Result<(), AgentError>>,
}

pub(super) async fn run(ttl: f64, platform: Platform, prepare: impl FnOnce(&mut FakeState)) -> Run {
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
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
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
async fn what_is_told_to_be_deleted_is_but_never_what_may_be_in_hand() {
    use lessor_protocol::InventoryResource as Seen;
    let run = run(1.0, Platform::default(), |state| {
        state.inventory_wanted = true
    })
    .await;
    run.fake.assign(1, "start", 5, 1);
    run.states(1, &[(5, "starting"), (5, "running")]).await;
    let id = Uuid::from_u128(1);
    *run.platform.sees.lock().unwrap() = Some(vec![
        Seen::named("r"),
        Seen::named("labelled").of(id, 1),
        Seen::named("earlier").of(id, 0),
        Seen::named("stranger"),
    ]);
    let deleted = |what| move |run: &Run| run.platform.logged(what) == 1;
    run.until("deleted", deleted("delete earlier")).await;
    run.until("deleted", deleted("delete stranger")).await;
    for what in ["delete r", "delete labelled"] {
        assert_eq!(run.platform.logged(what), 0, "{what}");
    }
    run.shutdown.cancel();
    run.agent.await.unwrap().unwrap();
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
