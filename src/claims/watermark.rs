//! Up to where queues of starts have nothing to start any more, as this dispatcher has seen it.
//!
//! A claimed session leaves its entry in the queue's index until a vacuum comes by, and longer while an
//! old transaction is open. Each look at the queue would walk over all of these. So looks begin where the
//! last one has found something.
//!
//! It is a hint, and what makes it safe is that it falls and is checked:
//! - It lags: commits are not in the order of queueing, so it never comes nearer to the present than
//!   [`LAG`].
//! - A committed change tells when what it put into the queues was queued, and the watermark falls to
//!   that. Wake-ups are handled between rounds, so none is overtaken by what an older snapshot saw.
//! - What is below it is looked at every few seconds ([`Check`]), so that a lost wake-up costs that long
//!   and never a session. Where that has not been done for long, all is forgotten.
//!
//! Each rank of a queue has its own: what comes with a higher priority is found at once, and brings no
//! second walk over what lower ones left. Of many queues only those are remembered from which most was
//! given; the others are walked as they are. Where a pool has more queues than one walk sees, none is.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use crate::shares::{Around, Spent};

/// How far it stays behind the present.
const LAG: TimeDelta = TimeDelta::seconds(1);

/// The most ranks of queues that are remembered.
const MAX_MARKS: usize = 32;

/// So many must have been given from a rank of a queue before its watermark is used: what fewer leave
/// costs nothing to walk over.
const WORTHWHILE: u64 = 64;

/// The time between two checks, if they take little.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// A check may take this part of the time, for example while an old transaction keeps millions of dead
/// entries.
const CHECK_PART: u32 = 20;

/// After so many times the pause between checks without one, all is forgotten.
const STALE: u32 = 3;

/// What a round saw of a queue from which it gave something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The key of the queue's selector.
    pub key: String,
    /// The queue's owner.
    pub owner: String,
    /// The rank of its first session, locked by others or not.
    pub rank: i16,
    /// When that was queued; none where the round did not look at it, and only counts.
    pub at: Option<DateTime<Utc>>,
    /// How many were given.
    pub given: u64,
}

#[derive(Debug)]
struct Mark {
    below: DateTime<Utc>,
    /// How many were given out.
    given: u64,
    /// Of those half are forgotten with each check: which marks give way to others.
    lately: u64,
}

/// The watermark of a pool's queues.
#[derive(Debug)]
pub struct Watermark {
    marks: BTreeMap<(String, String, i16), Mark>,
    checked_at: Instant,
    pause: Duration,
    is_checked: bool,
}

impl Watermark {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            marks: BTreeMap::new(),
            checked_at: now,
            pause: CHECK_EVERY,
            is_checked: false,
        }
    }

    /// A round has seen the heads of queues; `now` is when its transaction began.
    pub fn saw(&mut self, seen: Vec<Seen>, now: DateTime<Utc>) {
        for seen in seen {
            let below = seen.at.map(|at| at.min(now - LAG));
            let place = (seen.key, seen.owner, seen.rank);
            if let Some(mark) = self.marks.get_mut(&place) {
                mark.below = below.unwrap_or(mark.below);
                mark.given = mark.given.saturating_add(seen.given);
                mark.lately = mark.lately.saturating_add(seen.given);
                continue;
            }
            let Some(below) = below else { continue };
            if self.marks.len() >= MAX_MARKS {
                let least = self.marks.iter().min_by_key(|(_, mark)| mark.lately);
                let Some((least, mark)) = least else { continue };
                if mark.lately >= seen.given {
                    continue;
                }
                let least = least.clone();
                self.marks.remove(&least);
            }
            let mark = Mark {
                below,
                given: seen.given,
                lately: seen.given,
            };
            self.marks.insert(place, mark);
        }
    }

    /// Something that was queued at this time was put into the queues.
    pub fn fall(&mut self, to: DateTime<Utc>) {
        for mark in self.marks.values_mut() {
            mark.below = mark.below.min(to);
        }
    }

    /// Nothing is known any more.
    pub fn forget(&mut self) {
        self.marks.clear();
    }

    /// Forgets all, if nobody has checked it for too long.
    pub fn forget_the_stale(&mut self, now: Instant) {
        if self.marks.is_empty() {
            self.checked_at = now;
        } else if now > self.checked_at + STALE * self.pause {
            self.forget();
            self.checked_at = now;
        }
    }

    /// What is spent, of as much as is worth it.
    pub fn spent(&self) -> Vec<Spent> {
        self.spent_from(WORTHWHILE)
    }

    fn spent_from(&self, least: u64) -> Vec<Spent> {
        self.marks
            .iter()
            .filter(|(_, mark)| mark.given >= least)
            .map(|((key, owner, rank), mark)| Spent {
                key: key.clone(),
                owner: owner.clone(),
                rank: *rank,
                below: mark.below,
            })
            .collect()
    }

    /// How looks go around what is spent.
    pub fn around(&self) -> Around {
        Around::of(self.spent())
    }

    /// What is to be checked, if it is time for that.
    pub fn check_now(&mut self, now: Instant) -> Option<Vec<Spent>> {
        if self.is_checked || now < self.checked_at + self.pause {
            return None;
        }
        // Also what is not worth it yet, so that it is not forgotten before it is.
        let spent = self.spent_from(0);
        self.is_checked = !spent.is_empty();
        self.is_checked.then_some(spent)
    }

    /// A check has ended: it failed, or has found the oldest of what is there after all.
    pub fn checked(&mut self, now: Instant, check: &Check) {
        self.is_checked = false;
        self.pause = CHECK_EVERY.max(check.took * CHECK_PART);
        match check.found {
            Ok(found) => {
                if let Some(oldest) = found {
                    self.fall(oldest);
                }
                self.checked_at = now;
                for mark in self.marks.values_mut() {
                    mark.lately /= 2;
                }
            }
            // It is not known what is there; the next check comes after the pause.
            Err(Unchecked) => {
                self.forget();
                self.checked_at = now;
            }
        }
    }
}

/// A look at what is below the watermark.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// When the oldest session that was found there was queued.
    pub found: Result<Option<DateTime<Utc>>, Unchecked>,
    /// How long it took.
    pub took: Duration,
}

/// A check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unchecked;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap_or_default()
    }

    fn seen(owner: &str, rank: i16, head: i64, given: u64) -> Seen {
        Seen {
            key: String::new(),
            owner: owner.to_owned(),
            rank,
            at: Some(at(head)),
            given,
        }
    }

    fn below(watermark: &Watermark) -> Vec<(String, i16, DateTime<Utc>)> {
        let spent = watermark.spent().into_iter();
        spent.map(|s| (s.owner, s.rank, s.below)).collect()
    }

    #[test]
    fn it_rises_with_the_heads_and_stays_behind_the_present() {
        let mut watermark = Watermark::new(Instant::now());
        watermark.saw(vec![seen("", 0, 500, 60)], at(1_000));
        assert_eq!(below(&watermark), [], "it is not worthwhile yet");
        watermark.saw(vec![seen("", 0, 500, 4)], at(1_000));
        assert_eq!(below(&watermark), [(String::new(), 0, at(500))]);
        watermark.saw(vec![seen("", 0, 1_000, 1)], at(1_000));
        assert_eq!(below(&watermark), [(String::new(), 0, at(999))]);
    }

    #[test]
    fn a_round_that_has_not_looked_counts_and_moves_nothing() {
        let mut watermark = Watermark::new(Instant::now());
        let unseen = Seen {
            at: None,
            ..seen("", 0, 0, 32)
        };
        watermark.saw(vec![unseen.clone()], at(1_000));
        watermark.saw(vec![seen("", 0, 500, 32)], at(1_000));
        assert_eq!(below(&watermark), [], "nothing was known of it before");
        watermark.fall(at(400));
        watermark.saw(vec![unseen], at(1_000));
        assert_eq!(below(&watermark), [(String::new(), 0, at(400))]);
    }

    #[test]
    fn it_falls_to_what_was_put_below_it_in_every_rank() {
        let mut watermark = Watermark::new(Instant::now());
        let heads = vec![
            seen("", 0, 500, 64),
            seen("", 3, 700, 64),
            seen("a", 0, 100, 64),
        ];
        watermark.saw(heads, at(1_000));
        watermark.fall(at(600));
        let found = below(&watermark);
        let found: Vec<_> = found.iter().map(|(_, _, below)| *below).collect();
        assert_eq!(found, [at(500), at(600), at(100)]);
    }

    #[test]
    fn of_many_queues_those_are_kept_from_which_most_was_given() {
        let mut watermark = Watermark::new(Instant::now());
        for n in 0..100 {
            watermark.saw(vec![seen(&format!("o{n:03}"), 0, 10, 64 + n)], at(1_000));
        }
        let kept = below(&watermark);
        assert_eq!(kept.len(), MAX_MARKS);
        assert!(kept.iter().all(|(owner, _, _)| owner.as_str() >= "o068"));
    }

    #[test]
    fn it_is_checked_every_few_seconds_one_check_at_a_time() {
        let start = Instant::now();
        let mut watermark = Watermark::new(start);
        let later = start + CHECK_EVERY;
        assert_eq!(
            watermark.check_now(later),
            None,
            "there is nothing to check"
        );
        watermark.saw(vec![seen("", 0, 500, 80)], at(1_000));
        assert_eq!(watermark.check_now(start), None, "it is too early");
        assert!(watermark.check_now(later).is_some());
        assert_eq!(watermark.check_now(later), None, "one is under way");
        let check = Check {
            found: Ok(Some(at(400))),
            took: Duration::from_secs(2),
        };
        watermark.checked(later, &check);
        assert_eq!(below(&watermark), [(String::new(), 0, at(400))]);
        assert_eq!(watermark.check_now(later + 2 * CHECK_EVERY), None);
        assert!(
            watermark
                .check_now(later + CHECK_PART * check.took)
                .is_some()
        );
    }

    #[test]
    fn what_comes_slowly_is_checked_and_not_forgotten_before_it_is_worthwhile() {
        let mut now = Instant::now();
        let mut watermark = Watermark::new(now);
        let check = Check {
            found: Ok(None),
            took: Duration::ZERO,
        };
        for _ in 0..64 {
            now += Duration::from_secs(10);
            watermark.forget_the_stale(now);
            if watermark.check_now(now).is_some() {
                watermark.checked(now, &check);
            }
            watermark.saw(vec![seen("", 0, 500, 1)], at(1_000));
        }
        assert_eq!(watermark.spent().len(), 1);
    }

    #[test]
    fn what_nobody_could_check_is_forgotten() {
        let start = Instant::now();
        let mut watermark = Watermark::new(start);
        watermark.saw(vec![seen("", 0, 500, 80)], at(1_000));
        watermark.forget_the_stale(start + STALE * CHECK_EVERY);
        assert_eq!(watermark.spent().len(), 1);
        watermark.forget_the_stale(start + STALE * CHECK_EVERY + Duration::from_secs(1));
        assert_eq!(watermark.spent(), []);
        watermark.saw(vec![seen("", 0, 500, 80)], at(1_000));
        let check = Check {
            found: Err(Unchecked),
            took: Duration::from_secs(5),
        };
        watermark.checked(start, &check);
        assert_eq!(watermark.spent(), []);
    }
}
