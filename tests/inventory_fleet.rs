//! Inventories under a fleet: three servers, twenty agents in four domains, each a task of its own, with
//! inventories that are whole, partial, late, sent twice at once, and that lie.
//!
//! What is checked at each verdict is what a user would notice: nothing that is wanted is to be deleted. What
//! is checked at the end is the promise: one whole inventory later nothing runs that nobody wants, and two
//! whole ones later what is not there any more is started anew or has failed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::future::join_all;
use lessor_client::{DeleteSession, LeftoverFilter};
use lessor_protocol::{
    Action, Assignment, DesiredState, HeldSession, Inventory, InventoryResource, NewSession,
    Outcome, ProblemCode, ReportedState, RestartPolicy, Session, SessionState, Verdict,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::checks::{count, the_books_agree};
use crate::support::random::Random;
use crate::support::{TestAgent, TestServer, eventually, report};

const AGENTS: usize = 20;
const DOMAINS: usize = 4;
const ROUNDS: usize = 18;
const DEATHS: usize = 4;
const QUARANTINE_SECONDS: f64 = 1.0;

/// What one resource really is, whatever inventories say.
#[derive(Clone, Debug)]
struct Thing {
    label: InventoryResource,
    since: Instant,
    /// A report with its name was accepted.
    is_known: bool,
    /// Nobody's session: it was there by itself.
    is_stray: bool,
}

/// What runs in each domain, and what was seen of it.
#[derive(Default)]
struct Yard {
    things: Mutex<BTreeMap<String, BTreeMap<String, Thing>>>,
    /// Attempts whose resource went by itself.
    vanished: Mutex<BTreeSet<(Uuid, i32)>>,
    /// Nobody does harm any more, nobody sends inventories by itself.
    is_quiet: AtomicBool,
    is_over: AtomicBool,
    /// Rounds of all agents together.
    rounds: AtomicUsize,
    deleted: AtomicUsize,
    adopted: AtomicUsize,
}

impl Yard {
    fn domain(&self, domain: &str) -> BTreeMap<String, Thing> {
        self.all().get(domain).cloned().unwrap_or_default()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<String, Thing>>> {
        self.things.lock().expect("the lock")
    }

    fn has(&self, domain: &str, name: &str) -> bool {
        self.all().get(domain).is_some_and(|d| d.contains_key(name))
    }

    /// What is not there yet comes up.
    fn start(&self, domain: &str, label: InventoryResource, is_stray: bool) {
        let name = label.platform_resource_id.clone();
        let thing = Thing {
            label,
            since: Instant::now(),
            is_known: false,
            is_stray,
        };
        let mut all = self.all();
        let things = all.entry(domain.to_owned()).or_default();
        things.entry(name).or_insert(thing);
    }

    fn is_known(&self, domain: &str, name: &str) {
        if let Some(thing) = self.all().get_mut(domain).and_then(|d| d.get_mut(name)) {
            thing.is_known = true;
        }
    }

    fn end(&self, domain: &str, name: &str) -> Option<Thing> {
        self.all().get_mut(domain).and_then(|d| d.remove(name))
    }

    /// A session's resource goes, and nobody says so; whether it was there.
    fn vanish(&self, domain: &str, name: &str) -> bool {
        let Some(thing) = self.end(domain, name) else {
            return false;
        };
        let attempt = thing.label.session_id.zip(thing.label.attempt);
        let mut vanished = self.vanished.lock().expect("the lock");
        vanished.insert(attempt.expect("the label of a session"));
        true
    }
}

fn name_of(domain: &str, session: &Session) -> String {
    format!("{domain}/{}/{}", session.id, session.attempt)
}

/// Whether a resource of a domain may be this session, as it is now.
fn is_wanted(session: &Session, domain: &str, thing: &InventoryResource) -> bool {
    let has_ended = match session.state {
        SessionState::Terminated => true,
        SessionState::Failed => session.desired_state != DesiredState::Terminated,
        _ => false,
    };
    let is_here = session
        .resource_domain
        .as_deref()
        .is_none_or(|d| d == domain);
    let name = &thing.platform_resource_id;
    let is_it = session
        .platform_resource_id
        .as_ref()
        .is_none_or(|known| known == name);
    !has_ended && is_here && is_it && thing.attempt == Some(session.attempt)
}

/// Whether it had failed, which leaves nothing to be wanted, and its end was asked for since then: the change came
/// after the inventory was begun, or in a transaction that had begun a moment before.
async fn has_just_become_wanted(
    agent: &TestAgent,
    session: &Session,
    inventory_begun: Instant,
) -> Result<bool, lessor_client::Error> {
    if session.state != SessionState::Failed {
        return Ok(false);
    }
    let since = Utc::now() - inventory_begun.elapsed() - Duration::from_secs(1);
    let events = agent
        .client
        .session_events(&session.id.to_string(), &Default::default())
        .await?;
    Ok(events.items.iter().any(|event| {
        event.kind == "session.desired_changed"
            && event.to.as_deref() == Some("terminated")
            && event.at >= since
    }))
}

/// An agent of the fleet, which may talk to any of the servers.
struct Member {
    agent: TestAgent,
    servers: Vec<TestAgent>,
    yard: Arc<Yard>,
    random: Random,
    epochs: HashMap<Uuid, i64>,
    held: Vec<Assignment>,
    dropped: Vec<HeldSession>,
    /// An inventory that has not been sent yet, and when it was begun.
    late: Option<(Instant, Vec<InventoryResource>)>,
}

impl Member {
    /// Itself at one of the servers.
    fn now(&self) -> TestAgent {
        let mut agent = self.agent.clone();
        agent.client = self.random.pick(&self.servers).client.clone();
        agent
    }

    async fn lives(mut self) {
        for round in 0.. {
            if self.yard.is_over.load(Ordering::Relaxed) {
                return;
            }
            self.yard.rounds.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = self.works().await {
                self.comes_back(&error).await;
            }
            if self.yard.is_quiet.load(Ordering::Relaxed) || round >= ROUNDS {
                continue;
            }
            if let Err(error) = self.does_harm().await {
                self.comes_back(&error).await;
            }
        }
    }

    /// Its lease has ended while it did something else; it keeps what it may.
    async fn comes_back(&mut self, error: &lessor_client::Error) {
        let code = error.code().unwrap_or_else(|| panic!("{error}"));
        let gone = [ProblemCode::LeaseExpired, ProblemCode::AgentNotRegistered];
        assert!(gone.contains(&code), "{error}");
        let held = TestAgent::held(&self.held);
        let kept = self.agent.register(&held).await.keep;
        self.held
            .retain(|held| kept.iter().any(|k| k.session_id == held.session.id));
    }

    /// Claims, and does what it is told.
    async fn works(&mut self) -> Result<(), lessor_client::Error> {
        let agent = self.now();
        let is_quiet = self.yard.is_quiet.load(Ordering::Relaxed);
        let mut body = agent.claim_body(3, if is_quiet { 1.0 } else { 0.1 });
        body.dropped = std::mem::take(&mut self.dropped);
        let claimed = agent.client.claim(&agent.name, &body).await?;
        for id in claimed.lost {
            self.held.retain(|held| held.session.id != id);
            let lease_epoch = self.epochs.get(&id).copied().unwrap_or(i64::MAX);
            self.dropped.push(HeldSession {
                session_id: id,
                lease_epoch,
            });
        }
        for assignment in claimed.assignments {
            self.epochs
                .insert(assignment.session.id, assignment.lease_epoch);
            self.does(&agent, assignment).await?;
        }
        Ok(())
    }

    async fn does(
        &mut self,
        agent: &TestAgent,
        assignment: Assignment,
    ) -> Result<(), lessor_client::Error> {
        let name = name_of(&agent.domain, &assignment.session);
        let state = match assignment.action {
            Action::Start => {
                // Some say first that they begin, and make nothing if it is not theirs.
                if self.random.percent(70) {
                    let begun = report(&assignment, ReportedState::Starting);
                    let taken = agent.try_report(vec![begun]).await?.remove(0);
                    if taken.outcome != Outcome::Accepted {
                        return Ok(());
                    }
                }
                let session = &assignment.session;
                let label = InventoryResource::named(&name).of(session.id, session.attempt);
                self.yard.start(&agent.domain, label, false);
                ReportedState::Running
            }
            Action::Adopt if !self.yard.has(&agent.domain, &name) => ReportedState::Failed,
            Action::Terminate => {
                self.yard.end(&agent.domain, &name);
                ReportedState::Terminated
            }
            _ => ReportedState::Running,
        };
        let mut said = report(&assignment, state);
        if state == ReportedState::Running {
            said.platform_resource_id = Some(Some(name.clone()));
        }
        let taken = agent.try_report(vec![said]).await?.remove(0);
        self.held
            .retain(|held| held.session.id != assignment.session.id);
        if taken.outcome == Outcome::Accepted && state == ReportedState::Running {
            if assignment.action == Action::Adopt {
                self.yard.adopted.fetch_add(1, Ordering::Relaxed);
            }
            self.yard.is_known(&agent.domain, &name);
            self.held.push(assignment);
        }
        Ok(())
    }

    /// One thing that makes trouble.
    async fn does_harm(&mut self) -> Result<(), lessor_client::Error> {
        let agent = self.now();
        match self.random.below(24) {
            // What it runs fails, and its resource stays.
            0..3 if !self.held.is_empty() => {
                let at = self.random.below(self.held.len());
                let failed = self.held.swap_remove(at);
                let said = report(&failed, ReportedState::Failed);
                agent.try_report(vec![said]).await?;
            }
            // A resource goes by itself.
            3 if !self.held.is_empty() => {
                let session = &self.random.pick(&self.held).session;
                self.yard
                    .vanish(&agent.domain, &name_of(&agent.domain, session));
            }
            // Something is there that nobody asked for, with or without a label.
            4 => {
                let mut stray = InventoryResource::named(format!("stray-{}", self.random.number()));
                if self.random.percent(50) {
                    stray = stray.of(Uuid::from_u64_pair(self.random.number(), 1), 1);
                }
                self.yard.start(&agent.domain, stray, true);
            }
            // It leaves and comes back; or is started anew, and remembers nothing.
            5 => {
                if self.random.percent(50) {
                    let goodbye = Some(agent.incarnation);
                    agent
                        .client
                        .deregister_agent(&agent.name, goodbye, false)
                        .await?;
                }
                self.held.clear();
                self.epochs.clear();
                self.dropped.clear();
                self.agent.restart(&[]).await;
            }
            6..10 => self.tells(&agent, Instant::now(), self.sees()).await?,
            10..13 => {
                let mut part = self.sees();
                part.retain(|_| self.random.percent(60));
                self.tells(&agent, Instant::now(), part).await?;
            }
            13..16 => match self.late.take() {
                Some((begun, seen)) => self.tells(&agent, begun, seen).await?,
                None => self.late = Some((Instant::now(), self.sees())),
            },
            16..18 => {
                let (begun, seen) = (Instant::now(), self.sees());
                let other = self.now();
                let first = self.tells(&agent, begun, seen.clone());
                let (first, second) = tokio::join!(first, self.tells(&other, begun, seen));
                first.and(second)?;
            }
            18..22 => self.tells(&agent, Instant::now(), self.lies()).await?,
            _ => {}
        }
        Ok(())
    }

    /// All that is there.
    fn sees(&self) -> Vec<InventoryResource> {
        let things = self.yard.domain(&self.agent.domain);
        things.into_values().map(|thing| thing.label).collect()
    }

    /// What is there, some of it under other labels, and what is not there at all.
    fn lies(&self) -> Vec<InventoryResource> {
        let things = self.yard.domain(&self.agent.domain);
        let ids: Vec<Uuid> = self
            .epochs
            .keys()
            .copied()
            .chain([Uuid::now_v7()])
            .collect();
        let mut said: Vec<InventoryResource> = Vec::new();
        for (name, thing) in things {
            // Only of what was not named yet there is nothing but the label to go by.
            if thing.is_known && self.random.percent(30) {
                let attempt = self.random.below(3) as i32;
                said.push(InventoryResource::named(name).of(*self.random.pick(&ids), attempt));
            } else {
                said.push(thing.label);
            }
        }
        for n in 0..3 {
            let made_up = InventoryResource::named(format!("made-up-{n}"));
            let attempt = self.random.below(3) as i32;
            said.push(made_up.of(*self.random.pick(&ids), attempt));
        }
        said.push(InventoryResource::named("made-up"));
        said
    }

    async fn tells(
        &self,
        agent: &TestAgent,
        begun: Instant,
        resources: Vec<InventoryResource>,
    ) -> Result<(), lessor_client::Error> {
        tells(agent, &self.yard, begun, resources).await.map(|_| ())
    }
}

/// Sends an inventory and deletes what it is told to, which must not be wanted; how many there were.
async fn tells(
    agent: &TestAgent,
    yard: &Yard,
    begun: Instant,
    resources: Vec<InventoryResource>,
) -> Result<usize, lessor_client::Error> {
    let body = Inventory {
        incarnation: agent.incarnation,
        taken_seconds_ago: begun.elapsed().as_secs_f64(),
        resources,
    };
    let answer = agent.client.send_inventory(&agent.name, &body).await?;
    let mut deleted = 0;
    for said in answer
        .verdicts
        .iter()
        .filter(|v| v.verdict == Verdict::Delete)
    {
        let name = &said.platform_resource_id;
        let Some(thing) = yard.domain(&agent.domain).remove(name) else {
            continue;
        };
        if thing.is_stray {
            let waited = thing.since.elapsed().as_secs_f64();
            assert!(waited >= QUARANTINE_SECONDS, "{waited} s: {thing:?}");
        } else {
            // What is not wanted once never is again: attempts only rise, and ends are for ever, but for what has
            // failed, of which somebody then asks for the end.
            let id = thing.label.session_id.expect("a label").to_string();
            let session = agent.client.get_session(&id).await?;
            assert!(
                !is_wanted(&session, &agent.domain, &thing.label)
                    || has_just_become_wanted(agent, &session, begun).await?,
                "{thing:?} of {session:#?}"
            );
        }
        if yard.end(&agent.domain, name).is_some() {
            deleted += 1;
            yard.deleted.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(deleted)
}

/// The fleet while it lives.
struct Fleet {
    servers: [TestServer; 3],
    yard: Arc<Yard>,
    sessions: Vec<Uuid>,
}

impl Fleet {
    fn server(&self) -> &TestServer {
        &self.servers[0]
    }

    async fn start() -> Self {
        let first = TestServer::start().await;
        let servers = [first.beside().await, first.beside().await, first];
        servers[0]
            .pool("p", |pool| {
                pool.lease_ttl_seconds = 3.0;
                pool.backoff_initial_seconds = 0.0;
                pool.backoff_max_seconds = 0.0;
                pool.max_attempts = 100;
                pool.quarantine_seconds = QUARANTINE_SECONDS;
            })
            .await;
        let mut fleet = Self {
            servers,
            yard: Arc::default(),
            sessions: Vec::new(),
        };
        for n in 0..60 {
            let policy = if n % 4 == 0 {
                RestartPolicy::Never
            } else {
                RestartPolicy::OnFailure
            };
            fleet.creates(policy).await;
        }
        fleet
    }

    async fn creates(&mut self, restart: RestartPolicy) {
        let mut new = NewSession::in_pool("p", &json!({})).expect("a spec");
        new.restart = restart;
        let made = self.server().client.create_session(&new, None).await;
        self.sessions.push(made.expect("made").id);
    }

    async fn member(&self, n: usize, random: &Random) -> Member {
        let domain = format!("d{}", n % DOMAINS);
        let agent = self
            .server()
            .agent(&format!("a{n}"), "p", &domain, 10)
            .await;
        Member {
            servers: self.servers.iter().map(|server| agent.at(server)).collect(),
            agent,
            yard: Arc::clone(&self.yard),
            random: random.split(),
            epochs: HashMap::new(),
            held: Vec::new(),
            dropped: Vec::new(),
            late: None,
        }
    }

    async fn all(&self) -> Vec<Session> {
        let mut all = Vec::new();
        for id in &self.sessions {
            all.push(self.server().get(*id).await);
        }
        all
    }

    /// Waits until each session has ended, or runs and is held.
    async fn settles(&self) {
        let unsettled = "SELECT count(*) FROM sessions WHERE state NOT IN ('terminated', 'failed') AND NOT \
            (state = 'running' AND desired_state = 'running' AND assigned_agent_id IS NOT NULL AND offered_until IS NULL \
             AND EXISTS (SELECT FROM agents WHERE name = assigned_agent_id AND live))";
        eventually("all run or have ended", || async {
            count(self.server(), unsettled).await == 0
        })
        .await;
    }

    /// One whole inventory of every live agent, all at once; how many resources went by it.
    async fn looks_around(&self) -> usize {
        let filter = lessor_client::AgentFilter {
            availability: Some(lessor_protocol::Availability::Live),
            ..Default::default()
        };
        let live = self.server().client.list_agents(&filter);
        let live = live.await.expect("a page").items;
        assert_eq!(live.len(), AGENTS - DEATHS);
        let told = live.into_iter().enumerate().map(|(n, found)| {
            let client = &self.servers[n % 3].client;
            let mut agent = TestAgent::new(client, &found.name, ("p", &found.resource_domain), 10);
            agent.incarnation = found.incarnation;
            let begun = Instant::now();
            let seen = self.yard.domain(&agent.domain).into_values();
            let seen = seen.map(|thing| thing.label).collect();
            async move { tells(&agent, &self.yard, begun, seen).await.expect("live") }
        });
        join_all(told).await.into_iter().sum()
    }

    /// What runs, but for what is nobody's; and what of it is wanted.
    async fn runs_and_is_wanted(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let runs = self
            .yard
            .all()
            .values()
            .flatten()
            .filter(|(_, thing)| !thing.is_stray)
            .map(|(name, _)| name.clone())
            .collect();
        let wanted = self
            .all()
            .await
            .into_iter()
            .filter(|session| session.state == SessionState::Running)
            .map(|session| session.platform_resource_id.expect("a resource"))
            .collect();
        (runs, wanted)
    }

    fn strays(&self) -> usize {
        self.yard
            .all()
            .values()
            .flatten()
            .filter(|(_, thing)| thing.is_stray)
            .count()
    }
}

/// Users end sessions and machines die without a word while the agents work.
async fn users_and_deaths(
    fleet: &Fleet,
    tasks: &mut Vec<tokio::task::JoinHandle<()>>,
    random: &Random,
) {
    let rounds = &fleet.yard.rounds;
    for step in 1..=3 * DEATHS {
        eventually("some work was done", || async {
            rounds.load(Ordering::Relaxed) >= 25 * step
        })
        .await;
        let id = random.pick(&fleet.sessions).to_string();
        let client = &random.pick(&fleet.servers).client;
        client
            .delete_session(&id, &DeleteSession::default())
            .await
            .expect("202");
        // Some die at whatever they do.
        if step % 3 == 0 {
            let dead = tasks.remove(random.below(tasks.len()));
            dead.abort();
            let _ = dead.await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_with_whole_partial_late_repeated_and_lying_inventories_leaves_nothing_unwatched() {
    let random = Random::seeded();
    let mut fleet = Fleet::start().await;
    let mut tasks = Vec::new();
    for n in 0..AGENTS {
        tasks.push(tokio::spawn(fleet.member(n, &random).await.lives()));
    }
    users_and_deaths(&fleet, &mut tasks, &random).await;
    fleet.yard.is_quiet.store(true, Ordering::Relaxed);
    fleet.settles().await;
    let live = "SELECT count(*) FROM agents WHERE live";
    eventually("the dead are known to be dead", || async {
        count(fleet.server(), live).await == tasks.len() as i64
    })
    .await;

    // Two more resources go, of one session that is to start again and of one that is not.
    let policies = [RestartPolicy::OnFailure, RestartPolicy::Never];
    for policy in policies {
        fleet.creates(policy).await;
    }
    fleet.settles().await;
    let gone = fleet
        .all()
        .await
        .split_off(fleet.sessions.len() - policies.len());
    for session in &gone {
        let domain = session.resource_domain.as_deref().expect("a domain");
        assert!(fleet.yard.vanish(domain, &name_of(domain, session)));
    }

    // One whole inventory later nothing runs that is not wanted.
    let deleted = fleet.looks_around().await;
    let (runs, wanted) = fleet.runs_and_is_wanted().await;
    let unwatched: Vec<_> = runs.difference(&wanted).collect();
    assert!(unwatched.is_empty(), "it runs unwatched: {unwatched:#?}");
    // Two later, what is not there is started anew, or has failed.
    fleet.looks_around().await;
    fleet.settles().await;
    let (runs, wanted) = fleet.runs_and_is_wanted().await;
    assert_eq!(runs, wanted, "all that is wanted runs, and nothing else");
    let sessions: HashMap<Uuid, Session> =
        fleet.all().await.into_iter().map(|s| (s.id, s)).collect();
    let vanished = fleet.yard.vanished.lock().expect("the lock").clone();
    for (id, attempt) in &vanished {
        let now = &sessions[id];
        let is_over = matches!(now.state, SessionState::Failed | SessionState::Terminated);
        assert!(
            is_over || now.attempt > *attempt,
            "{attempt} went: {now:#?}"
        );
        assert!(
            is_over || now.restart == RestartPolicy::OnFailure,
            "{now:#?}"
        );
    }
    for before in &gone {
        let now = &sessions[&before.id];
        let expected = if before.restart == RestartPolicy::Never {
            SessionState::Failed
        } else {
            SessionState::Running
        };
        assert_eq!(now.state, expected, "{now:#?}");
        assert_eq!(
            now.failure.as_ref().map(|f| f.reason.as_str()),
            Some("resource_gone")
        );
    }
    eventually("what is nobody's has had its time", || async {
        fleet.looks_around().await;
        fleet.strays() == 0
    })
    .await;
    // Nothing is left to say, and everybody tells the same story.
    assert_eq!(fleet.looks_around().await, 0);
    let left = fleet
        .server()
        .client
        .list_leftovers(&LeftoverFilter::default())
        .await;
    let left = left.expect("a page").items;
    assert!(left.is_empty(), "{left:#?}");
    let (adopted, all) = (
        &fleet.yard.adopted,
        fleet.yard.deleted.load(Ordering::Relaxed),
    );
    eprintln!(
        "{all} deleted, {deleted} of them at the end, {} vanished, {adopted:?} adopted",
        vanished.len()
    );
    assert!(all > 0 && adopted.load(Ordering::Relaxed) > 0);
    fleet.yard.is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("it lived");
    }
    the_books_agree(fleet.server()).await;
    for server in fleet.servers {
        server.stop().await;
    }
}
