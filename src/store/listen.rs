//! LISTEN and NOTIFY, over a connection of their own.
//!
//! Notifications are sent from here and not inside the transactions that write: NOTIFY takes a
//! lock of the whole server at commit. They are gathered for [`GATHER`] before one is sent.
//!
//! LISTEN needs a session of the server's that stays: behind a transaction pooler nothing would
//! ever arrive. [`probe`] finds that out at start, by a notification sent the way all are sent.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::wakeups::{Hints, Hub};

const CHANNEL: &str = "lessor_wakeups";

/// For how long hints are gathered into one notification.
pub const GATHER: Duration = Duration::from_millis(5);

/// PostgreSQL takes payloads of less than 8,000 bytes.
const MAX_PAYLOAD_BYTES: usize = 7_900;

/// The most session ids that one notification names; past it, every watcher looks for himself.
const MAX_CHANGED: usize = 100;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Message {
    /// Which server says it: nobody listens to himself.
    from: uuid::Uuid,
    #[serde(flatten)]
    hints: Hints,
    /// More sessions changed than it can name: whoever waits for one looks for himself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    every_session: bool,
    /// More happened than it can say: look everywhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    everything: bool,
}

/// Listens and notifies until it is cancelled; connects anew when the connection is lost.
pub async fn run(
    url: String,
    hub: Hub,
    mut outgoing: mpsc::UnboundedReceiver<Hints>,
    stop: CancellationToken,
) {
    let me = uuid::Uuid::new_v4();
    while !stop.is_cancelled() {
        let session = talk(&url, me, &hub, &mut outgoing);
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = session => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "wake-ups from other servers are interrupted; polls go on");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

async fn talk(
    url: &str,
    me: uuid::Uuid,
    hub: &Hub,
    outgoing: &mut mpsc::UnboundedReceiver<Hints>,
) -> Result<()> {
    let (client, mut connection) = super::connect::client(url).await?;
    let mut incoming = stream::poll_fn(move |cx| connection.poll_message(cx));
    let lost = |error: tokio_postgres::Error| Error::DatabaseUnavailable(error.to_string());
    // The connection only moves while it is polled, so the statement and the stream run together.
    let statement = format!("LISTEN {CHANNEL}");
    let listen = client.batch_execute(&statement);
    tokio::pin!(listen);
    loop {
        tokio::select! {
            done = &mut listen => { done.map_err(lost)?; break; }
            message = incoming.next() => { take(message, me, hub)?; }
        }
    }
    // Whatever was said before this moment was not heard.
    hub.look_everywhere();
    loop {
        tokio::select! {
            message = incoming.next() => take(message, me, hub)?,
            hints = outgoing.recv() => {
                let Some(mut hints) = hints else { return Ok(()) };
                let gather = tokio::time::sleep(GATHER);
                tokio::pin!(gather);
                loop {
                    tokio::select! {
                        () = &mut gather => break,
                        message = incoming.next() => take(message, me, hub)?,
                        more = outgoing.recv() => match more {
                            Some(more) => hints.merge(more),
                            None => break,
                        },
                    }
                }
                let payload = payload(me, hints);
                let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&CHANNEL, &payload];
                let notify = client.execute("SELECT pg_notify($1, $2)", &arguments);
                tokio::pin!(notify);
                loop {
                    tokio::select! {
                        done = &mut notify => { done.map_err(lost)?; break; }
                        message = incoming.next() => take(message, me, hub)?,
                    }
                }
            }
        }
    }
}

fn payload(from: uuid::Uuid, mut hints: Hints) -> String {
    let every_session = hints.changed.len() > MAX_CHANGED;
    if every_session {
        hints.changed.clear();
    }
    let message = Message {
        from,
        hints,
        every_session,
        everything: false,
    };
    let text = serde_json::to_string(&message).unwrap_or_default();
    if text.len() <= MAX_PAYLOAD_BYTES {
        return text;
    }
    let short = Message {
        hints: Hints::default(),
        everything: true,
        ..message
    };
    serde_json::to_string(&short).unwrap_or_default()
}

fn take(
    message: Option<std::result::Result<AsyncMessage, tokio_postgres::Error>>,
    me: uuid::Uuid,
    hub: &Hub,
) -> Result<()> {
    match message {
        None => Err(Error::DatabaseUnavailable(
            "the listening connection was closed".to_owned(),
        )),
        Some(Err(error)) => Err(Error::DatabaseUnavailable(error.to_string())),
        Some(Ok(AsyncMessage::Notification(note))) => {
            match serde_json::from_str::<Message>(note.payload()) {
                Ok(message) if message.from == me => {}
                Ok(message) if message.everything => hub.look_everywhere(),
                Ok(message) => {
                    hub.deliver(&message.hints);
                    if message.every_session {
                        hub.watchers.wake_all();
                    }
                }
                Err(error) => tracing::debug!(%error, "a notification that is not ours"),
            }
            Ok(())
        }
        Some(Ok(_)) => Ok(()),
    }
}

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
