//! What an explanation says to people: pure.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use lessor_protocol::{
    Action, AgentExplained, AgentVerdict, DesiredState, OnLost, PoolSpec, SessionState, WaitingFor,
};

use super::state::Needs;
use super::store::Facts;
use crate::sessions::SessionRow;

/// How many agents a hint names at most.
const MAX_NAMED: usize = 3;

/// A session with all that is known of why it waits.
pub struct Case<'a> {
    pub row: &'a SessionRow,
    pub pool: &'a PoolSpec,
    pub facts: &'a Facts,
    pub needs: Option<&'a Needs>,
    pub waiting_for: WaitingFor,
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub queue_position: Option<i64>,
    /// How many agents have each verdict, the holder left out.
    pub counts: BTreeMap<AgentVerdict, usize>,
    /// The agents that are listed.
    pub listed: &'a [AgentExplained],
    /// How many other owners have something waiting with its selector.
    pub other_owners: i64,
    /// Labels that it requires and no live agent has.
    pub unmet: Vec<(String, String)>,
    /// Whether the pool has more agents than were looked at.
    pub more_agents: bool,
}

/// A time as people and programs read it.
pub(super) fn at(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

impl Case<'_> {
    fn holder(&self) -> &str {
        self.row.assigned_agent_id.as_deref().unwrap_or("nobody")
    }

    fn domain(&self) -> &str {
        self.row.resource_domain.as_deref().unwrap_or("none")
    }

    fn count(&self, verdict: AgentVerdict) -> usize {
        self.counts.get(&verdict).copied().unwrap_or(0)
    }

    fn agents(&self) -> usize {
        self.counts.values().sum()
    }

    /// Whether its owner has as many sessions running as it may.
    fn owner_is_full(&self) -> bool {
        self.needs.is_some_and(Needs::is_for_all)
            && self
                .facts
                .max_running
                .zip(self.facts.running)
                .is_some_and(|(most, running)| running >= i64::from(most))
    }

    /// The reason in a sentence or two.
    pub fn summary(&self) -> String {
        let until = self.next_attempt_at.map(at);
        let until = until.as_deref();
        match self.waiting_for {
            WaitingFor::Nothing => self.at_rest(),
            WaitingFor::Acceptance => format!(
                "it is offered to {} and not accepted yet; the offer stands until {}",
                self.holder(),
                until.unwrap_or("then")
            ),
            WaitingFor::Report => self.reported(until),
            WaitingFor::Backoff => self.held_back(until.unwrap_or("then")),
            WaitingFor::Domain => self.lost(until),
            WaitingFor::Agent => self.claimable(),
        }
    }

    fn at_rest(&self) -> String {
        match (self.row.state, &self.row.failure) {
            (SessionState::Failed, Some(failure)) => {
                format!(
                    "it failed for good, {}: {}",
                    failure.reason, failure.message
                )
            }
            (SessionState::Failed, None) => "it failed for good".to_owned(),
            (SessionState::Terminated, _) => "it has ended".to_owned(),
            (state, _) => format!("it is as it is wanted: {state}"),
        }
    }

    fn reported(&self, until: Option<&str>) -> String {
        let holder = self.holder();
        let by = until.map_or_else(String::new, |until| {
            format!("; the hold is taken away at {until} unless there is progress")
        });
        match self.row.next().action() {
            Some(Action::Release) => {
                let to = self.row.reserved_for.as_deref();
                let to = to.unwrap_or("another agent of its domain");
                let by = self.facts.drain_deadline_at.map_or_else(String::new, |by| {
                    format!(
                        "; it is taken away when the drain's deadline passes, {}",
                        at(by)
                    )
                });
                format!("{holder} is asked to let go of it, so that {to} adopts it{by}")
            }
            Some(action) => {
                format!("{holder} is to {action} it and has not reported that this is done{by}")
            }
            None => format!(
                "{holder} has not reported on generation {} yet",
                self.row.generation
            ),
        }
    }

    /// Who may still act on it, since it was taken from there.
    fn lost_by(&self) -> Option<&str> {
        let holder = self.facts.former_holder.as_deref();
        holder.filter(|_| self.facts.is_lost == Some(true))
    }

    fn held_back(&self, until: &str) -> String {
        let ended = self.facts.end_reason.as_deref();
        if let Some(agent) = self.lost_by() {
            return format!(
                "its hold was taken from {agent}, which has not said that it dropped it: it can be \
                 claimed once it has, or at {until}"
            );
        }
        match (&self.row.failure, &self.facts.former_holder, ended) {
            (Some(failure), _, Some("failed") | None) => format!(
                "it failed ({}): there is a pause before the next attempt, until {until}",
                failure.reason
            ),
            (_, Some(agent), Some(ended)) => {
                format!("its hold by {agent} ended ({ended}), and it is held back until {until}")
            }
            _ => format!("it is not to be claimed before {until}"),
        }
    }

    fn lost(&self, until: Option<&str>) -> String {
        let since = self
            .facts
            .lost_since
            .map_or_else(String::new, |since| format!(" since {}", at(since)));
        let gone = format!("no agent of its domain {} is live{since}", self.domain());
        if let Some(since) = self.facts.brake_since {
            let since = at(since);
            return format!("{gone}; the pool's brake holds on_lost since {since}");
        }
        let Some(until) = until else {
            return format!(
                "{gone}; on_lost = {} leaves it to wait for one",
                self.pool.on_lost
            );
        };
        if self.row.desired_state == DesiredState::Terminated {
            return format!("{gone}; at {until} it ends without one");
        }
        match self.pool.on_lost {
            OnLost::Restart if self.row.state != SessionState::Terminating => {
                format!("{gone}; at {until} on_lost = restart lets others start it")
            }
            policy => format!("{gone}; at {until} on_lost = {policy} fails it"),
        }
    }

    fn claimable(&self) -> String {
        let action = self.needs.map_or(Action::Start, |needs| needs.action);
        let mut text = format!("it waits for an agent to {action} it");
        if self.row.is_held()
            && let Some(by) = self.facts.drain_deadline_at
        {
            let holder = self.holder();
            text = format!(
                "{holder} is drained and is to hand it over by {}: {text}",
                at(by)
            );
        }
        let (agents, able) = (self.agents(), self.count(AgentVerdict::Eligible));
        if self.owner_is_full() {
            text += &format!(
                "; its owner has {} sessions that count, as many as max_running allows",
                self.facts.running.unwrap_or_default()
            );
        }
        if agents == 0 {
            text += "; the pool has no agents";
        } else if able == 0 {
            let why: Vec<String> = self
                .counts
                .iter()
                .map(|(verdict, count)| format!("{count} {verdict}"))
                .collect();
            text += &format!("; none of {agents} agents can take it: {}", why.join(", "));
        } else {
            text += &format!("; {able} of {agents} agents can take it");
        }
        match self.queue_position {
            Some(position) => text += &format!("; it is number {position} of its queue"),
            None if able > 0 => text += "; many others of its queue come before it",
            None => {}
        }
        if self.other_owners > 0 {
            text += &format!(
                "; {} other owners have something waiting too, each in its turn",
                self.other_owners
            );
        }
        if let Some((agent, until)) = self.needs.and_then(|needs| needs.kept_for.as_ref()) {
            text += &format!("; it is kept for {agent} until {}", at(*until));
        }
        text
    }

    /// What would help, with the call to make.
    pub fn hints(&self) -> Vec<String> {
        let (pool, id) = (&self.row.agent_pool, self.row.id);
        let mut hints = match self.waiting_for {
            WaitingFor::Nothing if self.row.state == SessionState::Failed => {
                vec![format!("try it again: POST /v1/sessions/{id}/retry")]
            }
            WaitingFor::Nothing => Vec::new(),
            WaitingFor::Acceptance => self.silent_holder(),
            WaitingFor::Report => {
                let mut hints = self.silent_holder();
                if self.facts.drain_deadline_at.is_some() {
                    let agent = self.holder();
                    hints.push(format!("call the drain off: DELETE /v1/agents/{agent}/drain"));
                }
                hints
            }
            WaitingFor::Backoff => self.lost_by().into_iter().map(|agent| {
                format!("agent {agent} may still act on it: let it claim or beat, so that it learns of the loss")
            }).collect(),
            WaitingFor::Domain => self.of_the_lost(),
            WaitingFor::Agent => self.of_the_claimable(),
        };
        if self.more_agents {
            hints.push(format!("pool {pool} has more agents than were looked at"));
        }
        let shown = self.listed.len();
        let all = self.agents() + usize::from(self.row.assigned_agent_id.is_some());
        if all > shown && shown > 0 {
            hints.push(format!("{} more agents are not listed", all - shown));
        }
        hints
    }

    fn silent_holder(&self) -> Vec<String> {
        let holder = self
            .listed
            .iter()
            .find(|agent| agent.agent == self.holder());
        match holder.map(|agent| agent.verdict) {
            Some(AgentVerdict::NotPolling) => {
                vec![format!(
                    "agent {} does not claim: look at its log",
                    self.holder()
                )]
            }
            _ => Vec::new(),
        }
    }

    fn of_the_lost(&self) -> Vec<String> {
        let (pool, id) = (&self.row.agent_pool, self.row.id);
        let mut hints = vec![format!("start an agent of domain {}", self.domain())];
        if self.facts.brake_since.is_some() {
            hints.push(format!(
                "release the brake: POST /v1/pools/{pool}/release-brake"
            ));
        }
        if self.row.desired_state == DesiredState::Terminated {
            hints.push(format!(
                "do not wait for one: DELETE /v1/sessions/{id}?force=true"
            ));
        } else if self.pool.on_lost == OnLost::Wait {
            hints.push(format!(
                "let others start what is lost: PATCH /v1/pools/{pool} {{\"on_lost\": \"restart\"}}"
            ));
        }
        hints
    }

    fn of_the_claimable(&self) -> Vec<String> {
        use AgentVerdict as V;
        let (pool, id) = (&self.row.agent_pool, self.row.id);
        let mut hints = Vec::new();
        if self.owner_is_full() {
            hints.push(format!(
                "raise max_running of its owner: PUT /v1/pools/{pool}/owners/{{owner}}"
            ));
        }
        for (key, value) in &self.unmet {
            hints.push(format!("no live agent of the pool has label {key}={value}"));
        }
        if self.count(V::Eligible) > 0 {
            if self.queue_position != Some(1) {
                hints.push(format!(
                    "others come before it: add agents, or raise its priority: PATCH /v1/sessions/{id}"
                ));
            }
            return hints;
        }
        if self.agents() == 0 {
            hints.push(format!(
                "register an agent of pool {pool}: PUT /v1/agents/{{agent}}"
            ));
        }
        if self.count(V::LabelMismatch) > 0 && self.unmet.is_empty() {
            hints.push(
                "no agent has all the labels that it requires: register one with them".to_owned(),
            );
        }
        if self.count(V::Full) > 0 {
            hints.push("raise the capacity of an agent, or add one".to_owned());
        }
        let named = |verdict| self.listed.iter().filter(move |a| a.verdict == verdict);
        for agent in named(V::NotPolling).take(MAX_NAMED) {
            let agent = &agent.agent;
            hints.push(format!(
                "agent {agent} is live and claims no sessions: look at its log"
            ));
        }
        for agent in named(V::Cordoned).take(MAX_NAMED) {
            let agent = &agent.agent;
            hints.push(format!(
                "uncordon agent {agent}: POST /v1/agents/{agent}/uncordon"
            ));
        }
        if let Some(domain) = self
            .needs
            .and_then(|needs| needs.domain.as_ref().or(needs.start_domain.as_ref()))
        {
            hints.push(format!("start another agent of domain {domain}"));
        } else {
            for agent in named(V::Expired).take(MAX_NAMED) {
                hints.push(format!("start agent {} again", agent.agent));
            }
        }
        hints
    }
}
