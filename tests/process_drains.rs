//! Hand-overs with real agents and real processes.

use std::time::Duration;

use lessor_protocol::{
    Availability, DrainRequest, DrainStatus, EndReason, NewSession, Session, SessionState,
};
use serde_json::json;

use crate::support::agents::{Folder, ProcessAgent, pid_of, state_of};
use crate::support::checks::{ends, states_since_it_ran};
use crate::support::{TestServer, eventually, runbook};

/// The seconds of the leases here.
const TTL: f64 = 6.0;

/// Counts as long as it runs, a line for each tenth of a second or so: the number, and when it was.
const COUNTS: &str = "n=0; while :; do n=$((n+1)); echo $n $(date +%s.%N); sleep 0.1; done";

/// Five sessions that run on one agent, and what they are.
async fn five_run(server: &TestServer) -> Vec<Session> {
    run(server, 5).await
}

/// Sessions that run on one agent, and what they are.
async fn run(server: &TestServer, count: usize) -> Vec<Session> {
    let mut sessions = Vec::new();
    for _ in 0..count {
        let new = NewSession::in_pool("p", &json!({"command": ["sh", "-c", COUNTS]}));
        let new = new.expect("a spec");
        let made = server
            .client
            .create_session(&new, None)
            .await
            .expect("it is made");
        sessions.push(server.reaches(made.id, SessionState::Running).await);
    }
    sessions
}

async fn server() -> TestServer {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = TTL).await;
    server
}

async fn is_drained(server: &TestServer, agent: &str, sessions: i64) {
    let wait = Duration::from_secs(30);
    let drain = server
        .client
        .wait_for_agent_drain(agent, &[DrainStatus::Completed], wait)
        .await
        .expect("the drain");
    assert_eq!(drain.status, DrainStatus::Completed, "{drain:#?}");
    assert_eq!((drain.total, drain.handed_over), (sessions, sessions));
}

/// What a session's process has counted: it counted on without a gap, and never stood still for long.
fn assert_counts_on(session: &Session) {
    let metadata: serde_json::Value =
        serde_json::from_str(session.platform_metadata.get()).expect("JSON");
    let path = metadata["stdout_path"].as_str();
    let text = std::fs::read_to_string(path.expect("its output")).expect("its output");
    let mut before: Option<(u64, f64)> = None;
    // The last line may be half-written.
    for line in text
        .rsplit_once('\n')
        .map_or("", |(whole, _)| whole)
        .lines()
    {
        let (number, at) = line.split_once(' ').expect("a number and a time");
        let now: (u64, f64) = (
            number.parse().expect("a number"),
            at.parse().expect("a time"),
        );
        let (last, then) = before.unwrap_or((0, now.1));
        assert_eq!(now.0, last + 1, "it was begun anew");
        assert!(
            now.1 - then < TTL / 2.0,
            "it stood still from {then} to {}",
            now.1
        );
        before = Some(now);
    }
    assert!(before.is_some(), "it counted nothing");
}

/// Each is held by `agent`, with the very process that it had, which noticed nothing.
async fn none_the_wiser(server: &TestServer, before: &[Session], agent: &str) {
    for session in before {
        let after = server.get(session.id).await;
        assert_eq!(after.state, SessionState::Running);
        assert_eq!(after.assigned_agent_id.as_deref(), Some(agent));
        assert_eq!(after.platform_resource_id, session.platform_resource_id);
        assert_eq!(after.started_at, session.started_at);
        let runs = state_of(pid_of(session));
        assert!(runs.is_some_and(|letter| letter != 'T'), "{runs:?}");
        assert_counts_on(session);
        let states = states_since_it_ran(server, session.id).await;
        assert_eq!(states, ["running"], "nothing was seen of it");
    }
}

async fn end_all(server: &TestServer, sessions: &[Session]) {
    for session in sessions {
        let id = session.id.to_string();
        server
            .client
            .delete_session(&id, &Default::default())
            .await
            .expect("an end");
    }
    for session in sessions {
        server.reaches(session.id, SessionState::Terminated).await;
        assert!(state_of(pid_of(session)).is_none(), "nothing is left");
    }
}

#[tokio::test]
async fn a_drain_moves_processes_and_their_pids_stay() {
    let (server, folder) = (server().await, Folder::new());
    let a = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let before = five_run(&server).await;
    let _b = ProcessAgent::start(&server.url, "p", "b", &folder.0);
    eventually("b is there", || async {
        server.client.get_agent("b").await.is_ok()
    })
    .await;
    server
        .client
        .drain_agent("a", &DrainRequest::default())
        .await
        .expect("it begins");
    is_drained(&server, "a", 5).await;
    none_the_wiser(&server, &before, "b").await;
    // The drained one leaves, and nobody misses it.
    a.stop().await;
    none_the_wiser(&server, &before, "b").await;
    end_all(&server, &before).await;
    server.stop().await;
}

#[tokio::test]
async fn a_forced_drain_of_an_agent_that_hangs() {
    let (server, folder) = (server().await, Folder::new());
    let a = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let before = five_run(&server).await;
    let _b = ProcessAgent::start(&server.url, "p", "b", &folder.0);
    eventually("b is there", || async {
        server.client.get_agent("b").await.is_ok()
    })
    .await;
    // It hangs: its process stands still, and what it has claimed goes unanswered.
    a.freeze();
    let force = DrainRequest {
        force: true,
        ..DrainRequest::default()
    };
    let begun = server.client.drain_agent("a", &force).await;
    let begun = begun.expect("it begins");
    assert_eq!(
        (begun.status, begun.remaining),
        (DrainStatus::InProgress, 5)
    );
    // At once, and not because its lease has ended: that goes on for a while, and until then nobody
    // adopts them.
    for session in &before {
        assert_eq!(server.get(session.id).await.assigned_agent_id, None);
    }
    let agent = server.client.get_agent("a").await.expect("the agent");
    assert_eq!(agent.availability, Availability::Live);
    is_drained(&server, "a", 5).await;
    for session in &before {
        let ends = ends(&server, session.id).await;
        assert_eq!(ends, [Some(EndReason::Forced), None]);
    }
    none_the_wiser(&server, &before, "b").await;
    // When it moves again it learns that it has lost them, and kills nothing.
    a.thaw();
    eventually("it has registered anew", || async {
        let agent = server.client.get_agent("a").await.expect("the agent");
        agent.lease_expires_in_seconds.is_some() && agent.held_sessions == 0
    })
    .await;
    none_the_wiser(&server, &before, "b").await;
    end_all(&server, &before).await;
    server.stop().await;
}

#[tokio::test]
async fn an_agent_is_killed_in_the_middle_of_its_drain() {
    let (server, folder) = (server().await, Folder::new());
    let a = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let before = run(&server, 10).await;
    let _b = ProcessAgent::start(&server.url, "p", "b", &folder.0);
    eventually("b is there", || async {
        server.client.get_agent("b").await.is_ok()
    })
    .await;
    // It is told to let go of six, and of four only much later: after it has given up the six, the drain is in
    // its middle.
    let (moved, kept) = before.split_at(6);
    let ids: Vec<String> = kept.iter().map(|session| session.id.to_string()).collect();
    let later = format!(
        "CREATE FUNCTION tell_later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.handing_over AND NOT OLD.handing_over AND NEW.id = ANY ('{{{}}}'::uuid[]) THEN
                NEW.deliver_at := now() + interval '1 hour';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER tell_later BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION tell_later()",
        ids.join(",")
    );
    let client = server.database.client().await;
    client.batch_execute(&later).await.expect("a trigger");
    let begun = server
        .client
        .drain_agent("a", &DrainRequest::default())
        .await
        .expect("it begins");
    assert_eq!((begun.total, begun.blocked.len()), (10, 0), "{begun:#?}");
    let drain = || async { server.client.agent_drain("a").await.expect("the drain") };
    eventually("six have been handed over", || async {
        drain().await.handed_over == 6
    })
    .await;
    let now = drain().await;
    assert_eq!((now.status, now.remaining), (DrainStatus::InProgress, 4));
    a.kill().await;
    for session in kept {
        let holder = server.get(session.id).await.assigned_agent_id;
        assert_eq!(holder.as_deref(), Some("a"), "it was killed holding it");
    }
    is_drained(&server, "a", 10).await;
    none_the_wiser(&server, &before, "b").await;
    for (sessions, end) in [
        (moved, EndReason::Released),
        (kept, EndReason::LeaseExpired),
    ] {
        for session in sessions {
            assert_eq!(ends(&server, session.id).await, [Some(end), None]);
        }
    }
    end_all(&server, &before).await;
    server.stop().await;
}

#[tokio::test]
async fn the_runbook_of_a_drain() {
    let (server, folder) = (TestServer::start().await, Folder::new());
    server
        .pool("local", |pool| pool.lease_ttl_seconds = 3.0)
        .await;
    let _agents = ["local-1", "local-2"]
        .map(|name| ProcessAgent::start(&server.url, "local", name, &folder.0));
    for name in ["local-1", "local-2"] {
        eventually("it is there", || async {
            server.client.get_agent(name).await.is_ok()
        })
        .await;
    }
    let new = NewSession::in_pool("local", &json!({"command": ["sleep", "3600"]})).expect("a spec");
    let made = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let before = server.reaches(made.id, SessionState::Running).await;
    let said = runbook::run("drain.md", &server.url).await;
    assert!(said.contains("\"status\":\"completed\""), "{said}");
    let after = server.get(made.id).await;
    assert_eq!(after.platform_resource_id, before.platform_resource_id);
    assert_eq!(after.state, SessionState::Running);
    end_all(&server, &[before]).await;
    server.stop().await;
}
