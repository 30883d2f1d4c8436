//! When sessions were last used: when their processes last wrote to stdout or stderr.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::files::DataDir;

/// The sessions that this agent holds and that run, with their attempts.
#[derive(Debug, Default)]
pub struct Watched(Mutex<HashMap<Uuid, i32>>);

impl Watched {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a session.
    pub fn watch(&self, id: Uuid, attempt: i32) {
        self.lock().insert(id, attempt);
    }

    /// Watches it no longer.
    pub fn leave(&self, id: Uuid) {
        self.lock().remove(&id);
    }

    /// For how long each has written nothing; those whose files cannot be looked at are left out.
    pub fn idle(&self, data: &DataDir) -> Vec<(Uuid, Duration)> {
        let watched: Vec<(Uuid, i32)> = self.lock().iter().map(|(id, n)| (*id, *n)).collect();
        let now = SystemTime::now();
        let idle = watched.into_iter().filter_map(|(id, attempt)| {
            let dir = data.attempt(id, attempt);
            let written = |name: &str| std::fs::metadata(dir.file(name)).ok()?.modified().ok();
            let last = written("stdout").max(written("stderr"))?;
            // Written after the clock was looked at, or before it was set back: just now.
            Some((id, now.duration_since(last).unwrap_or_default()))
        });
        idle.collect()
    }
}
