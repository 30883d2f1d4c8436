//! How a dispatcher is reached: by claims, by sessions that are new, by wake-ups, and by its own checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::dispatcher::MAX_ASKING;
use super::intake::Newcomer;
use super::waiters::Waiter;
use super::watermark::Check;
use crate::wakeups::Wake;

/// How claims, and sessions that are new, reach it.
#[derive(Clone, Debug)]
pub struct Door {
    /// Claims.
    pub parking: mpsc::UnboundedSender<Waiter>,
    newcomers: mpsc::Sender<Newcomer>,
    /// Whether it is idle and has somebody to give a new session to, as far as is known.
    is_open: Arc<AtomicBool>,
}

/// What comes through a [`Door`], and from elsewhere.
pub struct Inside {
    /// Claims.
    pub parked: mpsc::UnboundedReceiver<Waiter>,
    /// Sessions that are new.
    pub newcomers: mpsc::Receiver<Newcomer>,
    /// Wake-ups.
    pub wakes: mpsc::UnboundedReceiver<Wake>,
    /// What was checked beside the rounds.
    pub checks: mpsc::UnboundedReceiver<Check>,
    is_open: Arc<AtomicBool>,
}

impl Door {
    /// A door, closed, and what is behind it.
    pub fn new(
        wakes: mpsc::UnboundedReceiver<Wake>,
        checks: mpsc::UnboundedReceiver<Check>,
    ) -> (Self, Inside) {
        let (parking, parked) = mpsc::unbounded_channel();
        let (new, newcomers) = mpsc::channel(MAX_ASKING);
        let is_open = Arc::new(AtomicBool::new(false));
        let inside = Inside {
            parked,
            newcomers,
            wakes,
            checks,
            is_open: Arc::clone(&is_open),
        };
        let door = Self {
            parking,
            newcomers: new,
            is_open,
        };
        (door, inside)
    }

    /// Whether a new session could be offered at once.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Hands in a new session if it could be offered at once; otherwise it comes back.
    pub fn offer(&self, newcomer: Newcomer) -> std::result::Result<(), Newcomer> {
        if !self.is_open() {
            return Err(newcomer);
        }
        self.newcomers
            .try_send(newcomer)
            .map_err(|refused| refused.into_inner())
    }
}

impl Inside {
    /// Says whether new sessions are welcome.
    pub fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }
}
