//! Lists of sessions.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::filter::SessionFilter;
use super::row::SessionRow;
use crate::app::App;
use crate::error::Result;
use crate::store::schema::sessions;

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
                Ok(filter.narrow(query).load(conn).await?)
            })
        })
        .await
}
