//! Each scenario of the bench, run for a second without optimisation: that it works from its beginning to
//! its end and tells figures. None is judged here: a second on a busy machine says nothing of speed.
//!
//! Other queues are installed once, in `target/bench-peers`: by the test runner's settings the two that
//! compare with them do not run at the same time.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What is not built for a quick run, and so told as not measured.
const NOT_BUILT: &str = "a quick run builds nothing";

/// The folder of the programs that were built with this test.
fn built() -> &'static Path {
    let bench = Path::new(env!("CARGO_BIN_EXE_lessor-bench"));
    bench.parent().expect("a program is in a folder")
}

fn peers() -> PathBuf {
    let target = built().parent().expect("a profile's folder is in another");
    target.join("bench-peers")
}

/// Runs a scenario and gives the lines that it told.
fn lines(scenario: &str) -> Vec<Value> {
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("quick-{scenario}.json"));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_lessor-bench"));
    bench
        .arg("--quick")
        .arg("--service")
        .arg(built().join("lessor"));
    bench.arg("--peers").arg(peers()).arg("--json").arg(&json);
    let ran = bench.arg(scenario).output().expect("the bench can be run");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{scenario}: {}\n{said}", ran.status);
    let text = std::fs::read(&json).expect("a report");
    std::fs::remove_file(&json).expect("it can be removed");
    let report: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(report["scenarios"][0]["name"], scenario, "{said}");
    let lines = report["scenarios"][0]["lines"].as_array();
    lines.expect("lines").clone()
}

/// Runs a scenario, of which every line must have figures.
fn works(scenario: &str) {
    let lines = lines(scenario);
    assert!(!lines.is_empty(), "{scenario} tells nothing");
    for line in lines {
        if line["unmeasured"] == NOT_BUILT {
            continue;
        }
        // A number that is none is null in JSON.
        let figure = line["ours"]["median"].as_f64();
        let of_reference = match &line["reference"] {
            Value::Null => Some(1.0),
            reference => reference[1]["median"].as_f64(),
        };
        assert!(
            figure.is_some() && of_reference > Some(0.0),
            "{scenario}: {line}"
        );
    }
}

/// A test for each, and the list of them.
macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            works(stringify!($name));
        })+

        const ALL: &[&str] = &[$(stringify!($name)),+];
    };
}

scenarios!(
    claims, parked, wake, servers, polls, heartbeats, failover, list, events, start, claim50,
    create, life, backlog, held, owners, soak,
);

#[test]
fn each_scenario_has_its_test() {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_lessor-bench"));
    let told = bench.arg("--list").output().expect("the bench can be run");
    let told = String::from_utf8(told.stdout).expect("text");
    let names: Vec<&str> = told
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, ALL);
}
