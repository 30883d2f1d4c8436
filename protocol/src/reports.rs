//! Reports: an agent's word on the sessions it holds.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    CommandResult, CommandResultOutcome, HeldSession, Outcome, RawJson, ReportCode, ReportedState,
    SessionState, merge,
};

/// The body of a call that only reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Reports {
    /// The incarnation.
    pub incarnation: i64,
    /// Reports: at most 1000.
    #[serde(default)]
    pub reports: Vec<Report>,
    /// Results of commands: at most 1000.
    #[serde(default)]
    pub command_results: Vec<CommandResult>,
}

/// What an agent observed of one session. A field left out is unchanged, null clears it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The session.
    pub session_id: Uuid,
    /// The epoch of the assignment.
    pub lease_epoch: i64,
    /// The generation it has acted on.
    pub observed_generation: i64,
    /// What it observed.
    pub state: ReportedState,
    /// The platform's name of the pod, container or process.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub platform_resource_id: Option<Option<String>>,
    /// A JSON object of the agent's own: at most 16 KiB.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub platform_metadata: Option<Option<RawJson>>,
    /// Where users reach it.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Endpoint>))]
    pub endpoint: Option<Option<Endpoint>>,
    /// Why it failed, or why the offer is declined.
    #[serde(
        default,
        deserialize_with = "merge::present",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<ReportedFailure>))]
    pub failure: Option<Option<ReportedFailure>>,
}

impl Report {
    /// A report of `state` with every other field left out.
    #[must_use]
    pub fn of(held: HeldSession, observed_generation: i64, state: ReportedState) -> Self {
        Self {
            session_id: held.session_id,
            lease_epoch: held.lease_epoch,
            observed_generation,
            state,
            platform_resource_id: None,
            platform_metadata: None,
            endpoint: None,
            failure: None,
        }
    }
}

/// Where users reach a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `vnc`, `http`, `ssh`, …
    pub protocol: String,
    /// The host; null where it is the agent's.
    #[serde(default)]
    pub host: Option<String>,
    /// The port.
    pub port: u16,
    /// The path.
    #[serde(default)]
    pub path: Option<String>,
}

/// Why a session failed, as its agent tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportedFailure {
    /// A word for machines: `image_pull`, `resource_gone`, `exited`, …
    pub reason: String,
    /// A sentence for people.
    #[serde(default)]
    pub message: String,
    /// The exit code, where there is one.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Whether another attempt may help; yes if left out.
    #[serde(default = "yes")]
    pub retryable: bool,
    /// When; now if left out.
    #[serde(default)]
    pub at: Option<DateTime<Utc>>,
}

fn yes() -> bool {
    true
}

/// What became of each item of a call that reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportResults {
    /// In the order in which the reports were sent.
    pub results: Vec<ReportResult>,
    /// In the order in which the command results were sent.
    pub command_results: Vec<CommandResultOutcome>,
}

/// What became of one report.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportResult {
    /// The session.
    pub session_id: Uuid,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was not accepted.
    pub code: Option<ReportCode>,
    /// The session's present state; null if there is no such session.
    pub state: Option<SessionState>,
    /// Its present lease epoch; null if there is no such session.
    pub lease_epoch: Option<i64>,
}
