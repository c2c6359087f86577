//! Whether a service is in trouble as a whole, so that more calls of it would only make that worse.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::Ratio;

const SECOND: u64 = 1_000_000_000;

/// Fewer calls than this say nothing.
const MIN_CALLS: u64 = 20;

/// The machine: the calls of the last one to two seconds, and how many of them were late or failed. `now` is in nanoseconds.
///
/// A judgement and no account: calls that are noted while a second begins may be forgotten with the one before.
#[derive(Debug)]
pub(super) struct Pressure {
    bearable: Ratio,
    second: AtomicU64,
    calls: [AtomicU32; 2],
    bad: [AtomicU32; 2],
}

impl Pressure {
    pub(super) fn new(bearable: Ratio) -> Self {
        Self {
            bearable,
            second: AtomicU64::new(0),
            calls: Default::default(),
            bad: Default::default(),
        }
    }

    pub(super) fn call(&self, now: u64) {
        self.calls[self.place(now)].fetch_add(1, Relaxed);
    }

    /// A call that was noted before is late or has failed.
    pub(super) fn bad(&self, now: u64) {
        self.bad[self.place(now)].fetch_add(1, Relaxed);
    }

    pub(super) fn is_high(&self, now: u64) -> bool {
        self.place(now);
        let sum = |of: &[AtomicU32; 2]| of.iter().map(|n| u64::from(n.load(Relaxed))).sum::<u64>();
        let (calls, bad) = (sum(&self.calls), sum(&self.bad));
        calls.max(bad) >= MIN_CALLS && bad > self.bearable.of(calls)
    }

    fn place(&self, now: u64) -> usize {
        let second = now / SECOND;
        let before = self.second.load(Relaxed);
        if second > before && self.second.compare_exchange(before, second, Relaxed, Relaxed).is_ok()
        {
            let old = if second == before + 1 { 1 } else { 2 };
            for place in (0..old).map(|back| usize::from((second + back) % 2 == 1)) {
                self.calls[place].store(0, Relaxed);
                self.bad[place].store(0, Relaxed);
            }
        }
        usize::from(self.second.load(Relaxed) % 2 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(calls: u32, bad: u32) -> Pressure {
        let pressure = Pressure::new(Ratio::percent(20));
        (0..calls).for_each(|_| pressure.call(0));
        (0..bad).for_each(|_| pressure.bad(0));
        pressure
    }

    #[test]
    fn more_than_the_bearable_share_is_too_much() {
        assert!(!with(100, 20).is_high(0));
        assert!(with(100, 21).is_high(0));
    }

    #[test]
    fn a_few_calls_say_nothing() {
        assert!(!with(19, 19).is_high(0));
        assert!(with(0, 20).is_high(0), "of calls that came before");
    }

    #[test]
    fn it_is_forgotten_after_two_seconds() {
        let pressure = with(100, 100);
        assert!(pressure.is_high(SECOND));
        assert!(!pressure.is_high(2 * SECOND));
        let pressure = with(100, 100);
        assert!(!pressure.is_high(u64::MAX));
    }
}
