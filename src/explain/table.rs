//! Explanations as lines of a table.

use chrono::SecondsFormat;
use lessor_protocol::{AgentExplained, Explain};

use crate::http::TableRow;

impl TableRow for AgentExplained {
    const COLUMNS: &'static [&'static str] = &["AGENT", "VERDICT", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.agent.clone(),
            self.verdict.to_string(),
            self.detail.clone(),
        ]
    }
}

impl TableRow for Explain {
    const COLUMNS: &'static [&'static str] = &[
        "SESSION",
        "STATE",
        "WANTED",
        "WAITS FOR",
        "PLACE",
        "UNTIL",
        "SUMMARY",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.session_id.to_string(),
            self.state.to_string(),
            self.desired_state.to_string(),
            self.waiting_for.to_string(),
            self.queue_position
                .map(|place| place.to_string())
                .unwrap_or_default(),
            self.next_attempt_at
                .map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
                .unwrap_or_default(),
            self.summary.clone(),
        ]
    }
}
