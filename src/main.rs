//! The command line.

use std::process::ExitCode;

use clap::Parser;
use lessor::config::{self, Config};
use lessor::import;
use lessor::postgres::{GuardArgs, run_guarded_child};
use lessor::serve::{self, Fatal, Signals};
use lessor::store::{self, migrate};
use lessor::{access, api, dev, leases, telemetry};

// Tens of thousands of parked polls are small allocations that live for a minute.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The control plane of long-lived sessions: leased, never owned.
#[derive(Parser)]
#[command(name = "lessor", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum Command {
    /// Serve the API
    Serve(#[command(flatten)] Config),
    /// Serve the API with two process agents on this machine, for a first look
    Dev(#[command(flatten)] Config),
    /// Bring the schema of DATABASE_URL up to date, and do nothing else
    Migrate(#[command(flatten)] Config),
    /// After DATABASE_URL was restored from a backup, and before a server starts on it: end every lease,
    /// and raise every number that fences agents
    RestoreFence(#[command(flatten)] Config),
    /// Bring sessions in from another control plane
    Import(#[command(flatten)] import::cli::Import),
    /// Create, list, revoke and rotate the tokens of DATABASE_URL
    Token(#[command(flatten)] access::cli::Tokens),
    /// Print the OpenAPI document
    Openapi,
    /// Print every option as a table
    Options,
    /// Runs PostgreSQL so that it ends with the service
    #[command(hide = true)]
    PostgresGuard(#[command(flatten)] GuardArgs),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Replaces the process: nothing may have been started before.
    if let Command::PostgresGuard(args) = &command {
        run_guarded_child(args);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("lessor: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Command::Import(import) = command {
        return runtime.block_on(import::cli::run(import));
    }
    let ended = runtime.block_on(run(command));
    // What is done has been waited for. Whoever stops while the schema is migrated would wait for a database that
    // does not answer.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lessor: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Fatal> {
    match command {
        Command::Serve(config) => {
            telemetry::init_logs(config.log_format, &config.log)?;
            let mut signals = Signals::listen();
            let Some(prepared) = serve::prepare_unless(&mut signals, config).await? else {
                return Ok(());
            };
            prepared.serve().until(signals.next()).await
        }
        Command::Dev(config) => {
            telemetry::init_logs(config.log_format, &config.log)?;
            dev::run(config).await
        }
        Command::Migrate(config) => {
            telemetry::init_logs(config.log_format, &config.log)?;
            let Some(url) = config.database() else {
                return Err(
                    "migrate needs DATABASE_URL; the private database is migrated at each start"
                        .into(),
                );
            };
            let ran = migrate::run(&url)
                .await
                .map_err(|error| error.to_string())?;
            match ran.as_slice() {
                [] => println!("the schema is up to date"),
                ran => println!("migrated: {}", ran.join(", ")),
            }
            Ok(())
        }
        Command::RestoreFence(config) => {
            telemetry::init_logs(config.log_format, &config.log)?;
            let Some(url) = config.database() else {
                return Err("restore-fence needs DATABASE_URL".into());
            };
            restore_fence(&url)
                .await
                .map_err(|error| error.to_string().into())
        }
        Command::Token(tokens) => {
            print!("{}", access::cli::run(tokens).await?);
            Ok(())
        }
        Command::Openapi => {
            print!("{}", api::text());
            Ok(())
        }
        Command::Options => {
            print!("{}", config::reference());
            Ok(())
        }
        Command::PostgresGuard(args) => run_guarded_child(&args),
        Command::Import(_) => Err("`import` has exit codes of its own, and is run apart".into()),
    }
}

/// Fences agents that have seen what a restore has undone. The schema is that of this version after it.
async fn restore_fence(url: &str) -> lessor::error::Result<()> {
    migrate::run(url).await?;
    let db = store::Db::new(url, 1, 1)?;
    let fenced = leases::restore_fence(&db).await?;
    println!(
        "fenced: {} agents must register anew; {} sessions were released, and wait for them",
        fenced.agents, fenced.sessions
    );
    println!(
        "epochs go on from {}, incarnations from {}",
        fenced.lease_epoch_floor, fenced.incarnation_floor
    );
    Ok(())
}
