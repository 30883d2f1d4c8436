//! Lists of agents.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use lessor_protocol::Agent;
use serde::{Deserialize, Serialize};

use super::filter::AgentFilter;
use super::row::AgentRow;
use super::store;
use crate::app::App;
use crate::error::Result;
use crate::store::schema::agents;

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
                let rows: Vec<AgentRow> = filter.narrow(query).load(conn).await?;
                store::shown(conn, rows).await
            })
        })
        .await
}
