//! What people do with webhooks.

use std::time::Instant;

use lessor_protocol::{
    CreatedWebhook, DeliveryType, NewWebhook, Webhook, WebhookDelivery, WebhookPatch, WebhookTest,
    tenant_of,
};
use uuid::Uuid;

use super::send::Parcel;
use super::sign::Key;
use super::state::{GONE, Verdict};
use super::store::{self, Insert, MOST, Said, WebhookRow};
use crate::access::{DEFAULT_OVERLAP_SECONDS, Keeper};
use crate::app::App;
use crate::error::{Error, Result};
use crate::events;
use crate::http::{Checks, Preconditions};

fn check(app: &App, said: &Said, tenant: Option<&str>, after: Option<&str>) -> Result<Option<i64>> {
    let mut checks = Checks::new();
    checks.text("/name", &said.name, 128);
    if let Err(why) = app.webhooks.sender.allowed().read(&said.url) {
        checks.refuse("/url", why);
    }
    if let Err(why) = events::state::Kinds::of(said.kinds.iter().map(String::as_str)) {
        checks.refuse("/kinds", why);
    }
    if let Some(pool) = &said.pool {
        checks.qualified("/pool", pool);
        if tenant.is_some() && tenant_of(pool) != tenant {
            checks.refuse("/pool", "must be of the webhook's tenant");
        }
    }
    if let Some(owner) = &said.owner {
        checks.text("/owner", owner, 256);
    }
    if let Some(tenant) = tenant {
        checks.tenant("/tenant", tenant);
    }
    let after = after.map(|text| {
        events::state::position(text).unwrap_or_else(|| {
            checks.refuse("/after", "must be the id of an event, or 0");
            0
        })
    });
    checks
        .finish()
        .map_err(|problem| Error::Invalid(problem.errors))?;
    Ok(after)
}

fn no_webhook(id: Uuid) -> Error {
    Error::NoWebhook(id.to_string())
}

/// The position from which to go on after an event that was named; positions that were never given are
/// refused, since what would be left out is not known.
async fn position(app: &App, after: Option<i64>) -> Result<Option<i64>> {
    let Some(after) = after else { return Ok(None) };
    let kept = events::kept(app).await?;
    if after > kept.last {
        return Err(Error::invalid("/after", "must be the id of an event, or 0"));
    }
    // From the oldest that is kept nothing is missing.
    Ok(Some(if after == 0 { kept.first - 1 } else { after }))
}

/// Creates a webhook.
///
/// # Errors
/// `Invalid`; `Forbidden` where it is for another tenant than its keeper's; `TransitionNotAllowed` where there
/// are as many as there may be; `DatabaseUnavailable`.
pub async fn create(app: &App, new: NewWebhook, by: Keeper) -> Result<CreatedWebhook> {
    let tenant = new.tenant.or_else(|| by.grant.tenant.clone());
    let said = Said {
        name: new.name,
        url: new.url,
        kinds: new.kinds,
        pool: new.pool,
        owner: new.owner,
        enabled: true,
    };
    let after = check(app, &said, tenant.as_deref(), new.after.as_deref())?;
    if !by.grant.may_hand_out(tenant.as_deref()) {
        return Err(Error::Forbidden(
            "this token creates webhooks of its own tenant only".to_owned(),
        ));
    }
    let position = match position(app, after).await? {
        Some(position) => position,
        None => {
            // What was committed before this call is not "the next event".
            events::settle(app).await?;
            events::kept(app).await?.last
        }
    };
    let key = Key::fresh()?;
    let secret = key.secret();
    let insert = Insert {
        said,
        tenant,
        position,
        key,
        created_by: by.name,
    };
    let row = app
        .db
        .write("webhooks::create", move |conn| {
            let insert = insert.clone();
            Box::pin(async move {
                let tenant = insert.tenant.as_deref();
                if store::count_locked(conn, tenant).await? >= MOST {
                    return Err(Error::TransitionNotAllowed(format!(
                        "there are {MOST} webhooks, as many as there may be; delete one first"
                    )));
                }
                store::insert(conn, &insert).await
            })
        })
        .await?;
    app.webhooks.created.notify_one();
    Ok(CreatedWebhook {
        webhook: row.into(),
        secret,
    })
}

/// Webhooks, newest first, and one more than `limit` if there are more.
///
/// # Errors
/// `DatabaseUnavailable`.
pub async fn list(app: &App, by: &Keeper, after: Option<Uuid>, limit: i64) -> Result<Vec<Webhook>> {
    let of = by.grant.tenant.clone();
    let rows = app
        .db
        .read("webhooks::list", |conn| {
            Box::pin(async move { store::list(conn, &of, after, limit).await })
        })
        .await?;
    Ok(rows.into_iter().map(Webhook::from).collect())
}

/// A webhook.
///
/// # Errors
/// `NoWebhook`, `DatabaseUnavailable`.
pub async fn get(app: &App, by: &Keeper, id: Uuid) -> Result<Webhook> {
    Ok(row(app, by, id).await?.into())
}

async fn row(app: &App, by: &Keeper, id: Uuid) -> Result<WebhookRow> {
    let of = by.grant.tenant.clone();
    let row = app
        .db
        .read("webhooks::get", |conn| {
            Box::pin(async move { store::get(conn, id, &of).await })
        })
        .await?;
    row.ok_or_else(|| no_webhook(id))
}

/// What is done with a webhook whose row is locked.
enum Change {
    /// It is to be this, and to go on from there.
    Said(Box<Said>, Option<i64>),
    /// It gets a new key.
    Rotate(Key, f64),
    /// It goes.
    Delete,
}

/// Does it to the webhook that a caller may see, if its version is the right one.
async fn change(
    app: &App,
    (by, id): (&Keeper, Uuid),
    preconditions: Preconditions,
    change: impl Fn(&WebhookRow) -> Result<Change> + Send + Sync + 'static,
) -> Result<WebhookRow> {
    let of = by.grant.tenant.clone();
    let change = std::sync::Arc::new(change);
    app.db
        .write("webhooks::change", move |conn| {
            let (of, preconditions) = (of.clone(), preconditions.clone());
            let change = std::sync::Arc::clone(&change);
            Box::pin(async move {
                let row = store::lock(conn, id, &of).await?;
                let row = row.ok_or_else(|| no_webhook(id))?;
                if !preconditions.if_match_ok(Some(row.version)) {
                    return Err(Error::VersionMismatch(row.version));
                }
                match change(&row)? {
                    Change::Said(said, position) => store::change(conn, id, *said, position).await,
                    Change::Rotate(key, overlap) => store::rotate(conn, id, &key, overlap).await,
                    Change::Delete => {
                        store::delete(conn, id).await?;
                        Ok(row)
                    }
                }
            })
        })
        .await
}

fn patched(row: &WebhookRow, patch: &WebhookPatch) -> Said {
    let patch = patch.clone();
    Said {
        name: patch.name.unwrap_or_else(|| row.name.clone()),
        url: patch.url.unwrap_or_else(|| row.url.clone()),
        kinds: patch.kinds.unwrap_or_else(|| row.kinds.clone()),
        pool: patch.pool.unwrap_or_else(|| row.pool.clone()),
        owner: patch.owner.unwrap_or_else(|| row.owner.clone()),
        enabled: patch.enabled.unwrap_or(row.enabled),
    }
}

/// Changes a webhook. What it was about to send again is read anew, and tried at once.
///
/// # Errors
/// `NoWebhook`, `Invalid`, `VersionMismatch`, `DatabaseUnavailable`.
pub async fn patch(
    app: &App,
    by: &Keeper,
    id: Uuid,
    preconditions: Preconditions,
    patch: WebhookPatch,
) -> Result<Webhook> {
    let before = row(app, by, id).await?;
    let said = patched(&before, &patch);
    let after = check(app, &said, before.tenant.as_deref(), patch.after.as_deref())?;
    let position = position(app, after).await?;
    let row = change(app, (by, id), preconditions, move |row| {
        Ok(Change::Said(Box::new(patched(row, &patch)), position))
    })
    .await?;
    app.webhooks.created.notify_one();
    Ok(row.into())
}

/// Gives a webhook a new secret; the one before signs too for a while.
///
/// # Errors
/// `NoWebhook`, `Invalid`, `VersionMismatch`, `DatabaseUnavailable`.
pub async fn rotate(
    app: &App,
    by: &Keeper,
    id: Uuid,
    preconditions: Preconditions,
    overlap_seconds: Option<f64>,
) -> Result<CreatedWebhook> {
    let overlap = overlap_seconds.unwrap_or(DEFAULT_OVERLAP_SECONDS);
    let mut checks = Checks::new();
    checks.range_f64("/overlap_seconds", overlap, 0.0, 2_592_000.0);
    checks
        .finish()
        .map_err(|problem| Error::Invalid(problem.errors))?;
    let key = Key::fresh()?;
    let secret = key.secret();
    let row = change(app, (by, id), preconditions, move |_| {
        Ok(Change::Rotate(key.clone(), overlap))
    })
    .await?;
    Ok(CreatedWebhook {
        webhook: row.into(),
        secret,
    })
}

/// Deletes a webhook.
///
/// # Errors
/// `NoWebhook`, `VersionMismatch`, `DatabaseUnavailable`.
pub async fn delete(app: &App, by: &Keeper, id: Uuid, preconditions: Preconditions) -> Result<()> {
    change(app, (by, id), preconditions, |_| Ok(Change::Delete)).await?;
    Ok(())
}

/// Sends a test, signed like everything, and says what came of it. Nothing is tried again.
///
/// # Errors
/// `NoWebhook`, `DatabaseUnavailable`.
pub async fn test(app: &App, by: &Keeper, id: Uuid) -> Result<WebhookTest> {
    let row = row(app, by, id).await?;
    let secrets = app
        .db
        .read("webhooks::secrets", |conn| {
            Box::pin(async move { store::secrets(conn, id).await })
        })
        .await?;
    let delivery = WebhookDelivery {
        delivery_type: DeliveryType::Test,
        webhook_id: id,
        gap: None,
        events: Vec::new(),
    };
    let name = format!("{id}_test_{}", Uuid::now_v7());
    let parcel = Parcel::of(name, row.url, &secrets, &delivery)?;
    let begun = Instant::now();
    let outcome = app.webhooks.sender.send(parcel).await;
    let failure = match outcome.verdict {
        Verdict::Taken => None,
        Verdict::Gone => Some(GONE.to_owned()),
        Verdict::Failed { why, .. } => Some(why),
    };
    Ok(WebhookTest {
        delivered: failure.is_none(),
        status: outcome.status,
        failure,
        seconds: begun.elapsed().as_secs_f64(),
    })
}
