//! Creating sessions that arrive together by one statement.
//!
//! What arrives while one batch is written makes the next; what comes alone goes at once. A session of
//! which the statement makes nothing (its pool is not there, its name is taken) is left to its caller, who
//! tries it alone and so learns why; its neighbours do not notice.

use tokio_util::sync::CancellationToken;

use super::draft::Draft;
use super::insert::{Those, insert};
use super::row::SessionRow;
use crate::error::{Error, Result};
use crate::store::{Batches, Db, Gather, Limits};
use crate::wakeups::{Hints, Hub};

/// Two batches at once: while one is flushed to the disk, the next is written.
const LIMITS: Limits = Limits {
    queued: 4_096,
    batch: 256,
    at_once: 2,
    beside: 1,
};

/// Where calls hand in sessions that they create; none comes back if it has to be tried alone.
pub type Creating = Gather<Draft, Option<SessionRow>>;

/// The task behind [`Creating`].
pub struct CreatingWorker(Batches<Draft, Option<SessionRow>>);

impl CreatingWorker {
    /// The front, and the worker that must be run for it.
    #[must_use]
    pub fn new() -> (Creating, Self) {
        let (creating, batches) = Gather::new(LIMITS);
        (creating, Self(batches))
    }

    /// Writes until it is cancelled.
    pub async fn run(self, db: Db, hub: Hub, stop: CancellationToken) {
        self.0
            .run(stop, move |drafts| {
                let (db, hub) = (db.clone(), hub.clone());
                async move { write(&db, &hub, drafts).await }
            })
            .await;
    }
}

async fn write(db: &Db, hub: &Hub, drafts: Vec<Draft>) -> Vec<Result<Option<SessionRow>>> {
    let count = drafts.len();
    let written = db
        .write_at_once("sessions::create_gathered", |conn| {
            let mut drafts = drafts;
            Box::pin(async move {
                let made = insert(conn, &mut drafts, Those::Possible).await?;
                let rows = drafts.into_iter().zip(made);
                Ok(rows
                    .map(|(draft, made)| made.then_some(draft.row))
                    .collect::<Vec<_>>())
            })
        })
        .await;
    match written {
        Ok(rows) => {
            hub.committed(Hints::of_new(rows.iter().flatten()));
            rows.into_iter().map(Ok).collect()
        }
        // Whether they were written is not known, so nobody tries again for the caller.
        Err(Error::DatabaseUnavailable(why)) => (0..count)
            .map(|_| Err(Error::DatabaseUnavailable(why.clone())))
            .collect(),
        Err(error) => {
            tracing::debug!(%error, sessions = count, "creating them one by one");
            (0..count).map(|_| Ok(None)).collect()
        }
    }
}
