use std::time::Duration;

use rand::{Rng, RngExt};

/// How long to wait before a retry: exponential, capped, with full jitter.
///
/// The first retry waits at most `base`, each further one at most twice as long as the one before, and none longer than
/// `cap`. With jitter the wait is anything from nothing to that, each as likely: of the schemes compared in the AWS
/// Architecture Blog ("Exponential Backoff And Jitter", 2015) it spreads the callers of a service that comes back the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    jitter: bool,
}

impl Backoff {
    /// Waits of up to `base`, 2 `base`, 4 `base`, … but never more than `cap`.
    #[must_use]
    pub const fn exponential(base: Duration, cap: Duration) -> Self {
        Self { base, cap, jitter: true }
    }

    /// The same waits to the full, for tests and for a lone caller.
    #[must_use]
    pub const fn without_jitter(mut self) -> Self {
        self.jitter = false;
        self
    }

    /// The longest wait before the retry with this number, counted from 1.
    #[must_use]
    pub fn longest(self, retry: u32) -> Duration {
        let factor = 1u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The wait before the retry with this number, counted from 1.
    pub(crate) fn wait(self, retry: u32, rng: &mut impl Rng) -> Duration {
        let longest = self.longest(retry);
        if !self.jitter {
            return longest;
        }
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(rng.random_range(0..=nanos))
    }
}

impl Default for Backoff {
    /// From 100 ms to 2 s.
    ///
    /// 100 ms is about what a failing instance needs to be noticed by a balancer; shorter waits hit the same fault again. Four tries then
    /// wait 350 ms together on average, which a human does not notice. The cap keeps policies with more retries
    /// within what a caller waits for.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(100), Duration::from_secs(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    #[test]
    fn waits_double_up_to_the_cap() {
        let backoff = Backoff::default().without_jitter();
        let mut rng = SmallRng::seed_from_u64(1);
        let waits: Vec<_> =
            (1..=7).map(|retry| backoff.wait(retry, &mut rng).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.longest(u32::MAX), Duration::from_secs(2));
    }

    #[test]
    fn jitter_is_spread_over_all_of_the_wait() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mean =
            (0..10_000).map(|_| Backoff::default().wait(1, &mut rng)).sum::<Duration>() / 10_000;
        assert!((48..52).contains(&mean.as_millis()), "{mean:?}");
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_its_bound(base: u64, cap: u64, retry in 1u32.., seed: u64) {
            let backoff = Backoff::exponential(Duration::from_nanos(base), Duration::from_nanos(cap));
            let wait = backoff.wait(retry, &mut SmallRng::seed_from_u64(seed));
            prop_assert!(wait <= backoff.longest(retry) && wait <= Duration::from_nanos(cap));
        }
    }
}
