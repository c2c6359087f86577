//! All that a heartbeat has to know and change, in one atomic word.

use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// Generation (24 bits), whether a heartbeat needs the table (1 bit), and the tick of the last heartbeat (39 bits).
#[derive(Debug)]
pub(crate) struct Word(AtomicU64);

const TICK: u64 = (1 << 39) - 1;
const SLOW: u64 = 1 << 39;
const GENERATION: u64 = 1 << 40;

/// What [`Word::beat`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Noted,
    /// It may change how the instance is listed, so the table has to be told.
    Slow,
    /// The slot is somebody else's.
    Gone,
}

/// A word at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(u64);

impl Seen {
    /// The tick of the last heartbeat.
    pub(crate) const fn tick(self) -> u64 {
        self.0 & TICK
    }

    /// Whether the next heartbeat needs the table.
    pub(crate) const fn is_slow(self) -> bool {
        self.0 & SLOW != 0
    }

    #[allow(clippy::cast_possible_truncation, reason = "24 bits are left")]
    pub(crate) const fn generation(self) -> u32 {
        (self.0 / GENERATION) as u32
    }
}

impl Word {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(SLOW))
    }

    pub(crate) fn load(&self) -> Seen {
        Seen(self.0.load(Acquire))
    }

    /// Notes a heartbeat of the occupant `generation` in `tick`, if nothing else has to be done.
    #[inline]
    pub(crate) fn beat(&self, generation: u32, tick: u64) -> Beat {
        let mut word = self.0.load(Relaxed);
        loop {
            let seen = Seen(word);
            if seen.generation() != generation {
                return Beat::Gone;
            }
            if seen.is_slow() {
                return Beat::Slow;
            }
            // The younger of two counts: whoever read the tick and was held up must not turn it back.
            if seen.tick() >= tick {
                return Beat::Noted;
            }
            // Not a plain store: the slot may have become somebody else's in between.
            match self.0.compare_exchange_weak(word, word & !TICK | tick, AcqRel, Relaxed) {
                Ok(_) => return Beat::Noted,
                Err(present) => word = present,
            }
        }
    }

    /// Notes a heartbeat that the table knows of.
    pub(crate) fn touch(&self, tick: u64) {
        let touched = |word| (Seen(word).tick() < tick).then_some(word & !TICK | tick);
        let _ = self.0.fetch_update(AcqRel, Relaxed, touched);
    }

    /// Another occupant, first heard of in `tick`, whose heartbeats need the table. Returns its generation; older ones are no good from now on.
    pub(crate) fn renew(&self, tick: u64) -> u32 {
        let next = |word: u64| (word & !TICK & !SLOW).wrapping_add(GENERATION) | SLOW | tick;
        let before = self.0.fetch_update(AcqRel, Acquire, |word| Some(next(word)));
        Seen(next(before.unwrap_or_else(|word| word))).generation()
    }

    /// From now on heartbeats come to the table, unless one came after tick `seen`: then nothing happens, and `false` is returned.
    pub(crate) fn silence(&self, seen: u64) -> bool {
        let silenced = |word: u64| (Seen(word).tick() == seen).then_some(word | SLOW);
        self.0.fetch_update(AcqRel, Acquire, silenced).is_ok()
    }

    /// Whether heartbeats come to the table from now on.
    pub(crate) fn set_slow(&self, slow: bool) {
        if slow {
            self.0.fetch_or(SLOW, AcqRel);
        } else {
            self.0.fetch_and(!SLOW, AcqRel);
        }
    }
}
