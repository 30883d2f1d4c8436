//! Which migrations there can be, pure.

use lessor_protocol::{DesiredState, SessionState};

use crate::sessions::{SessionRow, Way};

/// Why a session does not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has ended or failed, or is about to.
    Ends,
    /// It is there, or on its way there.
    IsThere,
}

/// What a migration to a pool, and to a domain of it, is to a session. No domain means any of the pool's.
///
/// # Errors
/// Why it cannot be.
pub fn way(row: &SessionRow, pool: &str, domain: Option<&String>) -> Result<Way, Refusal> {
    let ends = row.desired_state == DesiredState::Terminated
        || matches!(
            row.state,
            SessionState::Terminating | SessionState::Terminated | SessionState::Failed
        );
    if ends {
        return Err(Refusal::Ends);
    }
    let is_there = row.agent_pool == pool
        && match domain {
            Some(domain) => row.domain_or_target() == Some(domain),
            // Only what is bound to a domain, and has not been taken there, can be let loose.
            None => row.resource_domain.is_some() || row.start_domain.is_none(),
        };
    if is_there {
        return Err(Refusal::IsThere);
    }
    let is_home = row.migrating_from_pool.as_deref() == Some(pool)
        && (domain.is_none() || domain == row.migrating_from_domain.as_ref());
    Ok(match (row.is_migrating(), is_home) {
        (false, _) => Way::Begin,
        (true, false) => Way::Retarget,
        (true, true) => Way::Recall,
    })
}
