//! Random operations against one server, and a small model of what they must have done.
//!
//! The model knows of each session what the protocol promises about it, and after every operation
//! the API has to show exactly that. Its rules are the protocol's tables as `support/rules.rs` has them by hand,
//! not the service's own. At the end healthy agents work, and everything that is wanted
//! has to come about. `LESSOR_TEST_SEED` runs a seed again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lessor_client::SessionFilter;
use lessor_protocol::{
    Action, Assignment, DesiredState, HeldSession, Outcome, ProblemCode, Report, ReportCode,
    ReportedFailure, ReportedState, Session, SessionPatch, SessionState,
};
use uuid::Uuid;

use crate::support::random::Random;
use crate::support::rules::{Known, ToDo, report_allowed, to_do};
use crate::support::{TestAgent, TestServer, report};

const OPERATIONS: usize = 600;
const MAX_SESSIONS: usize = 100;

/// What must be known of a session.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    desired: DesiredState,
    state: SessionState,
    epoch: i64,
    generation: i64,
    /// Who is assigned.
    agent: Option<String>,
    offered: bool,
    domain: Option<String>,
}

impl Model {
    fn of(session: &Session) -> Self {
        Self {
            desired: session.desired_state,
            state: session.state,
            epoch: session.lease_epoch,
            generation: session.generation,
            agent: session.assigned_agent_id.clone(),
            offered: session.offered_until.is_some(),
            domain: session.resource_domain.clone(),
        }
    }

    /// What is to be done with it.
    fn action(&self) -> Option<Action> {
        let known = Known {
            desired: self.desired,
            state: self.state,
            has_domain: self.domain.is_some(),
            has_holder: self.agent.is_some(),
            handing_over: false,
        };
        match to_do(known).1 {
            ToDo::Act(action, ..) => Some(action),
            ToDo::Nothing | ToDo::EndsAtOnce => None,
        }
    }

    /// The end of an assignment that did not come by a report.
    fn unassign(&mut self) {
        self.agent = None;
        self.offered = false;
        if self.state == SessionState::Pending {
            // Accepted and never seen: the next attempt has another name.
            self.domain = None;
        }
        self.end_if_over();
    }

    fn end_if_over(&mut self) {
        if self.desired == DesiredState::Terminated && self.agent.is_none() && self.domain.is_none()
        {
            self.state = SessionState::Terminated;
        }
    }

    fn want(&mut self, desired: DesiredState) {
        if self.desired == desired {
            return;
        }
        if self.offered {
            self.unassign();
        }
        self.desired = desired;
        self.generation += 1;
        self.end_if_over();
    }

    /// An accepted report.
    fn observe(&mut self, to: SessionState, retryable: bool, domain: &str) {
        self.offered = false;
        self.domain = Some(domain.to_owned());
        if to == SessionState::Hibernated {
            self.agent = None;
            self.state = to;
        } else if to == SessionState::Terminated {
            if self.desired != DesiredState::Terminated {
                self.desired = DesiredState::Terminated;
                self.generation += 1;
            }
            self.agent = None;
            self.state = to;
        } else if to == SessionState::Failed {
            self.agent = None;
            let again = self.desired != DesiredState::Terminated && retryable;
            self.state = if again { SessionState::Pending } else { to };
            if again {
                self.domain = None;
            }
        } else {
            self.state = to;
        }
    }
}

/// An agent of the test, as the model sees it.
struct Worker {
    agent: TestAgent,
    live: bool,
}

struct World {
    server: TestServer,
    random: Random,
    workers: Vec<Worker>,
    sessions: BTreeMap<Uuid, Model>,
    /// The newest assignments that were seen on the wire, stale ones too.
    seen: Vec<Assignment>,
    /// What the assignee of a session was told last.
    told: BTreeMap<Uuid, Action>,
    /// How often something happened: a run that never does the interesting things proves nothing.
    happened: BTreeMap<&'static str, usize>,
}

impl World {
    async fn start() -> Self {
        let random = Random::seeded();
        let server = TestServer::start().await;
        server
            .pool("p", |pool| {
                // Nothing happens by time alone.
                pool.lease_ttl_seconds = 600.0;
                pool.accept_timeout_seconds = 600.0;
                pool.start_timeout_seconds = 600.0;
                pool.terminate_timeout_seconds = 600.0;
                pool.backoff_initial_seconds = 0.0;
                pool.backoff_max_seconds = 0.0;
                pool.max_attempts = 1_000;
            })
            .await;
        let mut workers = Vec::new();
        for (name, domain) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")] {
            let agent = server.agent(name, "p", domain, 6).await;
            workers.push(Worker { agent, live: true });
        }
        Self {
            server,
            random,
            workers,
            sessions: BTreeMap::new(),
            seen: Vec::new(),
            told: BTreeMap::new(),
            happened: BTreeMap::new(),
        }
    }

    fn note(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    /// A session, and its model.
    fn any_session(&self) -> Option<Uuid> {
        let ids: Vec<Uuid> = self.sessions.keys().copied().collect();
        (!ids.is_empty()).then(|| *self.random.pick(&ids))
    }

    fn model(&mut self, id: Uuid) -> &mut Model {
        self.sessions.get_mut(&id).expect("it is in the model")
    }

    async fn operate(&mut self) {
        match self.random.below(100) {
            0..15 => self.create().await,
            15..37 => self.claim().await,
            37..70 => self.report().await,
            70..78 => self.delete().await,
            78..88 => self.patch().await,
            88..93 => self.register().await,
            93..96 => self.goodbye().await,
            _ => self.beat().await,
        }
    }

    async fn create(&mut self) {
        if self.sessions.len() < MAX_SESSIONS {
            let session = self.server.session("p").await;
            let model = Model::of(&session);
            assert_eq!((model.epoch, model.generation), (0, 1), "{session:#?}");
            self.sessions.insert(session.id, model);
        }
    }

    async fn claim(&mut self) {
        let at = self.random.below(self.workers.len());
        let max_sessions = i32::try_from(self.random.below(4)).expect("small");
        let (agent, live) = (self.workers[at].agent.clone(), self.workers[at].live);
        let claimed = agent.try_claim(max_sessions, 0.0).await;
        if !live {
            let error = claimed.expect_err("it is not registered");
            assert_eq!(
                error.code(),
                Some(ProblemCode::AgentNotRegistered),
                "{error}"
            );
            return;
        }
        for given in claimed.expect("a live agent may claim").assignments {
            self.was_given(&agent, &given);
            self.seen.push(given);
        }
    }

    fn was_given(&mut self, agent: &TestAgent, given: &Assignment) {
        self.told.insert(given.session.id, given.action);
        let model = self.model(given.session.id);
        if model.agent.as_deref() == Some(&agent.name) {
            assert_eq!(given.lease_epoch, model.epoch, "{given:#?} {model:#?}");
            self.note("told again");
            return;
        }
        assert_eq!(model.agent, None, "held by another: {given:#?}");
        assert!(given.lease_epoch > model.epoch, "{given:#?} {model:#?}");
        let in_reach = model.domain.as_ref().is_none_or(|d| *d == agent.domain);
        assert!(in_reach, "of another domain: {given:#?}");
        assert_eq!(Some(given.action), model.action(), "{given:#?} {model:#?}");
        model.epoch = given.lease_epoch;
        model.agent = Some(agent.name.clone());
        model.offered = true;
        self.note("offered");
        if given.action == Action::Adopt {
            self.note("adopted");
        }
    }

    /// A report by some agent under some assignment: its own, another's, or an old one.
    async fn report(&mut self) {
        if self.seen.is_empty() {
            return;
        }
        // Mostly one of the newest.
        let newest = self.seen.len().min(12);
        let given = self.seen[self.seen.len() - 1 - self.random.below(newest)].clone();
        let assignee = self.sessions[&given.session.id].agent.clone();
        let at = match self
            .workers
            .iter()
            .position(|w| Some(&w.agent.name) == assignee.as_ref())
        {
            Some(at) if self.random.percent(80) => at,
            _ => self.random.below(self.workers.len()),
        };
        let mut agent = self.workers[at].agent.clone();
        let wrong_run = self.random.percent(5);
        if wrong_run {
            agent.incarnation += 1;
        }
        let state = match self.random.below(100) {
            0..45 => *self.random.pick(ReportedState::ALL),
            _ => likely(given.action),
        };
        let mut report = report(&given, state);
        report.observed_generation = self.sessions[&given.session.id].generation;
        if self.random.percent(15) {
            report.lease_epoch += 1 - 2 * i64::from(self.random.percent(50));
        }
        if self.random.percent(10) {
            report.observed_generation += 1 - 2 * i64::from(self.random.percent(50));
        }
        let retryable = self.random.percent(70);
        report.failure = Some(Some(ReportedFailure {
            reason: "test".to_owned(),
            message: "it was made to fail".to_owned(),
            exit_code: None,
            retryable,
            at: None,
        }));
        let result = agent.try_report(vec![report.clone()]).await;
        if !self.workers[at].live || wrong_run {
            let code = if self.workers[at].live {
                ProblemCode::AgentSuperseded
            } else {
                ProblemCode::AgentNotRegistered
            };
            let error = result.expect_err("it is fenced");
            assert_eq!(error.code(), Some(code), "{error}");
            self.note("fenced by its run");
            return;
        }
        let result = result.expect("an answer").remove(0);
        let before = self.sessions[&given.session.id].clone();
        let context = format!("{report:?}\n{before:?}\n{result:?}");
        let matches =
            before.agent.as_deref() == Some(&agent.name) && before.epoch == report.lease_epoch;
        assert_eq!(result.outcome == Outcome::Fenced, !matches, "{context}");
        match result.outcome {
            Outcome::Fenced => self.note("fenced"),
            Outcome::Rejected => {
                self.note("rejected");
                assert!(may_be_rejected(&before, &report), "{context}");
                let unknown = report.observed_generation > before.generation;
                assert_eq!(
                    result.code == Some(ReportCode::GenerationUnknown),
                    unknown,
                    "{context}"
                );
            }
            Outcome::Accepted => {
                self.note("accepted");
                let told = self.told.get(&given.session.id).copied();
                assert!(
                    may_be_accepted(&before, told, &report),
                    "{told:?} {context}"
                );
                let model = self.model(given.session.id);
                match report.state.state() {
                    Some(to) => model.observe(to, retryable, &agent.domain),
                    None => model.unassign(),
                }
            }
        }
    }

    async fn delete(&mut self) {
        let Some(id) = self.any_session() else { return };
        let how = lessor_client::DeleteSession::default();
        let client = &self.server.client;
        client
            .delete_session(&id.to_string(), &how)
            .await
            .expect("202");
        self.model(id).want(DesiredState::Terminated);
    }

    async fn patch(&mut self) {
        let Some(id) = self.any_session() else { return };
        let desired = *self
            .random
            .pick(&[DesiredState::Running, DesiredState::Hibernated]);
        let patch = SessionPatch {
            desired_state: Some(desired),
            ..SessionPatch::default()
        };
        let answer = self
            .server
            .client
            .patch_session(&id.to_string(), &patch)
            .await;
        let model = self.model(id);
        let ended = model.desired == DesiredState::Terminated
            || matches!(model.state, SessionState::Failed | SessionState::Terminated);
        if ended {
            let error = answer.expect_err("it has ended");
            assert_eq!(
                error.code(),
                Some(ProblemCode::TransitionNotAllowed),
                "{error}"
            );
        } else {
            answer.expect("it may be changed");
            model.want(desired);
        }
    }

    /// A new run of an agent, which still drives some of what it was given, and says so under the
    /// right epoch or a wrong one.
    async fn register(&mut self) {
        let at = self.random.below(self.workers.len());
        let name = self.workers[at].agent.name.clone();
        let mut held = Vec::new();
        for given in &self.seen {
            let chosen = self.random.percent(40);
            if chosen
                && !held
                    .iter()
                    .any(|h: &HeldSession| h.session_id == given.session.id)
            {
                held.push(HeldSession {
                    session_id: given.session.id,
                    lease_epoch: self.sessions[&given.session.id].epoch
                        - i64::from(self.random.percent(20)),
                });
            }
        }
        let before = self.workers[at].agent.incarnation;
        let registered = self.workers[at].agent.restart(&held).await;
        assert!(registered.incarnation > before, "incarnations rise");
        self.workers[at].live = true;
        let domain = self.workers[at].agent.domain.clone();
        for kept in &registered.keep {
            let said = held.iter().find(|h| h.session_id == kept.session_id);
            let said = said.expect("what is kept was held");
            let model = self.model(kept.session_id);
            assert_eq!(said.lease_epoch, model.epoch, "kept under a stale epoch");
            assert!(kept.lease_epoch > model.epoch, "{kept:?} {model:?}");
            assert!(model.agent.is_none() || model.agent.as_ref() == Some(&name));
            assert!(model.domain.as_ref().is_none_or(|d| *d == domain));
            model.epoch = kept.lease_epoch;
            model.agent = Some(name.clone());
            model.offered = false;
            model.domain = Some(domain.clone());
            // Under a new epoch, with what is to be done; else with a look at it.
            let told = model.action().unwrap_or(Action::Adopt);
            self.told.insert(kept.session_id, told);
            self.note("kept");
        }
        let kept = |id: &Uuid| registered.keep.iter().any(|k| k.session_id == *id);
        let dropped = |id: &Uuid| registered.drop.iter().any(|d| d.session_id == *id);
        for h in &held {
            assert!(
                kept(&h.session_id) != dropped(&h.session_id),
                "kept or dropped"
            );
        }
        for (id, model) in &mut self.sessions {
            if model.agent.as_ref() == Some(&name) && !kept(id) {
                let was_held = held.iter().any(|h| h.session_id == *id);
                assert_eq!(registered.released.contains(id), !was_held);
                model.unassign();
            }
        }
    }

    async fn goodbye(&mut self) {
        let at = self.random.below(self.workers.len());
        if !self.workers[at].live {
            return;
        }
        let (name, run) = {
            let agent = &self.workers[at].agent;
            (agent.name.clone(), agent.incarnation)
        };
        let client = &self.server.client;
        let wrong = client.deregister_agent(&name, Some(run + 1), false).await;
        let error = wrong.expect_err("of another run");
        assert_eq!(error.code(), Some(ProblemCode::AgentSuperseded));
        let goodbye = client.deregister_agent(&name, Some(run), false).await;
        goodbye.expect("goodbye");
        self.workers[at].live = false;
        self.note("said goodbye");
        for model in self.sessions.values_mut() {
            if model.agent.as_ref() == Some(&name) {
                model.unassign();
            }
        }
    }

    async fn beat(&mut self) {
        let worker = self.random.pick(&self.workers);
        let mut agent = worker.agent.clone();
        if worker.live {
            agent.beat().await.expect("a live agent may beat");
            agent.incarnation -= 1;
            let error = agent.beat().await.expect_err("an older run");
            assert_eq!(error.code(), Some(ProblemCode::AgentSuperseded), "{error}");
        } else {
            let error = agent.beat().await.expect_err("not registered");
            assert_eq!(
                error.code(),
                Some(ProblemCode::AgentNotRegistered),
                "{error}"
            );
        }
    }

    async fn shown(&self) -> BTreeMap<Uuid, Session> {
        let mut filter = SessionFilter::default();
        filter.paging.limit = Some(500);
        let page = self.server.client.list_sessions(&filter).await;
        let items = page.expect("sessions").items;
        items.into_iter().map(|s| (s.id, s)).collect()
    }

    async fn assert_shown(&self, after: usize) {
        let shown = self.shown().await;
        assert_eq!(shown.len(), self.sessions.len());
        for (id, model) in &self.sessions {
            assert_eq!(
                Model::of(&shown[id]),
                *model,
                "after operation {after}: {:#?}",
                shown[id]
            );
        }
    }

    /// One healthy agent in each domain works until everything that is wanted has come about.
    async fn drain(&mut self) {
        for worker in &mut self.workers {
            worker.agent.capacity = 1_000;
            worker.agent.restart(&[]).await;
        }
        let until = Instant::now() + Duration::from_secs(25);
        loop {
            for worker in [&self.workers[0], &self.workers[2]] {
                for given in worker.agent.claim(100, 0.0).await {
                    worker.agent.accepts(&given, likely(given.action)).await;
                }
            }
            let shown = self.shown().await;
            let open: Vec<&Session> = shown.values().filter(|s| !is_reached(s)).collect();
            if open.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "never came about: {open:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (id, session) in self.shown().await {
            if self.sessions[&id].desired == DesiredState::Terminated {
                assert_eq!(session.state, SessionState::Terminated, "{session:#?}");
            }
        }
    }
}

fn is_reached(s: &Session) -> bool {
    match s.desired_state {
        DesiredState::Terminated => s.state == SessionState::Terminated,
        // A dead letter waits for a person.
        _ if s.state == SessionState::Failed => true,
        DesiredState::Running => {
            s.state == SessionState::Running
                && s.assigned_agent_id.is_some()
                && s.offered_until.is_none()
        }
        // What never started need not.
        DesiredState::Hibernated => {
            matches!(s.state, SessionState::Hibernated | SessionState::Pending)
        }
    }
}

fn likely(action: Action) -> ReportedState {
    match action {
        Action::Start | Action::Adopt | Action::Wake | Action::Release => ReportedState::Running,
        Action::Hibernate => ReportedState::Hibernated,
        Action::Terminate => ReportedState::Terminated,
    }
}

/// Only what follows under the action that its assignee was told, or under what is to be done now, may be
/// accepted, and a decline of an offer. Who holds it and has not seen the newest wish may be on any way.
fn may_be_accepted(before: &Model, told: Option<Action>, report: &Report) -> bool {
    let Some(to) = report.state.state() else {
        return report.observed_generation <= before.generation && before.offered;
    };
    let follows = |action| report_allowed(action, before.state, to);
    let behind = !before.offered && report.observed_generation < before.generation;
    report.observed_generation <= before.generation
        && (told.is_some_and(follows)
            || before.action().is_some_and(follows)
            || (behind && Action::ALL.iter().any(|action| follows(*action))))
}

/// The present state again, and an end, must be accepted always, and what the action leads to.
fn may_be_rejected(before: &Model, report: &Report) -> bool {
    if report.observed_generation > before.generation || report.observed_generation < 0 {
        return true;
    }
    let Some(to) = report.state.state() else {
        return !before.offered;
    };
    let ends = matches!(to, SessionState::Failed | SessionState::Terminated)
        && before.state != SessionState::Failed;
    let on_the_way = before
        .action()
        .is_some_and(|action| report_allowed(action, before.state, to));
    to != before.state && !ends && !on_the_way
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_do_what_the_model_says() {
    let mut world = World::start().await;
    let began = Instant::now();
    for operation in 0..OPERATIONS {
        world.operate().await;
        world.assert_shown(operation).await;
    }
    let operated = began.elapsed();
    eprintln!("{:?} in {operated:?}", world.happened);
    for what in [
        "offered",
        "told again",
        "accepted",
        "rejected",
        "fenced",
        "fenced by its run",
        "adopted",
        "kept",
        "said goodbye",
    ] {
        assert!(world.happened.contains_key(what), "never: {what}");
    }
    world.drain().await;
    let ids: Vec<Uuid> = world.sessions.keys().copied().collect();
    for id in ids {
        let id = id.to_string();
        let page = world
            .server
            .client
            .session_leases(&id, &Default::default())
            .await;
        let items = page.expect("the ledger").items;
        let epochs: Vec<i64> = items.iter().map(|line| line.lease_epoch).collect();
        assert!(
            epochs.is_sorted_by(|newer, older| newer > older),
            "{id}: {epochs:?}"
        );
    }
    world.server.stop().await;
}
