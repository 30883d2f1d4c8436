//! Reports: an agent's word on the sessions it is assigned.
//!
//! The agent's row is locked first and its lease checked there; each report is then judged by the
//! pure rules of `sessions`, and what was accepted is written by one statement whose UPDATE checks
//! assignee and epoch once more. What many agents say at the same time is taken in one transaction
//! (`gathered.rs`); what one says alone does not wait for others.

mod gathered;
pub mod http;

use std::sync::Arc;

use lessor_protocol::{Report, ReportResult};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::Result;
use crate::store::{Batches, Db, Gather, Limits};
use crate::wakeups::Hub;
use gathered::{Said, Taken};

/// The most reports in one call.
pub const MAX_REPORTS: usize = 1_000;

/// The most reports of a call that is taken together with others, so that these do not wait for it.
const MAX_GATHERED: usize = 64;

/// How calls are gathered. Writing one session takes as long as writing five of a large batch, so the second
/// batch at a time is for when there are many.
const LIMITS: Limits = Limits {
    queued: 32_000,
    batch: 256,
    at_once: 2,
    beside: 128,
};

/// Where agents' reports are taken.
#[derive(Clone, Debug)]
pub struct Reporting(Gather<Arc<Said>, Taken>);

/// The task behind [`Reporting`].
pub struct Taking(Batches<Arc<Said>, Taken>);

impl Reporting {
    /// The front, and the task that must be run for it.
    #[must_use]
    pub fn new() -> (Self, Taking) {
        let (gather, batches) = Gather::new(LIMITS);
        (Self(gather), Taking(batches))
    }
}

impl Taking {
    /// Takes reports until it is cancelled.
    pub async fn run(self, db: Db, hub: Hub, stop: CancellationToken) {
        let take = move |calls| {
            let (db, hub) = (db.clone(), hub.clone());
            async move { gathered::take_together(&db, &hub, calls).await }
        };
        self.0.run(stop, take).await;
    }
}

/// Takes reports in the order in which they were sent; each stands alone. Without any, it still
/// says whether this run of the agent may report at all.
///
/// # Errors
/// `AgentNotRegistered`, `AgentSuperseded`, `LeaseExpired`, `DatabaseUnavailable`: then nothing
/// was taken.
pub async fn take(
    app: &Arc<App>,
    agent: &str,
    incarnation: i64,
    reports: Vec<Report>,
) -> Result<Vec<ReportResult>> {
    let said = Arc::new(Said {
        agent: agent.to_owned(),
        incarnation,
        reports,
    });
    let taken = if said.reports.len() <= MAX_GATHERED {
        app.reporting.0.submit(Arc::clone(&said)).await?
    } else {
        None
    };
    let results = match taken {
        Some(results) => results,
        None => gathered::take_alone(&app.db, &app.hub, said).await?,
    };
    for result in &results {
        metrics::counter!("lessor_reports_total", "outcome" => result.outcome.as_str())
            .increment(1);
    }
    Ok(results)
}
