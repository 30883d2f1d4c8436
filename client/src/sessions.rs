//! Calls about sessions. Wherever a session is named, its id or its name will do.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use lessor_protocol::{
    Bulk, BulkRequest, CreatedSessions, DesiredState, Event, Labels, LedgerItem, Migrate,
    NewSession, NewSessions, Page, Session, SessionPatch, SessionState,
};
use reqwest::Method;

use crate::agents::{push, push_labels};
use crate::client::{BULK_TIMEOUT, Call, Client, POLL_MARGIN, Paging};
use crate::error::Error;

/// Which sessions to list; what is left out does not narrow it.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Of this pool.
    pub pool: Option<String>,
    /// In this state.
    pub state: Option<SessionState>,
    /// Of which this is wanted.
    pub desired_state: Option<DesiredState>,
    /// Assigned to this agent.
    pub assigned_agent_id: Option<String>,
    /// Assigned at all, or not.
    pub assigned: Option<bool>,
    /// Of this owner.
    pub owner: Option<String>,
    /// With this name.
    pub name: Option<String>,
    /// With all of these labels.
    pub labels: Labels,
    /// With their resource in this domain.
    pub resource_domain: Option<String>,
    /// Created after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Created before this time.
    pub created_before: Option<DateTime<Utc>>,
    /// The page.
    pub paging: Paging,
}

impl SessionFilter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut query = Vec::new();
        push(&mut query, "pool", self.pool.as_ref());
        push(&mut query, "state", self.state.as_ref());
        push(&mut query, "desired_state", self.desired_state.as_ref());
        push(
            &mut query,
            "assigned_agent_id",
            self.assigned_agent_id.as_ref(),
        );
        push(&mut query, "assigned", self.assigned.as_ref());
        push(&mut query, "owner", self.owner.as_ref());
        push(&mut query, "name", self.name.as_ref());
        push_labels(&mut query, &self.labels);
        push(&mut query, "resource_domain", self.resource_domain.as_ref());
        push(
            &mut query,
            "created_after",
            self.created_after.map(time).as_ref(),
        );
        push(
            &mut query,
            "created_before",
            self.created_before.map(time).as_ref(),
        );
        self.paging.query(&mut query);
        query
    }
}

/// How a session is to end.
#[derive(Clone, Debug, Default)]
pub struct DeleteSession {
    /// Why, for people.
    pub reason: Option<String>,
    /// How long its resource has to end by itself.
    pub grace_seconds: Option<f64>,
    /// Whether its data goes with it.
    pub delete_data: Option<bool>,
    /// End it even if no agent can clean up; what it leaves behind becomes a leftover.
    pub force: bool,
}

impl Client {
    /// Creates a session. With an idempotency key, trying again never makes a second one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_session(
        &self,
        body: &NewSession,
        idempotency_key: Option<&str>,
    ) -> Result<Session, Error> {
        let call = Call::new(Method::POST, &["sessions"]).json(body)?;
        self.fetch(call.idempotency_key(idempotency_key)).await
    }

    /// Creates 1 to 1,000 sessions, all or none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_sessions(
        &self,
        body: &NewSessions,
        idempotency_key: Option<&str>,
    ) -> Result<CreatedSessions, Error> {
        let call = Call::new(Method::POST, &["sessions", "batch"]).json(body)?;
        self.fetch(call.idempotency_key(idempotency_key)).await
    }

    /// Acts on every session that a filter matches; repeat it while its answer says `more`.
    ///
    /// # Errors
    /// See [`Error`]; what was done before an error stays done, and the call can be repeated.
    pub async fn bulk_sessions(&self, body: &BulkRequest) -> Result<Bulk, Error> {
        self.fetch(
            Call::new(Method::POST, &["sessions", "bulk"])
                .json(body)?
                .timeout(BULK_TIMEOUT),
        )
        .await
    }

    /// A page of the sessions.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_sessions(&self, filter: &SessionFilter) -> Result<Page<Session>, Error> {
        self.fetch(Call::new(Method::GET, &["sessions"]).query(filter.query()))
            .await
    }

    /// One session.
    ///
    /// # Errors
    /// See [`Error`]; `session_not_found`.
    pub async fn get_session(&self, session: &str) -> Result<Session, Error> {
        self.fetch(Call::new(Method::GET, &["sessions", session]))
            .await
    }

    /// One session, as soon as it is in one of `states` at its current generation, or can no
    /// longer get there, or `wait` is over: look at the `state` of what comes back.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn wait_for_session(
        &self,
        session: &str,
        states: &[SessionState],
        wait: Duration,
    ) -> Result<Session, Error> {
        let words: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        let query = vec![
            ("wait_for", words.join(",")),
            ("wait_seconds", wait.as_secs_f64().to_string()),
        ];
        let path = ["sessions", session];
        let call = Call::new(Method::GET, &path).query(query);
        self.fetch(call.timeout(wait + POLL_MARGIN)).await
    }

    /// Changes a session.
    ///
    /// # Errors
    /// See [`Error`]; `transition_not_allowed`.
    pub async fn patch_session(&self, id: &str, patch: &SessionPatch) -> Result<Session, Error> {
        self.fetch(
            Call::new(Method::PATCH, &["sessions", id])
                .json(patch)?
                .merge_patch(),
        )
        .await
    }

    /// Wants a session to end. It has ended when its `state` is `terminated`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_session(&self, id: &str, how: &DeleteSession) -> Result<Session, Error> {
        let mut query = Vec::new();
        push(&mut query, "reason", how.reason.as_ref());
        push(&mut query, "grace_seconds", how.grace_seconds.as_ref());
        push(&mut query, "delete_data", how.delete_data.as_ref());
        push(&mut query, "force", how.force.then_some("true").as_ref());
        self.fetch(Call::new(Method::DELETE, &["sessions", id]).query(query))
            .await
    }

    /// Tries a dead letter again.
    ///
    /// # Errors
    /// See [`Error`]; `session_not_failed`.
    pub async fn retry_session(&self, session: &str) -> Result<Session, Error> {
        self.fetch(Call::new(Method::POST, &["sessions", session, "retry"]))
            .await
    }

    /// Moves a session to another pool or resource domain: it is stopped where it is and started
    /// there. It has arrived when it is `running` at the generation of the answer.
    ///
    /// # Errors
    /// See [`Error`]; `pool_not_found`, `transition_not_allowed`.
    pub async fn migrate_session(
        &self,
        session: &str,
        to: &Migrate,
        idempotency_key: Option<&str>,
    ) -> Result<Session, Error> {
        let path = ["sessions", session, "migrate"];
        let call = Call::new(Method::POST, &path).json(to)?;
        self.fetch(call.idempotency_key(idempotency_key)).await
    }

    /// A page of a session's timeline.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn session_events(&self, id: &str, paging: &Paging) -> Result<Page<Event>, Error> {
        let mut query = Vec::new();
        paging.query(&mut query);
        self.fetch(Call::new(Method::GET, &["sessions", id, "events"]).query(query))
            .await
    }

    /// A page of a session's lease ledger: who held it, when, and why that ended.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn session_leases(
        &self,
        session: &str,
        paging: &Paging,
    ) -> Result<Page<LedgerItem>, Error> {
        let mut query = Vec::new();
        paging.query(&mut query);
        self.fetch(Call::new(Method::GET, &["sessions", session, "leases"]).query(query))
            .await
    }
}
