//! Where sessions would go if agents were lost, pure.
//!
//! The rules are those of a claim: what a domain has to do goes first and needs a slot only to wake
//! what was hibernated; then what any agent may start, which does. Each goes to the agent that the
//! pool's placement prefers at that moment. Whose turn it is among owners is left out: it decides who
//! is first, and not how much fits.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use lessor_protocol::{
    Action, DesiredState, Labels, OnLost, Placement, SessionState, SimulatedMove, SimulatedWait,
};
use uuid::Uuid;

use super::queue::{Anywhere, Queues};
use crate::sessions::{DOMAIN_WORK, Next, Reach, Situation, next};

/// The most different selectors, preferences included, that are planned for.
pub const MAX_SELECTORS: usize = 64;

/// An agent of the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Its name; ties go by it.
    pub name: String,
    /// Its domain.
    pub resource_domain: String,
    /// Whether its lease holds.
    pub live: bool,
    /// Whether it is given new sessions.
    pub active: bool,
    /// Its slots.
    pub capacity: i32,
    /// Those in use.
    pub slots_used: i32,
    /// Its labels.
    pub labels: Labels,
}

/// A session that a lost agent holds or is offered, or that waits today.
#[derive(Clone, Debug, PartialEq)]
pub struct Affected {
    /// The session.
    pub id: Uuid,
    /// The lost agent.
    pub holder: Option<String>,
    /// Its domain.
    pub resource_domain: Option<String>,
    /// What was last observed.
    pub state: SessionState,
    /// What is wanted.
    pub desired: DesiredState,
    /// Whether its domain was given up already.
    pub domain_lost: bool,
    /// Whose it is.
    pub owner: Option<String>,
    /// Higher goes first.
    pub priority: i32,
    /// The order within a priority.
    pub queued_at: DateTime<Utc>,
    /// Until when it is held back.
    pub held_back_until: Option<DateTime<Utc>>,
    /// The only domain of which agents may start it.
    pub start_domain: Option<String>,
    /// Labels that an agent must have to start it.
    pub requires: Labels,
    /// Labels that it should have.
    pub prefers: Labels,
}

/// What the pool says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How sessions are shared out.
    pub placement: Placement,
    /// What becomes of a lost domain.
    pub on_lost: OnLost,
    /// After how long.
    pub adopt_timeout_seconds: f64,
}

/// What would become of the sessions: each of them that has something to do is in one of the lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What would go to an agent.
    pub moves: Vec<SimulatedMove>,
    /// What would wait.
    pub waiting: Vec<SimulatedWait>,
    /// Whether there were more different selectors than are planned for.
    pub too_many_selectors: bool,
}

/// How a session would be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// As the work of its domain, by the place of its kind.
    Domain(usize),
    /// To any agent of the pool.
    Start,
    /// To any agent of the pool, once its lost domain is given up.
    Restart,
}

/// Plans. `agents` are those of the pool without the lost ones; `places` says how many more sessions
/// may run of each owner that has a limit.
#[must_use]
pub fn plan(
    agents: &[Agent],
    mut sessions: Vec<Affected>,
    rules: &Rules,
    mut places: HashMap<String, i64>,
    braked: bool,
) -> Plan {
    let mut plan = Plan::default();
    let live: BTreeSet<&str> = domains(agents, |agent| agent.live);
    let open: BTreeSet<&str> = domains(agents, |agent| agent.live && agent.active);
    let mut queues = Queues::of(agents, rules.placement);
    let mut tiers: Vec<(Tier, Action, usize)> = Vec::new();
    for (at, session) in sessions.iter().enumerate() {
        match tier(session, &live, rules) {
            Some(Ok((tier, action))) => {
                // What is offered, or runs where nobody is left, gives its place back first.
                let counted = session.holder.is_some() || tier == Tier::Restart;
                let gives_back = counted && !session.domain_lost && tier >= Tier::Start;
                if let Some(left) = owner_of(session).and_then(|owner| places.get_mut(owner))
                    && gives_back
                {
                    *left += 1;
                }
                tiers.push((tier, action, at));
            }
            Some(Err(reason)) => plan.waiting.push(SimulatedWait {
                session_id: session.id,
                reason,
            }),
            None => {}
        }
    }
    tiers.sort_unstable_by(|(a, _, a_at), (b, _, b_at)| {
        let of = |tier: &Tier, at: &usize| {
            let session = &sessions[*at];
            let kind = if matches!(tier, Tier::Domain(_)) {
                *tier
            } else {
                Tier::Start
            };
            // A restart takes its place in the queue when its domain is given up: last.
            let late = *tier == Tier::Restart;
            let rank = std::cmp::Reverse(session.priority);
            (kind, rank, late, session.queued_at, session.id)
        };
        of(a, a_at).cmp(&of(b, b_at))
    });
    for (tier, action, at) in tiers {
        let session = &mut sessions[at];
        let placed = match tier {
            Tier::Domain(_) => in_domain(&mut queues, session, action, &open),
            Tier::Start | Tier::Restart => {
                let left = owner_of(session)
                    .and_then(|owner| places.get(owner))
                    .copied();
                let placed = anywhere(&mut queues, session, left);
                if let (Ok(_), Some(left)) = (
                    &placed,
                    owner_of(session).and_then(|owner| places.get_mut(owner)),
                ) {
                    *left -= 1;
                }
                placed
            }
        };
        match placed {
            Ok(to) => {
                let agent = &agents[to];
                let how = (tier, action);
                plan.moves.push(SimulatedMove {
                    session_id: session.id,
                    from: session.holder.take(),
                    to: agent.name.clone(),
                    reason: reason(agent, queues.used(to), how, rules, braked),
                });
            }
            Err(reason) => plan.waiting.push(SimulatedWait {
                session_id: session.id,
                reason: match session.held_back_until.filter(|_| session.holder.is_none()) {
                    Some(_) => format!("{reason}; it is held back for now besides"),
                    None => reason,
                },
            }),
        }
    }
    plan.too_many_selectors = queues.too_many();
    plan
}

fn domains(agents: &[Agent], are: impl Fn(&Agent) -> bool) -> BTreeSet<&str> {
    agents
        .iter()
        .filter(|agent| are(agent))
        .map(|agent| agent.resource_domain.as_str())
        .collect()
}

fn owner_of(session: &Affected) -> Option<&str> {
    session.owner.as_deref()
}

/// How a session would be given out, or why it would wait; none if there is nothing to do with it.
fn tier(
    session: &Affected,
    live: &BTreeSet<&str>,
    rules: &Rules,
) -> Option<Result<(Tier, Action), String>> {
    let free = Situation {
        desired: session.desired,
        state: session.state,
        has_domain: session.resource_domain.is_some(),
        assigned: false,
        domain_lost: session.domain_lost,
        handing_over: false,
    };
    let Next::Work {
        action,
        reach,
        needs_slot,
    } = next(free)
    else {
        return None;
    };
    if reach == Reach::Pool {
        return Some(Ok((Tier::Start, action)));
    }
    let domain = session.resource_domain.as_deref().unwrap_or_default();
    if live.contains(domain) {
        let kind = DOMAIN_WORK
            .iter()
            .position(|(_, known, slot)| (*known, *slot) == (action, needs_slot));
        return Some(Ok((
            Tier::Domain(kind.unwrap_or(DOMAIN_WORK.len())),
            action,
        )));
    }
    let runs =
        session.desired == DesiredState::Running && session.state != SessionState::Terminating;
    if session.domain_lost && runs {
        return Some(Ok((Tier::Start, Action::Start)));
    }
    let seconds = rules.adopt_timeout_seconds;
    let lost = format!("no agent of its domain {domain} would be live");
    let wanted_end = session.desired == DesiredState::Terminated;
    Some(match rules.on_lost {
        _ if wanted_end => Err(format!(
            "{lost}: it would end without one after {seconds} s"
        )),
        OnLost::Restart if runs => Ok((Tier::Restart, Action::Start)),
        OnLost::Restart if session.state != SessionState::Terminating => Err(format!(
            "{lost}: it would wait for one, since it is not wanted to run"
        )),
        OnLost::Wait => Err(format!("{lost}: on_lost = wait, it would wait for one")),
        policy => Err(format!(
            "{lost}: on_lost = {policy} would fail it after {seconds} s"
        )),
    })
}

fn in_domain(
    queues: &mut Queues<'_>,
    session: &Affected,
    action: Action,
    open: &BTreeSet<&str>,
) -> Result<usize, String> {
    let domain = session.resource_domain.as_deref().unwrap_or_default();
    let uses_slot = !matches!(
        session.state,
        SessionState::Terminating | SessionState::Hibernating
    );
    let needs_slot = action == Action::Wake && session.state == SessionState::Hibernated;
    if open.contains(domain) {
        return queues
            .give_in_domain(domain, needs_slot, uses_slot)
            .ok_or_else(|| format!("no agent of its domain {domain} has a free slot to wake it"));
    }
    // The last agent of a domain sees to its ends though it is cordoned.
    if action == Action::Terminate
        && let Some(last) = queues.only_live_of(domain)
    {
        queues.give(last, uses_slot);
        return Ok(last);
    }
    Err(format!(
        "every live agent of its domain {domain} is cordoned"
    ))
}

fn anywhere(
    queues: &mut Queues<'_>,
    session: &Affected,
    left: Option<i64>,
) -> Result<usize, String> {
    if left.is_some_and(|left| left <= 0) {
        return Err("its owner has as many sessions running as max_running allows".to_owned());
    }
    match queues.give_anywhere(
        session.start_domain.as_deref(),
        &session.requires,
        &session.prefers,
    ) {
        Anywhere::To(to) => Ok(to),
        Anywhere::Full => Err("no agent that could start it has a free slot".to_owned()),
        Anywhere::NoAgent if session.start_domain.is_some() => Err(format!(
            "no live agent of its domain {} that is not cordoned could start it",
            session.start_domain.as_deref().unwrap_or_default()
        )),
        Anywhere::NoAgent if session.requires.is_empty() => {
            Err("the pool would have no live agent that is not cordoned".to_owned())
        }
        Anywhere::NoAgent => Err(format!(
            "no live agent that is not cordoned has {}",
            words(&session.requires)
        )),
        Anywhere::TooMany => Err(format!(
            "it was not looked at: sessions ask for more than {MAX_SELECTORS} different sets of labels"
        )),
    }
}

fn words(labels: &Labels) -> String {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    labels.join(", ")
}

fn reason(
    agent: &Agent,
    used: i32,
    (tier, action): (Tier, Action),
    rules: &Rules,
    braked: bool,
) -> String {
    let (name, capacity) = (&agent.name, agent.capacity);
    let over = if used > capacity {
        ", more than its capacity"
    } else {
        ""
    };
    let then = format!("and then uses {used} of {capacity} slots{over}");
    match tier {
        Tier::Domain(_) if action == Action::Adopt => format!("{name} adopts it {then}"),
        Tier::Domain(_) | Tier::Start => format!("{name} is given it to {action} {then}"),
        Tier::Restart => {
            let seconds = rules.adopt_timeout_seconds;
            let brake = if braked {
                "; the brake would hold that until it is released"
            } else {
                ""
            };
            format!(
                "its domain would be lost: after {seconds} s {name} starts it anew {then}{brake}"
            )
        }
    }
}

/// Leaves so many sessions at most; whether that is all of them.
#[must_use]
pub fn bound(sessions: &mut Vec<Affected>, most: usize) -> bool {
    let is_all = sessions.len() <= most;
    sessions.truncate(most);
    is_all
}

/// Whether losing so many agents would put the pool's brake on: at least three that are at least
/// half of those that are live.
#[must_use]
pub fn brakes(lost: usize, live_before: usize) -> bool {
    lost >= 3 && 2 * lost >= live_before
}
