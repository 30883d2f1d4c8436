//! One change of many sessions, batch by batch.

use std::sync::Arc;

use lessor_protocol::{Actor, Bulk};
use uuid::Uuid;

use super::{Patience, count, tell};
use crate::app::App;
use crate::error::Result;
use crate::sessions::Many;

/// The most sessions that one call changes.
const MAX_CHANGED: i64 = 10_000;

/// The most that one transaction changes.
const BATCH: i64 = 500;

/// The most ids that an answer has.
const MAX_SHOWN: i64 = 1_000;

/// How often it is looked again for those that were given to agents meanwhile.
const MAX_LOOKS: u32 = 10;

/// Changes the sessions that a filter matches, or says what would be changed.
///
/// # Errors
/// `DatabaseUnavailable`; then some may have been changed, and the call can be repeated.
pub async fn sessions(
    app: &Arc<App>,
    many: Many,
    action: &'static str,
    dry_run: bool,
    actor: Actor,
) -> Result<Bulk> {
    let many = Arc::new(many);
    if dry_run {
        return foresee(app, many).await;
    }
    let of = Arc::clone(&many);
    let (matched, last) = app
        .db
        .snapshot("bulk::matched", move |conn| {
            let many = Arc::clone(&of);
            Box::pin(async move { Ok((many.matched(conn).await?, many.last(conn).await?)) })
        })
        .await?;
    let mut bulk = Bulk {
        matched,
        changed: 0,
        session_ids: Vec::new(),
        more: false,
    };
    let Some(last) = last else {
        return Ok(bulk);
    };
    bulk.more = !change(app, &many, (action, actor), last, &mut bulk).await?;
    if bulk.more {
        // The limit may have come with the last of them.
        bulk.more = is_any_left(app, many, last).await?;
    }
    // Some that came to match meanwhile were changed, too.
    bulk.matched = bulk.matched.max(bulk.changed);
    bulk.session_ids.sort_unstable();
    tracing::info!(
        action,
        matched = bulk.matched,
        changed = bulk.changed,
        more = bulk.more,
        "a bulk action on sessions"
    );
    Ok(bulk)
}

/// Changes them until none is left or a limit is reached; whether none is left.
async fn change(
    app: &Arc<App>,
    many: &Arc<Many>,
    (action, actor): (&'static str, Actor),
    last: Uuid,
    bulk: &mut Bulk,
) -> Result<bool> {
    let patience = Patience::new();
    let (mut looks, mut missed, mut after) = (0, 0, None);
    loop {
        let limit = BATCH.min(MAX_CHANGED - bulk.changed);
        if limit == 0 || patience.is_over(app) {
            return Ok(false);
        }
        let (of, by) = (Arc::clone(many), actor.clone());
        let step = app
            .db
            .write("bulk::change_sessions", move |conn| {
                let (many, actor) = (Arc::clone(&of), by.clone());
                Box::pin(async move { many.step(conn, (after, last), limit, &actor).await })
            })
            .await?;
        app.hub.committed(step.hints);
        tell(action, step.changed.len());
        bulk.changed += count(step.changed.len());
        let room = MAX_SHOWN - count(bulk.session_ids.len());
        let shown = step.changed.iter().take(usize::try_from(room).unwrap_or(0));
        bulk.session_ids.extend(shown);
        missed += step.missed;
        after = step.next;
        if after.is_none() {
            looks += 1;
            if missed == 0 || looks == MAX_LOOKS {
                return Ok(missed == 0);
            }
            // From the beginning: what was changed is no more a candidate.
            missed = 0;
        }
    }
}

async fn is_any_left(app: &Arc<App>, many: Arc<Many>, last: Uuid) -> Result<bool> {
    let first = app
        .db
        .read("bulk::left", |conn| {
            Box::pin(async move { many.first(conn, 1).await })
        })
        .await?;
    Ok(first.first().is_some_and(|first| *first <= last))
}

async fn foresee(app: &Arc<App>, many: Arc<Many>) -> Result<Bulk> {
    app.db
        .snapshot("bulk::foresee", move |conn| {
            let many = Arc::clone(&many);
            Box::pin(async move {
                let open = many.open(conn).await?;
                Ok(Bulk {
                    matched: many.matched(conn).await?,
                    changed: open.min(MAX_CHANGED),
                    session_ids: many.first(conn, MAX_SHOWN).await?,
                    more: open > MAX_CHANGED,
                })
            })
        })
        .await
}
