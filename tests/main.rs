//! The integration tests: one binary, one file per room.

mod support;

mod adoption;
mod brake;
mod bulk;
mod claiming;
mod commands;
mod documents;
mod drains;
mod events;
mod explain;
mod fleet;
mod hang_ups;
mod http_input;
mod import;
mod inventory;
mod leasing;
mod limits;
mod migrate;
mod model;
mod outages;
mod plans;
mod process_agent;
mod process_brake;
mod process_commands;
mod process_drains;
mod process_migrate;
mod process_rebalance;
mod races;
mod rebalance;
mod restores;
mod rolling;
mod scaling;
mod sessions;
mod shares;
mod simulate;
