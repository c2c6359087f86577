//! Which slots come due when: a hierarchical timer wheel (Varghese and Lauck, "Hashed and hierarchical timing wheels", 1987).
//!
//! Time is in ticks. The lowest level has a bucket for each of 64 ticks, the next for each of 64 spans of 64 ticks, and so on. A slot lies at
//! the level of the highest digit (to base 64) in which its tick differs from now; when now reaches its bucket, it moves to a lower
//! level. So it moves at most as often as there are levels, insertion and removal touch a handful of words, and what is due at
//! the same tick comes in the order of insertion.

const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;
/// 64^7 milliseconds are 139 years.
const LEVELS: usize = 7;
const NONE: u32 = u32::MAX;
const OUT: u16 = u16::MAX;

/// Buckets are lists through `links`, which has a place for each slot.
#[derive(Debug)]
pub(crate) struct Wheel {
    now: u64,
    buckets: Box<[Bucket; BUCKETS * LEVELS]>,
    /// A bit for each bucket that is not empty.
    occupied: [u64; LEVELS],
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    first: u32,
    last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    tick: u64,
    before: u32,
    after: u32,
    /// [`OUT`] if the slot is not in the wheel.
    bucket: u16,
}

impl Wheel {
    pub(crate) fn new(now: u64) -> Self {
        let empty = Bucket { first: NONE, last: NONE };
        Self {
            now,
            buckets: Box::new([empty; BUCKETS * LEVELS]),
            occupied: [0; LEVELS],
            links: Vec::new(),
        }
    }

    /// Puts in `slot`, to come at `tick`, or at once if that has passed.
    pub(crate) fn insert(&mut self, slot: u32, tick: u64) {
        self.remove(slot);
        let out = Link { tick: 0, before: NONE, after: NONE, bucket: OUT };
        let place = slot as usize;
        if self.links.len() <= place {
            self.links.resize(place + 1, out);
        }
        self.links[place].tick = tick.max(self.now);
        self.link(slot);
    }

    /// Whether it was in.
    pub(crate) fn remove(&mut self, slot: u32) -> bool {
        let Some(link) = self.links.get(slot as usize).copied().filter(|link| link.bucket != OUT)
        else {
            return false;
        };
        let bucket = link.bucket as usize;
        match link.before {
            NONE => self.buckets[bucket].first = link.after,
            before => self.links[before as usize].after = link.after,
        }
        match link.after {
            NONE => self.buckets[bucket].last = link.before,
            after => self.links[after as usize].before = link.before,
        }
        if self.buckets[bucket].first == NONE {
            self.occupied[bucket / BUCKETS] &= !(1 << (bucket % BUCKETS));
        }
        self.links[slot as usize].bucket = OUT;
        true
    }

    /// Takes out a slot that is due at `now`. Once there is none, the wheel stands at `now`.
    pub(crate) fn pop(&mut self, now: u64) -> Option<u32> {
        while let Some((level, bucket, begins)) = self.first_bucket() {
            if begins > now {
                break;
            }
            self.now = self.now.max(begins);
            let slot = self.buckets[bucket].first;
            if level == 0 {
                self.remove(slot);
                return Some(slot);
            }
            self.spread(level, bucket);
        }
        self.now = self.now.max(now);
        None
    }

    /// Takes out the slot that comes next, however far off, of those that `wanted` names.
    pub(crate) fn pop_next(&mut self, wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let mut best: Option<(u64, u32)> = None;
        for level in 0..LEVELS {
            let mut left = self.occupied[level];
            while left != 0 && best.is_none() {
                let mut slot = self.buckets[level * BUCKETS + left.trailing_zeros() as usize].first;
                while slot != NONE {
                    let link = self.links[slot as usize];
                    if wanted(slot) && best.is_none_or(|(tick, _)| link.tick < tick) {
                        best = Some((link.tick, slot));
                    }
                    slot = link.after;
                }
                left &= left - 1;
            }
        }
        let (_, slot) = best?;
        self.remove(slot);
        Some(slot)
    }

    /// When it is worth while to [`pop`](Self::pop) again; nothing is due before.
    pub(crate) fn next(&self) -> Option<u64> {
        self.first_bucket().map(|(_, _, begins)| begins)
    }

    /// Level and place of the first bucket that is not empty, and its first tick. All that lies at a lower level comes
    /// before all that lies at a higher one.
    fn first_bucket(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|occupied| *occupied != 0)?;
        // What lies before now's own bucket has been taken out.
        let index = self.occupied[level].trailing_zeros();
        let shift = BITS * level as u32;
        let block = self.now >> (shift + BITS) << (shift + BITS);
        Some((level, level * BUCKETS + index as usize, block | u64::from(index) << shift))
    }

    /// Moves what is in a bucket to lower levels, in its order.
    fn spread(&mut self, level: usize, bucket: usize) {
        let mut slot = std::mem::replace(&mut self.buckets[bucket].first, NONE);
        self.buckets[bucket].last = NONE;
        self.occupied[level] &= !(1 << (bucket % BUCKETS));
        while slot != NONE {
            let after = self.links[slot as usize].after;
            self.link(slot);
            slot = after;
        }
    }

    fn link(&mut self, slot: u32) {
        let tick = self.links[slot as usize].tick;
        let differs = (tick ^ self.now) | (BUCKETS as u64 - 1);
        let level = ((63 - differs.leading_zeros()) / BITS).min(LEVELS as u32 - 1);
        let index = (tick >> (BITS * level)) as usize % BUCKETS;
        let bucket = level as usize * BUCKETS + index;
        let last = self.buckets[bucket].last;
        match last {
            NONE => self.buckets[bucket].first = slot,
            last => self.links[last as usize].after = slot,
        }
        self.buckets[bucket].last = slot;
        self.occupied[level as usize] |= 1 << index;
        let link = &mut self.links[slot as usize];
        (link.before, link.after, link.bucket) = (last, NONE, bucket as u16);
    }
}

#[cfg(test)]
mod tests;
