//! Owners as lines of a table.

use lessor_protocol::Owner;

use crate::http::TableRow;

impl TableRow for Owner {
    const COLUMNS: &'static [&'static str] =
        &["POOL", "OWNER", "WEIGHT", "RUNNING", "MAX", "WAITING"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.pool.clone(),
            self.owner.clone(),
            self.weight.to_string(),
            self.running.to_string(),
            self.max_running
                .map(|max| max.to_string())
                .unwrap_or_default(),
            self.waiting.to_string(),
        ]
    }
}
