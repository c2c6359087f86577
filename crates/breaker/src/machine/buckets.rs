//! The calls of the last seconds.

use std::time::Duration;

use super::{
    calls::{Call, Totals},
    word::Generation,
};
use crate::{
    Window,
    sync::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

/// The calls of each stretch of time.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// Stretches in 2^64 nanoseconds, for a division takes longer than all the rest. Rounded up: a stretch begins no later than
    /// it should.
    pace: u64,
    /// How many stretches the window holds.
    stretches: u32,
    /// As many as the next power of two, for the same reason.
    buckets: Box<[Bucket]>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    calls: Tally,
    failed: Tally,
    slow: Tally,
}

/// A place in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    bucket: usize,
    /// Names the stretch of time and the generation: each generation begins so many stretches later that the buckets of
    /// the last one are out of sight. It comes round as the generation does.
    stretch: u32,
}

impl Buckets {
    const STRETCHES_PER_GENERATION: u32 = 1 << (u32::BITS - Generation::BITS);

    pub(super) fn new(span: Duration, stretches: u32) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let width = (span / u64::from(stretches)).max(1_000_000);
        Self {
            pace: (u64::MAX / width) + 1,
            stretches,
            buckets: (0..stretches.next_power_of_two()).map(|_| Bucket::default()).collect(),
        }
    }

    #[inline]
    pub(super) fn at(&self, generation: Generation, now: u64) -> Moment {
        const { assert!(Window::MOST_BUCKETS < Self::STRETCHES_PER_GENERATION) };
        let stretch = ((u128::from(now) * u128::from(self.pace)) >> 64) as u64;
        Moment {
            bucket: stretch as usize & (self.buckets.len() - 1),
            stretch: (stretch as u32)
                .wrapping_add(generation.number().wrapping_mul(Self::STRETCHES_PER_GENERATION)),
        }
    }

    #[inline]
    pub(super) fn add(&self, at: Moment, call: Call) {
        let bucket = &self.buckets[at.bucket];
        bucket.calls.add(at.stretch);
        if call.failed {
            bucket.failed.add(at.stretch);
        }
        if call.slow {
            bucket.slow.add(at.stretch);
        }
    }

    pub(super) fn totals(&self, at: Moment) -> Totals {
        let sum = |tally: fn(&Bucket) -> &Tally| {
            self.buckets.iter().map(|bucket| tally(bucket).recent(at.stretch, self.stretches)).sum()
        };
        Totals {
            // First the bad ones: a call that ends meanwhile must not look as if it were one of fewer.
            failed: sum(|bucket| &bucket.failed),
            slow: sum(|bucket| &bucket.slow),
            calls: sum(|bucket| &bucket.calls),
        }
    }
}

/// A count, and above it the stretch of time that it is of.
#[derive(Debug, Default)]
struct Tally(AtomicU64);

impl Tally {
    /// Whoever is farther behind than four generations is not late: either the tally is so old that stretches have come
    /// round since, or the clock was set back.
    const LATE: i32 = -4 * Buckets::STRETCHES_PER_GENERATION as i32;

    #[inline]
    fn add(&self, stretch: u32) {
        let mut tally = self.0.load(Relaxed);
        loop {
            let behind = stretch.wrapping_sub((tally >> 32) as u32) as i32;
            let next = match behind {
                // It stays at the most that it can hold, rather than become one of another stretch.
                0 if tally as u32 == u32::MAX => return,
                0 => tally + 1,
                // The caller is late by a whole window, or by a generation.
                Self::LATE..0 => return,
                _ => u64::from(stretch) << 32 | 1,
            };
            // Whoever sees that a call failed must also see that there was a call.
            match self.0.compare_exchange_weak(tally, next, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(newer) => tally = newer,
            }
        }
    }

    /// The count, if it is of one of the last `stretches`. One that is ahead counts as well: of two threads on either side of
    /// a second, one at least must see both.
    fn recent(&self, stretch: u32, stretches: u32) -> u64 {
        let tally = self.0.load(Acquire);
        let age = (stretch.wrapping_sub((tally >> 32) as u32) as i32).unsigned_abs();
        if age < stretches { tally & u64::from(u32::MAX) } else { 0 }
    }
}
