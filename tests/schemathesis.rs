//! The served document and the service held against each other by a fuzzer that knows neither:
//! schemathesis, with every check, along the links of the document. `tests/schemathesis/` says how.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::database;
use crate::support::process::ServerProcess;

/// For how long it generates, unless `LESSOR_SCHEMATHESIS_SECONDS` says otherwise.
const SECONDS: &str = "60";

/// Fewer would not be worth the name.
const LEAST_CASES: i64 = 1_500;

const TOKEN: &str = "a-token-for-the-fuzzer";

#[tokio::test]
async fn schemathesis_finds_no_fault() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/schemathesis");
    let program = root.join("target/openapi-tools/venv/bin/schemathesis");
    assert!(
        program.is_file(),
        "schemathesis is missing: run tests/openapi/prepare.sh"
    );
    let database = database().await;
    let server =
        ServerProcess::start_with(&database.url, &[("LESSOR_ADMIN_TOKEN", TOKEN)], None).await;
    let work = crate::support::agents::Folder::new();
    let report = work.0.join("report.json");
    let seconds =
        std::env::var("LESSOR_SCHEMATHESIS_SECONDS").unwrap_or_else(|_| SECONDS.to_owned());
    let ran = Command::new(program)
        .args(["--config-file"])
        .arg(folder.join("schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", server.url)])
        // A stream has no end; tests/events.rs is about it.
        .args(["--exclude-operation-id", "stream_events"])
        .args(["--checks", "all", "--max-time", &seconds, "--no-color"])
        .args(["--report", "json", "--report-json-path"])
        .arg(&report)
        .current_dir(&work.0)
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LESSOR_ADMIN_TOKEN", TOKEN)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}\n{errors}");
    let report = std::fs::read(&report).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let cases = report["test_cases"]["generated"]
        .as_i64()
        .expect("a number");
    println!("{cases} cases");
    assert!(cases >= LEAST_CASES, "only {cases} cases: {said}");
    for phase in ["examples", "coverage", "fuzzing", "stateful"] {
        assert_eq!(
            report["phases"][phase]["status"], "success",
            "{phase}: {said}"
        );
    }
    let operations = &report["operations"];
    assert_eq!(
        operations["tested"].as_i64().map(|tested| tested + 1),
        operations["total"].as_i64(),
        "all but the stream: {operations}"
    );
    let covered = said
        .split_once("API Links:")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u32>().ok());
    assert!(
        covered.is_some_and(|links| links >= 20),
        "it followed few links: {said}"
    );
}
