use std::time::Duration;

use crate::sync::{AtomicU64, Relaxed};

/// How many wait, and how long the longest of them had to when it came, or of those before them whose tokens are still owed; in one word, so that one is never seen without the other.
#[derive(Debug)]
pub(crate) struct Waiters {
    /// Microseconds above, number below.
    word: AtomicU64,
    most: AtomicU64,
}

impl Waiters {
    const BITS: u32 = 16;

    /// So many fit.
    pub(crate) const MOST: u16 = u16::MAX;

    const DEFAULT: u16 = 1024;

    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0), most: AtomicU64::new(Self::DEFAULT.into()) }
    }

    pub(crate) fn set_most(&self, most: u16) {
        self.most.store(most.into(), Relaxed);
    }

    pub(crate) fn number(&self) -> usize {
        (self.word.load(Relaxed) & u64::from(Self::MOST)) as usize
    }

    /// At most [`Scale::END`](crate::gcra::Scale) fits, so the sum with it cannot overflow.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.word.load(Relaxed) >> Self::BITS)
    }

    /// One more, unless there are as many as there may be.
    pub(crate) fn enter(&self) -> bool {
        let most = self.most.load(Relaxed);
        let one_more = |word| (word & u64::from(Self::MOST) < most).then_some(word + 1);
        self.word.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// One of those who wait is about to wait this long.
    pub(crate) fn expect(&self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        let longest = micros.min(u64::MAX >> Self::BITS) << Self::BITS;
        let most = |word: u64| {
            let number = word & u64::from(Self::MOST);
            (word < longest).then_some(longest | number)
        };
        let _ = self.word.fetch_update(Relaxed, Relaxed, most);
    }

    /// One less; after the last, the longest wait is over if `all_over`.
    pub(crate) fn leave(&self, all_over: impl Fn() -> bool) {
        let one_less = |word: u64| match word & u64::from(Self::MOST) {
            0 => None,
            1 if all_over() => Some(0),
            _ => Some(word - 1),
        };
        let _ = self.word.fetch_update(Relaxed, Relaxed, one_less);
    }
}
