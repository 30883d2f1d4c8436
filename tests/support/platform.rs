//! A platform in memory, and agents of the client crate that drive it: a fleet in one process.
//!
//! Each agent has a runtime of its own, so that it can be gone with everything that it does.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lessor_client::Client;
use lessor_client::agent_loop::{Agent, AgentConfig, Driver, Resource, Stop, Work};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::TestServer;

/// The resources of every domain, and what was done to them.
#[derive(Clone, Debug, Default)]
pub struct Platform(Arc<Mutex<Resources>>, Arc<Notify>);

#[derive(Debug, Default)]
struct Resources {
    running: HashMap<(String, Uuid, i32), String>,
    started: BTreeMap<Uuid, u32>,
    ended: BTreeMap<Uuid, u32>,
    gate: Option<Gate>,
}

/// How many adoptions a domain lets through.
#[derive(Debug)]
struct Gate {
    domain: String,
    but_for: String,
    left: usize,
}

impl Platform {
    /// How frequently a session was started.
    pub fn starts(&self, id: Uuid) -> u32 {
        let resources = self.0.lock().expect("the lock");
        resources.started.get(&id).copied().unwrap_or_default()
    }

    /// How frequently a session was stopped.
    pub fn ends(&self, id: Uuid) -> u32 {
        let resources = self.0.lock().expect("the lock");
        resources.ended.get(&id).copied().unwrap_or_default()
    }

    /// How many resources run.
    pub fn running(&self) -> usize {
        self.0.lock().expect("the lock").running.len()
    }

    /// From now on a domain lets this many adoptions through, but for what one agent looks at: the others
    /// wait.
    pub fn let_adopt(&self, domain: &str, but_for: &str, left: usize) {
        self.0.lock().expect("the lock").gate = Some(Gate {
            domain: domain.to_owned(),
            but_for: but_for.to_owned(),
            left,
        });
    }

    /// Nobody waits any more.
    pub fn let_all_adopt(&self) {
        self.0.lock().expect("the lock").gate = None;
        self.1.notify_waiters();
    }

    /// Waits until the gate lets an adoption of this agent through.
    async fn gate(&self, domain: &str, agent: &str) {
        loop {
            let opened = self.1.notified();
            match &mut self.0.lock().expect("the lock").gate {
                Some(gate) if gate.domain == domain && gate.but_for != agent => {
                    if let Some(left) = gate.left.checked_sub(1) {
                        gate.left = left;
                        return;
                    }
                }
                _ => return,
            }
            opened.await;
        }
    }

    /// Starts an agent against a server, with room for a thousand sessions.
    pub fn agent(&self, server: &TestServer, name: &str, pool: &str, domain: &str) -> FleetAgent {
        self.agent_for(1_000, server, name, (pool, domain))
    }

    /// As [`Platform::agent`], with room for so many sessions.
    pub fn agent_for(
        &self,
        capacity: i32,
        server: &TestServer,
        name: &str,
        (pool, domain): (&str, &str),
    ) -> FleetAgent {
        let mut config = AgentConfig::new(name, pool);
        config.resource_domain = Some(domain.to_owned());
        config.capacity = capacity;
        let client = Client::new(&server.url, None).expect("a client");
        let driver = InMemory {
            platform: self.clone(),
            domain: domain.to_owned(),
            agent: name.to_owned(),
        };
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let running = runtime.spawn({
            let stop = stop.clone();
            async move {
                let _ = Agent::run(client, config, driver, stop).await;
            }
        });
        FleetAgent {
            running,
            stop,
            runtime: Some(runtime),
        }
    }
}

/// An agent that runs in the background.
pub struct FleetAgent {
    running: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
    runtime: Option<Runtime>,
}

impl FleetAgent {
    /// Gone without a word, as after kill -9: whatever it did for its sessions, too.
    pub async fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            let end = move || runtime.shutdown_timeout(Duration::from_secs(10));
            tokio::task::spawn_blocking(end)
                .await
                .expect("it is killed");
        }
    }

    /// Says goodbye.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.running).await;
    }
}

impl Drop for FleetAgent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct InMemory {
    platform: Platform,
    domain: String,
    agent: String,
}

impl InMemory {
    fn key(&self, work: &Work) -> (String, Uuid, i32) {
        (self.domain.clone(), work.id(), work.session().attempt)
    }

    fn found(&self, work: &Work) -> Result<Resource, Stop> {
        let resources = self.platform.0.lock().expect("the lock");
        let id = resources.running.get(&self.key(work)).cloned();
        let id = id.ok_or_else(|| Stop::gone("it is not there"))?;
        Ok(Resource {
            platform_resource_id: Some(id),
            ..Resource::default()
        })
    }
}

impl Driver for InMemory {
    async fn start(&self, work: &Work) -> Result<Resource, Stop> {
        {
            let mut resources = self.platform.0.lock().expect("the lock");
            let key = self.key(work);
            let id = format!("{}/{}/{}", key.0, key.1, key.2);
            if let Entry::Vacant(free) = resources.running.entry(key) {
                free.insert(id);
                *resources.started.entry(work.id()).or_default() += 1;
            }
        }
        self.found(work)
    }

    async fn adopt(&self, work: &Work) -> Result<Resource, Stop> {
        self.platform.gate(&self.domain, &self.agent).await;
        self.found(work)
    }

    async fn wake(&self, work: &Work) -> Result<Resource, Stop> {
        self.start(work).await
    }

    async fn hibernate(&self, work: &Work) -> Result<Resource, Stop> {
        let found = self.found(work)?;
        self.terminate(work).await?;
        Ok(found)
    }

    async fn terminate(&self, work: &Work) -> Result<(), Stop> {
        let mut resources = self.platform.0.lock().expect("the lock");
        if resources.running.remove(&self.key(work)).is_some() {
            *resources.ended.entry(work.id()).or_default() += 1;
        }
        Ok(())
    }
}
