use std::time::Duration;

use tokio::time::Instant;

use crate::now::now;

/// The point in monotonic time after which nobody waits for the answer of a call.
///
/// A deadline is a point, a timeout is a span: a deadline survives being handed from attempt to
/// attempt and from service to service without growing. It follows tokio's clock, so it stands
/// still under `tokio::time::pause`.
///
/// ```
/// # use std::time::Duration;
/// use gusset_call::Deadline;
///
/// let request = Deadline::after(Duration::from_secs(2));
/// let attempt = request.min(Deadline::after(Duration::from_secs(10)));
/// assert_eq!(attempt, request);
/// assert!(!attempt.has_passed());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline at `instant`.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The deadline that passes at this moment.
    ///
    /// With the feature `clock`, this and all that compares a deadline with the present goes by the counter of [`Clock`](crate::Clock) for less than
    /// half of what the system's clock takes. It asks that once in a millisecond, is at most some microseconds behind it, and may see up to a millisecond of real time
    /// late that tokio's time was paused.
    #[must_use]
    pub fn now() -> Self {
        Self(now())
    }

    /// The deadline `span` from now. A span too long for the clock means 30 years.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        let now = now();
        let far = Duration::from_secs(30 * 365 * 24 * 3600);
        Self(now.checked_add(span).unwrap_or_else(|| now + far))
    }

    /// The point in time itself, for `tokio::time::timeout_at` and the like.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// What is left of it; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(now())
    }

    /// Whether the caller has given up by now.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.0 <= now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn remaining_shrinks_to_zero_and_stays_there() {
        let deadline = Deadline::after(Duration::from_millis(50));
        tokio::time::advance(Duration::from_millis(20)).await;
        assert_eq!(deadline.remaining(), Duration::from_millis(30));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(deadline.remaining(), Duration::ZERO);
        assert!(deadline.has_passed());
    }

    #[test]
    fn a_span_beyond_the_clock_does_not_overflow() {
        assert!(!Deadline::after(Duration::MAX).has_passed());
    }
}
