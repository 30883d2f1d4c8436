//! Which problems each operation can give: the one list, which a test holds against the document.

use lessor_protocol::ProblemCode::{self, *};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema as _, ToSchema as _};

/// What any call under `/v1` can meet.
const EVERYWHERE: [ProblemCode; 4] = [Unauthenticated, Forbidden, Internal, DatabaseUnavailable];

/// Calls of agents that no limit on the rate of calls stops, and those that have limits of their own.
const UNLIMITED: [&str; 6] = [
    "register_agent",
    "deregister_agent",
    "send_heartbeat",
    "claim_sessions",
    "send_reports",
    "send_inventory",
];
const LIMITED_ELSEWHERE: [&str; 2] = ["claim_sessions", "stream_events"];

/// What an operation can meet beyond its list.
#[must_use]
pub fn everywhere(operation: &str) -> Vec<ProblemCode> {
    let mut codes = EVERYWHERE.to_vec();
    if !UNLIMITED.contains(&operation) {
        codes.push(RateLimited);
    }
    if !LIMITED_ELSEWHERE.contains(&operation) {
        codes.push(Overloaded);
    }
    codes
}

/// What creating sessions can meet, one or many.
const CREATE: &[ProblemCode] = &[
    MalformedJson,
    BodyTooLarge,
    MediaType,
    ValidationFailed,
    PoolNotFound,
    NoMatchingPool,
    NameTaken,
    IdempotencyKeyReused,
];

/// By operation, beyond what [`everywhere`] says.
pub const PROBLEMS: &[(&str, &[ProblemCode])] = &[
    ("get_versions", &[]),
    ("list_audit", &[ValidationFailed]),
    ("list_webhooks", &[ValidationFailed]),
    (
        "create_webhook",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            TransitionNotAllowed,
        ],
    ),
    ("get_webhook", &[NotFound]),
    (
        "patch_webhook",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            NotFound,
            VersionMismatch,
        ],
    ),
    (
        "delete_webhook",
        &[NotFound, VersionMismatch, ValidationFailed],
    ),
    (
        "rotate_webhook",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            NotFound,
            VersionMismatch,
        ],
    ),
    ("test_webhook", &[NotFound]),
    ("list_tokens", &[ValidationFailed]),
    (
        "create_token",
        &[MalformedJson, BodyTooLarge, MediaType, ValidationFailed],
    ),
    ("get_token", &[NotFound, ValidationFailed]),
    (
        "revoke_token",
        &[NotFound, VersionMismatch, ValidationFailed],
    ),
    (
        "rotate_token",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            NotFound,
            TransitionNotAllowed,
        ],
    ),
    ("list_pools", &[ValidationFailed]),
    ("get_pool", &[PoolNotFound, ValidationFailed]),
    (
        "put_pool",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            PoolNotFound,
            PoolPlatformFixed,
            VersionMismatch,
        ],
    ),
    (
        "patch_pool",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            PoolNotFound,
            PoolPlatformFixed,
            VersionMismatch,
        ],
    ),
    (
        "delete_pool",
        &[
            PoolNotFound,
            PoolNotEmpty,
            VersionMismatch,
            ValidationFailed,
        ],
    ),
    ("release_brake", &[PoolNotFound]),
    ("get_pool_scaling", &[PoolNotFound]),
    ("list_owners", &[PoolNotFound, ValidationFailed]),
    ("get_owner", &[PoolNotFound, NotFound]),
    (
        "put_owner",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            PoolNotFound,
        ],
    ),
    ("delete_owner", &[PoolNotFound, NotFound]),
    (
        "bulk_agents",
        &[MalformedJson, BodyTooLarge, MediaType, ValidationFailed],
    ),
    ("list_agents", &[ValidationFailed]),
    ("get_agent", &[AgentNotRegistered]),
    (
        "register_agent",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            ProtocolVersionUnsupported,
            PoolNotFound,
            AgentNotRegistered,
            AgentNotApproved,
            AgentSuperseded,
            AgentHoldsSessions,
        ],
    ),
    (
        "deregister_agent",
        &[
            AgentNotRegistered,
            AgentSuperseded,
            AgentLive,
            ValidationFailed,
        ],
    ),
    (
        "send_heartbeat",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            AgentNotRegistered,
            AgentSuperseded,
            LeaseExpired,
        ],
    ),
    (
        "claim_sessions",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            AgentNotRegistered,
            AgentSuperseded,
            ClaimSuperseded,
            LeaseExpired,
            TooManyWaiters,
            Stopping,
        ],
    ),
    (
        "send_reports",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            AgentNotRegistered,
            AgentSuperseded,
            LeaseExpired,
        ],
    ),
    (
        "send_inventory",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            AgentNotRegistered,
            AgentSuperseded,
            LeaseExpired,
        ],
    ),
    (
        "approve_agent",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            PoolNotFound,
            AgentNotRegistered,
        ],
    ),
    (
        "withdraw_approval",
        &[PoolNotFound, AgentNotRegistered, ValidationFailed],
    ),
    ("list_approvals", &[PoolNotFound, ValidationFailed]),
    ("list_leftovers", &[ValidationFailed]),
    (
        "cordon_agent",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            AgentNotRegistered,
        ],
    ),
    ("uncordon_agent", &[AgentNotRegistered]),
    (
        "drain_agent",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            AgentNotRegistered,
            DrainInProgress,
        ],
    ),
    (
        "drain_pool",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            PoolNotFound,
            DrainInProgress,
        ],
    ),
    ("get_agent_drain", &[NotFound, ValidationFailed]),
    ("get_pool_drain", &[NotFound, ValidationFailed]),
    ("cancel_agent_drain", &[NotFound]),
    ("cancel_pool_drain", &[NotFound]),
    (
        "rebalance_pool",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            PoolNotFound,
        ],
    ),
    (
        "simulate_pool",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            PoolNotFound,
        ],
    ),
    ("get_rebalance", &[NotFound]),
    ("cancel_rebalance", &[NotFound]),
    (
        "bulk_sessions",
        &[MalformedJson, BodyTooLarge, MediaType, ValidationFailed],
    ),
    ("list_sessions", &[ValidationFailed]),
    ("create_session", CREATE),
    ("create_sessions", CREATE),
    ("get_session", &[SessionNotFound, ValidationFailed]),
    (
        "patch_session",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            SessionNotFound,
            TransitionNotAllowed,
            VersionMismatch,
        ],
    ),
    (
        "delete_session",
        &[SessionNotFound, VersionMismatch, ValidationFailed],
    ),
    (
        "retry_session",
        &[
            SessionNotFound,
            SessionNotFailed,
            VersionMismatch,
            ValidationFailed,
        ],
    ),
    ("explain_session", &[SessionNotFound]),
    ("explain_agent_drain", &[NotFound, ValidationFailed]),
    ("explain_pool_drain", &[NotFound, ValidationFailed]),
    (
        "stream_events",
        &[ValidationFailed, SessionNotFound, TooManyWaiters, Stopping],
    ),
    (
        "migrate_session",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            IdempotencyKeyReused,
            SessionNotFound,
            PoolNotFound,
            TransitionNotAllowed,
            VersionMismatch,
        ],
    ),
    ("list_session_events", &[SessionNotFound, ValidationFailed]),
    ("list_session_leases", &[SessionNotFound, ValidationFailed]),
    ("list_commands", &[SessionNotFound, ValidationFailed]),
    (
        "create_command",
        &[
            MalformedJson,
            BodyTooLarge,
            MediaType,
            ValidationFailed,
            SessionNotFound,
            TransitionNotAllowed,
            IdempotencyKeyReused,
        ],
    ),
    ("get_command", &[SessionNotFound, CommandNotFound]),
    (
        "cancel_command",
        &[SessionNotFound, CommandNotFound, TransitionNotAllowed],
    ),
];

/// Schemas that no handler's own answer refers to.
pub fn extra_schemas() -> Vec<(String, RefOr<Schema>)> {
    use lessor_protocol::{DeliveryType, EventGap, FieldError, Problem, WebhookDelivery};
    vec![
        (EventGap::name().into_owned(), EventGap::schema()),
        (DeliveryType::name().into_owned(), DeliveryType::schema()),
        (
            WebhookDelivery::name().into_owned(),
            WebhookDelivery::schema(),
        ),
        (Problem::name().into_owned(), Problem::schema()),
        (FieldError::name().into_owned(), FieldError::schema()),
        (ProblemCode::name().into_owned(), ProblemCode::schema()),
    ]
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;
    use crate::access::rules::{Kind, RULES};
    use crate::http::is_agents_own;

    #[test]
    fn which_calls_are_agents_own_is_said_alike() {
        let document = crate::api::openapi();
        let mut by_path = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let method = method.to_uppercase();
                let method = Method::from_bytes(method.as_bytes()).expect("a method");
                if is_agents_own(&method, path) {
                    by_path.push(operation["operationId"].as_str().expect("an id"));
                }
            }
        }
        by_path.sort_unstable();
        let mut unlimited = UNLIMITED.to_vec();
        unlimited.sort_unstable();
        assert_eq!(by_path, unlimited);
        for rule in RULES.iter().filter(|rule| rule.kind == Kind::Works) {
            assert!(unlimited.contains(&rule.operation), "{}", rule.operation);
        }
    }
}
