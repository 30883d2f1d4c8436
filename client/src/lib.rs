//! A typed client of Lessor, and the loop that an agent runs.
//!
//! [`Client`] has one method for every call that people, tools and agents make. It retries nothing
//! by itself: [`Error::is_retryable`] and [`Error::retry_after`] say what may be tried again.
//!
//! [`agent_loop`] is for people who write agents: implement [`agent_loop::Driver`] for a platform,
//! and [`agent_loop::Agent::run`] does the rest: leases, claims, acceptance, reports, fencing.

mod agents;
mod client;
mod commands;
mod drains;
mod error;
mod events;
mod explain;
mod pools;
mod rebalance;
mod sessions;
mod shares;

pub mod agent_loop;

pub use agents::{AgentFilter, LeftoverFilter};
pub use client::{Client, Paging};
pub use error::Error;
pub use events::{EventFilter, Events, Streamed};
pub use lessor_protocol as protocol;
pub use sessions::{DeleteSession, SessionFilter};
