//! Which instances are to be looked at in which tick.

use std::{mem::take, time::Duration};

use super::Board;

/// A timer wheel that does not follow heartbeats: an entry is looked at when its instance would be silent had it not been heard of
/// since, and goes on to where it belongs now. Every slot that was ever used has exactly one entry, so there are no more of them than instances at once.
#[derive(Debug)]
pub(crate) struct Wheel<O> {
    interval: Duration,
    /// When the next tick is due.
    due: Duration,
    /// Ticks until silence; no entry is further ahead.
    span: u64,
    buckets: Vec<Vec<u32>>,
    /// Kept for its memory.
    spare: Vec<u32>,
    /// Whose slot it is.
    owners: Vec<Option<O>>,
    free: Vec<u32>,
}

impl<O: Clone> Wheel<O> {
    pub(crate) fn new(interval: Duration, span: u64) -> Self {
        Self {
            interval,
            due: interval,
            span,
            // A power of two: a division for each entry would be half of what a tick costs.
            buckets: (0..(span + 1).next_power_of_two()).map(|_| Vec::new()).collect(),
            spare: Vec::new(),
            owners: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) const fn due(&self) -> Duration {
        self.due
    }

    /// A free slot for `owner`. `None` if there are 2^32 of them.
    pub(crate) fn allocate(&mut self, owner: O, tick: u64) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            self.owners[index as usize] = Some(owner);
            return Some(index);
        }
        // The last chunk of the board is not full.
        let index =
            u32::try_from(self.owners.len()).ok().filter(|&index| index < u32::MAX - 1_024)?;
        self.owners.push(Some(owner));
        self.put(index, tick + self.span, tick);
        Some(index)
    }

    pub(crate) fn release(&mut self, index: u32) {
        if self.owners[index as usize].take().is_some() {
            self.free.push(index);
        }
    }

    /// The entry is to be looked at in tick `due`, or sooner.
    pub(crate) fn put(&mut self, index: u32, due: u64, tick: u64) {
        let due = due.clamp(tick + 1, tick + self.span);
        let place = self.place(due);
        self.buckets[place].push(index);
    }

    #[allow(clippy::cast_possible_truncation, reason = "what is cut off is masked out")]
    fn place(&self, tick: u64) -> usize {
        tick as usize & (self.buckets.len() - 1)
    }

    /// Begins the next tick, if its time has come.
    ///
    /// Returns what is to be looked at, each of which has to be [put](Wheel::put) back. A tick that comes more than an interval late was late because we stood still, and is the only one for all that time.
    pub(crate) fn advance(&mut self, board: &Board, now: Duration) -> Option<Vec<(u32, O)>> {
        let late = now.checked_sub(self.due)?;
        let from = if late > self.interval { now } else { self.due };
        self.due = from.saturating_add(self.interval);
        let tick = board.advance(now);
        let place = self.place(tick);
        let mut bucket = std::mem::replace(&mut self.buckets[place], take(&mut self.spare));
        let mut entries = Vec::new();
        // All are read before any is judged: the processor then waits for many at once.
        let looked: Vec<_> = bucket.drain(..).map(|index| (index, board.look(index))).collect();
        for (index, (seen, slow)) in looked {
            if !slow && seen + self.span > tick {
                self.put(index, seen + self.span, tick);
            } else if let Some(owner) = &self.owners[index as usize] {
                entries.push((index, owner.clone()));
            } else {
                self.put(index, tick + self.span, tick);
            }
        }
        self.spare = bucket;
        Some(entries)
    }
}
