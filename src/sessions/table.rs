//! Sessions, their timeline and their ledger as lines of a table.

use chrono::{DateTime, SecondsFormat, Utc};
use lessor_protocol::{Event, LedgerItem, Session};

use crate::http::TableRow;

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl TableRow for Session {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "NAME", "POOL", "OWNER", "STATE", "WANTED", "AGENT", "EPOCH", "ATTEMPT", "RESOURCE",
        "CREATED",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.name.clone().unwrap_or_default(),
            self.pool.clone(),
            self.owner.clone().unwrap_or_default(),
            self.state.to_string(),
            self.desired_state.to_string(),
            self.assigned_agent_id.clone().unwrap_or_default(),
            self.lease_epoch.to_string(),
            self.attempt.to_string(),
            self.platform_resource_id.clone().unwrap_or_default(),
            self.created_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        ]
    }
}

impl TableRow for Event {
    const COLUMNS: &'static [&'static str] = &[
        "AT", "KIND", "FROM", "TO", "AGENT", "EPOCH", "GEN", "BY", "REASON",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            moment(self.at),
            self.kind.clone(),
            self.from.clone().unwrap_or_default(),
            self.to.clone().unwrap_or_default(),
            self.agent.clone().unwrap_or_default(),
            self.lease_epoch
                .map(|epoch| epoch.to_string())
                .unwrap_or_default(),
            self.generation
                .map(|generation| generation.to_string())
                .unwrap_or_default(),
            format!("{}:{}", self.actor.actor_type, self.actor.name),
            self.reason.clone().unwrap_or_default(),
        ]
    }
}

impl TableRow for LedgerItem {
    const COLUMNS: &'static [&'static str] = &[
        "EPOCH",
        "AGENT",
        "INCARNATION",
        "ACTION",
        "OFFERED",
        "ACCEPTED",
        "ENDED",
        "WHY",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.lease_epoch.to_string(),
            self.agent.clone(),
            self.incarnation.to_string(),
            self.action.to_string(),
            moment(self.offered_at),
            self.accepted_at.map(moment).unwrap_or_default(),
            self.ended_at.map(moment).unwrap_or_default(),
            self.end_reason
                .map(|reason| reason.to_string())
                .unwrap_or_default(),
        ]
    }
}
