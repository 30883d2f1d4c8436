//! What the provider has said, and when it is asked again.
//!
//! Invariants:
//! - A thing is asked for at most every [`AGAIN`], however many want to know it, by one at a time.
//! - While it cannot be reached, what it said last serves on for [`TRUST`]. What cannot be told then is
//!   "cannot tell now", never "wrong".

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After how long it is asked anew.
const FRESH: Duration = Duration::from_secs(600);

/// For how long what it said is used while it cannot be reached.
const TRUST: Duration = Duration::from_secs(86_400);

/// The pause between two attempts.
const AGAIN: Duration = Duration::from_secs(5);

/// A thing that the provider says.
#[derive(Debug)]
pub struct Kept<T> {
    /// What it is, for the log.
    what: &'static str,
    known: Mutex<Known<T>>,
    /// Who asks; the others wait for that.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known<T> {
    said: Option<(T, Instant)>,
    tried_at: Option<Instant>,
    /// Why the last attempt failed, if it did.
    failed: Option<String>,
}

impl<T> Kept<T> {
    /// Nothing has been said yet.
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            known: Mutex::new(Known {
                said: None,
                tried_at: None,
                failed: None,
            }),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// What is wanted of it; asked for if it is old or the wanted is not in it. None if it is not in it now.
    ///
    /// # Errors
    /// Why it cannot be told now.
    pub async fn find<U, F>(
        &self,
        wanted: impl Fn(&T) -> Option<U>,
        ask: impl FnOnce() -> F,
    ) -> Result<Option<U>, String>
    where
        F: Future<Output = Result<T, String>>,
    {
        if let Some(found) = self.look(&wanted, FRESH) {
            return Ok(Some(found));
        }
        let _turn = self.turn.lock().await;
        if let Some(found) = self.look(&wanted, FRESH) {
            return Ok(Some(found));
        }
        if self.may_try(Instant::now()) {
            let answer = ask().await;
            let mut known = self.locked();
            known.failed = match answer {
                Ok(said) => {
                    known.said = Some((said, Instant::now()));
                    None
                }
                Err(why) => {
                    let what = self.what;
                    tracing::warn!(what, why, "the sign-in provider could not be asked");
                    Some(why)
                }
            };
        }
        let failed = self.locked().failed.clone();
        match (self.look(&wanted, TRUST), failed) {
            (Some(found), _) => Ok(Some(found)),
            (None, Some(why)) => Err(why),
            (None, None) => Ok(None),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Known<T>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look<U>(&self, wanted: impl Fn(&T) -> Option<U>, within: Duration) -> Option<U> {
        let known = self.locked();
        let (said, at) = known.said.as_ref()?;
        (at.elapsed() < within).then(|| wanted(said)).flatten()
    }

    fn may_try(&self, now: Instant) -> bool {
        let mut known = self.locked();
        if known.tried_at.is_some_and(|at| now < at + AGAIN) {
            return false;
        }
        known.tried_at = Some(now);
        true
    }
}
