//! The audit: each change that somebody asks for, by whom, from where, with which token.
//!
//! An entry is written before its change is begun, and completed with the status of the answer. So there
//! is no change without an entry: where the entry cannot be written, the call is answered 503 and nothing
//! is done. Where a server ends between the two, the entry stays without a status, which says that the
//! change may have been made.
//!
//! Invariants:
//! - Entries are committed in the database before their changes begin. Their own commits need not wait for
//!   the disk: what is committed later, and waits for it, takes them along.
//! - Nothing in the API changes or deletes an entry, and the database refuses to; retention alone deletes.
//! - What a call says is not kept, only that it was made: bodies and queries can hold secrets.
//!
//! What it does not do: tell of what agents do over and over (claims, beats, reports, inventories), which
//! ledger and timelines have; tell of calls that were refused before they began; tell of anything while
//! access is open, when nobody is asked who he is.

pub mod http;
mod store;
mod table;

use lessor_protocol::{ActorType, AuditEntry};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::App;
use crate::error::{Error, Result};
use crate::store::{Db, Gather, Limits};

pub use store::Filter;

/// A change that is about to begin.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct Begun {
    pub kind: String,
    pub actor_type: ActorType,
    pub actor_name: String,
    pub token_id: Option<Uuid>,
    pub tenant: Option<String>,
    pub from_address: Option<String>,
    pub method: String,
    pub path: String,
    pub request_id: String,
}

/// How a change ended.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ended {
    /// The entry.
    id: i64,
    /// The status of the answer.
    status: i32,
}

/// Where entries are written.
#[derive(Clone, Debug)]
pub struct Audit {
    begun: Gather<Begun, i64>,
    ended: Gather<Ended, ()>,
}

/// What writes them; it must be run.
pub struct Writers {
    begun: crate::store::Batches<Begun, i64>,
    ended: crate::store::Batches<Ended, ()>,
}

const LIMITS: Limits = Limits {
    queued: 10_000,
    batch: 500,
    at_once: 2,
    beside: 1,
};

impl Audit {
    /// The front, and what must be run for it.
    #[must_use]
    pub fn new() -> (Self, Writers) {
        let (begun, begins) = Gather::new(LIMITS);
        let (ended, ends) = Gather::new(LIMITS);
        (
            Self { begun, ended },
            Writers {
                begun: begins,
                ended: ends,
            },
        )
    }

    /// Says that a change begins; its number.
    ///
    /// # Errors
    /// `DatabaseUnavailable`: then the change must not begin.
    pub async fn begin(&self, what: Begun) -> Result<i64> {
        self.begun.submit(what).await
    }

    /// Says how it ended. Where that cannot be written, the entry stays without a status.
    pub async fn end(&self, id: i64, status: u16) {
        let status = i32::from(status);
        if let Err(error) = self.ended.submit(Ended { id, status }).await {
            metrics::counter!("lessor_audit_unfinished_total").increment(1);
            tracing::warn!(%error, entry = id, "how an audited change ended was not written");
        }
    }
}

impl Writers {
    /// Writes until it is cancelled, and then what has begun.
    pub async fn run(self, db: Db, stop: CancellationToken) {
        let other = db.clone();
        let begins = self.begun.run(stop.clone(), move |batch| {
            let db = db.clone();
            async move { all(batch.len(), store::begin(&db, batch).await) }
        });
        let ends = self.ended.run(stop, move |batch| {
            let db = other.clone();
            async move {
                let count = batch.len();
                let done = store::end(&db, batch).await;
                all(count, done.map(|()| vec![(); count]))
            }
        });
        tokio::join!(begins, ends);
    }
}

/// One answer for each of a batch.
fn all<T>(count: usize, answers: Result<Vec<T>>) -> Vec<Result<T>> {
    match answers {
        Ok(answers) if answers.len() == count => answers.into_iter().map(Ok).collect(),
        Ok(_) => (0..count)
            .map(|_| Err(Error::Internal("an entry was not written".to_owned())))
            .collect(),
        Err(error) => {
            let detail = error.to_string();
            (0..count)
                .map(|_| Err(Error::DatabaseUnavailable(detail.clone())))
                .collect()
        }
    }
}

/// Entries, newest first, at most `limit`.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn list(app: &App, filter: Filter, limit: i64) -> Result<Vec<AuditEntry>> {
    app.db
        .read("audit::list", |conn| {
            Box::pin(store::list(conn, filter, limit))
        })
        .await
}

/// Deletes entries that are past retention, a batch; whether there may be more.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn delete_old(app: &App) -> Result<bool> {
    let keep_seconds = app.audit_retention.as_secs_f64();
    app.db
        .write("audit::delete_old", move |conn| {
            Box::pin(store::delete_old(conn, keep_seconds))
        })
        .await
}
