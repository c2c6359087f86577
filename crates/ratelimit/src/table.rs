//! Buckets by the hash of their keys, in a table that never grows.
//!
//! ```text
//! bit 63     41   40   39                0
//!     [ tag   ][ new ][ full at          ]   a bucket: 8 bytes
//! ```
//!
//! A line of the processor's cache holds seven buckets and the epoch of its clock. A key may live in either of two lines, which its
//! hash names, in any slot; the tag, other bits of the hash, tells it from the other keys there.
//!
//! **Nothing is swept.** A bucket that is full is as good as none, so its slot is free by the passing of time.
//!
//! **The clock wraps** after 2⁴⁰ ticks, which is four epochs. A burst is less than one epoch, so a time is at most one epoch
//! ahead of the clock. Before a line is used in a new epoch, what lies behind is cleared from it; a line that was not used
//! for more than an epoch has nothing left that counts. So no time is ever mistaken for one of another round, however long a key was away.
//!
//! **Two callers may bring the same new key at once**, and must not get a bucket each. So a bucket is
//! placed as *new* first, which nobody may draw from. Then its maker looks at the other slots of the key: there it clears what is
//! *new*, and gives way to what is not. Only then is its own bucket made ordinary, if it has not itself been cleared. Of
//! two makers, at least the one who placed second sees the other; so never both come through, and nobody ever waits for another.

use std::{
    hint,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use crate::{
    gcra::{Gcra, Now},
    stats::thread_number,
};

#[derive(Debug)]
pub(crate) struct Table {
    gcra: Gcra,
    lines: Box<[Line]>,
    live_evictions: AtomicU64,
}

impl Table {
    /// Ticks of a burst fit into so many bits.
    pub(crate) const BURST_BITS: u32 = Line::EPOCH_BITS;

    /// Four keys to a line of seven: room enough that hardly a line overflows when all are live.
    const KEYS_PER_LINE: usize = 4;

    pub(crate) fn new(gcra: Gcra, capacity: usize) -> Self {
        let lines = capacity.div_ceil(Self::KEYS_PER_LINE).max(2);
        Self {
            gcra,
            lines: (0..lines).map(|_| Line::default()).collect(),
            live_evictions: AtomicU64::new(0),
        }
    }

    /// Takes `cost` ticks from the bucket of the key with `hash`. Gives the tick at which that bucket is then full, or the tick
    /// at which the cost would be allowed.
    pub(crate) fn take(&self, hash: u64, cost: u64, now: Now) -> Result<u64, u64> {
        let home = self.home(hash);
        loop {
            let found = home.find(now.tick);
            let full_at = found.and_then(|(_, word)| word.full_at(now.tick)).unwrap_or(now.tick);
            let spent = self.gcra.take(full_at, cost, now, now.tick)?;
            let done = match found {
                Some((slot, word)) => replace(slot, word, Word::new(home.tag, spent)),
                None => self
                    .place(&home, now.tick, thread_number())
                    .is_some_and(|new| home.confirm(new, spent)),
            };
            if done {
                return Ok(spent);
            }
            hint::spin_loop();
        }
    }

    /// The tick at which the bucket of the key with `hash` is full.
    pub(crate) fn full_at(&self, hash: u64, now: Now) -> u64 {
        let found = self.home(hash).find(now.tick);
        found.and_then(|(_, word)| word.full_at(now.tick)).unwrap_or(now.tick)
    }

    /// How many buckets that were not full had to make room.
    pub(crate) fn live_evictions(&self) -> u64 {
        self.live_evictions.load(Relaxed)
    }

    /// The first line, the second and the tag each depend on other bits, or on all of them mixed: keys that meet in a line
    /// are no more likely than others to have the same tag.
    fn home(&self, hash: u64) -> Home<'_> {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let lines = self.lines.len();
        let scaled = |hash: u64, to: usize| (((hash >> 32) as u128 * to as u128) >> 32) as usize;
        let first = scaled(hash, lines);
        // Some distance from the first, never none.
        let second = (first + 1 + scaled(hash.wrapping_mul(GOLDEN), lines - 1)) % lines;
        let tag = (hash & Word::TAG).max(1);
        Home { tag, lines: [&self.lines[first], &self.lines[second]] }
    }

    /// Places a new bucket for a key that has none. Fails if others were faster. No two makers at a time may have the same number.
    fn place<'a>(&self, home: &Home<'a>, clock: u64, maker: u64) -> Option<New<'a>> {
        let Room { slot, word, live } = home.room(clock)?;
        let mine = Word::unconfirmed(home.tag, maker);
        if !replace(slot, word, mine) {
            return None;
        }
        if live {
            self.live_evictions.fetch_add(1, Relaxed);
        }
        Some(New { slot, word: mine })
    }
}

/// Where a key may be.
struct Home<'a> {
    tag: u64,
    lines: [&'a Line; 2],
}

/// A bucket that is not yet confirmed.
#[derive(Clone, Copy)]
struct New<'a> {
    slot: &'a AtomicU64,
    word: Word,
}

/// A slot to be had.
struct Room<'a> {
    slot: &'a AtomicU64,
    word: Word,
    /// Whether it holds a bucket that is not full.
    live: bool,
}

impl<'a> Home<'a> {
    fn slots(&self) -> impl Iterator<Item = &'a AtomicU64> {
        self.lines.into_iter().flat_map(|line| &line.slots)
    }

    /// The key's bucket. It may be full; it is the key's all the same, and must not be had twice.
    fn find(&self, clock: u64) -> Option<(&'a AtomicU64, Word)> {
        self.lines.into_iter().find_map(|line| {
            line.enter(clock);
            line.slots.iter().find_map(|slot| {
                let word = load(slot);
                (word.tag() == self.tag && !word.is_unconfirmed()).then_some((slot, word))
            })
        })
    }

    /// Makes a new bucket the key's, unless someone else has made or is making one, too.
    fn confirm(&self, new: New<'_>, full_at: u64) -> bool {
        for other in self.slots().filter(|other| !std::ptr::eq(*other, new.slot)) {
            let word = load(other);
            if word.tag() != self.tag || word.is_unconfirmed() && replace(other, word, Word::FREE) {
                continue;
            }
            replace(new.slot, new.word, Word::FREE);
            return false;
        }
        replace(new.slot, new.word, Word::new(self.tag, full_at))
    }

    /// A free slot in the emptier line, or else that of the bucket that is full soonest, which remembers the least.
    fn room(&self, clock: u64) -> Option<Room<'a>> {
        let mut free: Option<(usize, Room<'a>)> = None;
        let mut soonest: Option<(u64, Room<'a>)> = None;
        for line in self.lines {
            let mut room = None;
            let mut taken = 0;
            for slot in &line.slots {
                let word = load(slot);
                if word.is_unconfirmed() {
                    taken += 1;
                    continue;
                }
                match word.full_at(clock) {
                    None => room = Some(Room { slot, word, live: false }),
                    Some(full_at) => {
                        taken += 1;
                        if soonest.as_ref().is_none_or(|(least, _)| full_at < *least) {
                            soonest = Some((full_at, Room { slot, word, live: true }));
                        }
                    }
                }
            }
            if let Some(room) = room {
                if free.as_ref().is_none_or(|(least, _)| taken < *least) {
                    free = Some((taken, room));
                }
            }
        }
        free.map(|(_, room)| room).or(soonest.map(|(_, room)| room))
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    /// The latest epoch in which the line was used. Slots are written only by those who have seen it current.
    epoch: AtomicU64,
    slots: [AtomicU64; 7],
}

impl Line {
    const EPOCH_BITS: u32 = Word::TIME_BITS - 2;

    /// Makes sure that every time in the line can be told from those of other rounds.
    fn enter(&self, clock: u64) {
        let current = clock >> Self::EPOCH_BITS;
        if self.epoch.load(SeqCst) < current {
            self.renew(current, clock);
        }
    }

    #[cold]
    fn renew(&self, current: u64, clock: u64) {
        loop {
            let epoch = self.epoch.load(SeqCst);
            if epoch >= current {
                return;
            }
            let words = self.slots.each_ref().map(load);
            // Had someone else renewed the line meanwhile, the words might be young, and not ours to judge.
            if self.epoch.load(SeqCst) != epoch {
                continue;
            }
            for (slot, word) in self.slots.iter().zip(words) {
                if current - epoch > 1 || word.full_at(clock).is_none() {
                    replace(slot, word, Word::FREE);
                }
            }
            if self.epoch.compare_exchange(epoch, current, SeqCst, SeqCst).is_ok() {
                return;
            }
        }
    }
}

/// A slot's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    /// No tag is 0.
    const FREE: Self = Self(0);
    const TIME_BITS: u32 = 40;
    const TIME: u64 = (1 << Self::TIME_BITS) - 1;
    const NEW: u64 = 1 << Self::TIME_BITS;
    const TAG_SHIFT: u32 = Self::TIME_BITS + 1;
    const TAG: u64 = u64::MAX >> Self::TAG_SHIFT;

    /// Times up to here ahead of the clock are in the future, all others in the past. One epoch is the most that a burst needs; the
    /// other half is for callers whose clock is a little behind.
    const FUTURE: u64 = 3 << (Self::TIME_BITS - 3);

    const fn new(tag: u64, full_at: u64) -> Self {
        Self(tag << Self::TAG_SHIFT | full_at & Self::TIME)
    }

    /// With the number of its maker in place of a time, so that no maker takes another's for its own.
    const fn unconfirmed(tag: u64, maker: u64) -> Self {
        Self(tag << Self::TAG_SHIFT | Self::NEW | maker & Self::TIME)
    }

    const fn tag(self) -> u64 {
        self.0 >> Self::TAG_SHIFT
    }

    const fn is_unconfirmed(self) -> bool {
        self.0 & Self::NEW != 0
    }

    /// The tick at which the bucket is full; none if it is full already.
    const fn full_at(self, clock: u64) -> Option<u64> {
        let ahead = self.0.wrapping_sub(clock) & Self::TIME;
        if self.0 != 0 && ahead != 0 && ahead < Self::FUTURE { Some(clock + ahead) } else { None }
    }
}

fn load(slot: &AtomicU64) -> Word {
    Word(slot.load(SeqCst))
}

fn replace(slot: &AtomicU64, old: Word, new: Word) -> bool {
    slot.compare_exchange(old.0, new.0, SeqCst, SeqCst).is_ok()
}

#[cfg(test)]
mod tests;
