//! Taking the reports of many agents in one transaction.
//!
//! Invariants:
//! - No agent waits for another one: in a batch only agents and sessions that nobody else has locked are
//!   looked at, and whoever is left out does it alone, outside of the batches.
//! - No agent's report can fail another one's: a batch that fails is taken apart.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Text, Timestamptz};
use diesel_async::RunQueryDsl;
use lessor_protocol::{Actor, ActorType, Outcome, Report, ReportCode, ReportResult, tenant_of};
use uuid::Uuid;

use crate::agents;
use crate::error::{Error, Result};
use crate::pools;
use crate::sessions::{self, Assignee, Context, Draft};
use crate::store::{Conn, Db, Statement};
use crate::wakeups::{Hints, Hub};

/// What an agent says in one call.
#[derive(Debug)]
pub struct Said {
    /// The agent.
    pub agent: String,
    /// Its incarnation, as it says.
    pub incarnation: i64,
    /// Its reports, in their order.
    pub reports: Vec<Report>,
}

/// What became of one call: the results in the order of its reports, or nothing was taken because
/// somebody else has one of its sessions in hand.
pub type Taken = Option<Vec<ReportResult>>;

/// Takes what several agents say. Each call has its own answer, in their order.
pub async fn take_together(db: &Db, hub: &Hub, calls: Vec<Arc<Said>>) -> Vec<Result<Taken>> {
    let count = calls.len();
    match take(db, hub, Arc::new(calls), false).await {
        Ok(taken) => taken,
        Err(Error::DatabaseUnavailable(why)) => {
            let told = std::iter::repeat_with(|| Err(Error::DatabaseUnavailable(why.clone())));
            told.take(count).collect()
        }
        Err(error) => {
            tracing::debug!(%error, count, "reports are taken one by one");
            std::iter::repeat_with(|| Ok(None)).take(count).collect()
        }
    }
}

/// Takes what one agent says, and waits for whoever has its sessions in hand.
///
/// # Errors
/// `AgentNotRegistered`, `AgentSuperseded`, `LeaseExpired`, `DatabaseUnavailable`.
pub async fn take_alone(db: &Db, hub: &Hub, call: Arc<Said>) -> Result<Vec<ReportResult>> {
    let taken = take(db, hub, Arc::new(vec![call]), true).await?;
    match taken.into_iter().next() {
        Some(taken) => Ok(taken?.unwrap_or_default()),
        None => Err(Error::Internal("a call has no answer".to_owned())),
    }
}

async fn take(
    db: &Db,
    hub: &Hub,
    calls: Arc<Vec<Arc<Said>>>,
    waits: bool,
) -> Result<Vec<Result<Taken>>> {
    let (taken, hints) = db
        .write_often("reports::take", move |conn| {
            let calls = Arc::clone(&calls);
            Box::pin(async move { take_in(conn, &calls, waits).await })
        })
        .await?;
    hub.committed(hints);
    Ok(taken)
}

#[derive(diesel::QueryableByName)]
struct Reporter {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    pool: String,
    #[diesel(sql_type = Text)]
    resource_domain: String,
    #[diesel(sql_type = BigInt)]
    incarnation: i64,
    #[diesel(sql_type = Bool)]
    live: bool,
    #[diesel(sql_type = Bool)]
    has_let_lapse: bool,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

impl Reporter {
    fn assignee(&self) -> Assignee {
        Assignee {
            name: self.name.clone(),
            incarnation: self.incarnation,
            resource_domain: self.resource_domain.clone(),
        }
    }
}

async fn take_in(
    conn: &mut Conn,
    calls: &[Arc<Said>],
    waits: bool,
) -> Result<(Vec<Result<Taken>>, Hints)> {
    let names: Vec<String> = calls.iter().map(|call| call.agent.clone()).collect();
    let others = if waits { "" } else { " SKIP LOCKED" };
    let text = include_str!("lock_agents.sql").replace("{others}", others);
    let reporters: Vec<Reporter> = Statement::new(&text)
        .bind::<Array<Text>, _>(names)
        .load(conn)
        .await?;
    let by_name: HashMap<&str, &Reporter> =
        reporters.iter().map(|r| (r.name.as_str(), r)).collect();
    // Before any session is locked for them.
    let fenced: Vec<Result<&Reporter>> = calls
        .iter()
        .map(|call| fence(call, by_name.get(call.agent.as_str()).copied()))
        .collect();
    let may = calls.iter().zip(&fenced).filter(|(_, f)| f.is_ok());
    let ids: Vec<Uuid> = may
        .flat_map(|(call, _)| call.reports.iter().map(|report| report.session_id))
        .collect();
    let rows = if waits {
        sessions::lock(conn, &ids).await?
    } else {
        sessions::lock_free(conn, &ids).await?
    };
    let mut drafts: BTreeMap<Uuid, Draft> = rows
        .into_iter()
        .map(|row| (row.id, Draft::of(row)))
        .collect();
    let pools = pools::rules_of(conn, reporters.iter().map(|r| r.pool.as_str())).await?;
    let mut taken = Vec::with_capacity(calls.len());
    for (call, fenced) in calls.iter().zip(fenced) {
        let reporter = match fenced {
            Ok(reporter) => reporter,
            Err(Error::AgentNotRegistered(_)) if !waits => {
                taken.push(Ok(None));
                continue;
            }
            Err(error) => {
                taken.push(Err(error));
                continue;
            }
        };
        let has_all = |call: &Said| {
            call.reports
                .iter()
                .all(|r| drafts.contains_key(&r.session_id))
        };
        if !waits && !has_all(call) {
            taken.push(Ok(None));
            continue;
        }
        let actor = Actor {
            actor_type: ActorType::Agent,
            name: call.agent.clone(),
        };
        let ctx = Context {
            now: reporter.now,
            pool: &pools[&reporter.pool],
            actor: &actor,
            epoch_floor: 0,
        };
        let assignee = reporter.assignee();
        let results = call
            .reports
            .iter()
            .map(|report| {
                // Another tenant's is as one that is not there.
                let draft = drafts.get_mut(&report.session_id);
                let draft =
                    draft.filter(|d| tenant_of(&d.row.agent_pool) == tenant_of(&reporter.pool));
                judge(&ctx, (&assignee, reporter.has_let_lapse), report, draft)
            })
            .collect();
        taken.push(Ok(Some(results)));
    }
    let drafts: Vec<Draft> = drafts.into_values().collect();
    let hints = sessions::write(conn, &drafts).await?;
    Ok((taken, hints))
}

/// The locked row of who may report.
fn fence<'r>(call: &Said, reporter: Option<&'r Reporter>) -> Result<&'r Reporter> {
    let reporter = reporter.ok_or_else(|| Error::AgentNotRegistered(call.agent.clone()))?;
    agents::fence(
        &call.agent,
        call.incarnation,
        reporter.incarnation,
        reporter.live,
    )?;
    Ok(reporter)
}

/// One report, by the pure rules of sessions.
fn judge(
    ctx: &Context<'_>,
    of: (&Assignee, bool),
    report: &Report,
    draft: Option<&mut Draft>,
) -> ReportResult {
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
        match draft.report(ctx, of, report) {
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
}
