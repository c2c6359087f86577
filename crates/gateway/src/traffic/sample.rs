//! How calls went: counts and a histogram of their times, without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How a call went, as far as its variant is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Served,
    Failed,
}

/// Times are told apart to an eighth of themselves: eight steps for each power of two of microseconds, up to 2³² of them.
const STEPS: usize = 8;
const BUCKETS: usize = 30 * STEPS;

/// Counts of calls, 2 KiB.
#[derive(Debug)]
pub(super) struct Tally {
    calls: AtomicU64,
    failures: AtomicU64,
    times: [AtomicU64; BUCKETS],
}

/// The counts of a tally at one moment, or between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) calls: u64,
    pub(super) failures: u64,
    times: Box<[u64]>,
}

impl Default for Tally {
    fn default() -> Self {
        let times = [const { AtomicU64::new(0) }; BUCKETS];
        Self { calls: AtomicU64::new(0), failures: AtomicU64::new(0), times }
    }
}

impl Tally {
    pub(super) fn record(&self, outcome: Outcome, span: Duration) {
        self.calls.fetch_add(1, Relaxed);
        if outcome == Outcome::Failed {
            self.failures.fetch_add(1, Relaxed);
        }
        self.times[bucket(span)].fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> Sample {
        Sample {
            calls: self.calls.load(Relaxed),
            failures: self.failures.load(Relaxed),
            times: self.times.iter().map(|count| count.load(Relaxed)).collect(),
        }
    }
}

impl Sample {
    pub(super) fn empty() -> Self {
        Self { calls: 0, failures: 0, times: [0; BUCKETS].into() }
    }

    pub(super) fn since(mut self, earlier: &Self) -> Self {
        self.calls = self.calls.saturating_sub(earlier.calls);
        self.failures = self.failures.saturating_sub(earlier.failures);
        for (count, before) in self.times.iter_mut().zip(&earlier.times) {
            *count = count.saturating_sub(*before);
        }
        self
    }

    pub(super) fn add(mut self, other: &Self) -> Self {
        self.calls += other.calls;
        self.failures += other.failures;
        for (count, more) in self.times.iter_mut().zip(&other.times) {
            *count += more;
        }
        self
    }

    pub(super) fn error_rate(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.failures as f64 / self.calls as f64 }
    }

    /// The time that this share of the calls took at most, to an eighth; zero if there was no call.
    pub(super) fn quantile(&self, share: f64) -> Duration {
        let all: u64 = self.times.iter().sum();
        let mut left = (all as f64 * share).ceil().max(1.0) as u64;
        for (bucket, count) in self.times.iter().enumerate() {
            if left <= *count {
                return if all == 0 { Duration::ZERO } else { end(bucket) };
            }
            left -= count;
        }
        Duration::ZERO
    }

    /// How many calls certainly took longer than this.
    pub(super) fn slower_than(&self, span: Duration) -> u64 {
        self.times.iter().skip(bucket(span) + 1).sum()
    }
}

fn bucket(span: Duration) -> usize {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(STEPS as u64);
    let power = micros.ilog2() - STEPS.ilog2();
    let step = (micros >> power) as usize - STEPS;
    (power as usize * STEPS + step).min(BUCKETS - 1)
}

/// What the times in a bucket are less than.
fn end(bucket: usize) -> Duration {
    Duration::from_micros(((bucket % STEPS + STEPS + 1) as u64) << (bucket / STEPS))
}

/// The least share of all calls that is likely, if `hits` of `calls` are: the lower end of Wilson's interval ("Probable inference", 1927), which is wrong in
/// one case of 200.
pub(super) fn at_least(hits: u64, calls: u64) -> f64 {
    const Z: f64 = 2.576;
    // By formula a little more than nothing, by the rounding of numbers.
    if hits == 0 || calls == 0 {
        return 0.0;
    }
    let (n, share) = (calls as f64, hits as f64 / calls as f64);
    let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((share + Z * Z / (2.0 * n) - spread) / (1.0 + Z * Z / n)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_calls_prove_little_and_many_much() {
        assert_eq!(at_least(0, 0), 0.0);
        assert_eq!(at_least(0, 1_000), 0.0);
        assert!(at_least(1, 20) < 0.01 && at_least(5, 20) > 0.05);
        assert!((at_least(100, 1_000) - 0.1).abs() < 0.03);
        assert!(at_least(20, 20) > 0.7);
    }

    #[test]
    fn a_sample_is_what_came_since() {
        let tally = Tally::default();
        tally.record(Outcome::Failed, Duration::from_secs(1));
        let before = tally.read();
        tally.record(Outcome::Served, Duration::from_millis(1));
        let since = tally.read().since(&before);
        assert_eq!((since.calls, since.failures, since.error_rate()), (1, 0, 0.0));
        assert!(since.quantile(0.99) < Duration::from_millis(2));
        assert_eq!(before.add(&since), tally.read());
        assert_eq!(Sample::empty().quantile(0.5), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn a_quantile_is_right_to_an_eighth(
            mut micros in proptest::collection::vec(8u64..4_000_000_000, 1..50),
            share in 0.01f64..1.0,
        ) {
            let tally = Tally::default();
            for &span in &micros {
                tally.record(Outcome::Served, Duration::from_micros(span));
            }
            micros.sort_unstable();
            let place = ((micros.len() as f64 * share).ceil() as usize).max(1) - 1;
            let (exact, told) = (micros[place], tally.read().quantile(share).as_micros() as u64);
            prop_assert!(told > exact && told <= exact + exact / 8 + 1, "{told} for {exact}");
            let slower = micros.iter().filter(|&&span| span > told).count() as u64;
            prop_assert!(tally.read().slower_than(Duration::from_micros(told)) <= slower);
        }
    }
}
