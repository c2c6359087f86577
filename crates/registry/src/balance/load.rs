//! What the calls of a balancer tell of an endpoint: how many are under way, and how many failed lately.

use std::{
    sync::atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Load {
    pending: AtomicUsize,
    failures: AtomicU64,
    epoch: Instant,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self { pending: AtomicUsize::new(0), failures: AtomicU64::new(0), epoch: Instant::now() }
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.pending.fetch_add(1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.pending.fetch_sub(1, Relaxed);
    }

    pub(crate) fn failure_ratio(&self) -> f64 {
        let failures = Failures(self.failures.load(Acquire));
        // No clock is read for an endpoint that is well.
        if failures.is_none() { 0.0 } else { failures.ratio(self.epoch.elapsed()) }
    }

    pub(crate) fn succeeded(&self) {
        if !Failures(self.failures.load(Relaxed)).is_none() {
            self.record(false);
        }
    }

    pub(crate) fn failed(&self) {
        self.record(true);
    }

    fn record(&self, failed: bool) {
        let now = self.epoch.elapsed();
        let next = |word| Some(Failures(word).after(failed, now).0);
        // Always Ok, as `next` never says no.
        let _ = self.failures.fetch_update(AcqRel, Acquire, next);
    }
}

/// The share of failures among recent calls, an exponentially weighted mean that decays in time as well, so that an
/// endpoint which gets no calls for its failures gets some again.
///
/// ```text
/// bit 63                       24 23                0
///     [ millisecond of the last call ] [ share * 2^24 - 1 ]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failures(u64);

impl Failures {
    /// Weight of the newest call: the last four or so make up most of the mean.
    const NEWEST: f64 = 0.25;
    const HALF_LIFE: Duration = Duration::from_secs(5);
    /// A share below this counts as none, or a single failure would never be forgotten.
    const NONE_BELOW: f64 = 0.01;
    const SHARE_BITS: u32 = 24;
    const ONE: f64 = ((1_u64 << Self::SHARE_BITS) - 1) as f64;

    const fn is_none(self) -> bool {
        self.0 & ((1 << Self::SHARE_BITS) - 1) == 0
    }

    fn ratio(self, now: Duration) -> f64 {
        let share = (self.0 & ((1 << Self::SHARE_BITS) - 1)) as f64 / Self::ONE;
        let then = Duration::from_millis(self.0 >> Self::SHARE_BITS);
        let silence = now.saturating_sub(then).as_secs_f64();
        let ratio = share * (-silence / Self::HALF_LIFE.as_secs_f64()).exp2();
        if ratio < Self::NONE_BELOW { 0.0 } else { ratio }
    }

    fn after(self, failed: bool, now: Duration) -> Self {
        let ratio = self.ratio(now);
        let newest = if failed { 1.0 } else { 0.0 };
        let ratio = ratio + (newest - ratio) * Self::NEWEST;
        let ratio = if ratio < Self::NONE_BELOW { 0.0 } else { ratio };
        // 40 bits of milliseconds are 34 years.
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Self(millis << Self::SHARE_BITS | (ratio * Self::ONE) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn failures_in_a_row_come_close_to_one_and_a_single_one_is_forgotten() {
        let mut failures = Failures(0);
        for _ in 0..20 {
            failures = failures.after(true, secs(1));
        }
        assert!(failures.ratio(secs(1)) > 0.99);
        let half = failures.ratio(secs(6));
        assert!((0.49..0.51).contains(&half), "{half}");

        let once = Failures(0).after(true, secs(1));
        assert!(once.ratio(secs(23)) > 0.0);
        assert_eq!(once.ratio(secs(25)), 0.0);
    }

    #[test]
    fn successes_bring_it_back_to_none() {
        let mut failures = Failures(0).after(true, secs(1));
        for _ in 0..12 {
            failures = failures.after(false, secs(1));
        }
        assert!(failures.is_none());
    }

    proptest! {
        #[test]
        fn it_stays_within_bounds_and_only_falls_while_nothing_happens(
            calls in prop::collection::vec((any::<bool>(), 0..100_000_u64), 0..100),
        ) {
            let (mut failures, mut now) = (Failures(0), Duration::ZERO);
            for (failed, later) in calls {
                let before = failures.ratio(now);
                now += Duration::from_millis(later);
                prop_assert!(failures.ratio(now) <= before);
                failures = failures.after(failed, now);
                prop_assert!((0.0..=1.0).contains(&failures.ratio(now)));
            }
        }
    }
}
