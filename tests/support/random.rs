//! Random numbers from a seed that is printed, so that a failure can be run again.

use std::sync::atomic::{AtomicU64, Ordering};

/// A stream of random numbers (splitmix64).
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Random {
    /// Seeded by `LESSOR_TEST_SEED`, or anew; the seed is printed, and shown when the test fails.
    pub fn seeded() -> Self {
        let seed = std::env::var("LESSOR_TEST_SEED")
            .ok()
            .map(|text| text.parse().expect("LESSOR_TEST_SEED is a number"))
            .unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        eprintln!("LESSOR_TEST_SEED={seed}");
        Self(AtomicU64::new(seed))
    }

    /// Another stream that depends on this one, for a task of its own.
    pub fn split(&self) -> Self {
        Self(AtomicU64::new(self.number()))
    }

    /// Any number.
    pub fn number(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below a limit, which is not 0.
    pub fn below(&self, limit: usize) -> usize {
        usize::try_from(self.number() % limit as u64).expect("below a usize")
    }

    /// True so many times in a hundred.
    pub fn percent(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of some.
    pub fn pick<'a, T>(&self, some: &'a [T]) -> &'a T {
        &some[self.below(some.len())]
    }
}
