//! Those who wait for a change of one session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

/// By session: what wakes its watchers, and how many they are.
type Watched = HashMap<Uuid, (Arc<Notify>, usize)>;

/// Everybody who waits for a session to change, on this server.
#[derive(Clone, Debug, Default)]
pub struct Watchers(Arc<Mutex<Watched>>);

/// One who waits; dropped, it is forgotten.
#[derive(Debug)]
pub struct Watch {
    id: Uuid,
    notify: Arc<Notify>,
    watchers: Watchers,
}

impl Watchers {
    /// Registers interest in a session: register, then query, then wait.
    #[must_use]
    pub fn watch(&self, id: Uuid) -> Watch {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = map.entry(id).or_default();
        entry.1 += 1;
        Watch {
            id,
            notify: Arc::clone(&entry.0),
            watchers: self.clone(),
        }
    }

    /// Wakes those who wait for these sessions.
    pub fn wake<'a>(&self, changed: impl IntoIterator<Item = &'a Uuid>) {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.is_empty() {
            return;
        }
        for id in changed {
            if let Some((notify, _)) = map.get(id) {
                notify.notify_waiters();
            }
        }
    }

    /// Wakes everybody: a notification was lost, or named too many sessions to list them.
    pub fn wake_all(&self) {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (notify, _) in map.values() {
            notify.notify_waiters();
        }
    }
}

impl Watch {
    /// A future that is woken by the next change after this call, even before it is polled.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        let mut notified = Box::pin(self.notify.notified());
        notified.as_mut().enable();
        notified
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut map = self
            .watchers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = map.get_mut(&self.id) {
            entry.1 -= 1;
            if entry.1 == 0 {
                map.remove(&self.id);
            }
        }
    }
}
