//! Pauses between attempts: exponential, jittered, capped.

use std::time::Duration;

use uuid::Uuid;

const FIRST: Duration = Duration::from_millis(100);
/// Long enough to spare a service in trouble, short enough to be back well within a lease.
const CAP: Duration = Duration::from_secs(5);

/// One run of failures.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
    cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(CAP)
    }
}

impl Backoff {
    pub(super) fn up_to(cap: Duration) -> Self {
        Self { failures: 0, cap }
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt. What the service asked for (`Retry-After`) is a floor,
    /// but never above the cap: a lease must be looked after.
    pub(super) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let nominal = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(self.cap);
        self.failures = self.failures.saturating_add(1);
        jittered(nominal.max(asked.unwrap_or_default().min(self.cap)))
    }
}

/// Between 0.75 and 1.25 of `pause`, so that many agents do not come back in step.
pub(super) fn jittered(pause: Duration) -> Duration {
    // A v4 UUID is the randomness that this crate already has; 16 bits of it are plenty.
    let random = f64::from((Uuid::new_v4().as_u128() & 0xffff) as u16) / f64::from(u16::MAX);
    pause.mul_f64(0.75 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_honours_retry_after() {
        let mut backoff = Backoff::default();
        for nominal in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let pause = backoff.pause(None).as_millis();
            assert!(
                (nominal * 3 / 4..=nominal * 5 / 4).contains(&pause),
                "{nominal}: {pause}"
            );
        }
        backoff.reset();
        assert!(backoff.pause(Some(Duration::from_secs(2))) >= Duration::from_millis(1500));
        assert!(backoff.pause(Some(Duration::from_secs(60))) <= Duration::from_millis(6250));
    }
}
