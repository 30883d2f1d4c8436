//! From which of its numbers on the inbox may have something, pure.
//!
//! What was moved from there leaves a dead entry until a vacuum has come by, which is as long as an older
//! transaction is open anywhere. A step that began at the oldest would walk over all of these.
//!
//! A number that was drawn is not committed yet. Whoever draws one for a session has locked that, and so
//! has a transaction id. So a step notes which number was drawn last, and then the transaction id that it
//! gets itself; once all transactions with lower ids have ended, and a step has taken all there was after
//! that, no number up to that one can come any more. Nothing is left behind, and so the events of a session stay
//! in their order.
//!
//! Where a number was drawn by a transaction without an id, which no writer of today does, a look at all
//! every few seconds finds it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The time between two looks at all, if they take little.
const ALL_EVERY: Duration = Duration::from_secs(5);

/// A look at all may take this part of the time.
const ALL_PART: u32 = 20;

/// What a step says of the time before it began to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The number that was drawn last.
    pub drawn: i64,
    /// The step's own transaction id, given out after that; 0 if it has none.
    pub own_xid: i64,
    /// The oldest transaction id that was at work.
    pub oldest_xid: i64,
}

/// From where the inbox is looked at.
#[derive(Debug)]
pub struct Beginning {
    from: i64,
    /// Numbers, each with the transaction id below which all must have ended.
    noted: VecDeque<(i64, i64)>,
    all_at: Instant,
}

impl Beginning {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            from: 0,
            noted: VecDeque::new(),
            all_at: now,
        }
    }

    /// The first number that the next step looks at; 0 for all.
    pub fn next(&self, now: Instant) -> i64 {
        if self.all_at <= now { 0 } else { self.from }
    }

    /// A step that began at `from` has taken all there was, or `left` something.
    pub fn stepped(
        &mut self,
        from: i64,
        noted: Noted,
        left: bool,
        (began, ended): (Instant, Instant),
    ) {
        if noted.drawn + 1 < self.from {
            // Numbers never fall, so this is another state of the database: it was restored.
            self.from = 0;
            self.noted.clear();
        }
        if left {
            return;
        }
        if from == 0 {
            self.all_at = ended + ALL_EVERY.max((ended - began) * ALL_PART);
        }
        while let Some((drawn, below)) = self.noted.front()
            && *below <= noted.oldest_xid
        {
            self.from = self.from.max(drawn + 1);
            self.noted.pop_front();
        }
        let is_new = |(drawn, _): &(i64, i64)| *drawn < noted.drawn;
        if noted.own_xid > 0 && self.noted.back().is_none_or(is_new) {
            self.noted.push_back((noted.drawn, noted.own_xid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(drawn: i64, own_xid: i64, oldest_xid: i64) -> Noted {
        Noted {
            drawn,
            own_xid,
            oldest_xid,
        }
    }

    #[test]
    fn it_comes_behind_a_number_once_all_who_could_have_drawn_it_have_ended() {
        let now = Instant::now();
        let mut beginning = Beginning::new(now);
        assert_eq!(beginning.next(now), 0);
        beginning.stepped(0, noted(10, 100, 90), false, (now, now));
        assert_eq!(beginning.next(now), 0);
        // One of them is still at work, and another number was drawn.
        beginning.stepped(0, noted(20, 120, 99), false, (now, now));
        assert_eq!(beginning.next(now), 0);
        // None is, but the step did not come to the end of what there is.
        beginning.stepped(0, noted(30, 130, 100), true, (now, now));
        assert_eq!(beginning.next(now), 0);
        beginning.stepped(0, noted(30, 130, 100), false, (now, now));
        assert_eq!(beginning.next(now), 11);
        // One that found nothing says nothing of those who have drawn since.
        beginning.stepped(11, noted(40, 0, 135), false, (now, now));
        assert_eq!(beginning.next(now), 31);
        beginning.stepped(31, noted(40, 0, 150), false, (now, now));
        assert_eq!(beginning.next(now), 31);
    }

    #[test]
    fn a_database_that_was_restored_is_looked_at_from_its_beginning() {
        let now = Instant::now();
        let mut beginning = Beginning::new(now);
        beginning.stepped(0, noted(50, 100, 90), false, (now, now));
        beginning.stepped(0, noted(60, 110, 100), false, (now, now));
        assert_eq!(beginning.next(now), 51);
        beginning.stepped(51, noted(50, 0, 110), true, (now, now));
        assert_eq!(beginning.next(now), 51, "the same numbers");
        beginning.stepped(51, noted(20, 0, 60), true, (now, now));
        assert_eq!(beginning.next(now), 0);
        beginning.stepped(0, noted(20, 0, 200), false, (now, now));
        assert_eq!(beginning.next(now), 0, "what was noted is forgotten");
    }

    #[test]
    fn all_is_looked_at_now_and_then_and_less_often_where_that_takes_long() {
        let now = Instant::now();
        let mut beginning = Beginning::new(now);
        beginning.stepped(0, noted(10, 100, 90), false, (now, now));
        beginning.stepped(0, noted(10, 100, 100), false, (now, now));
        assert_eq!(beginning.next(now + ALL_EVERY / 2), 11);
        let later = now + ALL_EVERY;
        assert_eq!(beginning.next(later), 0);
        let ended = later + Duration::from_secs(1);
        beginning.stepped(0, noted(10, 100, 100), false, (later, ended));
        assert_eq!(beginning.next(ended + ALL_EVERY), 11);
        assert_eq!(beginning.next(ended + Duration::from_secs(20)), 0);
    }
}
