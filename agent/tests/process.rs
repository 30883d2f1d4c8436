//! The process driver with real processes: each test has a data folder of its own, and two drivers
//! on it where it matters what another agent sees.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use lessor_agent::process::proc::{self, ProcessId};
use lessor_agent::process::{ProcessDriver, ShimCommand, shim};
use lessor_client::agent_loop::{Driver, Exit, Held, Resource, Stop, Work};
use lessor_protocol::Session;
use serde_json::{Value, json};
use uuid::Uuid;

struct Machine {
    dir: PathBuf,
    session: Uuid,
}

impl Machine {
    fn new() -> Self {
        let session = Uuid::now_v7();
        Self {
            dir: std::env::temp_dir().join(format!("lessor-agent-{session}")),
            session,
        }
    }

    fn agent(&self, name: &str) -> ProcessDriver {
        let shim = ShimCommand {
            program: env!("CARGO_BIN_EXE_lessor-agent").into(),
            args: vec![shim::SUBCOMMAND.into()],
        };
        ProcessDriver::new(&self.dir, name, shim).unwrap()
    }

    fn session(&self, spec: Value) -> Session {
        serde_json::from_value(json!({
            "id": self.session, "name": null, "pool": "p", "platform": "process", "region": null,
            "owner": null, "labels": {}, "priority": 0, "desired_state": "running",
            "state": "pending", "generation": 1, "observed_generation": 0, "lease_epoch": 1,
            "assigned_agent_id": "a", "offered_until": null, "resource_domain": null,
            "platform_resource_id": null, "platform_metadata": {}, "endpoint": null,
            "requires": {}, "prefers": {}, "attempt": 1, "not_before": null,
            "restart": "on_failure", "start_timeout_seconds": null,
            "terminate_timeout_seconds": null, "idle_timeout_seconds": null,
            "idle_action": "terminate", "max_duration_seconds": null, "grace_seconds": null,
            "delete_data": false, "failure": null, "termination_reason": null,
            "last_activity_at": null, "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z", "started_at": null, "ended_at": null,
            "version": 1, "spec": null,
        }))
        .map(|session: Session| Session {
            spec: serde_json::value::to_raw_value(&spec).unwrap(),
            ..session
        })
        .unwrap()
    }

    fn shell(&self, script: &str) -> Session {
        self.session(json!({"command": ["sh", "-c", script]}))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let id = self.session.to_string();
        for stat in proc::all() {
            if proc::has_env(stat.id.pid, "LESSOR_SESSION_ID", &id) {
                stat.id.signal(rustix::process::Signal::KILL);
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn work(session: &Session) -> Work {
    Work::unbound(session.clone())
}

fn process(resource: &Resource) -> ProcessId {
    resource
        .platform_resource_id
        .as_ref()
        .unwrap()
        .parse()
        .unwrap()
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn family(session: Uuid) -> usize {
    let id = session.to_string();
    let all = proc::all();
    all.iter()
        .filter(|s| proc::has_env(s.id.pid, "LESSOR_SESSION_ID", &id) && s.id.is_alive())
        .count()
}

#[tokio::test]
async fn starts_once_and_is_seen_by_another_agent() {
    let machine = Machine::new();
    let (a, b) = (machine.agent("a"), machine.agent("b"));
    let session = machine.shell("echo out $LESSOR_ATTEMPT $X; echo err >&2; sleep 600");
    let mut spec: Value = serde_json::from_str(session.spec.get()).unwrap();
    spec["env"] = json!({"X": "x"});
    spec["endpoint"] = json!({"protocol": "http", "port": 80});
    let session = machine.session(spec);
    let (one, two) = (work(&session), work(&session));
    let (started, again) = tokio::join!(a.start(&one), b.start(&two));
    let (started, again) = (started.unwrap(), again.unwrap());
    assert_eq!(
        process(&started),
        process(&again),
        "two agents in a race start it once"
    );
    assert_eq!(started.endpoint.as_ref().unwrap().port, 80);
    assert!(process(&started).is_alive());

    let metadata: Value = serde_json::from_str(started.platform_metadata.unwrap().get()).unwrap();
    assert_eq!(metadata["pid"], process(&again).pid);
    let read = |key: &str| std::fs::read_to_string(metadata[key].as_str().unwrap()).unwrap();
    eventually("its output", || read("stdout_path") == "out 1 x\n").await;
    eventually("its errors", || read("stderr_path") == "err\n").await;

    let adopted = b.adopt(&work(&session)).await.unwrap();
    assert_eq!(process(&adopted), process(&again));
    assert!(adopted.endpoint.is_none(), "unchanged");
    let stat = proc::Stat::of(process(&again).pid).unwrap();
    // From /proc, because getsid(2) answers 0 where our leader is outside of this PID namespace.
    let own = proc::Stat::of(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert_ne!(stat.session, own.session);

    b.terminate(&work(&session)).await.unwrap();
    assert_eq!(family(machine.session), 0);
    b.terminate(&work(&session)).await.unwrap();
}

#[tokio::test]
async fn the_adopter_sees_the_exit_code() {
    for (script, exit) in [
        ("exit 0", Exit::Code(0)),
        ("exit 7", Exit::Code(7)),
        ("kill -9 $$", Exit::Signal(9)),
    ] {
        let machine = Machine::new();
        let session = machine.shell(&format!("while [ ! -e go ]; do sleep 0.02; done; {script}"));
        machine.agent("a").start(&work(&session)).await.unwrap();
        let adopter = machine.agent("b");
        adopter.adopt(&work(&session)).await.unwrap();
        let one = work(&session);
        let mut wait = std::pin::pin!(adopter.wait(&one));
        assert!(
            tokio::time::timeout(Duration::from_millis(100), &mut wait)
                .await
                .is_err()
        );
        std::fs::write(
            machine
                .dir
                .join(format!("sessions/{}/files/go", session.id)),
            "",
        )
        .unwrap();
        assert_eq!(wait.await, exit, "{script}");
        // And whoever comes later still does.
        assert_eq!(
            adopter.adopt(&work(&session)).await.unwrap_err(),
            Stop::Ended(exit.clone())
        );
        // A start that is repeated finds what it was, and how it ended.
        let found = adopter.start(&work(&session)).await.unwrap();
        assert!(found.platform_resource_id.is_some() && found.platform_metadata.is_some());
        assert_eq!(adopter.wait(&one).await, exit);
    }
}

#[tokio::test]
async fn nothing_is_left_of_grandchildren_and_daemons() {
    let machine = Machine::new();
    let agent = machine.agent("a");
    let mut session = machine.shell(
        "trap '' TERM; (trap '' TERM; sleep 600) & setsid sh -c 'trap \"\" TERM; sleep 600' & \
         (setsid sleep 600 &) ; touch up; while :; do sleep 1; done",
    );
    session.grace_seconds = Some(0.3);
    agent.start(&work(&session)).await.unwrap();
    eventually("all of them", || family(machine.session) >= 5).await;
    agent.terminate(&work(&session)).await.unwrap();
    assert_eq!(family(machine.session), 0);
    assert_eq!(agent.wait(&work(&session)).await, Exit::Signal(9));
}

#[tokio::test]
async fn what_the_command_leaves_behind_goes_with_it() {
    let machine = Machine::new();
    let agent = machine.agent("a");
    let session = machine.shell("setsid sleep 600 & sleep 0.2; exit 3");
    agent.start(&work(&session)).await.unwrap();
    assert_eq!(agent.wait(&work(&session)).await, Exit::Code(3));
    assert_eq!(family(machine.session), 0);
}

#[tokio::test]
async fn term_is_heard_and_given_its_time() {
    let machine = Machine::new();
    let agent = machine.agent("a");
    // The command dies at once; its child takes its time, and gets it.
    let session = machine
        .shell("sh -c 'trap \"sleep 0.5; echo bye > bye; exit\" TERM; touch up; while :; do sleep 0.05; done' & wait");
    agent.start(&work(&session)).await.unwrap();
    let files = machine.dir.join(format!("sessions/{}/files", session.id));
    eventually("up", || files.join("up").exists()).await;
    agent.terminate(&work(&session)).await.unwrap();
    assert!(files.join("bye").exists());
    assert_eq!(family(machine.session), 0);
}

#[tokio::test]
async fn hibernates_and_wakes() {
    let machine = Machine::new();
    let agent = machine.agent("a");
    // Not a shell that forks: stopped between a child's vfork and exec, it waits for that child, which is another state.
    let session = machine.shell("exec sleep 3600");
    let started = process(&agent.start(&work(&session)).await.unwrap());
    let state = || proc::Stat::of(started.pid).unwrap().state;
    agent.hibernate(&work(&session)).await.unwrap();
    eventually("stopped", || state() == 'T').await;
    let woken = machine.agent("b").wake(&work(&session)).await.unwrap();
    assert_eq!(process(&woken), started);
    eventually("going on", || state() != 'T').await;
    // What is stopped can be ended, without waiting for the KILL.
    agent.hibernate(&work(&session)).await.unwrap();
    let began = std::time::Instant::now();
    agent.terminate(&work(&session)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5) && family(machine.session) == 0);
}

#[tokio::test]
async fn failures_say_why() {
    let cases = [
        (json!({"command": ["/no/such/program"]}), "cannot_execute"),
        (
            json!({"command": ["true"], "cwd": "/no/such/folder"}),
            "cannot_execute",
        ),
        (json!({"command": []}), "bad_spec"),
        (json!({"command": ["true"], "commands": 1}), "bad_spec"),
        (json!({"command": "true"}), "bad_spec"),
        (json!({"command": ["a\u{0}b"]}), "bad_spec"),
        (
            json!({"command": ["true"], "env": {"a=b": "c"}}),
            "bad_spec",
        ),
        (json!(null), "bad_spec"),
    ];
    for (spec, reason) in cases {
        let machine = Machine::new();
        let session = machine.session(spec.clone());
        match machine.agent("a").start(&work(&session)).await {
            Err(Stop::Failed(failure)) => {
                assert_eq!(
                    (&*failure.reason, failure.retryable),
                    (reason, false),
                    "{spec}"
                );
            }
            other => panic!("{spec}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_reused_pid_is_not_taken_for_the_session() {
    let machine = Machine::new();
    let agent = machine.agent("a");
    let mut session = machine.shell("sleep 600");
    // A process of somebody else that has "our" pid.
    let mut other = tokio::process::Command::new("sleep");
    // Without our output: whoever reads it to its end must not wait for this process.
    other
        .arg("600")
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut other = other.spawn().unwrap();
    let id = ProcessId::now(i32::try_from(other.id().unwrap()).unwrap()).unwrap();
    for ticks in [id.start_ticks, id.start_ticks + 1] {
        let claimed = ProcessId {
            start_ticks: ticks,
            ..id
        };
        session.platform_resource_id = Some(claimed.to_string());
        let adopted = agent.adopt(&work(&session)).await;
        assert!(
            matches!(adopted, Err(Stop::Ended(Exit::Gone(_)))),
            "{adopted:?}"
        );
        agent.terminate(&work(&session)).await.unwrap();
        // The end sealed this attempt.
        session.attempt += 1;
    }
    assert!(id.is_alive(), "left alone");
    other.kill().await.unwrap();
}

#[tokio::test]
async fn what_was_ended_is_not_started_by_a_late_shim() {
    let machine = Machine::new();
    let agent = machine.agent("a");
    let session = machine.shell("sleep 600");
    agent.terminate(&work(&session)).await.unwrap();
    assert!(matches!(
        agent.start(&work(&session)).await,
        Err(Stop::Failed(_))
    ));
    assert_eq!(family(machine.session), 0);
}

#[tokio::test]
async fn the_shim_killed_is_no_reason_to_kill_the_session() {
    let machine = Machine::new();
    let agent = machine.agent("a");
    let session = machine.shell("sleep 600 & wait");
    let started = process(&agent.start(&work(&session)).await.unwrap());
    let shim = proc::Stat::of(started.pid).unwrap().parent;
    ProcessId::now(shim)
        .unwrap()
        .signal(rustix::process::Signal::KILL);
    eventually("no shim", || {
        !ProcessId::now(shim).is_some_and(ProcessId::is_alive)
    })
    .await;
    assert_eq!(
        process(&agent.adopt(&work(&session)).await.unwrap()),
        started
    );
    agent.terminate(&work(&session)).await.unwrap();
    assert_eq!(family(machine.session), 0);
    assert!(matches!(agent.wait(&work(&session)).await, Exit::Gone(_)));
}

#[tokio::test]
async fn remembers_what_it_held() {
    let machine = Machine::new();
    let session = machine.shell("sleep 600");
    let agent = machine.agent("a");
    agent.start(&work(&session)).await.unwrap();
    agent
        .remember(&Held {
            session: session.clone(),
            lease_epoch: 9,
        })
        .await;
    let found = machine.agent("a").held().await;
    assert_eq!(
        found
            .iter()
            .map(|h| (h.session.id, h.lease_epoch))
            .collect::<Vec<_>>(),
        [(session.id, 9)]
    );
    assert!(
        machine.agent("b").held().await.is_empty(),
        "each agent its own"
    );
    agent.forget(session.id).await;
    assert!(machine.agent("a").held().await.is_empty());

    let mut session = session;
    session.delete_data = true;
    agent.terminate(&work(&session)).await.unwrap();
    assert!(
        !machine
            .dir
            .join(format!("sessions/{}", session.id))
            .exists()
    );
}
