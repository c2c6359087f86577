//! Buckets by the hash of their keys, in a table that never grows.
//!
//! ```text
//! bit 63     41   40   39      38  37                0
//!     [ tag   ][ new ][ quota    ][ full at          ]   a bucket: 8 bytes
//! ```
//!
//! A line of the processor's cache holds seven buckets and the epoch of its clock. A key may live in either of two lines, which its
//! hash names, in any slot; the tag, other bits of the hash, tells it from the other keys there.
//!
//! **Nothing is swept.** A bucket that is full is as good as none, so its slot is free by the passing of time.
//!
//! **The clock wraps** after 2³⁸ ticks, which is four epochs. A burst is less than one epoch, so a time is at most one epoch
//! ahead of the clock. Before a line is used in a new epoch, what lies behind is cleared from it; a line that was not used
//! for more than an epoch has nothing left that counts. So no time is ever mistaken for one of another round, however long a key was away.
//!
//! **Two callers may bring the same new key at once**, and must not get a bucket each. So a bucket is
//! placed as *new* first, which nobody may draw from. Then its maker looks at the other slots of the key: there it clears what is
//! *new*, and gives way to what is not. Only then is its own bucket made ordinary, if it has not itself been cleared. Of
//! two makers, at least the one who placed second sees the other; so never both come through, and nobody ever waits for another.
//!
//! **Another quota has another clock.** Each bucket says by which of the last four quotas it counts, and whoever finds one of an older quota first makes it one
//! of the present, by one swap. A change of the quota visits all lines, so none stays more than one behind.

use std::hint;

use crate::{
    Level, Quota,
    bucket::{SLACK, Unmet},
    gcra::{Gcra, GcraCell, Now},
    stats::thread_number,
    sync::{
        Acquire, AtomicBool, AtomicU64, Mutex, MutexGuard, PoisonError, Relaxed, Release, SeqCst,
        fence,
    },
};

#[derive(Debug)]
pub(crate) struct Table {
    lines: Box<[Line]>,
    /// How often the quota was changed.
    generation: AtomicU64,
    /// The last four, by generation. An older one is overwritten while a caller may still hold on to it only if that caller slept through
    /// four changes; it may then leave a wrong bucket, which is full after one burst at the latest.
    gcras: [GcraCell; 4],
    quota: Mutex<Quota>,
    refuse_new: AtomicBool,
    live_evictions: AtomicU64,
    refused_new: AtomicU64,
}

/// A quota, and a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Era {
    pub(crate) gcra: Gcra,
    pub(crate) now: Now,
    generation: u64,
    nanos: u64,
}

impl Era {
    /// What a line shows that is up to date.
    const fn header(&self) -> u64 {
        self.generation << 32 | self.now.tick >> Line::EPOCH_BITS
    }

    /// Whether a line that shows `header` may be used. Another thread's clock may be a little ahead, and so may be a line.
    #[inline(always)]
    const fn covers(&self, header: u64) -> bool {
        header.wrapping_sub(self.header()) <= 1
    }

    /// A bucket that is full at that tick.
    #[inline]
    const fn word(&self, tag: u64, full_at: u64) -> Word {
        Word::new(tag, self.generation, full_at)
    }
}

/// What became of an attempt; none if others came between.
type Attempt<T> = Option<T>;

impl Table {
    /// Ticks of a burst fit into so many bits.
    pub(crate) const BURST_BITS: u32 = Line::EPOCH_BITS;

    /// Four keys to a line of seven: room enough that hardly a line overflows when all are live.
    const KEYS_PER_LINE: usize = 4;

    /// As long as so many slots of its first line are taken by others, a key does not look for room in its second.
    const CROWDED: usize = 5;

    pub(crate) fn new(quota: Quota, capacity: usize) -> Self {
        // More could not be told apart by half a hash.
        let most = u32::MAX as usize;
        let lines = capacity.div_ceil(Self::KEYS_PER_LINE).clamp(2, most);
        let gcra = Gcra::new(quota, Self::BURST_BITS);
        Self {
            lines: (0..lines).map(|_| Line::default()).collect(),
            generation: AtomicU64::new(0),
            gcras: [gcra; 4].map(GcraCell::new),
            quota: Mutex::new(quota),
            refuse_new: AtomicBool::new(false),
            live_evictions: AtomicU64::new(0),
            refused_new: AtomicU64::new(0),
        }
    }

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

    /// Takes `tokens` if the bucket is in the first line of `home`, has as many, and nobody comes between. The short path of most calls;
    /// [`take`](Self::take) decides about all others.
    #[inline(always)]
    pub(crate) fn take_now(&self, home: &Home<'_>, tokens: u32, nanos: u64) -> Option<Level> {
        let era = self.era(nanos);
        if !era.covers(home.header) {
            return None;
        }
        let (slot, word) = match home.first.find(home.tag) {
            Some(found) => found,
            None => self.find_second(home, &era)?,
        };
        if word.generation() != era.generation % 4 {
            return None;
        }
        let now = era.now;
        let full_at = word.full_at(now.tick).unwrap_or(now.tick);
        let spent = era.gcra.take(full_at, era.gcra.cost(tokens).ok()?, now, now.tick).ok()?;
        replace(slot, word, era.word(home.tag, spent)).then(|| era.gcra.level(spent, now))
    }

    /// Takes `tokens` from the bucket at `home`. Gives the tick at which that bucket is then full.
    pub(crate) fn take(
        &self,
        home: &Home<'_>,
        tokens: u32,
        clock: &impl Fn() -> u64,
    ) -> Result<(Era, u64), Unmet> {
        loop {
            let era = self.era(clock());
            let cost = era.gcra.cost(tokens).map_err(Unmet::TooCostly)?;
            match self.attempt(home, cost, &era, clock) {
                Some(Ok(spent)) => return Ok((era, spent)),
                Some(Err(allowed_at)) => {
                    return Err(Unmet::Until(era.gcra, era.now, allowed_at));
                }
                None => hint::spin_loop(),
            }
        }
    }

    /// The tick at which the bucket at `home` is full.
    pub(crate) fn look(&self, home: &Home<'_>, clock: &impl Fn() -> u64) -> (Era, u64) {
        loop {
            let era = self.era(clock());
            if let Some(found) = self.find(home, &era, clock) {
                let full_at = found.and_then(|(_, word)| word.full_at(era.now.tick));
                let full_at = full_at.unwrap_or(era.now.tick).min(era.gcra.empty(era.now));
                return (era, full_at);
            }
            hint::spin_loop();
        }
    }

    /// What [`take`](Self::take) would say, but for the want of room. Takes nothing.
    pub(crate) fn test(
        &self,
        home: &Home<'_>,
        tokens: u32,
        clock: &impl Fn() -> u64,
    ) -> Result<(Era, u64), Unmet> {
        let (era, full_at) = self.look(home, clock);
        let cost = era.gcra.cost(tokens).map_err(Unmet::TooCostly)?;
        match era.gcra.take(full_at, cost, era.now, era.now.tick) {
            Ok(_) => Ok((era, full_at)),
            Err(allowed_at) => Err(Unmet::Until(era.gcra, era.now, allowed_at)),
        }
    }

    /// Puts `tokens` back that were taken from the bucket at `home`, as if they had never been taken.
    pub(crate) fn give_back(&self, home: &Home<'_>, tokens: u32, clock: &impl Fn() -> u64) {
        loop {
            let era = self.era(clock());
            match self.find(home, &era, clock) {
                Some(Some((slot, word))) => {
                    let now = era.now.tick;
                    let Some(full_at) = word.full_at(now) else { return };
                    let cost = era.gcra.cost(tokens).unwrap_or(era.gcra.burst_ticks());
                    let without = full_at.saturating_sub(cost).max(now);
                    if replace(slot, word, era.word(home.tag, without)) {
                        return;
                    }
                }
                // Forgotten, so there is nothing that could be given less.
                Some(None) => return,
                None => {}
            }
            hint::spin_loop();
        }
    }

    fn quota_lock(&self) -> MutexGuard<'_, Quota> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn quota(&self) -> Quota {
        *self.quota_lock()
    }

    /// How often the quota was changed.
    pub(crate) fn changes(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// From now on, another quota. Tokens that are spent stay spent.
    pub(crate) fn set_quota(&self, quota: Quota, clock: &impl Fn() -> u64) {
        let mut present = self.quota_lock();
        let generation = self.generation.load(Relaxed) + 1;
        self.gcras[generation as usize % 4].store(Gcra::new(quota, Self::BURST_BITS));
        self.generation.store(generation, Release);
        for line in &self.lines {
            while !self.enter(line, &self.era(clock()), clock) {}
        }
        *present = quota;
    }

    /// From now on, new keys that find no room are refused, rather than given that of another.
    pub(crate) fn refuse_new(&self) {
        self.refuse_new.store(true, Relaxed);
    }

    /// How many buckets that were not full had to make room.
    pub(crate) fn live_evictions(&self) -> u64 {
        self.live_evictions.load(Relaxed)
    }

    /// How many calls were refused because a new key found no room.
    pub(crate) fn refused_new(&self) -> u64 {
        self.refused_new.load(Relaxed)
    }

    #[inline(always)]
    fn era(&self, nanos: u64) -> Era {
        let generation = self.generation.load(Acquire);
        let gcra = self.gcras[generation as usize % 4].load();
        Era { gcra, now: gcra.now(nanos), generation, nanos }
    }

    fn attempt(
        &self,
        home: &Home<'_>,
        cost: u64,
        era: &Era,
        clock: &impl Fn() -> u64,
    ) -> Attempt<Result<u64, u64>> {
        match self.find(home, era, clock)? {
            Some((slot, word)) => {
                let drawn = self.draw(home, slot, word, cost, era)?;
                let another_time = drawn.is_err() && self.came_from_another_time(slot, word, clock);
                (!another_time).then_some(drawn)
            }
            None => self.make(home, cost, era),
        }
    }

    fn draw(
        &self,
        home: &Home<'_>,
        slot: &AtomicU64,
        word: Word,
        cost: u64,
        era: &Era,
    ) -> Attempt<Result<u64, u64>> {
        let full_at = word.full_at(era.now.tick).unwrap_or(era.now.tick);
        match era.gcra.take(full_at, cost, era.now, era.now.tick) {
            Ok(spent) => replace(slot, word, era.word(home.tag, spent)).then_some(Ok(spent)),
            Err(allowed_at) => Some(Err(allowed_at)),
        }
    }

    /// If a bucket is full later than it can be, the clock has gone back since. It is then taken for an empty one, so that nobody is locked
    /// out for longer than that takes to fill.
    #[cold]
    fn came_from_another_time(
        &self,
        slot: &AtomicU64,
        word: Word,
        clock: &impl Fn() -> u64,
    ) -> bool {
        // Read after the bucket: whatever that shows was done by clocks that did not show more than this one.
        let era = self.era(clock());
        let last = era.gcra.tick_after(era.now, SLACK) + era.gcra.burst_ticks();
        if word.full_at(era.now.tick).is_none_or(|full_at| full_at <= last) {
            return false;
        }
        if word.generation() == era.generation % 4 {
            // If that fails, someone else saw to it.
            replace(slot, word, era.word(word.tag(), era.gcra.empty(era.now)));
        }
        true
    }

    /// Makes a bucket for a key that has none, and takes from it.
    fn make(&self, home: &Home<'_>, cost: u64, era: &Era) -> Attempt<Result<u64, u64>> {
        let spent = era.now.tick + cost;
        let room = self.room(home, era)?;
        if let (Some(full_at), true) = (room.live, self.refuse_new.load(Relaxed)) {
            self.refused_new.fetch_add(1, Relaxed);
            return Some(Err(full_at));
        }
        let new = self.place(home, &room, thread_number())?;
        self.confirm(home, new, era.word(home.tag, spent)).then_some(Ok(spent))
    }

    /// The key's bucket. It may be full; it is the key's all the same, and must not be had twice.
    fn find<'a>(
        &'a self,
        home: &Home<'a>,
        era: &Era,
        clock: &impl Fn() -> u64,
    ) -> Attempt<Option<(&'a AtomicU64, Word)>> {
        for line in self.lines_of(home) {
            if !self.enter(line, era, clock) {
                return None;
            }
            match line.find(home.tag) {
                Some((slot, word)) if word.generation() != era.generation % 4 => {
                    self.settle(slot, word, era);
                    return None;
                }
                Some(found) => return Some(Some(found)),
                None => {}
            }
        }
        Some(None)
    }

    #[inline(never)]
    fn find_second<'a>(&'a self, home: &Home<'a>, era: &Era) -> Option<(&'a AtomicU64, Word)> {
        let [_, second] = self.lines_of(home);
        if era.covers(second.header.load(Acquire)) { second.find(home.tag) } else { None }
    }

    /// Makes a bucket of an older quota one of the present.
    #[cold]
    fn settle(&self, slot: &AtomicU64, word: Word, era: &Era) {
        let older = self.gcras[word.generation() as usize].load();
        let then = older.now(era.nanos).tick;
        let carried = match word.full_at(then) {
            Some(full_at) => era.word(word.tag(), era.gcra.carried(&older, full_at, era.nanos)),
            None => Word::FREE,
        };
        replace(slot, word, carried);
    }

    fn lines_of<'a>(&'a self, home: &Home<'a>) -> [&'a Line; 2] {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let lines = self.lines.len();
        // Some distance from the first, never none.
        let second =
            scaled(home.hash, lines) + 1 + scaled(home.hash.wrapping_mul(GOLDEN), lines - 1);
        [home.first, &self.lines[if second < lines { second } else { second - lines }]]
    }

    fn slots<'a>(&'a self, home: &Home<'a>) -> impl Iterator<Item = &'a AtomicU64> {
        self.lines_of(home).into_iter().flat_map(|line| &line.slots)
    }

    /// A free slot; in the first line, as long as that is not crowded, or else in the emptier one. If there is none, that of the bucket that has
    /// been full the longest, so that those of keys that come often stay where they are. If none is full, that of the one that will be soonest, for it
    /// remembers the least.
    fn room<'a>(&'a self, home: &Home<'a>, era: &Era) -> Attempt<Room<'a>> {
        let mut best: Option<((u64, usize), Room<'a>)> = None;
        let mut soonest: Option<Room<'a>> = None;
        for line in self.lines_of(home) {
            let mut taken = 0;
            let mut free: Option<(u64, Room<'a>)> = None;
            for slot in &line.slots {
                let word = load(slot);
                taken += usize::from(word != Word::FREE);
                if word.is_unconfirmed() {
                    continue;
                }
                if word != Word::FREE && word.generation() != era.generation % 4 {
                    self.settle(slot, word, era);
                    return None;
                }
                let live = word.full_at(era.now.tick);
                let room = Room { slot, word, live };
                let full_since = word.full_since(era.now.tick);
                if live.is_some() {
                    if soonest.as_ref().is_none_or(|least| live < least.live) {
                        soonest = Some(room);
                    }
                } else if free.as_ref().is_none_or(|(least, _)| full_since < *least) {
                    free = Some((full_since, room));
                }
            }
            if let Some((full_since, room)) = free {
                let rank = (full_since, taken);
                if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                    best = Some((rank, room));
                }
                if full_since == 0 && taken < Self::CROWDED {
                    break;
                }
            }
        }
        best.map(|(_, room)| room).or(soonest)
    }

    /// Places a new bucket for a key that has none. Fails if others were faster. No two makers at a time may have the same number.
    fn place<'a>(&self, home: &Home<'_>, room: &Room<'a>, maker: u64) -> Attempt<New<'a>> {
        let new = New { slot: room.slot, word: Word::unconfirmed(home.tag, maker) };
        if !replace(room.slot, room.word, new.word) {
            return None;
        }
        if room.live.is_some() {
            self.live_evictions.fetch_add(1, Relaxed);
        }
        Some(new)
    }

    /// Makes a new bucket the key's, unless someone else has made or is making one, too.
    fn confirm(&self, home: &Home<'_>, new: New<'_>, ordinary: Word) -> bool {
        // Of two makers, the one whose fence is later sees what the other placed.
        fence(SeqCst);
        for other in self.slots(home).filter(|other| !std::ptr::eq(*other, new.slot)) {
            let word = load(other);
            if word.tag() != home.tag || word.is_unconfirmed() && replace(other, word, Word::FREE) {
                continue;
            }
            replace(new.slot, new.word, Word::FREE);
            return false;
        }
        replace(new.slot, new.word, ordinary)
    }

    /// Makes sure that every time in the line can be told from those of other rounds and quotas. Not possible if that moment is long past.
    #[inline]
    fn enter(&self, line: &Line, era: &Era, clock: &impl Fn() -> u64) -> bool {
        era.covers(line.header.load(Acquire)) || self.renew(line, era, clock)
    }

    #[cold]
    fn renew(&self, line: &Line, era: &Era, clock: &impl Fn() -> u64) -> bool {
        loop {
            let header = line.header.load(Acquire);
            if era.covers(header) {
                return true;
            }
            // If the line is ahead, either this caller has slept since it read the clock, or the clock has gone back.
            if header > era.header() && header.wrapping_sub(self.era(clock()).header()) as i64 <= 1
            {
                return false;
            }
            let generation = header >> 32;
            let words = line.slots.each_ref().map(load);
            fence(Acquire);
            // Had someone else renewed the line meanwhile, the words might be young, and not ours to judge.
            if line.header.load(Relaxed) != header {
                continue;
            }
            let clock = self.gcras[generation as usize % 4].load().now(era.nanos).tick;
            let epochs = (clock >> Line::EPOCH_BITS).abs_diff(header & u64::from(u32::MAX));
            for (slot, word) in line.slots.iter().zip(words) {
                if word == Word::FREE {
                } else if epochs > 1 || word.is_unconfirmed() {
                    replace(slot, word, Word::FREE);
                } else if word.generation() != era.generation % 4 {
                    self.settle(slot, word, era);
                } else if word.full_at(clock).is_none() {
                    replace(slot, word, Word::FREE);
                }
            }
            if line.header.compare_exchange(header, era.header(), Release, Relaxed).is_ok() {
                return true;
            }
        }
    }
}

/// `hash` as a number less than `to`.
#[inline]
const fn scaled(hash: u64, to: usize) -> usize {
    (((hash >> 32) * to as u64) >> 32) as usize
}

/// Where a key may be.
#[derive(Debug)]
pub(crate) struct Home<'a> {
    hash: u64,
    tag: u64,
    first: &'a Line,
    /// As the first line showed it.
    header: u64,
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
    /// When the bucket in it is full, if it is not yet.
    live: Option<u64>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    /// The latest quota and epoch in which the line was used: the generation above, the epoch below. Slots are written only by those who have
    /// seen it current.
    header: AtomicU64,
    slots: [AtomicU64; 7],
}

impl Line {
    const EPOCH_BITS: u32 = Word::TIME_BITS - 2;

    /// The confirmed bucket with that tag.
    #[inline(always)]
    fn find(&self, tag: u64) -> Option<(&AtomicU64, Word)> {
        // All slots are compared before the first branch: which one it is cannot be foretold.
        let found = self.slots.iter().enumerate().fold(0_u32, |found, (index, slot)| {
            found | u32::from(load(slot).is_ordinary(tag)) << index
        });
        let slot = self.slots.get(found.trailing_zeros() as usize)?;
        let word = load(slot);
        word.is_ordinary(tag).then_some((slot, word))
    }
}

/// A slot's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    /// No tag is 0.
    const FREE: Self = Self(0);
    const TIME_BITS: u32 = 38;
    const TIME: u64 = (1 << Self::TIME_BITS) - 1;
    const NEW: u64 = 1 << (Self::TIME_BITS + 2);
    const TAG_SHIFT: u32 = Self::TIME_BITS + 3;
    const TAG: u64 = u64::MAX >> Self::TAG_SHIFT;

    /// Times up to here ahead of the clock are in the future, all others in the past. One epoch is the most that a burst needs; the
    /// other half is for callers whose clock is a little behind.
    const FUTURE: u64 = 3 << (Self::TIME_BITS - 3);

    #[inline]
    const fn new(tag: u64, generation: u64, full_at: u64) -> Self {
        Self(tag << Self::TAG_SHIFT | (generation % 4) << Self::TIME_BITS | full_at & Self::TIME)
    }

    /// With the number of its maker in place of a time, so that no maker takes another's for its own.
    const fn unconfirmed(tag: u64, maker: u64) -> Self {
        Self(tag << Self::TAG_SHIFT | Self::NEW | maker & (Self::NEW - 1))
    }

    const fn tag(self) -> u64 {
        self.0 >> Self::TAG_SHIFT
    }

    const fn is_unconfirmed(self) -> bool {
        self.0 & Self::NEW != 0
    }

    #[inline]
    const fn is_ordinary(self, tag: u64) -> bool {
        self.0 ^ tag << Self::TAG_SHIFT < Self::NEW
    }

    /// The last two bits of the generation of its quota.
    #[inline]
    const fn generation(self) -> u64 {
        self.0 >> Self::TIME_BITS & 3
    }

    /// The tick at which the bucket is full; none if it is full already.
    #[inline]
    const fn full_at(self, clock: u64) -> Option<u64> {
        let ahead = self.0.wrapping_sub(clock) & Self::TIME;
        if self.0 != 0 && ahead != 0 && ahead < Self::FUTURE { Some(clock + ahead) } else { None }
    }

    /// Less, the longer a full bucket has been full; 0 for a free slot.
    const fn full_since(self, clock: u64) -> u64 {
        if self.0 == 0 { 0 } else { 1 + Self::TIME - (clock.wrapping_sub(self.0) & Self::TIME) }
    }
}

#[inline]
fn load(slot: &AtomicU64) -> Word {
    Word(slot.load(Relaxed))
}

/// A bucket is all in one word, and says nothing about any other memory; so relaxed order will do.
#[inline]
fn replace(slot: &AtomicU64, old: Word, new: Word) -> bool {
    slot.compare_exchange(old.0, new.0, Relaxed, Relaxed).is_ok()
}

#[cfg(test)]
mod tests;
