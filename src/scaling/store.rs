//! The SQL of scaling.

use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use lessor_protocol::RemovableAgent;

use crate::error::Result;
use crate::store::{Conn, Statement};

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    reason: String,
}

/// The agents that can be taken away, in that order.
pub async fn removable(conn: &mut Conn, pool: &str) -> Result<Vec<RemovableAgent>> {
    let rows: Vec<Row> = Statement::new(include_str!("removable.sql"))
        .bind::<Text, _>(pool.to_owned())
        .load(conn)
        .await?;
    let agents = rows.into_iter().map(|row| RemovableAgent {
        agent: row.name,
        reason: row.reason,
    });
    Ok(agents.collect())
}
