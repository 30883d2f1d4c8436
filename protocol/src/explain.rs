//! Why a session waits.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::words::{UnknownWord, words};
use crate::{DesiredState, SessionState};

words! {
    /// What a session waits for.
    WaitingFor {
        /// An agent that claims it.
        Agent = "agent",
        /// The agent that it is offered to must accept it.
        Acceptance = "acceptance",
        /// Its holder must report the next state.
        Report = "report",
        /// It is held back: a pause between attempts, or its former holder may still act on it.
        Backoff = "backoff",
        /// No agent of its resource domain is live.
        Domain = "domain",
        /// Nothing: it is as it is wanted, or it has ended.
        Nothing = "nothing",
    }
}

words! {
    /// Why an agent can or cannot take a session; of several reasons the first.
    AgentVerdict {
        /// Its lease has ended.
        Expired = "expired",
        /// It is given no new sessions.
        Cordoned = "cordoned",
        /// The session's resource is in another domain.
        OtherDomain = "other_domain",
        /// It lacks labels that the session requires.
        LabelMismatch = "label_mismatch",
        /// It has no free slot.
        Full = "full",
        /// It is not offered the session for a while.
        PassedOver = "passed_over",
        /// It has not claimed for longer than its polls last.
        NotPolling = "not_polling",
        /// It can take it.
        Eligible = "eligible",
    }
}

/// Why a session is not as it is wanted, and what would help. Programs go by the fields; `summary`,
/// `detail` and `hints` are for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explain {
    /// The session.
    pub session_id: Uuid,
    /// What was last observed.
    pub state: SessionState,
    /// What is wanted.
    pub desired_state: DesiredState,
    /// What it waits for.
    pub waiting_for: WaitingFor,
    /// The reason in a sentence or two.
    #[cfg_attr(
        feature = "openapi",
        schema(example = "it waits for an agent to start it; none of 2 agents can take it")
    )]
    pub summary: String,
    /// Its place, from 1, in the queue in which it waits: that of its selector and owner, or of its
    /// domain and the kind of work. Null where it is in none, and beyond the 10000th place (in a list
    /// the 1000th).
    pub queue_position: Option<i64>,
    /// When something happens without anybody's doing: the offer lapses, the phase deadline passes,
    /// the pause is over, `on_lost` decides, an agent is not passed over any more. Null where nothing
    /// is to come.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Agents of the pool: who holds it first, then those that come closest to taking it; at most
    /// 200, in a list 20. Empty where there is nothing to do.
    pub agents: Vec<AgentExplained>,
    /// What would help, with the call to make.
    #[cfg_attr(feature = "openapi", schema(example = json!(["uncordon agent a: POST /v1/agents/a/uncordon"])))]
    pub hints: Vec<String>,
}

/// An agent beside a session that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentExplained {
    /// The agent.
    #[cfg_attr(feature = "openapi", schema(example = "local-1"))]
    pub agent: String,
    /// Whether it can take the session, or why not. While another one holds it: whether it could
    /// take it over.
    pub verdict: AgentVerdict,
    /// The reason in particular.
    #[cfg_attr(feature = "openapi", schema(example = "10 of 10 slots are used"))]
    pub detail: String,
}
