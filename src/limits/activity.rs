//! When sessions were last used, as agents tell with their heartbeats.
//!
//! Invariants:
//! - A beat is renewed before its activity is written, and is answered whatever becomes of that.
//! - What arrives while one statement is under way makes the next one. There is one at a time, on a
//!   connection that renewals do not need.

use std::sync::Arc;
use std::time::Duration;

use lessor_protocol::Activity;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::store;
use crate::store::Db;

/// The most items of one heartbeat.
pub const MAX_ACTIVITY: usize = 10_000;

/// How many heartbeats' activity may wait to be written; what comes then is dropped, and the next
/// heartbeat says it anew.
const MAX_QUEUED: usize = 256;

/// How long a heartbeat waits for its activity to be written, so that who asks after it sees it.
const PATIENCE: Duration = Duration::from_millis(500);

/// What one heartbeat tells.
#[derive(Debug)]
pub struct Told {
    pub agent: String,
    pub incarnation: i64,
    pub items: Vec<Activity>,
    /// Whoever waits for this to be dropped knows that it is written, or will not be.
    _written: oneshot::Sender<()>,
}

/// Where heartbeats tell of activity.
#[derive(Clone, Debug)]
pub struct Activities(mpsc::Sender<Told>);

/// The task behind [`Activities`].
pub struct ActivityWorker(mpsc::Receiver<Told>);

impl Activities {
    /// The front, and the worker that must be run for it.
    #[must_use]
    pub fn new() -> (Self, ActivityWorker) {
        let (told, queue) = mpsc::channel(MAX_QUEUED);
        (Self(told), ActivityWorker(queue))
    }

    /// Has activity written of what an agent holds; of other sessions it is ignored. Returns when
    /// that is done, has failed or takes too long: it is only ever a hint.
    pub async fn tell(&self, agent: &str, incarnation: i64, items: Vec<Activity>) {
        if items.is_empty() {
            return;
        }
        let (written, done) = oneshot::channel();
        let told = Told {
            agent: agent.to_owned(),
            incarnation,
            items,
            _written: written,
        };
        if self.0.try_send(told).is_err() {
            metrics::counter!("lessor_activity_failures_total").increment(1);
            return;
        }
        let _ = tokio::time::timeout(PATIENCE, done).await;
    }
}

impl ActivityWorker {
    /// Writes until it is cancelled.
    pub async fn run(mut self, db: Db, stop: CancellationToken) {
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => return,
                told = self.0.recv() => match told {
                    Some(told) => told,
                    None => return,
                },
            };
            let mut items = first.items.len();
            let mut batch = vec![first];
            while items < MAX_ACTIVITY
                && let Ok(told) = self.0.try_recv()
            {
                items += told.items.len();
                batch.push(told);
            }
            let batch = Arc::new(batch);
            let written = db.beat("limits::record", |conn| {
                let told = Arc::clone(&batch);
                Box::pin(async move { store::record(conn, &told).await })
            });
            if let Err(error) = written.await {
                metrics::counter!("lessor_activity_failures_total").increment(1);
                tracing::warn!(%error, "activity could not be written");
            }
        }
    }
}
