//! How long requests took.

use std::time::Duration;

use serde::Serialize;

use super::millis;

/// Each power of two is divided into so many buckets, so a value is known to 1/32 of itself.
const PARTS: u64 = 32;

/// Microseconds of an hour: what takes longer counts as that.
const MOST: u64 = 3_600_000_000;

/// Counts times in buckets whose width grows with the time, as HdrHistogram does: 8 KiB, whatever comes.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// As many as the longest time needed.
    counts: Vec<u64>,
    count: u64,
    longest: Duration,
}

/// What is told of them, in milliseconds, each at most 1/32 too high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many there were.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// 90 of 100 took no longer.
    pub p90_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// 999 of 1,000 took no longer.
    pub p999_ms: f64,
    /// None took longer.
    pub max_ms: f64,
}

impl Latency {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(MOST).min(MOST);
        let bucket = bucket_of(micros);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    /// How many were counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// What this share of them did not exceed, 0 to 1; zero if there is none.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "a rank among what was counted"
    )]
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(last_of(bucket)).min(self.longest);
            }
        }
        self.longest
    }

    /// All that is told of them.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        let at = |share| millis(self.quantile(share));
        Quantiles {
            count: self.count,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: millis(self.longest),
        }
    }
}

/// The first 64 values have one each; then come 32 for each power of two.
fn bucket_of(value: u64) -> usize {
    let shift = (value | PARTS).ilog2() - PARTS.ilog2();
    (u64::from(shift) * PARTS + (value >> shift)) as usize
}

/// The highest value of a bucket.
fn last_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / PARTS).saturating_sub(1);
    ((bucket - shift * PARTS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap_and_are_as_fine_as_promised() {
        let mut first = 0;
        for bucket in 0..=bucket_of(MOST) {
            let last = last_of(bucket);
            assert_eq!((bucket_of(first), bucket_of(last)), (bucket, bucket));
            assert!((last - first) * PARTS <= first, "{first} to {last}");
            first = last + 1;
        }
        assert!(bucket_of(MOST) < 1_024, "8 KiB");
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times_up_to_a_bucket() {
        let mut chance = StdRng::seed_from_u64(1);
        for count in [1_usize, 2, 10, 999, 10_000] {
            let mut latency = Latency::default();
            let mut time = || {
                let most = 1 << chance.random_range(0..30_u32);
                chance.random_range(0..=most)
            };
            let mut times: Vec<u64> = (0..count).map(|_| time()).collect();
            times.iter().for_each(|&micros| latency.record(Duration::from_micros(micros)));
            times.sort_unstable();
            for share in [0.0, 0.5, 0.9, 0.99, 0.999, 1.0] {
                let rank = ((count as f64 * share).ceil() as usize).max(1);
                let exact = times[rank - 1];
                let told = u64::try_from(latency.quantile(share).as_micros()).unwrap();
                assert!(told >= exact && told - exact <= exact / PARTS, "{share}: {told} {exact}");
            }
            let longest = Duration::from_micros(times[count - 1]);
            assert_eq!(latency.quantiles().max_ms, millis(longest));
        }
        assert_eq!(Latency::default().quantiles(), Quantiles::default());
    }

    #[test]
    fn what_takes_for_ever_is_counted_and_needs_no_memory() {
        let mut latency = Latency::default();
        latency.record(Duration::MAX);
        latency.record(Duration::from_secs(7_200));
        assert!(latency.counts.len() <= 1_024);
        assert_eq!(latency.count(), 2);
        assert_eq!(latency.quantiles().max_ms, millis(Duration::MAX));
    }
}
