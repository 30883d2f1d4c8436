//! What is deleted in time: ended sessions with their ledger, events, agents that never came back,
//! answers kept for idempotency, leftovers that are gone, drains, rebalances and commands that are
//! over, tokens that have ended.

use std::sync::Arc;

use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use crate::app::App;
use crate::error::Result;
use crate::store::Statement;
use crate::{audit, events};

#[derive(diesel::QueryableByName)]
struct Deleted {
    #[diesel(sql_type = BigInt)]
    deleted: i64,
}

/// Deletes what is past its time, a batch of each kind; whether there may be more.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn run(app: &Arc<App>) -> Result<bool> {
    let mut more = false;
    for text in [
        include_str!("delete_ended.sql"),
        include_str!("delete_agents.sql"),
        include_str!("delete_keys.sql"),
        include_str!("delete_leftovers.sql"),
        include_str!("delete_drains.sql"),
        include_str!("delete_rebalances.sql"),
        include_str!("delete_turns.sql"),
        include_str!("delete_tokens.sql"),
        include_str!("delete_approvals.sql"),
    ] {
        let deleted: Deleted = app
            .db
            .write("upkeep::retention", move |conn| {
                Box::pin(async move { Ok(Statement::new(text).get_result(conn).await?) })
            })
            .await?;
        more |= deleted.deleted >= 500;
    }
    more |= events::delete_old(app, app.event_retention).await?;
    more |= audit::delete_old(app).await?;
    Ok(more)
}
