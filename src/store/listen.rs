//! Whether LISTEN works over a URL.
//!
//! It needs a session of the server's that stays: behind a transaction pooler nothing would ever
//! arrive. [`probe`] finds that out at start, by a notification sent the way all are sent.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio_postgres::AsyncMessage;

use crate::error::{Error, Result};

/// Finds out whether what is notified over `url` is heard over `listen_url`.
///
/// Two connections, since a pooler that lends both ends of one connection would look innocent.
///
/// # Errors
/// When it is not heard, which is what a transaction pooler in between looks like.
pub async fn probe(listen_url: &str, url: &str) -> Result<()> {
    let lost = |error: tokio_postgres::Error| Error::DatabaseUnavailable(error.to_string());
    let channel = format!("lessor_probe_{}", uuid::Uuid::new_v4().simple());
    let (listener, mut connection) = super::connect::client(listen_url).await?;
    let (notifier, other) = super::connect::client(url).await?;
    let other = tokio::spawn(other);
    let mut incoming = stream::poll_fn(move |cx| connection.poll_message(cx));
    let talk = async {
        listener
            .batch_execute(&format!("LISTEN {channel}"))
            .await
            .map_err(lost)?;
        notifier
            .batch_execute(&format!("NOTIFY {channel}"))
            .await
            .map_err(lost)?;
        // What has been sent will be heard or not; only the listening side ends this.
        std::future::pending::<Result<()>>().await
    };
    let hear = async {
        while let Some(message) = incoming.next().await {
            if matches!(message, Ok(AsyncMessage::Notification(note)) if note.channel() == channel)
            {
                return Ok(());
            }
        }
        Err(Error::DatabaseUnavailable(
            "the listening connection was closed".to_owned(),
        ))
    };
    let verdict = tokio::time::timeout(Duration::from_secs(3), async {
        tokio::select! { said = talk => said, heard = hear => heard }
    })
    .await;
    other.abort();
    verdict.unwrap_or_else(|_| {
        Err(Error::Internal(
            "notifications do not arrive; if DATABASE_URL leads to a transaction pooler, set \
             LESSOR_LISTEN_URL to a direct connection to PostgreSQL"
                .to_owned(),
        ))
    })
}
