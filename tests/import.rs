//! Coming from StreamSpace v2: what an import brings in, what it reports, and that it can be done
//! again, verified and undone.

use std::path::PathBuf;
use std::process::Output;

use lessor_protocol::{Action, DesiredState, ReportedState, SessionState};
use serde_json::Value;
use tokio::process::Command;
use tokio_postgres::Client;

use crate::support::agents::Folder;
use crate::support::postgres::TestDatabase;
use crate::support::{TestServer, database, eventually, runbook};

/// The tables of its newest version, without what nobody reads.
const TABLES: &str = include_str!("import_source/tables.sql");
/// A few rows of each kind, every one odd in its way.
const ODD: &str = include_str!("import_source/odd.sql");
/// 100,000 sessions of 40 agents, with every oddity among them now and then.
const MANY: &str = include_str!("import_source/many.sql");

/// A StreamSpace database.
async fn source(texts: &[&str]) -> (TestDatabase, Client) {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    for text in texts {
        client
            .batch_execute(text)
            .await
            .expect("the source is made");
    }
    (database, client)
}

/// `lessor import streamspace`, and what came of it.
async fn import(from: &str, to: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lessor"))
        .args(["import", "streamspace"])
        .args(arguments)
        .env("LESSOR_IMPORT_FROM", from)
        .env("DATABASE_URL", to)
        .output()
        .await
        .expect("it runs")
}

/// As [`import`], with `--json`, which must end with this code.
async fn report(from: &str, to: &str, arguments: &[&str], code: i32) -> Value {
    let output = import(from, to, &[arguments, &["--json"]].concat()).await;
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{said}\n{text}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn count(report: &Value, name: &str) -> i64 {
    report["counts"][name]
        .as_i64()
        .unwrap_or_else(|| panic!("{name} of {report:#}"))
}

/// The code under which a row was reported, from the file of all findings.
fn findings(file: &PathBuf, id: &str) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("the report");
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a finding"))
        .filter(|finding| finding["id"] == id)
        .map(|finding| {
            format!(
                "{} {}",
                finding["weight"].as_str().expect("weight"),
                finding["code"].as_str().expect("code")
            )
        })
        .collect()
}

async fn text(client: &Client, sql: &str) -> String {
    let row = client
        .query_one(sql, &[])
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    row.get::<_, Option<String>>(0)
        .unwrap_or_else(|| "null".to_owned())
}

/// All that a database has, but the imports' own notes of their runs.
async fn contents(client: &Client) -> String {
    let tables = client
        .query("SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
            AND relname NOT IN ('imports', 'pulse') ORDER BY 1", &[])
        .await
        .expect("the tables");
    let mut contents = String::new();
    for table in tables {
        let table: String = table.get(0);
        let digest = text(client, &format!("SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '') FROM {table} t")).await;
        contents.push_str(&format!("{table} {digest}\n"));
    }
    contents
}

/// One column of a session that was brought in, as text.
async fn column(client: &Client, old_id: &str, column: &str) -> String {
    let sql = format!(
        "SELECT ({column})::text FROM sessions s WHERE s.id = \
         (SELECT session_id FROM imported_sessions WHERE old_id = '{old_id}')"
    );
    text(client, &sql).await
}

#[tokio::test]
async fn every_oddity_is_brought_in_or_reported() {
    let (from, _source) = source(&[TABLES, ODD]).await;
    let to = database().await;
    let client = to.client().await;
    let server = TestServer::over(std::sync::Arc::clone(&to), |_| {}).await;
    // A pool with the name of a derived one, on another platform; and one that has a session's name.
    server
        .pool("vm-lab", |spec| spec.platform = "process".to_owned())
        .await;
    server.pool("other", |_| {}).await;
    let mut taken =
        lessor_protocol::NewSession::in_pool("other", &serde_json::json!({})).expect("a spec");
    taken.name = Some("taken-1".to_owned());
    server
        .client
        .create_session(&taken, None)
        .await
        .expect("it is made");

    let folder = Folder::new();
    let file = folder.0.join("report.jsonl");
    let all = report(
        &from.url,
        &to.url,
        &["--apply", "--report", file.to_str().expect("a path")],
        0,
    )
    .await;

    for (id, expected) in [
        ("run-no-agent", &["unmapped no_domain"][..]),
        ("weird-state", &["unmapped unknown_state"]),
        ("null-state", &["unmapped unknown_state"]),
        ("twin-old", &["unmapped shared_resource"]),
        ("on-vm", &["unmapped pool_on_other_platform"]),
        ("Upper Case!", &["note name"]),
        (
            "6f1c1f6e-1111-4222-8333-444455556666",
            &["note name_is_uuid"],
        ),
        ("taken-1", &["note name_taken"]),
        ("null-user", &["note no_owner"]),
        ("bad-durations", &["note duration", "note duration"]),
        ("tiny-durations", &["note duration", "note duration"]),
        ("huge-durations", &["note duration", "note duration"]),
        ("fine-durations", &[]),
        ("negative-port", &["note endpoint"]),
        ("zero-port", &["note endpoint"]),
        ("metadata-text", &["note platform_metadata"]),
        ("metadata-long", &["note platform_metadata"]),
        ("bad-tags", &["note label", "note label", "note label"]),
        ("no-times", &["note created_at"]),
        ("cmd-hibernate", &["unmapped command"]),
        ("cmd-lost", &["unmapped no_session"]),
        ("cmd-odd", &["unmapped unknown_action"]),
        ("agent-text-capacity", &["note capacity"]),
        ("Agent Nine", &["note domain_renamed"]),
    ] {
        assert_eq!(findings(&file, id), expected, "{id}");
    }
    let name = "x".repeat(200);
    assert_eq!(findings(&file, &name), ["note name"]);
    assert_eq!(
        count(&all, "sessions"),
        count(&all, "new") + count(&all, "ended_long_ago") + count(&all, "unmapped")
    );
    assert_eq!(
        (count(&all, "ended_long_ago"), count(&all, "unmapped")),
        (1, 5)
    );
    // The labels' notes: 70 tags and three columns, of which 64 fit.
    assert!(findings(&file, "many-tags").len() >= 7);

    for (id, columns, expected) in [
        (
            "k8s-run",
            "state, desired_state, name, owner, agent_pool, resource_domain, platform_resource_id, assigned_agent_id",
            "(running,running,k8s-run,ann,kubernetes-us-east-1-prod,prod,k8s-run-pod,)",
        ),
        (
            "docker-run",
            "state, agent_pool, platform, region, resource_domain, platform_resource_id",
            "(running,docker-eu,docker,eu,docker-1,abc123)",
        ),
        (
            "docker-plain",
            "resource_domain, platform_resource_id",
            "(docker-1,streamspace-docker-plain)",
        ),
        (
            "lost-agent",
            "state, agent_pool, resource_domain",
            "(running,kubernetes,agent-that-went)",
        ),
        (
            "stuck-end",
            "state, desired_state, domain_work, pool_work",
            "(terminating,terminated,terminate,)",
        ),
        (
            "stuck-start",
            "state, desired_state, domain_work, pool_work, resource_domain, platform_resource_id",
            "(pending,running,,start,,)",
        ),
        (
            "half-start",
            "state, desired_state, domain_work, resource_domain",
            "(starting,running,start,prod)",
        ),
        (
            "asleep",
            "state, desired_state, observed_generation",
            "(hibernated,hibernated,1)",
        ),
        (
            "stop-asked",
            "state, desired_state, domain_work, delete_data",
            "(running,terminated,terminate,t)",
        ),
        (
            "stop-lost",
            "state, desired_state",
            "(terminated,terminated)",
        ),
        (
            "stop-pending",
            "state, desired_state",
            "(terminated,terminated)",
        ),
        ("start-asked", "state, pool_work", "(pending,start)"),
        (
            "broken",
            "state, desired_state, failure->>'message'",
            "(failed,running,\"image not found\")",
        ),
        (
            "ended-now",
            "state, termination_reason, ended_at IS NOT NULL",
            "(terminated,\"user asked\",t)",
        ),
        ("twin-new", "platform_resource_id", "twin-pod"),
        (
            "fine-durations",
            "idle_timeout_seconds, max_duration_seconds",
            "(9000,28800)",
        ),
        (
            "bad-durations",
            "idle_timeout_seconds, max_duration_seconds",
            "(,)",
        ),
        ("loud", "state", "running"),
        ("taken-1", "name", "null"),
        (
            "k8s-run",
            "labels ->> 'user_id', labels ->> 'agent_id', labels ->> 'org_id', labels ->> 'team', labels ->> 'gpu', labels ->> 'session_id'",
            "(ann,k8s-1,acme,blue,true,k8s-run)",
        ),
        (
            "k8s-run",
            "platform_metadata ->> 'deployment', platform_metadata ->> 'service', platform_metadata ->> 'pvc', platform_metadata ->> 'namespace', platform_metadata ->> 'node'",
            "(k8s-run,k8s-run,k8s-run-home,apps,n1)",
        ),
        (
            "k8s-run",
            "spec ->> 'template_name', spec ->> 'memory', spec ->> 'cpu', spec ->> 'persistent_home', spec #>> '{template_manifest,spec,baseImage}'",
            "(firefox,2Gi,1000m,true,img:2)",
        ),
        (
            "k8s-run",
            "endpoint ->> 'protocol', endpoint ->> 'port', endpoint ->> 'host', endpoint ->> 'path'",
            "(selkies,8080,10.0.0.7,/ws)",
        ),
        (
            "k8s-run",
            "created_at AT TIME ZONE 'UTC'",
            "2025-12-01 10:00:00",
        ),
        (
            "docker-run",
            "platform_metadata ->> 'container', platform_metadata ->> 'volume'",
            "(streamspace-docker-run,streamspace-docker-run-home)",
        ),
    ] {
        let columns = if columns.contains(", ") {
            format!("ROW({columns})")
        } else {
            columns.to_owned()
        };
        assert_eq!(column(&client, id, &columns).await, expected, "{id}");
    }
    assert_eq!(text(&client, "SELECT slots_per_agent || ' ' || coalesce(labels ->> 'cluster_name', '') FROM pools WHERE name = 'kubernetes-us-east-1-prod'").await, "40 Production");
    assert_eq!(text(&client, "SELECT string_agg(name, ' ' ORDER BY name) FROM pools WHERE name LIKE 'kubernetes-a-b%'").await.split(' ').count(), 2);
    let event = text(&client, "SELECT kind || ' ' || actor_name || ' ' || (data ->> 'old_state') FROM event_history e JOIN imported_sessions i USING (session_id) WHERE old_id = 'stuck-end'").await;
    assert_eq!(event, "session.created lessor import terminating");
    // Nothing is decided about a domain before operators have had a day to start agents.
    let early = "SELECT count(*)::text FROM resource_domains WHERE lost_since < now() + interval '23 hours'";
    assert_eq!(text(&client, early).await, "0");
    // Its limits run from the import on.
    let first = "SELECT (min(check_at) > now() + interval '2 hours')::text FROM limit_checks JOIN imported_sessions USING (session_id) WHERE old_id = 'fine-durations'";
    assert_eq!(text(&client, first).await, "true");
    eventually("the metric is set", || async {
        let source = all["source"].as_str().expect("a source");
        server
            .find_metric(&format!(
                "lessor_imported_sessions{{source=\"{source}\",outcome=\"unmapped\"}}"
            ))
            .await
            == Some(5.0)
    })
    .await;

    report(&from.url, &to.url, &["--verify"], 0).await;
    report(&from.url, &to.url, &["--verify", "--strict"], 3).await;
    report(&from.url, &to.url, &["--strict"], 3).await;
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_writes_nothing_and_a_rollback_leaves_nothing() {
    let (from, _source) = source(&[TABLES, ODD]).await;
    let to = database().await;
    let client = to.client().await;
    let (empty, whole) = (
        contents(&client).await,
        contents(&from.client().await).await,
    );

    let dry = report(&from.url, &to.url, &[], 0).await;
    assert!(count(&dry, "new") > 20, "{dry:#}");
    assert_eq!(contents(&client).await, empty);

    let applied = report(&from.url, &to.url, &["--apply"], 0).await;
    for name in ["sessions", "new", "unmapped", "ended_long_ago"] {
        assert_eq!(count(&applied, name), count(&dry, name), "{name}");
    }
    assert_eq!(
        applied["pools"].as_array().map(Vec::len),
        dry["pools"].as_array().map(Vec::len)
    );
    let before = contents(&client).await;
    assert_ne!(before, empty);
    // Again: nothing changes.
    let again = report(&from.url, &to.url, &["--apply"], 0).await;
    assert_eq!((count(&again, "new"), count(&again, "updated")), (0, 0));
    assert_eq!(count(&again, "unchanged"), count(&applied, "new"));
    assert_eq!(contents(&client).await, before);

    let undone = report(&from.url, &to.url, &["--rollback"], 0).await;
    assert_eq!(count(&undone, "removed"), count(&applied, "new"));
    // Streams may have shown what happened: that stays, and the end of it is told.
    let but_history = |contents: &str| {
        let lines = contents
            .lines()
            .filter(|line| !line.starts_with("event_inbox ") && !line.starts_with("events "));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(but_history(&contents(&client).await), but_history(&empty));
    let untold = "SELECT count(*)::text FROM event_history c WHERE kind = 'session.created' AND NOT EXISTS
        (SELECT FROM event_history d WHERE d.session_id = c.session_id AND d.kind = 'session.deleted' AND d.reason = 'rolled_back')";
    assert_eq!(text(&client, untold).await, "0");
    // A whole import can follow.
    let third = report(&from.url, &to.url, &["--apply"], 0).await;
    assert_eq!(count(&third, "new"), count(&applied, "new"));
    assert_eq!(
        contents(&from.client().await).await,
        whole,
        "the source was written"
    );
}

#[tokio::test]
async fn what_has_changed_there_is_updated_and_what_has_moved_on_here_is_left() {
    let (from, there) = source(&[TABLES, ODD]).await;
    let to = database().await;
    let client = to.client().await;
    report(&from.url, &to.url, &["--apply"], 0).await;
    report(&from.url, &to.url, &["--verify"], 0).await;

    there
        .batch_execute(
            "UPDATE sessions SET state = 'terminating' WHERE id IN ('k8s-run', 'docker-plain'); \
             UPDATE sessions SET pod_name = 'other-pod' WHERE id = 'loud'; \
             UPDATE sessions SET last_activity = now() WHERE id = 'asleep'; \
             DELETE FROM sessions WHERE id = 'docker-run'; \
             INSERT INTO sessions (id, user_id, state, agent_id, platform, created_at) VALUES ('late', 'ann', 'pending', 'k8s-1', 'kubernetes', now())",
        )
        .await
        .expect("they change");
    // One of them has been changed here as well.
    let server = TestServer::over(std::sync::Arc::clone(&to), |_| {}).await;
    let id = column(&client, "docker-plain", "s.id").await;
    let patch = serde_json::from_value(serde_json::json!({"priority": 5})).expect("a patch");
    server
        .client
        .patch_session(&id, &patch)
        .await
        .expect("it is changed");

    let differing = report(&from.url, &to.url, &["--verify"], 3).await;
    assert_eq!(count(&differing, "differences"), 4, "{differing:#}");
    let folder = Folder::new();
    let file = folder.0.join("report.jsonl");
    let second = report(
        &from.url,
        &to.url,
        &["--apply", "--report", file.to_str().expect("a path")],
        0,
    )
    .await;
    let counts =
        ["new", "updated", "moved_on", "gone_from_source"].map(|name| count(&second, name));
    assert_eq!(counts, [1, 2, 1, 1], "{second:#}");
    assert_eq!(
        findings(&file, "docker-plain").last().map(String::as_str),
        Some("left moved_on")
    );
    assert_eq!(
        column(&client, "docker-plain", "ROW(state, priority)").await,
        "(running,5)"
    );
    assert_eq!(
        column(
            &client,
            "k8s-run",
            "ROW(state, desired_state, generation, version, domain_work)"
        )
        .await,
        "(terminating,terminated,2,2,terminate)"
    );
    assert_eq!(
        column(&client, "loud", "platform_resource_id").await,
        "other-pod"
    );
    // What is gone from the source is all that still differs.
    let verified = report(&from.url, &to.url, &["--verify"], 3).await;
    assert_eq!(count(&verified, "differences"), 1);

    // What was brought in is ended here too, when the end of it there is found late.
    there
        .batch_execute("UPDATE sessions SET state = 'terminated', terminated_at = now() - interval '99 days' WHERE id = 'loud'")
        .await
        .expect("it ends");
    report(&from.url, &to.url, &["--apply"], 0).await;
    assert_eq!(column(&client, "loud", "state").await, "terminated");

    let undone = report(&from.url, &to.url, &["--rollback"], 3).await;
    assert_eq!(count(&undone, "moved_on"), 1);
    assert_eq!(
        text(
            &client,
            "SELECT string_agg(old_id, ' ') FROM imported_sessions"
        )
        .await,
        "docker-plain"
    );
    assert_eq!(
        text(&client, "SELECT count(*)::text FROM sessions").await,
        "1"
    );
    assert_eq!(
        text(&client, "SELECT string_agg(name, ' ') FROM pools").await,
        "docker-eu"
    );
    server.stop().await;
}

/// From old versions: no agents, no commands, few columns; or an id that is a UUID, JSON tags.
#[tokio::test]
async fn older_versions_lack_columns_and_tables() {
    for (tables, pool, ids) in [
        (
            "CREATE TABLE sessions (id varchar(255) PRIMARY KEY, user_id varchar(255), state varchar(50), created_at timestamp); \
             INSERT INTO sessions VALUES ('a', 'ann', 'pending', now()), ('b', 'bob', 'running', now()), ('c', NULL, 'terminated', now())",
            "kubernetes",
            "a c",
        ),
        (
            "CREATE TABLE agents (agent_id text, platform text, capacity json); \
             CREATE TABLE sessions (id uuid PRIMARY KEY, user_id int, state text, agent_id text, tags json, platform_metadata json, created_at timestamptz); \
             CREATE TABLE agent_commands (session_id uuid, action text, status text); \
             INSERT INTO agents VALUES ('x', 'docker', '\"\\u0000\"'); \
             INSERT INTO sessions VALUES ('6f1c1f6e-1111-4222-8333-444455556666', 7, 'running', 'x', '[\"a\\u0000b\"]', '{\"k\":\"\\u0000\"}', now())",
            "docker",
            "6f1c1f6e-1111-4222-8333-444455556666",
        ),
    ] {
        let (from, _client) = source(&[tables]).await;
        let to = database().await;
        let applied = report(&from.url, &to.url, &["--apply"], 0).await;
        assert!(!applied["missing"].as_array().expect("a list").is_empty());
        let client = to.client().await;
        assert_eq!(
            text(
                &client,
                "SELECT string_agg(old_id, ' ' ORDER BY old_id) FROM imported_sessions"
            )
            .await,
            ids
        );
        assert_eq!(
            text(&client, "SELECT string_agg(name, ' ') FROM pools").await,
            pool
        );
        report(&from.url, &to.url, &["--verify"], 0).await;
    }
}

#[tokio::test]
async fn options_say_what_the_source_does_not() {
    let (from, _client) = source(&[TABLES, ODD]).await;
    let to = database().await;
    let client = to.client().await;
    let options = [
        "--apply",
        "--default-domain",
        "prod",
        "--pool-prefix",
        "old",
        "--source-time-zone",
        "Europe/Berlin",
        "--source-name",
        "ss",
    ];
    let applied = report(&from.url, &to.url, &options, 0).await;
    assert_eq!(applied["source"], "ss");
    assert_eq!(
        column(&client, "run-no-agent", "resource_domain").await,
        "prod"
    );
    assert_eq!(
        column(
            &client,
            "k8s-run",
            "ROW(agent_pool, created_at AT TIME ZONE 'UTC')"
        )
        .await,
        "(old-kubernetes-us-east-1-prod,\"2025-12-01 09:00:00\")"
    );
    // The same source under another name is noticed by its resources.
    let twice = report(&from.url, &to.url, &["--pool-prefix", "old"], 0).await;
    assert!(
        twice["codes"]["unmapped resource_taken"].as_i64() > Some(5),
        "{twice:#}"
    );

    let wrong = import(&from.url, &to.url, &["--source-time-zone", "Mars/Olympus"]).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("source-time-zone"));
    assert_eq!(
        import(&from.url, &to.url, &["--apply", "--verify"])
            .await
            .status
            .code(),
        Some(2)
    );
}

#[tokio::test]
async fn errors_are_clear_and_tell_no_secret() {
    let to = database().await;
    let empty = TestDatabase::create().await;
    let nowhere = "postgres://streamspace:hunter2@127.0.0.1:1/streamspace";
    for (from, to, said) in [
        (nowhere, to.url.as_str(), "streamspace at 127.0.0.1"),
        (to.url.as_str(), nowhere, "streamspace at 127.0.0.1"),
        (
            empty.url.as_str(),
            to.url.as_str(),
            "has no table `sessions`",
        ),
        (to.url.as_str(), empty.url.as_str(), "run `lessor migrate`"),
        ("no url hunter2", to.url.as_str(), "StreamSpace database"),
    ] {
        let output = import(from, to, &["--apply"]).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(said), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    // Nobody can be let in twice at a time.
    let (from, _client) = source(&[TABLES, ODD]).await;
    let other = to.client().await;
    other
        .batch_execute("BEGIN; SELECT pg_advisory_xact_lock(x'696d706f7274'::bigint)")
        .await
        .expect("the lock");
    let output = import(&from.url, &to.url, &["--apply"]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("another import is running"));
}

#[tokio::test]
async fn agents_of_the_pool_go_on_where_the_old_ones_stood() {
    let (from, _client) = source(&[TABLES, ODD]).await;
    let server = TestServer::start().await;
    let to = &server.database.url;
    // An agent is there before the sessions are: its parked poll is answered by the import.
    server
        .pool("kubernetes-us-east-1-prod", |spec| {
            spec.platform = "kubernetes".to_owned();
            spec.region = Some("us-east-1".to_owned());
        })
        .await;
    let agent = server
        .agent("new-1", "kubernetes-us-east-1-prod", "prod", 50)
        .await;
    let parked = agent.park(100, 50.0);
    server.has_parked("kubernetes-us-east-1-prod", 1).await;
    let begun = std::time::Instant::now();
    report(&from.url, to, &["--apply"], 0).await;
    let mut work = parked
        .await
        .expect("it runs")
        .expect("it may claim")
        .assignments;
    let waited = begun.elapsed();
    loop {
        let more = agent.claim(100, 0.0).await;
        let known = work.len();
        for assignment in more {
            if !work
                .iter()
                .any(|before| before.session.id == assignment.session.id)
            {
                work.push(assignment);
            }
        }
        if work.len() == known {
            break;
        }
    }
    let of = |name: &str| {
        work.iter()
            .find(|w| w.session.name.as_deref() == Some(name))
            .unwrap_or_else(|| panic!("{name} was not given"))
    };
    for (name, action, state) in [
        ("k8s-run", Action::Adopt, ReportedState::Running),
        ("stuck-end", Action::Terminate, ReportedState::Terminated),
        ("stuck-start", Action::Start, ReportedState::Running),
        ("half-start", Action::Start, ReportedState::Running),
        ("stop-asked", Action::Terminate, ReportedState::Terminated),
    ] {
        let assignment = of(name);
        assert_eq!(assignment.action, action, "{name}");
        agent.accepts(assignment, state).await;
        let now = server.get(assignment.session.id).await;
        assert_eq!(
            now.state.to_string(),
            serde_json::to_value(state)
                .expect("a word")
                .as_str()
                .expect("a word"),
            "{name}"
        );
    }
    assert_eq!(
        of("k8s-run").session.platform_resource_id.as_deref(),
        Some("k8s-run-pod")
    );
    assert!(
        waited < std::time::Duration::from_secs(30),
        "the poll was answered after {waited:?}"
    );
    // What agents have had stays, and is said.
    let undone = report(&from.url, to, &["--rollback"], 3).await;
    assert_eq!(
        count(&undone, "moved_on"),
        i64::try_from(work.len()).expect("few")
    );
    let running = server.get(of("k8s-run").session.id).await;
    assert_eq!(
        (running.state, running.desired_state),
        (SessionState::Running, DesiredState::Running)
    );
    server.stop().await;
}

/// How many sessions the great import has: fewer where the program is not optimised, see [`OPTIMISED`].
fn great() -> i64 {
    let many = if OPTIMISED { 100_000 } else { 30_000 };
    std::env::var("LESSOR_TEST_IMPORT").map_or(many, |text| text.parse().expect("a number"))
}

/// Whether the program is optimised. It takes some ten times as long for each session where it is not:
/// then the time is no measure, and what only reads is left to the smaller imports.
const OPTIMISED: bool = !cfg!(debug_assertions);

#[tokio::test]
async fn a_great_import_takes_well_under_a_minute() {
    let many = MANY.replace("100000", &great().to_string());
    let (from, _client) = source(&[TABLES, ODD, &many]).await;
    let server = TestServer::start().await;
    let to = &server.database.url;
    let client = server.database.client().await;
    let mut said = Vec::new();
    if OPTIMISED {
        let dry = report(&from.url, to, &[], 0).await;
        assert!(count(&dry, "new") > great() * 9 / 10, "{dry:#}");
        said.push(("dry run", dry));
    }
    let applied = report(&from.url, to, &["--apply"], 0).await;
    assert!(count(&applied, "new") > great() * 9 / 10, "{applied:#}");
    if OPTIMISED {
        let verified = report(&from.url, to, &["--verify"], 0).await;
        assert_eq!(count(&verified, "unchanged"), count(&applied, "new"));
        let again = report(&from.url, to, &["--apply"], 0).await;
        assert_eq!((count(&again, "new"), count(&again, "updated")), (0, 0));
        said.extend([("verify", verified), ("again", again)]);
    }
    let sums = ["new", "ended_long_ago", "unmapped"].map(|name| count(&applied, name));
    assert_eq!(sums.iter().sum::<i64>(), count(&applied, "sessions"));
    let wrong = "SELECT count(*)::text FROM sessions WHERE lease_epoch <> 0 OR assigned_agent_id IS NOT NULL";
    assert_eq!(text(&client, wrong).await, "0");
    // An agent of one of its domains finds all of it.
    let pool = text(
        &client,
        "SELECT agent_pool FROM sessions WHERE name = 'many-000006'",
    )
    .await;
    let domain = text(
        &client,
        "SELECT coalesce(resource_domain, 'none') FROM sessions WHERE name = 'many-000006'",
    )
    .await;
    let agent = server.agent("one", &pool, &domain, 10).await;
    let given = agent.claim(500, 5.0).await;
    assert!(
        given.iter().any(|w| w.action == Action::Adopt),
        "{}",
        given.len()
    );
    let undone = report(&from.url, to, &["--rollback"], 3).await;
    assert_eq!(
        count(&undone, "removed") + count(&undone, "moved_on"),
        count(&applied, "new")
    );
    said.extend([("apply", applied.clone()), ("rollback", undone)]);
    for (what, report) in said {
        println!(
            "{what}: {} s for {} sessions",
            report["seconds"],
            count(&report, "sessions")
        );
    }
    let limit = if OPTIMISED { 60.0 } else { 120.0 };
    assert!(applied["seconds"].as_f64() < Some(limit), "{applied:#}");
    server.stop().await;
}

#[tokio::test]
async fn the_page_does_what_it_says() {
    let (from, _client) = source(&[TABLES, ODD]).await;
    let server = TestServer::start().await;
    let folder = Folder::new();
    let said = runbook::run_with(
        "coming-from-streamspace.md",
        &server.url,
        &[
            ("LESSOR_IMPORT_FROM", &from.url),
            ("DATABASE_URL", &server.database.url),
            (
                "REPORT",
                folder.0.join("report.jsonl").to_str().expect("a path"),
            ),
            ("PATH", &path_with_lessor()),
        ],
    )
    .await;
    assert!(
        said.contains("dry_run of")
            && said.contains("apply of")
            && said.contains("verify of")
            && said.contains("rollback of"),
        "{said}"
    );
    assert!(said.contains("kubernetes-us-east-1-prod"), "{said}");
    server.stop().await;
}

fn path_with_lessor() -> String {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_lessor"));
    let folder = program.parent().expect("its folder").display().to_string();
    format!("{folder}:{}", std::env::var("PATH").unwrap_or_default())
}
