//! What a change makes worth looking at.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use lessor_protocol::SessionState;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::sessions::{Next, Reach, SessionRow};

/// What is worth looking at in one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolHint {
    /// Sessions that any agent of the pool could start: about how many.
    #[serde(default, rename = "s")]
    pub starts: u32,
    /// Whether some of them ask for labels, so that many agents should be looked at for them.
    #[serde(default, rename = "l")]
    pub selects: bool,
    /// Domains with work.
    #[serde(default, rename = "d")]
    pub domains: BTreeSet<String>,
    /// Agents with work on what they hold, or whose standing has changed.
    #[serde(default, rename = "a")]
    pub agents: BTreeSet<String>,
    /// When the oldest of what any agent could start was queued, where that is known.
    #[serde(default, rename = "o", skip_serializing_if = "Option::is_none")]
    pub oldest: Option<DateTime<Utc>>,
}

impl PoolHint {
    /// Adds another one to it.
    pub fn merge(&mut self, other: Self) {
        self.starts = self.starts.saturating_add(other.starts);
        self.selects |= other.selects;
        self.domains.extend(other.domains);
        self.agents.extend(other.agents);
        self.oldest = earlier(self.oldest, other.oldest);
    }
}

fn earlier(a: Option<DateTime<Utc>>, b: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// What a transaction makes worth looking at, once it has committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// By pool.
    #[serde(default, rename = "p")]
    pub pools: BTreeMap<String, PoolHint>,
    /// Sessions that changed.
    #[serde(default, rename = "c")]
    pub changed: BTreeSet<Uuid>,
    /// Whether events have got their positions.
    #[serde(default, rename = "e", skip_serializing_if = "std::ops::Not::not")]
    pub events: bool,
    /// What became of migrations: counted once it has committed, and of no interest to others.
    #[serde(skip)]
    pub migrations: Vec<&'static str>,
}

impl Hints {
    /// What these sessions, as they are now, make worth looking at.
    pub fn of<'a>(rows: impl Iterator<Item = &'a SessionRow>) -> Self {
        let mut hints = Self::default();
        for row in rows {
            hints.changed.insert(row.id);
            if row.assigned_agent_id.is_none() && row.held_back_until.is_none() {
                hints.add_claimable(row);
            } else if let (Some(agent), Some(_), 0) =
                (&row.assigned_agent_id, row.deliver_at, row.deliveries)
            {
                // News for its holder; what has been told before is repeated by a timer.
                hints.pool(&row.agent_pool).agents.insert(agent.clone());
            }
        }
        hints
    }

    /// What sessions that are new make worth looking at: nobody can wait for a change of them yet.
    pub fn of_new<'a>(rows: impl Iterator<Item = &'a SessionRow>) -> Self {
        let mut hints = Self::of(rows);
        hints.changed.clear();
        hints
    }

    fn add_claimable(&mut self, row: &SessionRow) {
        if row.is_startable_elsewhere() {
            self.add_start(row);
        }
        match row.next() {
            Next::Work {
                reach: Reach::Pool, ..
            } => self.add_start(row),
            Next::Work {
                reach: Reach::Domain,
                ..
            } => {
                if let Some(agent) = &row.reserved_for {
                    // Kept for one agent: the others need not look.
                    self.pool(&row.agent_pool).agents.insert(agent.clone());
                } else if let Some(domain) = &row.resource_domain {
                    self.pool(&row.agent_pool).domains.insert(domain.clone());
                }
            }
            Next::Work {
                reach: Reach::Assignee,
                ..
            }
            | Next::Nothing
            | Next::End => {}
        }
        debug_assert!(row.state != SessionState::Terminated || row.next() == Next::Nothing);
    }

    fn add_start(&mut self, row: &SessionRow) {
        let hint = self.pool(&row.agent_pool);
        hint.starts = hint.starts.saturating_add(1);
        hint.oldest = earlier(hint.oldest, Some(row.queued_at));
        hint.selects |=
            !row.requires.is_empty() || !row.prefers.is_empty() || row.start_domain.is_some();
    }

    /// The hint of one pool.
    pub fn pool(&mut self, pool: &str) -> &mut PoolHint {
        self.pools.entry(pool.to_owned()).or_default()
    }

    /// Adds another transaction's.
    pub fn merge(&mut self, other: Self) {
        for (pool, hint) in other.pools {
            self.pools.entry(pool).or_default().merge(hint);
        }
        self.changed.extend(other.changed);
        self.events |= other.events;
        self.migrations.extend(other.migrations);
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.changed.is_empty() && !self.events
    }
}
