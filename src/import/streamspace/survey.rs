//! What has to be known of all sessions before one of them can be mapped: the pools, and who has a
//! resource.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::StreamExt as _;
use lessor_protocol::{DesiredState, PoolSpec, SessionState};

use super::Options;
use super::course::Commands;
use super::map::{Defaults, Mapped, Outline, outline};
use super::place::{OldAgent, PoolKey, agents, pool_names};
use super::source::Source;
use crate::error::Result;
use crate::import::report::{Finding, PoolLine, Report};
use crate::import::store::{self, NewDomain};
use crate::pools;
use crate::store::Conn;

/// A pool that sessions go to.
#[derive(Clone, Debug)]
pub struct Home {
    /// Its name.
    pub name: String,
    /// Its platform here.
    pub platform: String,
    /// Its region here.
    pub region: Option<String>,
    /// For how long it keeps what has ended.
    pub keep_ended_seconds: f64,
    spec: Option<PoolSpec>,
}

/// What is known of all sessions.
pub struct Survey {
    /// The agents there.
    pub agents: BTreeMap<String, OldAgent>,
    homes: BTreeMap<PoolKey, std::result::Result<Home, String>>,
    by_name: BTreeMap<String, Home>,
    /// Who has a resource, where several sessions name it.
    owners: HashMap<String, (Rank, String)>,
    /// For the report, by pool.
    pub lines: BTreeMap<String, PoolLine>,
    keys: BTreeMap<String, PoolKey>,
}

/// Whether it is wanted, and when it was last used: the greatest keeps the resource.
type Rank = (bool, String);

impl Survey {
    /// Looks at everything.
    pub async fn make(
        conn: &mut Conn,
        source: &Source,
        commands: &HashMap<String, Commands>,
        defaults: &Defaults,
        options: &Options,
        report: &mut Report,
    ) -> Result<Self> {
        let (agents, findings) = agents(&source.agents().await?, &defaults.platform);
        findings.into_iter().for_each(|finding| report.add(finding));
        let mut keys: BTreeSet<PoolKey> = agents.values().map(|agent| agent.key.clone()).collect();
        let mut owners: HashMap<String, (Rank, String)> = HashMap::new();
        let none = Commands::default();
        let rows = source.outlines().await?;
        futures_util::pin_mut!(rows);
        while let Some(row) = rows.next().await {
            // What cannot be read is reported the second time.
            let Ok(row) = row? else { continue };
            let of = row
                .text("id")
                .and_then(|id| commands.get(&id))
                .unwrap_or(&none);
            let Ok(outline) = outline(&row, &agents, of, defaults) else {
                continue;
            };
            if outline.course.state != SessionState::Terminated {
                keys.insert(outline.place.key.clone());
            }
            if let Some(resource) = outline.claims_resource() {
                let used = row.time("last_activity").or_else(|| row.time("created_at"));
                let wanted = outline.course.desired != DesiredState::Terminated;
                let rank = (wanted, used.map(|at| at.to_rfc3339()).unwrap_or_default());
                let mine = (rank, outline.old_id.clone());
                match owners.get_mut(&resource) {
                    Some(before) if *before < mine => *before = mine,
                    Some(_) => {}
                    None => {
                        owners.insert(resource, mine);
                    }
                }
            }
        }
        let mut survey = Self {
            agents,
            homes: BTreeMap::new(),
            by_name: BTreeMap::new(),
            owners,
            lines: BTreeMap::new(),
            keys: BTreeMap::new(),
        };
        survey
            .find_homes(conn, &keys.into_iter().collect::<Vec<_>>(), options, report)
            .await?;
        Ok(survey)
    }

    async fn find_homes(
        &mut self,
        conn: &mut Conn,
        keys: &[PoolKey],
        options: &Options,
        report: &mut Report,
    ) -> Result<()> {
        let placed = store::placed(conn, &options.source).await?;
        let present = store::pools(conn).await?;
        let before: BTreeMap<PoolKey, String> = placed
            .into_iter()
            .filter(|place| present.contains_key(&place.pool))
            .map(|place| ((place.platform, place.region, place.cluster), place.pool))
            .collect();
        let (names, findings) = pool_names(keys, &before, &options.pool_prefix);
        findings.into_iter().for_each(|finding| report.add(finding));
        for (key, name) in names {
            let home = match present.get(&name) {
                Some(pool) if pool.platform != key.0 => {
                    let why = format!(
                        "pool `{name}` is there already, on platform `{}` and not `{}`; --pool-prefix makes pools of other names",
                        pool.platform, key.0
                    );
                    report.add(Finding::unmapped(
                        "pools",
                        &name,
                        "pool_on_other_platform",
                        why.as_str(),
                    ));
                    Err(why)
                }
                Some(pool) => {
                    if pool.region.clone().unwrap_or_default() != key.1 {
                        let region = pool.region.as_deref().unwrap_or("no region");
                        report.add(Finding::note("pools", &name, "pool_in_other_region",
                            format!("the pool is there already, in {region}; its sessions are shown there")));
                    }
                    Ok(Home {
                        name: name.clone(),
                        platform: pool.platform.clone(),
                        region: pool.region.clone(),
                        keep_ended_seconds: pool.keep_ended_seconds,
                        spec: None,
                    })
                }
                None => Ok(self.new_home(&key, &name)),
            };
            if let Ok(home) = &home {
                let standing = match (&home.spec, before.contains_key(&key)) {
                    (Some(_), _) => "new",
                    (None, true) => "known",
                    (None, false) => "existing",
                };
                let line = PoolLine {
                    pool: name.clone(),
                    standing,
                    platform: home.platform.clone(),
                    region: home.region.clone().unwrap_or_default(),
                    cluster: key.2.clone(),
                    resource_domains: BTreeSet::new(),
                    sessions: BTreeMap::new(),
                };
                self.lines.insert(name.clone(), line);
                self.by_name.insert(name.clone(), home.clone());
                self.keys.insert(name, key.clone());
            }
            self.homes.insert(key, home);
        }
        for agent in self.agents.values() {
            if let Some(Ok(home)) = self.homes.get(&agent.key)
                && let Some(line) = self.lines.get_mut(&home.name)
            {
                line.resource_domains
                    .insert(super::names::domain(&agent.raw_domain));
            }
        }
        Ok(())
    }

    fn new_home(&self, key: &PoolKey, name: &str) -> Home {
        let mut spec = PoolSpec::on(&key.0);
        let region: String = key.1.chars().take(32).collect();
        spec.region = (!region.is_empty()).then_some(region);
        let of = |agent: &&OldAgent| agent.key == *key;
        if let Some(most) = self
            .agents
            .values()
            .filter(of)
            .filter_map(|agent| agent.capacity)
            .max()
        {
            spec.slots_per_agent = most;
        }
        let cluster_name = self
            .agents
            .values()
            .filter(of)
            .find_map(|agent| agent.cluster_name.clone());
        let labels = [
            ("cluster_id", Some(key.2.clone())),
            ("cluster_name", cluster_name),
        ];
        for (label, value) in labels {
            if let Some(value) = value.filter(|value| !value.is_empty() && value.len() <= 256) {
                spec.labels.insert(label.to_owned(), value);
            }
        }
        Home {
            name: name.to_owned(),
            platform: key.0.clone(),
            region: spec.region.clone(),
            keep_ended_seconds: spec.keep_ended_seconds,
            spec: Some(spec),
        }
    }

    /// The pool of a session.
    pub fn pool_of(&self, outline: &Outline) -> std::result::Result<Home, Finding> {
        let no = |code, why: &str| Err(Finding::unmapped("sessions", &outline.old_id, code, why));
        match self.homes.get(&outline.place.key) {
            Some(Ok(home)) => Ok(home.clone()),
            Some(Err(why)) => no("pool_on_other_platform", why),
            // Only what has ended is in it.
            None => no(
                "no_pool",
                "it has ended, and no pool is made for what has ended",
            ),
        }
    }

    /// The pool with a name, which a session was mapped to.
    pub fn home(&self, name: &str) -> Option<&Home> {
        self.by_name.get(name)
    }

    /// Whether the session is the one that keeps its resource.
    pub fn may_have_resource(&self, outline: &Outline) -> std::result::Result<(), Finding> {
        let Some(resource) = outline.claims_resource() else {
            return Ok(());
        };
        match self.owners.get(&resource) {
            Some((_, owner)) if *owner != outline.old_id => {
                let (domain, id) = resource.split_once('\0').unwrap_or(("", &resource));
                let why = format!(
                    "`{id}` in `{domain}` is also the resource of session {owner}; ending one would end both"
                );
                Err(Finding::unmapped(
                    "sessions",
                    &outline.old_id,
                    "shared_resource",
                    why,
                ))
            }
            _ => Ok(()),
        }
    }

    /// Counts a session for the report.
    pub fn count(&mut self, mapped: &Mapped) {
        if let Some(line) = self.lines.get_mut(&mapped.pool) {
            *line.sessions.entry(mapped.state.to_string()).or_default() += 1;
            line.resource_domains.extend(mapped.resource_domain.clone());
        }
    }

    /// Makes the pools that are not there, and remembers which pool stands for what.
    pub async fn create_pools(&self, conn: &mut Conn, options: &Options) -> Result<()> {
        for (name, key) in &self.keys {
            let spec = self.by_name.get(name).and_then(|home| home.spec.as_ref());
            if let Some(spec) = spec {
                pools::add(conn, name, spec).await?;
            }
            let key = (key.0.as_str(), key.1.as_str(), key.2.as_str());
            store::place(conn, &options.source, key, name, spec.is_some()).await?;
        }
        Ok(())
    }

    /// Notes the domains that agents are yet to come to.
    pub async fn create_domains(
        &self,
        conn: &mut Conn,
        options: &Options,
        lines: &[PoolLine],
    ) -> Result<()> {
        let of = |line: &PoolLine| {
            let domains = line.resource_domains.clone();
            let pool = line.pool.clone();
            domains.into_iter().map(move |name| NewDomain {
                pool: pool.clone(),
                name,
            })
        };
        let domains: Vec<_> = lines.iter().flat_map(of).collect();
        store::domains(conn, &options.source, domains, options.grace_seconds).await
    }
}
