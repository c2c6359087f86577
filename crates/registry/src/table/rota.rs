//! Which instances are to be looked at in which tick.

use std::time::Duration;

use super::board::{BLOCK, Board, blocks};

/// A round that does not follow heartbeats: 64 neighbours are looked at when the first of them would be silent had it not been heard of
/// since, and then know when that is the next time. All of a slot in use are looked at once in a TTL, most no oftener, and in order of memory.
#[derive(Debug)]
pub(crate) struct Rota<O> {
    interval: Duration,
    /// When the next tick is due.
    due: Duration,
    /// Ticks until silence; no look is further ahead.
    span: u64,
    turns: Turns,
    /// In which tick each block is looked at.
    blocks: Vec<u64>,
    /// Whose slot it is.
    owners: Vec<Option<O>>,
    free: Vec<u32>,
}

/// Each block has its turn once in so many ticks, or all would be looked at in one tick for ever once they had registered in one.
#[derive(Clone, Copy, Debug)]
struct Turns(u64);

impl Turns {
    /// The last turn of the block after `tick` and not after `latest`; that itself if there is none.
    fn last(self, block: u32, tick: u64, latest: u64) -> u64 {
        // Eight blocks are a page of memory.
        let own = u64::from(block / 8) % self.0;
        let turn = latest - (latest % self.0 + self.0 - own) % self.0;
        if turn > tick { turn } else { latest }
    }
}

impl<O: Clone> Rota<O> {
    pub(crate) const fn new(interval: Duration, span: u64) -> Self {
        Self {
            interval,
            due: interval,
            span,
            // Who beats every third of the TTL can be left alone for the rest of it.
            turns: Turns(span * 2 / 3),
            blocks: Vec::new(),
            owners: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) const fn due(&self) -> Duration {
        self.due
    }

    /// A free slot for `owner`. `None` if there are 2^32 of them.
    pub(crate) fn allocate(&mut self, owner: O, tick: u64) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            // The last chunk of the board is not full.
            None => {
                u32::try_from(self.owners.len()).ok().filter(|&index| index < u32::MAX - 1_024)?
            }
        };
        let place = index as usize;
        if place == self.owners.len() {
            self.owners.push(None);
            self.blocks.resize(blocks(self.owners.len()).end, u64::MAX);
        }
        self.owners[place] = Some(owner);
        self.put(index, tick + self.span, tick);
        Some(index)
    }

    pub(crate) fn release(&mut self, index: u32) {
        if self.owners[index as usize].take().is_some() {
            self.free.push(index);
        }
    }

    /// The slot is to be looked at in tick `due`, or sooner.
    pub(crate) fn put(&mut self, index: u32, due: u64, tick: u64) {
        let block = &mut self.blocks[(index / BLOCK) as usize];
        // Who is heard of again after being put far ahead may be silent a TTL later.
        *block = due.clamp(tick + 1, tick + self.span).min(*block);
    }

    /// Begins the next tick, if its time has come.
    ///
    /// Returns what is to be looked at, each of which has to be [put](Rota::put) back. A tick that comes more than an interval late was
    /// late because we stood still, and is the only one for all that time.
    pub(crate) fn advance(&mut self, board: &Board, now: Duration) -> Option<Vec<(u32, O)>> {
        let late = now.checked_sub(self.due)?;
        let from = if late > self.interval { now } else { self.due };
        self.due = from.saturating_add(self.interval);
        let tick = board.advance(now);
        let mut entries = Vec::new();
        for (number, next) in (0..).zip(&mut self.blocks) {
            if *next > tick {
                continue;
            }
            *next = tick + self.span;
            for (index, seen) in board.block(number) {
                let silent_at = seen.tick() + self.span;
                if !seen.is_slow() && silent_at > tick {
                    *next = silent_at.min(*next);
                } else if let Some(Some(owner)) = self.owners.get(index as usize) {
                    entries.push((index, owner.clone()));
                }
            }
            *next = self.turns.last(number, tick, *next);
        }
        Some(entries)
    }
}

#[cfg(test)]
mod tests;
