//! `lessor-agent process`: runs the sessions of a pool as processes of this machine.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lessor_agent::process::{ShimCommand, exec, files::AttemptDir, shim};
use lessor_agent::{ProcessAgent, default_data_dir, host_name, run_process_agent};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The agents that Lessor ships.
#[derive(Parser)]
#[command(name = "lessor-agent", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run each session as a process of this machine.
    Process(Box<Process>),
    /// Run the command of one attempt, and write down how it ended.
    #[command(name = shim::SUBCOMMAND, hide = true)]
    Shim {
        dir: PathBuf,
        /// Run what the standard input says instead, and end with it.
        #[arg(long)]
        exec: bool,
    },
}

#[derive(Args)]
struct Process {
    /// The address of the service.
    #[arg(long, env = "LESSOR_URL")]
    url: String,
    /// The agent's token.
    #[arg(long, env = "LESSOR_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The agent's name: the same over restarts. The host's name if left out.
    #[arg(long, env = "LESSOR_AGENT_NAME")]
    name: Option<String>,
    /// The pool whose sessions it claims.
    #[arg(long, env = "LESSOR_POOL")]
    pool: String,
    /// Agents of one domain, on one machine with one data folder, adopt each other's sessions. The
    /// host's name if left out.
    #[arg(long, env = "LESSOR_RESOURCE_DOMAIN")]
    resource_domain: Option<String>,
    /// How many sessions it runs at most.
    #[arg(long, env = "LESSOR_CAPACITY", default_value_t = 10, value_parser = clap::value_parser!(i32).range(0..=1_000_000))]
    capacity: i32,
    /// The folder that all agents of this machine share.
    #[arg(long, env = "LESSOR_AGENT_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// A label, for sessions that require or prefer one. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Say goodbye and end when the standard input ends, that is with the process that started it.
    #[arg(long)]
    stop_with_stdin: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is written key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    match Cli::parse().command {
        // Before anything else, and without a runtime: there is one of these per session.
        Command::Shim { exec: true, .. } => exec::run(),
        Command::Shim { dir, .. } => shim::run(&AttemptDir::at(dir)),
        Command::Process(process) => run(*process),
    }
}

fn run(process: Process) -> ExitCode {
    init_logs();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(agent(process)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&*error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}

async fn agent(process: Process) -> Result<(), Box<dyn std::error::Error>> {
    let stop_with_stdin = process.stop_with_stdin;
    let agent = ProcessAgent {
        url: process.url,
        token: process.token,
        name: process.name.unwrap_or_else(host_name),
        pool: process.pool,
        resource_domain: process.resource_domain.unwrap_or_else(host_name),
        capacity: process.capacity,
        data_dir: process.data_dir.unwrap_or_else(default_data_dir),
        labels: process.labels.into_iter().collect(),
        shim: ShimCommand::this_binary(),
    };
    let shutdown = CancellationToken::new();
    if stop_with_stdin {
        let asked = shutdown.clone();
        // A thread that nobody waits for: reading from the standard input cannot be cancelled.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            asked.cancel();
        });
    }
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let asked = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked.cancel();
    });
    Ok(run_process_agent(agent, shutdown).await?)
}

/// Readable at a terminal, JSON otherwise; `LESSOR_LOG` narrows or widens it.
fn init_logs() {
    let filter = EnvFilter::try_from_env("LESSOR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.with_target(false).init();
    } else {
        logs.json().flatten_event(true).init();
    }
}
