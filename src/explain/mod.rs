//! Explaining why a session waits: what it waits for, where it stands in its queue, what each agent
//! of its pool could do about it, and what would help.
//!
//! Invariants:
//! - An explanation is one snapshot, reads only, and locks nothing: no claim ever waits for it.
//! - Its cost has limits: places in queues are counted so far, and so many agents are looked at and
//!   listed, however much waits.
//! - It decides nothing. The rules are those of `sessions`, `claims` and `leases`, asked as questions;
//!   tests hold the answers against what agents are really given.

mod details;
pub mod http;
mod prose;
mod state;
#[cfg(test)]
mod state_tests;
mod store;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use lessor_protocol::{
    AgentExplained, AgentVerdict, DesiredState, Explain, Labels, OnLost, PoolSpec, SessionState,
    WaitingFor,
};
use uuid::Uuid;

use crate::app::App;
use crate::drains::{self, Target};
use crate::error::{Error, Result};
use crate::pools;
use crate::sessions::{self, SessionRow};
use crate::store::Conn;

use prose::Case;
use state::{Agent, Needs, Standing};
use store::Facts;

/// How much of an explanation is worked out.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Agents that are listed of each session.
    agents: usize,
    /// How far places in queues are counted.
    position: i64,
    /// Whether other owners and labels that nobody has are looked for.
    more: bool,
}

/// Of a session that is asked for by itself.
const ONE: Limits = Limits {
    agents: 200,
    position: 10_000,
    more: true,
};

/// Of each of a list.
const LISTED: Limits = Limits {
    agents: 20,
    position: 1_000,
    more: false,
};

/// The most agents of a pool that are looked at, as `agents.sql` says.
const MAX_AGENTS: usize = 20_000;

/// Why a session waits, by its id or its name.
///
/// # Errors
/// `SessionNotFound`, `DatabaseUnavailable`.
pub async fn session(app: &App, id_or_name: &str) -> Result<Explain> {
    let name = id_or_name.to_owned();
    let explained = app
        .db
        .snapshot("explain::session", move |conn| {
            let name = name.clone();
            Box::pin(async move {
                let row = sessions::find(conn, &name).await?;
                let row = row.ok_or_else(|| Error::SessionNotFound(name.clone()))?;
                let pool = row.agent_pool.clone();
                let explained = explain(conn, &pool, vec![row], ONE).await?.pop();
                explained.ok_or(Error::SessionNotFound(name))
            })
        })
        .await?;
    count(std::slice::from_ref(&explained));
    Ok(explained)
}

/// Counts explanations that are given, which a transaction that is run again would not.
fn count(explained: &[Explain]) {
    for one in explained {
        let waiting_for = one.waiting_for.as_str();
        metrics::counter!("lessor_explanations_total", "waiting_for" => waiting_for).increment(1);
    }
}

/// Why the sessions wait that a drain still has to hand over, newest first.
///
/// # Errors
/// `NoDrain`, `DatabaseUnavailable`.
pub async fn drain(
    app: &App,
    target: Target,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Explain>> {
    let explained = app
        .db
        .snapshot("explain::drain", move |conn| {
            let target = target.clone();
            Box::pin(async move {
                let (pool, ids) = drains::still_held(conn, &target, after, limit).await?;
                let rows = sessions::by_ids(conn, ids).await?;
                explain(conn, &pool, rows, LISTED).await
            })
        })
        .await?;
    count(&explained);
    Ok(explained)
}

/// Explains sessions of one pool.
async fn explain(
    conn: &mut Conn,
    pool: &str,
    rows: Vec<SessionRow>,
    limits: Limits,
) -> Result<Vec<Explain>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let rules = pools::rules(conn, pool).await?;
    let ids = rows.iter().map(|row| row.id).collect();
    let facts = store::facts(conn, ids, limits.position).await?;
    let selectors: Vec<Labels> = rows
        .iter()
        .map(|row| &row.requires)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .cloned()
        .collect();
    let agents = store::agents(conn, pool, &selectors).await?;
    let fleet = Fleet {
        place_of: selectors.into_iter().zip(1..).collect(),
        agents,
        lease_ttl_seconds: rules.lease_ttl_seconds,
    };
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        // Deleted between two statements it cannot be: this is one snapshot.
        let Some(facts) = facts.get(&row.id) else {
            continue;
        };
        let needs = Needs::of(row, facts.now);
        let judged = fleet.judge(row, needs.as_ref(), (facts.now, limits.agents));
        found.push((row, facts, needs, judged));
    }
    let listed = found.iter().flat_map(|(_, _, _, judged)| &judged.listed);
    let names: BTreeSet<String> = listed
        .map(|(at, _)| fleet.agents[*at].0.name.clone())
        .collect();
    let facts_of = store::details(conn, names.into_iter().collect()).await?;

    let mut explained = Vec::with_capacity(found.len());
    for (row, facts, needs, judged) in found {
        let listed: Vec<AgentExplained> = judged
            .listed
            .iter()
            .map(|(at, verdict)| {
                let agent = &fleet.agents[*at].0;
                let of = (agent, facts_of.get(&agent.name));
                AgentExplained {
                    agent: agent.name.clone(),
                    verdict: *verdict,
                    detail: details::detail(of, (row, needs.as_ref()), *verdict),
                }
            })
            .collect();
        let standing = standing(row, needs.clone(), facts, &rules);
        let (waiting_for, mut next_attempt_at) = state::waiting_for(&standing);
        let nobody = !judged.counts.contains_key(&AgentVerdict::Eligible);
        if waiting_for == WaitingFor::Agent && nobody {
            next_attempt_at = next_attempt_at.or(judged.not_passed_over_at);
        }
        let mut case = Case {
            row,
            pool: &rules,
            facts,
            needs: needs.as_ref(),
            waiting_for,
            next_attempt_at,
            queue_position: position(facts, needs.as_ref(), limits.position),
            counts: judged.counts,
            listed: &listed,
            other_owners: 0,
            unmet: Vec::new(),
            more_agents: fleet.agents.len() >= MAX_AGENTS,
        };
        if limits.more && waiting_for == WaitingFor::Agent {
            let owner = row.owner.as_deref().unwrap_or_default();
            if facts.pool_position.is_some() {
                case.other_owners =
                    store::other_owners(conn, pool, &facts.requires_key, owner).await?;
            }
            if needs.as_ref().is_some_and(Needs::is_for_all) {
                case.unmet = store::unmet(conn, pool, &row.requires).await?;
            }
        }
        let (summary, hints) = (case.summary(), case.hints());
        explained.push(Explain {
            session_id: row.id,
            state: row.state,
            desired_state: row.desired_state,
            waiting_for,
            summary,
            queue_position: case.queue_position,
            next_attempt_at,
            agents: listed,
            hints,
        });
    }
    Ok(explained)
}

/// Its place in the queue in which it waits; of two, that of its own domain while that is live.
fn position(facts: &Facts, needs: Option<&Needs>, most: i64) -> Option<i64> {
    let elsewhere = needs.is_some_and(|needs| needs.elsewhere) && !facts.domain_live;
    let position = if elsewhere {
        facts.pool_position
    } else {
        facts.domain_position.or(facts.pool_position)
    };
    position.filter(|position| *position <= most)
}

fn standing(row: &SessionRow, needs: Option<Needs>, facts: &Facts, rules: &PoolSpec) -> Standing {
    Standing {
        next: row.next(),
        offered_until: row.offered_until,
        assigned: row.assigned_agent_id.is_some(),
        is_behind: row.observed_generation < row.generation,
        phase_deadline_at: row.phase_deadline_at,
        drain_deadline_at: facts.drain_deadline_at,
        held_back_until: row.held_back_until,
        needs,
        domain_live: facts.domain_live,
        decided_at: decided_at(row, facts, rules),
    }
}

/// When something is decided about what a lost domain has left, as `leases` does it.
fn decided_at(row: &SessionRow, facts: &Facts, rules: &PoolSpec) -> Option<DateTime<Utc>> {
    let wanted_end = row.desired_state == DesiredState::Terminated;
    let ends = row.state == SessionState::Terminating;
    let decides = wanted_end
        || match rules.on_lost {
            OnLost::Wait => false,
            OnLost::Fail => true,
            OnLost::Restart => ends || row.desired_state == DesiredState::Running,
        };
    facts
        .lost_since
        .filter(|_| decides && facts.brake_since.is_none())
        .map(|since| since + state::seconds(rules.adopt_timeout_seconds))
}

/// The agents of a pool, as one snapshot has them.
struct Fleet {
    agents: Vec<(Agent, Vec<i64>)>,
    /// The place of each selector among those that the agents were compared with.
    place_of: HashMap<Labels, i64>,
    lease_ttl_seconds: f64,
}

/// What a fleet is to a session.
struct Judged {
    counts: BTreeMap<AgentVerdict, usize>,
    /// The places of the agents that are listed.
    listed: Vec<(usize, AgentVerdict)>,
    /// When the first of those that are passed over is not any more.
    not_passed_over_at: Option<DateTime<Utc>>,
}

impl Fleet {
    fn judge(
        &self,
        row: &SessionRow,
        needs: Option<&Needs>,
        (now, most): (DateTime<Utc>, usize),
    ) -> Judged {
        let mut judged = Judged {
            counts: BTreeMap::new(),
            listed: Vec::new(),
            not_passed_over_at: None,
        };
        let time = (now, self.lease_ttl_seconds);
        let place = self.place_of.get(&row.requires).copied().unwrap_or(0);
        let mut others = Vec::new();
        for (at, (agent, lacks)) in self.agents.iter().enumerate() {
            if row.assigned_agent_id.as_ref() == Some(&agent.name) {
                let verdict = state::holders_verdict(agent, time);
                judged.listed.push((at, verdict));
                continue;
            }
            let Some(needs) = needs else { continue };
            let verdict = state::verdict(agent, needs, lacks.contains(&place), time);
            *judged.counts.entry(verdict).or_default() += 1;
            if verdict == AgentVerdict::PassedOver {
                let until = passed_over_until(agent, needs);
                judged.not_passed_over_at = [judged.not_passed_over_at, until]
                    .into_iter()
                    .flatten()
                    .min();
            }
            let near = needs.domain.as_ref() == Some(&agent.resource_domain);
            others.push((telling(verdict, near), at, verdict));
        }
        let room = most.saturating_sub(judged.listed.len());
        if others.len() > room && room > 0 {
            others.select_nth_unstable(room - 1);
            others.truncate(room);
        }
        others.sort_unstable();
        let others = others.into_iter().map(|(_, at, verdict)| (at, verdict));
        judged.listed.extend(others);
        judged
    }
}

/// Until when an agent is passed over, whatever the reason.
fn passed_over_until(agent: &Agent, needs: &Needs) -> Option<DateTime<Utc>> {
    let avoided = needs.avoid.as_ref();
    let avoided = avoided.filter(|(name, _)| *name == agent.name);
    let kept = needs.kept_for.as_ref();
    let kept = kept.filter(|(name, _)| *name != agent.name);
    [avoided, kept]
        .into_iter()
        .flatten()
        .map(|(_, until)| *until)
        .chain(agent.passed_over_until)
        .max()
}

/// Those that can take it come first, then those that lack least; agents of its domain before others.
fn telling(verdict: AgentVerdict, near: bool) -> u8 {
    match (verdict, near) {
        (AgentVerdict::Eligible, _) => 0,
        (AgentVerdict::NotPolling, _) => 1,
        (AgentVerdict::PassedOver, _) => 2,
        (AgentVerdict::Full, _) => 3,
        (AgentVerdict::Cordoned, true) => 4,
        (AgentVerdict::Expired, true) => 5,
        (AgentVerdict::LabelMismatch, _) => 6,
        (AgentVerdict::Cordoned, false) => 7,
        (AgentVerdict::OtherDomain, _) => 8,
        (AgentVerdict::Expired, false) => 9,
    }
}
