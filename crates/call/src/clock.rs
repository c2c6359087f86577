use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// Tells how much time has passed since it was made; monotonic, and cheap enough to be read twice in each call.
///
/// It reads the processor's time stamp counter where that runs at a constant rate (by the `quanta` crate, less than half the cost of
/// [`std::time::Instant::now`]), and else the system's monotonic clock; also from the moment on at which the counter is seen to have begun
/// anew, as after the suspension of a machine. The first clock of a process takes
/// about a millisecond, in which the counter is measured.
///
/// # In tests
///
/// **A clock that is made while tokio's time is paused follows tokio's time.** So what is made inside of a
/// `#[tokio::test(start_paused = true)]` obeys `tokio::time::advance`, and nothing has to be switched on. What was made before
/// the pause goes by real time.
///
/// ```
/// # use gusset_call::Clock;
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let clock = Clock::new();
/// tokio::time::advance(std::time::Duration::from_secs(3600)).await;
/// assert_eq!(clock.now().as_secs(), 3600);
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Counter(Counter),
    Tokio { start: Instant },
}

#[derive(Debug)]
struct Counter {
    clock: quanta::Clock,
    start: u64,
    /// The same moment by the system's clock, for the case that the counter does not go on from there.
    made: std::time::Instant,
    /// The counter was seen before its start: it began anew, as after the suspension of a machine.
    restarted: AtomicBool,
}

impl Counter {
    fn new(clock: quanta::Clock) -> Self {
        let (start, made) = (clock.raw(), std::time::Instant::now());
        Self { clock, start, made, restarted: AtomicBool::new(false) }
    }

    #[inline]
    fn nanos(&self) -> u64 {
        let now = self.clock.raw();
        if now < self.start || self.restarted.load(Relaxed) {
            return self.by_system();
        }
        self.clock.delta_as_nanos(self.start, now)
    }

    #[cold]
    fn by_system(&self) -> u64 {
        self.restarted.store(true, Relaxed);
        nanos(self.made.elapsed())
    }
}

impl Clone for Counter {
    fn clone(&self) -> Self {
        let restarted = AtomicBool::new(self.restarted.load(Relaxed));
        Self { clock: self.clock.clone(), start: self.start, made: self.made, restarted }
    }
}

impl Clock {
    /// A clock at zero.
    #[must_use]
    pub fn new() -> Self {
        Self(match paused() {
            Some(start) => Source::Tokio { start },
            None => Source::Counter(Counter::new(quanta::Clock::new())),
        })
    }

    /// Time since the clock was made.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.nanos())
    }

    /// Nanoseconds since the clock was made, which last for 584 years. Another thread may be told a few nanoseconds less than
    /// this one was told before.
    #[must_use]
    #[inline]
    pub fn nanos(&self) -> u64 {
        match &self.0 {
            Source::Counter(counter) => counter.nanos(),
            Source::Tokio { start } => nanos(start.elapsed()),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Tokio's time, if it stands still while the system's clock goes on.
pub(crate) fn paused() -> Option<Instant> {
    let (before, system) = (Instant::now(), std::time::Instant::now());
    while std::time::Instant::now() == system {}
    let after = Instant::now();
    (before == after).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, pause, resume};

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn made_in_paused_time_it_obeys_tokio() {
        let clock = Clock::new();
        assert_eq!(clock.nanos(), 0);
        advance(HOUR).await;
        assert_eq!(clock.now(), HOUR);
        // Ahead of the system's clock now, and still known to stand still.
        let later = Clock::new();
        advance(HOUR).await;
        assert_eq!((clock.now(), later.now()), (2 * HOUR, HOUR));
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_stands_still_is_known_even_where_the_system_catches_up_with_it() {
        for ahead in 0..100_000 {
            let now = Instant::now().into_std();
            let target = std::time::Instant::now() + Duration::from_nanos(ahead % 4_000);
            advance(target.saturating_duration_since(now)).await;
            assert!(paused().is_some(), "{ahead}");
        }
    }

    #[tokio::test]
    async fn made_in_running_time_it_follows_the_system() {
        let clock = Clock::new();
        let (from, start) = (clock.now(), std::time::Instant::now());
        while start.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (passed, expected) = (clock.now() - from, start.elapsed());
        assert!(passed >= Duration::from_millis(19), "{passed:?}");
        assert!(passed <= expected * 2, "{passed:?} of {expected:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn made_after_time_was_resumed_it_runs_again() {
        resume();
        let clock = Clock::new();
        let before = clock.nanos();
        while clock.nanos() == before {}
        pause();
    }

    #[test]
    fn a_counter_that_begins_anew_is_left_for_the_systems_clock() {
        let (clock, counter) = quanta::Clock::mock();
        counter.increment(5_000_000_000_000_u64);
        let clock = Clock(Source::Counter(Counter::new(clock)));
        counter.increment(7_u64);
        assert_eq!(clock.nanos(), 7);
        counter.decrement(4_000_000_000_000_u64);
        let before = clock.nanos();
        assert!(before > 0, "it does not stand still");
        counter.increment(9_000_000_000_000_u64);
        while clock.nanos() == before {}
        let passed = Duration::from_nanos(clock.nanos() - before);
        assert!(passed < Duration::from_secs(60), "nor does it follow the counter again");
    }

    #[test]
    fn outside_of_a_runtime_it_runs() {
        let clock = Clock::default();
        let before = clock.nanos();
        while clock.nanos() == before {}
    }
}
