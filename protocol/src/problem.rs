//! Problem documents (RFC 9457) and the one list of their codes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::UnknownWord;

/// An error as the service tells it. Programs branch on `code`, people read `detail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:lessor:problem:<code>`.
    #[serde(rename = "type")]
    #[cfg_attr(
        feature = "openapi",
        schema(example = "urn:lessor:problem:session_not_found")
    )]
    pub problem_type: String,
    /// What the code means.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The code; a newer service may know more of them than this crate.
    #[cfg_attr(feature = "openapi", schema(value_type = ProblemCode))]
    pub code: String,
    /// What went wrong this time, for people.
    pub detail: String,
    /// The id of the request, as in the service's log.
    pub request_id: String,
    /// Which parts of the request were wrong.
    pub errors: Vec<FieldError>,
}

/// One wrong part of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// A JSON pointer into the body, or the name of a parameter or header.
    #[cfg_attr(feature = "openapi", schema(example = "/capacity"))]
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

macro_rules! problems {
    ($($(#[doc = $doc:literal])* $variant:ident = $code:literal, $status:literal, $title:literal;)+) => {
        crate::words::words! {
            /// The code of a problem.
            ProblemCode { $($(#[doc = $doc])* $variant = $code),+ }
        }

        impl ProblemCode {
            /// The HTTP status it is answered with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }

            /// What it means, in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }
        }
    };
}

problems! {
    /// The body is not JSON.
    MalformedJson = "malformed_json", 400, "The body is not JSON";
    /// No valid token came with the request.
    Unauthenticated = "unauthenticated", 401, "A valid token is needed";
    /// The token does not allow it.
    Forbidden = "forbidden", 403, "The token does not allow this";
    /// The agent waits for an operator's approval.
    AgentNotApproved = "agent_not_approved", 403, "The agent is not approved";
    /// There is no such pool.
    PoolNotFound = "pool_not_found", 404, "There is no such pool";
    /// There is no such session.
    SessionNotFound = "session_not_found", 404, "There is no such session";
    /// There is no such command.
    CommandNotFound = "command_not_found", 404, "There is no such command";
    /// The agent is not registered.
    AgentNotRegistered = "agent_not_registered", 404, "The agent is not registered";
    /// There is nothing at this path.
    NotFound = "not_found", 404, "There is nothing here";
    /// The path does not know this method.
    MethodNotAllowed = "method_not_allowed", 405, "The path does not know this method";
    /// A newer run of the agent has registered.
    AgentSuperseded = "agent_superseded", 409, "A newer run of this agent has registered";
    /// A newer claim of the agent has come.
    ClaimSuperseded = "claim_superseded", 409, "A newer claim of this agent has come";
    /// The agent's lease has ended.
    LeaseExpired = "lease_expired", 409, "The agent's lease has ended";
    /// The agent holds sessions, so it cannot move.
    AgentHoldsSessions = "agent_holds_sessions", 409, "The agent holds sessions";
    /// The pool still has agents or sessions.
    PoolNotEmpty = "pool_not_empty", 409, "The pool is not empty";
    /// A pool's platform cannot change.
    PoolPlatformFixed = "pool_platform_fixed", 409, "A pool's platform cannot change";
    /// No pool is on that platform in that region.
    NoMatchingPool = "no_matching_pool", 409, "No pool matches";
    /// What is wanted cannot follow from the present state.
    TransitionNotAllowed = "transition_not_allowed", 409, "The present state does not allow this";
    /// The session is not a dead letter.
    SessionNotFailed = "session_not_failed", 409, "The session has not failed";
    /// Another session has this name.
    NameTaken = "name_taken", 409, "The name is taken";
    /// The agent is live, so only force removes it.
    AgentLive = "agent_live", 409, "The agent is live";
    /// The agent or pool is being drained already.
    DrainInProgress = "drain_in_progress", 409, "A drain is in progress";
    /// The resource has changed since.
    VersionMismatch = "version_mismatch", 412, "The resource has changed since";
    /// The body is too large.
    BodyTooLarge = "body_too_large", 413, "The body is too large";
    /// The body is not of a media type that is understood.
    MediaType = "media_type", 415, "The media type is not understood";
    /// A value is not allowed.
    ValidationFailed = "validation_failed", 422, "A value is not allowed";
    /// The idempotency key was used with another body.
    IdempotencyKeyReused = "idempotency_key_reused", 422, "The idempotency key was used for another request";
    /// The service does not speak this protocol version.
    ProtocolVersionUnsupported = "protocol_version_unsupported", 422, "The protocol version is not spoken";
    /// More calls than this caller may make.
    RateLimited = "rate_limited", 429, "Too many calls";
    /// The service failed.
    Internal = "internal", 500, "The service failed";
    /// Too many polls are parked.
    TooManyWaiters = "too_many_waiters", 503, "Too many polls are parked";
    /// The database cannot be reached.
    DatabaseUnavailable = "database_unavailable", 503, "The database cannot be reached";
    /// The service has as much to do as it takes on.
    Overloaded = "overloaded", 503, "The service has too much to do";
    /// The service is stopping.
    Stopping = "stopping", 503, "The service is stopping";
}
