//! What runs in the data folder, whoever started it, and the end of what no session wants.

use lessor_client::agent_loop::Stop;
use lessor_protocol::InventoryResource;

use super::files::{AttemptDir, Record};
use super::kill::Family;
use super::look::{Found, look};
use super::proc::{self, ProcessId};
use super::{DEFAULT_GRACE, ProcessDriver};

impl ProcessDriver {
    /// Every attempt of which something runs; none if that cannot be told.
    pub(super) async fn look_around(&self) -> Option<Vec<InventoryResource>> {
        let sessions = match self.data.sessions() {
            Ok(sessions) => sessions,
            Err(error) => {
                tracing::warn!(%error, "cannot look around");
                return None;
            }
        };
        let mut seen = Vec::new();
        for dir in sessions.into_iter().flat_map(|id| self.data.attempts(id)) {
            match look(&dir) {
                // A shim that has written down who runs is at its start or its end: that is its
                // name, and whoever labels it is kept. One that has not has started nothing yet.
                Ok(Found::Unsettled) => {
                    if let Ok(Some(record)) = dir.record()
                        && let Some(process) = record.process
                    {
                        seen.push(resource(&record, process, "ending"));
                    }
                }
                Ok(Found::Running(record, process)) => {
                    seen.push(resource(&record, process, "running"));
                }
                // Its own process has ended; what that one left behind is still its.
                Ok(Found::Vanished(record)) if record.boot_id == proc::boot_id() => {
                    let rest = Family::of(&record).only_attempt(record.attempt).members();
                    let named = record.process.or_else(|| rest.first().copied());
                    if let (false, Some(process)) = (rest.is_empty(), named) {
                        seen.push(resource(&record, process, "orphaned"));
                    }
                }
                Ok(Found::Nothing | Found::Ended(_) | Found::Vanished(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, dir = %dir.path().display(), "cannot look around");
                    return None;
                }
            }
        }
        Some(seen)
    }

    /// Ends what runs as this attempt, and nothing else of the session.
    pub(super) async fn delete_attempt(&self, resource: &InventoryResource) -> Result<(), Stop> {
        let (Some(id), Some(attempt)) = (resource.session_id, resource.attempt) else {
            // `look_around` labels all that it lists.
            return Ok(());
        };
        let dir = self.data.attempt(id, attempt);
        let Some(record) = record(&dir)? else {
            return Ok(());
        };
        if record.boot_id != proc::boot_id() {
            return Ok(());
        }
        let family = Family::of(&record).only_attempt(attempt);
        if family.is_alive() {
            // Dropped at its next pause when the agent may not act any more.
            family.end(&|| Ok(()), Some(&dir), DEFAULT_GRACE).await?;
        }
        Ok(())
    }
}

fn resource(record: &Record, process: ProcessId, state: &str) -> InventoryResource {
    InventoryResource {
        state: Some(state.to_owned()),
        ..InventoryResource::named(process.to_string()).of(record.session_id, record.attempt)
    }
}

fn record(dir: &AttemptDir) -> Result<Option<Record>, Stop> {
    dir.record()
        .map_err(|error| Stop::Again(format!("{}: {error}", dir.path().display())))
}
