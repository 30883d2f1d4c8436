//! The process agent end to end: real agents, real processes, a real server.

use lessor_client::DeleteSession;
use lessor_protocol::{DesiredState, NewSession, Session, SessionPatch, SessionState};
use serde_json::json;

use crate::support::agents::{Folder, ProcessAgent, pid_of, state_of, with_word};
use crate::support::{TestServer, eventually};

/// A server with a pool of short leases.
async fn server() -> TestServer {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 2.0).await;
    server
}

async fn runs(server: &TestServer, command: &[&str]) -> Session {
    let new = NewSession::in_pool("p", &json!({ "command": command })).expect("a spec");
    server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made")
}

async fn assigned_to(server: &TestServer, session: &Session, agent: &str) -> Session {
    eventually("the agent has it", || async {
        let now = server.get(session.id).await;
        now.assigned_agent_id.as_deref() == Some(agent) && now.offered_until.is_none()
    })
    .await;
    server.get(session.id).await
}

fn other(name: &str) -> &'static str {
    if name == "a" { "b" } else { "a" }
}

#[tokio::test]
async fn a_killed_agents_process_is_adopted_with_its_pid_and_ended_with_nothing_left() {
    let (server, folder) = (server().await, Folder::new());
    let mut agents = std::collections::HashMap::from([
        ("a", ProcessAgent::start(&server.url, "p", "a", &folder.0)),
        ("b", ProcessAgent::start(&server.url, "p", "b", &folder.0)),
    ]);
    let word = format!("3600.{}", std::process::id());
    // A child of the command's own: the end of the session must be its end, too.
    let script = format!("sleep {word} & echo up; wait");
    let session = runs(&server, &["sh", "-c", &script]).await;
    let before = server.reaches(session.id, SessionState::Running).await;
    let holder = before.assigned_agent_id.clone().expect("somebody has it");
    let pid = pid_of(&before);
    eventually("the command has started its child", || async {
        with_word(&word).len() == 1
    })
    .await;

    agents
        .remove(holder.as_str())
        .expect("one of the two")
        .kill()
        .await;
    let after = assigned_to(&server, &session, other(&holder)).await;
    assert_eq!(after.state, SessionState::Running);
    assert_eq!(after.platform_resource_id, before.platform_resource_id);
    assert!(after.lease_epoch > before.lease_epoch);
    assert!(state_of(pid).is_some(), "the process {pid} never stopped");

    server
        .client
        .delete_session(&session.id.to_string(), &DeleteSession::default())
        .await
        .expect("202");
    server.reaches(session.id, SessionState::Terminated).await;
    assert_eq!(state_of(pid), None, "the process is gone");
    assert_eq!(with_word(&word), Vec::<i32>::new(), "and so is its child");
    server.stop().await;
}

#[tokio::test]
async fn the_output_is_in_files_and_an_exit_is_reported_with_its_code() {
    let (server, folder) = (server().await, Folder::new());
    let _agent = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let well = runs(&server, &["sh", "-c", "echo to-stdout; echo to-stderr >&2"]).await;
    let ended = server.reaches(well.id, SessionState::Terminated).await;
    assert_eq!(ended.desired_state, DesiredState::Terminated);
    assert_eq!(ended.termination_reason.as_deref(), Some("completed"));
    let metadata: serde_json::Value =
        serde_json::from_str(ended.platform_metadata.get()).expect("JSON");
    let read = |field: &str| {
        std::fs::read_to_string(metadata[field].as_str().expect("a path")).expect("a file")
    };
    assert_eq!(read("stdout_path"), "to-stdout\n");
    assert_eq!(read("stderr_path"), "to-stderr\n");

    let mut new =
        NewSession::in_pool("p", &json!({"command": ["sh", "-c", "exit 7"]})).expect("a spec");
    new.restart = lessor_protocol::RestartPolicy::Never;
    let badly = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let failed = server.reaches(badly.id, SessionState::Failed).await;
    let failure = failed.failure.expect("it says why");
    assert_eq!(
        (failure.reason.as_str(), failure.exit_code),
        ("exited", Some(7))
    );

    let nowhere = runs(&server, &["/nowhere/at/all"]).await;
    let failed = server.reaches(nowhere.id, SessionState::Failed).await;
    assert_eq!(
        failed.failure.expect("it says why").reason,
        "cannot_execute"
    );
    server.stop().await;
}

#[tokio::test]
async fn hibernation_stops_the_process_and_waking_goes_on_with_it() {
    let (server, folder) = (server().await, Folder::new());
    let _agent = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let session = runs(&server, &["sleep", "3600"]).await;
    let running = server.reaches(session.id, SessionState::Running).await;
    let pid = pid_of(&running);
    let want = |desired| SessionPatch {
        desired_state: Some(desired),
        ..SessionPatch::default()
    };
    let id = session.id.to_string();
    server
        .client
        .patch_session(&id, &want(DesiredState::Hibernated))
        .await
        .expect("200");
    let hibernated = server.reaches(session.id, SessionState::Hibernated).await;
    assert_eq!(hibernated.assigned_agent_id, None);
    assert_eq!(state_of(pid), Some('T'));
    server
        .client
        .patch_session(&id, &want(DesiredState::Running))
        .await
        .expect("200");
    let woken = server.reaches(session.id, SessionState::Running).await;
    assert_eq!(woken.platform_resource_id, running.platform_resource_id);
    assert!(matches!(state_of(pid), Some('S' | 'R')));
    server
        .client
        .delete_session(&id, &DeleteSession::default())
        .await
        .expect("202");
    server.reaches(session.id, SessionState::Terminated).await;
    assert_eq!(state_of(pid), None);
    server.stop().await;
}

#[tokio::test]
async fn after_a_goodbye_the_process_runs_on_and_its_adopter_reports_how_it_ended() {
    let (server, folder) = (server().await, Folder::new());
    let first = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let gate = folder.0.join("gate");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; exit 5",
        gate.display()
    );
    let mut new =
        NewSession::in_pool("p", &json!({"command": ["sh", "-c", script]})).expect("a spec");
    new.restart = lessor_protocol::RestartPolicy::Never;
    let session = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let running = server.reaches(session.id, SessionState::Running).await;
    first.stop().await;
    let left = server.get(session.id).await;
    assert_eq!(
        (left.state, left.assigned_agent_id.as_deref()),
        (SessionState::Running, None)
    );
    assert!(state_of(pid_of(&running)).is_some());

    let _second = ProcessAgent::start(&server.url, "p", "b", &folder.0);
    let adopted = assigned_to(&server, &session, "b").await;
    assert_eq!(adopted.platform_resource_id, running.platform_resource_id);
    std::fs::write(&gate, "").expect("the gate opens");
    let failed = server.reaches(session.id, SessionState::Failed).await;
    assert_eq!(failed.failure.expect("it says why").exit_code, Some(5));
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_was_started_again_finds_its_process() {
    let (server, folder) = (server().await, Folder::new());
    let agent = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let session = runs(&server, &["sleep", "3600"]).await;
    let running = server.reaches(session.id, SessionState::Running).await;
    agent.kill().await;
    let _again = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    eventually("it has it again, under another epoch", || async {
        let now = server.get(session.id).await;
        now.lease_epoch > running.lease_epoch && now.assigned_agent_id.as_deref() == Some("a")
    })
    .await;
    let now = server.get(session.id).await;
    assert_eq!(now.platform_resource_id, running.platform_resource_id);
    assert_eq!(now.attempt, running.attempt);
    server
        .client
        .delete_session(&session.id.to_string(), &DeleteSession::default())
        .await
        .expect("202");
    server.reaches(session.id, SessionState::Terminated).await;
    assert_eq!(state_of(pid_of(&running)), None);
    server.stop().await;
}

#[tokio::test]
async fn of_two_processes_of_one_name_the_older_exits_by_itself_and_the_newer_holds_what_runs() {
    let (server, folder) = (server().await, Folder::new());
    let first = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let session = runs(&server, &["sleep", "3600"]).await;
    let before = server.reaches(session.id, SessionState::Running).await;
    let older = server.client.get_agent("a").await.expect("the agent");
    let _second = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    assert_eq!(first.ends().await.code(), Some(1));
    assert!(state_of(pid_of(&before)).is_some(), "what it ran, runs on");
    eventually("the newer one holds it", || async {
        let now = server.get(session.id).await;
        now.lease_epoch > before.lease_epoch && now.offered_until.is_none()
    })
    .await;
    let now = assigned_to(&server, &session, "a").await;
    assert_eq!(now.platform_resource_id, before.platform_resource_id);
    assert_eq!(now.state, SessionState::Running);
    let newer = server.client.get_agent("a").await.expect("the agent");
    assert!(newer.incarnation > older.incarnation);
    // They do not duel: a lease time later it is the same run still.
    let latest = || async { server.client.get_agent("a").await.expect("the agent") };
    eventually("it has renewed its lease for a while", || async {
        let renewed = latest().await.last_heartbeat_at - newer.registered_at;
        renewed.as_seconds_f64() > 3.0
    })
    .await;
    assert_eq!(latest().await.incarnation, newer.incarnation);
    let how = DeleteSession::default();
    let id = session.id.to_string();
    server.client.delete_session(&id, &how).await.expect("202");
    server.reaches(session.id, SessionState::Terminated).await;
    assert_eq!(state_of(pid_of(&before)), None);
    server.stop().await;
}
