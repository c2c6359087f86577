//! Which quota and which round of the clock a line shows, and how it gets from one to the next.

use super::{Line, Seen, Table, Word};
use crate::{
    Quota,
    gcra::{Gcra, Now},
    sync::{Acquire, MutexGuard, PoisonError, Relaxed, Release, fence},
};

/// A quota, and a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Era {
    pub(crate) gcra: Gcra,
    pub(crate) now: Now,
    pub(crate) generation: u64,
    pub(crate) nanos: u64,
}

impl Era {
    /// What a line shows that is up to date.
    pub(crate) const fn header(&self) -> u64 {
        self.generation << 32 | self.now.tick >> Line::EPOCH_BITS
    }

    /// Whether a line that shows `header` may be used. Another thread's clock may be a little ahead, and so may be a line.
    #[inline(always)]
    pub(crate) const fn covers(&self, header: u64) -> bool {
        header.wrapping_sub(self.header()) <= 1
    }

    /// A bucket that is full at that tick.
    #[inline]
    pub(crate) const fn word(&self, tag: u64, full_at: u64) -> Word {
        Word::new(tag, self.generation, full_at)
    }
}

impl Table {
    #[inline(always)]
    pub(crate) fn era(&self, nanos: u64) -> Era {
        let generation = self.generation.load(Acquire);
        let gcra = self.gcras[generation as usize % 4].load();
        Era { gcra, now: gcra.now(nanos), generation, nanos }
    }

    pub(crate) fn quota_lock(&self) -> MutexGuard<'_, Quota> {
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
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation.load(Relaxed) + 1;
        self.gcras[generation as usize % 4].store(Gcra::new(quota, Self::BURST_BITS));
        // Before the generation: whoever sees that asks for this. And not for as long as the visit takes, for callers ask, too.
        *self.quota_lock() = quota;
        self.generation.store(generation, Release);
        for line in &self.lines {
            while !self.enter(line, &self.era(clock()), clock) {}
        }
    }

    /// Makes sure that every time in the line can be told from those of other rounds and quotas. Not possible if that moment is long past.
    #[inline]
    pub(crate) fn enter(&self, line: &Line, era: &Era, clock: &impl Fn() -> u64) -> bool {
        era.covers(line.header.load(Acquire)) || self.renew(line, era, clock)
    }

    #[cold]
    pub(crate) fn renew(&self, line: &Line, era: &Era, clock: &impl Fn() -> u64) -> bool {
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
            let seen = line.slots.each_ref().map(Seen::in_slot);
            fence(Acquire);
            // Had someone else renewed the line meanwhile, the words might be young, and not ours to judge.
            if line.header.load(Relaxed) != header {
                continue;
            }
            let then = self.gcras[generation as usize % 4].load().now(era.nanos).tick;
            let epochs = (then >> Line::EPOCH_BITS).abs_diff(header & u64::from(u32::MAX));
            for seen in seen {
                let word = seen.word;
                if word == Word::FREE {
                } else if epochs > 1 || word.is_unconfirmed() {
                    seen.replace(Word::FREE);
                } else if word.generation() != era.generation % 4 {
                    self.settle(seen, era);
                } else if word.full_at(era.now.tick).is_none() {
                    seen.replace(Word::FREE);
                }
            }
            if line.header.compare_exchange(header, era.header(), Release, Relaxed).is_ok() {
                return true;
            }
        }
    }

    /// Makes a bucket of an older quota one of the present.
    #[cold]
    pub(crate) fn settle(&self, seen: Seen<'_>, era: &Era) {
        let word = seen.word;
        // With the word, the quota by which it counts.
        fence(Acquire);
        if self.generation.load(Relaxed) != era.generation {
            // It is this caller who is behind.
            return;
        }
        let older = self.gcras[word.generation() as usize].load();
        let then = older.now(era.nanos).tick;
        let carried = match word.full_at(then) {
            Some(full_at) => era.word(word.tag(), era.gcra.carried(&older, full_at, era.nanos)),
            None => Word::FREE,
        };
        seen.replace(carried);
    }
}
