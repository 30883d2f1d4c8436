//! Lessor: the control plane of long-lived sessions, leased and never owned.
//!
//! The rooms, in the order in which a session meets them: it is created (`sessions`) in a pool
//! (`pools`), claimed (`claims`) in its owner's turn (`shares`) by an agent (`agents`) under its lease
//! (`leases`), which reports on it (`reports`), does commands on it (`commands`) and tells what else it
//! sees (`inventory`), until it moves to another agent (`drains`, `rebalance`) or to another place
//! (`migrate`); all of it leaves history (`events`). `explain` says why a session waits and `simulate` what
//! the loss of agents would do; `bulk` does to many what is done to one; `brake` holds what cannot be
//! undone, `limits` ends what nobody uses, `scaling` says how many agents are needed, `import` brings
//! sessions in from another control plane. `access` says who may do what, `audit` who did; `webhooks`
//! send history to addresses. `upkeep` does what happens by itself, `wakeups` says who should look. `store` is
//! the database and no feature, `http` the web and no feature.

pub mod access;
pub mod agents;
pub mod api;
pub mod app;
pub mod audit;
pub mod brake;
pub mod bulk;
pub mod claims;
pub mod commands;
pub mod config;
pub mod dev;
pub mod drains;
pub mod error;
pub mod events;
pub mod explain;
pub mod http;
pub mod idempotency;
pub mod import;
pub mod inventory;
pub mod leases;
pub mod limits;
pub mod migrate;
pub mod outgoing;
pub mod pools;
pub mod postgres;
pub mod problem;
pub mod rebalance;
pub mod reports;
pub mod scaling;
pub mod serve;
pub mod sessions;
pub mod shares;
pub mod simulate;
pub mod store;
pub mod telemetry;
pub mod upkeep;
pub mod wakeups;
pub mod webhooks;
pub mod wire;
