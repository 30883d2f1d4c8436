//! Sessions as callers see them: the row, and when it was last used, which is kept elsewhere.

use lessor_protocol::Session;

use super::row::SessionRow;
use crate::app::App;
use crate::error::Result;
use crate::limits;

/// One session with its last activity.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn show_one(app: &App, row: SessionRow) -> Result<Session> {
    Ok(Session {
        last_activity_at: limits::last_activity(app, row.id).await?,
        ..Session::from(row)
    })
}
