//! What is to become of the resources that an agent sees, pure.
//!
//! Whatever may be wanted is kept: a session that its domain works on, one that has no domain yet,
//! one that is just coming up. What certainly nobody wants is deleted: the rest of an ended session,
//! of an earlier attempt, of one that runs elsewhere. What nobody knows may be another
//! installation's, and waits in quarantine.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use lessor_protocol::{DesiredState, InventoryResource, SessionState};
use uuid::Uuid;

/// A session that a resource is labelled with.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named as the session's columns")]
pub struct Known {
    pub pool: String,
    pub resource_domain: Option<String>,
    pub desired: DesiredState,
    pub state: SessionState,
    pub attempt: i32,
    pub platform_resource_id: Option<String>,
}

impl Known {
    /// Whether nothing is wanted of it any more.
    fn has_ended(&self) -> bool {
        match self.state {
            SessionState::Terminated => true,
            SessionState::Failed => self.desired != DesiredState::Terminated,
            _ => false,
        }
    }

    /// Whether something may be running that it does not know the name of yet.
    fn may_have_more_than_it_knows(&self) -> bool {
        use SessionState as S;
        match self.state {
            // The name that it has may be of what it was before it slept.
            S::Waking => true,
            S::Pending | S::Starting => self.platform_resource_id.is_none(),
            _ => false,
        }
    }
}

/// What is known about the resources of an inventory.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The agent's pool.
    pub pool: String,
    /// Its domain.
    pub resource_domain: String,
    /// The sessions of the labels, those of other pools and domains too.
    pub sessions: HashMap<Uuid, Known>,
    /// What live sessions of this pool and domain said that runs them.
    pub in_use: HashSet<String>,
    /// The leftovers of this pool and domain, by the platform's name.
    pub left_by_name: HashSet<String>,
    /// The same by session and attempt.
    pub left_by_attempt: HashSet<(Uuid, i32)>,
}

/// What a resource is to Lessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Wanted, or perhaps wanted.
    Wanted,
    /// Not wanted by anybody.
    Unwanted,
    /// Not known.
    Unknown,
}

impl Facts {
    /// What a resource is.
    #[must_use]
    pub fn judge(&self, resource: &InventoryResource) -> Standing {
        // Whatever the label says: labels can lie, and this runs a session.
        if self.in_use.contains(&resource.platform_resource_id) {
            return Standing::Wanted;
        }
        let labelled = resource.session_id.and_then(|id| self.sessions.get(&id));
        match labelled {
            Some(session) if session.has_ended() => Standing::Unwanted,
            Some(session) if self.is_here(session) => self.judge_here(session, resource),
            Some(session) => judge_elsewhere(session, resource),
            None if self.is_left(resource) => Standing::Unwanted,
            None => Standing::Unknown,
        }
    }

    /// Whether what it named as its resource is wanted here.
    #[must_use]
    pub fn is_in_use_here(&self, session: &Known) -> bool {
        !session.has_ended() && session.resource_domain.is_some() && self.is_here(session)
    }

    /// Whether its resource is in this domain, or in none yet.
    fn is_here(&self, session: &Known) -> bool {
        session
            .resource_domain
            .as_ref()
            .is_none_or(|domain| session.pool == self.pool && *domain == self.resource_domain)
    }

    fn is_left(&self, resource: &InventoryResource) -> bool {
        let by_attempt = resource.session_id.zip(resource.attempt);
        self.left_by_name.contains(&resource.platform_resource_id)
            || by_attempt.is_some_and(|attempt| self.left_by_attempt.contains(&attempt))
    }

    /// Labelled with a session that may run here: only a leftover of an earlier attempt is deleted.
    fn judge_here(&self, session: &Known, resource: &InventoryResource) -> Standing {
        let earlier = match resource.attempt {
            Some(attempt) => attempt < session.attempt,
            // A platform may use one name for every attempt.
            None => !session.may_have_more_than_it_knows() || session.resource_domain.is_none(),
        };
        if earlier && self.is_left(resource) {
            Standing::Unwanted
        } else {
            Standing::Wanted
        }
    }
}

/// Labelled with a session that runs in another domain or pool. If domains share a platform, an
/// agent may see there what is not its own: that very resource, or one that is just coming up, is
/// kept.
fn judge_elsewhere(session: &Known, resource: &InventoryResource) -> Standing {
    let is_its_own = session.platform_resource_id.as_ref() == Some(&resource.platform_resource_id);
    let may_become_it = session.may_have_more_than_it_knows()
        && resource
            .attempt
            .is_none_or(|attempt| attempt >= session.attempt);
    if is_its_own || may_become_it {
        Standing::Wanted
    } else {
        Standing::Unwanted
    }
}

/// A session that runs and is held by the agent that sent an inventory.
#[derive(Clone, Debug)]
pub struct Running {
    /// The session.
    pub id: Uuid,
    /// The epoch under which it is held.
    pub lease_epoch: i64,
    /// Its attempt.
    pub attempt: i32,
    /// Its resource, if the agent told.
    pub platform_resource_id: Option<String>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// An inventory of this agent that did not list it.
    pub missed: Option<Missed>,
}

/// An inventory that did not list a running session.
#[derive(Clone, Copy, Debug)]
pub struct Missed {
    /// The epoch at the time.
    pub lease_epoch: i64,
    /// When it was begun.
    pub begun_at: DateTime<Utc>,
    /// When it came.
    pub received_at: DateTime<Utc>,
}

/// What an inventory says about a running session of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    There,
    /// It was not listed: noted anew.
    Missed,
    /// Nothing new: what was noted before, if anything, stays.
    NothingNew,
    /// Not listed twice in a row: it is gone.
    Gone,
}

impl Running {
    /// Whether this inventory lists it.
    fn is_listed(&self, seen: &Seen) -> bool {
        let by_name = self.platform_resource_id.as_ref();
        by_name.is_some_and(|name| seen.names.contains(name))
            || seen.whole_sessions.contains(&self.id)
            || seen.attempts.contains(&(self.id, self.attempt))
    }

    /// What an inventory that was begun at `begun_at` says about it. Absence counts twice in a
    /// row, each time after the session's last change, and the second time only if it was looked
    /// for after the first inventory had come: so a repeated one is no second one.
    #[must_use]
    pub fn presence(&self, seen: &Seen, begun_at: DateTime<Utc>) -> Presence {
        if self.is_listed(seen) {
            return Presence::There;
        }
        let missed = self.missed.filter(|missed| {
            missed.lease_epoch == self.lease_epoch && missed.begun_at > self.updated_at
        });
        match missed {
            Some(missed) if begun_at > missed.received_at => Presence::Gone,
            Some(_) => Presence::NothingNew,
            None if begun_at > self.updated_at => Presence::Missed,
            // It may have come up after the agent had looked.
            None => Presence::NothingNew,
        }
    }
}

/// What an inventory lists, to look things up in.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    names: HashSet<String>,
    attempts: HashSet<(Uuid, i32)>,
    whole_sessions: HashSet<Uuid>,
}

impl Seen {
    /// All of an inventory.
    #[must_use]
    pub fn of(resources: &[InventoryResource]) -> Self {
        let mut seen = Self::default();
        for resource in resources {
            seen.names.insert(resource.platform_resource_id.clone());
            match (resource.session_id, resource.attempt) {
                (Some(id), Some(attempt)) => {
                    seen.attempts.insert((id, attempt));
                }
                (Some(id), None) => {
                    seen.whole_sessions.insert(id);
                }
                (None, _) => {}
            }
        }
        seen
    }
}
