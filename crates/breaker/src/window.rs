//! The calls by which a ratio is judged: the last so many, or those of the last so many seconds.
//!
//! Both kinds slide, cost O(1) a call, and take no lock. Neither is ever cleared: what they hold is marked with the
//! generation of the circuit that it belongs to, so that a new generation finds them empty, and a late caller of an old one
//! cannot write into it.

use std::time::Duration;

use crate::{
    Policy,
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
        fence,
    },
    word::Generation,
};

/// Which calls a ratio is taken of, and how many there must be at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub(crate) kind: Kind,
    pub(crate) min_calls: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Calls(u32),
    Time { span: Duration, buckets: u32 },
}

impl Window {
    const MIN_CALLS: u32 = 20;

    /// The last `calls` calls, exactly; between 1 and 16 000, and what is beyond counts as the nearest of these. Takes 4 bytes for each.
    ///
    /// For traffic of any rate: what happened long ago counts as long as little has happened since.
    #[must_use]
    pub const fn calls(calls: u32) -> Self {
        let calls = if calls == 0 { 1 } else { calls };
        let calls = if calls > Ring::MOST { Ring::MOST } else { calls };
        Self { kind: Kind::Calls(calls), min_calls: Self::MIN_CALLS }
    }

    /// The calls of the last `span`, in 10 [`buckets`](Self::buckets): it slides by a tenth at a time, so
    /// it sees between 90 and 100 % of the span. At least 1 ms a bucket. Takes 64 bytes for each bucket.
    #[must_use]
    pub const fn time(span: Duration) -> Self {
        Self { kind: Kind::Time { span, buckets: 10 }, min_calls: Self::MIN_CALLS }
    }

    /// How many buckets a window of time has; between 2 and 1000, and what is beyond counts as the nearest of these. Default 10, as
    /// in Hystrix and Polly. Changes nothing in a window of calls.
    #[must_use]
    pub const fn buckets(mut self, count: u32) -> Self {
        if let Kind::Time { span, .. } = self.kind {
            let count = if count < 2 { 2 } else { count };
            let count = if count > Buckets::MOST { Buckets::MOST } else { count };
            self.kind = Kind::Time { span, buckets: count };
        }
        self
    }

    /// How many calls must be in the window before it is judged. It need not be full. Default 20, as in Hystrix: one
    /// failure of two calls is no 50 %. In a window of fewer calls, all of it.
    #[must_use]
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }
}

/// What is in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) slow: u64,
}

/// One call as a window sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) failed: bool,
    pub(crate) slow: bool,
}

impl Call {
    const fn is_good(self) -> bool {
        !self.failed && !self.slow
    }
}

/// The calls that are in the window now.
#[derive(Debug)]
pub(crate) enum Calls {
    Unjudged,
    Last(Ring),
    Recent(Buckets),
}

impl Calls {
    pub(crate) fn new(policy: &Policy) -> Self {
        match policy.window.kind {
            _ if !policy.has_window() => Self::Unjudged,
            Kind::Calls(calls) => Self::Last(Ring::new(calls)),
            Kind::Time { span, buckets } => Self::Recent(Buckets::new(span, buckets)),
        }
    }

    /// Counts the call with this `number`, which no other has. Gives the totals with it if it was not good: good calls
    /// trip nothing.
    #[inline]
    pub(crate) fn count(
        &self,
        generation: Generation,
        number: u64,
        call: Call,
        now: impl FnOnce() -> u64,
    ) -> Option<Totals> {
        match self {
            Self::Unjudged => None,
            Self::Last(ring) => {
                ring.put(generation, number, call);
                (!call.is_good()).then(|| ring.totals(generation))
            }
            Self::Recent(buckets) => {
                let at = buckets.at(generation, now());
                buckets.add(at, call);
                (!call.is_good()).then(|| {
                    // Of two callers whose calls fail at once, one at least must see both.
                    fence(SeqCst);
                    buckets.totals(at)
                })
            }
        }
    }

    /// What is in the window of this generation at `now`.
    pub(crate) fn totals(&self, generation: Generation, now: impl FnOnce() -> u64) -> Totals {
        match self {
            Self::Unjudged => Totals::default(),
            Self::Last(ring) => ring.totals(generation),
            Self::Recent(buckets) => buckets.totals(buckets.at(generation, now())),
        }
    }

    /// Of a window of calls: how many fit.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Last(ring) => ring.slots.len() as u64,
            _ => u64::MAX,
        }
    }
}

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
    const MOST: u32 = 16_000;
    const SUM_BITS: u32 = 14;
    const SUM: u64 = (1 << Self::SUM_BITS) - 1;
    const CALLS: u32 = Generation::BITS;
    const FAILED: u32 = Self::CALLS + Self::SUM_BITS;
    const SLOW: u32 = Self::FAILED + Self::SUM_BITS;

    fn new(calls: u32) -> Self {
        Self { slots: (0..calls).map(|_| AtomicU32::new(0)).collect(), sums: AtomicU64::new(0) }
    }

    #[inline]
    fn put(&self, generation: Generation, number: u64, call: Call) {
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

    fn totals(&self, generation: Generation) -> Totals {
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
        bit(2) << Self::CALLS | bit(1) << Self::FAILED | bit(0) << Self::SLOW
    }
}

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
struct Moment {
    bucket: usize,
    /// Names the stretch of time and the generation: each generation begins so many stretches later that the buckets of
    /// the last one are out of sight. It comes round as the generation does.
    stretch: u32,
}

impl Buckets {
    const MOST: u32 = 1_000;
    const STRETCHES_PER_GENERATION: u32 = 1 << (u32::BITS - Generation::BITS);

    fn new(span: Duration, stretches: u32) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let width = (span / u64::from(stretches)).max(1_000_000);
        Self {
            pace: (u64::MAX / width) + 1,
            stretches,
            buckets: (0..stretches.next_power_of_two()).map(|_| Bucket::default()).collect(),
        }
    }

    #[inline]
    fn at(&self, generation: Generation, now: u64) -> Moment {
        const { assert!(Self::MOST < Self::STRETCHES_PER_GENERATION) };
        let stretch = ((u128::from(now) * u128::from(self.pace)) >> 64) as u64;
        Moment {
            bucket: stretch as usize & (self.buckets.len() - 1),
            stretch: (stretch as u32)
                .wrapping_add(generation.number().wrapping_mul(Self::STRETCHES_PER_GENERATION)),
        }
    }

    #[inline]
    fn add(&self, at: Moment, call: Call) {
        let bucket = &self.buckets[at.bucket];
        bucket.calls.add(at.stretch);
        if call.failed {
            bucket.failed.add(at.stretch);
        }
        if call.slow {
            bucket.slow.add(at.stretch);
        }
    }

    fn totals(&self, at: Moment) -> Totals {
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
    /// Whoever is farther behind than this is not late; the tally is so old that stretches have come round since.
    const LATE: i32 = -(1 << 24);

    #[inline]
    fn add(&self, stretch: u32) {
        let mut tally = self.0.load(Relaxed);
        loop {
            let behind = stretch.wrapping_sub((tally >> 32) as u32) as i32;
            let next = match behind {
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
