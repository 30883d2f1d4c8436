//! Everything that can go wrong inside the service, as one enum that knows nothing of HTTP.
//!
//! The last line before the wire turns it into a listed problem code. That match has no `_` arm:
//! a new error must be given a code by whoever adds it.

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use lessor_protocol::{FieldError, ProblemCode};
use uuid::Uuid;

use crate::problem::Problem;

/// The result of what the rooms do.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Values of the request are out of their limits.
    #[error("a value is not allowed")]
    Invalid(Vec<FieldError>),
    /// No pool has this name.
    #[error("there is no pool `{0}`")]
    PoolNotFound(String),
    /// No session has this id or name.
    #[error("there is no session `{0}`")]
    SessionNotFound(String),
    /// The session has no command with this id.
    #[error("there is no command `{0}` of this session")]
    CommandNotFound(String),
    /// No agent has this name.
    #[error("agent `{0}` is not registered")]
    AgentNotRegistered(String),
    /// The agent waits for approval: its name, and its pool's.
    #[error("agent `{0}` waits for an operator's approval to be in pool `{1}`")]
    AgentNotApproved(String, String),
    /// A newer run of the agent has registered.
    #[error("agent `{agent}` is at incarnation {current}, and this call came from {given}")]
    AgentSuperseded {
        /// The agent.
        agent: String,
        /// The incarnation of the call, or the instance of a registration.
        given: String,
        /// The current incarnation.
        current: i64,
    },
    /// A newer claim of the agent has come.
    #[error("a newer claim of agent `{0}` has come; this one must not be repeated")]
    ClaimSuperseded(String),
    /// The agent's lease has ended.
    #[error("the lease of agent `{0}` has ended; it must register again")]
    LeaseExpired(String),
    /// An agent that holds sessions cannot move.
    #[error("agent `{0}` holds {1} sessions, so it cannot move to another pool or domain")]
    AgentHoldsSessions(String, i64),
    /// The pool has agents or sessions.
    #[error("pool `{0}` still has {1}")]
    PoolNotEmpty(String, String),
    /// A pool stays on its platform.
    #[error("pool `{0}` is on platform `{1}`, and that cannot change")]
    PoolPlatformFixed(String, String),
    /// No pool matches.
    #[error("{0}")]
    NoMatchingPool(String),
    /// What is wanted cannot follow from the present state.
    #[error("{0}")]
    TransitionNotAllowed(String),
    /// Only a dead letter can be retried.
    #[error("session {0} is `{1}`, not `failed`")]
    SessionNotFailed(Uuid, String),
    /// Another session has the name.
    #[error("another session is called `{0}`")]
    NameTaken(String),
    /// Only force removes a live agent.
    #[error("agent `{0}` is live; stop it, or say force=true")]
    AgentLive(String),
    /// It is being drained already.
    #[error("{0} is being drained already; cancel that drain first")]
    DrainInProgress(String),
    /// It has never been drained.
    #[error("{0} has not been drained")]
    NoDrain(String),
    /// It has never been rebalanced.
    #[error("pool `{0}` has not been rebalanced")]
    NoRebalance(String),
    /// Its share of a pool has not been set.
    #[error("the share of {0} has not been set")]
    NoShare(String),
    /// There is no such token, or it is not this caller's to see.
    #[error("there is no token `{0}`")]
    NoToken(String),
    /// There is no such webhook, or it is not this caller's to see.
    #[error("there is no webhook `{0}`")]
    NoWebhook(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The resource has changed since.
    #[error("the resource is at version {0}")]
    VersionMismatch(i64),
    /// The idempotency key was used for another request.
    #[error("this Idempotency-Key was used for a request with another body")]
    IdempotencyKeyReused,
    /// The protocol version is not spoken.
    #[error("protocol version {0} is not spoken here; {1} are")]
    ProtocolVersionUnsupported(i32, String),
    /// Too many polls are parked.
    #[error("this server has {0} parked polls, as many as it takes")]
    TooManyWaiters(usize),
    /// Too many streams of events are open.
    #[error("this server has {0} streams of events, as many as it takes")]
    TooManyStreams(usize),
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
    /// The database could not be reached, or not in time.
    #[error("the database cannot be reached: {0}")]
    DatabaseUnavailable(String),
    /// The database refused for a reason that another try may cure.
    #[error("the transaction should be tried again: {0}")]
    Retry(String),
    /// The schema changed under a prepared statement; a new connection prepares it anew.
    #[error("the schema has changed: {0}")]
    StalePlan(String),
    /// What must be done while no server runs.
    #[error("a server is running on this database; stop all of them first")]
    ServerRunning,
    /// A fault of our own.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// One value that is not allowed.
    pub fn invalid(pointer: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError {
            pointer: pointer.to_owned(),
            message: message.into(),
        }])
    }
}

impl From<DieselError> for Error {
    fn from(error: DieselError) -> Self {
        match error {
            DieselError::DatabaseError(kind, info) => {
                let message = info.message().to_owned();
                match kind {
                    DatabaseErrorKind::SerializationFailure => Self::Retry(message),
                    DatabaseErrorKind::ClosedConnection
                    | DatabaseErrorKind::UnableToSendCommand
                    | DatabaseErrorKind::ReadOnlyTransaction => Self::DatabaseUnavailable(message),
                    _ if message.starts_with("deadlock detected") => Self::Retry(message),
                    _ if message.starts_with("cached plan must not change") => {
                        Self::StalePlan(message)
                    }
                    _ if is_unavailability(&message) => Self::DatabaseUnavailable(message),
                    _ => Self::Internal(format!(
                        "{message} ({kind:?}, constraint {:?})",
                        info.constraint_name()
                    )),
                }
            }
            DieselError::BrokenTransactionManager => {
                Self::DatabaseUnavailable("the connection broke inside a transaction".to_owned())
            }
            other => Self::Internal(other.to_string()),
        }
    }
}

/// Diesel does not hand on the SQLSTATE, so these classes (57P0x, 57014, 55P03, 53xxx) are known by
/// the server's own messages.
fn is_unavailability(message: &str) -> bool {
    const SIGNS: &[&str] = &[
        "the database system is",
        "terminating connection",
        "canceling statement",
        "No space left on device",
        "could not extend file",
        "out of memory",
        "out of shared memory",
        "too many clients",
        "remaining connection slots",
        "connection closed",
        "could not access file",
    ];
    SIGNS.iter().any(|sign| message.contains(sign))
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Invalid(_) => ProblemCode::ValidationFailed,
            Error::PoolNotFound(_) => ProblemCode::PoolNotFound,
            Error::SessionNotFound(_) => ProblemCode::SessionNotFound,
            Error::CommandNotFound(_) => ProblemCode::CommandNotFound,
            Error::AgentNotApproved(..) => ProblemCode::AgentNotApproved,
            Error::AgentNotRegistered(_) => ProblemCode::AgentNotRegistered,
            Error::AgentSuperseded { .. } => ProblemCode::AgentSuperseded,
            Error::ClaimSuperseded(_) => ProblemCode::ClaimSuperseded,
            Error::LeaseExpired(_) => ProblemCode::LeaseExpired,
            Error::AgentHoldsSessions(..) => ProblemCode::AgentHoldsSessions,
            Error::PoolNotEmpty(..) => ProblemCode::PoolNotEmpty,
            Error::PoolPlatformFixed(..) => ProblemCode::PoolPlatformFixed,
            Error::NoMatchingPool(_) => ProblemCode::NoMatchingPool,
            Error::TransitionNotAllowed(_) => ProblemCode::TransitionNotAllowed,
            Error::SessionNotFailed(..) => ProblemCode::SessionNotFailed,
            Error::NameTaken(_) => ProblemCode::NameTaken,
            Error::AgentLive(_) => ProblemCode::AgentLive,
            Error::DrainInProgress(_) => ProblemCode::DrainInProgress,
            Error::NoDrain(_)
            | Error::NoRebalance(_)
            | Error::NoShare(_)
            | Error::NoToken(_)
            | Error::NoWebhook(_) => ProblemCode::NotFound,
            Error::Forbidden(_) => ProblemCode::Forbidden,
            Error::VersionMismatch(_) => ProblemCode::VersionMismatch,
            Error::IdempotencyKeyReused => ProblemCode::IdempotencyKeyReused,
            Error::ProtocolVersionUnsupported(..) => ProblemCode::ProtocolVersionUnsupported,
            Error::TooManyWaiters(_) | Error::TooManyStreams(_) => ProblemCode::TooManyWaiters,
            Error::Stopping => ProblemCode::Stopping,
            Error::DatabaseUnavailable(_) | Error::Retry(_) | Error::StalePlan(_) => {
                ProblemCode::DatabaseUnavailable
            }
            Error::Internal(_) | Error::ServerRunning => ProblemCode::Internal,
        };
        match error {
            Error::Invalid(errors) => {
                let detail = errors.first().map_or_else(
                    || code.title().to_owned(),
                    |first| format!("{} {}", first.pointer, first.message),
                );
                Problem::new(code, detail).with_errors(errors)
            }
            // What the database said is for the log; callers learn that it is away.
            Error::DatabaseUnavailable(detail)
            | Error::Retry(detail)
            | Error::StalePlan(detail) => {
                tracing::warn!(%detail, "the database is unavailable");
                Problem::new(code, "the database cannot be reached at present; try again")
            }
            Error::Internal(detail) => {
                tracing::error!(%detail, "internal error");
                Problem::new(code, "the service failed; its log says why")
            }
            other => Problem::new(code, other.to_string()),
        }
    }
}

impl axum::response::IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        Problem::from(self).into_response()
    }
}
