//! The agents that Lessor ships: now the process driver.
//!
//! For `lessor dev` and the like: [`run_process_agent`] runs an agent in this process, and
//! [`process::shim::run`] is what the hidden subcommand `shim` of the same binary must call.

pub mod process;

mod run;

pub use run::{ProcessAgent, RunError, default_data_dir, host_name, run_process_agent};
