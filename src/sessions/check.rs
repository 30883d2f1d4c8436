//! Whether what is asked for a new session is within its limits.

use chrono::{TimeDelta, Utc};
use lessor_protocol::{DesiredState, NewSession};
use uuid::Uuid;

use crate::error::Result;
use crate::http::Checks;
use crate::pools;

const MAX_SPEC_BYTES: usize = 64 * 1024;

/// What would stand in a session's place in a path: nobody could ask for it by such a name.
const PATHS: [&str; 2] = ["batch", "bulk"];

/// Whether a session of this name could not be reached, since another call has its path.
#[must_use]
pub fn is_path(name: &str) -> bool {
    PATHS.contains(&name)
}

/// The most of an idle timeout and of a longest life: a year.
pub const MAX_LIMIT_SECONDS: f64 = 31_536_000.0;

/// A session to create, and where it stands in the body, for error messages.
pub struct NewOf<'a> {
    /// The session.
    pub session: &'a NewSession,
    /// `""`, or `/sessions/3`.
    pub at: String,
}

/// Whether the values are within their limits.
///
/// # Errors
/// `Invalid`.
pub fn check(sessions: &[NewOf<'_>]) -> Result<()> {
    let mut checks = Checks::new();
    for NewOf { session: new, at } in sessions {
        let field = |name: &str| format!("{at}/{name}");
        checks.json(field("spec"), &new.spec, MAX_SPEC_BYTES);
        if let Some(pool) = &new.pool {
            checks.qualified(field("pool"), pool);
        }
        if let Some(platform) = &new.platform {
            checks.text(field("platform"), platform, 128);
        }
        if let Some(region) = &new.region {
            checks.text(field("region"), region, 128);
        }
        if new.pool.is_none() && new.platform.is_none() {
            checks.refuse(field("pool"), "a pool or a platform is required");
        }
        if let Some(name) = &new.name {
            checks.qualified(field("name"), name);
            if Uuid::try_parse(name).is_ok() {
                checks.refuse(field("name"), "must not have the form of a UUID");
            }
            if is_path(name) {
                checks.refuse(field("name"), "is the path of another call");
            }
        }
        if let Some(owner) = &new.owner {
            checks.text(field("owner"), owner, 256);
        }
        checks
            .labels(field("requires"), &new.requires)
            .labels(field("prefers"), &new.prefers);
        checks.labels(field("labels"), &new.labels).range_i32(
            field("priority"),
            new.priority,
            -1000,
            1000,
        );
        for (name, value, min) in [
            ("start_timeout_seconds", new.start_timeout_seconds, 1.0),
            (
                "terminate_timeout_seconds",
                new.terminate_timeout_seconds,
                1.0,
            ),
            ("grace_seconds", new.grace_seconds, 0.0),
        ] {
            if let Some(value) = value {
                checks.range_f64(field(name), value, min, 86_400.0);
            }
        }
        for (name, value) in [
            ("idle_timeout_seconds", new.idle_timeout_seconds),
            ("max_duration_seconds", new.max_duration_seconds),
        ] {
            if let Some(value) = value {
                checks.range_f64(field(name), value, 1.0, MAX_LIMIT_SECONDS);
            }
        }
        if new.desired_state == DesiredState::Terminated {
            checks.refuse(field("desired_state"), "must be `running` or `hibernated`");
        }
        if let Some(at) = new.not_before {
            checks.moment(field("not_before"), at);
        }
        let far = Utc::now() + TimeDelta::days(3650);
        if new.not_before.is_some_and(|at| at > far) {
            checks.refuse(field("not_before"), "is more than ten years away");
        }
    }
    checks.finish().map_err(pools::from_problem)
}
