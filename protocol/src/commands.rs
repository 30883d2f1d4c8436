//! Commands: imperative work on a session, done by its holder.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::words::words;
use crate::{Failure, Outcome, RawJson, ReportedFailure, UnknownWord, empty_object};

/// A command. It is given to the session's holder at least once within one lease epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Command {
    /// A UUID, version 7.
    pub id: Uuid,
    /// The session.
    pub session_id: Uuid,
    /// What to do, in the words of the pool's agents: process agents know `exec`, `signal` and
    /// `logs`.
    #[cfg_attr(feature = "openapi", schema(example = "exec"))]
    pub kind: String,
    /// What the agent needs to know; opaque to Lessor.
    #[cfg_attr(feature = "openapi", schema(value_type = Object, example = json!({"command": ["uptime"]})))]
    pub payload: RawJson,
    /// How far it is.
    pub status: CommandStatus,
    /// Whether the next holder gets it again when the epoch ends before it is finished.
    pub redeliver: bool,
    /// The epoch under which it was delivered; null before that.
    pub lease_epoch: Option<i64>,
    /// The agent it was delivered to; null before that.
    pub agent: Option<String>,
    /// What it gave: any JSON, null before that.
    #[cfg_attr(feature = "openapi", schema(value_type = Value))]
    pub result: Option<RawJson>,
    /// Why it did not succeed.
    pub failure: Option<Failure>,
    /// When it expires unless it is finished.
    pub deadline_at: DateTime<Utc>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was first given to the agent under this epoch.
    pub delivered_at: Option<DateTime<Utc>>,
    /// When it was over.
    pub finished_at: Option<DateTime<Utc>>,
}

words! {
    /// How far a command is.
    CommandStatus {
        /// It waits for the session's holder, or for the session to be held.
        Pending = "pending",
        /// It was given to the holder, who has not acknowledged it yet.
        Delivered = "delivered",
        /// The holder is at it.
        Running = "running",
        /// It was done.
        Succeeded = "succeeded",
        /// It could not be done; `failure` says why.
        Failed = "failed",
        /// Its deadline passed.
        Expired = "expired",
        /// It was cancelled, or its session ended before it was delivered.
        Cancelled = "cancelled",
        /// The epoch under which it was delivered ended before it was finished: nobody knows how
        /// far it came.
        Interrupted = "interrupted",
    }
}

impl CommandStatus {
    /// Whether nothing more becomes of it.
    #[must_use]
    pub fn is_finished(self) -> bool {
        !matches!(self, Self::Pending | Self::Delivered | Self::Running)
    }
}

/// A command to create.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewCommand {
    /// What to do: 1 to 64 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit.
    #[cfg_attr(feature = "openapi", schema(example = "exec"))]
    pub kind: String,
    /// A JSON object of at most 64 KiB, kept as it is; empty if left out.
    #[serde(default = "empty_object")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object, example = json!({"command": ["uptime"]})))]
    pub payload: RawJson,
    /// How long it may take from now on: 1 to 86400.
    #[serde(default = "a_minute")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86400))]
    pub deadline_seconds: f64,
    /// Whether the next holder is to get it again when the epoch ends before it is finished: only
    /// for what may be done twice.
    #[serde(default)]
    pub redeliver: bool,
}

fn a_minute() -> f64 {
    60.0
}

impl NewCommand {
    /// A command with a payload, and the defaults for the rest.
    ///
    /// # Errors
    /// When the payload cannot be written as JSON.
    pub fn new(kind: &str, payload: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self {
            kind: kind.to_owned(),
            payload: serde_json::value::to_raw_value(payload)?,
            deadline_seconds: a_minute(),
            redeliver: false,
        })
    }
}

/// The result of a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CommandResult {
    /// The command.
    pub command_id: Uuid,
    /// The epoch under which it was delivered.
    pub lease_epoch: i64,
    /// How far it is.
    pub status: ReportedCommandStatus,
    /// What it gave: any JSON of at most 64 KiB. Not with `running`.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Value))]
    pub result: Option<RawJson>,
    /// Why it failed. Only with `failed`.
    #[serde(default)]
    pub failure: Option<ReportedFailure>,
}

words! {
    /// What an agent may report of a command.
    ReportedCommandStatus {
        /// It is at it, or about to be: this acknowledges the delivery.
        Running = "running",
        /// It was done.
        Succeeded = "succeeded",
        /// It could not be done.
        Failed = "failed",
    }
}

impl From<ReportedCommandStatus> for CommandStatus {
    fn from(status: ReportedCommandStatus) -> Self {
        match status {
            ReportedCommandStatus::Running => Self::Running,
            ReportedCommandStatus::Succeeded => Self::Succeeded,
            ReportedCommandStatus::Failed => Self::Failed,
        }
    }
}

/// What became of a command result.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CommandResultOutcome {
    /// The command.
    pub command_id: Uuid,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was not accepted.
    pub code: Option<CommandResultCode>,
}

words! {
    /// Why a command result was not accepted.
    CommandResultCode {
        /// Another lease epoch is current (fenced).
        LeaseEpochStale = "lease_epoch_stale",
        /// The session is not assigned to this agent (fenced).
        NotAssigned = "not_assigned",
        /// There is no such command (rejected).
        CommandNotFound = "command_not_found",
        /// The command is over, or was never delivered (rejected).
        TransitionNotAllowed = "transition_not_allowed",
        /// A field is out of its limits (rejected).
        ValidationFailed = "validation_failed",
    }
}
