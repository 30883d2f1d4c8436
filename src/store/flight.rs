//! Transactions whose beginning travels with their first statements, which saves a round trip.
//!
//! The statements of a flight are sent in the order in which they are polled first, and run in that order, but for
//! one that is not prepared on that connection yet: it comes after those that are. So a flight has to be right in any
//! order. The first that fails is the reason: those behind it find the transaction given up.

use diesel_async::SimpleAsyncConnection;
use diesel_async::pooled_connection::deadpool::Object;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{Conn, Db, PATIENCE, Timer, Tries, checkout};
use crate::error::{Error, Result};

/// A connection inside a transaction that Diesel knows nothing of. Unless it is said to be clean, it does
/// not go back to the others.
struct Begun(Option<Object<Conn>>);

impl Begun {
    fn broken() -> Error {
        Error::Internal("the connection is gone".to_owned())
    }

    fn shared(&self) -> Result<&Conn> {
        self.0.as_deref().ok_or_else(Self::broken)
    }

    fn only(&mut self) -> Result<&mut Conn> {
        self.0.as_deref_mut().ok_or_else(Self::broken)
    }

    fn clean(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            drop(Object::take(conn));
        }
    }
}

impl Db {
    /// Runs a transaction once: `first`, which may send several statements at the same time, and then
    /// `rest`. Its statements are planned once. It is not run again, whatever happens.
    ///
    /// # Errors
    /// What they say, and then nothing was written, unless it is [`Error::DatabaseUnavailable`].
    pub async fn write_once<A, R, F, G>(&self, name: &'static str, first: F, rest: G) -> Result<R>
    where
        A: Send,
        R: Send,
        F: for<'c> FnOnce(&'c Conn) -> BoxFuture<'c, Result<A>> + Send,
        G: for<'c> FnOnce(&'c mut Conn, A) -> BoxFuture<'c, Result<R>> + Send,
    {
        let _timer = Timer::start(name);
        let deadline = Instant::now() + PATIENCE;
        self.fly(deadline, first, rest).await
    }

    /// As [`Db::write_often`], with a beginning as that of [`Db::write_once`].
    ///
    /// # Errors
    /// As [`Db::write_often`].
    pub async fn write_in_flights<A, R, F, G>(
        &self,
        name: &'static str,
        first: F,
        rest: G,
    ) -> Result<R>
    where
        A: Send,
        R: Send,
        F: for<'c> Fn(&'c Conn) -> BoxFuture<'c, Result<A>> + Send + Sync,
        G: for<'c> Fn(&'c mut Conn, A) -> BoxFuture<'c, Result<R>> + Send + Sync,
    {
        let _timer = Timer::start(name);
        let deadline = Instant::now() + PATIENCE;
        let mut tries = Tries::of(name);
        loop {
            match self.fly(deadline, &first, &rest).await {
                Err(error) => tries.go_on(error)?,
                done => return done,
            }
        }
    }

    async fn fly<A, R, F, G>(&self, deadline: Instant, first: F, rest: G) -> Result<R>
    where
        A: Send,
        R: Send,
        F: for<'c> FnOnce(&'c Conn) -> BoxFuture<'c, Result<A>> + Send,
        G: for<'c> FnOnce(&'c mut Conn, A) -> BoxFuture<'c, Result<R>> + Send,
    {
        let mut begun = Begun(Some(checkout(&self.often, deadline).await?));
        let run = async {
            let conn = begun.shared()?;
            // In this order on the wire, since each sends at its first poll: nothing of `first` can be
            // outside the transaction.
            let (began, seen) = futures_util::join!(say(conn, "BEGIN"), first(conn));
            began?;
            let done = match seen {
                Ok(seen) => rest(begun.only()?, seen).await,
                Err(error) => Err(error),
            };
            let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
            say(begun.shared()?, end).await?;
            done
        };
        match tokio::time::timeout_at(deadline, run).await {
            Ok(Ok(done)) => {
                begun.clean();
                self.committed.notify_one();
                Ok(done)
            }
            // What is broken goes with its connection, and a plan that is stale.
            Ok(Err(error @ (Error::DatabaseUnavailable(_) | Error::StalePlan(_)))) => Err(error),
            // Rolled back in order, and as good as before.
            Ok(Err(error)) => {
                begun.clean();
                Err(error)
            }
            Err(_) => Err(begun
                .0
                .take()
                .map_or_else(Begun::broken, |conn| self.abandon(conn))),
        }
    }
}

/// Begins or ends the transaction; where that fails, nobody knows what the connection is in.
async fn say(mut conn: &Conn, what: &str) -> Result<()> {
    conn.batch_execute(what)
        .await
        .map_err(|error| Error::DatabaseUnavailable(error.to_string()))
}
