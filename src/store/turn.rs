//! Turns: work of which one transaction at a time does a piece, on whichever server.

use diesel::sql_types::{Bool, Text};
use diesel_async::RunQueryDsl;

use super::{Conn, Statement};
use crate::error::Result;

/// Whether this transaction has the turn named `what`; until its end nobody else has it then.
///
/// # Errors
/// When the database refuses.
pub async fn try_turn(conn: &mut Conn, what: &str) -> Result<bool> {
    #[derive(diesel::QueryableByName)]
    struct Turn {
        #[diesel(sql_type = Bool)]
        taken: bool,
    }
    let turn: Turn = Statement::new(
        "-- store::try_turn\nSELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS taken",
    )
    .bind::<Text, _>(what.to_owned())
    .get_result(conn)
    .await?;
    Ok(turn.taken)
}
