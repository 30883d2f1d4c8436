//! Idempotency keys on calls that create: the answer is kept in the transaction that created.
//!
//! A twin in flight waits for the first, since both insert the same key and the second insert
//! waits for the first transaction's end. Kept for 24 hours, per caller, method and path.

pub mod http;

use diesel::prelude::*;
use diesel::sql_types::{Bytea, Integer, Nullable, Text};
use diesel_async::RunQueryDsl;
use futures_util::future::BoxFuture;

use crate::error::{Error, Result};
use crate::store::{Conn, Statement};
use crate::wakeups::Hints;

/// A request that carries a key.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who calls.
    pub caller: String,
    /// The path; the method is POST.
    pub path: String,
    /// The key.
    pub key: String,
    /// The digest of the body.
    pub body_sha256: [u8; 32],
}

/// An answer that can be given again.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The `Location` header.
    pub location: Option<String>,
    /// The `ETag` header.
    pub etag: Option<i64>,
    /// The body, JSON.
    pub body: String,
    /// Whether it was given before.
    pub replayed: bool,
}

#[derive(QueryableByName)]
struct Kept {
    #[diesel(sql_type = Bytea)]
    body_sha256: Vec<u8>,
    #[diesel(sql_type = Nullable<Integer>)]
    status: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    location: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    response: Option<String>,
}

/// The answer that was kept under the key of a request, if it has one and came before; otherwise what
/// `work` makes, which is kept in the same transaction.
///
/// # Errors
/// `IdempotencyKeyReused` when the key came with another body before; what `work` says.
pub async fn once<W>(conn: &mut Conn, request: Option<&Request>, work: W) -> Result<(Answer, Hints)>
where
    W: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<(Answer, Hints)>> + Send,
{
    let Some(request) = request else {
        return work(conn).await;
    };
    if let Some(kept) = begin(conn, request).await? {
        return Ok((kept, Hints::default()));
    }
    let (made, hints) = work(conn).await?;
    finish(conn, request, &made).await?;
    Ok((made, hints))
}

/// Claims the key, or gives the answer that was kept under it.
///
/// # Errors
/// `IdempotencyKeyReused` when the key came with another body before.
async fn begin(conn: &mut Conn, request: &Request) -> Result<Option<Answer>> {
    let inserted = Statement::new(
        "-- idempotency::begin\nINSERT INTO idempotency_keys (caller, method, path, key, body_sha256) \
         VALUES ($1, 'POST', $2, $3, $4) ON CONFLICT (caller, method, path, key) DO UPDATE SET \
         body_sha256 = excluded.body_sha256, status = NULL, location = NULL, response = NULL, created_at = now() \
         WHERE idempotency_keys.created_at < now() - interval '24 hours'",
    )
    .bind::<Text, _>(request.caller.clone())
    .bind::<Text, _>(request.path.clone())
    .bind::<Text, _>(request.key.clone())
    .bind::<Bytea, _>(request.body_sha256.to_vec())
    .execute(conn)
    .await?;
    if inserted > 0 {
        return Ok(None);
    }
    let kept: Kept = Statement::new(
        "-- idempotency::kept\nSELECT body_sha256, status, location, response FROM idempotency_keys \
         WHERE caller = $1 AND method = 'POST' AND path = $2 AND key = $3",
    )
    .bind::<Text, _>(request.caller.clone())
    .bind::<Text, _>(request.path.clone())
    .bind::<Text, _>(request.key.clone())
    .get_result(conn)
    .await?;
    if kept.body_sha256 != request.body_sha256 {
        return Err(Error::IdempotencyKeyReused);
    }
    let (Some(status), Some(body)) = (kept.status, kept.response) else {
        return Err(Error::Retry(
            "the first request with this key has not ended".to_owned(),
        ));
    };
    let status = u16::try_from(status).unwrap_or(200);
    // What was created had its first version; only single resources have a tag, and a location.
    let etag = kept.location.as_ref().map(|_| 1);
    Ok(Some(Answer {
        status,
        location: kept.location,
        etag,
        body,
        replayed: true,
    }))
}

/// Keeps the answer under the key.
///
/// # Errors
/// When the database refuses.
async fn finish(conn: &mut Conn, request: &Request, answer: &Answer) -> Result<()> {
    Statement::new(
        "-- idempotency::finish\nUPDATE idempotency_keys SET status = $4, location = $5, response = $6 \
         WHERE caller = $1 AND method = 'POST' AND path = $2 AND key = $3",
    )
    .bind::<Text, _>(request.caller.clone())
    .bind::<Text, _>(request.path.clone())
    .bind::<Text, _>(request.key.clone())
    .bind::<Integer, _>(i32::from(answer.status))
    .bind::<Nullable<Text>, _>(answer.location.clone())
    .bind::<Text, _>(answer.body.clone())
    .execute(conn)
    .await?;
    Ok(())
}
