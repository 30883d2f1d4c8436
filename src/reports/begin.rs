//! How a batch of reports begins: its agents are locked, and in the same flight what they hold.
//!
//! Whoever reports on something else, or whose agent others have in hand, is found out only after that. So a session
//! may be locked here for a moment without its agent, of whom nothing is written then; a round that passes by it
//! looks at that agent again at once, as it sees that something is due to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Text, Timestamptz};
use diesel_async::RunQueryDsl;
use lessor_protocol::PoolSpec;
use uuid::Uuid;

use super::gathered::Said;
use crate::error::Result;
use crate::leases::{self, Asked, Renewal};
use crate::pools;
use crate::sessions::{self, Assignee, SessionRow};
use crate::store::{Conn, Statement};

/// How the agents of a batch are locked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lock {
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

    /// Which they are.
    pub fn known(&self) -> BTreeSet<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// Keeps those of a batch.
    pub fn keep<'a>(&self, pools: impl Iterator<Item = &'a str>) {
        let pools: BTreeSet<&str> = pools.collect();
        let pools = pools.into_iter().take(Self::MOST).map(ToOwned::to_owned);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = pools.collect();
    }
}

/// Who reports, as its row was locked.
#[derive(diesel::QueryableByName)]
#[allow(missing_docs, reason = "the migrations comment on every column")]
pub struct Reporter {
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Text)]
    pub pool: String,
    #[diesel(sql_type = Text)]
    pub resource_domain: String,
    #[diesel(sql_type = BigInt)]
    pub incarnation: i64,
    #[diesel(sql_type = Bool)]
    pub live: bool,
    #[diesel(sql_type = Bool)]
    pub has_let_lapse: bool,
    #[diesel(sql_type = Timestamptz)]
    pub now: DateTime<Utc>,
}

impl Reporter {
    /// As whom its reports are judged.
    pub fn assignee(&self) -> Assignee {
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
pub struct Begun {
    /// The agents that were locked.
    pub reporters: Vec<Reporter>,
    /// What those are told whose leases were renewed, by their names.
    pub renewals: HashMap<String, Renewal>,
    /// Sessions that these agents hold.
    pub rows: Vec<SessionRow>,
    /// Of pools of the last batch.
    pub rules: BTreeMap<String, PoolSpec>,
}

/// Locks who reports, and at the same time what they hold, if nobody is waited for.
///
/// # Errors
/// When the database refuses.
pub async fn begin(
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

/// The sessions that are reported on.
pub fn sessions_of<'a>(calls: impl Iterator<Item = &'a Arc<Said>>) -> Vec<Uuid> {
    calls
        .flat_map(|call| call.reports.iter().map(|report| report.session_id))
        .collect()
}
