//! Who is to be woken when work has come: dispatchers of pools, and those who wait for a session.
//!
//! A wake-up is a hint; the scan is the truth. Within the process it goes directly; to other
//! servers it goes by NOTIFY over a connection of its own, after the commit, gathered for a few
//! milliseconds. A lost one costs a safety poll, never a session.

mod hints;
mod hub;
mod watch;
mod wire;

pub use hints::{Hints, PoolHint};
pub use hub::{Hub, Wake};
pub use watch::Watchers;
pub use wire::{look_everywhere, run as carry};
