//! Bringing sessions in from another control plane: once, again, and back.
//!
//! `imported_sessions` says which session came of which row, and which version the import left it at.
//! A session of another version has moved on here, and no import writes it again. Unlike all else,
//! imports write sessions without a [`crate::sessions::Draft`]: only rows that are new, or that no
//! agent has ever been given and nobody has changed.
//!
//! Invariants:
//! - A run is one transaction, and one run at a time.
//! - What an import brings in is assigned to nobody: agents adopt, start, wake or end it like any
//!   session of their domain or pool.
//! - No secret is printed: sources are named by their database and host.

pub mod cli;
pub mod report;
mod store;
mod streamspace;

use diesel_async::AsyncConnection as _;

pub use streamspace::{Mode, Options};

use self::report::{Finding, Report};
use crate::app::App;
use crate::error::{Error, Result};
use crate::wakeups;

/// Runs an import of the StreamSpace database at `from` into the one at `to`.
///
/// # Errors
/// When either cannot be reached or refuses; nothing has been written then.
pub async fn streamspace(
    to: &str,
    from: &str,
    mode: Mode,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let mut conn = crate::store::dedicated(to).await?;
    let result = conn
        .transaction(async |conn| streamspace::run(conn, from, mode, options, report).await)
        .await;
    if result.is_ok() && mode == Mode::Apply {
        // It has committed; where nobody hears of it, the next safety poll finds it.
        if let Err(error) = wakeups::look_everywhere(&mut conn).await {
            tracing::warn!(%error, "servers were not told of what was brought in");
        }
    }
    result
}

/// Undoes the imports of a source, as far as nobody has touched what they brought in.
///
/// # Errors
/// As of [`streamspace`].
pub async fn rollback(to: &str, source: &str, report: &mut Report) -> Result<()> {
    let mut conn = crate::store::dedicated(to).await?;
    let report = &mut *report;
    conn.transaction(async |conn| {
        store::begin(conn, true).await?;
        let (removed, pools) = store::rollback(conn, source).await?;
        report.counts.removed = removed;
        report.counts.sessions = removed;
        for pool in pools {
            report.add(Finding::note(
                "pools",
                &pool,
                "pool_removed",
                "the import made it, and it is empty",
            ));
        }
        for (old_id, why) in store::left(conn, source).await? {
            report.counts.sessions += 1;
            report.counts.moved_on += 1;
            report.add(Finding::left(&old_id, "left", why));
        }
        store::note(conn, source, "rollback", &report.counts).await
    })
    .await
}

/// An error for people at a terminal.
fn explain(error: &Error) -> String {
    match error {
        Error::Invalid(fields) => fields
            .iter()
            .map(|field| {
                format!(
                    "{}: {}",
                    field.pointer.trim_start_matches('/').replace('_', "-"),
                    field.message
                )
            })
            .collect::<Vec<_>>()
            .join("; "),
        other => other.to_string(),
    }
}

/// Sets the gauges of what imports met.
///
/// # Errors
/// `DatabaseUnavailable`.
#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub async fn gauges(app: &App) -> Result<()> {
    let found = app
        .db
        .read("import::gauges", |conn| Box::pin(store::gauges(conn)))
        .await?;
    for (source, outcome, count) in found {
        metrics::gauge!("lessor_imported_sessions", "source" => source, "outcome" => outcome)
            .set(count as f64);
    }
    Ok(())
}
