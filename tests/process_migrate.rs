//! Migrations with real agents and real processes.

use lessor_protocol::{DesiredState, Migrate, NewSession, Session, SessionPatch, SessionState};
use serde_json::json;

use crate::support::agents::{Folder, ProcessAgent, pid_of, state_of};
use crate::support::{TestServer, eventually, runbook};

fn to(pool: Option<&str>, domain: Option<&str>, stop_first: bool) -> Migrate {
    Migrate {
        pool: pool.map(ToOwned::to_owned),
        resource_domain: domain.map(ToOwned::to_owned),
        stop_first,
    }
}

async fn are_there(server: &TestServer, names: &[&str]) {
    for name in names {
        eventually("it is there", || async {
            server.client.get_agent(name).await.is_ok()
        })
        .await;
    }
}

async fn runs(server: &TestServer, pool: &str) -> Session {
    let new = NewSession::in_pool(pool, &json!({"command": ["sleep", "3600"]})).expect("a spec");
    let made = server.client.create_session(&new, None).await;
    let id = made.expect("it is made").id;
    server.reaches(id, SessionState::Running).await
}

/// Moves it, and waits until it runs there and what ran before is gone.
async fn moves(server: &TestServer, before: &Session, to: &Migrate) -> Session {
    let id = before.id;
    let moved = server
        .client
        .migrate_session(&id.to_string(), to, None)
        .await;
    let generation = moved.expect("202").generation;
    eventually("it runs there", || async {
        let now = server.get(id).await;
        now.state == SessionState::Running && now.observed_generation == generation
    })
    .await;
    eventually("what ran before is gone", || async {
        state_of(pid_of(before)).is_none()
    })
    .await;
    let after = server.get(id).await;
    assert_ne!(pid_of(&after), pid_of(before));
    assert!(state_of(pid_of(&after)).is_some(), "it runs");
    assert_eq!(after.spec.get(), before.spec.get());
    assert_eq!(after.attempt, before.attempt + 1);
    after
}

async fn end(server: &TestServer, session: &Session) {
    let id = session.id.to_string();
    server
        .client
        .delete_session(&id, &Default::default())
        .await
        .expect("202");
    server.reaches(session.id, SessionState::Terminated).await;
    assert!(state_of(pid_of(session)).is_none(), "nothing is left");
}

#[tokio::test]
async fn a_process_moves_to_another_domain_and_to_another_pool() {
    let server = TestServer::start().await;
    let folders = [Folder::new(), Folder::new(), Folder::new()];
    for pool in ["p", "q"] {
        server.pool(pool, |pool| pool.lease_ttl_seconds = 3.0).await;
    }
    let _one = ProcessAgent::start_in("host-1", &server.url, "p", "one", &folders[0].0);
    are_there(&server, &["one"]).await;
    let first = runs(&server, "p").await;
    let _two = ProcessAgent::start_in("host-2", &server.url, "p", "two", &folders[1].0);
    let _three = ProcessAgent::start_in("host-3", &server.url, "q", "three", &folders[2].0);
    are_there(&server, &["two", "three"]).await;
    let second = moves(&server, &first, &to(None, Some("host-2"), false)).await;
    assert_eq!(second.resource_domain.as_deref(), Some("host-2"));
    assert_eq!(second.assigned_agent_id.as_deref(), Some("two"));
    // And the next one starts only when that one is gone.
    let third = moves(&server, &second, &to(Some("q"), None, true)).await;
    assert_eq!(
        (third.pool.as_str(), third.assigned_agent_id.as_deref()),
        ("q", Some("three"))
    );
    assert!(third.started_at > second.started_at);
    end(&server, &third).await;
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_start_there_comes_back_and_runs_again_where_it_was() {
    let server = TestServer::start().await;
    let folders = [Folder::new(), Folder::new()];
    for pool in ["p", "q"] {
        server.pool(pool, |pool| pool.lease_ttl_seconds = 3.0).await;
    }
    let _one = ProcessAgent::start_in("host-1", &server.url, "p", "one", &folders[0].0);
    let _two = ProcessAgent::start_in("host-2", &server.url, "q", "two", &folders[1].0);
    are_there(&server, &["one", "two"]).await;
    // Its working folder is on one of the hosts only.
    let spec = json!({"command": ["sleep", "3600"], "cwd": "only-here"});
    let mut new = NewSession::in_pool("p", &spec).expect("a spec");
    new.desired_state = DesiredState::Hibernated;
    let made = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let files = folders[0]
        .0
        .join("sessions")
        .join(made.id.to_string())
        .join("files");
    std::fs::create_dir_all(files.join("only-here")).expect("its folder");
    let wanted = SessionPatch {
        desired_state: Some(DesiredState::Running),
        ..SessionPatch::default()
    };
    let id = made.id.to_string();
    server
        .client
        .patch_session(&id, &wanted)
        .await
        .expect("200");
    let before = server.reaches(made.id, SessionState::Running).await;
    let answer = server
        .client
        .migrate_session(&id, &to(Some("q"), None, false), None)
        .await;
    assert_eq!(answer.expect("202").pool, "q");
    eventually("it runs again where it was", || async {
        let now = server.get(made.id).await;
        now.pool == "p" && now.state == SessionState::Running
    })
    .await;
    eventually("what ran before is gone", || async {
        state_of(pid_of(&before)).is_none()
    })
    .await;
    let after = server.get(made.id).await;
    assert_eq!(after.assigned_agent_id.as_deref(), Some("one"));
    assert_eq!(after.attempt, before.attempt + 2);
    assert!(after.failure.is_some(), "why it came back");
    assert!(state_of(pid_of(&after)).is_some(), "it runs");
    end(&server, &after).await;
    server.stop().await;
}

#[tokio::test]
async fn the_runbook_of_a_migration() {
    let server = TestServer::start().await;
    let folders = [Folder::new(), Folder::new(), Folder::new()];
    for pool in ["local", "other"] {
        server.pool(pool, |pool| pool.lease_ttl_seconds = 3.0).await;
    }
    let _one = ProcessAgent::start_in("host-1", &server.url, "local", "local-1", &folders[0].0);
    are_there(&server, &["local-1"]).await;
    let mut new =
        NewSession::in_pool("local", &json!({"command": ["sleep", "3600"]})).expect("a spec");
    new.name = Some("desk".to_owned());
    let made = server
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let before = server.reaches(made.id, SessionState::Running).await;
    let _two = ProcessAgent::start_in("host-2", &server.url, "other", "other-1", &folders[1].0);
    let _three = ProcessAgent::start_in("host-3", &server.url, "other", "other-2", &folders[2].0);
    are_there(&server, &["other-1", "other-2"]).await;
    let said = runbook::run("migrate.md", &server.url).await;
    assert!(said.contains("\"state\":\"pending\""), "{said}");
    assert!(said.contains("lessor_migrations_total"), "{said}");
    let after = server.reaches(made.id, SessionState::Running).await;
    assert_eq!(
        (after.pool.as_str(), after.resource_domain.as_deref()),
        ("other", Some("host-3"))
    );
    eventually("what ran before is gone", || async {
        state_of(pid_of(&before)).is_none()
    })
    .await;
    end(&server, &after).await;
    server.stop().await;
}
