//! Reports: an agent's word on the sessions it is assigned.
//!
//! The agent's row is locked first and its lease checked there; each report is then judged by the
//! pure rules of `sessions`, and what was accepted is written by one statement whose UPDATE checks
//! assignee and epoch once more.

pub mod http;

use std::sync::Arc;

use lessor_protocol::{Actor, ActorType, Outcome, Report, ReportCode, ReportResult};

use crate::agents;
use crate::app::App;
use crate::error::{Error, Result};
use crate::pools;
use crate::sessions::{self, Context, Draft};
use crate::store::Conn;
use crate::wakeups::Hints;

/// The most reports in one call.
pub const MAX_REPORTS: usize = 1_000;

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
    let (agent, reports) = (agent.to_owned(), Arc::new(reports));
    let (results, hints) = app
        .db
        .write("reports::take", move |conn| {
            let (agent, reports) = (agent.clone(), Arc::clone(&reports));
            Box::pin(async move { take_in(conn, &agent, incarnation, &reports).await })
        })
        .await?;
    app.hub.committed(hints);
    for result in &results {
        metrics::counter!("lessor_reports_total", "outcome" => result.outcome.as_str())
            .increment(1);
    }
    Ok(results)
}

async fn take_in(
    conn: &mut Conn,
    agent: &str,
    incarnation: i64,
    reports: &[Report],
) -> Result<(Vec<ReportResult>, Hints)> {
    let row = agents::lock_one(conn, agent)
        .await?
        .ok_or_else(|| Error::AgentNotRegistered(agent.to_owned()))?;
    row.fence(incarnation)?;
    let ids: Vec<_> = reports.iter().map(|report| report.session_id).collect();
    let mut drafts: Vec<Draft> = sessions::lock(conn, &ids)
        .await?
        .into_iter()
        .map(Draft::of)
        .collect();
    let now = sessions::now(conn).await?;
    let pool = pools::rules(conn, &row.pool).await?;
    let actor = Actor {
        actor_type: ActorType::Agent,
        name: agent.to_owned(),
    };
    let ctx = Context {
        now,
        pool: &pool,
        actor: &actor,
        epoch_floor: 0,
    };
    let assignee = row.assignee();
    let results = reports
        .iter()
        .map(|report| {
            let draft = drafts
                .iter_mut()
                .find(|draft| draft.row.id == report.session_id);
            let Some(draft) = draft else {
                return ReportResult {
                    session_id: report.session_id,
                    outcome: Outcome::Rejected,
                    code: Some(ReportCode::SessionNotFound),
                    state: None,
                    lease_epoch: None,
                };
            };
            let (outcome, code) = if sessions::report_is_valid(report) {
                match draft.report(&ctx, &assignee, report) {
                    Ok(()) => (Outcome::Accepted, None),
                    Err((outcome, code)) => (outcome, Some(code)),
                }
            } else {
                (Outcome::Rejected, Some(ReportCode::ValidationFailed))
            };
            ReportResult {
                session_id: report.session_id,
                outcome,
                code,
                state: Some(draft.row.state),
                lease_epoch: Some(draft.row.lease_epoch),
            }
        })
        .collect();
    let hints = sessions::write(conn, &drafts).await?;
    Ok((results, hints))
}
