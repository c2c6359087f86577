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

mod era;
mod line;
pub(crate) mod newcomer;
mod word;

use crate::{
    Level, Quota,
    gcra::{Gcra, GcraCell, SLACK, Unmet},
    sync::{Acquire, AtomicBool, AtomicU64, Mutex, Relaxed, hint},
};

pub(crate) use self::{
    era::Era,
    line::{Home, Line, Seen},
    word::Word,
};

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) lines: Box<[Line]>,
    /// How often the quota was changed.
    generation: AtomicU64,
    /// The last four, by generation. An older one is overwritten while a caller may still hold on to it only if that caller slept through
    /// four changes; it may then leave a wrong bucket, which is full after one burst at the latest.
    pub(crate) gcras: [GcraCell; 4],
    quota: Mutex<Quota>,
    /// Held while the lines are visited, by those who change the quota only.
    changing: Mutex<()>,
    refuse_new: AtomicBool,
    live_evictions: AtomicU64,
    refused_new: AtomicU64,
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
            changing: Mutex::new(()),
            refuse_new: AtomicBool::new(false),
            live_evictions: AtomicU64::new(0),
            refused_new: AtomicU64::new(0),
        }
    }

    /// Takes `tokens` if the bucket is in the first line of `home`, has as many, and nobody comes between. The short path of most calls;
    /// [`take`](Self::take) decides about all others.
    #[inline(always)]
    pub(crate) fn take_now(&self, home: &Home<'_>, tokens: u32, nanos: u64) -> Option<Level> {
        let era = self.era(nanos);
        if !era.covers(home.header) {
            return None;
        }
        let seen = match home.first.find(home.tag) {
            Some(seen) => seen,
            None => self.find_second(home, &era)?,
        };
        if seen.word.generation() != era.generation % 4 {
            return None;
        }
        let spent = self.draw(seen, era.gcra.cost(tokens).ok()?, &era)?.ok()?;
        Some(era.gcra.level(spent, era.now))
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
                let full_at = found.and_then(|seen| seen.word.full_at(era.now.tick));
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
                Some(Some(seen)) => {
                    let now = era.now.tick;
                    let Some(full_at) = seen.word.full_at(now) else { return };
                    let cost = era.gcra.cost(tokens).unwrap_or(era.gcra.burst_ticks());
                    let without = full_at.saturating_sub(cost).max(now);
                    if seen.replace(era.word(home.tag, without)) {
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

    fn attempt(
        &self,
        home: &Home<'_>,
        cost: u64,
        era: &Era,
        clock: &impl Fn() -> u64,
    ) -> Attempt<Result<u64, u64>> {
        match self.find(home, era, clock)? {
            Some(seen) => {
                let drawn = self.draw(seen, cost, era)?;
                let another_time = drawn.is_err() && self.came_from_another_time(seen, clock);
                (!another_time).then_some(drawn)
            }
            None => self.make(home, cost, era),
        }
    }

    /// Takes from a bucket of the present quota. Gives the tick at which it is then full, or at which it would be allowed.
    #[inline(always)]
    fn draw(&self, seen: Seen<'_>, cost: u64, era: &Era) -> Attempt<Result<u64, u64>> {
        let full_at = seen.word.full_at(era.now.tick).unwrap_or(era.now.tick);
        match era.gcra.take(full_at, cost, era.now, era.now.tick) {
            Ok(spent) => seen.replace(era.word(seen.word.tag(), spent)).then_some(Ok(spent)),
            Err(allowed_at) => Some(Err(allowed_at)),
        }
    }

    /// If a bucket is full later than it can be, the clock has gone back since. It is then taken for an empty one, so that nobody is locked
    /// out for longer than that takes to fill.
    #[cold]
    fn came_from_another_time(&self, seen: Seen<'_>, clock: &impl Fn() -> u64) -> bool {
        // Read after the bucket: whatever that shows was done by clocks that did not show more than this one.
        let era = self.era(clock());
        let last = era.gcra.tick_after(era.now, SLACK) + era.gcra.burst_ticks();
        if seen.word.full_at(era.now.tick).is_none_or(|full_at| full_at <= last) {
            return false;
        }
        if seen.word.generation() == era.generation % 4 {
            // If that fails, someone else saw to it.
            seen.replace(era.word(seen.word.tag(), era.gcra.empty(era.now)));
        }
        true
    }

    /// The key's bucket. It may be full; it is the key's all the same, and must not be had twice.
    pub(crate) fn find<'a>(
        &'a self,
        home: &Home<'a>,
        era: &Era,
        clock: &impl Fn() -> u64,
    ) -> Attempt<Option<Seen<'a>>> {
        for line in self.lines_of(home) {
            if !self.enter(line, era, clock) {
                return None;
            }
            match line.find(home.tag) {
                Some(seen) if seen.word.generation() != era.generation % 4 => {
                    self.settle(seen, era);
                    return None;
                }
                Some(seen) => return Some(Some(seen)),
                None => {}
            }
        }
        Some(None)
    }

    #[inline(never)]
    fn find_second<'a>(&'a self, home: &Home<'a>, era: &Era) -> Option<Seen<'a>> {
        let [_, second] = self.lines_of(home);
        if era.covers(second.header.load(Acquire)) { second.find(home.tag) } else { None }
    }
}
