//! The closed sets of words: states, actions, settings. Each has one spelling, on the wire and in
//! the database.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A word that is not one of the set it was parsed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    /// What was given.
    pub given: String,
    /// The words that would have been understood.
    pub known: &'static [&'static str],
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not one of {}",
            self.given,
            self.known.join(", ")
        )
    }
}

impl std::error::Error for UnknownWord {}

macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $vdoc:literal])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[doc = $vdoc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every word of the set, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word as it is written on the wire and in the database.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.as_str()) }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(given: &str) -> Result<Self, UnknownWord> {
                match given {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { given: given.to_owned(), known: &[$($word),+] }),
                }
            }
        }

        // Not derived: the derive does not see through the macro's literals and would write the
        // variants' names where the words belong.
        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let about = concat!($($doc, "\n",)* $("\n- `", $word, "`:", $($vdoc,)*)+);
                utoipa::openapi::schema::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some(about.trim()))
                    .enum_values(Some(Self::ALL.iter().map(|word| word.as_str())))
                    .into()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }
        }
    };
}
pub(crate) use words;

words! {
    /// What was last observed of a session.
    SessionState {
        /// Waiting for an agent.
        Pending = "pending",
        /// An agent accepted it and is bringing it up.
        Starting = "starting",
        /// Its resource runs.
        Running = "running",
        /// On its way to hibernation.
        Hibernating = "hibernating",
        /// Stopped with its state kept.
        Hibernated = "hibernated",
        /// On its way back from hibernation.
        Waking = "waking",
        /// On its way to its end.
        Terminating = "terminating",
        /// Ended.
        Terminated = "terminated",
        /// Given up: a dead letter until somebody retries or deletes it.
        Failed = "failed",
    }
}

words! {
    /// What is wanted of a session.
    DesiredState {
        /// It should run.
        Running = "running",
        /// It should be stopped with its state kept.
        Hibernated = "hibernated",
        /// It should end; this cannot be taken back.
        Terminated = "terminated",
    }
}

words! {
    /// What an agent is to do with a session it was assigned.
    Action {
        /// Bring it up, after looking for what is already there.
        Start = "start",
        /// Take over the running resource and report what was found.
        Adopt = "adopt",
        /// Bring it back from hibernation.
        Wake = "wake",
        /// Stop it and keep its state.
        Hibernate = "hibernate",
        /// End it and remove what it left, after looking for what is there.
        Terminate = "terminate",
        /// Hand it over: report its present state, then stop acting on it.
        Release = "release",
    }
}

words! {
    /// How a pool shares sessions out among its agents.
    Placement {
        /// To the least utilised agent.
        Spread = "spread",
        /// Fill one agent before the next.
        Pack = "pack",
    }
}

words! {
    /// What a pool does with sessions whose whole resource domain is lost.
    OnLost {
        /// Wait for the domain to come back.
        Wait = "wait",
        /// Start them elsewhere.
        Restart = "restart",
        /// Fail them.
        Fail = "fail",
    }
}

words! {
    /// Whether a session that failed is tried again.
    RestartPolicy {
        /// Try again while attempts are left.
        OnFailure = "on_failure",
        /// Never; the first failure is final.
        Never = "never",
    }
}

words! {
    /// What happens to a session that has been idle for too long.
    IdleAction {
        /// It is hibernated.
        Hibernate = "hibernate",
        /// It is terminated.
        Terminate = "terminate",
    }
}

words! {
    /// Whether an agent's lease holds.
    Availability {
        /// Its lease holds.
        Live = "live",
        /// Its lease has ended; it must register again.
        Expired = "expired",
    }
}

words! {
    /// Whether an agent is given new sessions.
    Scheduling {
        /// It is.
        Active = "active",
        /// It is not; what it holds stays.
        Cordoned = "cordoned",
        /// It is not, and what it holds is being handed over.
        Draining = "draining",
        /// It is not, and it holds nothing any more.
        Drained = "drained",
    }
}

words! {
    /// How far a rebalance is.
    RebalanceStatus {
        /// It was only asked what it would do.
        Planned = "planned",
        /// Sessions are still to be moved.
        InProgress = "in_progress",
        /// Every move was made, skipped or given up; or there was nothing to move.
        Completed = "completed",
        /// Somebody called it off.
        Cancelled = "cancelled",
    }
}

words! {
    /// How far a move of a rebalance is.
    MoveState {
        /// It has not begun.
        Planned = "planned",
        /// The holder was asked to let go, and the other agent has not taken it over yet.
        InProgress = "in_progress",
        /// The other agent holds the session.
        Moved = "moved",
        /// The session or one of the agents had changed meanwhile, so that it was not made.
        Skipped = "skipped",
        /// It took too long: the session stays with its holder, or went to a third agent.
        Failed = "failed",
        /// The rebalance was called off before it began.
        Cancelled = "cancelled",
    }
}

words! {
    /// How far a drain is.
    DrainStatus {
        /// Sessions are still to be handed over.
        InProgress = "in_progress",
        /// Every session has been taken over and reported on, or is at rest.
        Completed = "completed",
        /// Somebody called it off.
        Cancelled = "cancelled",
        /// Its deadline passed, and some sessions could not be handed over.
        Failed = "failed",
    }
}

words! {
    /// Why a hold or an offer ended, in the ledger.
    EndReason {
        /// The offer was not accepted in time.
        OfferLapsed = "offer_lapsed",
        /// The agent handed the offer back.
        Declined = "declined",
        /// The agent's lease ended.
        LeaseExpired = "lease_expired",
        /// The agent released it in a hand-over.
        Released = "released",
        /// A new assignment of the same session replaced it.
        Superseded = "superseded",
        /// The agent registered without it.
        NotHeld = "not_held",
        /// The agent said goodbye.
        Deregistered = "deregistered",
        /// The session hibernated.
        Hibernated = "hibernated",
        /// The session ended.
        Terminated = "terminated",
        /// The session failed.
        Failed = "failed",
        /// A phase deadline passed.
        TimedOut = "timed_out",
        /// It was taken away by force.
        Forced = "forced",
    }
}

words! {
    /// What became of one report.
    Outcome {
        /// It was taken.
        Accepted = "accepted",
        /// It was written under a lease epoch that is not the current one.
        Fenced = "fenced",
        /// It was not allowed.
        Rejected = "rejected",
    }
}

words! {
    /// Why a report was not accepted.
    ReportCode {
        /// Another lease epoch is current (fenced).
        LeaseEpochStale = "lease_epoch_stale",
        /// The session is not assigned to this agent (fenced).
        NotAssigned = "not_assigned",
        /// The state cannot follow the present one under this action (rejected).
        TransitionNotAllowed = "transition_not_allowed",
        /// The generation does not exist yet (rejected).
        GenerationUnknown = "generation_unknown",
        /// There is no such session (rejected).
        SessionNotFound = "session_not_found",
        /// A field is out of its limits (rejected).
        ValidationFailed = "validation_failed",
    }
}

words! {
    /// What an agent may report of a session: a state, or that it declines the offer.
    ReportedState {
        /// Waiting; only as the present state again.
        Pending = "pending",
        /// Coming up.
        Starting = "starting",
        /// Running.
        Running = "running",
        /// Going into hibernation.
        Hibernating = "hibernating",
        /// Hibernated.
        Hibernated = "hibernated",
        /// Waking.
        Waking = "waking",
        /// Ending.
        Terminating = "terminating",
        /// Ended.
        Terminated = "terminated",
        /// Failed.
        Failed = "failed",
        /// The offer is handed back; `failure` says why.
        Declined = "declined",
    }
}

impl ReportedState {
    /// The session state that it names; none for `declined`.
    #[must_use]
    pub fn state(self) -> Option<SessionState> {
        self.as_str().parse().ok()
    }
}

impl From<SessionState> for ReportedState {
    fn from(state: SessionState) -> Self {
        match state {
            SessionState::Pending => Self::Pending,
            SessionState::Starting => Self::Starting,
            SessionState::Running => Self::Running,
            SessionState::Hibernating => Self::Hibernating,
            SessionState::Hibernated => Self::Hibernated,
            SessionState::Waking => Self::Waking,
            SessionState::Terminating => Self::Terminating,
            SessionState::Terminated => Self::Terminated,
            SessionState::Failed => Self::Failed,
        }
    }
}

words! {
    /// Who or what caused an event.
    ActorType {
        /// Lessor itself: a deadline, a sweep.
        System = "system",
        /// An agent.
        Agent = "agent",
        /// A person.
        User = "user",
        /// The holder of a token.
        Token = "token",
    }
}

words! {
    /// What a token allows.
    Role {
        /// Everything.
        Admin = "admin",
        /// Everything but tokens.
        Operator = "operator",
        /// To read everything but tokens and the audit.
        Viewer = "viewer",
        /// To create sessions of one owner, and to see and change those.
        User = "user",
        /// To register agents in its pools, each of which gets a token of its own.
        Enroll = "enroll",
        /// To be one agent in one pool.
        Agent = "agent",
    }
}

words! {
    /// Whether the agents of a pool may register at once.
    Approval {
        /// They may.
        Auto = "auto",
        /// Each when an operator has approved it.
        Manual = "manual",
    }
}
