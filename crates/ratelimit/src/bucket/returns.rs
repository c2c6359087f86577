//! Tokens that come back unused.

use std::collections::BTreeMap;

use super::{Bucket, Place};
use crate::{
    Quota,
    gcra::{Gcra, Now},
    sync::Relaxed,
};

/// What is needed off the path of a call only.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) quota: Quota,
    /// Places that were given up, by their ends.
    pub(crate) gaps: BTreeMap<u64, Gap>,
    pub(crate) wasted: u64,
}

#[derive(Debug)]
pub(crate) struct Gap {
    start: u64,
    tokens: u32,
}

impl Bucket {
    /// More gaps than these are not remembered; the one that passes soonest is forgotten then, as the least likely to be given back.
    pub(crate) const MOST_GAPS: usize = 1024;

    /// Takes back what a caller of that `generation` has not used.
    ///
    /// If nobody waits, that is as if it had never been taken. Else only the last place of the queue can be given back: those behind another one
    /// were promised their times, and a newcomer put into the gap would overtake them. But once all behind the gap have left as
    /// well, it is at the end, and is given back, too; therefore gaps are remembered until their time has passed.
    pub(crate) fn give_back(&self, place: &Place, generation: u64, nanos: u64) {
        // While this is held, the quota does not change.
        let mut rest = self.rest();
        let gcra = self.gcra.load();
        let now = gcra.now(nanos);
        rest.forget_gaps(|end| gcra.allowed_at(end) <= now.tick);
        if self.give_back_unless_queued(place.tokens, &gcra, now) {
            return;
        }
        if generation != self.generation() {
            rest.wasted += u64::from(place.tokens);
            return;
        }
        let gap = Gap { start: place.end - place.cost, tokens: place.tokens };
        rest.gaps.insert(place.end, gap);
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
        if !self.give_back_unless_queued(tokens, &gcra, gcra.now(nanos)) {
            rest.wasted += u64::from(tokens);
        }
    }

    fn give_back_unless_queued(&self, tokens: u32, gcra: &Gcra, now: Now) -> bool {
        let cost = gcra.cost(tokens).unwrap_or(gcra.burst_ticks());
        let unless =
            |full_at: u64| (full_at <= gcra.empty(now)).then_some(full_at.saturating_sub(cost));
        self.full_at.fetch_update(Relaxed, Relaxed, unless).is_ok()
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
        Self { quota, gaps: BTreeMap::new(), wasted: 0 }
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
