use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How often a limiter said what, since it was made; not a snapshot of one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that were let through, at once or after a wait.
    pub allowed: u64,
    /// Calls that were refused, among them those that cost more than the burst.
    pub refused: u64,
}

/// Counters spread over a few cache lines, so that threads do not wait for each other to count.
#[derive(Debug, Default)]
pub(crate) struct Counters([Cell; Counters::CELLS]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell {
    allowed: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    const CELLS: usize = 8;

    pub(crate) fn count(&self, allowed: bool) {
        let cell = &self.0[thread_number() as usize % Self::CELLS];
        let counter = if allowed { &cell.allowed } else { &cell.refused };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let sum = |of: fn(&Cell) -> &AtomicU64| self.0.iter().map(|c| of(c).load(Relaxed)).sum();
        Stats { allowed: sum(|cell| &cell.allowed), refused: sum(|cell| &cell.refused) }
    }
}

/// A number that no other thread of the process has.
pub(crate) fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local!(static NUMBER: u64 = NEXT.fetch_add(1, Relaxed));
    NUMBER.with(|number| *number)
}
