//! What a session waits for, and which agents could take it: the dispatcher's rules as questions, pure.
//!
//! A test here holds the verdicts against what `claims` would place, and one in `tests/explain.rs`
//! against what agents really get.

use chrono::{DateTime, TimeDelta, Utc};
use lessor_protocol::{Action, AgentVerdict, Scheduling, WaitingFor};

use crate::sessions::{Next, Reach, SessionRow, Situation, next};

/// An agent that has let its last poll end for longer than this does not poll, or than a third of
/// its lease, after which it must renew.
const BETWEEN_POLLS_SECONDS: f64 = 5.0;

/// The newest claim of an agent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastClaim {
    /// When it came.
    pub at: DateTime<Utc>,
    /// How long it waits at most.
    pub wait_seconds: f64,
    /// How many sessions it takes.
    pub max_sessions: i32,
}

/// An agent, as the database has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Its domain.
    pub resource_domain: String,
    /// Whether its lease holds.
    pub live: bool,
    /// Whether it is given new sessions.
    pub scheduling: Scheduling,
    /// Its slots.
    pub capacity: i32,
    /// Those in use.
    pub slots_used: i32,
    /// Until when it is offered nothing new.
    pub passed_over_until: Option<DateTime<Utc>>,
    /// Whether it is cordoned and no other agent of its domain is live: it still sees to ends.
    pub last_of_domain: bool,
    /// Its newest claim.
    pub claim: Option<LastClaim>,
}

/// What a session needs of the agent that is to take it.
#[derive(Clone, Debug, PartialEq)]
pub struct Needs {
    /// What there is to do.
    pub action: Action,
    /// The domain whose agents can do it; none: any agent of the pool.
    pub domain: Option<String>,
    /// The only domain of which agents may start it, where any agent of the pool could.
    pub start_domain: Option<String>,
    /// Whether agents of that domain need a free slot for it. Others always do.
    pub needs_slot: bool,
    /// Whether agents of other domains can start it, since its own was given up.
    pub elsewhere: bool,
    /// The agent that is not to have it for now, and until when.
    pub avoid: Option<(String, DateTime<Utc>)>,
    /// The only agent of its domain that is to have it for now, and until when.
    pub kept_for: Option<(String, DateTime<Utc>)>,
}

impl Needs {
    /// What a session needs, or would need if nobody were assigned to it; none where nobody has
    /// anything to do with it.
    #[must_use]
    pub fn of(row: &SessionRow, now: DateTime<Utc>) -> Option<Self> {
        let free = Situation {
            assigned: false,
            handing_over: false,
            ..row.situation()
        };
        let Next::Work {
            action,
            reach,
            needs_slot,
        } = next(free)
        else {
            return None;
        };
        let later = |name: &Option<String>, until: Option<DateTime<Utc>>| {
            name.clone().zip(until.filter(|until| *until > now))
        };
        Some(Self {
            action,
            domain: row.resource_domain.clone().filter(|_| reach != Reach::Pool),
            start_domain: row.start_domain.clone(),
            needs_slot,
            elsewhere: row.is_startable_elsewhere(),
            avoid: later(&row.avoid_agent, row.avoid_until),
            kept_for: later(&row.reserved_for, row.reserved_until),
        })
    }

    /// Whether agents of this domain take it as the work of their domain.
    fn is_of(&self, domain: &str) -> bool {
        self.domain.as_deref() == Some(domain)
    }

    /// Whether agents of this domain may start it, as far as domains go.
    fn may_start_in(&self, domain: &str) -> bool {
        let only = &self.start_domain;
        self.is_for_all() && only.as_deref().is_none_or(|only| only == domain)
    }

    /// Whether any agent of the pool may start it, with the labels that it requires.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.domain.is_none() || self.elsewhere
    }
}

/// Whether and why an agent could be given a session by claiming; the first verdict that holds.
/// `lacks_labels` says whether it lacks any that the session requires.
#[must_use]
pub fn verdict(
    agent: &Agent,
    needs: &Needs,
    lacks_labels: bool,
    (now, lease_ttl_seconds): (DateTime<Utc>, f64),
) -> AgentVerdict {
    use AgentVerdict as V;
    let own = needs.is_of(&agent.resource_domain);
    // Whatever else it is, the last agent of a domain sees to its ends.
    let ends = own && needs.action == Action::Terminate && agent.last_of_domain;
    let passed_over = agent.passed_over_until.is_some_and(|until| until > now);
    let avoided = needs
        .avoid
        .as_ref()
        .is_some_and(|(name, _)| *name == agent.name);
    let kept_for_another = own
        && needs
            .kept_for
            .as_ref()
            .is_some_and(|(name, _)| *name != agent.name);
    if !agent.live {
        V::Expired
    } else if agent.scheduling != Scheduling::Active && !ends {
        V::Cordoned
    } else if !own && !needs.may_start_in(&agent.resource_domain) {
        V::OtherDomain
    } else if !own && lacks_labels {
        V::LabelMismatch
    } else if (needs.needs_slot || !own) && agent.slots_used >= agent.capacity {
        V::Full
    } else if (passed_over && !ends) || avoided || kept_for_another {
        V::PassedOver
    } else if !polls(agent, (now, lease_ttl_seconds)) || takes_none(agent) {
        V::NotPolling
    } else {
        V::Eligible
    }
}

/// As [`verdict`], for the agent that a session is assigned to: only it is told about it, whatever
/// else it may be given.
#[must_use]
pub fn holders_verdict(
    agent: &Agent,
    (now, lease_ttl_seconds): (DateTime<Utc>, f64),
) -> AgentVerdict {
    if !agent.live {
        AgentVerdict::Expired
    } else if !polls(agent, (now, lease_ttl_seconds)) {
        AgentVerdict::NotPolling
    } else {
        AgentVerdict::Eligible
    }
}

/// Whether its newest claim may still be parked, on whichever server, or ended only just now. An
/// answer ends a poll before its time, and the next one comes at once where the agent is well.
fn polls(agent: &Agent, (now, lease_ttl_seconds): (DateTime<Utc>, f64)) -> bool {
    agent.claim.is_some_and(|claim| {
        let grace = BETWEEN_POLLS_SECONDS.min(lease_ttl_seconds / 3.0);
        let ends = claim.at + seconds(claim.wait_seconds + grace);
        ends > now
    })
}

/// Whether its newest claim takes only what is done on sessions that it holds.
#[must_use]
pub fn takes_none(agent: &Agent) -> bool {
    agent.claim.is_some_and(|claim| claim.max_sessions == 0)
}

/// A length of time, in whole microseconds as the database has it.
#[must_use]
pub fn seconds(seconds: f64) -> TimeDelta {
    #[allow(clippy::cast_possible_truncation, reason = "bounded by the protocol")]
    TimeDelta::microseconds((seconds * 1e6) as i64)
}

/// How a session stands, as far as it says what it waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// What there is to do.
    pub next: Next,
    /// Until when it is offered.
    pub offered_until: Option<DateTime<Utc>>,
    /// Whether it is assigned.
    pub assigned: bool,
    /// Whether its holder has not reported on the newest generation.
    pub is_behind: bool,
    /// When its holder loses it unless there is progress.
    pub phase_deadline_at: Option<DateTime<Utc>>,
    /// The deadline of a drain of its holder.
    pub drain_deadline_at: Option<DateTime<Utc>>,
    /// Until when it is held back.
    pub held_back_until: Option<DateTime<Utc>>,
    /// What it needs.
    pub needs: Option<Needs>,
    /// Whether its domain has a live agent.
    pub domain_live: bool,
    /// When something is decided about its lost domain; none if nothing will be.
    pub decided_at: Option<DateTime<Utc>>,
}

/// What a session waits for, and when that is over by itself.
#[must_use]
pub fn waiting_for(s: &Standing) -> (WaitingFor, Option<DateTime<Utc>>) {
    use WaitingFor as W;
    if s.offered_until.is_some() {
        return (W::Acceptance, s.offered_until);
    }
    if s.assigned {
        return if s.next.action().is_some() || s.is_behind {
            (W::Report, s.phase_deadline_at.or(s.drain_deadline_at))
        } else if s.drain_deadline_at.is_some() {
            // To be handed over, and there is nobody yet on whose behalf to ask for it.
            (W::Agent, s.drain_deadline_at)
        } else {
            (W::Nothing, None)
        };
    }
    match &s.needs {
        None => (W::Nothing, None),
        Some(_) if s.held_back_until.is_some() => (W::Backoff, s.held_back_until),
        Some(needs) if !needs.is_for_all() && !s.domain_live => (W::Domain, s.decided_at),
        Some(needs) => (W::Agent, needs.kept_for.as_ref().map(|(_, until)| *until)),
    }
}
