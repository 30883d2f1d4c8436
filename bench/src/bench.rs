//! What every scenario works with: the PostgreSQL, the service's program, and how much effort to make.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lessor::postgres::{Account, Binaries, Guard, Options, PrivatePostgres};
use tokio_postgres::{Client, NoTls};

use crate::database;
use crate::error::{Error, Result};

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Whether it is only to be seen that scenarios work.
    pub quick: bool,
    /// How long one measurement takes.
    pub time: Duration,
    /// How often ours and the reference are measured in turn.
    pub rounds: usize,
}

impl Effort {
    /// To see that it works.
    pub fn quick() -> Self {
        Self {
            quick: true,
            time: Duration::from_secs(1),
            rounds: 1,
        }
    }

    /// To measure.
    pub fn full(seconds: f64, rounds: u32) -> Self {
        Self {
            quick: false,
            time: Duration::from_secs_f64(seconds),
            rounds: rounds as usize,
        }
    }

    /// After how long a scenario has failed, whatever it waits for.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(if self.quick { 180 } else { 3 * 3_600 })
    }

    /// A size: the first to measure, the second to see that it works.
    pub fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// The bench's PostgreSQL and its folder.
pub struct Bench {
    /// How much effort to make.
    pub effort: Effort,
    /// The service's program.
    pub program: PathBuf,
    /// Where scenarios keep what they need.
    pub scratch: PathBuf,
    /// Where peers are installed.
    pub peers: PathBuf,
    remove: bool,
    postgres: PrivatePostgres,
    binaries: Binaries,
    databases: AtomicU32,
}

/// A database of its own for a scenario, or a part of one.
pub struct Database {
    /// For the service and for clients.
    pub url: String,
    /// Its name.
    pub name: String,
}

impl Bench {
    /// Starts PostgreSQL with durable defaults.
    ///
    /// # Errors
    /// When there is no such program, or PostgreSQL does not start.
    pub async fn start(
        program: &Path,
        scratch: Option<PathBuf>,
        peers: Option<PathBuf>,
        effort: Effort,
    ) -> Result<Self> {
        let program = program.canonicalize().map_err(Error::io("find", program))?;
        let remove = scratch.is_none();
        let scratch = scratch.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("lessor-bench-{}", std::process::id()))
        });
        std::fs::create_dir_all(&scratch).map_err(Error::io("make", &scratch))?;
        let mut options = Options::new(scratch.join("data"));
        options.guard = Guard::Setpriv;
        options.max_connections = 300;
        options.shared_buffers_mb = 1024;
        let account = Account::choose(&options.data_dir)?;
        let binaries = Binaries::find(None, None, &account)?;
        database::prepare(&options)?;
        let postgres = PrivatePostgres::start(options).await?;
        Ok(Self {
            effort,
            program,
            peers: peers.unwrap_or_else(|| scratch.join("peers")),
            scratch,
            remove,
            postgres,
            binaries,
            databases: AtomicU32::new(0),
        })
    }

    /// An empty database; the service migrates it when it starts.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn database(&self) -> Result<Database> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench_{}_{number}", std::process::id());
        let admin = connect(&self.postgres.url()).await?;
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await?;
        Ok(Database {
            url: self.postgres.url_of(&name),
            name,
        })
    }

    /// Drops a database with whoever is connected to it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn drop_database(&self, database: Database) -> Result<()> {
        let admin = connect(&self.postgres.url()).await?;
        admin
            .batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", database.name))
            .await?;
        Ok(())
    }

    /// One of PostgreSQL's programs, `pgbench` for example: beside the server's, wherever that was linked
    /// from, or wherever the shell finds it.
    pub fn postgres_program(&self, name: &str) -> Command {
        let server = self.binaries.program("postgres").canonicalize();
        let beside = server.ok().map(|server| server.with_file_name(name));
        Command::new(
            beside
                .filter(|program| program.is_file())
                .unwrap_or_else(|| name.into()),
        )
    }

    /// The URL of a database that no scenario works in.
    pub fn admin_url(&self) -> String {
        self.postgres.url()
    }

    /// The pid of the postmaster.
    pub fn postgres_pid(&self) -> u32 {
        self.postgres.pid()
    }

    /// Stops PostgreSQL and removes its folder, if nobody named one.
    ///
    /// # Errors
    /// When it does not stop, or the folder cannot be removed.
    pub async fn stop(self) -> Result<()> {
        self.postgres.stop().await?;
        if self.remove {
            std::fs::remove_dir_all(&self.scratch).map_err(Error::io("remove", &self.scratch))?;
        }
        Ok(())
    }
}

/// A connection to a database.
///
/// # Errors
/// When it cannot be had.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(client)
}
