//! Hand-overs with real agents and real processes.

use std::time::Duration;

use lessor_protocol::{DrainRequest, DrainStatus, NewSession, Session, SessionState};
use serde_json::json;

use crate::support::agents::{Folder, ProcessAgent, pid_of, state_of};
use crate::support::{TestServer, eventually, runbook};

/// Five sessions that run on one agent, and what they are.
async fn five_run(server: &TestServer) -> Vec<Session> {
    let mut sessions = Vec::new();
    for _ in 0..5 {
        let new = NewSession::in_pool("p", &json!({"command": ["sleep", "3600"]})).expect("a spec");
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
    server.pool("p", |pool| pool.lease_ttl_seconds = 3.0).await;
    server
}

async fn is_drained(server: &TestServer, agent: &str) {
    let wait = Duration::from_secs(30);
    let drain = server
        .client
        .wait_for_agent_drain(agent, &[DrainStatus::Completed], wait)
        .await
        .expect("the drain");
    assert_eq!(drain.status, DrainStatus::Completed, "{drain:#?}");
    assert_eq!((drain.total, drain.handed_over), (5, 5));
}

/// Each is held by `agent`, with the very process that it had.
async fn none_the_wiser(server: &TestServer, before: &[Session], agent: &str) {
    for session in before {
        let after = server.get(session.id).await;
        assert_eq!(after.state, SessionState::Running);
        assert_eq!(after.assigned_agent_id.as_deref(), Some(agent));
        assert_eq!(after.platform_resource_id, session.platform_resource_id);
        assert_eq!(after.started_at, session.started_at);
        assert!(state_of(pid_of(session)).is_some(), "it never stopped");
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
    is_drained(&server, "a").await;
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
    server
        .client
        .drain_agent("a", &force)
        .await
        .expect("it begins");
    is_drained(&server, "a").await;
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
    let before = five_run(&server).await;
    // Nobody can adopt yet, so the drain is in its middle when the agent dies.
    let begun = server
        .client
        .drain_agent("a", &DrainRequest::default())
        .await
        .expect("it begins");
    assert_eq!((begun.total, begun.blocked.len()), (5, 5));
    a.kill().await;
    let _b = ProcessAgent::start(&server.url, "p", "b", &folder.0);
    is_drained(&server, "a").await;
    none_the_wiser(&server, &before, "b").await;
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
