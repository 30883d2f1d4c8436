//! Measures Lessor beside PostgreSQL itself, and beside its peers.
//!
//! Absolute figures say nothing on a machine that others use. So every figure is a ratio: ours and the
//! reference in turn, in one run, over several rounds, as a median with its least and its most. The bench
//! starts a PostgreSQL of its own with durable defaults, runs the release build of the service as a
//! process of its own, and is itself the third: the load.

mod bench;
mod database;
mod error;
mod feed;
mod fleet;
mod http;
mod load;
mod machine;
mod measure;
mod peers;
mod reference;
mod report;
mod scenarios;
mod service;
mod steady;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::bench::{Bench, Effort};
use crate::error::{Error, Result};
use crate::report::Report;

/// Measures Lessor in ratios: beside bare SQL on the same PostgreSQL, and beside its peers
#[derive(Debug, Parser)]
#[command(name = "lessor-bench")]
pub struct Options {
    /// The scenarios to run, all of them by default
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,

    /// List the scenarios
    #[arg(long)]
    list: bool,

    /// How long each measurement of each round takes
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,

    /// How often ours and the reference are measured in turn
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// See only that each scenario works: one short round, small tables
    #[arg(long)]
    quick: bool,

    /// The service's program
    #[arg(long, value_name = "FILE", default_value = "target/release/lessor")]
    service: PathBuf,

    /// The folder of the bench's PostgreSQL [default: a new one, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,

    /// Where the peers are installed, and found again [default: in that folder]
    #[arg(long, value_name = "FOLDER")]
    peers: Option<PathBuf>,

    /// Where to write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be from 0.1 to 86400".to_owned()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for scenario in scenarios::ALL {
            println!("{:<14} {}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    match run(&options).await {
        Ok(report) if report.failures.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lessor-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<Report> {
    let chosen = scenarios::choose(&options.scenarios, options.quick)?;
    let effort = if options.quick {
        Effort::quick()
    } else {
        Effort::full(options.seconds, options.rounds)
    };
    let bench = Bench::start(
        &options.service,
        options.scratch.clone(),
        options.peers.clone(),
        effort,
    )
    .await?;
    let mut report = Report::new(machine::look());
    println!("{}", report.machine);
    for scenario in chosen {
        eprintln!("\n{}: {}", scenario.name, scenario.about);
        let patience = effort.patience();
        let ended = tokio::time::timeout(patience, (scenario.run)(&bench)).await;
        let lines = ended.unwrap_or_else(|_| {
            // What it started ends with it.
            Err(Error::said(format!("it did not end within {patience:?}")))
        });
        match lines {
            Ok(lines) => report.add(scenario.name, lines),
            // One that fails does not hide the others, and the run as a whole has failed.
            Err(error) => report.fail(scenario.name, &error),
        }
        if let Some(path) = &options.json {
            report.write_json(path)?;
        }
    }
    report.end(machine::look());
    println!("\n{report}");
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    bench.stop().await?;
    Ok(report)
}
