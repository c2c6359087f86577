use std::time::Duration;

use rand::{Rng, RngExt};

/// How long an attempt may take, how many there are, and how long the pauses between them last.
///
/// The pause after attempt `n` is random between zero and `base * 2^(n-1)`, at most `cap` ("full jitter", so that sagas which
/// failed together do not come back together).
///
/// ```
/// # use std::time::Duration;
/// use gusset_saga::Policy;
///
/// let policy = Policy::step().timeout(Duration::from_secs(2)).attempts(5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) timeout: Duration,
    pub(crate) attempts: u32,
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
}

impl Policy {
    /// Default of a step: 3 attempts of at most 10 s, base 100 ms, cap 10 s. Somebody waits for the answer, and turning back is
    /// always possible, so it gives up soon.
    #[must_use]
    pub const fn step() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            attempts: 3,
            base: Duration::from_millis(100),
            cap: Duration::from_secs(10),
        }
    }

    /// Default of an undo: 20 attempts of at most 30 s, base 200 ms, cap 60 s, which is some six minutes. Nobody
    /// waits for it, and after it only a human can help.
    #[must_use]
    pub const fn undo() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            attempts: 20,
            base: Duration::from_millis(200),
            cap: Duration::from_secs(60),
        }
    }

    /// Longest time for one attempt; then its future is dropped and its outcome is unknown. At most 30 years.
    #[must_use]
    pub const fn timeout(mut self, span: Duration) -> Self {
        self.timeout = span;
        self
    }

    /// How many attempts there are, the first included; 0 means the same as 1.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// Bound of the first pause, and of every pause. [`Duration::ZERO`] retries at once.
    #[must_use]
    pub const fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.base = base;
        self.cap = cap;
        self
    }

    /// The pause after attempt number `attempt`, counted from 1.
    pub(crate) fn pause(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        rng.random_range(Duration::ZERO..=self.longest_pause(attempt))
    }

    fn longest_pause(&self, attempt: u32) -> Duration {
        let doubled = 2_u32.checked_pow(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(doubled).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bound_of_the_pause_doubles_up_to_the_cap() {
        let policy = Policy::step().backoff(Duration::from_millis(100), Duration::from_secs(1));
        let bounds: Vec<_> = (1..=6).map(|n| policy.longest_pause(n).as_millis()).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1_000, 1_000]);
    }

    proptest! {
        #[test]
        fn no_pause_is_longer_than_its_bound_and_none_overflows(
            base in 0..=u64::MAX, cap in 0..=u64::MAX, attempt: u32,
        ) {
            let policy = Policy::undo().backoff(Duration::from_millis(base), Duration::from_millis(cap));
            let pause = policy.pause(attempt, &mut rand::rng());
            prop_assert!(pause <= Duration::from_millis(cap));
            prop_assert!(attempt > 1 || pause <= Duration::from_millis(base));
        }
    }
}
