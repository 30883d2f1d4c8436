//! What a driver is given with each session: the session, and its right to act.

use std::sync::Arc;
use std::time::Duration;

use lessor_protocol::{ReportedState, Session};
use uuid::Uuid;

use super::driver::{Fenced, Resource};
use super::shared::{Draft, Shared};

/// A session that the driver is to act on, or to look at.
#[derive(Clone)]
pub struct Work {
    session: Arc<Session>,
    shared: Option<Arc<Shared>>,
}

impl Work {
    pub(super) fn new(session: Session, shared: Arc<Shared>) -> Self {
        Self {
            session: Arc::new(session),
            shared: Some(shared),
        }
    }

    /// Work that no agent stands behind and that is never fenced: for tests of drivers.
    #[must_use]
    pub fn unbound(session: Session) -> Self {
        Self {
            session: Arc::new(session),
            shared: None,
        }
    }

    /// The session as it was when it was assigned.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.session.id
    }

    /// Asks whether the platform may still be touched: to be called before each further step of an
    /// action that takes more than one.
    ///
    /// # Errors
    /// [`Fenced`]: return it (`?`), and the loop calls again once the lease has been renewed.
    pub fn may_act(&self) -> Result<(), Fenced> {
        if self.time_left().is_zero() {
            Err(Fenced)
        } else {
            Ok(())
        }
    }

    /// For how long the agent may act if its lease is not renewed in the meantime.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.shared
            .as_ref()
            .map_or(Duration::MAX, |shared| shared.may_act_for())
    }

    /// Reports what is known of the resource before the action is over, such as its id or that an
    /// image is being pulled. The state stays as it was last reported.
    pub fn progress(&self, resource: Resource) {
        let Some(shared) = &self.shared else { return };
        if let Some(state @ (ReportedState::Starting | ReportedState::Waking)) =
            shared.last_state(self.id())
        {
            drop(shared.report(self.id(), Draft::of(state).with(resource)));
        }
    }
}
