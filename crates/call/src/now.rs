//! The present instant, for less than the system's clock takes.

#[cfg(not(feature = "clock"))]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[cfg(feature = "clock")]
pub(crate) use anchored::now;

#[cfg(feature = "clock")]
mod anchored {
    use std::{cell::Cell, sync::OnceLock, time::Duration};

    use quanta::Clock;
    use tokio::time::Instant;

    use crate::clock::paused;

    /// For how long an anchor holds, in nanoseconds. The counter is measured to much less than one part in a thousand, so that within this time it goes
    /// wrong by much less than a microsecond; and tokio's time may come to a standstill meanwhile, in tests.
    const HOLDS: u64 = 1_000_000;
    /// How long it may take to drop an anchor. Whoever was interrupted meanwhile does not know which of two moments the clock told.
    const AT_ONCE: u64 = 5_000;

    thread_local! {
        /// What the counter showed at an instant.
        static ANCHOR: Cell<Option<(u64, Instant)>> = const { Cell::new(None) };
    }

    static COUNTER: OnceLock<Clock> = OnceLock::new();

    /// Tokio's present instant.
    #[inline]
    pub(crate) fn now() -> Instant {
        let counter = COUNTER.get_or_init(Clock::new);
        if let Some((then, instant)) = ANCHOR.get() {
            let now = counter.raw();
            let passed = counter.delta_as_nanos(then, now);
            if now >= then && passed < HOLDS {
                return instant + Duration::from_nanos(passed);
            }
        }
        look(counter)
    }

    /// Asks the system, and drops the anchor there, unless tokio's time stands still.
    #[cold]
    fn look(counter: &Clock) -> Instant {
        let runs = paused().is_none();
        let before = counter.raw();
        let instant = Instant::now();
        let after = counter.raw();
        let sure = before <= after && counter.delta_as_nanos(before, after) < AT_ONCE;
        ANCHOR.set((runs && sure).then_some((after, instant)));
        instant
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use tokio::time::advance;

        #[test]
        fn it_goes_with_the_systems_clock_and_never_back() {
            let mut last = now();
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(20) {
                let before = Instant::now();
                let told = now();
                let after = Instant::now();
                let slack = Duration::from_micros(20);
                assert!(
                    told + slack >= before && told <= after + slack,
                    "{before:?} {told:?} {after:?}"
                );
                assert!(told + slack >= last);
                last = told;
            }
        }

        #[tokio::test(start_paused = true)]
        async fn it_stands_still_with_tokios_time() {
            for _ in 0..100 {
                assert_eq!(now(), Instant::now());
                advance(Duration::from_micros(70)).await;
            }
        }
    }
}
