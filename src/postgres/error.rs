//! Everything that can go wrong with the private PostgreSQL, in words an operator can act on.
//!
//! These errors end `lessor serve` or `lessor dev` at the command line; they never become an HTTP
//! answer, so each message says what was tried, what was found, and what to do next.
//!
//! Invariant: an error of a program we ran (`initdb`, `postgres`) carries the last lines of its output.

use std::path::PathBuf;

/// Why the private PostgreSQL could not be found, prepared, started, reached or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// No usable `postgres` and `initdb` in any of the places we know.
    #[error(
        "no PostgreSQL{} found. Looked at:\n{}\nEither set DATABASE_URL to a PostgreSQL of your own, \
         or {}",
        wanted.map(|major| format!(" {major} (the version of the data in this folder)")).unwrap_or_default(),
        list(looked_at),
        match wanted {
            None => format!("install one: {install}"),
            Some(major) => format!("install PostgreSQL {major} (`{install}` installs this system's default version)"),
        }
    )]
    NotFound {
        /// One line for each place, with what was found there.
        looked_at: Vec<String>,
        /// The major version that the existing data needs, if there is data.
        wanted: Option<u32>,
        /// The command that installs PostgreSQL on this system.
        install: String,
    },

    /// The folder named by the setting holds no usable PostgreSQL. Nothing else is tried then: an
    /// explicit setting that is silently passed over is a trap.
    #[error(
        "the PostgreSQL folder {dir} that was set cannot be used: {reason}. Correct the setting, or \
         set DATABASE_URL to a PostgreSQL of your own, or install one: {install}",
        dir = dir.display()
    )]
    BadBinDir {
        /// The folder that was set.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The command that installs PostgreSQL on this system.
        install: String,
    },

    /// The data was written by another major version than the one that was set.
    #[error(
        "the data in {data} was written by PostgreSQL {data_major}, but {dir} is PostgreSQL {major}. \
         Use PostgreSQL {data_major}, or move the data over with pg_upgrade or pg_dump",
        data = data.display(), dir = dir.display()
    )]
    WrongMajor {
        /// The cluster's folder.
        data: PathBuf,
        /// Its `PG_VERSION`.
        data_major: u32,
        /// The folder of the binaries.
        dir: PathBuf,
        /// Their major version.
        major: u32,
    },

    /// Running as root, the user that PostgreSQL is to run as cannot reach the data folder.
    #[error(
        "PostgreSQL refuses to run as root, so it runs as user {user}, who may not enter {folder} \
         on the way to {data}. Allow it with `chmod o+x {folder}`, or choose a data folder elsewhere, \
         such as /var/lib/lessor",
        folder = folder.display(), data = data.display()
    )]
    NotTraversable {
        /// The first folder on the way that the user may not enter.
        folder: PathBuf,
        /// The data folder.
        data: PathBuf,
        /// The user's name.
        user: String,
    },

    /// A folder belongs to someone else.
    #[error(
        "{folder} belongs to uid {owner}, but this process runs as uid {us}. Run as the user it \
         belongs to, or choose another data folder",
        folder = folder.display()
    )]
    NotOurs {
        /// The folder.
        folder: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our uid.
        us: u32,
    },

    /// The folder of the cluster holds files, but no cluster. We neither use nor empty it.
    #[error(
        "{folder} is not empty and holds no PostgreSQL data (there is no readable PG_VERSION). Move \
         it away, or choose another data folder",
        folder = folder.display()
    )]
    NotACluster {
        /// The folder.
        folder: PathBuf,
    },

    /// As root, without a user to run PostgreSQL as.
    #[error(
        "PostgreSQL refuses to run as root, and this system has neither a user postgres nor nobody \
         in /etc/passwd. Add one (`useradd --system postgres`), or run as an ordinary user, or set \
         DATABASE_URL"
    )]
    NoUser,

    /// Another service, or a PostgreSQL that is not ours, uses the data folder.
    #[error(
        "the data folder {data} is in use{}. Stop that one first, or choose another data folder; to \
         run several servers, give them all the DATABASE_URL of one PostgreSQL",
        by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default(),
        data = data.display()
    )]
    InUse {
        /// The data folder.
        data: PathBuf,
        /// Who uses it, where that is known.
        by: Option<String>,
    },

    /// An operation on a file or a process failed.
    #[error("could not {doing} {path}: {source}", path = path.display())]
    Io {
        /// A verb: "create", "read", …
        doing: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },

    /// `initdb` failed; nothing is left behind.
    #[error("initdb could not make a database cluster in {data} ({status}). It said last:\n{log}", data = data.display())]
    Initdb {
        /// The cluster's folder.
        data: PathBuf,
        /// How it ended.
        status: String,
        /// The last lines of its output.
        log: String,
    },

    /// `postgres` ended although nobody had asked it to.
    #[error("PostgreSQL ended by itself ({status}). The last lines of {path}:\n{log}", path = path.display())]
    Exited {
        /// How it ended.
        status: String,
        /// Its log.
        path: PathBuf,
        /// The last lines of its log.
        log: String,
    },

    /// `postgres` runs, but does not become ready.
    #[error(
        "PostgreSQL was not ready after {seconds} s and was stopped again. The last lines of {path}:\n{log}",
        path = path.display()
    )]
    NotReady {
        /// How long we waited.
        seconds: u64,
        /// Its log.
        path: PathBuf,
        /// The last lines of its log.
        log: String,
    },

    /// The server that answers on our socket is not the one we started.
    #[error("the PostgreSQL on the socket in {socket} serves {found}, not {expected}", socket = socket.display(), expected = expected.display())]
    WrongServer {
        /// The folder of the socket.
        socket: PathBuf,
        /// Its `data_directory`.
        found: String,
        /// Ours.
        expected: PathBuf,
    },

    /// The private PostgreSQL refused a connection or a statement.
    #[error("could not {doing} the private PostgreSQL: {}", detail(source))]
    Sql {
        /// A verb: "connect to", …
        doing: &'static str,
        /// The driver's error.
        source: tokio_postgres::Error,
    },

    /// It outlived both SIGINT and SIGQUIT.
    #[error("PostgreSQL (pid {pid}) did not stop, neither on SIGINT nor on SIGQUIT")]
    DidNotStop {
        /// The postmaster's pid.
        pid: u32,
    },
}

impl PostgresError {
    /// Wraps an I/O error: `.map_err(PostgresError::io("create", path))`.
    pub(super) fn io<P: Into<PathBuf>>(
        doing: &'static str,
        path: P,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

/// One place a line, indented.
fn list(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| format!("  - {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// tokio-postgres prints a server's error as "db error"; the message is in its source.
fn detail(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
