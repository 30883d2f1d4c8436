//! Whether what is here is what the source has, field by field, without trust in digests.

use std::collections::HashMap;

use serde_json::Value;

use super::map::Mapped;
use crate::error::{Error, Result};
use crate::import::report::{Finding, Report};
use crate::import::store::{self, Known};
use crate::store::Conn;

/// Compares a batch with what is here, and says each difference.
pub async fn compare(
    conn: &mut Conn,
    batch: Vec<Mapped>,
    known: &HashMap<String, Known>,
    source: &str,
    report: &mut Report,
) -> Result<()> {
    let ids = batch.iter().map(|mapped| mapped.old_id.clone()).collect();
    let present: HashMap<String, String> = store::present(conn, source, ids)
        .await?
        .into_iter()
        .collect();
    for mapped in batch {
        let id = &mapped.old_id;
        let Some(known) = known.get(id) else {
            report.add(Finding::difference(
                id,
                "missing",
                "it is in the source and not here",
            ));
            continue;
        };
        let Some(row) = present.get(id).filter(|_| !known.deleted) else {
            report.counts.moved_on += 1;
            report.add(Finding::left(
                id,
                "moved_on",
                "it has ended here, and was deleted in time",
            ));
            continue;
        };
        if !known.untouched {
            // Agents have it, or a user has changed it: the source is not the truth any more.
            report.counts.moved_on += 1;
            continue;
        }
        let row: Value =
            serde_json::from_str(row).map_err(|error| Error::Internal(error.to_string()))?;
        let differences = differences(&mapped, &row)?;
        if differences.is_empty() {
            report.counts.unchanged += 1;
        } else {
            report.add(Finding::difference(id, "differs", differences.join("; ")));
        }
    }
    Ok(())
}

fn differences(mapped: &Mapped, row: &Value) -> Result<Vec<String>> {
    let internal = |error: serde_json::Error| Error::Internal(error.to_string());
    let mut wanted = serde_json::to_value(mapped).map_err(internal)?;
    for column in ["spec", "platform_metadata"] {
        let text = wanted[column].as_str().unwrap_or("null");
        wanted[column] = serde_json::from_str(text).map_err(internal)?;
    }
    let mut found = Vec::new();
    for (column, here) in row.as_object().into_iter().flatten() {
        let there = &wanted[column];
        // Another session has the name.
        let may_be_null = column == "name" && here.is_null();
        let same = here == there
            || may_be_null
            || matches!((here.as_f64(), there.as_f64()), (Some(a), Some(b)) if a == b);
        if !same {
            let short = |value: &Value| value.to_string().chars().take(80).collect::<String>();
            found.push(format!(
                "{column} is {} here and {} there",
                short(here),
                short(there)
            ));
        }
    }
    Ok(found)
}
