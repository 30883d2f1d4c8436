//! The SQL of tokens.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Double, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use lessor_protocol::{NewToken, Role, Token};
use uuid::Uuid;

use super::secret::Fresh;
use super::state::{Grant, Reach, Scope};
use crate::error::Result;
use crate::store::schema::{sessions, tokens};
use crate::store::{Conn, Statement, Word};

/// For how long an agent's older token works beside the one that its registration made: calls that were
/// under way end well.
const OVERLAP_SECONDS: f64 = 60.0;

/// A row of `tokens`, without its digest.
#[derive(Clone, Debug, Queryable, Selectable, QueryableByName)]
#[diesel(table_name = tokens)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct TokenRow {
    pub id: Uuid,
    pub name: String,
    pub prefix: String,
    #[diesel(deserialize_as = Word<Role>)]
    pub role: Role,
    pub pools: Vec<String>,
    pub agent: Option<String>,
    pub owner: Option<String>,
    pub tenant: Option<String>,
    pub enrolled: bool,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub replaces: Option<Uuid>,
    pub version: i64,
}

impl TokenRow {
    fn grant(&self) -> Grant {
        Grant {
            token_id: Some(self.id),
            role: self.role,
            tenant: self.tenant.clone(),
            pools: self.pools.clone(),
            agent: self.agent.clone(),
            owner: self.owner.clone(),
        }
    }
}

impl From<TokenRow> for Token {
    fn from(row: TokenRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            prefix: row.prefix,
            role: row.role,
            pools: row.pools,
            agent: row.agent,
            owner: row.owner,
            tenant: row.tenant,
            enrolled: row.enrolled,
            created_by: row.created_by,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
            replaces: row.replaces,
            version: row.version,
        }
    }
}

/// A token that is valid.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What it allows.
    pub grant: Grant,
    /// For how long.
    pub seconds_left: Option<f64>,
}

/// What became of a token.
#[derive(Debug, QueryableByName)]
pub struct Changed {
    /// The token.
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    /// Whether it was revoked.
    #[diesel(sql_type = Bool)]
    pub revoked: bool,
    /// For how long it is valid, where it expires.
    #[diesel(sql_type = Nullable<Double>)]
    pub seconds_left: Option<f64>,
}

/// The valid tokens with these digests, each with its own.
pub async fn find(conn: &mut Conn, digests: Vec<Vec<u8>>) -> Result<Vec<(Vec<u8>, Found)>> {
    let left = diesel::dsl::sql::<Nullable<Double>>(
        "extract(epoch FROM expires_at - clock_timestamp())::double precision",
    );
    let found: Vec<(Vec<u8>, TokenRow, Option<f64>)> = tokens::table
        .select((tokens::digest, TokenRow::as_select(), left))
        .filter(tokens::digest.eq_any(digests))
        .filter(tokens::revoked_at.is_null())
        .load(conn)
        .await?;
    Ok(found
        .into_iter()
        .filter(|(_, _, left)| left.is_none_or(|left| left > 0.0))
        .map(|(digest, row, seconds_left)| {
            let found = Found {
                id: row.id,
                grant: row.grant(),
                name: row.name,
                seconds_left,
            };
            (digest, found)
        })
        .collect())
}

/// What has changed in the last seconds.
pub async fn changed(conn: &mut Conn, seconds: f64) -> Result<Vec<Changed>> {
    Ok(Statement::new(
        "-- access::changed\nSELECT id, revoked_at IS NOT NULL AS revoked, \
         extract(epoch FROM expires_at - clock_timestamp())::double precision AS seconds_left \
         FROM tokens WHERE version > 1 AND changed_at > clock_timestamp() - make_interval(secs => $1)",
    )
    .bind::<Double, _>(seconds)
    .load(conn)
    .await?)
}

/// Notes that these were used.
pub async fn write_uses(conn: &mut Conn, ids: Vec<Uuid>) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    // Several servers may know the same token.
    Statement::new(
        "-- access::write_uses\nWITH due AS MATERIALIZED (SELECT t.id FROM tokens t WHERE t.id = ANY ($1) \
         AND (t.last_used_at IS NULL OR t.last_used_at < now() - interval '50 seconds') \
         ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED) \
         UPDATE tokens t SET last_used_at = now() WHERE t.id = ANY (ARRAY (SELECT id FROM due))",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .execute(conn)
    .await?;
    Ok(())
}

/// A token that is to be inserted.
#[derive(Clone, Debug)]
pub struct Insert {
    /// What it is to be.
    pub new: NewToken,
    /// Its tenant.
    pub tenant: Option<String>,
    /// Who creates it.
    pub created_by: String,
    /// The token that it replaces.
    pub replaces: Option<Uuid>,
    /// Whether a registration makes it.
    pub enrolled: bool,
}

/// Inserts a token.
pub async fn insert(conn: &mut Conn, insert: &Insert, fresh: &Fresh) -> Result<TokenRow> {
    let expires = diesel::dsl::sql::<Nullable<diesel::sql_types::Timestamptz>>(
        "now() + make_interval(secs => ",
    )
    .bind::<Nullable<Double>, _>(insert.new.expires_in_seconds)
    .sql(")");
    let new = &insert.new;
    Ok(diesel::insert_into(tokens::table)
        .values((
            (
                tokens::id.eq(Uuid::now_v7()),
                tokens::name.eq(new.name.clone()),
                tokens::digest.eq(fresh.digest.to_vec()),
                tokens::prefix.eq(fresh.prefix.clone()),
                tokens::role.eq(new.role.as_str()),
                tokens::pools.eq(new.pools.clone()),
                tokens::agent.eq(new.agent.clone()),
                tokens::owner.eq(new.owner.clone()),
            ),
            tokens::tenant.eq(insert.tenant.clone()),
            tokens::enrolled.eq(insert.enrolled),
            tokens::created_by.eq(insert.created_by.clone()),
            tokens::expires_at.eq(expires),
            tokens::replaces.eq(insert.replaces),
        ))
        .returning(TokenRow::as_returning())
        .get_result(conn)
        .await?)
}

/// Which tokens a caller looks after: all, or its tenant's.
type Of = Option<String>;

/// A token.
pub async fn get(conn: &mut Conn, id: Uuid, of: &Of) -> Result<Option<TokenRow>> {
    let mut query = tokens::table
        .select(TokenRow::as_select())
        .filter(tokens::id.eq(id))
        .into_boxed();
    if let Some(tenant) = of {
        query = query.filter(tokens::tenant.eq(tenant.clone()));
    }
    Ok(query.first(conn).await.optional()?)
}

/// A token, locked.
pub async fn lock(conn: &mut Conn, id: Uuid, of: &Of) -> Result<Option<TokenRow>> {
    let row: Option<TokenRow> = tokens::table
        .select(TokenRow::as_select())
        .filter(tokens::id.eq(id))
        .for_no_key_update()
        .first(conn)
        .await
        .optional()?;
    Ok(row.filter(|row| of.is_none() || row.tenant == *of))
}

/// A page of tokens, newest first.
pub async fn list(
    conn: &mut Conn,
    of: &Of,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<TokenRow>> {
    let mut query = tokens::table
        .select(TokenRow::as_select())
        .order(tokens::id.desc())
        .limit(limit)
        .into_boxed();
    if let Some(tenant) = of {
        query = query.filter(tokens::tenant.eq(tenant.clone()));
    }
    if let Some(after) = after {
        query = query.filter(tokens::id.lt(after));
    }
    Ok(query.load(conn).await?)
}

const COLUMNS: &str = "id, name, prefix, role, pools, agent, owner, tenant, enrolled, created_by, created_at, \
    expires_at, last_used_at, revoked_at, replaces, version";

/// Revokes a token whose row is locked.
pub async fn revoke(conn: &mut Conn, id: Uuid) -> Result<TokenRow> {
    let text = format!(
        "-- access::revoke\nUPDATE tokens SET revoked_at = now(), changed_at = clock_timestamp(), \
         version = version + 1 WHERE id = $1 RETURNING {COLUMNS}"
    );
    Ok(Statement::new(&text)
        .bind::<SqlUuid, _>(id)
        .get_result(conn)
        .await?)
}

/// Lets a token whose row is locked expire after so long, if it does not do so before.
pub async fn shorten(conn: &mut Conn, id: Uuid, seconds: f64) -> Result<()> {
    Statement::new(
        "-- access::shorten\nUPDATE tokens SET expires_at = least(expires_at, now() + make_interval(secs => $2)), \
         changed_at = clock_timestamp(), version = version + 1 WHERE id = $1",
    )
    .bind::<SqlUuid, _>(id)
    .bind::<Double, _>(seconds)
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct Past {
    #[diesel(sql_type = Bool)]
    past: bool,
}

/// Whether a token has expired.
pub async fn is_past(conn: &mut Conn, id: Uuid) -> Result<bool> {
    let past: Past = Statement::new(
        "-- access::is_past\nSELECT coalesce(expires_at <= now(), false) AS past FROM tokens WHERE id = $1",
    )
    .bind::<SqlUuid, _>(id)
    .get_result(conn)
    .await?;
    Ok(past.past)
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// Lets the tokens that an agent's registrations made expire soon; the newest of them. The agent's row is
/// locked.
pub async fn shorten_enrolled(conn: &mut Conn, agent: &str) -> Result<Option<Uuid>> {
    let ids: Vec<Id> = Statement::new(
        "-- access::shorten_enrolled\nUPDATE tokens t SET \
         expires_at = least(t.expires_at, now() + make_interval(secs => $2)), \
         changed_at = clock_timestamp(), version = t.version + 1 \
         WHERE t.agent = $1 AND t.enrolled AND t.revoked_at IS NULL AND t.expires_at IS NULL RETURNING t.id",
    )
    .bind::<Text, _>(agent.to_owned())
    .bind::<Double, _>(OVERLAP_SECONDS)
    .load(conn)
    .await?;
    Ok(ids.into_iter().map(|id| id.id).max())
}

/// The id of a session by its id or name, if it is within a scope.
///
/// # Errors
/// When the database refuses.
pub async fn session_within(
    conn: &mut Conn,
    id_or_name: &str,
    scope: &Scope,
) -> Result<Option<Uuid>> {
    let query = sessions::table.select(sessions::id).into_boxed();
    let mut query = match Uuid::try_parse(id_or_name) {
        Ok(id) => query.filter(sessions::id.eq(id)),
        Err(_) => query.filter(sessions::name.eq(id_or_name.to_owned())),
    };
    query = match &scope.reach {
        Reach::Everything => query,
        Reach::NoTenant => query.filter(sessions::agent_pool.not_like("%~%")),
        Reach::Tenant(tenant) => {
            let (from, to) = Reach::range(tenant);
            query.filter(
                sessions::agent_pool
                    .ge(from)
                    .and(sessions::agent_pool.lt(to)),
            )
        }
    };
    if let Some(owner) = &scope.owner {
        query = query.filter(sessions::owner.eq(owner.clone()));
    }
    Ok(query.first(conn).await.optional()?)
}
