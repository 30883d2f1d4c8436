//! Pools whose agents are approved one by one.

use lessor_protocol::{Approval, ProblemCode, SessionState};
use serde_json::{Value, json};

use crate::support::agents::{Folder, ProcessAgent};
use crate::support::checks::{count, refused};
use crate::support::{TestAgent, TestServer, eventually};

const WANTED: &str = "SELECT count(*) FROM event_history WHERE kind = 'agent.approval_wanted'";

#[tokio::test]
async fn an_agent_waits_for_its_approval_and_keeps_it() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.approval = Approval::Manual)
        .await;
    server
        .pool("q", |pool| pool.approval = Approval::Manual)
        .await;
    let mut agent = TestAgent::new(&server.client, "a", ("p", "d"), 1);
    let asks = async |agent: &TestAgent| {
        let answer = server
            .client
            .register_agent("a", &agent.registration(&[]))
            .await;
        refused(answer)
    };
    assert_eq!(asks(&agent).await, ProblemCode::AgentNotApproved);
    assert_eq!(asks(&agent).await, ProblemCode::AgentNotApproved);
    assert_eq!(count(&server, WANTED).await, 1, "it is told of once");
    assert_eq!(count(&server, "SELECT count(*) FROM agents").await, 0);
    let waits = server.fetch("/v1/pools/p/approvals").await.ok(200);
    assert_eq!(waits["items"][0]["agent"], "a");
    assert!(waits["items"][0]["asked_at"].is_string());
    assert_eq!(waits["items"][0]["approved_at"], Value::Null);

    // Without a pool the one is meant that it asked for.
    let approved = server
        .send("POST", "/v1/agents/a/approve", "")
        .await
        .ok(200);
    assert_eq!(
        (&approved["pool"], &approved["approved_by"]),
        (&json!("p"), &json!("anonymous"))
    );
    let again = server
        .send("POST", "/v1/agents/a/approve", "{}")
        .await
        .ok(200);
    assert_eq!(
        again["approved_at"], approved["approved_at"],
        "again is no change"
    );
    agent.register(&[]).await;
    let elsewhere = TestAgent::new(&server.client, "a", ("q", "d"), 1);
    assert_eq!(
        asks(&elsewhere).await,
        ProblemCode::AgentNotApproved,
        "for one pool"
    );
    // It holds over restarts and goodbyes.
    agent.restart(&[]).await;
    let gone = server
        .client
        .deregister_agent("a", Some(agent.incarnation), false)
        .await;
    gone.expect("its goodbye");
    agent.restart(&[]).await;

    let path = "/v1/agents/a/approve?pool=p";
    assert_eq!(server.raw("DELETE", path, &[], "").await.status, 204);
    agent.beat().await.expect("what is registered stays so");
    assert_eq!(asks(&agent).await, ProblemCode::AgentNotApproved);
    server.raw("DELETE", path, &[], "").await;
    server
        .raw("DELETE", path, &[], "")
        .await
        .is_problem(404, "agent_not_registered", "none left");
    for (path, code) in [
        ("/v1/agents/nobody/approve", "agent_not_registered"),
        ("/v1/agents/A/approve", "validation_failed"),
    ] {
        let answer = server.send("POST", path, "{}").await;
        answer.is_problem(
            if code == "validation_failed" {
                422
            } else {
                404
            },
            code,
            path,
        );
    }
    let nowhere = server
        .send("POST", "/v1/agents/a/approve", r#"{"pool": "x"}"#)
        .await;
    nowhere.is_problem(404, "pool_not_found", "no such pool");
    let other = server
        .send("POST", "/v1/agents/a/approve", r#"{"pool": "acme~x"}"#)
        .await;
    other.is_problem(422, "validation_failed", "another tenant's pool");
    server.stop().await;
}

#[tokio::test]
async fn a_process_agent_goes_on_asking() {
    let server = TestServer::start().await;
    server
        .pool("p", |pool| pool.approval = Approval::Manual)
        .await;
    let folder = Folder::new();
    let _agent = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    eventually("it has asked", || async {
        count(&server, WANTED).await == 1
    })
    .await;
    let spec = json!({"command": ["true"]});
    let new = lessor_protocol::NewSession::in_pool("p", &spec).expect("a spec");
    let session = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let body = r#"{"pool": "p"}"#;
    server
        .send("POST", "/v1/agents/a/approve", body)
        .await
        .ok(200);
    server.reaches(session.id, SessionState::Terminated).await;
    server.stop().await;
}
