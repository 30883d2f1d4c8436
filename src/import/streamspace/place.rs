//! Where a session is: its platform, region and cluster, from which its pool follows, and its resource
//! domain; pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::names::{clean, domain, marked};
use super::row::{Row, capacity};
use crate::import::report::Finding;

/// Platform, region and cluster; empty for none.
pub type PoolKey = (String, String, String);

/// An agent there.
#[derive(Clone, Debug)]
pub struct OldAgent {
    /// As the pool has it.
    pub key: PoolKey,
    /// Its cluster, else itself, as it is called there.
    pub raw_domain: String,
    /// The name of its cluster for people.
    pub cluster_name: Option<String>,
    /// How many sessions it takes, if it says so.
    pub capacity: Option<i32>,
}

/// The platform's name here.
pub fn platform(raw: Option<String>, default: &str) -> String {
    raw.and_then(|raw| clean(&raw))
        .unwrap_or_else(|| default.to_owned())
}

/// The agents there by their ids, and what is odd about them.
pub fn agents(rows: &[Row], default_platform: &str) -> (BTreeMap<String, OldAgent>, Vec<Finding>) {
    let mut agents = BTreeMap::new();
    let mut findings = Vec::new();
    for row in rows {
        let Some(id) = row.text("agent_id") else {
            findings.push(Finding::unmapped(
                "agents",
                "?",
                "no_id",
                "the agent has no id",
            ));
            continue;
        };
        if row.text("platform").is_none() {
            let detail = format!("it says no platform; `{default_platform}` is taken");
            findings.push(Finding::note("agents", &id, "no_platform", detail));
        }
        let sessions = capacity(row.value("capacity")).unwrap_or_else(|why| {
            findings.push(Finding::note("agents", &id, "capacity", why));
            None
        });
        let cluster = row.text("cluster_id");
        let raw_domain = cluster.clone().unwrap_or_else(|| id.clone());
        let name = domain(&raw_domain);
        if name != raw_domain {
            let detail = format!(
                "`{raw_domain}` cannot be a resource domain; its agents are to say `{name}`"
            );
            findings.push(Finding::note("agents", &id, "domain_renamed", detail));
        }
        let agent = OldAgent {
            key: (
                platform(row.text("platform"), default_platform),
                row.text("region").unwrap_or_default(),
                cluster.unwrap_or_default(),
            ),
            raw_domain,
            cluster_name: row.text("cluster_name"),
            capacity: sessions,
        };
        agents.insert(id, agent);
    }
    (agents, findings)
}

/// Where a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its pool.
    pub key: PoolKey,
    /// Its resource domain, if anything names it.
    pub domain: Option<String>,
}

/// Where a session is. An agent knows its platform; a session's may be the column's default.
pub fn place(
    row: &Row,
    agents: &BTreeMap<String, OldAgent>,
    default_platform: &str,
    default_domain: Option<&str>,
) -> Place {
    let agent_id = row.text("agent_id");
    let agent = agent_id.as_ref().and_then(|id| agents.get(id));
    let cluster = row.text("cluster_id");
    let raw_domain = cluster
        .clone()
        .or_else(|| agent.map(|agent| agent.raw_domain.clone()))
        .or(agent_id);
    let key = match agent {
        Some(agent) => (
            agent.key.0.clone(),
            agent.key.1.clone(),
            cluster.unwrap_or_else(|| agent.key.2.clone()),
        ),
        None => {
            let platform = platform(row.text("platform"), default_platform);
            let cluster = cluster.unwrap_or_default();
            // Its cluster's other agents say where that is.
            let region = agents
                .values()
                .find(|a| !cluster.is_empty() && a.key.2 == cluster && a.key.0 == platform)
                .map_or_else(
                    || row.text("region").unwrap_or_default(),
                    |a| a.key.1.clone(),
                );
            (platform, region, cluster)
        }
    };
    Place {
        key,
        domain: raw_domain
            .map(|raw| domain(&raw))
            .or_else(|| default_domain.map(domain)),
    }
}

/// Names for pools: those that were given before, and new ones for the rest. The second of two that
/// would be called the same gets a digest.
pub fn pool_names(
    keys: &[PoolKey],
    before: &BTreeMap<PoolKey, String>,
    prefix: &str,
) -> (BTreeMap<PoolKey, String>, Vec<Finding>) {
    let mut names = before.clone();
    let mut findings = Vec::new();
    for key in keys {
        if names.contains_key(key) {
            continue;
        }
        let parts: Vec<&str> = [prefix, &key.0, &key.1, &key.2]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let raw = parts.join("-");
        let mut name = clean(&raw).unwrap_or_else(|| "pool".to_owned());
        if names.values().any(|taken| *taken == name) {
            name = marked(&name, &format!("{}\0{}\0{}", key.0, key.1, key.2));
        }
        if name != raw {
            let detail = format!("`{raw}` is called `{name}`");
            findings.push(Finding::note("pools", &raw, "pool_renamed", detail));
        }
        names.insert(key.clone(), name);
    }
    (names, findings)
}

/// The names by which a session's resources can be found: old metadata with the names added that
/// StreamSpace's agents give.
pub fn metadata(
    row: &Row,
    old_id: &str,
    platform: &str,
) -> (serde_json::Map<String, Value>, Option<&'static str>) {
    const MOST_BYTES: usize = 16 * 1024;
    let mut named = serde_json::Map::new();
    let mut add = |key: &str, value: String| named.insert(key.to_owned(), Value::String(value));
    let home = row.is_set("persistent_home");
    if platform == "kubernetes" {
        add("deployment", old_id.to_owned());
        add("service", old_id.to_owned());
        add(
            "namespace",
            row.text("namespace")
                .unwrap_or_else(|| "streamspace".to_owned()),
        );
        if home {
            add("pvc", format!("{old_id}-home"));
        }
        if let Some(pod) = row.text("pod_name") {
            add("pod", pod);
        }
    } else if platform == "docker" {
        add("container", format!("streamspace-{old_id}"));
        if home {
            add("volume", format!("streamspace-{old_id}-home"));
        }
    }
    let (mut kept, mut odd) = match row.value("platform_metadata") {
        Value::Object(fields) => (fields.clone(), None),
        Value::Null => (serde_json::Map::new(), None),
        _ => (
            serde_json::Map::new(),
            Some("it is no object, and was left out"),
        ),
    };
    for (key, value) in &named {
        kept.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let length = serde_json::to_string(&kept).map_or(usize::MAX, |text| text.len());
    if length > MOST_BYTES {
        (kept, odd) = (named, Some("it is longer than 16 KiB, and was left out"));
    }
    (kept, odd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Row {
        Row(value.as_object().expect("an object").clone())
    }

    #[test]
    fn a_pool_follows_from_platform_region_and_cluster() {
        let rows = [
            row(
                json!({"agent_id": "k1", "platform": "Kubernetes", "region": "us-east-1", "cluster_id": "prod"}),
            ),
            row(json!({"agent_id": "d1", "platform": "docker", "capacity": "many"})),
            row(json!({"platform": "docker"})),
        ];
        let (agents, findings) = agents(&rows, "kubernetes");
        let codes: Vec<_> = findings.iter().map(|f| f.code).collect();
        assert_eq!(codes, ["capacity", "no_id"]);
        let place = |value: Value| super::place(&row(value), &agents, "kubernetes", None);
        let key = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        for (session, expected, domain) in [
            (
                json!({"agent_id": "k1", "platform": "docker"}),
                key("kubernetes", "us-east-1", "prod"),
                Some("prod"),
            ),
            (
                json!({"agent_id": "d1", "platform": "kubernetes"}),
                key("docker", "", ""),
                Some("d1"),
            ),
            (
                json!({"agent_id": "gone", "platform": "docker"}),
                key("docker", "", ""),
                Some("gone"),
            ),
            (
                json!({"agent_id": "gone", "cluster_id": "prod"}),
                key("kubernetes", "us-east-1", "prod"),
                Some("prod"),
            ),
            (json!({}), key("kubernetes", "", ""), None),
        ] {
            let found = place(session.clone());
            assert_eq!(
                (found.key, found.domain.as_deref()),
                (expected, domain),
                "{session}"
            );
        }
    }

    #[test]
    fn pools_that_would_be_called_the_same_are_kept_apart() {
        let key =
            |region: &str, cluster: &str| ("k".to_owned(), region.to_owned(), cluster.to_owned());
        let keys = [key("a-b", "c"), key("a", "b-c"), key("A B", "c")];
        let (names, findings) = pool_names(&keys, &BTreeMap::new(), "");
        let distinct: std::collections::BTreeSet<_> = names.values().collect();
        assert_eq!((distinct.len(), findings.len()), (3, 2));
        assert_eq!(names[&keys[0]], "k-a-b-c");
        // Names that were given once stay, in whatever order the rest comes.
        let (again, _) = pool_names(&[keys[1].clone()], &names, "other");
        assert_eq!(again, names);
        let (prefixed, _) = pool_names(&keys[..1], &BTreeMap::new(), "old");
        assert_eq!(prefixed[&keys[0]], "old-k-a-b-c");
    }
}
