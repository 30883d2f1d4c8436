//! The integration tests: one binary, one file per room.

mod support;

mod adoption;
mod claiming;
mod documents;
mod fleet;
mod hang_ups;
mod http_input;
mod inventory;
mod leasing;
mod model;
mod outages;
mod plans;
mod process_agent;
mod races;
mod sessions;
