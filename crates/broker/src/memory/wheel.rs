//! Which slots come due when: a hierarchical timer wheel (Varghese and Lauck, "Hashed and hierarchical timing wheels", 1987).
//!
//! Time is in ticks. The lowest level has a bucket for each of 64 ticks, the next for each of 64 spans of 64 ticks, and so on. A slot lies at
//! the level of the highest digit (to base 64) in which its tick differs from now; when now reaches its bucket, it moves to a lower
//! level. So it moves at most as often as there are levels, and what is due at the same tick comes in the order of insertion.
//!
//! A bucket is a list of [blocks](Blocks): half a million slots fit into no cache, and in a list of single ones each is waited for in turn.

mod blocks;

use self::blocks::{Block, Blocks, List, Spot};

const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;
/// 64^7 milliseconds are 139 years.
const LEVELS: usize = 7;
const OUT: u16 = u16::MAX;

#[derive(Debug)]
pub(crate) struct Wheel {
    now: u64,
    buckets: Box<[List; BUCKETS * LEVELS]>,
    /// A bit for each bucket that is not empty.
    occupied: [u64; LEVELS],
    blocks: Blocks,
    /// One for each slot.
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    tick: u64,
    spot: Spot,
    /// [`OUT`] if the slot is not in the wheel.
    bucket: u16,
}

/// Slots that come due at one tick, in their order.
#[derive(Debug)]
pub(crate) struct Due(Block);

impl Due {
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.numbers()
    }
}

impl Wheel {
    pub(crate) fn new(now: u64) -> Self {
        let buckets = Box::new([List::EMPTY; BUCKETS * LEVELS]);
        Self { now, buckets, occupied: [0; LEVELS], blocks: Blocks::new(), places: Vec::new() }
    }

    /// Puts in `slot`, to come at `tick`, or at once if that has passed.
    pub(crate) fn insert(&mut self, slot: u32, tick: u64) {
        self.remove(slot);
        let place = slot as usize;
        if self.places.len() <= place {
            let out = Place { tick: 0, spot: Spot::NOWHERE, bucket: OUT };
            self.places.resize(place + 1, out);
        }
        self.places[place].tick = tick.max(self.now);
        self.place(slot);
    }

    /// Whether it was in.
    pub(crate) fn remove(&mut self, slot: u32) -> bool {
        let Some(place) = self.places.get_mut(slot as usize).filter(|place| place.bucket != OUT)
        else {
            return false;
        };
        let (bucket, spot) = (place.bucket as usize, place.spot);
        place.bucket = OUT;
        self.blocks.remove(&mut self.buckets[bucket], spot);
        self.note_emptied(bucket);
        true
    }

    /// Takes out some of what is due first, if that is not after `now`. Once there is none, the wheel stands at `now`.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<Due> {
        while let Some((level, bucket, begins)) = self.first_bucket() {
            if begins > now {
                break;
            }
            self.now = self.now.max(begins);
            if level == 0 {
                let block = self.blocks.pop(&mut self.buckets[bucket])?;
                self.note_emptied(bucket);
                for slot in block.numbers() {
                    self.places[slot as usize].bucket = OUT;
                }
                return Some(Due(block));
            }
            // To lower levels, in its order.
            while let Some(block) = self.blocks.pop(&mut self.buckets[bucket]) {
                block.numbers().for_each(|slot| self.place(slot));
            }
            self.note_emptied(bucket);
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
                let bucket = self.buckets[level * BUCKETS + left.trailing_zeros() as usize];
                for slot in self.blocks.numbers(bucket).filter(|slot| wanted(*slot)) {
                    let tick = self.places[slot as usize].tick;
                    if best.is_none_or(|(first, _)| tick < first) {
                        best = Some((tick, slot));
                    }
                }
                left &= left - 1;
            }
        }
        let (_, slot) = best?;
        self.remove(slot);
        Some(slot)
    }

    /// When it is worth while to [take](Self::take_due) again; nothing is due before.
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

    fn note_emptied(&mut self, bucket: usize) {
        if self.buckets[bucket].is_empty() {
            self.occupied[bucket / BUCKETS] &= !(1 << (bucket % BUCKETS));
        }
    }

    fn place(&mut self, slot: u32) {
        let place = &mut self.places[slot as usize];
        let differs = (place.tick ^ self.now) | (BUCKETS as u64 - 1);
        let level = ((63 - differs.leading_zeros()) / BITS).min(LEVELS as u32 - 1);
        let index = (place.tick >> (BITS * level)) as usize % BUCKETS;
        let bucket = level as usize * BUCKETS + index;
        place.bucket = bucket as u16;
        place.spot = self.blocks.push(&mut self.buckets[bucket], slot);
        self.occupied[level as usize] |= 1 << index;
    }
}

#[cfg(test)]
mod tests;
