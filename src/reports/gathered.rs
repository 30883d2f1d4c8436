//! Taking the reports of many agents in one transaction.
//!
//! Invariants:
//! - No agent waits for another one: in a batch only agents and sessions that nobody else has locked are
//!   looked at, and whoever is left out does it alone, outside of the batches.
//! - No agent's report can fail another one's: a batch that fails is taken apart.
//! - What an agent does not hold is locked only once its lease is known to hold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use lessor_protocol::{Actor, ActorType, Outcome, Report, ReportCode, ReportResult, tenant_of};
use uuid::Uuid;

use super::begin::{Begun, Lock, Pools, Reporter, begin, sessions_of};
use crate::agents;
use crate::error::{Error, Result};
use crate::leases::{ClaimOf, Renewal};
use crate::pools;
use crate::sessions::{self, Assignee, Context, Draft};
use crate::store::{Conn, Db};
use crate::wakeups::{Hints, Hub};

/// What an agent says in one call.
#[derive(Debug)]
pub struct Said {
    /// The agent.
    pub agent: String,
    /// Its incarnation, as it says.
    pub incarnation: i64,
    /// What it claims with it.
    pub claim: Option<ClaimOf>,
    /// Its reports, in their order.
    pub reports: Vec<Report>,
}

/// What became of one call that was taken with others. What is none was not done, because somebody else has
/// the agent or one of its sessions in hand, and is to be done alone.
#[derive(Debug, Default)]
pub struct Taken {
    /// That its lease was renewed, where it claims.
    pub renewal: Option<Renewal>,
    /// The results in the order of its reports.
    pub results: Option<Vec<ReportResult>>,
}

/// Takes what several agents say, who claim with it or do not. Each call has its own answer, in their order.
pub async fn take_together(
    db: &Db,
    hub: &Hub,
    pools: &Pools,
    calls: Vec<Arc<Said>>,
    they_claim: bool,
) -> Vec<Result<Taken>> {
    let count = calls.len();
    let lock = if they_claim { Lock::Renew } else { Lock::Free };
    match take(db, hub, pools, Arc::new(calls), lock).await {
        Ok(taken) => taken,
        Err(Error::DatabaseUnavailable(why)) => {
            let told = std::iter::repeat_with(|| Err(Error::DatabaseUnavailable(why.clone())));
            told.take(count).collect()
        }
        Err(error) => {
            tracing::debug!(%error, count, "reports are taken one by one");
            std::iter::repeat_with(|| Ok(Taken::default()))
                .take(count)
                .collect()
        }
    }
}

/// Takes what one agent says, and waits for whoever has its sessions in hand.
///
/// # Errors
/// `AgentNotRegistered`, `AgentSuperseded`, `LeaseExpired`, `DatabaseUnavailable`.
pub async fn take_alone(db: &Db, hub: &Hub, call: Arc<Said>) -> Result<Vec<ReportResult>> {
    let calls = Arc::new(vec![call]);
    let taken = take(db, hub, &Pools::default(), calls, Lock::Wait).await?;
    match taken.into_iter().next() {
        Some(taken) => Ok(taken?.results.unwrap_or_default()),
        None => Err(Error::Internal("a call has no answer".to_owned())),
    }
}

async fn take(
    db: &Db,
    hub: &Hub,
    pools: &Pools,
    calls: Arc<Vec<Arc<Said>>>,
    lock: Lock,
) -> Result<Vec<Result<Taken>>> {
    let known = Arc::new(pools.known());
    let (first, rest) = (Arc::clone(&calls), calls);
    let (taken, hints) = db
        .write_in_flights(
            "reports::take",
            move |conn| {
                let (calls, known) = (Arc::clone(&first), Arc::clone(&known));
                Box::pin(async move { begin(conn, &calls, lock, &known).await })
            },
            move |conn, begun| {
                let (calls, pools) = (Arc::clone(&rest), pools.clone());
                Box::pin(async move { take_in(conn, &pools, &calls, lock, begun).await })
            },
        )
        .await?;
    hub.committed(hints);
    Ok(taken)
}

async fn take_in(
    conn: &mut Conn,
    pools: &Pools,
    calls: &[Arc<Said>],
    lock: Lock,
    begun: Begun,
) -> Result<(Vec<Result<Taken>>, Hints)> {
    let waits = lock == Lock::Wait;
    let Begun {
        reporters,
        mut renewals,
        mut rows,
        mut rules,
    } = begun;
    let by_name: HashMap<&str, &Reporter> =
        reporters.iter().map(|r| (r.name.as_str(), r)).collect();
    let fenced: Vec<Result<&Reporter>> = calls
        .iter()
        .map(|call| fence(call, by_name.get(call.agent.as_str()).copied()))
        .collect();
    let may = calls.iter().zip(&fenced).filter(|(_, f)| f.is_ok());
    let had: HashSet<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut others = sessions_of(may.map(|(call, _)| call));
    others.retain(|id| !had.contains(id));
    {
        let shared: &Conn = conn;
        let lock = async {
            if waits {
                sessions::lock(shared, &others).await
            } else {
                sessions::lock_free(shared, &others).await
            }
        };
        let of = reporters.iter().map(|r| r.pool.as_str());
        let unknown = of.filter(|pool| !rules.contains_key(*pool));
        let (more_rows, more_rules) = futures_util::join!(lock, pools::rules_of(shared, unknown));
        rows.extend(more_rows?);
        rules.extend(more_rules?);
    }
    pools.keep(reporters.iter().map(|r| r.pool.as_str()));
    let mut drafts: BTreeMap<Uuid, Draft> = rows
        .into_iter()
        .map(|row| (row.id, Draft::of(row)))
        .collect();
    let mut taken = Vec::with_capacity(calls.len());
    for (call, fenced) in calls.iter().zip(fenced) {
        let reporter = match fenced {
            Ok(reporter) => reporter,
            Err(Error::AgentNotRegistered(_)) if !waits => {
                taken.push(Ok(Taken::default()));
                continue;
            }
            Err(error) => {
                taken.push(Err(error));
                continue;
            }
        };
        let renewal = renewals.remove(&call.agent);
        if lock == Lock::Renew && renewal.is_none() {
            // Renewed for an earlier call: an agent is renewed once by a statement.
            taken.push(Ok(Taken::default()));
            continue;
        }
        let has_all = |call: &Said| {
            call.reports
                .iter()
                .all(|r| drafts.contains_key(&r.session_id))
        };
        if !waits && !has_all(call) {
            taken.push(Ok(Taken {
                renewal,
                results: None,
            }));
            continue;
        }
        let actor = Actor {
            actor_type: ActorType::Agent,
            name: call.agent.clone(),
        };
        let ctx = Context {
            now: reporter.now,
            pool: &rules[&reporter.pool],
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
        taken.push(Ok(Taken {
            renewal,
            results: Some(results),
        }));
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
