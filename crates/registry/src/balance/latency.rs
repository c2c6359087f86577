//! How long calls take.

/// The peak-sensitive exponentially weighted mean of Finagle's `PeakEwma`: up at once, down with time.
///
/// ```text
/// bit 63          32 31                             0
///     [ mean as f32 ] [ tick of 2^20 ns, wraps in 52 days ]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Latency(pub(crate) u64);

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

    pub(crate) fn mean(self, now: u64, memory: f32) -> Option<f32> {
        (self.0 != 0).then(|| f32::from_bits((self.0 >> 32) as u32) * self.kept(now, memory))
    }

    pub(crate) fn after(self, nanos: u64, failed: bool, now: u64, memory: f32) -> Self {
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
