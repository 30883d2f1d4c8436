//! LISTEN and NOTIFY, over a connection of their own.
//!
//! Notifications are sent from here and not inside the transactions that write: NOTIFY takes a
//! lock of the whole server at commit. They are gathered for [`GATHER`] before one is sent.
//!
//! LISTEN needs a session of the server's that stays; `store::listen::probe` finds out at start
//! whether there is one.

use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;

use super::{Hints, Hub};
use crate::error::{Error, Result};
use crate::store::{self, PATIENCE};

/// How frequently the connection is tried when nothing is said over it.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// An empty statement with a name.
const CHECK: &str = "-- wakeups::wire";

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
    let mut again = false;
    while !stop.is_cancelled() {
        let session = talk(&url, me, &hub, &mut outgoing, again);
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = session => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "wake-ups from other servers are interrupted; polls go on");
        }
        // What could not be said is forgotten; the next connection begins with "look everywhere".
        while outgoing.try_recv().is_ok() {}
        again = true;
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
    again: bool,
) -> Result<()> {
    let connecting = tokio::time::timeout(PATIENCE, store::client(url));
    let (client, mut connection) = connecting.await.map_err(|_| silent())??;
    let mut incoming = stream::poll_fn(move |cx| connection.poll_message(cx));
    // A hint need not survive a crash of the server, so nobody's commit waits for its flush.
    let statement = format!("SET synchronous_commit TO off; LISTEN {CHANNEL}");
    moving(client.batch_execute(&statement), &mut incoming, me, hub).await?;
    // Whatever was said before this moment was not heard.
    hub.look_everywhere();
    if again {
        notify(&client, &everything(me), &mut incoming, me, hub).await?;
    }
    let first = tokio::time::Instant::now() + CHECK_EVERY;
    let mut check = tokio::time::interval_at(first, CHECK_EVERY);
    loop {
        tokio::select! {
            message = incoming.next() => take(message, me, hub)?,
            // A connection that the network swallowed looks like one on which nobody speaks.
            _ = check.tick() => moving(client.batch_execute(CHECK), &mut incoming, me, hub).await?,
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
                notify(&client, &payload(me, hints), &mut incoming, me, hub).await?;
            }
        }
    }
}

/// Tells every server to look everywhere, for those who change the database without being one.
///
/// # Errors
/// When the database refuses.
pub async fn look_everywhere(conn: &mut store::Conn) -> Result<()> {
    store::Statement::new("-- wakeups::look_everywhere\nSELECT pg_notify($1, $2)")
        .bind::<diesel::sql_types::Text, _>(CHANNEL)
        .bind::<diesel::sql_types::Text, _>(everything(uuid::Uuid::new_v4()))
        .execute(conn)
        .await?;
    Ok(())
}

type Incoming = std::result::Result<AsyncMessage, tokio_postgres::Error>;

async fn notify(
    client: &tokio_postgres::Client,
    payload: &str,
    incoming: &mut (impl Stream<Item = Incoming> + Unpin),
    me: uuid::Uuid,
    hub: &Hub,
) -> Result<()> {
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&CHANNEL, &payload];
    let notify = client.execute("SELECT pg_notify($1, $2)", &arguments);
    moving(notify, incoming, me, hub).await
}

/// Runs a statement in bounded time. The connection only moves while it is polled, so the
/// statement and the stream run together.
async fn moving<T>(
    statement: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    incoming: &mut (impl Stream<Item = Incoming> + Unpin),
    me: uuid::Uuid,
    hub: &Hub,
) -> Result<()> {
    let too_late = tokio::time::sleep(PATIENCE);
    tokio::pin!(statement, too_late);
    loop {
        tokio::select! {
            done = &mut statement => {
                return done
                    .map(drop)
                    .map_err(|error| Error::DatabaseUnavailable(error.to_string()));
            }
            message = incoming.next() => take(message, me, hub)?,
            () = &mut too_late => return Err(silent()),
        }
    }
}

fn silent() -> Error {
    Error::DatabaseUnavailable("the listening connection does not answer".to_owned())
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
    everything(from)
}

/// Look everywhere.
fn everything(from: uuid::Uuid) -> String {
    let short = Message {
        from,
        hints: Hints::default(),
        every_session: true,
        everything: true,
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
