//! When each instance was last heard of: one word for each, found by number.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use gusset_call::Clock;

/// The slots of all services, and the time that they are told in.
///
/// Time is counted in ticks of the sweeper, and a heartbeat counts as one at the end of the tick in which it comes. So time in which our own
/// process stood still, and could hear nobody, counts as one tick at most.
pub(crate) struct Board {
    clock: Clock,
    /// Ticks so far.
    tick: AtomicU64,
    /// When the last tick was, in milliseconds of `clock`.
    ticked: AtomicU64,
    /// The n-th holds `FIRST << n` slots, so none is ever moved, and few of them are empty.
    chunks: [OnceLock<Box<[Slot]>>; 23],
}

const FIRST: u32 = 512;

struct Slot {
    /// Generation (24 bits), whether a heartbeat needs the table (1 bit), and the tick of the last heartbeat (39 bits).
    word: AtomicU64,
    /// The last sign of life in milliseconds of the clock, or [`NEVER`].
    heard: AtomicU64,
}

pub(crate) const NEVER: u64 = u64::MAX;

const TICK: u64 = (1 << 39) - 1;
const SLOW: u64 = 1 << 39;
const GENERATION: u64 = 1 << 40;

/// A slot, and for which of its occupants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId {
    pub(crate) index: u32,
    generation: u32,
}

/// What [`Board::beat`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Noted,
    /// It may change how the instance is listed, so the table has to be told.
    Slow,
    /// The slot is somebody else's.
    Gone,
}

impl Board {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            tick: AtomicU64::new(0),
            ticked: AtomicU64::new(0),
            chunks: [const { OnceLock::new() }; 23],
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(crate) fn tick(&self) -> u64 {
        self.tick.load(Relaxed)
    }

    /// Begins the next tick, and returns its number.
    pub(crate) fn advance(&self, now: Duration) -> u64 {
        self.ticked.store(millis(now), Relaxed);
        (self.tick.fetch_add(1, Relaxed) + 1) & TICK
    }

    /// Notes a heartbeat, if nothing else has to be done.
    #[inline]
    pub(crate) fn beat(&self, id: SlotId) -> Beat {
        let Some(slot) = self.slot(id.index) else { return Beat::Gone };
        let tick = self.tick();
        let mut word = slot.word.load(Relaxed);
        loop {
            if generation(word) != id.generation {
                return Beat::Gone;
            }
            if word & SLOW != 0 {
                return Beat::Slow;
            }
            if word & TICK == tick {
                break;
            }
            // Not a plain store: the slot may have become somebody else's in between.
            let beaten = word & !TICK | tick;
            match slot.word.compare_exchange_weak(word, beaten, AcqRel, Relaxed) {
                Ok(_) => break,
                Err(present) => word = present,
            }
        }
        slot.heard.store(self.ticked.load(Relaxed), Relaxed);
        Beat::Noted
    }

    /// Gives the slot to a new occupant, who is heard of now.
    pub(crate) fn occupy(&self, index: u32) -> SlotId {
        let chunk = chunk(index);
        let size = (FIRST as usize) << chunk;
        self.chunks[chunk].get_or_init(|| (0..size).map(|_| Slot::new()).collect());
        self.renew(index, NEVER)
    }

    /// The same slot for another run of its occupant: older handles are no good from now on.
    pub(crate) fn renew(&self, index: u32, heard: u64) -> SlotId {
        let Some(slot) = self.slot(index) else { return SlotId { index, generation: 0 } };
        slot.heard.store(heard, Relaxed);
        let next =
            |word: u64| Some((word & !TICK & !SLOW).wrapping_add(GENERATION) | SLOW | self.tick());
        let before = slot.word.fetch_update(AcqRel, Acquire, next).unwrap_or_else(|word| word);
        SlotId { index, generation: generation(before.wrapping_add(GENERATION)) }
    }

    /// The tick of the last heartbeat, and whether the next one needs the table.
    pub(crate) fn look(&self, index: u32) -> (u64, bool) {
        let word = self.slot(index).map_or(SLOW, |slot| slot.word.load(Acquire));
        (word & TICK, word & SLOW != 0)
    }

    pub(crate) fn seen(&self, id: SlotId) -> u64 {
        self.look(id.index).0
    }

    /// Notes a heartbeat that the table knows of.
    pub(crate) fn touch(&self, id: SlotId) {
        if let Some(slot) = self.slot(id.index) {
            let touched = |word| Some(word & !TICK | self.tick());
            let _ = slot.word.fetch_update(AcqRel, Relaxed, touched);
        }
    }

    pub(crate) fn hear(&self, id: SlotId, now: Duration) {
        if let Some(slot) = self.slot(id.index) {
            slot.heard.store(millis(now), Relaxed);
        }
    }

    /// From now on heartbeats come to the table, unless one came after tick `seen`: then nothing happens, and `false` is returned.
    pub(crate) fn silence(&self, id: SlotId, seen: u64) -> bool {
        let Some(slot) = self.slot(id.index) else { return true };
        let silenced = |word: u64| (word & TICK == seen).then_some(word | SLOW);
        slot.word.fetch_update(AcqRel, Acquire, silenced).is_ok()
    }

    pub(crate) fn set_slow(&self, id: SlotId, slow: bool) {
        if let Some(slot) = self.slot(id.index) {
            if slow {
                slot.word.fetch_or(SLOW, AcqRel);
            } else {
                slot.word.fetch_and(!SLOW, Release);
            }
        }
    }

    /// When the occupant was last heard of, and `None` for never or if it is there no more.
    pub(crate) fn age(&self, id: SlotId) -> Option<Duration> {
        let slot = self.slot(id.index)?;
        let heard = slot.heard.load(Relaxed);
        let here = generation(slot.word.load(Acquire)) == id.generation;
        (here && heard != NEVER).then(|| self.now().saturating_sub(Duration::from_millis(heard)))
    }

    pub(crate) fn heard(&self, id: SlotId) -> u64 {
        self.slot(id.index).map_or(NEVER, |slot| slot.heard.load(Relaxed))
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        let chunk = chunk(index);
        let first = (FIRST << chunk) - FIRST;
        self.chunks[chunk].get()?.get((index - first) as usize)
    }
}

impl Slot {
    const fn new() -> Self {
        Self { word: AtomicU64::new(SLOW), heard: AtomicU64::new(NEVER) }
    }
}

/// Which chunk the slot is in: they end at `FIRST * (2^n - 1)`.
const fn chunk(index: u32) -> usize {
    (index / FIRST + 1).ilog2() as usize
}

#[allow(clippy::cast_possible_truncation, reason = "24 bits are left")]
const fn generation(word: u64) -> u32 {
    (word / GENERATION) as u32
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(NEVER - 1).min(NEVER - 1)
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("tick", &self.tick).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_found_in_chunks_that_double() {
        let firsts = [0, 512, 1_536, 3_584, 100_000, u32::MAX / 2];
        assert_eq!(firsts.map(chunk), [0, 1, 2, 3, 7, 22]);
        let board = Board::new(Clock::new());
        for index in [0, 511, 512, 1_535, 1_536, 100_000] {
            let id = board.occupy(index);
            assert_eq!(board.beat(id), Beat::Slow, "{index}");
            board.set_slow(id, false);
            assert_eq!(board.beat(id), Beat::Noted, "{index}");
        }
    }

    #[test]
    fn a_handle_of_an_earlier_occupant_does_nothing() {
        let board = Board::new(Clock::new());
        let old = board.occupy(7);
        board.set_slow(old, false);
        let new = board.renew(7, NEVER);
        board.set_slow(new, false);
        board.advance(Duration::from_secs(1));
        assert_eq!(board.beat(old), Beat::Gone);
        assert_eq!(board.seen(new), 0);
        assert_eq!((board.beat(new), board.seen(new)), (Beat::Noted, 1));
        assert_eq!(board.age(old), None);
    }

    #[test]
    fn a_beat_between_look_and_judgement_is_not_overlooked() {
        let board = Board::new(Clock::new());
        let id = board.occupy(0);
        board.set_slow(id, false);
        let seen = board.seen(id);
        board.advance(Duration::from_secs(1));
        assert_eq!(board.beat(id), Beat::Noted);
        assert!(!board.silence(id, seen));
        assert!(board.silence(id, 1));
        assert_eq!(board.beat(id), Beat::Slow);
    }

    #[test]
    fn generations_wrap_and_leave_the_rest_of_the_word_alone() {
        let board = Board::new(Clock::new());
        let first = board.occupy(0);
        for _ in 0..(1 << 24) - 1 {
            board.renew(0, NEVER);
        }
        board.advance(Duration::ZERO);
        let last = board.renew(0, NEVER);
        assert_eq!((last, board.look(0)), (first, (1, true)));
    }
}
