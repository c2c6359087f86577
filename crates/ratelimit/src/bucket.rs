//! One bucket for all, with a queue that is made of nothing but time.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::gcra::{Gcra, Now};

/// A bucket that is full at a tick.
///
/// Who waits has already taken its tokens: it has pushed that tick further into the future, and whoever
/// comes later finds its own place behind. So the queue is first in, first out, needs no memory of its own, and wakes nobody
/// in vain.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// The only state there is; nothing else is published through it, so relaxed order will do.
    full_at: AtomicU64,
    given_up: Mutex<GivenUp>,
}

/// The ticks that belong to one caller: its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    start: u64,
    /// The bucket is full then, as far as this caller knew.
    pub(crate) end: u64,
}

impl Bucket {
    /// Takes `cost` if that is allowed at tick `latest` or before; otherwise says when it would be.
    pub(crate) fn take(&self, gcra: &Gcra, cost: u64, now: Now, latest: u64) -> Result<Place, u64> {
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            let end = gcra.take(full_at, cost, now, latest)?;
            match self.full_at.compare_exchange_weak(full_at, end, Relaxed, Relaxed) {
                Ok(_) => return Ok(Place { start: end - cost, end }),
                Err(newer) => full_at = newer,
            }
        }
    }

    pub(crate) fn full_at(&self) -> u64 {
        self.full_at.load(Relaxed)
    }

    /// Takes back the place of a caller that waited and left.
    ///
    /// Only the last place of the queue can be given back: those behind another one were promised their times, and
    /// a newcomer put into the gap would overtake them. But once all behind the gap have left as well, it is at the end, and is given
    /// back, too; therefore gaps are remembered until their time has passed.
    pub(crate) fn give_back(&self, gcra: &Gcra, place: Place, now: Now) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.forget(|end| gcra.allowed_at(end) <= now.tick);
        given_up.gaps.insert(place.end, place.start);
        loop {
            let tail = self.full_at.load(Relaxed);
            let Some(&start) = given_up.gaps.get(&tail) else { break };
            if self.full_at.compare_exchange(tail, start, Relaxed, Relaxed).is_ok() {
                given_up.gaps.remove(&tail);
            }
        }
        if given_up.gaps.len() > GivenUp::MOST {
            let mut first = true;
            given_up.forget(|_| std::mem::take(&mut first));
        }
    }

    /// Ticks that passed unused because those who had taken them left.
    pub(crate) fn wasted(&self, gcra: &Gcra, now: Now) -> u64 {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.forget(|end| gcra.allowed_at(end) <= now.tick);
        given_up.wasted
    }
}

/// Gaps in the queue, by their ends.
#[derive(Debug, Default)]
struct GivenUp {
    gaps: BTreeMap<u64, u64>,
    wasted: u64,
}

impl GivenUp {
    /// Beyond this, the gap that passes soonest is forgotten: it is the least likely to be given back.
    const MOST: usize = 1024;

    /// Forgets the first gaps, as long as `done` says so of their ends.
    fn forget(&mut self, mut done: impl FnMut(u64) -> bool) {
        while let Some(gap) = self.gaps.first_entry() {
            if !done(*gap.key()) {
                break;
            }
            self.wasted += gap.key() - gap.get();
            gap.remove();
        }
    }
}

#[cfg(test)]
mod tests;
