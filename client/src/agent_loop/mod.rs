//! The loop of an agent: everything but the platform.
//!
//! Implement [`Driver`] for a platform and call [`Agent::run`]. The loop registers, renews the
//! lease, parks claims, accepts each assignment *before* the driver touches anything, delivers
//! reports until they are answered, stops acting when the lease was not renewed in time, lets go of
//! what it has lost without ever killing it, deletes what the service says that nobody wants, and
//! says goodbye at the end.
//!
//! ```no_run
//! # use lessor_client::{Client, agent_loop::*};
//! # use tokio_util::sync::CancellationToken;
//! # async fn example(driver: impl Driver) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new("http://127.0.0.1:8080", None)?;
//! let shutdown = CancellationToken::new();
//! Agent::run(client, AgentConfig::new("local-1", "local"), driver, shutdown).await?;
//! # Ok(()) }
//! ```
//!
//! Inside: `book`, `desk`, `queue` and `lease` are pure; `shared` puts them under one lock; `register`,
//! `calls`, `inventory` talk to the service; `task` is the life of one session, `commands` what is
//! done on it.

mod activity;
mod backoff;
mod book;
mod calls;
mod commands;
mod desk;
mod driver;
mod inventory;
mod lease;
mod queue;
mod register;
mod shared;
mod task;
mod work;

#[cfg(test)]
mod command_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lessor_protocol::{Instance, ProblemCode, Secret};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{Client, Error};
use backoff::Backoff;
use calls::Turn;
use shared::Shared;

pub use driver::{AgentConfig, Driver, Exit, Fenced, Held, Resource, Stop};
pub use work::Work;

/// How long tasks have to stop at a shutdown: they only have to reach their next `await`.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last reports, and then the goodbye, may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// Why an agent's loop ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A newer run has registered under this name: this process must exit. Its resources run on.
    #[error("another process has registered as agent `{0}`: exiting, and leaving what runs alone")]
    Superseded(String),
    /// The service will not have this agent, and trying again would not help.
    #[error("agent `{name}` cannot register: {source}")]
    Refused {
        /// The agent.
        name: String,
        /// What the service said.
        source: Error,
    },
}

/// An agent.
pub struct Agent<D> {
    client: Client,
    /// With the agent's own token, where its registration was answered with one.
    own: Mutex<Option<Client>>,
    config: AgentConfig,
    driver: Arc<D>,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    instance: Instance,
}

impl<D: Driver> Agent<D> {
    /// Runs an agent until `shutdown` is cancelled; then it says goodbye and leaves its resources
    /// running. Outages of the service are sat out.
    ///
    /// # Errors
    /// When it was superseded, or is refused at its first registration.
    pub async fn run(
        client: Client,
        config: AgentConfig,
        driver: D,
        shutdown: CancellationToken,
    ) -> Result<(), AgentError> {
        let agent = Self {
            shared: Shared::new(config.concurrency),
            client,
            own: Mutex::new(None),
            config,
            driver: Arc::new(driver),
            tasks: TaskTracker::new(),
            instance: Instance {
                id: Uuid::new_v4().to_string(),
                host: Some(
                    rustix::system::uname()
                        .nodename()
                        .to_string_lossy()
                        .into_owned(),
                ),
                pid: Some(std::process::id().into()),
            },
        };
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            ended = agent.serve() => ended,
        };
        agent.stop_tasks().await;
        if ended.is_ok() {
            agent.farewell().await;
        }
        ended
    }

    /// The client of every call but registration.
    fn caller(&self) -> Client {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.as_ref().unwrap_or(&self.client).clone()
    }

    /// From now on with this token.
    fn call_with(&self, token: Option<&Secret>) -> Result<(), Error> {
        let own = token.map(|token| self.client.with_token(token.expose()));
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = own.transpose()?;
        Ok(())
    }

    /// What an error means for the registration; none if it stands and the call may be made again. A token
    /// of its own that is refused was revoked or lost: registering again brings a new one.
    fn turn(&self, error: &Error) -> Option<Turn> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.is_some() && error.code() == Some(ProblemCode::Unauthenticated) {
            return Some(Turn::Register);
        }
        calls::turn(error)
    }

    /// Registers, works until that is over, registers again.
    async fn serve(&self) -> Result<(), AgentError> {
        let mut found = Some(self.driver.held().await);
        let mut backoff = Backoff::default();
        loop {
            self.register(found.take()).await?;
            let began = Instant::now();
            let turn = tokio::select! {
                turn = self.keep_renewing() => turn,
                turn = self.keep_claiming() => turn,
                turn = self.keep_reporting() => turn,
                turn = self.keep_taking_inventory() => turn,
            };
            self.shared.lease_ended();
            match turn {
                Turn::Superseded => return Err(AgentError::Superseded(self.config.name.clone())),
                Turn::Register => tracing::warn!("the registration is over: registering again"),
            }
            // A registration that is over at once must not become a storm.
            if began.elapsed() > Duration::from_secs(5) {
                backoff.reset();
            } else {
                tokio::time::sleep(backoff.pause(None)).await;
            }
        }
    }

    /// Stops every action; forgets nothing, since the next run is to find it.
    async fn stop_tasks(&self) {
        for (_, slot) in self.shared.lock().book.iter() {
            slot.cancel.cancel();
        }
        self.shared.lock().desk.stop();
        self.tasks.close();
        if timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some actions on the platform did not stop in time");
        }
    }

    /// Says goodbye, so that others can adopt at once what this agent held.
    async fn farewell(&self) {
        let incarnation = self.shared.lock().incarnation;
        if incarnation == 0 {
            return;
        }
        // Such as the end of a session that was seen in the last moment.
        {
            let mut state = self.shared.lock();
            state.queue.put_back();
            state.desk.put_back();
        }
        let _ = timeout(FAREWELL_TIMEOUT, async {
            tokio::select! {
                _ = self.keep_reporting() => {}
                () = self.reports_answered() => {}
            }
        })
        .await;
        let caller = self.caller();
        let goodbye = caller.deregister_agent(&self.config.name, Some(incarnation), false);
        match timeout(FAREWELL_TIMEOUT, goodbye).await {
            Ok(Ok(())) => tracing::info!("said goodbye; what it ran runs on"),
            Ok(Err(error)) => tracing::warn!(%error, "no goodbye: the lease will run out instead"),
            Err(_) => tracing::warn!("no goodbye in time: the lease will run out instead"),
        }
    }
}
