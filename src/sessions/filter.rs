//! Which sessions are meant: the filter of lists, and of what is done to many.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Jsonb, Text, Uuid as SqlUuid};
use lessor_protocol::{DesiredState, Labels, SessionState};
use uuid::Uuid;

use crate::access::{Reach, Scope};
use crate::store::LabelsColumn;
use crate::store::schema::sessions;

/// Which sessions; what is left out filters nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct SessionFilter {
    pub pool: Option<String>,
    pub states: Vec<SessionState>,
    pub desired_state: Option<DesiredState>,
    pub assigned_agent_id: Option<String>,
    pub assigned: Option<bool>,
    pub owner: Option<String>,
    pub name: Option<String>,
    pub labels: Labels,
    pub resource_domain: Option<String>,
    pub created_after: Option<DateTime<Utc>>,
    pub created_before: Option<DateTime<Utc>>,
    /// Only what its caller may see.
    pub scope: Scope,
}

/// The only condition of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Only {
    /// None, or one by which there is no choice of indexes.
    Plain,
    /// A column with a value; there is an index with each value's sessions in the order of lists.
    Column(&'static str, String),
    /// Several states.
    States(Vec<&'static str>),
    /// A label: its key and its value.
    Label(String, String),
    /// Several labels.
    Labels(Labels),
}

/// Conditions that many sessions meet each: a pool, with one or more of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coarse {
    pub pool: String,
    pub state: Option<&'static str>,
    pub desired_state: Option<&'static str>,
    pub assigned: Option<bool>,
}

/// A query on sessions that is being put together; `ST` is what it selects.
pub(super) type Query<ST> = sessions::BoxedQuery<'static, Pg, ST>;

impl SessionFilter {
    /// Whether it asks for times of creation.
    pub(super) fn asks_for_creation(&self) -> bool {
        self.created_after.is_some() || self.created_before.is_some()
    }

    /// Its only condition, where how a page of it is found need not depend on the value. It does between several,
    /// and where the planner must guess how many pools a tenant has, or how many sessions an agent.
    pub(super) fn only(&self) -> Option<Only> {
        let column = |column, value: &str| Only::Column(column, value.to_owned());
        let states: BTreeSet<&str> = self.states.iter().map(|state| state.as_str()).collect();
        let mut states: Vec<&str> = states.into_iter().collect();
        let states = match states.len() {
            0 | 1 => states.pop().map(|state| column("state", state)),
            _ => Some(Only::States(states)),
        };
        let labels = match self.labels.first_key_value() {
            Some((key, value)) if self.labels.len() == 1 => {
                Some(Only::Label(key.clone(), value.clone()))
            }
            Some(_) => Some(Only::Labels(self.labels.clone())),
            None => None,
        };
        let desired = self.desired_state.map(|desired| desired.as_str());
        let conditions = [
            self.scope
                .owner
                .as_deref()
                .map(|owner| column("owner", owner)),
            self.owner.as_deref().map(|owner| column("owner", owner)),
            self.pool.as_deref().map(|pool| column("agent_pool", pool)),
            desired.map(|desired| column("desired_state", desired)),
            self.resource_domain
                .as_deref()
                .map(|domain| column("resource_domain", domain)),
            states,
            self.assigned.map(|_| Only::Plain),
            self.name.as_ref().map(|_| Only::Plain),
            self.asks_for_creation().then_some(Only::Plain),
            labels,
        ];
        let mut conditions = conditions.into_iter().flatten();
        let only = conditions.next().unwrap_or(Only::Plain);
        let others = conditions.next().is_some() || self.assigned_agent_id.is_some();
        (self.scope.reach == Reach::Everything && !others).then_some(only)
    }

    /// Its conditions, where each of them is met by many sessions.
    pub(super) fn coarse(&self) -> Option<Coarse> {
        let state = match self.states.as_slice() {
            [] => None,
            [state] => Some(state.as_str()),
            _ => return None,
        };
        let coarse = Coarse {
            pool: self.pool.clone()?,
            state,
            desired_state: self.desired_state.map(|desired| desired.as_str()),
            assigned: self.assigned,
        };
        let rest = Self {
            pool: None,
            states: Vec::new(),
            desired_state: None,
            assigned: None,
            ..self.clone()
        };
        (rest == Self::default()).then_some(coarse)
    }

    /// The query, of those sessions only that the filter matches.
    pub(super) fn narrow<ST: 'static>(self, query: Query<ST>) -> Query<ST> {
        let keys = self.labels.keys().cloned().collect();
        self.narrow_before(None, keys, query)
    }

    /// As [`SessionFilter::narrow`], where the query asks for ids before one: the planner does not see that
    /// it could begin there among the labels too. Only by the labels of these keys are sessions looked up;
    /// those found are asked for the others.
    pub(super) fn narrow_before<ST: 'static>(
        mut self,
        before: Option<Uuid>,
        by_labels: Vec<String>,
        mut query: Query<ST>,
    ) -> Query<ST> {
        use sessions::dsl;
        query = match self.scope.reach {
            Reach::Everything => query,
            Reach::NoTenant => query.filter(dsl::agent_pool.not_like("%~%")),
            Reach::Tenant(tenant) => {
                let (from, to) = Reach::range(&tenant);
                query.filter(dsl::agent_pool.ge(from).and(dsl::agent_pool.lt(to)))
            }
        };
        if let Some(owner) = self.scope.owner {
            query = query.filter(dsl::owner.eq(owner));
        }
        if let Some(pool) = self.pool {
            query = query.filter(dsl::agent_pool.eq(pool));
        }
        if let [state] = self.states.as_slice() {
            // Not as a list of one: only for one are they in the index in the order of lists.
            query = query.filter(dsl::state.eq(state.as_str()));
        } else if !self.states.is_empty() {
            let states: Vec<&str> = self.states.iter().map(|state| state.as_str()).collect();
            query = query.filter(dsl::state.eq_any(states));
        }
        if let Some(desired) = self.desired_state {
            query = query.filter(dsl::desired_state.eq(desired.as_str()));
        }
        if let Some(agent) = self.assigned_agent_id {
            query = query.filter(dsl::assigned_agent_id.eq(agent));
        }
        query = match self.assigned {
            Some(true) => query.filter(dsl::assigned_agent_id.is_not_null()),
            Some(false) => query.filter(dsl::assigned_agent_id.is_null()),
            None => query,
        };
        if let Some(owner) = self.owner {
            query = query.filter(dsl::owner.eq(owner));
        }
        if let Some(name) = self.name {
            query = query.filter(dsl::name.eq(name));
        }
        if !self.labels.is_empty() {
            // Of the row itself, so that one which is locked is judged by what it has become. By the function and not
            // by `@>`: of that the planner knows how many sessions it lets through, takes it for another condition
            // beside those below, expects a hundredth of what there is, and so reads and sorts all of it. With Diesel's `sql`
            // it is planned for its values each time, as it must be among other conditions.
            let labels = LabelsColumn(self.labels.clone());
            query = query.filter(
                sql::<Bool>("jsonb_contains(sessions.labels, ")
                    .bind::<Jsonb, _>(labels)
                    .sql(")"),
            );
        }
        for key in by_labels {
            let Some(value) = self.labels.remove(&key) else {
                continue;
            };
            // There they are in the order of lists, so that rare ones and frequent ones are found alike.
            query = query.filter(
                sql::<Bool>(
                    "sessions.id IN (SELECT l.session_id FROM session_labels l WHERE l.key = ",
                )
                .bind::<Text, _>(key)
                .sql(" AND l.value = ")
                .bind::<Text, _>(value)
                .sql(" AND l.session_id <= ")
                .bind::<SqlUuid, _>(before.unwrap_or(Uuid::max()))
                .sql(")"),
            );
        }
        if let Some(domain) = self.resource_domain {
            query = query.filter(dsl::resource_domain.eq(domain));
        }
        if let Some(after) = self.created_after {
            query = query.filter(dsl::created_at.gt(after));
        }
        if let Some(before) = self.created_before {
            query = query.filter(dsl::created_at.lt(before));
        }
        query
    }
}
