//! The private PostgreSQL of the embedded default: what `lessor dev` and `lessor serve` use when no
//! DATABASE_URL is given.
//!
//! A real PostgreSQL of the system's, run by us on a data folder of ours: found (`binaries.rs`), under
//! a user it accepts (`account.rs`), on a cluster made at the first start (`cluster.rs`, `init.rs`), reachable
//! through a Unix socket in a closed folder only (`socket.rs`), and tied to our life (`guard.rs`,
//! `process.rs`). [`PrivatePostgres`] is the whole of it.
//!
//! Invariants:
//! - It never listens on the network.
//! - It is as durable as any other PostgreSQL: commits are synced, and neither our end nor its own
//!   loses one. Its data is never deleted.
//! - It ends with us: stopped in order by [`PrivatePostgres::stop`], else shut down by the kernel's
//!   signal when we die (Linux).
//! - It is ready only when the process we started says so about the data folder we meant.
//!
//! What it does not do: install or upgrade PostgreSQL, make backups, restart a server that died (the
//! service ends with an error, and whoever runs the service starts both again), or serve several
//! Lessor servers, for which a DATABASE_URL is needed.

mod account;
mod binaries;
mod cluster;
mod error;
mod guard;
mod init;
mod log;
mod process;
mod ready;
mod socket;
#[cfg(test)]
mod test_folder;
#[cfg(test)]
mod tests;

pub use account::Account;
pub use binaries::{Binaries, OLDEST_MAJOR};
pub use cluster::Cluster;
pub use error::PostgresError;
pub use guard::{GUARD_SUBCOMMAND, Guard, GuardArgs, run_guarded_child};

use process::Child;
use rustix::process::Signal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The database that is made at the first start.
pub const DATABASE: &str = "lessor";

/// How long a fast shutdown (SIGINT) may take before an immediate one (SIGQUIT) follows. The commits
/// are safe in both; after an immediate one the next start replays the log.
const FAST_SHUTDOWN: Duration = Duration::from_secs(10);
/// After SIGQUIT the postmaster itself kills its children after 5 s.
const IMMEDIATE_SHUTDOWN: Duration = Duration::from_secs(10);

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The service's data folder; the cluster is `postgres/` in it. Made if it does not exist.
    pub data_dir: PathBuf,
    /// The folder with `postgres` and `initdb`; None: it is searched for.
    pub bin_dir: Option<PathBuf>,
    /// Whether commits survive a crash of the machine. True in the product; tests are faster without.
    pub fsync: bool,
    /// The server's limit; 3 of them are kept for superusers, whom we connect as.
    pub max_connections: u32,
    /// How much memory PostgreSQL keeps pages in, in MB.
    pub shared_buffers_mb: u32,
    /// What ties the server's life to ours.
    pub guard: Guard,
}

impl Options {
    /// The product's defaults: durable, 100 connections, guarded by our own binary.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            bin_dir: None,
            fsync: true,
            max_connections: 100,
            shared_buffers_mb: 64,
            guard: Guard::OwnBinary,
        }
    }
}

/// A running PostgreSQL that is ours alone.
///
/// Dropped without [`stop`](Self::stop), it is asked to shut down, and nobody waits for it.
#[derive(Debug)]
pub struct PrivatePostgres {
    cluster: Arc<Cluster>,
    child: Child,
    log: log::Log,
    /// Set before the first signal, so that an end we asked for is not reported as a failure.
    asked: Arc<AtomicBool>,
}

impl PrivatePostgres {
    /// Finds PostgreSQL, makes the cluster if it is new, starts it, waits until it is ready (also
    /// through the recovery after a crash), and creates the database [`DATABASE`] if it is missing.
    ///
    /// # Errors
    /// See [`PostgresError`]; nothing is left running then.
    pub async fn start(options: Options) -> Result<Self, PostgresError> {
        let data_dir = options.data_dir.clone();
        let guard = options.guard;
        let cluster = tokio::task::spawn_blocking(move || Cluster::prepare(&options))
            .await
            .map_err(|error| {
                PostgresError::io("prepare", data_dir)(std::io::Error::other(error))
            })??;
        let cluster = Arc::new(cluster);
        let (child, log) = ready::start(&cluster, guard).await?;
        let postgres = Self {
            cluster,
            child,
            log,
            asked: Arc::default(),
        };
        // Should one of these fail, dropping `postgres` stops the server.
        ready::check_server(&postgres.cluster).await?;
        ready::ensure_database(&postgres.cluster, DATABASE).await?;
        tracing::info!(
            pid = postgres.pid(),
            major = postgres.cluster.binaries.major,
            data = %postgres.cluster.data.display(),
            "the private PostgreSQL is ready"
        );
        Ok(postgres)
    }

    /// The URL of the database [`DATABASE`]: `postgres:///lessor?host=<socket folder>&user=lessor`,
    /// percent-encoded, for tokio-postgres, diesel-async and psql. It stays the same over restarts.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The URL of another database of this server.
    pub fn url_of(&self, database: &str) -> String {
        self.cluster.url_of(database)
    }

    /// The pid of the postmaster.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Where the server's log is.
    pub fn log_path(&self) -> &std::path::Path {
        &self.cluster.log_path
    }

    /// Resolves when PostgreSQL has ended by itself, with the error to stop the service with. It
    /// never resolves for an end that was asked for. The future borrows nothing: it can be moved
    /// into a task, and `stop` be called meanwhile.
    pub fn exited(&self) -> impl Future<Output = PostgresError> + Send + use<> {
        let end = self.child.wait();
        let asked = Arc::clone(&self.asked);
        let log = self.log.clone();
        async move {
            let status = end.await;
            if asked.load(Ordering::Acquire) {
                std::future::pending::<()>().await;
            }
            PostgresError::Exited {
                status,
                path: log.path.clone(),
                log: log.tail(),
            }
        }
    }

    /// Shuts down: fast first (open transactions are rolled back, a checkpoint is made), and after
    /// 10 s immediately. Returns when the server has ended.
    ///
    /// # Errors
    /// `DidNotStop` when it is there still, some 20 s later.
    pub async fn stop(self) -> Result<(), PostgresError> {
        self.asked.store(true, Ordering::Release);
        stop_child(&self.child).await
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // The child's own drop sends the signal, if it runs still.
        self.asked.store(true, Ordering::Release);
    }
}

/// SIGINT, then SIGQUIT.
async fn stop_child(child: &Child) -> Result<(), PostgresError> {
    child.signal(Signal::INT);
    if tokio::time::timeout(FAST_SHUTDOWN, child.wait())
        .await
        .is_ok()
    {
        return Ok(());
    }
    tracing::warn!(
        pid = child.pid(),
        "PostgreSQL does not shut down, so it is stopped immediately"
    );
    child.signal(Signal::QUIT);
    match tokio::time::timeout(IMMEDIATE_SHUTDOWN, child.wait()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(PostgresError::DidNotStop { pid: child.pid() }),
    }
}
