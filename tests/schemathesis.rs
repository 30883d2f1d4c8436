//! The served document and the service held against each other by a fuzzer that knows neither:
//! schemathesis, with every check, along the links of the document. `tests/schemathesis/` says how.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::database;
use crate::support::process::ServerProcess;

/// How many requests it makes up for each operation besides those that cover the document, and how many walks
/// along the links it takes. Not times: a busy machine would do less.
const EXAMPLES: u64 = 3;
const WALKS: u64 = 180;

/// How many times it sets out at most until it has taken all its walks. Hypothesis repeats parts of earlier
/// walks; where the service answers one otherwise by then (409 in place of 201), it calls the test flaky and
/// takes no more, and schemathesis says of that only in how few they were.
const STARTS: u32 = 4;

/// For how long it walks, roughly: `LESSOR_SCHEMATHESIS_SECONDS` asks for as many times more of both.
const SECONDS: u64 = 60;

/// Fewer would not be worth the name.
const LEAST_CASES: i64 = 3_000;
const LEAST_LINKS: u64 = 15;

const TOKEN: &str = "a-token-for-the-fuzzer";

/// What a run printed and reported.
struct Run {
    said: String,
    report: Value,
}

impl Run {
    /// Runs phases of it against a server, with so many examples of each operation or walks; no fault may be found.
    async fn of(server: &ServerProcess, phases: &[&str], examples: u64) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("tests/schemathesis");
        let program = root.join("target/openapi-tools/venv/bin/schemathesis");
        assert!(
            program.is_file(),
            "schemathesis is missing: run tests/openapi/prepare.sh"
        );
        let work = crate::support::agents::Folder::new();
        let report = work.0.join("report.json");
        let ran = Command::new(program)
            .args(["--config-file"])
            .arg(folder.join("schemathesis.toml"))
            .args(["run", &format!("{}/openapi.json", server.url)])
            // A stream has no end; tests/events.rs is about it.
            .args(["--exclude-operation-id", "stream_events"])
            .args(["--checks", "all", "--no-color"])
            .args(["--phases", &phases.join(",")])
            .args(["--max-examples", &examples.to_string()])
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
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{said}\n{errors}");
        let report = std::fs::read(&report).expect("a report");
        let report: Value = serde_json::from_slice(&report).expect("JSON");
        for phase in phases {
            assert_eq!(
                report["phases"][phase]["status"], "success",
                "{phase}: {said}"
            );
        }
        Self { said, report }
    }

    fn cases(&self) -> i64 {
        let cases = &self.report["test_cases"]["generated"];
        cases.as_i64().expect("a number")
    }

    /// The number that it printed after a word.
    fn printed(&self, word: &str) -> u64 {
        let (_, rest) = self.said.split_once(word).expect(word);
        let number = rest.split_whitespace().next().expect("how many");
        number.parse().expect("a number")
    }
}

#[tokio::test]
async fn schemathesis_finds_no_fault() {
    let database = database().await;
    let server =
        ServerProcess::start_with(&database.url, &[("LESSOR_ADMIN_TOKEN", TOKEN)], None).await;
    let seconds = std::env::var("LESSOR_SCHEMATHESIS_SECONDS")
        .map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let times = |count: u64| (count * seconds).div_ceil(SECONDS);

    let requests = ["examples", "coverage", "fuzzing"];
    let run = Run::of(&server, &requests, times(EXAMPLES)).await;
    println!("{} cases", run.cases());
    assert!(
        run.cases() >= LEAST_CASES,
        "only {}: {}",
        run.cases(),
        run.said
    );
    let operations = &run.report["operations"];
    assert_eq!(
        operations["tested"].as_i64().map(|tested| tested + 1),
        operations["total"].as_i64(),
        "all but the stream: {operations}"
    );

    let mut starts = 0;
    let (links, run) = loop {
        starts += 1;
        let run = Run::of(&server, &["stateful"], times(WALKS)).await;
        let (walks, links) = (run.printed("Scenarios:"), run.printed("API Links:"));
        println!("{} cases, {walks} walks along {links} links", run.cases());
        if walks >= times(WALKS) {
            break (links, run);
        }
        assert!(starts < STARTS, "only {walks} walks: {}", run.said);
    };
    assert!(links >= LEAST_LINKS, "few links: {}", run.said);
}
