//! The SQL of what people do with webhooks.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Double, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use lessor_protocol::Webhook;
use uuid::Uuid;

use super::sign::Key;
use crate::error::Result;
use crate::store::schema::webhooks;
use crate::store::{Conn, Statement};

/// A row of `webhooks`, without its secrets.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = webhooks)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct WebhookRow {
    pub id: Uuid,
    pub name: String,
    pub url: String,
    pub kinds: Vec<String>,
    pub pool: Option<String>,
    pub owner: Option<String>,
    pub tenant: Option<String>,
    pub enabled: bool,
    pub disabled_reason: Option<String>,
    pub position: i64,
    pub failures: i32,
    pub failing_since: Option<DateTime<Utc>>,
    pub next_attempt_at: DateTime<Utc>,
    pub last_failure_at: Option<DateTime<Utc>>,
    pub last_failure: Option<String>,
    pub last_success_at: Option<DateTime<Utc>>,
    pub old_secret_until: Option<DateTime<Utc>>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i64,
}

impl From<WebhookRow> for Webhook {
    fn from(row: WebhookRow) -> Self {
        let fails = row.enabled && row.failures > 0;
        Self {
            id: row.id,
            name: row.name,
            url: row.url,
            kinds: row.kinds,
            pool: row.pool,
            owner: row.owner,
            tenant: row.tenant,
            enabled: row.enabled,
            disabled_reason: row.disabled_reason,
            delivered_through: row.position.to_string(),
            failures: row.failures,
            failing_since: row.failing_since,
            next_attempt_at: fails.then_some(row.next_attempt_at),
            last_failure_at: row.last_failure_at,
            last_failure: row.last_failure,
            last_success_at: row.last_success_at,
            old_secret_until: row.old_secret_until.filter(|until| *until > Utc::now()),
            created_by: row.created_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
        }
    }
}

/// Which webhooks a caller looks after: all, or its tenant's.
pub type Of = Option<String>;

/// How many webhooks one tenant can have, and those without one together.
pub const MOST: i64 = 100;

/// What people say of a webhook.
#[derive(Clone, Debug, AsChangeset)]
#[diesel(table_name = webhooks, treat_none_as_null = true)]
#[allow(missing_docs, reason = "the migration comments on every column")]
pub struct Said {
    pub name: String,
    pub url: String,
    pub kinds: Vec<String>,
    pub pool: Option<String>,
    pub owner: Option<String>,
    pub enabled: bool,
}

/// A webhook that is to be inserted.
#[derive(Clone, Debug)]
pub struct Insert {
    /// What it is to be.
    pub said: Said,
    /// Its tenant.
    pub tenant: Option<String>,
    /// The position after which it begins.
    pub position: i64,
    /// What signs.
    pub key: Key,
    /// Who creates it.
    pub created_by: String,
}

/// How many there are of a tenant. Until the end of the transaction nobody else creates one of it.
pub async fn count_locked(conn: &mut Conn, tenant: Option<&str>) -> Result<i64> {
    Statement::new("-- webhooks::lock\nSELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind::<Text, _>(format!("webhooks of {}", tenant.unwrap_or_default()))
        .execute(conn)
        .await?;
    let count = webhooks::table.count().into_boxed();
    let count = match tenant {
        Some(tenant) => count.filter(webhooks::tenant.eq(tenant.to_owned())),
        None => count.filter(webhooks::tenant.is_null()),
    };
    Ok(count.get_result(conn).await?)
}

/// Inserts a webhook.
pub async fn insert(conn: &mut Conn, insert: &Insert) -> Result<WebhookRow> {
    let said = &insert.said;
    Ok(diesel::insert_into(webhooks::table)
        .values((
            webhooks::id.eq(Uuid::now_v7()),
            webhooks::name.eq(said.name.clone()),
            webhooks::url.eq(said.url.clone()),
            webhooks::kinds.eq(said.kinds.clone()),
            webhooks::pool.eq(said.pool.clone()),
            webhooks::owner.eq(said.owner.clone()),
            webhooks::tenant.eq(insert.tenant.clone()),
            webhooks::enabled.eq(said.enabled),
            webhooks::secret.eq(insert.key.bytes()),
            webhooks::position.eq(insert.position),
            webhooks::created_by.eq(insert.created_by.clone()),
        ))
        .returning(WebhookRow::as_returning())
        .get_result(conn)
        .await?)
}

/// A webhook.
pub async fn get(conn: &mut Conn, id: Uuid, of: &Of) -> Result<Option<WebhookRow>> {
    let row: Option<WebhookRow> = webhooks::table
        .select(WebhookRow::as_select())
        .filter(webhooks::id.eq(id))
        .first(conn)
        .await
        .optional()?;
    Ok(row.filter(|row| of.is_none() || row.tenant == *of))
}

/// A webhook, locked.
pub async fn lock(conn: &mut Conn, id: Uuid, of: &Of) -> Result<Option<WebhookRow>> {
    let row: Option<WebhookRow> = webhooks::table
        .select(WebhookRow::as_select())
        .filter(webhooks::id.eq(id))
        .for_no_key_update()
        .first(conn)
        .await
        .optional()?;
    Ok(row.filter(|row| of.is_none() || row.tenant == *of))
}

/// A page of webhooks, newest first.
pub async fn list(
    conn: &mut Conn,
    of: &Of,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<WebhookRow>> {
    let mut query = webhooks::table
        .select(WebhookRow::as_select())
        .order(webhooks::id.desc())
        .limit(limit)
        .into_boxed();
    if let Some(tenant) = of {
        query = query.filter(webhooks::tenant.eq(tenant.clone()));
    }
    if let Some(after) = after {
        query = query.filter(webhooks::id.lt(after));
    }
    Ok(query.load(conn).await?)
}

/// Changes a webhook whose row is locked. It is tried at once, and what is under way counts no more.
pub async fn change(
    conn: &mut Conn,
    id: Uuid,
    said: Said,
    position: Option<i64>,
) -> Result<WebhookRow> {
    let moved = position.is_some();
    let at = position.unwrap_or_default();
    Ok(diesel::update(webhooks::table.filter(webhooks::id.eq(id)))
        .set((
            said,
            webhooks::position.eq(diesel::dsl::case_when(
                moved.into_sql::<Bool>(),
                at.into_sql::<BigInt>(),
            )
            .otherwise(webhooks::position)),
            webhooks::disabled_reason.eq(None::<String>),
            webhooks::sending_to.eq(None::<i64>),
            webhooks::failures.eq(0),
            webhooks::failing_since.eq(None::<DateTime<Utc>>),
            webhooks::next_attempt_at.eq(diesel::dsl::now),
            webhooks::taken_until.eq(None::<DateTime<Utc>>),
            webhooks::takes.eq(webhooks::takes + 1),
            webhooks::updated_at.eq(diesel::dsl::now),
            webhooks::version.eq(webhooks::version + 1),
        ))
        .returning(WebhookRow::as_returning())
        .get_result(conn)
        .await?)
}

/// Gives a webhook whose row is locked a new key; the one before signs too for so long. What is under way
/// counts no more, so that what follows is signed anew.
pub async fn rotate(
    conn: &mut Conn,
    id: Uuid,
    key: &Key,
    overlap_seconds: f64,
) -> Result<WebhookRow> {
    let until = diesel::dsl::sql::<Nullable<diesel::sql_types::Timestamptz>>(
        "now() + make_interval(secs => ",
    )
    .bind::<Double, _>(overlap_seconds)
    .sql(")");
    Ok(diesel::update(webhooks::table.filter(webhooks::id.eq(id)))
        .set((
            webhooks::old_secret.eq(webhooks::secret.nullable()),
            webhooks::old_secret_until.eq(until),
            webhooks::secret.eq(key.bytes()),
            webhooks::taken_until.eq(None::<DateTime<Utc>>),
            webhooks::takes.eq(webhooks::takes + 1),
            webhooks::updated_at.eq(diesel::dsl::now),
            webhooks::version.eq(webhooks::version + 1),
        ))
        .returning(WebhookRow::as_returning())
        .get_result(conn)
        .await?)
}

/// Deletes a webhook whose row is locked.
pub async fn delete(conn: &mut Conn, id: Uuid) -> Result<()> {
    diesel::delete(webhooks::table.filter(webhooks::id.eq(id)))
        .execute(conn)
        .await?;
    Ok(())
}

/// What signs for a webhook.
pub async fn secrets(conn: &mut Conn, id: Uuid) -> Result<Vec<Vec<u8>>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Array<Binary>)]
        secrets: Vec<Vec<u8>>,
    }
    let row: Row = Statement::new(
        "-- webhooks::secrets\nSELECT CASE WHEN w.old_secret_until > now() THEN ARRAY[w.secret, w.old_secret] \
         ELSE ARRAY[w.secret] END AS secrets FROM webhooks w WHERE w.id = $1",
    )
    .bind::<SqlUuid, _>(id)
    .get_result(conn)
    .await?;
    Ok(row.secrets)
}
