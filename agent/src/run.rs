//! An agent with the process driver, from its settings.

use std::path::PathBuf;

use lessor_client::agent_loop::{Agent, AgentConfig, AgentError};
use lessor_client::{Client, Error};
use lessor_protocol::Labels;
use tokio_util::sync::CancellationToken;

use crate::process::{ProcessDriver, ShimCommand};

/// The settings of a process agent.
#[derive(Clone, Debug)]
pub struct ProcessAgent {
    /// The address of the service.
    pub url: String,
    /// The agent's token.
    pub token: Option<String>,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// The machine whose processes it can reach.
    pub resource_domain: String,
    /// Its session slots.
    pub capacity: i32,
    /// The folder that the agents of this machine share.
    pub data_dir: PathBuf,
    /// Its labels.
    pub labels: Labels,
    /// How this binary becomes a shim.
    pub shim: ShimCommand,
}

/// Why a process agent ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address or the token is wrong.
    #[error(transparent)]
    Client(#[from] Error),
    /// The data folder cannot be used.
    #[error("the data folder {}: {source}", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// It was superseded or refused.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Runs a process agent until `shutdown` is cancelled. Its processes live on.
///
/// # Errors
/// See [`RunError`].
pub async fn run_process_agent(
    agent: ProcessAgent,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let client = Client::new(&agent.url, agent.token.as_deref())?;
    let driver =
        ProcessDriver::new(&agent.data_dir, &agent.name, agent.shim).map_err(|source| {
            RunError::DataDir {
                path: agent.data_dir.clone(),
                source,
            }
        })?;
    let mut config = AgentConfig::new(agent.name, agent.pool);
    config.resource_domain = Some(agent.resource_domain);
    config.capacity = agent.capacity;
    config.labels = agent.labels;
    config.agent_version = Some(concat!("lessor-agent/", env!("CARGO_PKG_VERSION")).to_owned());
    // Ending a process is mostly waiting for it, so many may do so at once.
    config.concurrency = 256;
    Agent::run(client, config, driver, shutdown).await?;
    Ok(())
}

/// This machine's name, as far as a resource domain or an agent can be called by it.
#[must_use]
pub fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    let name: String = name
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .take(128)
        .collect();
    let name = name.trim_start_matches(['.', '-', '_']);
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name.to_owned()
    }
}

/// Where the agents of this machine keep their files unless told otherwise.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/lessor-agent");
    }
    let home = |name: &str| std::env::var_os(name).map(PathBuf::from);
    home("XDG_STATE_HOME")
        .or_else(|| home("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir)
        .join("lessor-agent")
}
