//! A duration histogram of fixed buckets, and what can be read from it.

use std::time::Duration;

use super::{
    collected::{Distribution, Exemplar},
    lines::{Line, Sums},
};

/// Upper bounds in seconds that OpenTelemetry advises for HTTP durations; above the last there is one more bucket.
pub(crate) const BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// The same in nanoseconds.
const NANOS: [u64; 14] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// One more than bounds.
pub(crate) const BUCKETS: usize = BOUNDS.len() + 1;

/// The bucket of a duration.
#[inline]
pub(crate) fn bucket_of(nanos: u64) -> usize {
    NANOS.partition_point(|bound| *bound < nanos)
}

/// Measured durations: a number for each bucket, and the sum in nanoseconds, which wraps after 584 years.
#[derive(Debug, Default)]
pub(crate) struct Spans(Sums<{ (BUCKETS + 1).div_ceil(Line::NUMBERS) }>);

impl Spans {
    #[inline]
    pub(crate) fn record(&self, nanos: u64) {
        let here = self.0.here();
        here.add(bucket_of(nanos), 1);
        here.add(BUCKETS, nanos);
    }

    pub(crate) fn read(&self) -> Durations {
        Durations {
            buckets: std::array::from_fn(|bucket| self.0.sum(bucket)),
            nanos: self.0.sum(BUCKETS),
        }
    }
}

/// A distribution of durations, counted in the buckets that OpenTelemetry advises (5 ms to 10 s).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    buckets: [u64; BUCKETS],
    nanos: u64,
}

impl Durations {
    /// How many were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// The mean; zero where nothing was measured.
    #[must_use]
    pub fn average(&self) -> Duration {
        self.nanos.checked_div(self.count()).map(Duration::from_nanos).unwrap_or_default()
    }

    /// An estimate of the quantile `q` between 0 and 1, for instance 0.99: the right bucket, and in it as if all were spread evenly.
    /// Above the last bound, 10 s, it is 10 s. Zero where nothing was measured.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        let count = self.count();
        if count == 0 {
            return Duration::ZERO;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let rank = (q.clamp(0.0, 1.0) * count as f64).max(f64::MIN_POSITIVE);
        let mut below = 0.0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let inside = *bucket as f64;
            if below + inside >= rank {
                let floor = BOUNDS.iter().rev().find(|lower| **lower < bound).unwrap_or(&0.0);
                let share = (rank - below) / inside;
                return Duration::from_secs_f64(floor + (bound - floor) * share);
            }
            below += inside;
        }
        Duration::from_secs_f64(BOUNDS[BOUNDS.len() - 1])
    }

    /// What was measured after `earlier`, an older reading of the same: for figures of the last seconds. Zero where `earlier` is none.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let buckets =
            std::array::from_fn(|at| self.buckets[at].saturating_sub(earlier.buckets[at]));
        let nanos = self.nanos.wrapping_sub(earlier.nanos);
        let none = buckets.iter().all(|count| *count == 0);
        Self { buckets, nanos: if none { 0 } else { nanos } }
    }

    pub(crate) fn distribution(&self, exemplars: Vec<Exemplar>) -> Distribution {
        let sum = self.sum().as_secs_f64();
        Distribution {
            bounds: (&BOUNDS[..]).into(),
            buckets: self.buckets.to_vec(),
            sum,
            exemplars,
        }
    }

    /// Counts what another has measured as well: of several instances, or of several peers.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.nanos = self.nanos.wrapping_add(other.nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(millis: &[u64]) -> Durations {
        let histogram = Spans::default();
        for span in millis {
            histogram.record(span * 1_000_000);
        }
        histogram.read()
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let spread = of(&[5, 6, 10, 11, 10_000, 10_001]).distribution(Vec::new());
        assert_eq!(spread.buckets[..4], [1, 2, 1, 0]);
        assert_eq!(spread.buckets[13..], [1, 1]);
        assert_eq!(of(&[5, 6, 10_001]).count(), 3);
    }

    #[test]
    fn nothing_measured_is_zero_everywhere() {
        let none = of(&[]);
        assert_eq!((none.average(), none.quantile(0.5)), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn since_is_what_came_between_two_readings_and_never_less_than_none() {
        let (earlier, later) = (of(&[5, 100]), of(&[5, 100, 700]));
        assert_eq!(later.since(&earlier), of(&[700]));
        assert_eq!(later.since(&later), Durations::default());
        assert_eq!(earlier.since(&later), Durations::default(), "of another, younger one");
    }

    #[test]
    fn the_two_tables_of_bounds_are_one() {
        for (seconds, nanos) in BOUNDS.into_iter().zip(NANOS) {
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_nanos(nanos));
        }
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_true_one(
            mut millis in proptest::collection::vec(1u64..20_000, 1..200),
            q in 0.01f64..1.0,
        ) {
            let estimate = of(&millis).quantile(q).as_secs_f64();
            millis.sort_unstable();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small")]
            let rank = (q * millis.len() as f64).ceil().max(1.0) as usize;
            let truth = Duration::from_millis(millis[rank - 1]).as_secs_f64();
            let bucket = |value: f64| BOUNDS.partition_point(|bound| *bound < value - 1e-9).min(13);
            prop_assert_eq!(bucket(estimate), bucket(truth));
        }
    }
}
