//! Leases: an agent's right to act on its sessions.
//!
//! One lease per agent, renewed by heartbeats and claims, ended only by the commit of its expiry,
//! by the database's clock. `renewals` writes beats and the pulse, `expiry` ends leases, `domains`
//! knows since when a resource domain has had no live agent and what the pool wants done then,
//! `restore` ends all of them after a restore of the database.
//!
//! Invariant: nothing expires while heartbeats could not have been taken. Expiry needs a fresh
//! pulse, and after a gap in it a whole lease time must pass.

mod domains;
mod expiry;
mod renewals;
mod restore;

pub use domains::{end_if_domain_is_lost, refresh as refresh_domains, sweep as sweep_lost_domains};
pub use expiry::{expire, release_orphans};
pub use renewals::{
    Asked, ClaimOf, PULSE_GAP_SECONDS, Renewal, Renewals, Renewed, Workers, lease, renew_free,
    renew_texts,
};
pub use restore::{Fenced, restore_fence};
