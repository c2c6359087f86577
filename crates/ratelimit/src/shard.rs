//! Buckets with their keys, in a table of fixed size that one lock guards.
//!
//! Open addressing with linear probing; what is removed is closed up, so there are no tombstones. A bucket that is full is as good as none: each new
//! key looks at a few slots where the last one left off, and frees those whose buckets are full. So the work is spread over the
//! newcomers, and never a sweep.

use crate::gcra::{Gcra, Now, SLACK, Unmet};

#[derive(Debug)]
pub(crate) struct Shard<K> {
    gcra: Gcra,
    /// A power of two, with some always free, so that each search ends.
    slots: Box<[Option<Entry<K>>]>,
    used: usize,
    most: usize,
    hand: usize,
}

#[derive(Debug)]
struct Entry<K> {
    hash: u64,
    key: K,
    full_at: u64,
}

/// A key that was looked for.
pub(crate) struct Wanted<F> {
    pub(crate) hash: u64,
    pub(crate) is: F,
}

/// What came of an attempt to take.
pub(crate) enum Taken<K> {
    Done(Gcra, Now, u64),
    Unmet(Unmet),
    /// The key is new, and was not at hand.
    New,
    /// Likewise, and there is no room for it until then.
    NoRoom(Unmet),
    /// The key is new, has its bucket, and others are gone for it, the last of them perhaps before its time.
    Made(Gcra, Now, u64, Gone<K>),
}

/// Keys that lost their buckets, to be dropped outside of the lock.
pub(crate) struct Gone<K> {
    pub(crate) keys: [Option<K>; Shard::<()>::LOOKS + 1],
    pub(crate) live: bool,
}

/// A new key.
pub(crate) struct Newcomer<K> {
    pub(crate) key: K,
    pub(crate) refuse_if_full: bool,
}

impl<K> Shard<K> {
    /// Slots that a new key looks at to free them. Two, for then a table is freed faster than it fills.
    const LOOKS: usize = 2;

    /// Where there is no room: slots that a new key then looks at for a full bucket, and for the live one that makes room. Some microsecond's
    /// worth, whatever the number of keys.
    pub(crate) const SEARCH: usize = 256;

    pub(crate) fn new(gcra: Gcra, most: usize) -> Self {
        let slots = (most + most / 3 + 1).next_power_of_two();
        let slots = std::iter::repeat_with(|| None).take(slots).collect();
        Self { gcra, slots, used: 0, most, hand: 0 }
    }

    /// Takes `tokens` from the bucket of the key. A new one is made if there is a `newcomer`, which stays where it is otherwise: it is not to be
    /// dropped under the lock.
    pub(crate) fn take(
        &mut self,
        wanted: &Wanted<impl Fn(&K) -> bool>,
        newcomer: &mut Option<Newcomer<K>>,
        tokens: u32,
        nanos: u64,
    ) -> Taken<K> {
        let (gcra, now) = (self.gcra, self.gcra.now(nanos));
        let cost = match gcra.cost(tokens) {
            Ok(cost) => cost,
            Err(costly) => return Taken::Unmet(Unmet::TooCostly(costly)),
        };
        match self.find(wanted) {
            Ok(index) => {
                let Some(entry) = &mut self.slots[index] else { return Taken::New };
                // Later than it can be: the clock has gone back.
                if entry.full_at > gcra.tick_after(now, SLACK) + gcra.burst_ticks() {
                    entry.full_at = gcra.empty(now);
                }
                match gcra.take(entry.full_at, cost, now, now.tick) {
                    Ok(full_at) => {
                        entry.full_at = full_at;
                        Taken::Done(gcra, now, full_at)
                    }
                    Err(allowed_at) => Taken::Unmet(Unmet::Until(gcra, now, allowed_at)),
                }
            }
            Err(_) if cost == 0 => Taken::Done(gcra, now, now.tick),
            Err(_) => self.make(wanted, newcomer, now.tick + cost, now),
        }
    }

    fn make(
        &mut self,
        wanted: &Wanted<impl Fn(&K) -> bool>,
        newcomer: &mut Option<Newcomer<K>>,
        full_at: u64,
        now: Now,
    ) -> Taken<K> {
        let Some(refuse_if_full) = newcomer.as_ref().map(|new| new.refuse_if_full) else {
            return Taken::New;
        };
        let mut gone = Gone { keys: [const { None }; Shard::<()>::LOOKS + 1], live: false };
        for key in &mut gone.keys[..Self::LOOKS] {
            let index = self.advance();
            if self.slots[index].as_ref().is_some_and(|entry| entry.full_at <= now.tick) {
                *key = self.remove(index);
            }
        }
        if self.used >= self.most {
            let Some((soonest, index)) = self.soonest(now.tick) else { return Taken::New };
            let live = soonest > now.tick;
            if live && refuse_if_full {
                return Taken::NoRoom(Unmet::Until(self.gcra, now, soonest));
            }
            gone.live = live;
            gone.keys[Self::LOOKS] = self.remove(index);
        }
        // Where it belongs may have changed with what was removed.
        let mut index = self.start(wanted.hash);
        while self.slots[index].is_some() {
            index = self.next(index);
        }
        let Some(Newcomer { key, .. }) = newcomer.take() else { return Taken::New };
        self.slots[index] = Some(Entry { hash: wanted.hash, key, full_at });
        self.used += 1;
        Taken::Made(self.gcra, now, full_at, gone)
    }

    /// The tick at which the bucket of the key is full.
    pub(crate) fn look(
        &self,
        wanted: &Wanted<impl Fn(&K) -> bool>,
        nanos: u64,
    ) -> (Gcra, Now, u64) {
        let now = self.gcra.now(nanos);
        let found = self.find(wanted).ok().and_then(|index| self.slots[index].as_ref());
        let full_at = found.map_or(now.tick, |entry| entry.full_at.min(self.gcra.empty(now)));
        (self.gcra, now, full_at)
    }

    pub(crate) fn give_back(&mut self, wanted: &Wanted<impl Fn(&K) -> bool>, tokens: u32) {
        let cost = self.gcra.cost(tokens).unwrap_or(self.gcra.burst_ticks());
        if let Ok(index) = self.find(wanted) {
            if let Some(entry) = &mut self.slots[index] {
                entry.full_at = entry.full_at.saturating_sub(cost);
            }
        }
    }

    /// Another quota; spent tokens stay spent.
    pub(crate) fn set_gcra(&mut self, gcra: Gcra, nanos: u64) {
        for entry in self.slots.iter_mut().flatten() {
            entry.full_at = gcra.carried(&self.gcra, entry.full_at, nanos);
        }
        self.gcra = gcra;
    }

    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    /// Where the key is, or where it would be.
    fn find(&self, wanted: &Wanted<impl Fn(&K) -> bool>) -> Result<usize, usize> {
        let mut index = self.start(wanted.hash);
        loop {
            match &self.slots[index] {
                None => return Err(index),
                Some(entry) if entry.hash == wanted.hash && (wanted.is)(&entry.key) => {
                    return Ok(index);
                }
                Some(_) => index = self.next(index),
            }
        }
    }

    /// Of some buckets beyond the hand, the first that is full, or the one that is soonest: the tick, and where.
    fn soonest(&mut self, now: u64) -> Option<(u64, usize)> {
        let mut soonest: Option<(u64, usize)> = None;
        for _ in 0..self.slots.len().min(Self::SEARCH) {
            let index = self.advance();
            if let Some(entry) = &self.slots[index] {
                if soonest.is_none_or(|(least, _)| entry.full_at < least) {
                    soonest = Some((entry.full_at, index));
                }
                if entry.full_at <= now {
                    break;
                }
            }
        }
        soonest
    }

    /// Empties a slot, and moves up those behind it that would no longer be found.
    fn remove(&mut self, index: usize) -> Option<K> {
        let entry = self.slots[index].take()?;
        self.used -= 1;
        let (mut hole, mut index) = (index, self.next(index));
        while let Some(entry) = &self.slots[index] {
            let mask = self.slots.len() - 1;
            let from_start = index.wrapping_sub(self.start(entry.hash)) & mask;
            if from_start >= index.wrapping_sub(hole) & mask {
                self.slots.swap(hole, index);
                hole = index;
            }
            index = self.next(index);
        }
        Some(entry.key)
    }

    fn advance(&mut self) -> usize {
        self.hand = self.next(self.hand);
        self.hand
    }

    const fn start(&self, hash: u64) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    const fn next(&self, index: usize) -> usize {
        (index + 1) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests;
