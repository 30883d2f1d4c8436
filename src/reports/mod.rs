//! Reports: an agent's word on the sessions it is assigned.
//!
//! The agent's row is locked first and its lease checked there; each report is then judged by the
//! pure rules of `sessions`, and what was accepted is written by one statement whose UPDATE checks
//! assignee and epoch once more. What many agents say at the same time is taken in one transaction
//! (`gathered.rs`), with the leases of those who claim with it; what one says alone does not wait for others.

mod begin;
mod gathered;
pub mod http;

use std::sync::Arc;

use lessor_protocol::{Report, ReportResult};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::{Error, Result};
use crate::leases::{ClaimOf, Renewal};
use crate::store::{Batches, Db, Gather, Limits};
use crate::wakeups::Hub;
use begin::Pools;
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
pub struct Reporting {
    /// Those of agents that claim with them.
    claiming: Gather<Arc<Said>, Taken>,
    /// All others.
    others: Gather<Arc<Said>, Taken>,
}

/// The tasks behind [`Reporting`].
pub struct Taking {
    claiming: Batches<Arc<Said>, Taken>,
    others: Batches<Arc<Said>, Taken>,
}

impl Reporting {
    /// The front, and the tasks that must be run for it.
    #[must_use]
    pub fn new() -> (Self, Taking) {
        let (claiming, of_claiming) = Gather::new(LIMITS);
        let (others, of_others) = Gather::new(LIMITS);
        (
            Self { claiming, others },
            Taking {
                claiming: of_claiming,
                others: of_others,
            },
        )
    }
}

impl Taking {
    /// Takes reports until it is cancelled.
    pub async fn run(self, db: Db, hub: Hub, stop: CancellationToken) {
        let take = |they_claim| {
            let (db, hub, pools) = (db.clone(), hub.clone(), Pools::default());
            move |calls| {
                let (db, hub, pools) = (db.clone(), hub.clone(), pools.clone());
                async move { gathered::take_together(&db, &hub, &pools, calls, they_claim).await }
            }
        };
        tokio::join!(
            self.claiming.run(stop.clone(), take(true)),
            self.others.run(stop, take(false)),
        );
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
        claim: None,
        reports,
    });
    let taken = if said.reports.len() <= MAX_GATHERED {
        let others = &app.reporting.others;
        others.submit(Arc::clone(&said)).await?.results
    } else {
        None
    };
    or_alone(app, said, taken).await
}

/// Renews the lease of an agent that claims, and takes the reports that it claims with: in one transaction,
/// unless somebody else has the agent or one of its sessions in hand.
///
/// # Errors
/// As [`take`]; where that is `DatabaseUnavailable`, the lease may have been renewed all the same.
pub async fn take_with_claim(
    app: &Arc<App>,
    agent: &str,
    incarnation: i64,
    claim: ClaimOf,
    reports: Vec<Report>,
) -> Result<(Renewal, Vec<ReportResult>)> {
    let said = Arc::new(Said {
        agent: agent.to_owned(),
        incarnation,
        claim: Some(claim),
        reports,
    });
    let taken = if said.reports.len() <= MAX_GATHERED {
        app.reporting.claiming.submit(Arc::clone(&said)).await
    } else {
        Ok(Taken::default())
    };
    if let Err(Error::DatabaseUnavailable(_)) = taken {
        // A lease hangs on nothing but the agent, and has its own connections: it is renewed as by a heartbeat.
        // The agent knows already that this claim has failed.
        let (renewals, agent) = (app.renewals.clone(), agent.to_owned());
        app.writes().spawn(async move {
            if let Err(error) = renewals.renew(&agent, incarnation, None).await {
                tracing::debug!(agent, %error, "the lease of a claim that failed was not renewed");
            }
        });
    }
    let Taken { renewal, results } = taken?;
    let renewal = match renewal {
        Some(renewal) => renewal,
        None => {
            let renewals = &app.renewals;
            renewals.renew(agent, incarnation, Some(claim)).await?
        }
    };
    Ok((renewal, or_alone(app, said, results).await?))
}

/// What became of the reports of a call, which are taken alone if they were not taken with others.
async fn or_alone(
    app: &Arc<App>,
    said: Arc<Said>,
    results: Option<Vec<ReportResult>>,
) -> Result<Vec<ReportResult>> {
    let results = match results {
        Some(results) => results,
        None => gathered::take_alone(&app.db, &app.hub, said).await?,
    };
    for result in &results {
        metrics::counter!("lessor_reports_total", "outcome" => result.outcome.as_str())
            .increment(1);
    }
    Ok(results)
}
