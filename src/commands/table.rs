//! Commands as lines of a table.

use chrono::{DateTime, SecondsFormat, Utc};
use lessor_protocol::Command;

use crate::http::TableRow;

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl TableRow for Command {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "KIND", "STATUS", "AGENT", "EPOCH", "CREATED", "DEADLINE", "FINISHED", "WHY",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.kind.clone(),
            self.status.to_string(),
            self.agent.clone().unwrap_or_default(),
            self.lease_epoch
                .map(|epoch| epoch.to_string())
                .unwrap_or_default(),
            moment(self.created_at),
            moment(self.deadline_at),
            self.finished_at.map(moment).unwrap_or_default(),
            self.failure
                .as_ref()
                .map(|failure| failure.reason.clone())
                .unwrap_or_default(),
        ]
    }
}
