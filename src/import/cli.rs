//! `lessor import`: the command line of imports.

use std::path::PathBuf;
use std::process::ExitCode;

use secrecy::{ExposeSecret as _, SecretString};

use super::report::Report;
use super::{Mode, Options, rollback, streamspace};
use crate::config::DatabaseTrust;
use crate::store;

/// Something is left over: rows that could not be mapped (with `--strict`), differences, or sessions
/// that a rollback had to leave.
const LEFT_OVER: u8 = 3;

/// Where to bring sessions in from.
#[derive(Debug, clap::Args)]
pub struct Import {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, clap::Subcommand)]
enum From {
    /// Bring in the agents' pools and the sessions of a StreamSpace v2 database; says what it would do
    /// unless it is told to
    ///
    /// Exit codes: 0 done; 1 failed, and nothing was written; 2 wrong arguments; 3 differences were found
    /// (--verify), sessions had to be left (--rollback), or rows could not be mapped (--strict).
    Streamspace(StreamspaceArgs),
}

#[derive(Debug, clap::Args)]
struct StreamspaceArgs {
    /// The StreamSpace database, as a URL; it is only read
    #[arg(long, env = "LESSOR_IMPORT_FROM", value_name = "URL", hide_env_values = true, value_parser = secret)]
    from: SecretString,

    /// Lessor's database, as a URL
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = secret)]
    database_url: SecretString,

    #[command(flatten)]
    trust: DatabaseTrust,

    /// Write what a dry run says
    #[arg(long, conflicts_with_all = ["verify", "rollback"])]
    apply: bool,

    /// Compare what was brought in with the source
    #[arg(long, conflicts_with = "rollback")]
    verify: bool,

    /// Remove what was brought in and has not been touched since; does not read the source
    #[arg(long)]
    rollback: bool,

    /// The name under which the source is remembered, if it is reached by several addresses [default: its database and host]
    #[arg(long, value_name = "NAME")]
    source_name: Option<String>,

    /// The time zone of times that have none
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    source_time_zone: String,

    /// What the names of new pools begin with
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pool_prefix: String,

    /// The platform of agents and sessions that name none
    #[arg(long, value_name = "PLATFORM", default_value = "kubernetes")]
    default_platform: String,

    /// The resource domain of sessions that name neither a cluster nor an agent; without it they are reported
    #[arg(long, value_name = "DOMAIN")]
    default_domain: Option<String>,

    /// How long a domain without agents is not counted as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(0..=31_536_000))]
    grace_seconds: u32,

    /// End with 3 also when rows could not be mapped
    #[arg(long)]
    strict: bool,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Write every finding to this file, as a line of JSON each
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[allow(clippy::unnecessary_wraps, reason = "clap's parsers give results")]
fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

/// Runs `lessor import`.
pub async fn run(import: Import) -> ExitCode {
    let From::Streamspace(args) = import.from;
    match bring_in(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lessor: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn bring_in(args: &StreamspaceArgs) -> Result<ExitCode, String> {
    let from = args.from.expose_secret();
    let to = &args.trust.named_in(&args.database_url);
    let source = args
        .source_name
        .clone()
        .unwrap_or_else(|| store::describe(from));
    let (name, mode) = match (args.apply, args.verify, args.rollback) {
        (_, _, true) => ("rollback", None),
        (_, true, _) => ("verify", Some(Mode::Verify)),
        (true, _, _) => ("apply", Some(Mode::Apply)),
        _ => ("dry_run", Some(Mode::DryRun)),
    };
    let mut report = Report::new(name, &source, args.report.as_deref())?;
    let begun = std::time::Instant::now();
    let done = match mode {
        None => rollback(to, &source, &mut report).await,
        Some(mode) => {
            let options = Options {
                source,
                time_zone: args.source_time_zone.clone(),
                pool_prefix: args.pool_prefix.clone(),
                default_platform: args.default_platform.clone(),
                default_domain: args.default_domain.clone(),
                grace_seconds: f64::from(args.grace_seconds),
            };
            streamspace(to, from, mode, &options, &mut report).await
        }
    };
    report.seconds = begun.elapsed().as_secs_f64();
    done.map_err(|error| crate::import::explain(&error))?;
    report.finish()?;
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?
        );
    } else {
        print!("{}", report.table());
        if mode == Some(Mode::DryRun) {
            println!("\nnothing was written; --apply does it");
        }
    }
    let counts = &report.counts;
    let left_over = match mode {
        None => counts.moved_on > 0,
        Some(Mode::Verify) => counts.differences > 0 || (args.strict && counts.unmapped > 0),
        Some(Mode::DryRun | Mode::Apply) => args.strict && counts.unmapped > 0,
    };
    Ok(if left_over {
        ExitCode::from(LEFT_OVER)
    } else {
        ExitCode::SUCCESS
    })
}
