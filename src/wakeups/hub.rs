//! The switchboard: from a committed change to those who should look, here and on other servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::hints::{Hints, PoolHint};
use super::watch::Watchers;

/// What a dispatcher is told.
#[derive(Debug)]
pub enum Wake {
    /// There is something to look at.
    Hint(PoolHint),
    /// Look at everything: notifications may have been lost.
    Everything,
    /// End the polls that are parked now: this server is about to go.
    EndPolls,
}

/// Who wants to hear what, on this server.
#[derive(Clone, Debug)]
pub struct Hub {
    dispatchers: Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Wake>>>>,
    /// Those who wait for sessions.
    pub watchers: Watchers,
    /// Woken when there are new events to stream.
    pub events: Arc<Notify>,
    outgoing: mpsc::UnboundedSender<Hints>,
}

impl Hub {
    /// A switchboard, and what it wants to tell other servers.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Hints>) {
        let (outgoing, to_send) = mpsc::unbounded_channel();
        (
            Self {
                dispatchers: Arc::default(),
                watchers: Watchers::default(),
                events: Arc::default(),
                outgoing,
            },
            to_send,
        )
    }

    /// A change has committed here.
    pub fn committed(&self, hints: Hints) {
        for outcome in &hints.migrations {
            metrics::counter!("lessor_migrations_total", "outcome" => *outcome).increment(1);
        }
        if hints.is_empty() {
            return;
        }
        self.deliver(&hints);
        // The receiver goes away only when the service stops.
        let _ = self.outgoing.send(hints);
    }

    /// Something has committed on another server, or here: tells those who listen on this one.
    pub fn deliver(&self, hints: &Hints) {
        self.watchers.wake(&hints.changed);
        if hints.events {
            self.events.notify_one();
        }
        let dispatchers = self
            .dispatchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (pool, hint) in &hints.pools {
            if let Some(dispatcher) = dispatchers.get(pool) {
                let _ = dispatcher.send(Wake::Hint(hint.clone()));
            }
        }
    }

    /// Notifications may have been lost: everybody looks for himself.
    pub fn look_everywhere(&self) {
        self.watchers.wake_all();
        self.events.notify_one();
        self.tell_all(|| Wake::Everything);
    }

    /// This server is about to go: parked polls are ended, so that their clients go elsewhere.
    pub fn end_polls(&self) {
        self.tell_all(|| Wake::EndPolls);
    }

    fn tell_all(&self, wake: impl Fn() -> Wake) {
        let dispatchers = self
            .dispatchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for dispatcher in dispatchers.values() {
            let _ = dispatcher.send(wake());
        }
    }

    /// Registers the dispatcher of a pool.
    pub fn register(&self, pool: &str, dispatcher: mpsc::UnboundedSender<Wake>) {
        let mut map = self
            .dispatchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.insert(pool.to_owned(), dispatcher);
    }

    /// Takes it away again.
    pub fn unregister(&self, pool: &str) {
        let mut map = self
            .dispatchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.remove(pool);
    }
}
