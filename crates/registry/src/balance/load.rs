//! What the calls of a balancer tell of an endpoint: how many are under way, how many failed lately, and how long they take.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

use gusset_call::Clock;

use crate::balance::{connection::State, ejection::Record};

/// All times are nanoseconds of the balancer's clock.
// Cache lines of its own, for it is written by every call.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Load {
    pub(crate) state: State,
    failures: AtomicU64,
    latency: AtomicU64,
    /// Since when it may take calls; 0 for one that was there from the beginning.
    since: AtomicU64,
    pub(crate) record: Record,
    /// Calls under way at all endpoints together, of pickers that ask for it.
    total: Arc<AtomicUsize>,
    pub(crate) clock: Clock,
}

/// Holds the load of an endpoint for all but its calls. Calls hold the load itself, so the count of its owners is that of the
/// calls under way: no counter has to be kept beside it.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Load>);

impl Seat {
    pub(crate) fn new(load: Load) -> Arc<Self> {
        Arc::new(Self(Arc::new(load)))
    }

    pub(crate) fn pending(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    /// A call begins; dropping what it gets ends it.
    pub(crate) fn take(&self) -> Arc<Load> {
        self.0.clone()
    }
}

impl Deref for Seat {
    type Target = Load;

    fn deref(&self) -> &Load {
        &self.0
    }
}

impl Load {
    pub(crate) const fn new(since: u64, total: Arc<AtomicUsize>, clock: Clock) -> Self {
        Self {
            state: State::new(),
            failures: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            since: AtomicU64::new(since),
            record: Record::new(),
            total,
            clock,
        }
    }

    pub(crate) fn since(&self) -> u64 {
        self.since.load(Relaxed)
    }

    pub(crate) fn begin_anew(&self, now: u64) {
        self.since.store(now, Relaxed);
    }

    pub(crate) fn total(&self) -> usize {
        self.total.load(Relaxed)
    }

    pub(crate) fn enter_total(&self) {
        self.total.fetch_add(1, Relaxed);
    }

    pub(crate) fn leave_total(&self) {
        self.total.fetch_sub(1, Relaxed);
    }

    /// `now` is asked only if it matters, so that no clock is read for an endpoint that is well.
    pub(crate) fn failure_ratio(&self, now: impl FnOnce() -> u64) -> f64 {
        let failures = Failures(self.failures.load(Acquire));
        if failures.is_none() { 0.0 } else { failures.ratio(now()) }
    }

    pub(crate) fn has_failures(&self) -> bool {
        !Failures(self.failures.load(Relaxed)).is_none()
    }

    pub(crate) fn note(&self, failed: bool, now: impl FnOnce() -> u64) {
        if failed || self.has_failures() {
            let now = now();
            let next = |word| Some(Failures(word).after(failed, now).0);
            // Always Ok, as `next` never says no.
            let _ = self.failures.fetch_update(AcqRel, Acquire, next);
        }
    }

    /// The mean in nanoseconds, `None` if nothing was measured. `memory` is in seconds.
    pub(crate) fn latency(&self, now: u64, memory: f32) -> Option<f32> {
        Latency(self.latency.load(Relaxed)).mean(now, memory)
    }

    pub(crate) fn measured(&self, nanos: u64, failed: bool, now: u64, memory: f32) {
        let mut word = self.latency.load(Relaxed);
        loop {
            let next = Latency(word).after(nanos, failed, now, memory).0;
            if next == word {
                return;
            }
            match self.latency.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
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
    const HALF_LIFE_MILLIS: f64 = 5_000.0;
    /// A share below this counts as none, or a single failure would never be forgotten.
    const NONE_BELOW: f64 = 0.01;
    const SHARE_BITS: u32 = 24;
    const ONE: f64 = ((1_u64 << Self::SHARE_BITS) - 1) as f64;

    const fn is_none(self) -> bool {
        self.0 & ((1 << Self::SHARE_BITS) - 1) == 0
    }

    fn ratio(self, now: u64) -> f64 {
        let share = (self.0 & ((1 << Self::SHARE_BITS) - 1)) as f64 / Self::ONE;
        let silence = millis(now).saturating_sub(self.0 >> Self::SHARE_BITS) as f64;
        let ratio = share * (-silence / Self::HALF_LIFE_MILLIS).exp2();
        if ratio < Self::NONE_BELOW { 0.0 } else { ratio }
    }

    fn after(self, failed: bool, now: u64) -> Self {
        let ratio = self.ratio(now);
        let newest = if failed { 1.0 } else { 0.0 };
        let ratio = ratio + (newest - ratio) * Self::NEWEST;
        let ratio = if ratio < Self::NONE_BELOW { 0.0 } else { ratio };
        // 40 bits of milliseconds are 34 years.
        Self(millis(now) << Self::SHARE_BITS | (ratio * Self::ONE) as u64)
    }
}

const fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}

/// The peak-sensitive exponentially weighted mean of Finagle's `PeakEwma`: up at once, down with time.
///
/// ```text
/// bit 63          32 31                             0
///     [ mean as f32 ] [ tick of 2^20 ns, wraps in 52 days ]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Latency(u64);

impl Latency {
    const TICK_BITS: u32 = 20;

    const fn tick(now: u64) -> u32 {
        (now >> Self::TICK_BITS) as u32
    }

    fn kept(self, now: u64, memory: f32) -> f32 {
        // A clock may lag behind that of another thread; that is no silence of 52 days.
        let ticks = (Self::tick(now).wrapping_sub(self.0 as u32) as i32).max(0);
        if ticks == 0 {
            return 1.0;
        }
        let silence = ticks as f32 * ((1_u32 << Self::TICK_BITS) as f32 / 1e9);
        (-silence / memory.max(f32::MIN_POSITIVE)).exp()
    }

    fn mean(self, now: u64, memory: f32) -> Option<f32> {
        (self.0 != 0).then(|| f32::from_bits((self.0 >> 32) as u32) * self.kept(now, memory))
    }

    fn after(self, nanos: u64, failed: bool, now: u64, memory: f32) -> Self {
        let newest = nanos.max(1) as f32;
        let mean = match self.mean(now, memory) {
            None if failed => return self,
            None => newest,
            Some(mean) if newest > mean => newest,
            // An endpoint that fails fast is not fast.
            Some(_) if failed => return self,
            Some(mean) => {
                let kept = self.kept(now, memory);
                if kept >= 1.0 {
                    return self;
                }
                mean + newest * (1.0 - kept)
            }
        };
        Self(u64::from(mean.to_bits()) << 32 | u64::from(Self::tick(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const MEMORY: f32 = 10.0;

    #[test]
    fn failures_in_a_row_come_close_to_one_and_a_single_one_is_forgotten() {
        let mut failures = Failures(0);
        for _ in 0..20 {
            failures = failures.after(true, SECOND);
        }
        assert!(failures.ratio(SECOND) > 0.99);
        let half = failures.ratio(6 * SECOND);
        assert!((0.49..0.51).contains(&half), "{half}");

        let once = Failures(0).after(true, SECOND);
        assert!(once.ratio(23 * SECOND) > 0.0);
        assert_eq!(once.ratio(25 * SECOND), 0.0);
    }

    #[test]
    fn successes_bring_it_back_to_none() {
        let mut failures = Failures(0).after(true, SECOND);
        for _ in 0..12 {
            failures = failures.after(false, SECOND);
        }
        assert!(failures.is_none());
    }

    #[test]
    fn a_slow_call_counts_at_once_and_is_forgotten_by_a_third_in_its_memory() {
        let latency = Latency(0).after(1_000, false, SECOND, MEMORY);
        assert_eq!(latency.mean(SECOND, MEMORY), Some(1_000.0));
        let peak = latency.after(1_000_000, false, SECOND, MEMORY);
        assert_eq!(peak.mean(SECOND, MEMORY), Some(1_000_000.0));
        let later = peak.mean(11 * SECOND, MEMORY).unwrap();
        assert!((360_000.0..376_000.0).contains(&later), "{later}");
    }

    #[test]
    fn a_fast_failure_makes_nobody_faster_and_a_slow_one_makes_slower() {
        let latency = Latency(0).after(1_000_000, false, SECOND, MEMORY);
        assert_eq!(latency.after(10, true, 2 * SECOND, MEMORY), latency);
        assert_eq!(Latency(0).after(10, true, SECOND, MEMORY), Latency(0));
        let slower = latency.after(9_000_000, true, SECOND, MEMORY);
        assert_eq!(slower.mean(SECOND, MEMORY), Some(9_000_000.0));
    }

    #[test]
    fn a_clock_that_lags_behind_that_of_another_thread_forgets_nothing() {
        let latency = Latency(0).after(1_000, false, 5 * SECOND, MEMORY);
        assert_eq!(latency.mean(4 * SECOND, MEMORY), Some(1_000.0));
    }

    proptest! {
        #[test]
        fn failures_stay_within_bounds_and_only_fall_while_nothing_happens(
            calls in prop::collection::vec((any::<bool>(), 0..100_000_u64), 0..100),
        ) {
            let (mut failures, mut now) = (Failures(0), 0);
            for (failed, later) in calls {
                let before = failures.ratio(now);
                now += later * 1_000_000;
                prop_assert!(failures.ratio(now) <= before);
                failures = failures.after(failed, now);
                prop_assert!((0.0..=1.0).contains(&failures.ratio(now)));
            }
        }

        #[test]
        fn latency_never_exceeds_the_slowest_call(
            calls in prop::collection::vec((1..u64::MAX, 0..u64::MAX / 200, any::<bool>()), 1..100),
        ) {
            let (mut latency, mut now, mut slowest) = (Latency(0), 0, 0);
            for (nanos, later, failed) in calls {
                now += later;
                slowest = nanos.max(slowest);
                latency = latency.after(nanos, failed, now, MEMORY);
                let mean = latency.mean(now, MEMORY).unwrap_or_default();
                prop_assert!(mean >= 0.0 && mean <= slowest as f32 * 1.001);
            }
        }
    }
}
