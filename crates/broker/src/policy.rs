use std::{num::NonZeroU32, time::Duration};

use rand::{Rng, RngExt};
use tokio::time::Instant;

/// A span beyond all others, which still can be added to now.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `span` from `now` on, or as far as can be told.
pub(crate) fn after(now: Instant, span: Duration) -> Instant {
    now.checked_add(span.min(FAR)).unwrap_or(now)
}

/// How a group keeps its messages, and how often it tries them.
///
/// ```
/// # use std::time::Duration;
/// use gusset_broker::{Policy, WhenFull};
///
/// let policy = Policy::new().max_attempts(5).when_full(WhenFull::Reject).capacity(100);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) capacity: usize,
    pub(crate) max_bytes: usize,
    pub(crate) when_full: WhenFull,
    pub(crate) max_attempts: NonZeroU32,
    pub(crate) backoff: Backoff,
    pub(crate) attempt_timeout: Duration,
    pub(crate) when_expired: WhenExpired,
}

/// What becomes of a message whose time to live was over before it was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenExpired {
    /// It goes to the dead letters, as [`Reason::Expired`](crate::Reason::Expired).
    Bury,
    /// It is dropped, counted as [`GroupStats::expired`](crate::GroupStats::expired).
    Drop,
}

/// What a publish does at a group that has no room, once the messages that are next in line there and whose time to live is over have been ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Waits for room at most this long, or until the deadline of `gusset_call::Context::current()`; then refuses.
    Wait(Duration),
    /// Refuses at once.
    Reject,
    /// Drops what would be delivered next, and of that only what is not being handled, until there is room. Counted as
    /// [`GroupStats::dropped`](crate::GroupStats::dropped). Refuses if everything in the group is being handled.
    DropOldest,
}

impl Policy {
    /// The policy with all defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            capacity: 1_000,
            max_bytes: 64 << 20,
            when_full: WhenFull::Wait(Duration::from_secs(5)),
            max_attempts: NonZeroU32::MIN.saturating_add(2),
            backoff: Backoff { base: Duration::from_millis(100), max: Duration::from_secs(30) },
            attempt_timeout: Duration::from_secs(30),
            when_expired: WhenExpired::Bury,
        }
    }

    /// How many messages the group holds: ready, delayed and being handled. 0 means the same as 1. Default 1,000: a
    /// second's worth at a brisk pace, so that a full group is noticed before its messages are old.
    #[must_use]
    pub const fn capacity(mut self, messages: usize) -> Self {
        self.capacity = if messages == 0 { 1 } else { messages };
        self
    }

    /// How many bytes these messages have together, by [`Message::size`](crate::Message::size); a larger message is
    /// refused with [`Error::TooLarge`](crate::Error::TooLarge). Default 64 MiB: 1,000 messages of 64 KiB.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// What a publish does when there is no room. Default: waits 5 s, which nobody who waits for an answer outlasts by far, and
    /// loses nothing silently.
    #[must_use]
    pub const fn when_full(mut self, choice: WhenFull) -> Self {
        self.when_full = choice;
        self
    }

    /// How often a message is delivered before it becomes a dead letter; 0 means the same as 1. Default 3: past a
    /// hiccup and a restart; what fails three times mostly fails always.
    #[must_use]
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = match NonZeroU32::new(attempts) {
            Some(attempts) => attempts,
            None => NonZeroU32::MIN,
        };
        self
    }

    /// A message that failed for the n-th time waits for a random span between zero and `base * 2^(n-1)`, at most `cap`,
    /// before it is delivered again ("full jitter": messages that failed together do not return together). Default
    /// 100 ms and 30 s.
    #[must_use]
    pub const fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.backoff = Backoff { base, max: cap };
        self
    }

    /// How long a handler may take before its future is dropped and the attempt counts as failed, and how long whoever
    /// [pulls](crate::Subscribe::pull) may take to answer. Default 30 s: longer than any call that somebody waits for.
    #[must_use]
    pub const fn attempt_timeout(mut self, span: Duration) -> Self {
        self.attempt_timeout = span;
        self
    }

    /// What becomes of a message whose [time to live](crate::Message::with_ttl) is over before it is delivered. Default: it is buried, so that a group
    /// that has come to a halt loses nothing unseen. Its time is looked at by whoever takes messages: in a group that nobody serves it keeps its place until then.
    #[must_use]
    pub const fn when_expired(mut self, choice: WhenExpired) -> Self {
        self.when_expired = choice;
        self
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

/// Exponential, with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) base: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// The longest delay after the failure of attempt number `attempt`.
    pub(crate) fn ceiling(self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.max).min(FAR)
    }

    pub(crate) fn delay(self, attempt: u32, rng: &mut impl Rng) -> Duration {
        self.ceiling(attempt).mul_f64(rng.random_range(0.0..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let backoff = Policy::new().backoff;
        let millis = [1, 2, 3, 9, 10, u32::MAX].map(|n| backoff.ceiling(n).as_millis());
        assert_eq!(millis, [100, 200, 400, 25_600, 30_000, 30_000]);
        let endless = Backoff { base: Duration::MAX, max: Duration::MAX };
        assert_eq!(endless.ceiling(9), FAR, "so that a random part of it is no overflow");
    }

    #[test]
    fn the_whole_span_is_used_evenly() {
        let (mut rng, backoff) = (StdRng::seed_from_u64(7), Policy::new().backoff);
        let mut quarters = [0; 4];
        for _ in 0..10_000 {
            let delay = backoff.delay(2, &mut rng).as_micros();
            quarters[usize::try_from(delay / 50_001).unwrap()] += 1;
        }
        assert!(quarters.iter().all(|n| (2_300..2_700).contains(n)), "{quarters:?}");
    }

    proptest! {
        #[test]
        fn a_delay_is_within_its_ceiling(
            base: u64, max: u64, attempt: u32, seed: u64
        ) {
            let backoff = Backoff { base: Duration::from_secs(base), max: Duration::from_secs(max) };
            let delay = backoff.delay(attempt, &mut StdRng::seed_from_u64(seed));
            prop_assert!(delay <= backoff.ceiling(attempt) && delay <= backoff.max);
        }
    }
}
