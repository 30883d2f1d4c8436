//! LISTEN and NOTIFY, over a connection of their own.
//!
//! Notifications are sent from here and not inside the transactions that write: NOTIFY takes a
//! lock of the whole server at commit. They are gathered for [`GATHER`] before one is sent.
//!
//! LISTEN needs a session of the server's that stays; `store::listen::probe` finds out at start
//! whether there is one.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;

use super::{Hints, Hub};
use crate::error::{Error, Result};
use crate::store;

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
    /// It said too much: look everywhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    all: bool,
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
    let (client, mut connection) = store::client(url).await?;
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
    let mut all = false;
    if hints.changed.len() > MAX_CHANGED {
        hints.changed.clear();
        all = true;
    }
    let text = serde_json::to_string(&Message { from, hints, all }).unwrap_or_default();
    if text.len() <= MAX_PAYLOAD_BYTES {
        return text;
    }
    let short = Message {
        from,
        hints: Hints::default(),
        all: true,
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
                Ok(message) if message.all => {
                    hub.deliver(&message.hints);
                    hub.look_everywhere();
                }
                Ok(message) => hub.deliver(&message.hints),
                Err(error) => tracing::debug!(%error, "a notification that is not ours"),
            }
            Ok(())
        }
        Some(Ok(_)) => Ok(()),
    }
}
