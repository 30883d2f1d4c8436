//! The database, and no feature: connections, named transactions, statements, LISTEN.
//!
//! What is kept here: nothing. Truth is in PostgreSQL; this module only reaches it.
//!
//! Invariants:
//! - Every wait for the database is bounded by [`PATIENCE`]. Past it the connection is thrown away,
//!   because a transaction whose future was dropped may have left it in the middle of an answer.
//! - A transaction that PostgreSQL rolled back for a conflict is run again, a few times.
//! - A migration under a running server changes nothing for it: a connection whose prepared
//!   statements have become stale by it is replaced.
//! - Heartbeats have connections of their own, so that no load of other kinds stands before them.
//! - What runs all the time has connections of its own too, which are told to plan each statement once: one
//!   text would otherwise be planned in both ways over the same connection, and anew each time.

mod columns;
mod connect;
mod flight;
mod gather;
pub mod listen;
pub mod migrate;
mod rows;
pub mod schema;
mod statement;
mod target;
mod turn;
mod url;

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::QueueMode;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, Result};

pub use columns::{AsJson, JsonText, LabelsColumn, MaybeJson, MaybeJsonText, MaybeWord, Word};
pub use connect::{client, dedicated, describe};
pub use gather::{Batches, Company, Gather, Limits, take};
pub use rows::{ArgRow, Columns, columns_of};
pub(crate) use rows::{arg_row, unnumbered};
pub use statement::{Fragment, Statement};
use target::Target;
pub use turn::try_turn;
pub use url::trusting;

/// What a transaction is that reads one state of the database.
const SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// What a connection is told whose statements are planned once: planning anew for each array that is bound
/// costs more than running them. A plan that is made while a table is small stays when it has grown, so
/// whatever is found is found by key or in the order of an index, from the first row on.
pub const PLANNED_ONCE: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
    SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// A connection as the rooms use it.
pub type Conn = AsyncPgConnection;

/// How long anybody waits for the database before being told that it is away.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How often a transaction that met a conflict is run in all.
const TRIES: u32 = 6;

/// The database's connections.
#[derive(Clone)]
pub struct Db {
    /// Of statements that are planned for what is bound to them.
    work: Pool<Conn>,
    /// Of statements that are planned once, as are those over `beats`.
    often: Pool<Conn>,
    beats: Pool<Conn>,
    /// How TLS is spoken where a statement is to be given up: over a connection of its own.
    tls: MakeRustlsConnect,
    /// Woken when a transaction of [`Db::write`] has committed.
    pub committed: Arc<Notify>,
}

impl Db {
    /// Prepares pools of connections to the database at `url`; none is opened yet. What runs all the time has
    /// half of `connections`, all else the other half; each has one at least.
    ///
    /// # Errors
    /// When the pool cannot be built.
    pub fn new(url: &str, connections: usize, beat_connections: usize) -> Result<Self> {
        Ok(Self {
            work: pool(url, (connections / 2).max(1), "")?,
            often: pool(url, connections.div_ceil(2), PLANNED_ONCE)?,
            // One more: what comes with heartbeats is written beside them, and keeps none waiting.
            beats: pool(url, beat_connections + 1, PLANNED_ONCE)?,
            tls: Target::parse(url)
                .map_err(|error| Error::Internal(error.to_string()))?
                .tls()?,
            committed: Arc::default(),
        })
    }

    /// Runs a transaction. `name` appears in the metrics.
    ///
    /// # Errors
    /// What `body` says; [`Error::DatabaseUnavailable`] when it could not be run in time.
    pub async fn write<R, F>(&self, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> Fn(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send + Sync,
    {
        self.write_over(&self.work, name, body).await
    }

    /// As [`Db::write`], for what is done all the time: its statements are planned once for each
    /// connection, so `tests/plans.rs` must hold their plans for any value.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn write_often<R, F>(&self, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> Fn(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send + Sync,
    {
        self.write_over(&self.often, name, body).await
    }

    async fn write_over<R, F>(&self, pool: &Pool<Conn>, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> Fn(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send + Sync,
    {
        let answer = self.transaction(pool, (name, None), &body).await;
        if answer.is_ok() {
            self.committed.notify_one();
        }
        answer
    }

    /// As [`Db::write`], over the connections that are kept for heartbeats.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn beat<R, F>(&self, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> Fn(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send + Sync,
    {
        self.transaction(&self.beats, (name, None), &body).await
    }

    /// Runs statements that only read, each for itself.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn read<R, F>(&self, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send,
    {
        self.read_over(&self.work, name, body).await
    }

    /// As [`Db::read`], for what is planned once: `tests/plans.rs` must hold its plan for any value.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn read_often<R, F>(&self, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send,
    {
        self.read_over(&self.often, name, body).await
    }

    async fn read_over<R, F>(&self, pool: &Pool<Conn>, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send,
    {
        let _timer = Timer::start(name);
        let deadline = Instant::now() + PATIENCE;
        let mut conn = checkout(pool, deadline).await?;
        match tokio::time::timeout_at(deadline, body(&mut conn)).await {
            Ok(Err(error @ (Error::StalePlan(_) | Error::DatabaseUnavailable(_)))) => {
                drop(Object::take(conn));
                Err(error)
            }
            Ok(answer) => answer,
            Err(_) => Err(self.abandon(conn)),
        }
    }

    /// Runs a statement that is a transaction in itself: nothing waits for this program between its
    /// beginning and its commit. It is not run again.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn statement<R, F>(&self, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send,
    {
        self.read(name, body).await
    }

    /// As [`Db::statement`], of one that writes what others are to hear of, and is planned once.
    ///
    /// # Errors
    /// As [`Db::write`]; a connection that may be broken is thrown away.
    pub async fn write_at_once<R, F>(&self, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send,
    {
        let answer = self.read_often(name, body).await;
        if answer.is_ok() {
            self.committed.notify_one();
        }
        answer
    }

    /// As [`Db::write`], for statements that only read and are to see one state of the database. They
    /// can lock nothing.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn snapshot<R, F>(&self, name: &'static str, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> Fn(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send + Sync,
    {
        self.transaction(&self.work, (name, Some(SNAPSHOT)), &body)
            .await
    }

    async fn transaction<R, F>(
        &self,
        pool: &Pool<Conn>,
        (name, begin_with): (&'static str, Option<&'static str>),
        body: &F,
    ) -> Result<R>
    where
        R: Send + 'static,
        F: for<'c> Fn(&'c mut Conn) -> futures_util::future::BoxFuture<'c, Result<R>> + Send + Sync,
    {
        let _timer = Timer::start(name);
        // One for all of it: waiting for a connection, opening it, and every try.
        let deadline = Instant::now() + PATIENCE;
        let mut tries = Tries::of(name);
        loop {
            let mut conn = checkout(pool, deadline).await?;
            let run = conn.transaction(async |conn| {
                // A transaction is what it is before its first query.
                if let Some(how) = begin_with {
                    conn.batch_execute(how).await?;
                }
                body(conn).await
            });
            let error = match tokio::time::timeout_at(deadline, run).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.abandon(conn)),
            };
            if matches!(error, Error::StalePlan(_) | Error::DatabaseUnavailable(_)) {
                // The connection may be what is broken: the next caller gets a new one.
                drop(Object::take(conn));
            }
            tries.go_on(error)?;
        }
    }

    /// How many connections are open and how many of them are idle, of each kind.
    #[must_use]
    pub fn usage(&self) -> [(&'static str, usize, usize); 3] {
        let kinds = [
            ("work", &self.work),
            ("often", &self.often),
            ("beats", &self.beats),
        ];
        kinds.map(|(kind, pool)| (kind, pool.status().size, pool.status().available))
    }

    fn abandon(&self, conn: Object<Conn>) -> Error {
        let conn = Object::take(conn);
        let cancel = conn.cancel_token();
        drop(conn);
        let tls = self.tls.clone();
        // The statement may be waiting for a lock in the server; it would go on doing so without us.
        tokio::spawn(async move {
            let _ = tokio::time::timeout(PATIENCE, cancel.cancel_query(tls)).await;
        });
        Error::DatabaseUnavailable(format!("no answer within {} s", PATIENCE.as_secs()))
    }
}

/// Connections which are told `settings` when they are opened.
fn pool(url: &str, connections: usize, settings: &'static str) -> Result<Pool<Conn>> {
    let mut config = ManagerConfig::default();
    // The default makes a query at each checkout.
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = Box::new(|url| Box::pin(connect::diesel(url, settings)));
    let manager = AsyncDieselConnectionManager::<Conn>::new_with_config(url, config);
    Pool::builder(manager)
        .max_size(connections)
        // The one that was used last: its plans are made, and its process is warm.
        .queue_mode(QueueMode::Lifo)
        .runtime(deadpool::Runtime::Tokio1)
        .wait_timeout(Some(PATIENCE))
        .create_timeout(Some(PATIENCE))
        .recycle_timeout(Some(PATIENCE))
        .build()
        .map_err(|error| Error::Internal(error.to_string()))
}

async fn checkout(pool: &Pool<Conn>, deadline: Instant) -> Result<Object<Conn>> {
    tokio::time::timeout_at(deadline, pool.get())
        .await
        .map_err(|_| Error::DatabaseUnavailable("no connection could be had in time".to_owned()))?
        .map_err(|error| Error::DatabaseUnavailable(error.to_string()))
}

/// How often a transaction has been run.
struct Tries {
    transaction: &'static str,
    conflicts: u32,
}

impl Tries {
    fn of(transaction: &'static str) -> Self {
        Self {
            transaction,
            conflicts: 0,
        }
    }

    /// Whether it is run again after this.
    ///
    /// # Errors
    /// The same, if it is not.
    fn go_on(&mut self, error: Error) -> Result<()> {
        let transaction = self.transaction;
        match error {
            Error::Retry(why) if self.conflicts + 1 < TRIES => {
                self.conflicts += 1;
                metrics::counter!("lessor_db_retries_total", "transaction" => transaction)
                    .increment(1);
                tracing::debug!(transaction, %why, self.conflicts, "conflict, running it again");
                Ok(())
            }
            // Each connection has a plan of its own, so this does not count as a try: there may
            // be as many in a row as there are connections.
            Error::StalePlan(why) => {
                tracing::info!(transaction, %why, "a new connection prepares it anew");
                Ok(())
            }
            error => Err(error),
        }
    }
}

/// Counts and times a transaction by its name.
struct Timer(&'static str, std::time::Instant);

impl Timer {
    fn start(name: &'static str) -> Self {
        Self(name, std::time::Instant::now())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        metrics::histogram!("lessor_db_transaction_seconds", "transaction" => self.0)
            .record(self.1.elapsed().as_secs_f64());
    }
}
