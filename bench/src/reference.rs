//! Bare SQL through `pgbench -M prepared`: what the same database does with nothing around it.

use std::time::Duration;

use tokio::process::Command;

use crate::bench::{Bench, Database};
use crate::error::{Error, Result};

/// What pgbench has measured.
#[derive(Clone, Copy, Debug)]
pub struct Bare {
    /// Runs of the script a second.
    pub per_second: f64,
}

/// Runs a script of pgbench's for a time with so many clients.
///
/// # Errors
/// When pgbench fails, with what it said.
pub async fn run(
    bench: &Bench,
    database: &Database,
    script: &str,
    clients: usize,
    time: Duration,
) -> Result<Bare> {
    let said = pgbench(
        bench,
        database,
        script,
        clients,
        &["-T", &seconds(time).to_string()],
    )
    .await?;
    let per_second = said
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .ok_or_else(|| Error::said(format!("pgbench said no rate: {said}")))?;
    Ok(Bare { per_second })
}

/// Runs a script at one client and gives how long each run took, in milliseconds.
///
/// # Errors
/// As [`run`].
pub async fn latencies(
    bench: &Bench,
    database: &Database,
    script: &str,
    runs: usize,
) -> Result<Vec<f64>> {
    let prefix = bench.scratch.join("pgbench_log");
    let prefix_text = prefix.to_string_lossy().into_owned();
    let arguments = ["-t", &runs.to_string(), "-l", "--log-prefix", &prefix_text];
    pgbench(bench, database, script, 1, &arguments).await?;
    let mut found = Vec::with_capacity(runs);
    let entries = std::fs::read_dir(&bench.scratch).map_err(Error::io("read", &bench.scratch))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if !path.to_string_lossy().starts_with(&prefix_text) {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        // client, transaction, time in µs, script, when
        let times = text.lines().filter_map(|line| line.split(' ').nth(2));
        found.extend(
            times
                .filter_map(|us| us.parse::<f64>().ok())
                .map(|us| us / 1e3),
        );
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(found)
}

/// Of several numbers of clients, the one at which a script runs most often, found in short runs.
///
/// # Errors
/// As [`run`].
pub async fn best_clients(
    bench: &Bench,
    database: &Database,
    script: &str,
    choices: &[usize],
) -> Result<usize> {
    let mut best = (0.0, 1);
    let time = bench.effort.time.min(Duration::from_secs(2));
    for clients in choices {
        let bare = run(bench, database, script, *clients, time).await?;
        if bare.per_second > best.0 {
            best = (bare.per_second, *clients);
        }
    }
    Ok(best.1)
}

async fn pgbench(
    bench: &Bench,
    database: &Database,
    script: &str,
    clients: usize,
    arguments: &[&str],
) -> Result<String> {
    let path = bench.scratch.join("script.sql");
    std::fs::write(&path, script).map_err(Error::io("write", &path))?;
    let clients = clients.to_string();
    let mut command = Command::from(bench.postgres_program("pgbench"));
    command
        .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients])
        .args(arguments)
        .arg("-f")
        .arg(&path)
        .arg(&database.url)
        .kill_on_drop(true);
    let output = command.output().await.map_err(|error| Error::Io {
        what: "run pgbench".to_owned(),
        error,
    })?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(Error::said(format!("pgbench failed: {why}")));
    }
    Ok(said)
}

/// pgbench takes whole seconds.
fn seconds(time: Duration) -> u64 {
    time.as_secs().max(1)
}
