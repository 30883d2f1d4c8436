//! Sessions as callers see them: the row, and when it was last used, which is kept elsewhere.

use lessor_protocol::Session;

use super::row::SessionRow;
use crate::app::App;
use crate::error::Result;
use crate::limits;

/// Sessions with their last activity.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn show(app: &App, rows: Vec<SessionRow>) -> Result<Vec<Session>> {
    // What never ran was never used.
    let ran = rows.iter().filter(|row| row.first_started_at.is_some());
    let used = limits::last_activity(app, ran.map(|row| row.id).collect()).await?;
    let shown = rows.into_iter().map(|row| {
        let mut session = Session::from(row);
        session.last_activity_at = used.get(&session.id).copied();
        session
    });
    Ok(shown.collect())
}

/// One session with its last activity.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn show_one(app: &App, row: SessionRow) -> Result<Session> {
    let used = limits::last_activity(app, vec![row.id]).await?;
    let mut session = Session::from(row);
    session.last_activity_at = used.get(&session.id).copied();
    Ok(session)
}
