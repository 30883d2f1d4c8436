//! Commands with real agents and real processes: what runs, what stops, and what outlives an agent.

use lessor_client::DeleteSession;
use lessor_protocol::{Command, CommandStatus, NewCommand, NewSession, Session, SessionState};
use serde_json::{Value, json};

use crate::support::agents::{Folder, ProcessAgent, with_word};
use crate::support::{TestServer, eventually, runbook};

/// A server with a pool of short leases.
async fn server(pool: &str) -> TestServer {
    let server = TestServer::start().await;
    server.pool(pool, |pool| pool.lease_ttl_seconds = 2.0).await;
    server
}

async fn runs(server: &TestServer, spec: Value) -> Session {
    let new = NewSession::in_pool("p", &spec).expect("a spec");
    let session = server.client.create_session(&new, None).await.expect("201");
    server.reaches(session.id, SessionState::Running).await
}

impl TestServer {
    async fn commands(
        &self,
        session: &Session,
        kind: &str,
        payload: Value,
        redeliver: bool,
    ) -> Command {
        let mut new = NewCommand::new(kind, &payload).expect("a payload");
        new.redeliver = redeliver;
        new.deadline_seconds = 50.0;
        let id = session.id.to_string();
        self.client
            .create_command(&id, &new, None)
            .await
            .expect("201")
    }

    async fn now(&self, command: &Command) -> Command {
        let (session, id) = (command.session_id.to_string(), command.id.to_string());
        self.client.get_command(&session, &id).await.expect("200")
    }

    async fn comes_to(&self, command: &Command, status: CommandStatus) -> Command {
        let what = format!("{} {} is {status}", command.kind, command.id);
        eventually(&what, || async { self.now(command).await.status == status }).await;
        self.now(command).await
    }

    /// Ends a session, so that nothing of it outlives the test.
    async fn ends(&self, session: &str) {
        let how = DeleteSession::default();
        let ended = self.client.delete_session(session, &how).await;
        let id = ended.expect("202").id;
        self.reaches(id, SessionState::Terminated).await;
    }

    /// Runs one to its end, and gives its result.
    async fn result(&self, session: &Session, kind: &str, payload: Value) -> Value {
        let command = self.commands(session, kind, payload, false).await;
        eventually("it is finished", || async {
            self.now(&command).await.status.is_finished()
        })
        .await;
        let done = self.now(&command).await;
        let result = done.result.as_ref().unwrap_or_else(|| panic!("{done:#?}"));
        assert!(result.get().len() < 64 * 1024);
        serde_json::from_str(result.get()).expect("JSON")
    }

    async fn fails(&self, session: &Session, kind: &str, payload: Value) -> String {
        let command = self.commands(session, kind, payload, false).await;
        let failed = self.comes_to(&command, CommandStatus::Failed).await;
        failed.failure.expect("it says why").reason
    }
}

#[tokio::test]
async fn exec_signal_and_logs_do_what_they_say() {
    let (server, folder) = (server("p").await, Folder::new());
    let _agent = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let script = "trap 'echo heard' USR1; for i in 1 2 3; do echo line $i; done; echo bad >&2; \
        while :; do sleep 0.05; done";
    let session = runs(
        &server,
        json!({"command": ["sh", "-c", script], "env": {"MINE": "m"}}),
    )
    .await;

    let script = "echo $MINE $LESSOR_SESSION_ID $X $(basename $PWD); cat; echo err >&2; exit 3";
    let ran = server
        .result(
            &session,
            "exec",
            json!({"command": ["sh", "-c", script], "env": {"X": "x"}, "stdin": "fed"}),
        )
        .await;
    let out = format!("m {} x files\nfed", session.id);
    assert_eq!(
        ran,
        json!({"exit_code": 3, "signal": null, "stdout": out, "stderr": "err\n",
            "stdout_truncated": false, "stderr_truncated": false})
    );
    let killed = server
        .result(
            &session,
            "exec",
            json!({"command": ["sh", "-c", "kill -9 $$"]}),
        )
        .await;
    assert_eq!(
        (&killed["exit_code"], &killed["signal"]),
        (&Value::Null, &json!(9))
    );
    // Far more than fits, of bytes that JSON writes as six characters each.
    let script = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2";
    let much = server
        .result(&session, "exec", json!({"command": ["sh", "-c", script]}))
        .await;
    assert_eq!(much["stdout_truncated"], true);
    assert_eq!(much["stderr_truncated"], true);

    for (kind, payload, reason) in [
        (
            "exec",
            json!({"command": ["/nowhere/at/all"]}),
            "cannot_execute",
        ),
        ("exec", json!({"command": []}), "bad_payload"),
        ("exec", json!({}), "bad_payload"),
        (
            "exec",
            json!({"command": ["true"], "extra": 1}),
            "bad_payload",
        ),
        ("signal", json!({"signal": "NONSENSE"}), "bad_payload"),
        ("logs", json!({"lines": 1, "offset": 0}), "bad_payload"),
        ("logs", json!({"max_bytes": 1_000_000}), "bad_payload"),
        ("reboot", json!({}), "unsupported"),
    ] {
        assert_eq!(
            server.fails(&session, kind, payload.clone()).await,
            reason,
            "{kind} {payload}"
        );
    }

    server
        .result(&session, "signal", json!({"signal": "USR1"}))
        .await;
    eventually("the signal was heard", || async {
        let log = server.result(&session, "logs", json!({"lines": 1})).await;
        log["data"] == "heard\n"
    })
    .await;
    let log = server
        .result(
            &session,
            "logs",
            json!({"stream": "stdout", "offset": 7, "max_bytes": 7}),
        )
        .await;
    assert_eq!(log["data"], "line 2\n");
    assert_eq!(
        (&log["offset"], &log["next_offset"]),
        (&json!(7), &json!(14))
    );
    let log = server
        .result(&session, "logs", json!({"stream": "stderr"}))
        .await;
    let errors = log["data"].as_str().expect("text");
    assert!(errors.starts_with("bad\n"), "{errors}");
    server.ends(&session.id.to_string()).await;
    server.stop().await;
}

#[tokio::test]
async fn cancelled_expired_and_ended_programs_are_gone_with_all_they_started() {
    let (server, folder) = (server("p").await, Folder::new());
    let _agent = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let session = runs(&server, json!({"command": ["sleep", "3600"]})).await;
    let word = format!("3601.{}", std::process::id());
    let script = format!("setsid sleep {word} & setsid sleep {word} & sleep {word}");
    let payload = json!({"command": ["sh", "-c", script]});

    let command = server
        .commands(&session, "exec", payload.clone(), false)
        .await;
    let behind = server
        .commands(&session, "exec", json!({"command": ["true"]}), false)
        .await;
    eventually("it runs", || async { with_word(&word).len() == 3 }).await;
    let (id, of) = (command.id.to_string(), session.id.to_string());
    let cancelled = server.client.cancel_command(&of, &id).await.expect("200");
    assert_eq!(cancelled.status, CommandStatus::Cancelled);
    eventually("all of it is gone", || async {
        with_word(&word).is_empty()
    })
    .await;
    server.comes_to(&behind, CommandStatus::Succeeded).await;

    let mut new = NewCommand::new("exec", &payload).expect("a payload");
    new.deadline_seconds = 1.5;
    let late = server
        .client
        .create_command(&of, &new, None)
        .await
        .expect("201");
    eventually("it runs", || async { with_word(&word).len() == 3 }).await;
    server.comes_to(&late, CommandStatus::Expired).await;
    eventually("all of it is gone", || async {
        with_word(&word).is_empty()
    })
    .await;

    // What it leaves behind is not the session's.
    let script = format!("setsid sleep {word} > /dev/null 2>&1 & echo started");
    let left = server
        .result(&session, "exec", json!({"command": ["sh", "-c", script]}))
        .await;
    assert_eq!(left["stdout"], "started\n");
    assert_eq!(with_word(&word), Vec::<i32>::new());

    let command = server.commands(&session, "exec", payload, true).await;
    eventually("it runs", || async { with_word(&word).len() == 3 }).await;
    let how = DeleteSession::default();
    server.client.delete_session(&of, &how).await.expect("202");
    server.reaches(session.id, SessionState::Terminated).await;
    eventually("it ends with the session", || async {
        with_word(&word).is_empty()
    })
    .await;
    assert!(server.now(&command).await.status.is_finished());
    server.stop().await;
}

#[tokio::test]
async fn a_command_that_may_be_done_twice_outlives_its_agent_and_is_begun_anew_by_the_adopter() {
    let (server, folder) = (server("p").await, Folder::new());
    let first = ProcessAgent::start(&server.url, "p", "a", &folder.0);
    let session = runs(&server, json!({"command": ["sleep", "3600"]})).await;
    let other = runs(&server, json!({"command": ["sleep", "3600"]})).await;
    let word = format!("3602.{}", std::process::id());
    let gate = folder.0.join("gate");
    let script = format!(
        "sleep {word} & while [ ! -e {} ]; do sleep 0.05; done; kill $!; echo done",
        gate.display()
    );
    let payload = json!({"command": ["sh", "-c", script]});
    let twice = server
        .commands(&session, "exec", payload.clone(), true)
        .await;
    let once = server.commands(&other, "exec", payload, false).await;
    eventually("both run", || async { with_word(&word).len() == 2 }).await;
    server.comes_to(&twice, CommandStatus::Running).await;
    server.comes_to(&once, CommandStatus::Running).await;
    let before = server.now(&twice).await;

    first.kill().await;
    eventually("what it ran beside the sessions died with it", || async {
        with_word(&word).is_empty()
    })
    .await;
    let waiting = server
        .commands(&other, "exec", json!({"command": ["true"]}), false)
        .await;
    let _second = ProcessAgent::start(&server.url, "p", "b", &folder.0);
    let interrupted = server.comes_to(&once, CommandStatus::Interrupted).await;
    assert_eq!(
        interrupted.failure.expect("it says why").reason,
        "epoch_ended"
    );
    assert_eq!(interrupted.agent.as_deref(), Some("a"));
    // The one that nobody had follows the session.
    let done = server.comes_to(&waiting, CommandStatus::Succeeded).await;
    assert_eq!(done.agent.as_deref(), Some("b"));
    eventually("the other is begun again at the adopter", || async {
        with_word(&word).len() == 1
    })
    .await;
    std::fs::write(&gate, "").expect("the gate opens");
    let done = server.comes_to(&twice, CommandStatus::Succeeded).await;
    assert_eq!(done.agent.as_deref(), Some("b"));
    assert!(
        done.lease_epoch > before.lease_epoch,
        "{done:?} after {before:?}"
    );
    let result: Value = serde_json::from_str(done.result.expect("a result").get()).expect("JSON");
    assert_eq!(result["stdout"], "done\n");
    let now = server.get(session.id).await;
    assert_eq!(now.platform_resource_id, session.platform_resource_id);
    for session in [session, other] {
        server.ends(&session.id.to_string()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn the_runbook_of_commands_can_be_typed() {
    let (server, folder) = (server("local").await, Folder::new());
    let _agent = ProcessAgent::start(&server.url, "local", "local-1", &folder.0);
    let said = runbook::run("commands.md", &server.url).await;
    for word in [
        "hello from ",
        "\"exit_code\":3",
        "ready\\n",
        "cancelled",
        "command.cancelled",
    ] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    server.ends("demo").await;
    server.stop().await;
}
