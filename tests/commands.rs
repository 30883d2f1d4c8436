//! Commands: order, delivery, results, fencing, deadlines, cancel.

use lessor_client::{DeleteSession, Paging};
use lessor_protocol::{
    Assignment, Command, CommandResult, CommandResultOutcome, CommandStatus, Event, NewCommand,
    Outcome, ProblemCode, ReportedCommandStatus, ReportedFailure, ReportedState, Reports, Session,
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use uuid::Uuid;

use crate::support::checks::{count, refused};
use crate::support::{TestAgent, TestServer, eventually, report};

const RUNNING: ReportedCommandStatus = ReportedCommandStatus::Running;
const SUCCEEDED: ReportedCommandStatus = ReportedCommandStatus::Succeeded;
const FAILED: ReportedCommandStatus = ReportedCommandStatus::Failed;

fn path(session: Uuid) -> String {
    format!("/v1/sessions/{session}/commands")
}

async fn create(
    server: &TestServer,
    session: Uuid,
    change: impl FnOnce(&mut NewCommand),
) -> Command {
    let mut new = NewCommand::new("exec", &json!({"command": ["true"]})).expect("a payload");
    change(&mut new);
    let id = session.to_string();
    server
        .client
        .create_command(&id, &new, None)
        .await
        .expect("201")
}

async fn now(server: &TestServer, command: &Command) -> Command {
    let (session, id) = (command.session_id.to_string(), command.id.to_string());
    server.client.get_command(&session, &id).await.expect("200")
}

async fn is(server: &TestServer, command: &Command, status: CommandStatus) -> Command {
    let command = now(server, command).await;
    assert_eq!(command.status, status, "{command:#?}");
    command
}

/// Polls once, and gives the commands that came.
async fn told(agent: &TestAgent, max_sessions: i32, wait_seconds: f64) -> Vec<Command> {
    let claimed = agent.try_claim(max_sessions, wait_seconds).await;
    claimed.expect("it may claim").commands
}

fn ids(commands: &[Command]) -> Vec<Uuid> {
    commands.iter().map(|command| command.id).collect()
}

fn result(command: &Command, epoch: i64, status: ReportedCommandStatus) -> CommandResult {
    CommandResult {
        command_id: command.id,
        lease_epoch: epoch,
        status,
        result: None,
        failure: None,
    }
}

async fn send(agent: &TestAgent, results: Vec<CommandResult>) -> Vec<CommandResultOutcome> {
    let body = Reports {
        incarnation: agent.incarnation,
        reports: Vec::new(),
        command_results: results,
    };
    let answer = agent.client.report(&agent.name, &body).await;
    answer.expect("it may report").command_results
}

/// One result, and what became of it: `accepted`, or the code.
async fn answers(agent: &TestAgent, result: CommandResult) -> String {
    let outcome = send(agent, vec![result]).await.remove(0);
    match outcome.code {
        None => outcome.outcome.to_string(),
        Some(code) => format!("{} {code}", outcome.outcome),
    }
}

/// The kinds of a session's command events, oldest first.
async fn history(server: &TestServer, session: Uuid) -> Vec<Event> {
    let (id, paging) = (
        session.to_string(),
        Paging {
            limit: Some(500),
            cursor: None,
        },
    );
    let page = server.client.session_events(&id, &paging);
    let mut events = page.await.expect("the timeline").items;
    events.retain(|event| event.kind.starts_with("command."));
    events.reverse();
    events
}

async fn kinds(server: &TestServer, command: &Command) -> Vec<String> {
    let events = history(server, command.session_id).await;
    let id = json!(command.id);
    let mine = events
        .into_iter()
        .filter(|event| event.data["command_id"] == id);
    mine.map(|event| event.kind.trim_start_matches("command.").to_owned())
        .collect()
}

/// A server, an agent `a` of domain `d`, and a session that it runs.
async fn running() -> (TestServer, TestAgent, Session, Assignment) {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let agent = server.agent("a", "p", "d", 10).await;
    let session = server.session("p").await;
    let assignment = agent.runs_one().await;
    (server, agent, session, assignment)
}

#[tokio::test]
async fn a_command_goes_to_the_holder_in_order_and_comes_back_with_its_result() {
    let (server, agent, session, assignment) = running().await;
    let epoch = assignment.lease_epoch;
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(create(&server, session.id, |new| new.kind = format!("step-{n}")).await);
    }
    assert_eq!(made[0].status, CommandStatus::Pending);
    let came = told(&agent, 0, 5.0).await;
    assert_eq!(ids(&came), ids(&made), "all of them, in order");
    assert!(came.iter().all(|c| c.status == CommandStatus::Delivered
        && c.lease_epoch == Some(epoch)
        && c.agent.as_deref() == Some("a")
        && c.delivered_at.is_some()));
    assert_eq!(
        answers(&agent, result(&came[0], epoch, RUNNING)).await,
        "accepted"
    );
    is(&server, &came[0], CommandStatus::Running).await;
    let mut done = result(&came[0], epoch, SUCCEEDED);
    // Kept as it was sent, whatever JSON can say.
    let text = r#"{ "b":1e400, "a":[1,  "\u0000"] }"#;
    done.result = Some(serde_json::value::RawValue::from_string(text.to_owned()).expect("JSON"));
    assert_eq!(answers(&agent, done.clone()).await, "accepted");
    assert_eq!(
        answers(&agent, done.clone()).await,
        "accepted",
        "the same again"
    );
    assert_eq!(
        answers(&agent, result(&came[0], epoch, SUCCEEDED)).await,
        "rejected transition_not_allowed",
        "another result"
    );
    let kept = is(&server, &came[0], CommandStatus::Succeeded).await;
    assert_eq!(kept.result.expect("a result").get(), text);
    assert!(kept.finished_at.is_some());
    let mut failed = result(&came[1], epoch, FAILED);
    failed.failure = Some(ReportedFailure {
        reason: "no".to_owned(),
        message: "it cannot".to_owned(),
        exit_code: Some(2),
        retryable: false,
        at: None,
    });
    assert_eq!(
        answers(&agent, failed.clone()).await,
        "accepted",
        "running may be skipped"
    );
    assert_eq!(answers(&agent, failed).await, "accepted", "the same again");
    let kept = is(&server, &came[1], CommandStatus::Failed).await;
    assert_eq!(kept.failure.expect("why").exit_code, Some(2));
    assert_eq!(
        kinds(&server, &came[0]).await,
        ["created", "delivered", "running", "succeeded"]
    );
    assert_eq!(
        kinds(&server, &came[1]).await,
        ["created", "delivered", "failed"]
    );
    let event = history(&server, session.id).await.pop().expect("events");
    assert_eq!(
        (event.lease_epoch, event.agent.as_deref()),
        (Some(epoch), Some("a"))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_new_command_wakes_the_poll_that_is_parked_at_another_server() {
    let (server, agent, session, _) = running().await;
    let other = server.beside().await;
    assert_eq!(told(&agent, 0, 0.0).await.len(), 0);
    // Whatever it asks for, and cordoned too.
    let cordon = serde_json::from_value(json!({})).expect("a cordon");
    server.client.cordon_agent("a", &cordon).await.expect("200");
    let parked = agent.at(&other).park(0, 30.0);
    server.has_parked("p", 1).await;
    let asked = Instant::now();
    let command = create(&server, session.id, |_| {}).await;
    let claimed = parked.await.expect("a task").expect("an answer");
    assert!(asked.elapsed().as_secs_f64() < 2.0, "{:?}", asked.elapsed());
    assert_eq!(ids(&claimed.commands), [command.id]);
    other.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn it_is_told_again_until_it_is_acknowledged() {
    let (server, agent, session, assignment) = running().await;
    let command = create(&server, session.id, |_| {}).await;
    for _ in 0..2 {
        assert_eq!(
            ids(&told(&agent, 1, 0.0).await),
            [command.id],
            "at once the first time"
        );
    }
    assert_eq!(told(&agent, 1, 0.0).await.len(), 0, "then after a pause");
    let asked = Instant::now();
    assert_eq!(ids(&told(&agent, 1, 10.0).await), [command.id]);
    assert!(asked.elapsed().as_secs_f64() < 5.0);
    // A later one does not wait for that, nor does it come before it: its answer may have been lost.
    let next = create(&server, session.id, |_| {}).await;
    assert_eq!(ids(&told(&agent, 1, 5.0).await), [command.id, next.id]);
    for command in [&command, &next] {
        let acknowledged = result(command, assignment.lease_epoch, RUNNING);
        assert_eq!(answers(&agent, acknowledged).await, "accepted");
    }
    assert_eq!(told(&agent, 1, 2.5).await.len(), 0, "acknowledged");
    assert_eq!(
        kinds(&server, &command).await,
        ["created", "delivered", "running"]
    );
    server.stop().await;
}

#[tokio::test]
async fn only_a_holder_is_told_and_only_its_word_counts() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let session = server.session("p").await;
    let command = create(&server, session.id, |_| {}).await;
    let agent = server.agent("a", "p", "d", 10).await;
    let other = server.agent("b", "p", "d", 10).await;
    let claimed = agent.try_claim(1, 5.0).await.expect("a session");
    assert_eq!(claimed.commands.len(), 0, "an offer is no hold");
    let assignment = &claimed.assignments[0];
    let epoch = assignment.lease_epoch;
    let early = result(&command, epoch, RUNNING);
    assert_eq!(answers(&agent, early).await, "fenced not_assigned");
    agent.accepts(assignment, ReportedState::Starting).await;
    assert_eq!(
        answers(&agent, result(&command, epoch, RUNNING)).await,
        "rejected transition_not_allowed",
        "not delivered"
    );
    assert_eq!(
        ids(&told(&agent, 0, 5.0).await),
        [command.id],
        "the acceptance makes it"
    );
    assert_eq!(told(&other, 0, 0.0).await.len(), 0);
    for (who, epoch, becomes) in [
        (&other, epoch, "fenced not_assigned"),
        (&agent, epoch + 1, "fenced lease_epoch_stale"),
        (&agent, epoch - 1, "fenced lease_epoch_stale"),
        (&agent, epoch, "accepted"),
    ] {
        assert_eq!(
            answers(who, result(&command, epoch, RUNNING)).await,
            becomes
        );
    }
    let mut unknown = result(&command, epoch, RUNNING);
    unknown.command_id = Uuid::now_v7();
    assert_eq!(answers(&agent, unknown).await, "rejected command_not_found");
    // Within its limits, and only with what belongs to it.
    let json = |text: String| Some(serde_json::value::RawValue::from_string(text).expect("JSON"));
    let big = |bytes: usize| json(format!("\"{}\"", "x".repeat(bytes - 2)));
    let why =
        |reason: &str| serde_json::from_value(json!({ "reason": reason })).expect("a failure");
    for (status, value, failure) in [
        (SUCCEEDED, big(64 * 1024 + 1), None),
        (RUNNING, json("1".to_owned()), None),
        (SUCCEEDED, None, Some(why("x"))),
        (FAILED, None, Some(why(""))),
        (FAILED, None, Some(why("a\0b"))),
    ] {
        let mut told = result(&command, epoch, status);
        (told.result, told.failure) = (value, failure);
        let what = format!("{:?}", (status, &told.failure));
        assert_eq!(
            answers(&agent, told).await,
            "rejected validation_failed",
            "{what}"
        );
    }
    let mut full = result(&command, epoch, SUCCEEDED);
    full.result = big(64 * 1024);
    // In a claim as well as in a report.
    let mut body = agent.claim_body(0, 0.0);
    body.command_results = vec![full];
    let claimed = agent.client.claim("a", &body).await.expect("an answer");
    assert_eq!(claimed.command_results[0].outcome, Outcome::Accepted);
    is(&server, &command, CommandStatus::Succeeded).await;
    // Any JSON is a result, and comes back as it is; the document says so, and how long a kind may be.
    for value in ["[1, 2]", "true", "3.10", "\"text\"", "{\"a\":{}}"] {
        let command = create(&server, session.id, |_| {}).await;
        told(&agent, 0, 5.0).await;
        let mut done = result(&command, epoch, SUCCEEDED);
        done.result = json(value.to_owned());
        assert_eq!(answers(&agent, done).await, "accepted");
        let now = is(&server, &command, CommandStatus::Succeeded).await;
        assert_eq!(now.result.expect("a result").get(), value);
    }
    let schemas = &lessor::api::openapi()["components"]["schemas"];
    for schema in ["Command", "CommandResult"] {
        let result = &schemas[schema]["properties"]["result"];
        for word in ["type", "oneOf", "anyOf", "$ref"] {
            assert!(result[word].is_null(), "{schema}: {result}");
        }
    }
    let kind = &schemas["NewCommand"]["properties"]["kind"];
    assert_eq!(kind["maxLength"], 64);
    server.stop().await;
}

#[tokio::test]
async fn when_the_epoch_ends_it_is_interrupted_or_given_again() {
    let (server, agent, session, assignment) = running().await;
    let epoch = assignment.lease_epoch;
    let other = server.agent("b", "p", "d", 10).await;
    let begun = create(&server, session.id, |_| {}).await;
    let untouched = create(&server, session.id, |_| {}).await;
    let again = create(&server, session.id, |new| new.redeliver = true).await;
    assert_eq!(told(&agent, 0, 5.0).await.len(), 3);
    answers(&agent, result(&begun, epoch, RUNNING)).await;
    answers(&agent, result(&again, epoch, RUNNING)).await;
    agent
        .client
        .deregister_agent("a", Some(agent.incarnation), false)
        .await
        .expect("a goodbye");
    let pending = create(&server, session.id, |_| {}).await;
    for command in [&begun, &untouched] {
        let command = is(&server, command, CommandStatus::Interrupted).await;
        assert_eq!(command.failure.expect("why").reason, "epoch_ended");
        assert_eq!(command.lease_epoch, Some(epoch));
    }
    let waits = is(&server, &again, CommandStatus::Pending).await;
    assert_eq!(
        (waits.lease_epoch, waits.agent, waits.delivered_at),
        (None, None, None)
    );

    let adopted = other.runs_one().await;
    let came = told(&other, 0, 5.0).await;
    assert_eq!(
        ids(&came),
        [again.id, pending.id],
        "in the order of their creation"
    );
    assert!(
        came.iter()
            .all(|c| c.lease_epoch == Some(adopted.lease_epoch))
    );
    let zombie = answers(&other, result(&again, epoch, SUCCEEDED)).await;
    assert_eq!(zombie, "fenced lease_epoch_stale");
    let late = answers(&other, result(&begun, adopted.lease_epoch, SUCCEEDED)).await;
    assert_eq!(late, "fenced lease_epoch_stale", "it was another epoch's");
    let done = answers(&other, result(&again, adopted.lease_epoch, SUCCEEDED)).await;
    assert_eq!(done, "accepted");
    assert_eq!(
        kinds(&server, &again).await,
        [
            "created",
            "delivered",
            "running",
            "requeued",
            "delivered",
            "succeeded"
        ]
    );
    // A registration that keeps the session begins another epoch, too.
    let mut other = other;
    let kept = create(&server, session.id, |_| {}).await;
    assert_eq!(told(&other, 0, 5.0).await.len(), 2);
    let held = TestAgent::held(&[adopted]);
    other.restart(&held).await;
    is(&server, &kept, CommandStatus::Interrupted).await;
    server.stop().await;
}

#[tokio::test]
async fn the_end_of_a_session_ends_its_commands() {
    let (server, agent, session, assignment) = running().await;
    let delivered = create(&server, session.id, |new| new.redeliver = true).await;
    assert_eq!(told(&agent, 0, 5.0).await.len(), 1);
    let waiting = server.session("p").await;
    let never = create(&server, waiting.id, |_| {}).await;
    let delete = |id: Uuid| {
        let client = server.client.clone();
        async move {
            let how = DeleteSession::default();
            client
                .delete_session(&id.to_string(), &how)
                .await
                .expect("202")
        }
    };
    delete(waiting.id).await;
    let cancelled = is(&server, &never, CommandStatus::Cancelled).await;
    assert_eq!(cancelled.failure.expect("why").reason, "session_ended");
    // Its end is wanted, and until it has come its holder does commands.
    delete(session.id).await;
    let pending = create(&server, session.id, |_| {}).await;
    let end = agent.claim(1, 5.0).await.pop().expect("the end");
    let last = result(&delivered, assignment.lease_epoch, SUCCEEDED);
    let body = Reports {
        incarnation: agent.incarnation,
        reports: vec![report(&end, ReportedState::Terminated)],
        command_results: vec![last],
    };
    let answer = agent.client.report("a", &body).await.expect("200");
    assert_eq!(
        answer.command_results[0].outcome,
        Outcome::Accepted,
        "results come first"
    );
    assert_eq!(answer.results[0].outcome, Outcome::Accepted);
    is(&server, &delivered, CommandStatus::Succeeded).await;
    assert!(now(&server, &pending).await.status.is_finished());
    let new = NewCommand::new("exec", &json!({})).expect("a payload");
    let late = server
        .client
        .create_command(&session.id.to_string(), &new, None)
        .await;
    assert_eq!(refused(late), ProblemCode::TransitionNotAllowed);
    let changes = json!({"keep_ended_seconds": 0}).to_string();
    server.send("PATCH", "/v1/pools/p", changes).await.ok(200);
    // A server looks for what is old when it starts.
    let other = server.beside().await;
    eventually("they go with their sessions", || async {
        count(&server, "SELECT count(*) FROM commands").await == 0
    })
    .await;
    other.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn past_its_deadline_it_is_expired_and_later_results_are_refused() {
    let (server, agent, session, assignment) = running().await;
    let waiting = server.session("p").await;
    let soon = |new: &mut NewCommand| new.deadline_seconds = 1.0;
    let pending = create(&server, waiting.id, soon).await;
    let begun = create(&server, session.id, soon).await;
    let late = create(&server, session.id, |_| {}).await;
    assert_eq!(told(&agent, 0, 5.0).await.len(), 2);
    answers(&agent, result(&begun, assignment.lease_epoch, RUNNING)).await;
    for command in [&pending, &begun] {
        eventually("it is expired", || async {
            now(&server, command).await.status == CommandStatus::Expired
        })
        .await;
        let expired = now(&server, command).await;
        assert_eq!(expired.failure.expect("why").reason, "deadline_passed");
        assert!(expired.finished_at.expect("a time") >= expired.deadline_at);
    }
    let answer = result(&begun, assignment.lease_epoch, SUCCEEDED);
    assert_eq!(
        answers(&agent, answer).await,
        "rejected transition_not_allowed"
    );
    is(&server, &late, CommandStatus::Delivered).await;
    assert_eq!(kinds(&server, &pending).await, ["created", "expired"]);
    server.stop().await;
}

#[tokio::test]
async fn a_cancelled_one_is_told_to_whoever_has_it_until_he_answers() {
    let (server, agent, session, assignment) = running().await;
    let of = session.id.to_string();
    let cancel = |command: &Command| {
        let (client, of, id) = (server.client.clone(), of.clone(), command.id.to_string());
        async move { client.cancel_command(&of, &id).await }
    };
    let begun = create(&server, session.id, |_| {}).await;
    assert_eq!(told(&agent, 0, 5.0).await.len(), 1);
    answers(&agent, result(&begun, assignment.lease_epoch, RUNNING)).await;
    let never = create(&server, session.id, |_| {}).await;
    let cancelled = cancel(&never).await.expect("200");
    assert_eq!(
        (cancelled.status, cancelled.lease_epoch),
        (CommandStatus::Cancelled, None)
    );

    let parked = agent.park(0, 30.0);
    server.has_parked("p", 1).await;
    assert_eq!(
        cancel(&begun).await.expect("200").status,
        CommandStatus::Cancelled
    );
    let came = parked.await.expect("a task").expect("an answer").commands;
    assert_eq!(
        ids(&came),
        [begun.id],
        "and nothing of the one it never had"
    );
    assert_eq!(came[0].status, CommandStatus::Cancelled);
    assert_eq!(
        ids(&told(&agent, 0, 5.0).await),
        [begun.id],
        "again, until it answers"
    );
    let answer = result(&begun, assignment.lease_epoch, FAILED);
    assert_eq!(
        answers(&agent, answer).await,
        "rejected transition_not_allowed"
    );
    assert_eq!(told(&agent, 0, 1.5).await.len(), 0, "it has heard");
    assert_eq!(
        refused(cancel(&begun).await),
        ProblemCode::TransitionNotAllowed
    );
    assert_eq!(
        kinds(&server, &begun).await,
        ["created", "delivered", "running", "cancelled"]
    );
    assert_eq!(kinds(&server, &never).await, ["created", "cancelled"]);
    server.stop().await;
}

#[tokio::test]
async fn creating_is_checked_counted_and_done_once_per_key() {
    let server = TestServer::start().await;
    server.pool("p", |_| {}).await;
    let session = server.session("p").await;
    let at = path(session.id);
    let post = |body: Value| server.send("POST", &at, body.to_string());
    let made = post(json!({"kind": "a"})).await;
    let location = made.header("location").to_owned();
    let made = made.ok(201);
    assert_eq!(
        location,
        format!("{at}/{}", made["id"].as_str().expect("an id"))
    );
    assert_eq!(server.fetch(&location).await.ok(200), made);
    let mut fields: Vec<&str> = made
        .as_object()
        .expect("fields")
        .keys()
        .map(String::as_str)
        .collect();
    fields.sort_unstable();
    let expected = "agent created_at deadline_at delivered_at failure finished_at id kind lease_epoch \
        payload redeliver result session_id status";
    assert_eq!(fields.join(" "), expected);
    assert_eq!(
        (&made["payload"], &made["redeliver"], &made["status"]),
        (&json!({}), &json!(false), &json!("pending"))
    );
    let full = format!("{{\"x\":\"{}\"}}", "y".repeat(64 * 1024 - 8));
    for (body, status, pointer) in [
        (
            json!({"kind": "a", "payload": serde_json::from_str::<Value>(&full).expect("JSON")}),
            201,
            "",
        ),
        (
            json!({"kind": "a", "payload": {"x": "y".repeat(64 * 1024 - 7)}}),
            422,
            "/payload",
        ),
        (json!({"kind": "a", "payload": []}), 422, "/payload"),
        (json!({"kind": "a", "payload": null}), 422, "/payload"),
        (json!({"kind": ""}), 422, "/kind"),
        (json!({"kind": "A"}), 422, "/kind"),
        (json!({"kind": "-a"}), 422, "/kind"),
        (json!({"kind": "a".repeat(64)}), 201, ""),
        (json!({"kind": "a".repeat(65)}), 422, "/kind"),
        (json!({}), 422, "/kind"),
        (
            json!({"kind": "a", "deadline_seconds": 0.5}),
            422,
            "/deadline_seconds",
        ),
        (
            json!({"kind": "a", "deadline_seconds": 86401}),
            422,
            "/deadline_seconds",
        ),
        (json!({"kind": "a", "deadline_seconds": 86400}), 201, ""),
        (json!({"kind": "a", "more": 1}), 422, "/more"),
    ] {
        let answer = post(body.clone()).await;
        assert_eq!(answer.status, status, "{body:.100} {answer:.300?}");
        if status == 422 {
            answer.is_problem(422, "validation_failed", pointer);
            assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{answer:?}");
        }
    }
    let nobody = Uuid::now_v7();
    for (method, at, code) in [
        ("POST", path(nobody), "session_not_found"),
        ("GET", path(nobody), "session_not_found"),
        ("GET", format!("{at}/{nobody}"), "command_not_found"),
        ("DELETE", format!("{at}/{nobody}"), "command_not_found"),
        ("GET", format!("{at}/x"), "command_not_found"),
    ] {
        let answer = server
            .send(method, &at, json!({"kind": "a"}).to_string())
            .await;
        answer.is_problem(404, code, &at);
    }

    let keyed = |body: Value| {
        let headers = [
            ("idempotency-key", "k"),
            ("content-type", "application/json"),
        ];
        let (server, at) = (&server, &at);
        async move { server.raw("POST", at, &headers, body.to_string()).await }
    };
    let first = keyed(json!({"kind": "once"})).await;
    let again = keyed(json!({"kind": "once"})).await;
    assert_eq!(first.header("idempotency-replayed"), "");
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!((first.header("etag"), again.header("etag")), ("", ""));
    assert_eq!(again.ok(201), first.ok(201));
    keyed(json!({"kind": "other"}))
        .await
        .is_problem(422, "idempotency_key_reused", "another body");

    // Pages, newest first; by name as well as by id; as a table.
    let page = server.fetch(&format!("{at}?limit=2")).await.ok(200);
    assert_eq!(page["items"][0]["kind"], "once");
    let cursor = page["next_cursor"].as_str().expect("more");
    let rest = server
        .fetch(&format!("{at}?limit=500&cursor={cursor}"))
        .await
        .ok(200);
    assert_eq!(rest["items"].as_array().expect("items").len(), 3);
    assert_eq!(rest["next_cursor"], Value::Null);
    assert_eq!(rest["items"][2], made);
    let table = server
        .raw("GET", &at, &[("accept", "text/plain")], "")
        .await;
    assert!(
        table.text.starts_with("ID ") && table.text.contains("once"),
        "{table:?}"
    );
    let line = format!(
        "SELECT count(*) FROM commands WHERE session_id = '{}'",
        session.id
    );
    assert_eq!(count(&server, &line).await, 5);

    // No more than a thousand that are not finished.
    let client = server.database.client().await;
    let fill = format!(
        "INSERT INTO commands (id, session_id, kind, payload, status, redeliver, deadline_at, created_at) \
         SELECT gen_random_uuid(), '{}', 'fill', '{{}}', 'pending', false, now() + interval '1 day', now() \
         FROM generate_series(1, 995)",
        session.id
    );
    client.batch_execute(&fill).await.expect("they are there");
    post(json!({"kind": "a"}))
        .await
        .is_problem(422, "validation_failed", "too many");
    for status in CommandStatus::ALL {
        let line = format!("lessor_commands_total{{status=\"{status}\"}}");
        assert!(server.find_metric(&line).await.is_some(), "{line}");
    }
    assert!(
        server
            .metric("lessor_commands_total{status=\"pending\"}")
            .await
            >= 5.0
    );
    server.stop().await;
}

/// What a fleet's agents were told and what was taken of their answers.
#[derive(Default)]
struct Log {
    /// First deliveries, by session and epoch.
    told: std::collections::BTreeMap<(Uuid, i64), Vec<Uuid>>,
    /// How often an end was accepted.
    ended: std::collections::BTreeMap<Uuid, usize>,
    is_over: bool,
}

/// An agent that takes whatever comes, at one server after another, and leaves now and then.
async fn live(mut agent: TestAgent, servers: Vec<TestAgent>, turn: usize, log: Arc<Mutex<Log>>) {
    for round in 0_usize.. {
        if log.lock().expect("the log").is_over {
            return;
        }
        let at = &servers[(turn + round) % servers.len()];
        let now = TestAgent {
            client: at.client.clone(),
            ..agent.clone()
        };
        if round % 23 == turn {
            let gone = now
                .client
                .deregister_agent(&now.name, Some(now.incarnation), false);
            gone.await.expect("a goodbye");
            agent.restart(&[]).await;
            continue;
        }
        let claimed = now.try_claim(10, 0.5).await.expect("it may claim");
        let reports = claimed.assignments.iter();
        let reports = reports
            .map(|assignment| report(assignment, ReportedState::Running))
            .collect();
        now.try_report(reports).await.expect("it may report");
        let mut results = Vec::new();
        for command in &claimed.commands {
            let epoch = command.lease_epoch.expect("an epoch");
            {
                let mut log = log.lock().expect("the log");
                let told = log.told.entry((command.session_id, epoch)).or_default();
                if !told.contains(&command.id) {
                    told.push(command.id);
                }
            }
            // Every other one stays under way for a while.
            let again = round % 2 == 0;
            results.push(result(
                command,
                epoch,
                if again { SUCCEEDED } else { RUNNING },
            ));
            if !again {
                results.push(result(command, epoch, SUCCEEDED));
            }
        }
        let sent = results.clone();
        for (outcome, sent) in send(&now, results).await.iter().zip(sent) {
            if outcome.outcome == Outcome::Accepted && sent.status == SUCCEEDED {
                let mut log = log.lock().expect("the log");
                *log.ended.entry(sent.command_id).or_default() += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_comes_and_goes_does_every_command_in_order() {
    let first = TestServer::start().await;
    let (second, third) = (first.beside().await, first.beside().await);
    let servers = [&first, &second, &third];
    first.pool("p", |_| {}).await;
    let sessions = first.sessions("p", 20).await;
    let log = Arc::new(Mutex::new(Log::default()));
    let mut agents = Vec::new();
    for turn in 0..20 {
        let agent = first.agent(&format!("a-{turn}"), "p", "d", 10).await;
        let everywhere = servers.iter().map(|server| agent.at(server)).collect();
        agents.push(tokio::spawn(live(
            agent,
            everywhere,
            turn,
            Arc::clone(&log),
        )));
    }
    let mut made: Vec<Command> = Vec::new();
    for n in 0..6 {
        for (place, session) in sessions.iter().enumerate() {
            let server = servers[(n + place) % servers.len()];
            made.push(create(server, session.id, |new| new.redeliver = n % 2 == 0).await);
        }
    }
    let unfinished = "SELECT count(*) FROM commands WHERE finished_at IS NULL";
    eventually("all of them are finished", || async {
        count(&first, unfinished).await == 0
    })
    .await;
    log.lock().expect("the log").is_over = true;
    for agent in agents {
        agent.await.expect("it lived");
    }
    let mut interrupted = 0;
    for command in &made {
        let status = now(&first, command).await.status;
        let ended = log.lock().expect("the log").ended.get(&command.id).copied();
        if command.redeliver {
            assert_eq!(status, CommandStatus::Succeeded, "{command:#?}");
        }
        match status {
            // The same answer twice, for what was told twice, is taken twice.
            CommandStatus::Succeeded => assert!(ended.is_some(), "{command:#?}"),
            CommandStatus::Interrupted => {
                interrupted += 1;
                assert_eq!(ended, None, "{command:#?}");
            }
            other => panic!("{other}: {command:#?}"),
        }
    }
    eprintln!("{interrupted} of {} were interrupted", made.len());
    let place = |id: &Uuid| {
        made.iter()
            .position(|command| command.id == *id)
            .expect("ours")
    };
    for ((session, epoch), told) in &log.lock().expect("the log").told {
        let places: Vec<usize> = told.iter().map(place).collect();
        assert!(places.is_sorted(), "{session} under {epoch}: {places:?}");
    }
    for server in [third, second, first] {
        server.stop().await;
    }
}
