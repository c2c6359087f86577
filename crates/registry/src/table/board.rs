//! When each instance was last heard of: one word for each, found by number.

use std::{
    fmt,
    ops::Range,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::Clock;

use super::word::{Beat, Seen, Word};

/// The slots of all services, and the time that they are told in.
///
/// Time is counted in ticks of the sweeper, and a heartbeat counts as one at the end of the tick in which it comes. So time in which our own
/// process stood still, and could hear nobody, counts as one tick at most.
pub(crate) struct Board {
    clock: Clock,
    /// Ticks so far.
    tick: AtomicU64,
    /// When each of the last ticks began, in milliseconds of `clock`.
    began: [AtomicU64; REMEMBERED],
    /// The n-th holds `FIRST << n` slots, so none is ever moved, and few of them are empty.
    chunks: [OnceLock<Chunk>; 23],
}

/// All that a heartbeat by a lease touches is the word: eight of them are one line of a processor's cache, and those of 100,000 instances fit
/// into it.
struct Chunk {
    words: Box<[Word]>,
    /// The last sign of life that the table was told of, in milliseconds of the clock, or [`NEVER`].
    heard: Box<[AtomicU64]>,
}

const FIRST: u32 = 512;
/// More than the TTL can have; who is silent for longer is [settled](Board::settle) by then.
const REMEMBERED: usize = 512;
/// So many neighbours are looked at together; chunks are multiples of it.
pub(crate) const BLOCK: u32 = 64;

pub(crate) const NEVER: u64 = u64::MAX;

/// A slot, and for which of its occupants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId {
    pub(crate) index: u32,
    generation: u32,
}

impl Board {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            tick: AtomicU64::new(0),
            began: [const { AtomicU64::new(0) }; REMEMBERED],
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
        let tick = self.tick() + 1;
        self.began_at(tick).store(millis(now), Relaxed);
        self.tick.store(tick, Relaxed);
        tick
    }

    #[allow(clippy::cast_possible_truncation, reason = "what is cut off is masked out")]
    fn began_at(&self, tick: u64) -> &AtomicU64 {
        &self.began[tick as usize % REMEMBERED]
    }

    /// Notes a heartbeat, if nothing else has to be done.
    #[inline]
    pub(crate) fn beat(&self, id: SlotId) -> Beat {
        self.word(id.index).map_or(Beat::Gone, |word| word.beat(id.generation, self.tick()))
    }

    /// Gives the slot to a new occupant, who is heard of now.
    pub(crate) fn occupy(&self, index: u32) -> SlotId {
        let chunk = chunk(index);
        self.chunks[chunk].get_or_init(|| Chunk::new((FIRST as usize) << chunk));
        self.renew(index, NEVER)
    }

    /// The same slot for another run of its occupant: older handles are no good from now on.
    pub(crate) fn renew(&self, index: u32, heard: u64) -> SlotId {
        self.hear_at(index, heard);
        let generation = self.word(index).map_or(0, |word| word.renew(self.tick()));
        SlotId { index, generation }
    }

    /// The words of the block, and the number of the first. The last block of a chunk may have slots that were never occupied.
    pub(crate) fn block(&self, number: u32) -> impl Iterator<Item = (u32, Seen)> {
        let first = number * BLOCK;
        let range = place(first).1;
        let words = self.chunks[chunk(first)]
            .get()
            .map_or(&[][..], |chunk| &chunk.words[range..range + BLOCK as usize]);
        (first..).zip(words).map(|(index, word)| (index, word.load()))
    }

    /// The tick of the last heartbeat.
    pub(crate) fn seen(&self, id: SlotId) -> u64 {
        self.word(id.index).map_or(0, |word| word.load().tick())
    }

    /// Notes a heartbeat that the table knows of.
    pub(crate) fn touch(&self, id: SlotId) {
        if let Some(word) = self.word(id.index) {
            word.touch(self.tick());
        }
    }

    pub(crate) fn hear(&self, id: SlotId, now: Duration) {
        self.hear_at(id.index, millis(now));
    }

    fn hear_at(&self, index: u32, millis: u64) {
        let (chunk, place) = place(index);
        if let Some(chunk) = self.chunks[chunk].get() {
            chunk.heard[place].store(millis, Relaxed);
        }
    }

    /// From now on heartbeats come to the table, unless one came after tick `seen`: then nothing happens, and `false` is returned.
    pub(crate) fn silence(&self, id: SlotId, seen: u64) -> bool {
        self.settle(id);
        self.word(id.index).is_none_or(|word| word.silence(seen))
    }

    pub(crate) fn set_slow(&self, id: SlotId, slow: bool) {
        if slow {
            self.settle(id);
        }
        if let Some(word) = self.word(id.index) {
            word.set_slow(slow);
        }
    }

    /// Writes down when the last heartbeat by a lease came, while it is still known when that tick was.
    pub(crate) fn settle(&self, id: SlotId) {
        let heard = self.heard(id);
        if heard != NEVER {
            self.hear_at(id.index, heard);
        }
    }

    /// When the occupant was last heard of, and `None` for never or if it is there no more.
    pub(crate) fn age(&self, id: SlotId) -> Option<Duration> {
        let heard = self.heard(id);
        (heard != NEVER).then(|| self.now().saturating_sub(Duration::from_millis(heard)))
    }

    /// In milliseconds of the clock, or [`NEVER`].
    pub(crate) fn heard(&self, id: SlotId) -> u64 {
        let (number, place) = place(id.index);
        let Some(chunk) = self.chunks[number].get() else { return NEVER };
        let told = chunk.heard[place].load(Relaxed);
        let seen = chunk.words[place].load();
        if seen.generation() != id.generation {
            return NEVER;
        }
        let is_known = self.tick().saturating_sub(seen.tick()) < REMEMBERED as u64;
        if seen.is_slow() || told == NEVER || !is_known {
            return told;
        }
        // Heartbeats by a lease leave their tick alone.
        told.max(self.began_at(seen.tick()).load(Relaxed))
    }

    #[inline]
    fn word(&self, index: u32) -> Option<&Word> {
        let (chunk, place) = place(index);
        self.chunks[chunk].get()?.words.get(place)
    }
}

impl Chunk {
    fn new(size: usize) -> Self {
        Self {
            words: (0..size).map(|_| Word::new()).collect(),
            heard: (0..size).map(|_| AtomicU64::new(NEVER)).collect(),
        }
    }
}

/// The slots of all blocks up to this many occupied ones.
pub(crate) const fn blocks(slots: usize) -> Range<usize> {
    0..slots.div_ceil(BLOCK as usize)
}

/// Which chunk the slot is in: they end at `FIRST * (2^n - 1)`.
#[inline]
const fn chunk(index: u32) -> usize {
    (index / FIRST + 1).ilog2() as usize
}

/// Its chunk, and its place there.
#[inline]
const fn place(index: u32) -> (usize, usize) {
    let chunk = chunk(index);
    (chunk, (index - ((FIRST << chunk) - FIRST)) as usize)
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
mod tests;
