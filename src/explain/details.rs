//! What an explanation says of each agent: pure.

use lessor_protocol::{AgentVerdict, Labels};

use super::prose::at;
use super::state::{Agent, Needs, seconds, takes_none};
use super::store::Details;
use crate::sessions::SessionRow;

/// The reason of a verdict in particular.
pub fn detail(
    (agent, details): (&Agent, Option<&Details>),
    (row, needs): (&SessionRow, Option<&Needs>),
    verdict: AgentVerdict,
) -> String {
    let is_holder = row.assigned_agent_id.as_ref() == Some(&agent.name);
    match verdict {
        AgentVerdict::Expired => match details.and_then(|d| d.expired_at) {
            Some(when) => format!("its lease ended at {}", at(when)),
            None => "its lease has ended".to_owned(),
        },
        AgentVerdict::Cordoned => details.map_or_else(String::new, cordon),
        AgentVerdict::OtherDomain => format!(
            "its domain is {}, the session's is {}",
            agent.resource_domain,
            row.resource_domain
                .as_deref()
                .or(row.start_domain.as_deref())
                .unwrap_or("none")
        ),
        AgentVerdict::LabelMismatch => {
            details.map_or_else(String::new, |d| missing(&row.requires, &d.labels))
        }
        AgentVerdict::Full => format!("{} of {} slots are used", agent.slots_used, agent.capacity),
        AgentVerdict::PassedOver => passed_over(agent, needs),
        AgentVerdict::NotPolling => not_polling(agent, details),
        AgentVerdict::Eligible if is_holder && row.is_offered() => "it is offered to it".to_owned(),
        AgentVerdict::Eligible if is_holder => "it holds it".to_owned(),
        AgentVerdict::Eligible if row.assigned_agent_id.is_some() => {
            "it could take it over".to_owned()
        }
        AgentVerdict::Eligible => format!(
            "it can take it; {} of {} slots are used",
            agent.slots_used, agent.capacity
        ),
    }
}

fn cordon(details: &Details) -> String {
    let mut text = "cordoned".to_owned();
    if let Some(by) = &details.cordon_by {
        text += &format!(" by {by}");
    }
    if let Some(since) = details.cordon_since {
        text += &format!(" since {}", at(since));
    }
    if let Some(until) = details.cordon_until {
        text += &format!(", until {}", at(until));
    }
    if let Some(reason) = &details.cordon_reason {
        text += &format!(": {reason}");
    }
    text
}

fn missing(requires: &Labels, labels: &Labels) -> String {
    let lacks = requires
        .iter()
        .filter(|(key, value)| labels.get(*key) != Some(value))
        .map(|(key, wanted)| match labels.get(key) {
            Some(has) => format!("{key} is {has}, wanted is {wanted}"),
            None => format!("it has no {key}, wanted is {wanted}"),
        });
    lacks.collect::<Vec<_>>().join("; ")
}

fn passed_over(agent: &Agent, needs: Option<&Needs>) -> String {
    let avoided = needs.and_then(|needs| needs.avoid.as_ref());
    let kept = needs.and_then(|needs| needs.kept_for.as_ref());
    if let Some((_, until)) = avoided.filter(|(name, _)| *name == agent.name) {
        let until = at(*until);
        return format!("it had this session and did not keep it: others come first until {until}");
    }
    if let Some((name, until)) = kept.filter(|(name, _)| *name != agent.name) {
        return format!("the session is kept for {name} until {}", at(*until));
    }
    let until = agent.passed_over_until.map_or_else(String::new, at);
    format!("it let three offers in a row lapse, and is offered nothing until {until}")
}

fn not_polling(agent: &Agent, details: Option<&Details>) -> String {
    let beat = details.map_or_else(String::new, |d| {
        format!("; its lease was renewed at {}", at(d.last_heartbeat_at))
    });
    match agent.claim {
        None => format!("it has not claimed since it registered{beat}"),
        Some(claim) if takes_none(agent) => format!(
            "its claim of {} asks for no sessions, only for work on those it holds",
            at(claim.at)
        ),
        Some(claim) => format!(
            "its newest claim came at {} and ended at {} at the latest{beat}",
            at(claim.at),
            at(claim.at + seconds(claim.wait_seconds))
        ),
    }
}
