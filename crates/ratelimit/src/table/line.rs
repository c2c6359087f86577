//! Where the slots are, and in which of them a key may live.

use super::{Table, Word};
use crate::sync::{Acquire, AtomicU64, Relaxed, Release};

#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Line {
    /// The latest quota and epoch in which the line was used: the generation above, the epoch below. Slots are written only by those who have
    /// seen it current.
    pub(crate) header: AtomicU64,
    pub(crate) slots: [AtomicU64; 7],
}

impl Line {
    pub(crate) const EPOCH_BITS: u32 = Word::TIME_BITS - 2;

    /// The confirmed bucket with that tag.
    #[inline(always)]
    pub(crate) fn find(&self, tag: u64) -> Option<Seen<'_>> {
        // All slots are compared before the first branch: which one it is cannot be foretold.
        let found = self.slots.iter().enumerate().fold(0_u32, |found, (index, slot)| {
            found | u32::from(Seen::in_slot(slot).word.is_ordinary(tag)) << index
        });
        let slot = self.slots.get(found.trailing_zeros() as usize)?;
        let seen = Seen::in_slot(slot);
        seen.word.is_ordinary(tag).then_some(seen)
    }
}

/// A slot, and what was in it.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) slot: &'a AtomicU64,
    pub(crate) word: Word,
}

impl<'a> Seen<'a> {
    #[inline(always)]
    pub(crate) fn in_slot(slot: &'a AtomicU64) -> Self {
        Self { slot, word: Word(slot.load(Relaxed)) }
    }

    /// Puts another word there, unless someone else has. A bucket is all in one word; whoever reads it needs nothing else, but the
    /// quota by which it counts if that is a new one, and the header of the line that its writer had seen: whoever renews the line tells by that
    /// that the word is young.
    #[inline(always)]
    pub(crate) fn replace(self, new: Word) -> bool {
        self.slot.compare_exchange(self.word.0, new.0, Release, Relaxed).is_ok()
    }
}

/// Where a key may be.
#[derive(Debug)]
pub(crate) struct Home<'a> {
    pub(crate) hash: u64,
    pub(crate) tag: u64,
    pub(crate) first: &'a Line,
    /// As the first line showed it.
    pub(crate) header: u64,
}

impl Table {
    /// The places of the key with `hash`.
    ///
    /// The first line, the second and the tag each depend on other bits, or on all of them mixed: keys that meet in a line
    /// are no more likely than others to have the same tag.
    #[inline]
    pub(crate) fn home(&self, hash: u64) -> Home<'_> {
        let first = &self.lines[scaled(hash, self.lines.len())];
        // Read early, so that the line is on its way while the clock is read.
        let header = first.header.load(Acquire);
        Home { hash, tag: (hash & Word::TAG).max(1), first, header }
    }

    pub(crate) fn lines_of<'a>(&'a self, home: &Home<'a>) -> [&'a Line; 2] {
        pub(crate) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let lines = self.lines.len();
        // Some distance from the first, never none.
        let second =
            scaled(home.hash, lines) + 1 + scaled(home.hash.wrapping_mul(GOLDEN), lines - 1);
        [home.first, &self.lines[if second < lines { second } else { second - lines }]]
    }

    pub(crate) fn slots<'a>(&'a self, home: &Home<'a>) -> impl Iterator<Item = &'a AtomicU64> {
        self.lines_of(home).into_iter().flat_map(|line| &line.slots)
    }
}

/// `hash` as a number less than `to`.
#[inline]
const fn scaled(hash: u64, to: usize) -> usize {
    (((hash >> 32) * to as u64) >> 32) as usize
}
