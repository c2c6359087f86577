use std::{
    sync::{
        Mutex, TryLockError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::Clock;

use super::{
    Outcome, Priority,
    aimd::Aimd,
    gradient::Gradient,
    places::Places,
    tally::{Reading, Tally},
    window::Window,
};

/// Collects samples in windows, and lets an algorithm learn from each.
///
/// A window ends with the first call that ends after [`Tuner::WINDOW`] and finds enough calls in it. Whoever makes that call does
/// the thinking; others that come meanwhile pass by.
#[derive(Debug)]
pub(super) struct Tuner {
    clock: Clock,
    timeout: u64,
    window_end: AtomicU64,
    /// When the limit last fell. Overload of calls from before does not lower the new one, so a limit falls once per round trip,
    /// however many calls fail together. It keeps it from growing.
    fell_at: AtomicU64,
    /// When most calls from before the limit fell are over. Only what ends later is a sample of latency. To ask when calls
    /// began instead would leave out the slow ones among quick ones, which are still under way when the window ends.
    settled_at: AtomicU64,
    peak: AtomicU32,
    control: Mutex<Control>,
}

#[derive(Debug)]
struct Control {
    algorithm: Algorithm,
    /// What was counted when the window began.
    from: Reading,
}

#[derive(Debug)]
pub(super) enum Algorithm {
    Aimd(Aimd),
    Gradient(Gradient),
}

impl Algorithm {
    fn learn(&mut self, window: &Window) {
        match self {
            Self::Aimd(aimd) => aimd.learn(window),
            Self::Gradient(gradient) => gradient.learn(window),
        }
    }

    const fn limit(&self) -> f64 {
        match self {
            Self::Aimd(aimd) => aimd.limit,
            Self::Gradient(gradient) => gradient.limit,
        }
    }

    const fn calls(&self) -> u64 {
        match self {
            Self::Aimd(_) => Aimd::CALLS,
            Self::Gradient(_) => Gradient::CALLS,
        }
    }
}

impl Tuner {
    /// The shortest window, as Envoy's: long beside the round trips of most services, short beside what people notice.
    pub(super) const WINDOW: Duration = Duration::from_millis(100);

    pub(super) fn new(algorithm: Algorithm, timeout: Duration) -> Self {
        Self {
            clock: Clock::new(),
            timeout: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            window_end: AtomicU64::new(Self::WINDOW.as_nanos() as u64),
            fell_at: AtomicU64::new(0),
            settled_at: AtomicU64::new(0),
            peak: AtomicU32::new(0),
            control: Mutex::new(Control { algorithm, from: Reading::default() }),
        }
    }

    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.clock.nanos()
    }

    /// A call is over; `running` ran when it was, itself among them.
    #[inline]
    pub(super) fn record(&self, tally: &Tally, call: &Call, running: u32) -> Option<u64> {
        let now = self.now();
        let took = now.saturating_sub(call.started);
        match call.outcome {
            Outcome::Ignored => tally.other(call.priority),
            outcome if outcome == Outcome::Overload || took >= self.timeout => {
                tally.overload(call.priority, call.started < self.fell_at.load(Relaxed));
            }
            Outcome::Success if now >= self.settled_at.load(Relaxed) => {
                tally.served(call.priority, took);
            }
            _ => tally.other(call.priority),
        }
        // Written only when it grows, so that the line stays shared.
        if running > self.peak.load(Relaxed) {
            self.peak.fetch_max(running, Relaxed);
        }
        (now >= self.window_end.load(Relaxed)).then_some(now)
    }

    /// Ends the window, if there is enough in it.
    #[cold]
    pub(super) fn end_window(&self, tally: &Tally, places: &Places, now: u64) {
        let mut control = match self.control.try_lock() {
            Ok(control) => control,
            // Nothing in there panics.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let seen = tally.read().since(&control.from);
        let before = control.algorithm.limit();
        // When half of all calls that may run fail for overload, there is no need for more to be sure.
        let enough = seen.served + seen.overloads >= control.algorithm.calls()
            || seen.overloads as f64 * 2.0 >= before;
        if now < self.window_end.load(Relaxed) || !enough {
            return;
        }
        control.algorithm.learn(&Window {
            now: Duration::from_nanos(now),
            served: seen.served,
            overloads: seen.overloads,
            late_overloads: seen.late_overloads,
            log_latency: seen.log_latency(),
            peak: self.peak.swap(0, Relaxed),
        });
        let limit = control.algorithm.limit();
        places.set_limit(limit as u32);
        let mut begins = now;
        if limit < before {
            self.fell_at.store(self.now(), Relaxed);
            begins = begins.saturating_add(seen.settling(self.timeout));
            self.settled_at.store(begins, Relaxed);
        }
        control.from = tally.read();
        self.window_end.store(begins.saturating_add(Self::WINDOW.as_nanos() as u64), Relaxed);
    }
}

/// A call that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) started: u64,
    pub(super) priority: Priority,
    pub(super) outcome: Outcome,
}
