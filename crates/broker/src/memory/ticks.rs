use std::time::Duration;

use tokio::time::Instant;

/// Moments as ticks of a millisecond since a beginning. A moment in between counts as the next tick when it is waited for, so that
/// nothing is early.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    began: Instant,
    /// The last that has passed.
    pub(crate) last: u64,
}

impl Ticks {
    pub(crate) const fn since(began: Instant) -> Self {
        Self { began, last: 0 }
    }

    /// The first tick that is not before `at`.
    pub(crate) fn due(&self, at: Instant) -> u64 {
        let span = at.saturating_duration_since(self.began);
        millis(span) + u64::from(span.subsec_nanos() % 1_000_000 != 0)
    }

    /// The last tick that is not after `now`; never goes back.
    pub(crate) fn passed(&mut self, now: Instant) -> u64 {
        self.last = self.last.max(millis(now.saturating_duration_since(self.began)));
        self.last
    }

    pub(crate) fn at(&self, tick: u64) -> Instant {
        let span = Duration::from_millis(tick);
        self.began.checked_add(span).unwrap_or(self.began)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "fits for half a billion years")]
const fn millis(span: Duration) -> u64 {
    span.as_millis() as u64
}
