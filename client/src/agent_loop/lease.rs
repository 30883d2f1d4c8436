//! The agent's view of its own lease: until when it may act.
//!
//! Only the database ends a lease. What an agent must get right is the other side: to stop acting
//! before that can have happened. So it counts from the moment at which the latest answered renewal
//! was *sent* (the service saw it later than that), by a clock that runs on while the machine is
//! suspended, and it stops after two thirds of the lease's time.

use std::time::Duration;

use lessor_protocol::Lease;

/// Time since boot, suspends included.
pub(super) fn boottime() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

/// When the lease was last renewed, and on which terms. Pure: every question carries the time.
#[derive(Debug, Default)]
pub(super) struct LeaseClock {
    held: Option<Held>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    sent_at: Duration,
    renew_after: Duration,
    self_fence_after: Duration,
}

impl LeaseClock {
    /// A renewal that was sent at `sent_at` has been answered. Answers may come out of order; an
    /// older one takes nothing back.
    pub(super) fn renewed(&mut self, sent_at: Duration, lease: Lease) {
        if self.held.is_none_or(|held| held.sent_at <= sent_at) {
            let seconds = |n: f64| Duration::try_from_secs_f64(n).unwrap_or_default();
            self.held = Some(Held {
                sent_at,
                renew_after: seconds(lease.renew_after_seconds),
                self_fence_after: seconds(lease.self_fence_after_seconds),
            });
        }
    }

    /// The service said that the lease has ended.
    pub(super) fn ended(&mut self) {
        self.held = None;
    }

    /// For how long the agent may go on acting; zero when it is fenced.
    pub(super) fn may_act_for(&self, now: Duration) -> Duration {
        self.held.map_or(Duration::ZERO, |held| {
            (held.sent_at + held.self_fence_after).saturating_sub(now)
        })
    }

    /// How long until the next renewal is due; zero when it is.
    pub(super) fn renewal_due_in(&self, now: Duration) -> Duration {
        self.held.map_or(Duration::ZERO, |held| {
            (held.sent_at + held.renew_after).saturating_sub(now)
        })
    }

    /// The pause between renewals; the longest that one attempt may take is derived from it.
    pub(super) fn renew_after(&self) -> Duration {
        self.held
            .map_or(Duration::from_secs(1), |held| held.renew_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease {
        ttl_seconds: 30.0,
        renew_after_seconds: 10.0,
        self_fence_after_seconds: 20.0,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn counts_from_the_send_time_of_the_latest_answered_renewal() {
        let mut clock = LeaseClock::default();
        assert_eq!(
            clock.may_act_for(at(0)),
            at(0),
            "nothing before the first answer"
        );
        assert_eq!(clock.renewal_due_in(at(0)), at(0));

        clock.renewed(at(100), LEASE);
        // (now, may act for, renewal due in)
        for (now, act, due) in [
            (100, 20, 10),
            (109, 11, 1),
            (110, 10, 0),
            (119, 1, 0),
            (120, 0, 0),
        ] {
            assert_eq!(
                (clock.may_act_for(at(now)), clock.renewal_due_in(at(now))),
                (at(act), at(due))
            );
        }

        clock.renewed(at(115), LEASE);
        clock.renewed(at(105), LEASE);
        assert_eq!(
            clock.may_act_for(at(120)),
            at(15),
            "a late answer takes nothing back"
        );

        clock.ended();
        assert_eq!(clock.may_act_for(at(116)), at(0));
    }

    #[test]
    fn boottime_runs() {
        let before = boottime();
        assert!(before > Duration::ZERO && boottime() >= before);
    }
}
