//! Lists of sessions.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use lessor_protocol::{DesiredState, Labels, SessionState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::row::SessionRow;
use crate::app::App;
use crate::error::Result;
use crate::store::LabelsColumn;
use crate::store::schema::sessions;

/// Which sessions to list; what is left out filters nothing.
#[derive(Clone, Debug, Default)]
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
}

/// Where a page of sessions ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Position(pub Uuid);

impl crate::http::Cursor for Position {
    const KIND: &'static str = "sessions";
}

/// Sessions, newest first, at most `limit`.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn list(
    app: &App,
    filter: SessionFilter,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<SessionRow>> {
    app.db
        .read("sessions::list", |conn| {
            Box::pin(async move {
                use sessions::dsl;
                let mut query = dsl::sessions
                    .select(SessionRow::as_select())
                    .order(dsl::id.desc())
                    .limit(limit)
                    .into_boxed();
                if let Some(Position(id)) = after {
                    query = query.filter(dsl::id.lt(id));
                }
                if let Some(pool) = filter.pool {
                    query = query.filter(dsl::agent_pool.eq(pool));
                }
                if !filter.states.is_empty() {
                    let states: Vec<&str> =
                        filter.states.iter().map(|state| state.as_str()).collect();
                    query = query.filter(dsl::state.eq_any(states));
                }
                if let Some(desired) = filter.desired_state {
                    query = query.filter(dsl::desired_state.eq(desired.as_str()));
                }
                if let Some(agent) = filter.assigned_agent_id {
                    query = query.filter(dsl::assigned_agent_id.eq(agent));
                }
                query = match filter.assigned {
                    Some(true) => query.filter(dsl::assigned_agent_id.is_not_null()),
                    Some(false) => query.filter(dsl::assigned_agent_id.is_null()),
                    None => query,
                };
                if let Some(owner) = filter.owner {
                    query = query.filter(dsl::owner.eq(owner));
                }
                if let Some(name) = filter.name {
                    query = query.filter(dsl::name.eq(name));
                }
                if !filter.labels.is_empty() {
                    query = query.filter(dsl::labels.contains(LabelsColumn(filter.labels)));
                }
                if let Some(domain) = filter.resource_domain {
                    query = query.filter(dsl::resource_domain.eq(domain));
                }
                if let Some(after) = filter.created_after {
                    query = query.filter(dsl::created_at.gt(after));
                }
                if let Some(before) = filter.created_before {
                    query = query.filter(dsl::created_at.lt(before));
                }
                Ok(query.load(conn).await?)
            })
        })
        .await
}
