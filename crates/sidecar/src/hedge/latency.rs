//! How long calls take of late: a histogram of fixed size that forgets.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use crate::Ratio;

/// Eight buckets for each power of two: a bucket is no wider than an eighth of what it counts.
const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;
/// From a microsecond to 38 hours.
const MAX_EXPONENT: u32 = 36;
const BUCKETS: usize = (MAX_EXPONENT - SUB_BITS + 2) as usize * SUB;

/// Times are kept for one to two of these.
const GENERATION: u64 = 15_000_000_000;
/// How often the quantile is computed anew.
const REFRESH: u64 = 250_000_000;

/// The machine. `now` is the time since some fixed point, in nanoseconds. 2.2 KiB.
#[derive(Debug)]
pub(super) struct Latencies {
    quantile: Ratio,
    min_samples: u64,
    /// The one with the parity of the present generation is written.
    counts: [[AtomicU32; BUCKETS]; 2],
    generation: AtomicU64,
    /// Nanoseconds; 0 while there are too few samples.
    answer: AtomicU64,
    due: AtomicU64,
    computing: AtomicBool,
}

impl Latencies {
    pub(super) fn new(quantile: Ratio, min_samples: u32) -> Self {
        Self {
            quantile,
            min_samples: u64::from(min_samples.max(1)),
            counts: [const { [const { AtomicU32::new(0) }; BUCKETS] }; 2],
            generation: AtomicU64::new(0),
            answer: AtomicU64::new(0),
            due: AtomicU64::new(0),
            computing: AtomicBool::new(false),
        }
    }

    /// Notes that a call took `nanos`.
    pub(super) fn record(&self, now: u64, nanos: u64) {
        self.refresh(now);
        let parity = self.generation.load(Relaxed) % 2;
        self.counts[usize::from(parity == 1)][bucket(nanos / 1_000)].fetch_add(1, Relaxed);
    }

    /// The time within which the wanted share of the calls was answered, at most an eighth more; none while there are too few of them.
    pub(super) fn quantile(&self, now: u64) -> Option<Duration> {
        self.refresh(now);
        let nanos = self.answer.load(Relaxed);
        (nanos != 0).then(|| Duration::from_nanos(nanos))
    }

    /// One caller computes when it is time; the others go by what was known before. What is counted while a generation is emptied may be
    /// lost with it.
    fn refresh(&self, now: u64) {
        if now < self.due.load(Relaxed) || self.computing.swap(true, Acquire) {
            return;
        }
        let (before, generation) = (self.generation.load(Relaxed), now / GENERATION);
        if generation > before {
            let old = if generation == before + 1 { 1 } else { 2 };
            for place in (0..old).map(|back| (generation + back) % 2) {
                let counts = &self.counts[usize::from(place == 1)];
                counts.iter().for_each(|count| count.store(0, Relaxed));
            }
            self.generation.store(generation, Relaxed);
        }
        let answer = self.compute();
        self.answer.store(answer, Relaxed);
        // Until there are enough, each call looks.
        self.due.store(if answer == 0 { now } else { now.saturating_add(REFRESH) }, Relaxed);
        self.computing.store(false, Release);
    }

    fn compute(&self) -> u64 {
        let count = |place: usize| -> u64 {
            self.counts.iter().map(|counts| u64::from(counts[place].load(Relaxed))).sum()
        };
        let total = (0..BUCKETS).map(count).sum();
        if total < self.min_samples {
            return 0;
        }
        let rank = (self.quantile.of(total) + 1).min(total);
        let mut below = 0;
        let place = (0..BUCKETS).find(|place| {
            below += count(*place);
            below >= rank
        });
        place.map_or(0, |place| upper(place) * 1_000)
    }
}

fn bucket(micros: u64) -> usize {
    let micros = micros.min((2 << MAX_EXPONENT) - 1);
    if micros < SUB as u64 {
        return usize::try_from(micros).unwrap_or(0);
    }
    let exponent = micros.ilog2();
    let within = usize::try_from(micros >> (exponent - SUB_BITS)).unwrap_or(0) % SUB;
    (exponent - SUB_BITS + 1) as usize * SUB + within
}

/// What is less than this, in microseconds, and not less than that of the bucket before, is counted in this one.
fn upper(bucket: usize) -> u64 {
    let (power, within) = ((bucket / SUB) as u64, (bucket % SUB) as u64);
    if power == 0 { within + 1 } else { (SUB as u64 + within + 1) << (power - 1) }
}

#[cfg(test)]
mod tests;
