//! Tokens that come back unused.

use std::collections::{BTreeMap, VecDeque};

use super::{Bucket, Place};
use crate::{
    Quota,
    sync::{Relaxed, Release},
};

/// What is needed off the path of a call only.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) quota: Quota,
    /// Places that were given up, by their ends.
    pub(crate) gaps: BTreeMap<u64, Gap>,
    /// The last of those who gave tokens back from before others.
    pub(crate) moves: VecDeque<Move>,
    pub(crate) wasted: u64,
}

#[derive(Debug)]
pub(crate) struct Gap {
    start: u64,
    tokens: u32,
}

/// All places behind `end` have moved to the front by so many ticks.
#[derive(Debug)]
pub(crate) struct Move {
    end: u64,
    by: u64,
}

impl Bucket {
    /// More gaps than these are not remembered; the one that passes soonest is forgotten then, as the least likely to be given back.
    pub(crate) const MOST_GAPS: usize = 1024;

    /// More moves than these are not remembered; whoever took its place before the last so many gives nothing back.
    pub(crate) const MOST_MOVES: usize = 1024;

    /// Takes back what a caller of that `generation` has not used.
    ///
    /// If nobody waits, that is as if it had never been taken, but for what has come back by time already: that is there for all, and must
    /// not come back twice. Else only the last place of the queue can be given back: those behind another one
    /// were promised their times, and a newcomer put into the gap would overtake them. But once all behind the gap have left as
    /// well, it is at the end, and is given back, too; therefore gaps are remembered until their time has passed.
    pub(crate) fn give_back(&self, place: &Place, generation: u64, nanos: u64) {
        if place.cost == 0 {
            return;
        }
        // While this is held, the quota does not change.
        let mut rest = self.rest();
        let gcra = self.gcra.load();
        let now = gcra.now(nanos);
        rest.forget_gaps(|end| gcra.allowed_at(end) <= now.tick);
        let here =
            (generation == self.generation()).then(|| rest.end_of(place, self.moves.load(Relaxed)));
        let Some(end) = here.flatten().filter(|end| *end > now.tick) else {
            rest.wasted += u64::from(place.tokens);
            return;
        };
        let left = place.cost.min(end - now.tick);
        if self.give_back_unless_queued(&mut rest, end, left, gcra.empty(now)) {
            rest.wasted += (place.cost - left).div_ceil(1 << gcra.shift);
            return;
        }
        let gap = Gap { start: end - place.cost, tokens: place.tokens };
        rest.gaps.insert(end, gap);
        loop {
            let tail = self.full_at.load(Relaxed);
            let Some(Gap { start, .. }) = rest.gaps.get(&tail) else { break };
            if self.full_at.compare_exchange(tail, *start, Relaxed, Relaxed).is_ok() {
                rest.gaps.remove(&tail);
            }
        }
        if rest.gaps.len() > Self::MOST_GAPS {
            let mut first = true;
            rest.forget_gaps(|_| std::mem::take(&mut first));
        }
    }

    /// Takes back `tokens` that were just taken without a wait, unless others have queued behind them since.
    pub(crate) fn refund(&self, tokens: u32, nanos: u64) {
        let mut rest = self.rest();
        let gcra = self.gcra.load();
        let cost = gcra.cost(tokens).unwrap_or(gcra.burst_ticks());
        // Where they were is not known, so all others may have moved.
        if !self.give_back_unless_queued(&mut rest, 0, cost, gcra.empty(gcra.now(nanos))) {
            rest.wasted += u64::from(tokens);
        }
    }

    /// Takes back so many ticks up to `end`, unless the bucket is full later than at `empty`.
    fn give_back_unless_queued(&self, rest: &mut Rest, end: u64, left: u64, empty: u64) -> bool {
        let unless = |full_at: u64| {
            // A bucket that is full before `end` was set back with the clock, and counts as empty without these.
            let fewer = if end <= full_at { full_at.saturating_sub(left) } else { full_at };
            (full_at <= empty).then_some(fewer)
        };
        let Ok(was) = self.full_at.fetch_update(Relaxed, Relaxed, unless) else { return false };
        if end < was {
            rest.moves.push_back(Move { end, by: left });
            if rest.moves.len() > Self::MOST_MOVES {
                rest.moves.pop_front();
            }
            // Whoever sees this number takes its place from the bucket as it is now.
            self.moves.fetch_add(1, Release);
        }
        true
    }

    /// Tokens that passed unused because those who had taken them left.
    pub(crate) fn wasted(&self, nanos: u64) -> u64 {
        let mut rest = self.rest();
        let gcra = self.gcra.load();
        let now = gcra.now(nanos);
        rest.forget_gaps(|end| gcra.allowed_at(end) <= now.tick);
        rest.wasted
    }
}

impl Rest {
    pub(crate) const fn new(quota: Quota) -> Self {
        Self { quota, gaps: BTreeMap::new(), moves: VecDeque::new(), wasted: 0 }
    }

    /// Where a place ends by now, after so many moves in all; none if too many are forgotten to tell.
    fn end_of(&self, place: &Place, moves: u64) -> Option<u64> {
        let since = usize::try_from(moves - place.moves).ok()?;
        let first = self.moves.len().checked_sub(since)?;
        let moved = |end: u64, other: &Move| {
            if other.end < end { end.saturating_sub(other.by) } else { end }
        };
        Some(self.moves.range(first..).fold(place.end, moved))
    }

    /// Forgets the first gaps, as long as `done` says so of their ends.
    pub(crate) fn forget_gaps(&mut self, mut done: impl FnMut(u64) -> bool) {
        while let Some(gap) = self.gaps.first_entry() {
            if !done(*gap.key()) {
                break;
            }
            self.wasted += u64::from(gap.remove().tokens);
        }
    }
}
