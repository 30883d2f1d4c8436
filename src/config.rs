//! What the service is told from outside: every option is a flag and an environment variable.
//!
//! Read once at the start and checked as a whole by [`Config::validate`]. Secrets are
//! [`SecretString`]s, so they show in no `Debug` output and no `--help`; give them by environment,
//! since a command line can be read by every user of the machine.
//!
//! Invariant: what passed validation is safe to serve: where nobody is asked for a token, nobody outside this
//! machine can connect.
//!
//! What it does not do: look at files or the network; a setting can be well-formed and still lead
//! nowhere.

mod error;
mod oidc;
mod trust;
mod wire;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args as _, Command};
use secrecy::{ExposeSecret, SecretString};

use crate::access::AccessMode;
use crate::telemetry::LogFormat;

pub use error::ConfigError;
pub use oidc::OidcConfig;
pub use trust::DatabaseTrust;
pub use wire::{ClientCerts, WireConfig};

/// Every setting of the service.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// The address to serve on
    #[arg(long, env = "LESSOR_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,

    /// The PostgreSQL to use, as a URL; without it Lessor runs a private one in its data folder
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = secret)]
    pub database_url: Option<SecretString>,

    /// Where to LISTEN for notifications, if DATABASE_URL leads to a pooler that does not pass them on
    #[arg(long, env = "LESSOR_LISTEN_URL", value_name = "URL", hide_env_values = true, value_parser = secret)]
    pub listen_url: Option<SecretString>,

    /// Whose certificates are taken from it.
    #[command(flatten)]
    pub trust: DatabaseTrust,

    /// The folder of the private PostgreSQL [default: $XDG_DATA_HOME/lessor, ~/.local/share/lessor, or /var/lib/lessor for root]
    #[arg(long, env = "LESSOR_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// Where the private PostgreSQL's programs are, if they are not where they usually are
    #[arg(long, env = "LESSOR_PG_BIN_DIR", value_name = "FOLDER")]
    pub pg_bin_dir: Option<PathBuf>,

    /// A token that allows everything, for the first steps and as a way back in
    #[arg(long, env = "LESSOR_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = secret)]
    pub admin_token: Option<SecretString>,

    /// Who is let in: everybody as an administrator (open), or who has a token (tokens) [default: tokens with an admin token, else open on a loopback address]
    #[arg(long, env = "LESSOR_ACCESS", value_name = "ACCESS", value_enum)]
    pub access: Option<AccessMode>,

    /// How people sign in.
    #[command(flatten)]
    pub oidc: OidcConfig,

    /// For how many days the audit is kept
    #[arg(long, env = "LESSOR_AUDIT_RETENTION_DAYS", value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub audit_retention_days: u32,

    /// How many polls may be parked on this server
    #[arg(
        long,
        env = "LESSOR_MAX_WAITERS",
        value_name = "COUNT",
        default_value_t = 20_000
    )]
    pub max_waiters: u32,

    /// How many streams of events may be open on this server
    #[arg(
        long,
        env = "LESSOR_MAX_EVENT_STREAMS",
        value_name = "COUNT",
        default_value_t = 10_000
    )]
    pub max_event_streams: u32,

    /// For how many days events are kept, for streams and timelines
    #[arg(long, env = "LESSOR_EVENT_RETENTION_DAYS", value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub event_retention_days: u32,

    /// How many database connections requests and background work share: half of them claims, reports, creation and pages of lists, the other half all else
    #[arg(long, env = "LESSOR_DB_CONNECTIONS", value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub db_connections: u32,

    /// How many database connections are kept for heartbeats, so that load cannot end leases
    #[arg(long, env = "LESSOR_HEARTBEAT_DB_CONNECTIONS", value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub heartbeat_db_connections: u32,

    /// How long after SIGTERM everything is still served while `/readyz` fails, so that load balancers notice
    #[arg(long, env = "LESSOR_STOP_DELAY_SECONDS", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub stop_delay_seconds: u32,

    /// How long requests and tasks have to end when the service stops
    #[arg(long, env = "LESSOR_STOP_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub stop_timeout_seconds: u32,

    /// How it is reached, and how much by whom.
    #[command(flatten)]
    pub wire: WireConfig,

    /// What to log: a level, or levels by module such as `info,lessor::claims=debug`
    #[arg(
        long,
        env = "LESSOR_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,

    /// How to log: as text at a terminal and JSON otherwise, or always one of them
    #[arg(long, env = "LESSOR_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
}

impl Config {
    /// The settings, if they go together.
    ///
    /// # Errors
    /// The first [`ConfigError`] that applies; each says what to set.
    pub fn validate(self) -> Result<Self, ConfigError> {
        let secrets = [
            ("DATABASE_URL", &self.database_url),
            ("LESSOR_LISTEN_URL", &self.listen_url),
            ("LESSOR_ADMIN_TOKEN", &self.admin_token),
        ];
        for (name, value) in secrets {
            if value
                .as_ref()
                .is_some_and(|value| value.expose_secret().trim().is_empty())
            {
                return Err(ConfigError::Empty(name));
            }
        }
        match &self.admin_token {
            _ if self.access == Some(AccessMode::Open) && self.oidc.issuer.is_some() => {
                return Err(ConfigError::OpenWithSignIn);
            }
            None if self.is_open() && !self.listen.ip().to_canonical().is_loopback() => {
                return Err(ConfigError::OpenToTheNetwork(self.listen));
            }
            Some(_) if self.access == Some(AccessMode::Open) => {
                return Err(ConfigError::OpenWithToken);
            }
            Some(token)
                if !token
                    .expose_secret()
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic()) =>
            {
                return Err(ConfigError::UnsendableToken);
            }
            None | Some(_) => {}
        }
        self.oidc.validate()?;
        self.wire.validate()?;
        if self.listen_url.is_some() && self.database_url.is_none() {
            return Err(ConfigError::ListenUrlAlone);
        }
        if self.trust.database_ca.is_some() && self.database_url.is_none() {
            return Err(ConfigError::DatabaseCaAlone);
        }
        if self.database_url.is_none() {
            self.data_dir()?;
        }
        Ok(self)
    }

    /// The database to use, if it is not a private one, as a URL that names its authorities.
    #[must_use]
    pub fn database(&self) -> Option<String> {
        let url = self.database_url.as_ref();
        url.map(|url| self.trust.named_in(url))
    }

    /// Whether everybody is let in as an administrator.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self.access {
            Some(mode) => mode == AccessMode::Open,
            None => self.admin_token.is_none() && self.oidc.issuer.is_none(),
        }
    }

    /// The folder of the private PostgreSQL, by the XDG base directory specification.
    ///
    /// # Errors
    /// [`ConfigError::NoDataDir`] when it is not set and nothing tells where it could be.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let root = rustix::process::geteuid().is_root();
        self.data_dir
            .clone()
            .or_else(|| default_data_dir(root, variable("XDG_DATA_HOME"), variable("HOME")))
            .ok_or(ConfigError::NoDataDir)
    }
}

/// Relative paths in these variables are to be ignored, says the specification. Root's home is no
/// place for it: the private PostgreSQL runs as another user, who cannot enter it.
fn default_data_dir(
    root: bool,
    xdg_data_home: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    if let Some(folder) = xdg_data_home.filter(absolute) {
        return Some(folder.join("lessor"));
    }
    if root {
        return Some(PathBuf::from("/var/lib/lessor"));
    }
    home.filter(absolute)
        .map(|home| home.join(".local/share/lessor"))
}

fn secret(value: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(value))
}

/// An address with a port; `localhost` is understood, other names are not, since what they resolve
/// to would decide who can connect.
fn address(value: &str) -> Result<SocketAddr, String> {
    let port = value
        .strip_prefix("localhost:")
        .and_then(|port| port.parse().ok());
    if let Some(port) = port {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    value.parse().map_err(|_| {
        "must be an IP address and a port, such as 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080"
            .to_owned()
    })
}

/// Every option as a markdown table, for the README.
#[must_use]
pub fn reference() -> String {
    let command = Config::augment_args(Command::new("lessor"));
    let mut table =
        "| environment | flag | default | what it is |\n| --- | --- | --- | --- |\n".to_owned();
    for argument in command.get_arguments() {
        let flag = argument.get_long().unwrap_or_default();
        let environment = argument
            .get_env()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default();
        let default = argument
            .get_default_values()
            .first()
            .map(|value| format!("`{}`", value.to_string_lossy()))
            .unwrap_or_default();
        let help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default()
            .replace('|', "\\|");
        // Writing into a string cannot fail.
        let _ = writeln!(
            table,
            "| `{environment}` | `--{flag}` | {default} | {help} |"
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments = std::iter::once("lessor").chain(arguments.iter().copied());
        Cli::try_parse_from(arguments)
            .expect("arguments")
            .config
            .validate()
    }

    #[test]
    fn defaults_are_safe() {
        let config = config(&[]).expect("settings");
        assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!(
            (
                config.max_waiters,
                config.max_event_streams,
                config.event_retention_days,
                config.db_connections,
                config.heartbeat_db_connections,
                config.stop_delay_seconds,
                config.stop_timeout_seconds
            ),
            (20_000, 10_000, 30, 16, 2, 5, 20)
        );
    }

    #[test]
    fn without_a_token_only_this_machine() {
        for loopback in [
            "127.0.0.1:0",
            "127.9.9.9:80",
            "[::1]:80",
            "localhost:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(config(&["--listen", loopback]).is_ok(), "{loopback}");
        }
        for open in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80"] {
            let error = config(&["--listen", open]).expect_err(open);
            assert!(
                error.to_string().contains("Set LESSOR_ADMIN_TOKEN"),
                "{error}"
            );
            assert!(config(&["--listen", open, "--admin-token", "s3cret"]).is_ok());
            assert!(config(&["--listen", open, "--access", "tokens"]).is_ok());
            assert!(config(&["--listen", open, "--access", "open"]).is_err());
        }
        assert_eq!(
            config(&["--admin-token", ""]).expect_err("empty"),
            ConfigError::Empty("LESSOR_ADMIN_TOKEN")
        );
        assert_eq!(
            config(&["--admin-token", "a b"]).expect_err("space"),
            ConfigError::UnsendableToken
        );
    }

    #[test]
    fn who_is_let_in() {
        let is_open = |arguments: &[&str]| config(arguments).map(|config| config.is_open());
        assert_eq!(is_open(&[]), Ok(true));
        assert_eq!(is_open(&["--access", "open"]), Ok(true));
        assert_eq!(is_open(&["--access", "tokens"]), Ok(false));
        assert_eq!(is_open(&["--admin-token", "s3cret"]), Ok(false));
        assert_eq!(
            is_open(&["--access", "open", "--admin-token", "s3cret"]),
            Err(ConfigError::OpenWithToken)
        );
    }

    #[test]
    fn settings_that_do_not_go_together() {
        assert_eq!(
            config(&["--listen-url", "postgres://x"]).expect_err("alone"),
            ConfigError::ListenUrlAlone
        );
        assert!(
            config(&[
                "--listen-url",
                "postgres://x",
                "--database-url",
                "postgres://y"
            ])
            .is_ok()
        );
        for wrong in [
            ["--listen", "example.com:80"],
            ["--listen", "80"],
            ["--db-connections", "0"],
            ["--log-format", "xml"],
        ] {
            assert!(
                Cli::try_parse_from(["lessor"].iter().chain(&wrong)).is_err(),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = config(&[
            "--admin-token",
            "hunter2",
            "--database-url",
            "postgres://u:hunter2@h/d",
        ])
        .expect("settings");
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn where_data_is_kept() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(
            default_data_dir(false, path("/x"), path("/home/u")),
            path("/x/lessor")
        );
        assert_eq!(
            default_data_dir(false, path("x"), path("/home/u")),
            path("/home/u/.local/share/lessor")
        );
        assert_eq!(
            default_data_dir(true, None, path("/root")),
            path("/var/lib/lessor")
        );
        assert_eq!(default_data_dir(false, None, None), None);
        assert_eq!(
            config(&["--data-dir", "data"])
                .expect("settings")
                .data_dir(),
            Ok(PathBuf::from("data"))
        );
    }

    #[test]
    fn the_reference_lists_every_option() {
        let reference = reference();
        assert_eq!(reference.lines().count(), 2 + 39, "{reference}");
        assert!(
            reference.contains(
                "| `LESSOR_LISTEN` | `--listen` | `127.0.0.1:8080` | The address to serve on |"
            ),
            "{reference}"
        );
        assert!(
            reference.contains("| `DATABASE_URL` | `--database-url` |  |"),
            "{reference}"
        );
    }
}
