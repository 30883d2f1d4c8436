//! The driver: takes webhooks in hand that have something to send, and sends.
//!
//! A server takes a webhook for [`HOLD`], which is longer than an attempt can last, and lets go when that
//! is written down. Where the server ends, or loses its database, another takes it after that time and sends
//! the same again: every event at least once, those of one webhook in their order. What is written down
//! counts only while the webhook was taken by nobody else and changed by nobody since.

use std::sync::Arc;
use std::time::Duration;

use lessor_protocol::{DeliveryType, Event, EventGap, WebhookDelivery};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::queue::{self, Done, Taken};
use super::send::{PATIENCE, Parcel};
use super::state::{self, GIVE_UP_AFTER, GONE, Outcome, Verdict};
use crate::access::Reach;
use crate::app::App;
use crate::error::{Error, Result};
use crate::events;
use crate::events::state::{Beginning, Filter, Kinds, beginning};

/// How many webhooks one server has in hand.
const PLACES: usize = 64;

/// How many of these may be such that failed before.
const FAILING_PLACES: usize = 32;

/// For how long one is in hand: an attempt, and what is read and written around it, which waits for the
/// database for 5 s at most each.
const HOLD: Duration = Duration::from_secs(30);

/// The pause between two looks for what is due, where there are webhooks, and where there are none.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_FOR_ANY: Duration = Duration::from_secs(1);

/// How long an attempt that is under way has when the service stops.
const GRACE: Duration = Duration::from_secs(2);

/// The most events of one delivery, and the most bytes, where it has more than one.
const MOST_EVENTS: usize = 100;
const MOST_BYTES: usize = 256 * 1024;

/// How many positions one read looks at.
const SCAN: i64 = 10_000;

/// What can come of an attempt, as the metric says it.
pub const OUTCOMES: [&str; 3] = ["taken", "failed", "gone"];

/// Delivers until it is cancelled, and returns when what is in hand is let go.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(PLACES));
    let failing = Arc::new(Semaphore::new(FAILING_PLACES));
    let hands = TaskTracker::new();
    while !stop.is_cancelled() {
        let free = (places.available_permits(), failing.available_permits());
        let pause = match look(&app, free).await {
            Ok(Some(taken)) => {
                for taken in taken {
                    // There are as many as were asked for: only this loop takes places.
                    let place = Arc::clone(&places).try_acquire_owned();
                    let of_failing =
                        (taken.failures > 0).then(|| Arc::clone(&failing).try_acquire_owned());
                    let (app, stop) = (Arc::clone(&app), stop.clone());
                    hands.spawn(async move {
                        work_off(&app, taken, &stop).await;
                        drop((place, of_failing));
                    });
                }
                LOOK
            }
            Ok(None) => LOOK_FOR_ANY,
            Err(error) => {
                tracing::warn!(%error, "webhooks could not be looked at; that is tried again");
                metrics::counter!("lessor_upkeep_failures_total", "task" => "webhooks")
                    .increment(1);
                LOOK_FOR_ANY
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.webhooks.created.notified() => {}
            () = async {
                tokio::time::sleep(pause).await;
                drop(places.acquire().await);
            } => {}
        }
    }
    hands.close();
    hands.wait().await;
}

/// What is due, now in hand; none where no webhook sends at all.
async fn look(app: &App, (places, failing): (usize, usize)) -> Result<Option<Vec<Taken>>> {
    let count = |places: usize| i32::try_from(places).unwrap_or(i32::MAX);
    let (places, failing) = (count(places), count(failing.min(places)));
    // Statements, not transactions that tell of themselves: nobody has anything to hear of.
    let taken = app
        .db
        .statement("webhooks::take", move |conn| {
            Box::pin(queue::take(conn, places, failing, HOLD.as_secs_f64()))
        })
        .await?;
    if !taken.is_empty() {
        return Ok(Some(taken));
    }
    let any = app
        .db
        .read("webhooks::any", |conn| Box::pin(queue::any(conn)))
        .await?;
    Ok(any.then_some(taken))
}

/// Sends what a webhook has before it until that is all, or it fails.
async fn work_off(app: &App, mut taken: Taken, stop: &CancellationToken) {
    loop {
        match attempt(app, &taken, stop).await {
            Ok(Some(position)) => {
                (taken.position, taken.sending_to, taken.failures) = (position, None, 0);
            }
            Ok(None) => return,
            Err(error) => {
                // In hand until its time is over; then somebody tries again.
                tracing::warn!(webhook = %taken.id, %error, "a webhook could not be worked off");
                metrics::counter!("lessor_upkeep_failures_total", "task" => "webhooks")
                    .increment(1);
                return;
            }
        }
    }
}

/// What is to be sent next.
struct Load {
    events: Vec<Event>,
    gap: Option<EventGap>,
    /// The positions before it, and of its last.
    after: i64,
    through: i64,
    /// Whether there is more behind it.
    more: bool,
}

/// One delivery; where there is more to send, the position up to which this one went.
async fn attempt(app: &App, taken: &Taken, stop: &CancellationToken) -> Result<Option<i64>> {
    let load = load(app, taken).await?;
    let sent = !load.events.is_empty() || load.gap.is_some();
    let outcome = if sent {
        let parcel = parcel(taken, &load)?;
        let sending = app.webhooks.sender.send(parcel);
        let ended = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            outcome = sending => Some(outcome),
            () = ended => None,
        }
    } else {
        None
    };
    let more = load.more && !stop.is_cancelled();
    let (done, next) = match outcome {
        None if sent => (Done::Released, None),
        None => (through(&load, sent, more), more.then_some(load.through)),
        Some(outcome) => {
            count(&outcome);
            match outcome.verdict {
                Verdict::Taken => (through(&load, sent, more), more.then_some(load.through)),
                Verdict::Gone => {
                    tracing::warn!(webhook = %taken.id, "a webhook was disabled: {GONE}");
                    (Done::Gone(GONE.to_owned()), None)
                }
                Verdict::Failed { why, pause } => (failed(taken, &load, why, pause), None),
            }
        }
    };
    // Where somebody has changed it meanwhile, it is no longer what is in hand.
    let counts = write_down(app, taken, done).await?;
    Ok(next.filter(|_| counts))
}

fn through(load: &Load, sent: bool, more: bool) -> Done {
    Done::Through {
        position: load.through,
        sent,
        hold_seconds: more.then_some(HOLD.as_secs_f64()),
    }
}

fn failed(taken: &Taken, load: &Load, why: String, asked: Option<Duration>) -> Done {
    let failures = taken.failures.saturating_add(1);
    let pause = state::pause(failures, asked, chance());
    tracing::info!(webhook = %taken.id, failures, why, again_in = ?pause, "a delivery failed");
    Done::Failed {
        why,
        sending_to: load.through,
        seconds: pause.as_secs_f64(),
        give_up_seconds: GIVE_UP_AFTER.as_secs_f64(),
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    let mut byte = [0];
    // Without random numbers all pauses are as long as they may be.
    if getrandom::fill(&mut byte).is_err() {
        return 0.0;
    }
    f64::from(byte[0]) / 255.0
}

/// Whether it counts: nobody has taken or changed the webhook since.
async fn write_down(app: &App, taken: &Taken, done: Done) -> Result<bool> {
    let (id, takes) = (taken.id, taken.takes);
    app.db
        .statement("webhooks::done", move |conn| {
            Box::pin(queue::done(conn, id, takes, done))
        })
        .await
}

/// Reads what is next: the same as before, where that has failed.
async fn load(app: &App, taken: &Taken) -> Result<Load> {
    let kept = events::kept(app).await?;
    let begin = match taken.position {
        // Here it is a position like any other, and not "the oldest there is".
        0 => Beginning {
            after: kept.first - 1,
            gap: kept.first > 1,
        },
        position => beginning(Some(position), kept.first, kept.last),
    };
    let gap = begin.gap.then(|| EventGap {
        asked: taken.position.to_string(),
        oldest: kept.first.to_string(),
        newest: kept.last.to_string(),
    });
    let newest = begin.after.saturating_add(SCAN).min(kept.last);
    let until = taken
        .sending_to
        .filter(|to| (begin.after..=newest).contains(to))
        .unwrap_or(newest);
    let filter = Filter {
        reach: taken
            .tenant
            .clone()
            .map_or(Reach::Everything, Reach::Tenant),
        pool: taken.pool.clone(),
        owner: taken.owner.clone(),
        kinds: Kinds::of(taken.kinds.iter().map(String::as_str)).map_err(Error::Internal)?,
        ..Filter::default()
    };
    let page = events::page(app, filter, begin.after, until).await?;
    let (mut events, mut bytes, mut through) = (Vec::new(), 0, until);
    for event in page {
        let position: i64 = event.id.parse().map_err(|_| bad("its position"))?;
        let size = serde_json::to_vec(&event).map_or(0, |text| text.len());
        if events.len() == MOST_EVENTS || (!events.is_empty() && bytes + size > MOST_BYTES) {
            through = position - 1;
            break;
        }
        bytes += size;
        events.push(event);
    }
    Ok(Load {
        events,
        gap,
        after: begin.after,
        through,
        more: through < kept.last,
    })
}

fn bad(what: &str) -> Error {
    Error::Internal(format!("{what} of an event cannot be read"))
}

fn parcel(taken: &Taken, load: &Load) -> Result<Parcel> {
    // By what is in it, and not by what was looked at: the same for the same events.
    let ids = || load.events.iter().filter_map(|event| event.id.parse().ok());
    let first = ids().next().unwrap_or(load.after);
    let last = ids().next_back().unwrap_or(load.after);
    let delivery = WebhookDelivery {
        delivery_type: DeliveryType::Events,
        webhook_id: taken.id,
        gap: load.gap.clone(),
        events: load.events.clone(),
    };
    let id = state::delivery_id(taken.id, first, last);
    Parcel::of(id, taken.url.clone(), &taken.secrets, &delivery)
}

fn count(outcome: &Outcome) {
    let [taken, failed, gone] = OUTCOMES;
    let word = match outcome.verdict {
        Verdict::Taken => taken,
        Verdict::Failed { .. } => failed,
        Verdict::Gone => gone,
    };
    metrics::counter!("lessor_webhook_deliveries_total", "outcome" => word).increment(1);
}

// Whoever takes it next must not meet an attempt that is still under way.
const _: () = assert!(HOLD.as_secs() > PATIENCE.as_secs() + 15);
