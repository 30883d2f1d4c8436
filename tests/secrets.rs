//! No secret in a log, an answer, an event or the list of processes: the real program is started with
//! secrets, made to fail in many ways, and everything that it says is looked through.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::support::agents::Folder;
use crate::support::process::ServerProcess;
use crate::support::{database, eventually};

const TOKEN: &str = "t0ken-that-must-not-be-seen";
const PASSWORD: &str = "passw0rd-that-must-not-be-seen";
const GUESS: &str = "gue55-that-must-not-be-seen";

/// The database's URL with a password, which the tests' server does not ask for.
fn with_password(url: &str) -> String {
    match url.split_once("password=") {
        Some((before, _)) => format!("{before}password={PASSWORD}"),
        None if url.contains('?') => format!("{url}&password={PASSWORD}"),
        None if url.contains("://") => format!("{url}?password={PASSWORD}"),
        None => format!("{url} password={PASSWORD}"),
    }
}

/// Fails with the place if a secret is in a text.
fn is_clean(what: &str, text: &str) {
    for secret in [TOKEN, PASSWORD, GUESS] {
        assert!(!text.contains(secret), "{secret} is in {what}: {text}");
    }
}

/// The command lines of a process and all below it.
fn command_lines(pid: u32) -> String {
    let mut text = String::new();
    for pid in std::iter::once(pid).chain(descendants(pid)) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(&line).replace('\0', " "));
        text.push('\n');
    }
    text
}

/// Calls that are refused, in as many ways as there are places that could repeat what they were given.
async fn provoke(url: &str) -> String {
    let http = reqwest::Client::new();
    let mut said = String::new();
    let bodies = [
        "{\"pool\":".to_owned(),
        "[]".to_owned(),
        json!({"spec": 1, "unknown": true}).to_string(),
        json!({"pool": "nowhere", "spec": {}}).to_string(),
    ];
    for token in [TOKEN, GUESS, ""] {
        for path in [
            "/v1/sessions",
            "/v1/pools/p",
            "/v1/agents/a/claim",
            "/v1/nowhere",
        ] {
            for body in &bodies {
                let answer = http
                    .post(format!("{url}{path}"))
                    .bearer_auth(token)
                    .header("content-type", "application/json")
                    .body(body.clone())
                    .send()
                    .await
                    .expect("an answer");
                said.push_str(&format!("{:?}\n", answer.headers()));
                said.push_str(&answer.text().await.expect("text"));
            }
        }
    }
    for path in ["/metrics", "/readyz", "/openapi.json"] {
        let answer = http
            .get(format!("{url}{path}"))
            .bearer_auth(TOKEN)
            .send()
            .await;
        said.push_str(&answer.expect("an answer").text().await.expect("text"));
    }
    said
}

#[tokio::test]
async fn no_secret_is_said_whatever_goes_wrong() {
    let database = database().await;
    let folder = Folder::new();
    let log = folder.0.join("log");
    let url = with_password(&database.url);
    let environment = [("LESSOR_ADMIN_TOKEN", TOKEN), ("LESSOR_LOG", "trace")];
    let mut server = ServerProcess::start_with(&url, &environment, Some(&log)).await;
    let client = lessor_client::Client::new(&server.url, Some(TOKEN)).expect("a client");
    let pool = lessor_protocol::PoolSpec::on("process");
    client.put_pool("p", &pool).await.expect("the pool");
    let new = lessor_protocol::NewSession::in_pool("p", &json!({})).expect("a spec");
    let session = client.create_session(&new, None).await.expect("a session");
    is_clean("an answer", &provoke(&server.url).await);
    let events = client
        .session_events(&session.id.to_string(), &Default::default())
        .await
        .expect("events");
    is_clean("an event", &serde_json::to_string(&events).expect("JSON"));
    let dump = crate::support::checks::dump(&database.client().await).await;
    is_clean("the database", &dump);
    let lines = command_lines(server.pid());
    assert!(lines.contains("serve"), "{lines}");
    is_clean("the list of processes", &lines);
    server.terminate();
    server.ends_within(Duration::from_secs(15)).await;
    let log = fs::read_to_string(&log).expect("its log");
    assert!(log.contains("serving") && log.lines().count() > 50, "{log}");
    is_clean("the log", &log);
}

/// Starts it so that it cannot start, and gives what it says.
async fn refuses(environment: &[(&str, &str)], arguments: &[&str]) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_lessor"))
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(Duration::from_secs(50), run)
        .await
        .expect("it ends")
        .expect("it runs");
    assert!(!ran.status.success());
    String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned()
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_said_without_secrets() {
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let bad_url = format!("postgres://u:{PASSWORD}@host:port/x?y=z");
    for (environment, arguments, expected) in [
        (vec![("DATABASE_URL", bad_url.as_str())], &serve[..], ""),
        (
            vec![(
                "LESSOR_ADMIN_TOKEN",
                "t0ken-that-must-not-be-seen with a space",
            )],
            &serve[..],
            "LESSOR_ADMIN_TOKEN",
        ),
        (
            vec![
                ("LESSOR_ADMIN_TOKEN", TOKEN),
                ("DATABASE_URL", bad_url.as_str()),
            ],
            &["migrate"][..],
            "",
        ),
        (
            vec![
                ("LESSOR_ADMIN_TOKEN", TOKEN),
                ("LESSOR_DB_CONNECTIONS", "none"),
            ],
            &serve[..],
            "--db-connections",
        ),
    ] {
        let said = refuses(&environment, arguments).await;
        assert!(said.contains(expected) && !said.is_empty(), "{said}");
        is_clean("what it says", &said);
    }
    let help = Command::new(env!("CARGO_BIN_EXE_lessor"))
        .args(["serve", "--help"])
        .env("LESSOR_ADMIN_TOKEN", TOKEN)
        .env("DATABASE_URL", with_password("postgres://h/d"))
        .output()
        .await
        .expect("it runs");
    is_clean("the help", &String::from_utf8_lossy(&help.stdout));
}

#[tokio::test]
async fn the_private_postgres_is_not_given_secrets() {
    let folder = Folder::new();
    // PostgreSQL runs as another user when this is root, and must be able to enter.
    let data = folder.0.join("data");
    let log = folder.0.join("log");
    let file = fs::File::create(&log).expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_lessor"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("LESSOR_DATA_DIR", &data)
        .env("LESSOR_ADMIN_TOKEN", TOKEN)
        .env("LESSOR_STOP_TIMEOUT_SECONDS", "5")
        .env_remove("DATABASE_URL")
        .stdout(file.try_clone().expect("the same file"))
        .stderr(file)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let pid = child.id().expect("it runs");
    eventually("it serves", || async {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("serving"))
    })
    .await;
    is_clean("the list of processes", &command_lines(pid));
    let mut seen = 0;
    for below in descendants(pid) {
        let environment = fs::read(Path::new("/proc").join(below.to_string()).join("environ"));
        if let Ok(environment) = environment {
            seen += 1;
            is_clean(
                "PostgreSQL's environment",
                &String::from_utf8_lossy(&environment),
            );
        }
    }
    assert!(seen > 0, "no process below it was seen");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("the signal");
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    ended.expect("it ends").expect("its status");
}

/// The processes below one.
fn descendants(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            Some((id, parent.parse().ok()?))
        })
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&above) = found.get(at) {
        at += 1;
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == above)
                .map(|(id, _)| *id),
        );
    }
    found.split_off(1)
}
