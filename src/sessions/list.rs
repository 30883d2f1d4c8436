//! Lists of sessions.

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Json, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use lessor_protocol::Labels;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::filter::SessionFilter;
use super::row::SessionRow;
use crate::app::App;
use crate::error::Result;
use crate::store::schema::sessions;
use crate::store::{AsJson, Conn, Statement};

/// Where a page of sessions ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The id of the last.
    pub id: Uuid,
    /// When that was created.
    pub created_at: DateTime<Utc>,
}

impl crate::http::Cursor for Position {
    const KIND: &'static str = "sessions";
}

/// Sessions, newest first, at most `limit`. Ids begin with the time, so their order is that of creation
/// but for the difference of clocks; lists that ask for times of creation are in the order of those, where
/// both ends of a range can be found by an index.
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
                    .limit(limit)
                    .into_boxed();
                if filter.asks_for_creation() {
                    query = query.order((dsl::created_at.desc(), dsl::id.desc()));
                    // Where the range itself begins later, only one of them may say where to begin.
                    let before = filter.created_before;
                    let inside = |at: DateTime<Utc>| before.is_none_or(|before| at < before);
                    if let Some(after) = after.filter(|after| inside(after.created_at)) {
                        query = query.filter(
                            sql::<Bool>("(sessions.created_at, sessions.id) < (")
                                .bind::<Timestamptz, _>(after.created_at)
                                .sql(", ")
                                .bind::<SqlUuid, _>(after.id)
                                .sql(")"),
                        );
                    }
                } else {
                    query = query.order(dsl::id.desc());
                    if let Some(after) = after {
                        query = query.filter(dsl::id.lt(after.id));
                    }
                }
                let before = after.filter(|_| !filter.asks_for_creation());
                let by_labels = by_labels(conn, &filter.labels).await?;
                let query = filter.narrow_before(before.map(|after| after.id), by_labels, query);
                Ok(query.load(conn).await?)
            })
        })
        .await
}

#[derive(QueryableByName)]
struct Key {
    #[diesel(sql_type = Text)]
    key: String,
}

/// By which labels a page is looked up: by the rarest alone. The planner knows how many sessions have a label
/// only of the most frequent ones, and would go through those.
async fn by_labels(conn: &mut Conn, labels: &Labels) -> Result<Vec<String>> {
    if labels.len() < 2 {
        return Ok(labels.keys().cloned().collect());
    }
    let rarest: Vec<Key> = Statement::new(include_str!("rarest_label.sql"))
        .bind::<Json, _>(AsJson(labels))
        .load(conn)
        .await?;
    Ok(rarest.into_iter().map(|rarest| rarest.key).collect())
}
