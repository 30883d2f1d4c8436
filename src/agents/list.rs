//! Lists of agents.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use lessor_protocol::{Agent, Availability, Labels, Scheduling};
use serde::{Deserialize, Serialize};

use super::row::AgentRow;
use super::store;
use crate::app::App;
use crate::error::Result;
use crate::store::LabelsColumn;
use crate::store::schema::agents;

/// Which agents to list; what is left out filters nothing.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "named as the fields")]
pub struct AgentFilter {
    pub pool: Option<String>,
    pub availability: Option<Availability>,
    pub scheduling: Option<Scheduling>,
    pub resource_domain: Option<String>,
    pub labels: Labels,
}

/// Where a page of agents ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position {
    created_at: DateTime<Utc>,
    name: String,
}

impl Position {
    /// After this agent.
    #[must_use]
    pub fn of(agent: &Agent) -> Self {
        Self {
            created_at: agent.created_at,
            name: agent.name.clone(),
        }
    }
}

impl crate::http::Cursor for Position {
    const KIND: &'static str = "agents";
}

/// Agents, newest name first, at most `limit`.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn list(
    app: &App,
    filter: AgentFilter,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<Agent>> {
    app.db
        .read("agents::list", |conn| {
            Box::pin(async move {
                use agents::dsl;
                let mut query = dsl::agents
                    .select(AgentRow::as_select())
                    .order((dsl::created_at.desc(), dsl::name.desc()))
                    .limit(limit)
                    .into_boxed();
                if let Some(after) = after {
                    query = query.filter(
                        dsl::created_at.lt(after.created_at).or(dsl::created_at
                            .eq(after.created_at)
                            .and(dsl::name.lt(after.name))),
                    );
                }
                if let Some(pool) = filter.pool {
                    query = query.filter(dsl::pool.eq(pool));
                }
                if let Some(availability) = filter.availability {
                    query = query.filter(dsl::live.eq(availability == Availability::Live));
                }
                if let Some(scheduling) = filter.scheduling {
                    query = query.filter(dsl::scheduling.eq(scheduling.as_str()));
                }
                if let Some(domain) = filter.resource_domain {
                    query = query.filter(dsl::resource_domain.eq(domain));
                }
                if !filter.labels.is_empty() {
                    query = query.filter(dsl::labels.contains(LabelsColumn(filter.labels)));
                }
                let rows: Vec<AgentRow> = query.load(conn).await?;
                store::shown(conn, rows).await
            })
        })
        .await
}
