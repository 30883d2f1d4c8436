//! Taking the reports of many agents in one transaction.
//!
//! Invariants:
//! - No agent waits for another one: in a batch only agents and sessions that nobody else has locked are
//!   looked at, and whoever is left out does it alone, outside of the batches.
//! - No agent's report can fail another one's: a batch that fails is taken apart.
//! - What an agent does not hold is locked only once its lease is known to hold.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Text, Timestamptz};
use diesel_async::RunQueryDsl;
use lessor_protocol::{
    Actor, ActorType, Outcome, PoolSpec, Report, ReportCode, ReportResult, tenant_of,
};
use uuid::Uuid;

use crate::agents;
use crate::error::{Error, Result};
use crate::leases::{self, Asked, ClaimOf, Renewal};
use crate::pools;
use crate::sessions::{self, Assignee, Context, Draft, SessionRow};
use crate::store::{Conn, Db, Statement};
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

/// How the agents of a batch are locked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lock {
    /// Whoever has one of them is waited for.
    Wait,
    /// Those that nobody else has.
    Free,
    /// Those that nobody else has, whose leases are renewed with it: all of them claim.
    Renew,
}

/// The pools of the agents of the last batch, whose rules the next one reads with its first statements. A few: the
/// rules of others are read once it is known whose they are.
#[derive(Clone, Debug, Default)]
pub struct Pools(Arc<Mutex<BTreeSet<String>>>);

impl Pools {
    const MOST: usize = 16;

    fn known(&self) -> BTreeSet<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn keep<'a>(&self, pools: impl Iterator<Item = &'a str>) {
        let pools: BTreeSet<&str> = pools.collect();
        let pools = pools.into_iter().take(Self::MOST).map(ToOwned::to_owned);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = pools.collect();
    }
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

/// The agents of a batch, locked, by the order of their names.
async fn lock_agents(mut conn: &Conn, calls: &[Arc<Said>], lock: Lock) -> Result<Vec<Reporter>> {
    let names: Vec<String> = calls.iter().map(|call| call.agent.clone()).collect();
    let others = if lock == Lock::Wait {
        ""
    } else {
        " SKIP LOCKED"
    };
    let text = include_str!("lock_agents.sql").replace("{others}", others);
    Ok(Statement::new(&text)
        .bind::<Array<Text>, _>(names)
        .load(&mut conn)
        .await?)
}

/// The same of those who claim with it, with what each is told of its lease.
async fn renew_agents(
    conn: &Conn,
    calls: &[Arc<Said>],
) -> Result<(Vec<Reporter>, HashMap<String, Renewal>)> {
    let mut seen = HashSet::new();
    let asked: Vec<Asked> = calls
        .iter()
        .filter(|call| seen.insert(&call.agent))
        .map(|call| (call.agent.clone(), call.incarnation, call.claim))
        .collect();
    let renewed = leases::renew_free(conn, &asked).await?;
    let renewed = renewed.into_iter().map(|renewed| {
        let reporter = Reporter {
            name: renewed.agent.clone(),
            pool: renewed.renewal.pool.clone(),
            resource_domain: renewed.renewal.resource_domain.clone(),
            incarnation: renewed.incarnation,
            live: true,
            has_let_lapse: renewed.has_let_lapse,
            now: renewed.now,
        };
        (reporter, (renewed.agent, renewed.renewal))
    });
    Ok(renewed.unzip())
}

/// What the first flight of a batch finds.
struct Begun {
    reporters: Vec<Reporter>,
    renewals: HashMap<String, Renewal>,
    /// Sessions that these agents hold.
    rows: Vec<SessionRow>,
    rules: BTreeMap<String, PoolSpec>,
}

/// Locks who reports, and at the same time what they hold, if nobody is waited for.
async fn begin(
    conn: &Conn,
    calls: &[Arc<Said>],
    lock: Lock,
    known: &BTreeSet<String>,
) -> Result<Begun> {
    let agents = async {
        if lock == Lock::Renew {
            renew_agents(conn, calls).await
        } else {
            Ok((lock_agents(conn, calls, lock).await?, HashMap::new()))
        }
    };
    if lock == Lock::Wait {
        let (reporters, renewals) = agents.await?;
        let (rows, rules) = (Vec::new(), BTreeMap::new());
        return Ok(Begun {
            reporters,
            renewals,
            rows,
            rules,
        });
    }
    let ids: Vec<Uuid> = sessions_of(calls.iter());
    let of: Vec<&str> = calls.iter().map(|call| call.agent.as_str()).collect();
    let (agents, rows, rules) = futures_util::join!(
        agents,
        sessions::lock_assigned_free(conn, &ids, of),
        pools::rules_of_some(conn, known),
    );
    let ((reporters, renewals), rows, rules) = (agents?, rows?, rules?);
    Ok(Begun {
        reporters,
        renewals,
        rows,
        rules,
    })
}

fn sessions_of<'a>(calls: impl Iterator<Item = &'a Arc<Said>>) -> Vec<Uuid> {
    calls
        .flat_map(|call| call.reports.iter().map(|report| report.session_id))
        .collect()
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
