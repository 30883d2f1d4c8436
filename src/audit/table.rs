//! Entries of the audit as lines of a table.

use lessor_protocol::AuditEntry;

use crate::http::TableRow;

impl TableRow for AuditEntry {
    const COLUMNS: &'static [&'static str] = &["AT", "KIND", "ACTOR", "FROM", "PATH", "STATUS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.at.format("%Y-%m-%d %H:%M:%S").to_string(),
            self.kind.clone(),
            format!("{}:{}", self.actor.actor_type, self.actor.name),
            self.from.clone().unwrap_or_default(),
            self.path.clone(),
            self.status
                .map(|status| status.to_string())
                .unwrap_or_default(),
        ]
    }
}
