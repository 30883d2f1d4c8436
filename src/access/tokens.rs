//! The tokens that this server knows: found once in the database, then in memory.
//!
//! Agents call all the time, so a call costs a digest and a look into a map. What has changed since is
//! looked for by the server and not by calls: every [`LOOK_EVERY`] one small statement asks for tokens
//! that were revoked or shortened, and those end here, with the polls and streams that they opened. A
//! lost notification can delay nothing, since none is sent.
//!
//! Invariants:
//! - A token that was revoked, or is past its time by the database's clock, is refused within a second
//!   on every server that reaches the database.
//! - Without the database a token that is known goes on for [`TRUST`]; then, and if it is not known,
//!   the answer is "cannot tell now" and never "wrong": agents would give up.
//! - What is not known is looked up together with what comes at the same time: a fleet that comes back, and
//!   somebody who tries tokens, cost a statement now and then, and two connections at most.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::state::Grant;
use super::store::{self, Found};
use crate::error::{Error, Result};
use crate::store::{Batches, Db, Gather, Limits};

/// How frequently the server looks for what has changed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a look goes back beyond the one before: longer than any transaction that could have changed a
/// token and had not committed then.
const LOOK_BACK: Duration = Duration::from_secs(15);

/// For how long what is known is trusted while the database cannot be asked.
const TRUST: Duration = Duration::from_secs(300);

/// The most tokens that are kept in memory.
const MAX_KNOWN: usize = 100_000;

/// What nobody has used for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// How lookups are gathered.
const LOOKUPS: Limits = Limits {
    queued: 50_000,
    batch: 500,
    at_once: 2,
    beside: 1,
};

/// How frequently the use of a token is written.
const WRITE_USE_EVERY: Duration = Duration::from_secs(60);

/// The most uses that are written at once.
const USES_AT_ONCE: usize = 1_000;

/// A token that was valid when it was last looked at.
#[derive(Debug)]
pub struct Known {
    /// What people call it.
    pub name: String,
    /// What it allows.
    pub grant: Arc<Grant>,
    /// Cancelled when it ends.
    pub ended: CancellationToken,
    id: Uuid,
    at: Mutex<Moments>,
}

#[derive(Clone, Copy, Debug)]
struct Moments {
    expires: Option<Instant>,
    used: Instant,
    use_written: Option<Instant>,
}

/// The digest of a token.
type Digest = [u8; 32];

/// All that are known.
#[derive(Clone, Debug)]
pub struct Tokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    known: Mutex<HashMap<Digest, Arc<Known>>>,
    /// When the database last answered a look.
    looked: Mutex<Instant>,
    lookups: Gather<Digest, Option<Found>>,
}

/// What looks tokens up, and looks after those that are known; it must be run.
pub struct Watch {
    tokens: Tokens,
    lookups: Batches<Digest, Option<Found>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tokens {
    /// None yet, and what must be run.
    #[must_use]
    pub fn new() -> (Self, Watch) {
        let (lookups, batches) = Gather::new(LOOKUPS);
        let tokens = Self(Arc::new(Inner {
            known: Mutex::default(),
            looked: Mutex::new(Instant::now()),
            lookups,
        }));
        let watch = Watch {
            tokens: tokens.clone(),
            lookups: batches,
        };
        (tokens, watch)
    }

    /// The token with this digest, if it is valid.
    ///
    /// # Errors
    /// `DatabaseUnavailable` where that cannot be told.
    pub async fn find(&self, digest: &Digest) -> Result<Option<Arc<Known>>> {
        if let Some(known) = self.known(digest, Instant::now())? {
            return Ok(Some(known));
        }
        let Some(found) = self.0.lookups.submit(*digest).await? else {
            return Ok(None);
        };
        // Somebody else may have found it meanwhile: there is one of each, which ends for all.
        if let Some(known) = self.known(digest, Instant::now())? {
            return Ok(Some(known));
        }
        Ok(Some(self.keep(digest, found, Instant::now())))
    }

    fn known(&self, digest: &Digest, now: Instant) -> Result<Option<Arc<Known>>> {
        let known = locked(&self.0.known).get(digest).map(Arc::clone);
        let Some(known) = known else { return Ok(None) };
        if now.duration_since(*locked(&self.0.looked)) > TRUST {
            return Err(Error::DatabaseUnavailable(
                "whether the token is still valid is not known".to_owned(),
            ));
        }
        let mut at = locked(&known.at);
        if known.ended.is_cancelled() || at.expires.is_some_and(|expires| expires <= now) {
            drop(at);
            // Looked up anew: it may have been given more time.
            return Ok(None);
        }
        at.used = now;
        drop(at);
        Ok(Some(known))
    }

    fn keep(&self, digest: &Digest, found: Found, now: Instant) -> Arc<Known> {
        let known = Arc::new(Known {
            name: found.name,
            id: found.id,
            grant: Arc::new(found.grant),
            ended: CancellationToken::new(),
            at: Mutex::new(Moments {
                expires: after(now, found.seconds_left),
                used: now,
                use_written: None,
            }),
        });
        let mut all = locked(&self.0.known);
        if all.is_empty() {
            // Nothing was looked for while nothing was known.
            *locked(&self.0.looked) = now;
        }
        if all.len() >= MAX_KNOWN {
            all.retain(|_, known| Arc::strong_count(known) > 1);
        }
        // Past the limit it is not kept: it then ends by its own time only, which has to be near.
        if all.len() < MAX_KNOWN {
            all.insert(*digest, Arc::clone(&known));
        } else {
            end_soon(&known);
        }
        known
    }

    async fn look(&self, db: &Db) -> Result<()> {
        let began = Instant::now();
        if locked(&self.0.known).is_empty() {
            *locked(&self.0.looked) = began;
            return Ok(());
        }
        self.end_what_is_past(began);
        let back = began.duration_since(*locked(&self.0.looked)) + LOOK_BACK;
        let seconds = back.as_secs_f64();
        let uses = self.uses_to_write(began);
        let changed = db
            .beat("access::look", move |conn| {
                let uses = uses.clone();
                Box::pin(async move {
                    store::write_uses(conn, uses).await?;
                    store::changed(conn, seconds).await
                })
            })
            .await?;
        *locked(&self.0.looked) = began;
        if !changed.is_empty() {
            self.apply(&changed, began);
        }
        Ok(())
    }

    fn apply(&self, changed: &[store::Changed], now: Instant) {
        let by_id: HashMap<Uuid, &store::Changed> = changed.iter().map(|c| (c.id, c)).collect();
        locked(&self.0.known).retain(|_, known| {
            let Some(changed) = by_id.get(&known.id) else {
                return true;
            };
            if changed.revoked || changed.seconds_left.is_some_and(|left| left <= 0.0) {
                known.ended.cancel();
                return false;
            }
            locked(&known.at).expires = after(now, changed.seconds_left);
            true
        });
    }

    /// Ends what is past its time, and forgets what nobody has used for long. Whoever still waits with
    /// it is to hear of its end, so that is kept.
    fn end_what_is_past(&self, now: Instant) {
        locked(&self.0.known).retain(|_, known| {
            let at = *locked(&known.at);
            if at.expires.is_some_and(|expires| expires <= now) {
                known.ended.cancel();
                return false;
            }
            now.duration_since(at.used) < FORGET_AFTER || Arc::strong_count(known) > 1
        });
    }

    /// What was used since that was last written.
    fn uses_to_write(&self, now: Instant) -> Vec<Uuid> {
        let mut uses = HashSet::new();
        for known in locked(&self.0.known).values() {
            let mut at = locked(&known.at);
            let due = at.use_written.is_none_or(|written| {
                at.used > written && now.duration_since(written) >= WRITE_USE_EVERY
            });
            if due && uses.len() < USES_AT_ONCE {
                at.use_written = Some(now);
                uses.insert(known.id);
            }
        }
        uses.into_iter().collect()
    }
}

impl Watch {
    /// Looks up, and looks after, until it is cancelled.
    pub async fn run(self, db: Db, stop: CancellationToken) {
        let finder = db.clone();
        let finding = self.lookups.run(stop.clone(), move |digests| {
            let db = finder.clone();
            async move { find_all(&db, digests).await }
        });
        let looking = async {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                if let Err(error) = self.tokens.look(&db).await {
                    tracing::warn!(%error, "tokens cannot be looked after; those that are known go on");
                }
            }
        };
        tokio::join!(finding, looking);
    }
}

/// What each of these digests belongs to.
async fn find_all(db: &Db, digests: Vec<Digest>) -> Vec<Result<Option<Found>>> {
    let of = digests.iter().map(|digest| digest.to_vec()).collect();
    let found = db
        .read("access::find", |conn| Box::pin(store::find(conn, of)))
        .await;
    match found {
        Ok(found) => {
            let found: HashMap<Vec<u8>, Found> = found.into_iter().collect();
            // Two who ask for one token at the same time are both told.
            let tell = |digest: &Digest| Ok(found.get(digest.as_slice()).cloned());
            digests.iter().map(tell).collect()
        }
        Err(error) => {
            let detail = error.to_string();
            let tell = |_: &Digest| Err(Error::DatabaseUnavailable(detail.clone()));
            digests.iter().map(tell).collect()
        }
    }
}

fn after(now: Instant, seconds_left: Option<f64>) -> Option<Instant> {
    let left = seconds_left?.max(0.0);
    // Centuries need no end.
    Duration::try_from_secs_f64(left)
        .ok()
        .and_then(|left| now.checked_add(left))
}

/// Nobody looks after this one, so it ends before a second is over.
fn end_soon(known: &Known) {
    let ended = known.ended.clone();
    tokio::spawn(async move {
        tokio::time::sleep(LOOK_EVERY).await;
        ended.cancel();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: u128, seconds_left: Option<f64>) -> Found {
        Found {
            id: Uuid::from_u128(id),
            name: "t".to_owned(),
            grant: Grant::everything(),
            seconds_left,
        }
    }

    fn changed(id: u128, revoked: bool, seconds_left: Option<f64>) -> store::Changed {
        store::Changed {
            id: Uuid::from_u128(id),
            revoked,
            seconds_left,
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_is_known_ends_when_it_is_revoked_or_past_its_time() {
        let (tokens, now) = (Tokens::new().0, Instant::now());
        let kept: Vec<_> = (1..=3_u8)
            .map(|n| tokens.keep(&[n; 32], found(n.into(), (n == 1).then_some(10.0)), now))
            .collect();
        let valid = |n: u8, at| tokens.known(&[n; 32], at).expect("it is known").is_some();
        assert!(valid(1, now) && valid(2, now) && valid(3, now) && !valid(4, now));

        let changes = [changed(2, true, None), changed(3, false, Some(20.0))];
        tokens.apply(&changes, now);
        assert!(valid(1, now) && !valid(2, now) && valid(3, now));
        assert!(kept[1].ended.is_cancelled() && !kept[2].ended.is_cancelled());

        let later = now + seconds(11);
        assert!(
            !valid(1, later) && valid(3, later),
            "the first is past its time"
        );
        tokens.end_what_is_past(later);
        assert!(kept[0].ended.is_cancelled() && !kept[2].ended.is_cancelled());
        assert!(!valid(3, now + seconds(21)), "its time was made shorter");
    }

    #[test]
    fn without_the_database_it_is_trusted_for_a_while() {
        let (tokens, now) = (Tokens::new().0, Instant::now());
        tokens.keep(&[1; 32], found(1, None), now);
        let known = |at| tokens.known(&[1; 32], at);
        assert!(known(now + TRUST).expect("it is trusted").is_some());
        assert!(matches!(
            known(now + TRUST + seconds(1)),
            Err(Error::DatabaseUnavailable(_))
        ));
    }

    #[test]
    fn what_is_idle_is_forgotten_unless_somebody_waits_with_it() {
        let (tokens, now) = (Tokens::new().0, Instant::now());
        drop(tokens.keep(&[1; 32], found(1, None), now));
        let waits = tokens.keep(&[2; 32], found(2, None), now);
        assert_eq!(tokens.uses_to_write(now).len(), 2);
        assert!(tokens.uses_to_write(now).is_empty());
        tokens.end_what_is_past(now + FORGET_AFTER);
        assert_eq!(locked(&tokens.0.known).len(), 1);
        assert!(!waits.ended.is_cancelled());
    }
}
