//! A platform in memory, and agents of the client crate that drive it: a fleet in one process.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use lessor_client::Client;
use lessor_client::agent_loop::{Agent, AgentConfig, Driver, Resource, Stop, Work};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::TestServer;

/// The resources of every domain, and what was done to them.
#[derive(Clone, Debug, Default)]
pub struct Platform(Arc<Mutex<Resources>>);

#[derive(Debug, Default)]
struct Resources {
    running: HashMap<(String, Uuid, i32), String>,
    started: BTreeMap<Uuid, u32>,
    ended: BTreeMap<Uuid, u32>,
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

    /// Starts an agent against a server.
    pub fn agent(&self, server: &TestServer, name: &str, pool: &str, domain: &str) -> FleetAgent {
        let mut config = AgentConfig::new(name, pool);
        config.resource_domain = Some(domain.to_owned());
        config.capacity = 1_000;
        let client = Client::new(&server.url, None).expect("a client");
        let driver = InMemory {
            platform: self.clone(),
            domain: domain.to_owned(),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move {
                let _ = Agent::run(client, config, driver, stop).await;
            }
        });
        FleetAgent { running, stop }
    }
}

/// An agent that runs in the background.
pub struct FleetAgent {
    running: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

impl FleetAgent {
    /// Gone without a word, as after kill -9.
    pub fn kill(self) {
        self.running.abort();
    }

    /// Says goodbye.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.running).await;
    }
}

impl Drop for FleetAgent {
    fn drop(&mut self) {
        self.running.abort();
    }
}

struct InMemory {
    platform: Platform,
    domain: String,
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
