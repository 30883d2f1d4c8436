//! Rebalances with real agents and real processes.

use lessor_protocol::{NewSession, RebalanceRequest, RebalanceStatus, Session, SessionState};
use serde_json::json;

use crate::support::agents::{Folder, ProcessAgent, pid_of, state_of};
use crate::support::{TestServer, eventually, runbook};

async fn sessions_run(server: &TestServer, pool: &str, count: usize) -> Vec<Session> {
    let new = NewSession::in_pool(pool, &json!({"command": ["sleep", "3600"]})).expect("a spec");
    let mut sessions = Vec::new();
    for _ in 0..count {
        let made = server.client.create_session(&new, None).await;
        sessions.push(made.expect("it is made"));
    }
    let mut running = Vec::new();
    for session in sessions {
        running.push(server.reaches(session.id, SessionState::Running).await);
    }
    running
}

async fn are_there(server: &TestServer, names: &[&str]) {
    for name in names {
        eventually("it is there", || async {
            server.client.get_agent(name).await.is_ok()
        })
        .await;
    }
}

/// How many of the sessions each agent holds.
async fn held(server: &TestServer, sessions: &[Session], names: &[&str]) -> Vec<usize> {
    let mut held = vec![0; names.len()];
    for session in sessions {
        let holder = server.get(session.id).await.assigned_agent_id;
        if let Some(at) = names
            .iter()
            .position(|name| Some(*name) == holder.as_deref())
        {
            held[at] += 1;
        }
    }
    held
}

/// Each runs as the very process that it was.
async fn none_the_wiser(server: &TestServer, before: &[Session]) {
    for session in before {
        let after = server.get(session.id).await;
        assert_eq!(after.state, SessionState::Running);
        assert_eq!(after.platform_resource_id, session.platform_resource_id);
        assert_eq!(after.started_at, session.started_at);
        assert!(state_of(pid_of(session)).is_some(), "it never stopped");
    }
}

async fn end_all(server: &TestServer, sessions: &[Session]) {
    for session in sessions {
        let id = session.id.to_string();
        let ended = server.client.delete_session(&id, &Default::default()).await;
        ended.expect("an end");
    }
    for session in sessions {
        server.reaches(session.id, SessionState::Terminated).await;
        assert!(state_of(pid_of(session)).is_none(), "nothing is left");
    }
}

async fn is_over(server: &TestServer, pool: &str) {
    eventually("it is over", || async {
        let now = server.client.pool_rebalance(pool).await.expect("one");
        now.status == RebalanceStatus::Completed
    })
    .await;
}

#[tokio::test]
async fn three_agents_join_and_every_pid_stays() {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let (server, folder) = (TestServer::start().await, Folder::new());
    server.pool("p", |pool| pool.lease_ttl_seconds = 3.0).await;
    let _a = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let before = sessions_run(&server, "p", 9).await;
    let _others = ["b", "c", "d"].map(|n| ProcessAgent::start(&server.url, "p", n, &folder.0));
    are_there(&server, &NAMES).await;
    let begun = server
        .client
        .rebalance_pool("p", &RebalanceRequest::default())
        .await
        .expect("it begins");
    assert_eq!(begun.status, RebalanceStatus::InProgress);
    is_over(&server, "p").await;
    let mut counts = held(&server, &before, &NAMES).await;
    counts.sort_unstable();
    assert_eq!(counts, [2, 2, 2, 3], "to within one session of even");
    none_the_wiser(&server, &before).await;
    // And there is nothing to do a second time.
    let again = server
        .client
        .rebalance_pool("p", &RebalanceRequest::default())
        .await
        .expect("an answer");
    assert_eq!((again.id, again.status), (None, RebalanceStatus::Completed));
    assert!(again.moves.is_empty());
    end_all(&server, &before).await;
    server.stop().await;
}

#[tokio::test]
async fn the_runbook_of_a_rebalance() {
    let (server, folder) = (TestServer::start().await, Folder::new());
    server
        .pool("local", |pool| pool.lease_ttl_seconds = 3.0)
        .await;
    let _one = ProcessAgent::start(&server.url, "local", "local-1", &folder.0);
    let before = sessions_run(&server, "local", 4).await;
    let _two = ProcessAgent::start(&server.url, "local", "local-2", &folder.0);
    are_there(&server, &["local-1", "local-2"]).await;
    let said = runbook::run("rebalance.md", &server.url).await;
    assert!(said.contains("\"status\":\"planned\""), "{said}");
    assert!(said.contains("\"status\":\"in_progress\""), "{said}");
    assert!(said.contains("\"rebalance_min_gain\":4"), "{said}");
    eventually("the plan was made, or what it had begun", || async {
        let now = server.client.pool_rebalance("local").await.expect("one");
        now.status != RebalanceStatus::InProgress
    })
    .await;
    none_the_wiser(&server, &before).await;
    end_all(&server, &before).await;
    server.stop().await;
}
