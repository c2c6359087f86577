//! How many of the recent calls failed.

/// The share of failures among recent calls, an exponentially weighted mean that decays in time as well, so that an
/// endpoint which gets no calls for its failures gets some again.
///
/// ```text
/// bit 63                       24 23                0
///     [ millisecond of the last call ] [ share * 2^24 - 1 ]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failures(pub(crate) u64);

impl Failures {
    /// Weight of the newest call: the last four or so make up most of the mean.
    const NEWEST: f64 = 0.25;
    const HALF_LIFE_MILLIS: f64 = 5_000.0;
    /// A share below this counts as none, or a single failure would never be forgotten.
    const NONE_BELOW: f64 = 0.01;
    /// Silence after which one that failed is owed a call. As long as a call of the last one is remembered by half.
    const TRIAL_AFTER_MILLIS: u64 = 5_000;
    const SHARE_BITS: u32 = 24;
    const ONE: f64 = ((1_u64 << Self::SHARE_BITS) - 1) as f64;

    pub(crate) const fn is_none(self) -> bool {
        self.0 & ((1 << Self::SHARE_BITS) - 1) == 0
    }

    pub(crate) fn ratio(self, now: u64) -> f64 {
        let share = (self.0 & ((1 << Self::SHARE_BITS) - 1)) as f64 / Self::ONE;
        let silence = millis(now).saturating_sub(self.0 >> Self::SHARE_BITS) as f64;
        let ratio = share * (-silence / Self::HALF_LIFE_MILLIS).exp2();
        if ratio < Self::NONE_BELOW { 0.0 } else { ratio }
    }

    /// Whether it has failures, and no call has ended for so long that one should find out whether it still does.
    pub(crate) fn is_owed_a_trial(self, now: u64) -> bool {
        let silence = millis(now).saturating_sub(self.0 >> Self::SHARE_BITS);
        !self.is_none() && silence >= Self::TRIAL_AFTER_MILLIS
    }

    pub(crate) fn after(self, failed: bool, now: u64) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

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
    fn one_that_failed_is_owed_a_call_after_five_seconds_of_silence() {
        let failed = Failures(0).after(true, SECOND);
        assert!(!failed.is_owed_a_trial(SECOND) && !failed.is_owed_a_trial(5 * SECOND));
        assert!(failed.is_owed_a_trial(6 * SECOND));
        let again = failed.after(true, 6 * SECOND);
        assert!(!again.is_owed_a_trial(10 * SECOND) && again.is_owed_a_trial(11 * SECOND));
        assert!(!Failures(0).is_owed_a_trial(99 * SECOND), "it never failed");
        assert!(!failed.is_owed_a_trial(0), "by a clock that lags behind");
    }

    #[test]
    fn successes_bring_it_back_to_none() {
        let mut failures = Failures(0).after(true, SECOND);
        for _ in 0..12 {
            failures = failures.after(false, SECOND);
        }
        assert!(failures.is_none());
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
    }
}
