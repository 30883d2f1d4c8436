//! What someone who writes an agent implements: a platform, as the loop drives it.

use std::future::Future;
use std::time::Duration;

use lessor_protocol::{Command, Endpoint, InventoryResource, RawJson, ReportedFailure, Session};
use uuid::Uuid;

use super::work::Work;

/// A platform.
///
/// The loop calls `start`, `wake`, `hibernate` and `terminate` only after the service has accepted
/// that this agent acts, never two of them at once for one session, and **drops their future** when
/// the agent's right to act runs out or the session is taken away. So each of them must look for
/// what is there first, must be repeatable after having been cut off at any `await`, and should
/// call [`Work::may_act`] before each further step it takes on the platform.
///
/// `adopt` and `wait` only look: they may be called before acceptance, and while fenced.
pub trait Driver: Send + Sync + 'static {
    /// What this agent held when its process last ended, and still finds: called once, before the
    /// first registration. Whatever is left out can be claimed by others at once.
    fn held(&self) -> impl Future<Output = Vec<Held>> + Send {
        async { Vec::new() }
    }

    /// The session is held and runs: [`Driver::held`] should list it after a restart. Called again
    /// when its epoch changes.
    fn remember(&self, held: &Held) -> impl Future<Output = ()> + Send {
        let _ = held;
        async {}
    }

    /// The opposite of [`Driver::remember`]; the resource must be left alone. Also called for
    /// sessions that were never remembered, and before an action that makes what was remembered
    /// untrue.
    fn forget(&self, session_id: Uuid) -> impl Future<Output = ()> + Send {
        let _ = session_id;
        async {}
    }

    /// Brings the session up, or finds it already up: resources are named by session id and
    /// attempt.
    fn start(&self, work: &Work) -> impl Future<Output = Result<Resource, Stop>> + Send;

    /// Looks for the resource of a session that another agent started. [`Stop::gone`] if there is
    /// none.
    fn adopt(&self, work: &Work) -> impl Future<Output = Result<Resource, Stop>> + Send;

    /// Brings the session back from hibernation.
    fn wake(&self, work: &Work) -> impl Future<Output = Result<Resource, Stop>> + Send;

    /// Stops the session and keeps its state.
    fn hibernate(&self, work: &Work) -> impl Future<Output = Result<Resource, Stop>> + Send;

    /// Ends the session and removes what it left. That nothing is there is a success.
    fn terminate(&self, work: &Work) -> impl Future<Output = Result<(), Stop>> + Send;

    /// The session is about to be handed over to another agent: let go of what only this process
    /// has, such as connections. The resource runs on.
    fn release(&self, work: &Work) -> impl Future<Output = ()> + Send {
        let _ = work;
        async {}
    }

    /// Does a command on a session that runs, and says what came of it: JSON of at most 64 KiB.
    ///
    /// One at a time for a session, beside whatever else goes on. The future is dropped when the
    /// command is cancelled or past its deadline, and when the agent's right to act or its hold
    /// ends: what it has begun must then stop.
    fn command(
        &self,
        work: &Work,
        command: &Command,
    ) -> impl Future<Output = Result<serde_json::Value, ReportedFailure>> + Send {
        let message = format!("this agent knows no command `{}`", command.kind);
        let _ = work;
        async move { Err(failure("unsupported", message, None, false)) }
    }

    /// For how long each session has not been used, of those for which that is known: at most
    /// 10,000. Asked with each renewal of the lease, so it must be quick: an answer that takes more
    /// than a moment is not waited for.
    fn activity(&self) -> impl Future<Output = Vec<(Uuid, Duration)>> + Send {
        async { Vec::new() }
    }

    /// All that this agent sees on its platform, in whatever state, with the labels that it finds:
    /// what other agents of its domain started as well. `None` if it cannot tell now: a list that
    /// is not whole must not be given.
    fn inventory(&self) -> impl Future<Output = Option<Vec<InventoryResource>>> + Send {
        async { None }
    }

    /// Deletes a resource that no session wants: one that [`Driver::inventory`] listed and the
    /// service said so of. Called only while the agent may act, and dropped as other actions are.
    /// That nothing is there is a success.
    fn delete(
        &self,
        resource: &InventoryResource,
    ) -> impl Future<Output = Result<(), Stop>> + Send {
        let _ = resource;
        async { Ok(()) }
    }

    /// Waits until the resource has ended by itself. Never ends for platforms that cannot tell.
    fn wait(&self, work: &Work) -> impl Future<Output = Exit> + Send {
        let _ = work;
        std::future::pending()
    }
}

/// A session that this agent holds, as the driver keeps it over a restart of the process.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// The session as it was when it was assigned, with `generation` and `attempt`.
    pub session: Session,
    /// The epoch under which it is held.
    pub lease_epoch: i64,
}

/// What runs a session. What is `None` stays as it was last reported.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// The platform's name of it.
    pub platform_resource_id: Option<String>,
    /// A JSON object of the driver's own: at most 16 KiB.
    pub platform_metadata: Option<RawJson>,
    /// Where users reach it.
    pub endpoint: Option<Endpoint>,
}

/// How a resource ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With a code: 0 is `terminated`, anything else `failed`.
    Code(i32),
    /// By a signal that nobody of Lessor sent.
    Signal(i32),
    /// It is not there any more, and how it ended is not known.
    Gone(String),
}

impl Exit {
    /// How it is reported: none for a session that has completed.
    #[must_use]
    pub fn failure(&self) -> Option<ReportedFailure> {
        match self {
            Self::Code(0) => None,
            Self::Code(code) => Some(failure(
                "exited",
                format!("exited with code {code}"),
                Some(*code),
                true,
            )),
            // 128 + n is how shells have always written it.
            Self::Signal(signal) => Some(failure(
                "exited",
                format!("ended by signal {signal}"),
                Some(128 + signal),
                true,
            )),
            Self::Gone(what) => Some(failure("resource_gone", what.clone(), None, true)),
        }
    }
}

/// Why an action did not do what it was to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The session has failed, and this is why.
    Failed(ReportedFailure),
    /// The resource has ended by itself.
    Ended(Exit),
    /// The platform could not be asked, or not now: the loop tries again, with growing pauses,
    /// until something else is wanted of the session.
    Again(String),
}

impl Stop {
    /// A failure that another attempt may mend.
    #[must_use]
    pub fn failed(reason: &str, message: impl Into<String>) -> Self {
        Self::Failed(failure(reason, message.into(), None, true))
    }

    /// A failure that no other attempt would mend.
    #[must_use]
    pub fn for_good(reason: &str, message: impl Into<String>) -> Self {
        Self::Failed(failure(reason, message.into(), None, false))
    }

    /// There is no resource.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::Ended(Exit::Gone(message.into()))
    }
}

/// Messages are for people; this is far more than they read, and far below the service's limits.
const MESSAGE_CHARS: usize = 1000;

fn failure(
    reason: &str,
    message: String,
    exit_code: Option<i32>,
    retryable: bool,
) -> ReportedFailure {
    let message = message.chars().take(MESSAGE_CHARS).collect();
    ReportedFailure {
        reason: reason.to_owned(),
        message,
        exit_code,
        retryable,
        at: None,
    }
}

/// The agent may not act at present: its lease was not renewed in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent's lease was not renewed in time, so it may not act")]
pub struct Fenced;

impl From<Fenced> for Stop {
    fn from(fenced: Fenced) -> Self {
        Self::Again(fenced.to_string())
    }
}

/// How the agent presents itself and how much it does at once.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Its name: the same over restarts.
    pub name: String,
    /// The pool whose sessions it claims.
    pub pool: String,
    /// The cluster or host whose resources it can reach; its own name if `None`: nothing shared.
    pub resource_domain: Option<String>,
    /// Its session slots.
    pub capacity: i32,
    /// Its labels.
    pub labels: lessor_protocol::Labels,
    /// The version of its software.
    pub agent_version: Option<String>,
    /// How long a poll is parked: at most 55 s.
    pub wait: Duration,
    /// How many sessions one claim takes at most: 1 to 1000.
    pub max_sessions: i32,
    /// How many actions run on the platform at the same time.
    pub concurrency: usize,
}

impl AgentConfig {
    /// An agent with ten slots and every default.
    #[must_use]
    pub fn new(name: impl Into<String>, pool: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            pool: pool.into(),
            resource_domain: None,
            capacity: 10,
            labels: lessor_protocol::Labels::new(),
            agent_version: None,
            wait: Duration::from_secs(50),
            max_sessions: 100,
            concurrency: 64,
        }
    }
}
