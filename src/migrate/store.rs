//! The SQL of migrations.

use diesel::sql_types::{Bool, Text};
use diesel_async::RunQueryDsl;

use crate::error::Result;
use crate::store::{Conn, Statement};

#[derive(diesel::QueryableByName)]
struct There {
    #[diesel(sql_type = Bool)]
    there: bool,
}

/// Whether a pool has an agent in a domain, live or not.
pub async fn has_domain(conn: &mut Conn, pool: &str, domain: &str) -> Result<bool> {
    let found: There = Statement::new(
        "-- migrate::has_domain\nSELECT EXISTS (SELECT FROM agents \
         WHERE pool = $1 AND resource_domain = $2) AS there",
    )
    .bind::<Text, _>(pool.to_owned())
    .bind::<Text, _>(domain.to_owned())
    .get_result(conn)
    .await?;
    Ok(found.there)
}
