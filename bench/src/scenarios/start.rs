//! What it costs to have the service at all: how long it takes to be ready, how large its program is,
//! and how much memory it has when nothing happens.
//!
//! Judged by themselves, since there is nothing to compare them with. The start is from the process's
//! beginning to the first 200 of `/readyz`, which is asked for every 2 ms, over a database that has been
//! migrated before. The program is measured after `strip`, less the files of the console that it holds, in
//! MB of 1,000,000 bytes. Memory is what is resident some seconds after the start, in MB.

use std::fs;
use std::process::Command;
use std::time::Duration;

use http::Method;

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::measure::{Line, Target};
use crate::service::Service;

/// The files of the console, as the service gives them.
const CONSOLE: [&str; 13] = [
    "favicon-16x16.png",
    "favicon-32x32.png",
    "index.css",
    "index.html",
    "oauth2-redirect.html",
    "oauth2-redirect.js",
    "swagger-initializer.js",
    "swagger-ui-bundle.js",
    "swagger-ui-es-bundle-core.js",
    "swagger-ui-es-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-ui.css",
    "swagger-ui.js",
];

const MIB_IN_MB: f64 = 1_048_576.0 / 1_000_000.0;

/// Measures it.
///
/// # Errors
/// When something fails.
pub async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let database = bench.database().await?;
    // It migrates.
    let service = Service::start(bench, &database.url).await?;
    let console = console_files(&service).await?;
    service.stop().await?;
    let settling = if bench.effort.quick { 1 } else { 5 };
    let (mut starts, mut memory) = (Vec::new(), Vec::new());
    for round in 0..bench.effort.size(4, 1) * bench.effort.rounds {
        let service = Service::start(bench, &database.url).await?;
        starts.push(service.started_in.as_secs_f64() * 1e3);
        if round < bench.effort.rounds {
            tokio::time::sleep(Duration::from_secs(settling)).await;
            memory.push(service.usage()?.resident_mib * MIB_IN_MB);
        }
        service.stop().await?;
    }
    bench.drop_database(database).await?;
    Ok(vec![
        Line::value("cold start", "ms", &starts, Target::AtMost(150.0)),
        Line::value(
            "program, stripped, without the console",
            "MB",
            &[program(bench)? - console],
            Target::AtMost(15.0),
        ),
        Line::value("idle memory", "MB", &memory, Target::AtMost(25.0)),
    ])
}

/// How large the console's files are, which the program holds as they are served, in MB.
#[allow(clippy::cast_precision_loss, reason = "a size")]
async fn console_files(service: &Service) -> Result<f64> {
    let mut connection = service.connect().await?;
    let mut size = 0;
    for name in CONSOLE {
        let path = format!("/docs/{name}");
        let (status, body) = connection.send(Method::GET, &path, "").await?;
        if !status.is_success() {
            return Err(Error::said(format!("{path}: {status}")));
        }
        size += body.len();
    }
    Ok(size as f64 / 1e6)
}

#[allow(clippy::cast_precision_loss, reason = "a size")]
fn program(bench: &Bench) -> Result<f64> {
    let copy = bench.scratch.join("stripped");
    let done = Command::new("strip")
        .arg("-o")
        .arg(&copy)
        .arg(&bench.program)
        .status()
        .map_err(Error::io("strip", &bench.program))?;
    if !done.success() {
        return Err(Error::said("strip failed"));
    }
    let size = fs::metadata(&copy)
        .map_err(Error::io("look at", &copy))?
        .len();
    fs::remove_file(&copy).map_err(Error::io("remove", &copy))?;
    Ok(size as f64 / 1e6)
}
