//! The last calls.

use super::{
    calls::{Call, Totals},
    word::Generation,
};
use crate::{
    Window,
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

/// The last calls, each in a slot of its own, and their sums.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Of a slot: generation, and then whether there was a call, whether it failed, and whether it was slow.
    slots: Box<[AtomicU32]>,
    /// Three sums, and below them the generation. A sum may be negative for a moment, when of two callers the one that takes a
    /// call out of the ring is faster than the one that put it in; it borrows from the sum above, never from the generation.
    sums: AtomicU64,
}

impl Ring {
    const SUM_BITS: u32 = 14;
    const SUM: u64 = (1 << Self::SUM_BITS) - 1;
    const CALLS: u32 = Generation::BITS;
    const FAILED: u32 = Self::CALLS + Self::SUM_BITS;
    const SLOW: u32 = Self::FAILED + Self::SUM_BITS;

    pub(super) fn new(calls: u32) -> Self {
        Self { slots: (0..calls).map(|_| AtomicU32::new(0)).collect(), sums: AtomicU64::new(0) }
    }

    pub(super) fn size(&self) -> u64 {
        self.slots.len() as u64
    }

    #[inline]
    pub(super) fn put(&self, generation: Generation, number: u64, call: Call) {
        let slot = &self.slots[(number % self.slots.len() as u64) as usize];
        let new = Self::slot(generation, call);
        let old = slot.load(Relaxed);
        // The usual success takes the place of a success.
        if old != new {
            self.replace(slot, old, new);
        }
    }

    #[cold]
    fn replace(&self, slot: &AtomicU32, mut old: u32, new: u32) {
        let generation = Generation::of(new >> 3);
        loop {
            if Generation::of(old >> 3).is_after(generation) {
                return;
            }
            match slot.compare_exchange(old, new, AcqRel, Relaxed) {
                Ok(_) => break,
                Err(newer) => old = newer,
            }
        }
        let gone = if Generation::of(old >> 3) == generation { Self::sums_of(old) } else { 0 };
        let change = Self::sums_of(new).wrapping_sub(gone);
        let mut sums = self.sums.load(Relaxed);
        loop {
            let owner = Generation::of(sums as u32);
            if owner.is_after(generation) {
                return;
            }
            let base = if owner == generation { sums } else { u64::from(generation.number()) };
            match self.sums.compare_exchange(sums, base.wrapping_add(change), AcqRel, Relaxed) {
                Ok(_) => return,
                Err(newer) => sums = newer,
            }
        }
    }

    pub(super) fn totals(&self, generation: Generation) -> Totals {
        let sums = self.sums.load(Acquire);
        if Generation::of(sums as u32) != generation {
            return Totals::default();
        }
        let sum = |shift: u32| match sums >> shift & Self::SUM {
            // Negative at this moment.
            sum if sum > self.slots.len() as u64 => 0,
            sum => sum,
        };
        Totals { calls: sum(Self::CALLS), failed: sum(Self::FAILED), slow: sum(Self::SLOW) }
    }

    const fn slot(generation: Generation, call: Call) -> u32 {
        generation.number() << 3 | 1 << 2 | (call.failed as u32) << 1 | call.slow as u32
    }

    fn sums_of(slot: u32) -> u64 {
        let bit = |place: u32| (slot >> place & 1) as u64;
        const { assert!(Self::SLOW + Self::SUM_BITS < u64::BITS) };
        const { assert!(Window::MOST_CALLS as u64 <= Self::SUM) };
        bit(2) << Self::CALLS | bit(1) << Self::FAILED | bit(0) << Self::SLOW
    }
}
