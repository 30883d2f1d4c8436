//! From when on something may be due to agents that hold sessions, as this dispatcher has told them, pure.
//!
//! Each telling moves on when a session is due again, and leaves a dead entry where it was due. These stay
//! until a vacuum comes by, and longer while an old transaction is open; a look at all that is due to an
//! agent walks over them. So looks begin a while before the last one at which the agent was told everything:
//! what comes is due from the beginning of its transaction on, and those last no longer than that.
//!
//! It is a hint: all is looked at every half a minute.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// So long before the last look the next one begins: twice what a transaction may take.
const LAG: TimeDelta = TimeDelta::seconds(10);

/// The time between two looks at all.
const ALL_EVERY: Duration = Duration::from_secs(30);

/// Up to when agents were told what was due to them.
#[derive(Debug)]
pub struct Told {
    agents: HashMap<String, DateTime<Utc>>,
    all_at: Instant,
}

impl Told {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            agents: HashMap::new(),
            all_at: now + ALL_EVERY,
        }
    }

    /// From when on something may be due to one of these agents; none if that is not known of each.
    pub fn due_from<'a>(
        &mut self,
        agents: impl IntoIterator<Item = &'a String>,
        now: Instant,
    ) -> Option<DateTime<Utc>> {
        if self.all_at <= now {
            self.forget();
            self.all_at = now + ALL_EVERY;
        }
        let known = agents.into_iter().map(|agent| self.agents.get(agent));
        let known: Option<Vec<_>> = known.collect();
        known?.into_iter().min().map(|oldest| *oldest - LAG)
    }

    /// These agents were told everything that was due to them at this time.
    pub fn told(&mut self, agents: Vec<String>, at: DateTime<Utc>) {
        self.agents
            .extend(agents.into_iter().map(|agent| (agent, at)));
    }

    /// Nothing is known any more.
    pub fn forget(&mut self) {
        self.agents.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_begin_before_the_oldest_telling_and_at_the_beginning_now_and_then() {
        let now = Instant::now();
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        let (a, b, c) = ("a".to_owned(), "b".to_owned(), "c".to_owned());
        let mut told = Told::new(now);
        assert_eq!(told.due_from([&a], now), None);
        told.told(vec![a.clone()], at(100));
        told.told(vec![b.clone()], at(200));
        assert_eq!(told.due_from([&a, &b], now), Some(at(100) - LAG));
        assert_eq!(told.due_from([&b], now), Some(at(200) - LAG));
        assert_eq!(told.due_from([&b, &c], now), None);
        assert_eq!(told.due_from([&b], now + ALL_EVERY), None);
        told.told(vec![b.clone()], at(300));
        assert_eq!(told.due_from([&b], now + ALL_EVERY), Some(at(300) - LAG));
        told.forget();
        assert_eq!(told.due_from([&b], now), None);
    }
}
