use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Priority;
use crate::stats::thread_number;

/// How calls ended, in counters that only grow, spread over a few cache lines, so that threads do not wait for each other to
/// count. A window is the difference of two readings.
#[derive(Debug, Default)]
pub(super) struct Tally([Cell; Tally::CELLS]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell {
    served: [AtomicU64; 2],
    /// Sum of the logarithms of the latencies of `served`.
    logs: AtomicU64,
    /// All that are not `served`.
    others: [AtomicU64; 2],
    overloads: AtomicU64,
    /// Among the others as well: overload of calls that began before the limit fell.
    late_overloads: AtomicU64,
}

/// One reading, or the difference of two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    pub(super) served: u64,
    pub(super) overloads: u64,
    pub(super) late_overloads: u64,
    logs: u64,
}

impl Tally {
    const CELLS: usize = 8;

    fn cell(&self) -> &Cell {
        &self.0[thread_number() as usize % Self::CELLS]
    }

    #[inline]
    pub(super) fn served(&self, priority: Priority, nanos: u64) {
        let cell = self.cell();
        cell.served[priority as usize].fetch_add(1, Relaxed);
        cell.logs.fetch_add(log2(nanos), Relaxed);
    }

    #[inline]
    pub(super) fn other(&self, priority: Priority) {
        self.cell().others[priority as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn overload(&self, priority: Priority, late: bool) {
        let cell = self.cell();
        cell.others[priority as usize].fetch_add(1, Relaxed);
        let counter = if late { &cell.late_overloads } else { &cell.overloads };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> Reading {
        let mut reading = Reading::default();
        for cell in &self.0 {
            reading.served += cell.served.iter().map(|count| count.load(Relaxed)).sum::<u64>();
            reading.overloads += cell.overloads.load(Relaxed);
            reading.late_overloads += cell.late_overloads.load(Relaxed);
            reading.logs = reading.logs.wrapping_add(cell.logs.load(Relaxed));
        }
        reading
    }

    pub(super) fn ended(&self, priority: Priority) -> u64 {
        let of = |counts: &[AtomicU64; 2]| counts[priority as usize].load(Relaxed);
        self.0.iter().map(|cell| of(&cell.served) + of(&cell.others)).sum()
    }
}

impl Reading {
    pub(super) const fn since(&self, earlier: &Self) -> Self {
        Self {
            served: self.served.saturating_sub(earlier.served),
            overloads: self.overloads.saturating_sub(earlier.overloads),
            late_overloads: self.late_overloads.saturating_sub(earlier.late_overloads),
            logs: self.logs.wrapping_sub(earlier.logs),
        }
    }

    /// How many nanoseconds it takes, at most `most`, until calls that run now are mostly over: one and a half times their latency.
    pub(super) fn settling(&self, most: u64) -> u64 {
        let span = if self.served == 0 { 0.0 } else { 1.5 * self.log_latency().exp2() };
        most.min(span as u64)
    }

    /// Mean of the binary logarithms of the latencies in nanoseconds: that of their geometric mean.
    pub(super) fn log_latency(&self) -> f64 {
        self.logs as f64 / (self.served.max(1) as f64 * f64::from(ONE))
    }
}

/// 1 as a fixed-point number.
const ONE: u32 = 1 << 16;

/// Binary logarithm with 16 bits of fraction, within 0.01. Below 2²², so that 2⁴² of them fit into a word.
fn log2(nanos: u64) -> u64 {
    let nanos = nanos.max(1);
    let whole = u64::from(nanos.ilog2());
    // The bits behind the leading one, as a number below 1.
    let m = (nanos << (63 - whole) << 1) >> 48;
    // log2(1 + m) is m and a bulge of at most 0.086, which is nearly a parabola.
    let bulge = (((m * (u64::from(ONE) - m)) >> 16) * 22_525) >> 16;
    (whole << 16) + m + bulge
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_logarithm_is_right_within_a_hundredth(nanos in 1..u64::MAX) {
            let (got, want) = (log2(nanos) as f64 / f64::from(ONE), (nanos as f64).log2());
            prop_assert!((got - want).abs() < 0.01, "{got} {want}");
        }
    }
}
