//! What the database says of itself: which statements ran how often, what became of a table's rows, and
//! how much processor time it took.
//!
//! Statements are counted by `pg_stat_statements`, since its counters are exact at every moment, while
//! those of `pg_stat_database` come up to 10 s late. It is loaded but counts nothing, except in the
//! databases of the scenarios that ask for it: no figure of the others pays for it. Its view is read in a
//! database of its own, so that the service's has nothing in it that is not the service's.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use lessor::postgres::{Cluster, Options};
use tokio_postgres::Client;

use crate::bench::{Bench, Database, connect};
use crate::error::{Error, Result};
use crate::service::{self, Usage};

const SETTINGS: &str =
    "\nshared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.track = 'none'\n";

/// Makes the cluster, if there is none, and has it load `pg_stat_statements`, if PostgreSQL has it.
///
/// # Errors
/// When the cluster cannot be made.
pub fn prepare(options: &Options) -> Result<()> {
    let cluster = Cluster::prepare(options)?;
    let server = cluster.binaries.program("postgres").canonicalize();
    let library = server.ok().and_then(|server| {
        let installation = server.parent()?.parent()?;
        Some(installation.join("lib/pg_stat_statements.so"))
    });
    let path = cluster.data.join("postgresql.conf");
    let there = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    if library.is_some_and(|library| library.is_file()) && !there.contains(SETTINGS) {
        let mut file = fs::File::options()
            .append(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        file.write_all(SETTINGS.as_bytes())
            .map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// How often a statement ran, and how long that took in all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ran {
    /// How often.
    pub calls: f64,
    /// For how long, planned and executed, in milliseconds.
    pub milliseconds: f64,
}

/// Statements by their names: the first lines of their texts.
pub type Statements = BTreeMap<String, Ran>;

/// The count of a database's statements.
pub struct Count {
    admin: Client,
    database: String,
}

impl Count {
    /// Begins to count in a database that nobody is connected to yet.
    ///
    /// # Errors
    /// When PostgreSQL has no `pg_stat_statements`.
    pub async fn begin(bench: &Bench, database: &Database) -> Result<Self> {
        let admin = connect(&bench.admin_url()).await?;
        let name = &database.name;
        let made = admin
            .batch_execute(&format!(
                "CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
                 ALTER DATABASE {name} SET pg_stat_statements.track = 'top'"
            ))
            .await;
        made.map_err(|error| {
            let why = "pg_stat_statements is needed; distributions have it in a package `postgresql-contrib`";
            Error::said(format!("{why}: {error}"))
        })?;
        Ok(Self {
            admin,
            database: name.clone(),
        })
    }

    /// What has run so far.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn look(&self) -> Result<Statements> {
        let rows = self
            .admin
            .query(
                "SELECT split_part(q.query, E'\\n', 1), sum(q.calls)::double precision,
                     sum(q.total_plan_time + q.total_exec_time)
                 FROM pg_stat_statements q JOIN pg_database d ON d.oid = q.dbid
                 WHERE d.datname = $1 GROUP BY 1",
                &[&self.database],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| {
                let ran = Ran {
                    calls: row.get(1),
                    milliseconds: row.get(2),
                };
                (row.get(0), ran)
            })
            .collect())
    }
}

/// What ran between two looks.
pub fn since(before: &Statements, after: &Statements) -> Statements {
    after
        .iter()
        .map(|(name, ran)| {
            let then = before.get(name).copied().unwrap_or_default();
            let ran = Ran {
                calls: ran.calls - then.calls,
                milliseconds: ran.milliseconds - then.milliseconds,
            };
            (name.clone(), ran)
        })
        .filter(|(_, ran)| ran.calls > 0.0)
        .collect()
}

/// How many updates a table has had.
#[derive(Clone, Copy, Debug)]
pub struct Updates {
    /// All.
    pub all: f64,
    /// Those that stayed in their page and touched no index.
    pub hot: f64,
}

/// A table's updates since it was made. What backends did is told up to 10 s late.
///
/// # Errors
/// When the database refuses.
pub async fn updates(client: &Client, table: &str) -> Result<Updates> {
    let row = client
        .query_one(
            "SELECT n_tup_upd::double precision, n_tup_hot_upd::double precision
             FROM pg_stat_user_tables WHERE relname = $1",
            &[&table],
        )
        .await?;
    Ok(Updates {
        all: row.get(0),
        hot: row.get(1),
    })
}

/// The processor time that PostgreSQL has taken in all: the postmaster, what it has started, and what
/// of that has ended since.
///
/// # Errors
/// When it has ended.
pub fn cpu_seconds(bench: &Bench) -> Result<f64> {
    let postmaster = bench.postgres_pid();
    let Usage {
        cpu_seconds,
        ended_children_seconds,
        ..
    } = service::usage(postmaster)?;
    let path = format!("/proc/{postmaster}/task/{postmaster}/children");
    let children = fs::read_to_string(&path).map_err(Error::io("read", Path::new(&path)))?;
    let of_children: f64 = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        // One that has ended meanwhile is counted with those that have.
        .filter_map(|pid| service::usage(pid).ok())
        .map(|usage| usage.cpu_seconds)
        .sum();
    Ok(cpu_seconds + ended_children_seconds + of_children)
}
