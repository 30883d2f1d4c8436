//! The brake with real agents: half a fleet falls silent, and nothing that runs is started twice.

use lessor_protocol::{NewSession, OnLost, SessionState};
use serde_json::json;

use crate::support::agents::{Folder, ProcessAgent, pid_of, state_of};
use crate::support::checks::{count, leftovers};
use crate::support::{TestServer, eventually};

#[tokio::test]
async fn agents_that_cannot_be_heard_keep_their_processes() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| {
            pool.lease_ttl_seconds = 3.0;
            pool.on_lost = OnLost::Restart;
            pool.adopt_timeout_seconds = 0.0;
        })
        .await;
    // Four machines, each a domain of its own, with one session each.
    let mut machines = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let folder = Folder::new();
        let agent = ProcessAgent::start_in(name, &server.url, "p", name, &folder.0);
        machines.push((agent, folder));
    }
    for name in ["a", "b", "c", "d"] {
        eventually("it is there", || async {
            server.client.get_agent(name).await.is_ok()
        })
        .await;
    }
    let mut before = Vec::new();
    for _ in &machines {
        let new = NewSession::in_pool("p", &json!({"command": ["sleep", "3600"]})).expect("a spec");
        let made = server
            .client
            .create_session(&new, None)
            .await
            .expect("it is made");
        before.push(server.reaches(made.id, SessionState::Running).await);
    }

    for (agent, _) in &machines[..3] {
        agent.freeze();
    }
    let brake = || async {
        let pool = server.client.get_pool("p").await.expect("the pool");
        pool.brake.is_some()
    };
    eventually("the brake is on", brake).await;
    let expired = "SELECT count(*) FROM agents WHERE NOT live";
    eventually("their leases end", || async {
        count(&server, expired).await == 3
    })
    .await;
    // Without the brake their sessions would have been given to `d` by now: it starts what is new.
    let new = NewSession::in_pool("p", &json!({"command": ["sleep", "3600"]})).expect("a spec");
    let late = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    server.reaches(late.id, SessionState::Running).await;
    assert!(brake().await);

    for (agent, _) in &machines[..3] {
        agent.thaw();
    }
    eventually("the brake lifts by itself", || async { !brake().await }).await;
    for session in &before {
        eventually("it is held again", || async {
            let now = server.get(session.id).await;
            now.assigned_agent_id == session.assigned_agent_id && now.offered_until.is_none()
        })
        .await;
        let after = server.get(session.id).await;
        assert_eq!(after.state, SessionState::Running);
        assert_eq!(after.attempt, session.attempt);
        assert_eq!(after.platform_resource_id, session.platform_resource_id);
        assert!(state_of(pid_of(session)).is_some(), "it never stopped");
        assert!(leftovers(&server, session.id).await.is_empty());
    }
    before.push(server.get(late.id).await);
    for session in &before {
        let id = session.id.to_string();
        server
            .client
            .delete_session(&id, &Default::default())
            .await
            .expect("an end");
    }
    for session in &before {
        server.reaches(session.id, SessionState::Terminated).await;
    }
    server.stop().await;
}
