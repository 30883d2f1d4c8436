//! Which operation is for which roles, and what of it is looked at before it is begun: the one list.
//!
//! Invariant: what is not in it is refused. `src/api/gate.rs` reads it for each call, and a test holds
//! it against the document.

use lessor_protocol::Role;

/// What decides whether a caller may see what a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoped {
    /// It is about nothing that could be hidden.
    Nothing,
    /// The pool in its path.
    Pool,
    /// The drain of the pool in its path.
    PoolsDrain,
    /// The rebalance of the pool in its path.
    Rebalance,
    /// The agent in its path.
    Agent,
    /// The drain of the agent in its path.
    AgentsDrain,
    /// The session in its path.
    Session,
    /// A list, or what its body says: the handler sees to it.
    Inside,
}

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It reads.
    Reads,
    /// It reads or waits, so it can end at any moment, and does when its token ends.
    Waits,
    /// It changes something: the audit tells of it.
    Changes,
    /// An agent's, over and over: the ledger and the timelines tell of it.
    Works,
}

/// What holds for an operation.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its `operationId`.
    pub operation: &'static str,
    /// For whom.
    pub roles: &'static [Role],
    /// By what it is scoped.
    pub scoped: Scoped,
    /// What kind.
    pub kind: Kind,
}

use Kind::{Changes, Reads, Waits, Works};
use Role::{Admin, Agent, Enroll, Operator, User, Viewer};
use Scoped::{Inside, Nothing};

const EVERYBODY: &[Role] = Role::ALL;
const TOKENS: &[Role] = &[Admin];
const OPERATE: &[Role] = &[Admin, Operator];
const READ: &[Role] = &[Admin, Operator, Viewer];
const OWN: &[Role] = &[Admin, Operator, User];
const READ_OWN: &[Role] = &[Admin, Operator, Viewer, User];
const WORK: &[Role] = &[Admin, Operator, Agent];
const REGISTER: &[Role] = &[Admin, Operator, Agent, Enroll];

const fn rule(operation: &'static str, roles: &'static [Role], scoped: Scoped, kind: Kind) -> Rule {
    Rule {
        operation,
        roles,
        scoped,
        kind,
    }
}

/// Every operation.
pub const RULES: &[Rule] = &[
    rule("get_versions", EVERYBODY, Nothing, Reads),
    rule("list_tokens", TOKENS, Inside, Reads),
    rule("create_token", TOKENS, Inside, Changes),
    rule("get_token", TOKENS, Inside, Reads),
    rule("revoke_token", TOKENS, Inside, Changes),
    rule("rotate_token", TOKENS, Inside, Changes),
    rule("list_audit", OPERATE, Inside, Waits),
    // Their addresses can hold secrets.
    rule("list_webhooks", OPERATE, Inside, Reads),
    rule("create_webhook", OPERATE, Inside, Changes),
    rule("get_webhook", OPERATE, Inside, Reads),
    rule("patch_webhook", OPERATE, Inside, Changes),
    rule("delete_webhook", OPERATE, Inside, Changes),
    rule("rotate_webhook", OPERATE, Inside, Changes),
    rule("test_webhook", OPERATE, Inside, Changes),
    rule("list_pools", READ, Inside, Reads),
    rule("get_pool", READ, Scoped::Pool, Reads),
    rule("put_pool", OPERATE, Scoped::Pool, Changes),
    rule("patch_pool", OPERATE, Scoped::Pool, Changes),
    rule("delete_pool", OPERATE, Scoped::Pool, Changes),
    rule("release_brake", OPERATE, Scoped::Pool, Changes),
    rule("get_pool_scaling", READ, Scoped::Pool, Reads),
    rule("list_owners", READ, Scoped::Pool, Reads),
    rule("get_owner", READ, Scoped::Pool, Reads),
    rule("put_owner", OPERATE, Scoped::Pool, Changes),
    rule("delete_owner", OPERATE, Scoped::Pool, Changes),
    rule("drain_pool", OPERATE, Scoped::Pool, Changes),
    rule("get_pool_drain", READ, Scoped::PoolsDrain, Waits),
    rule("cancel_pool_drain", OPERATE, Scoped::PoolsDrain, Changes),
    rule("explain_pool_drain", READ, Scoped::PoolsDrain, Waits),
    rule("rebalance_pool", OPERATE, Scoped::Pool, Changes),
    rule("get_rebalance", READ, Scoped::Rebalance, Reads),
    rule("cancel_rebalance", OPERATE, Scoped::Rebalance, Changes),
    rule("simulate_pool", READ, Scoped::Pool, Waits),
    rule("list_agents", READ, Inside, Reads),
    rule("bulk_agents", OPERATE, Inside, Changes),
    rule("get_agent", READ, Scoped::Agent, Reads),
    rule("register_agent", REGISTER, Scoped::Agent, Changes),
    rule("deregister_agent", WORK, Scoped::Agent, Changes),
    rule("send_heartbeat", WORK, Scoped::Agent, Works),
    rule("claim_sessions", WORK, Scoped::Agent, Waits),
    rule("send_reports", WORK, Scoped::Agent, Works),
    rule("send_inventory", WORK, Scoped::Agent, Works),
    rule("approve_agent", OPERATE, Scoped::Agent, Changes),
    rule("withdraw_approval", OPERATE, Scoped::Agent, Changes),
    rule("list_approvals", READ, Scoped::Pool, Reads),
    rule("cordon_agent", OPERATE, Scoped::Agent, Changes),
    rule("uncordon_agent", OPERATE, Scoped::Agent, Changes),
    rule("drain_agent", OPERATE, Scoped::Agent, Changes),
    rule("get_agent_drain", READ, Scoped::AgentsDrain, Waits),
    rule("cancel_agent_drain", OPERATE, Scoped::AgentsDrain, Changes),
    rule("explain_agent_drain", READ, Scoped::AgentsDrain, Waits),
    rule("list_leftovers", READ, Inside, Reads),
    rule("list_sessions", READ_OWN, Inside, Reads),
    rule("create_session", OWN, Inside, Changes),
    rule("create_sessions", OWN, Inside, Changes),
    rule("bulk_sessions", OWN, Inside, Changes),
    rule("get_session", READ_OWN, Scoped::Session, Waits),
    rule("patch_session", OWN, Scoped::Session, Changes),
    rule("delete_session", OWN, Scoped::Session, Changes),
    rule("retry_session", OWN, Scoped::Session, Changes),
    // Where sessions run is not their owners' to say.
    rule("migrate_session", OPERATE, Scoped::Session, Changes),
    rule("explain_session", READ_OWN, Scoped::Session, Waits),
    rule("list_session_events", READ_OWN, Scoped::Session, Reads),
    rule("list_session_leases", READ_OWN, Scoped::Session, Reads),
    rule("list_commands", READ_OWN, Scoped::Session, Reads),
    rule("create_command", OWN, Scoped::Session, Changes),
    rule("get_command", READ_OWN, Scoped::Session, Reads),
    rule("cancel_command", OWN, Scoped::Session, Changes),
    rule("stream_events", READ_OWN, Inside, Waits),
];

/// The rule of an operation.
#[must_use]
pub fn rule_of(operation: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.operation == operation)
}
