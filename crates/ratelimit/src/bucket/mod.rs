//! One bucket for all, with a queue that is made of nothing but time.

mod place;
mod returns;
mod waiters;

use std::time::Duration;

use self::returns::Rest;
use crate::{
    Level, Quota,
    gcra::{Gcra, GcraCell, Now, SLACK, Unmet},
    sync::{Acquire, AtomicU64, Mutex, MutexGuard, PoisonError, Relaxed, Release},
};

pub(crate) use self::{place::Place, waiters::Waiters};

/// A bucket that is full at a tick.
///
/// Who waits has already taken its tokens: it has pushed that tick further into the future, and whoever
/// comes later finds its own place behind. So the queue is first in, first out, needs no memory of its own, and wakes nobody
/// in vain.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Bucket {
    /// The tick at which the bucket is full, or [`FROZEN`](Self::FROZEN). Read before `gcra`, and swapped after: it is frozen while the
    /// quota changes, and another afterwards, so whoever read half of the old quota fails to swap.
    pub(crate) full_at: AtomicU64,
    pub(crate) gcra: GcraCell,
    /// How often the quota was changed.
    generation: AtomicU64,
    /// How often tokens were given back from before those of others.
    moves: AtomicU64,
    pub(crate) waiters: Waiters,
    rest: Mutex<Rest>,
}

impl Bucket {
    /// Ticks of a burst fit into so many bits, and so do the ticks of 292 years and of a wait beside them.
    const BITS: u32 = 62;

    const FROZEN: u64 = u64::MAX;

    /// A full bucket.
    pub(crate) fn new(quota: Quota) -> Self {
        let rest = Rest::new(quota);
        Self {
            full_at: AtomicU64::new(0),
            gcra: GcraCell::new(Gcra::new(quota, Self::BITS)),
            generation: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            waiters: Waiters::new(),
            rest: Mutex::new(rest),
        }
    }

    /// Takes `tokens` if they are there and nobody comes between. The short path of most calls; [`take`](Self::take) decides about all others.
    #[inline(always)]
    pub(crate) fn take_now(&self, tokens: u32, nanos: u64) -> Option<Level> {
        let full_at = self.full_at.load(Acquire);
        if full_at == Self::FROZEN {
            return None;
        }
        let gcra = self.gcra.load();
        let now = gcra.now(nanos);
        let end = gcra.take(full_at, gcra.cost(tokens).ok()?, now, now.tick).ok()?;
        let taken = self.full_at.compare_exchange(full_at, end, Release, Relaxed).is_ok();
        taken.then(|| gcra.level(end, now))
    }

    /// Takes `tokens` if that is allowed within `wait`, which is at most one year; otherwise says when it would be.
    pub(crate) fn take(
        &self,
        tokens: u32,
        clock: impl Fn() -> u64,
        wait: Duration,
    ) -> Result<Place, Unmet> {
        loop {
            // Before the bucket: a place is rather taken for one that was moved than for one that was not.
            let moves = self.moves.load(Acquire);
            let (full_at, gcra) = self.read();
            // After the bucket: whatever that shows was done by clocks that did not show more than this one.
            let now = gcra.now(clock());
            let cost = gcra.cost(tokens).map_err(Unmet::TooCostly)?;
            let latest = if wait.is_zero() { now.tick } else { gcra.tick_after(now, wait) };
            match gcra.take(full_at, cost, now, latest) {
                Ok(end) => {
                    // Whoever sees this place also sees that somebody waits, where that is so.
                    if self.full_at.compare_exchange_weak(full_at, end, Release, Relaxed).is_ok() {
                        return Ok(Place { gcra, now, end, cost, tokens, moves });
                    }
                }
                Err(_) if self.came_from_another_time(full_at, &gcra, now) => {}
                Err(allowed_at) => return Err(Unmet::Until(gcra, now, allowed_at)),
            }
        }
    }

    /// The tick at which the bucket is full, and the quota by which it counts.
    fn read(&self) -> (u64, Gcra) {
        loop {
            let full_at = self.full_at.load(Acquire);
            if full_at != Self::FROZEN {
                return (full_at, self.gcra.load());
            }
            // Until the quota has changed.
            drop(self.rest());
        }
    }

    /// If the bucket is full later than it can be, the clock has gone back since. It is then taken for an empty one, so that nobody is locked
    /// out for longer than that takes to fill, behind those who wait.
    #[cold]
    fn came_from_another_time(&self, full_at: u64, gcra: &Gcra, now: Now) -> bool {
        let last = self.last_place(gcra, now, Duration::ZERO);
        if full_at <= self.last_place(gcra, now, SLACK) {
            return false;
        }
        // If that fails, someone else saw to it.
        let _ = self.full_at.compare_exchange(full_at, last, Relaxed, Relaxed);
        true
    }

    /// No bucket is full later than this.
    fn last_place(&self, gcra: &Gcra, now: Now, slack: Duration) -> u64 {
        gcra.tick_after(now, self.waiters.longest() + slack) + gcra.burst_ticks()
    }

    /// The quota as it is, a moment, and the tick at which the bucket is full.
    pub(crate) fn look(&self, nanos: u64) -> (Gcra, Now, u64) {
        let (full_at, gcra) = self.read();
        let now = gcra.now(nanos);
        (gcra, now, full_at.min(self.last_place(&gcra, now, SLACK)))
    }

    /// One of those who wait has come to its turn, or has left.
    ///
    /// The last of them resets the longest wait, but not while tokens are owed of which somebody made use before they were due: those would be
    /// taken for a clock that went back.
    pub(crate) fn leave(&self, nanos: u64) {
        let owed = || {
            let (full_at, gcra) = self.read();
            let now = gcra.now(nanos);
            let owed = gcra.span_until(gcra.allowed_at(full_at), now);
            (!owed.is_zero()).then_some(owed)
        };
        self.waiters.leave(|| owed().is_none());
        // Somebody may have come, taken and left since that was asked.
        if let (Duration::ZERO, Some(owed)) = (self.waiters.longest(), owed()) {
            self.waiters.expect(owed);
        }
    }

    pub(crate) const fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    pub(crate) fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn quota(&self) -> Quota {
        self.rest().quota
    }

    /// How often the quota was changed.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// From now on, another quota. Tokens that are spent stay spent, and those who wait keep their turns. Newcomers come behind the last of these, or
    /// behind the tokens of all of them at the new rate, if that is sooner.
    pub(crate) fn set_quota(&self, quota: Quota, clock: impl Fn() -> u64) {
        let mut rest = self.rest();
        let (old, new) = (self.gcra.load(), Gcra::new(quota, Self::BITS));
        let was = self.full_at.swap(Self::FROZEN, Acquire);
        // After the swap: tokens taken until then were taken by clocks that did not show more than this one.
        let nanos = clock();
        let then = old.now(nanos);
        let full_at = if was <= old.empty(then) {
            new.carried(&old, was, nanos)
        } else {
            let was = was.min(self.last_place(&old, then, SLACK));
            let last_turn = old.nanos_at(old.allowed_at(was));
            new.empty(new.now(last_turn)).min(new.owed(&old, was, nanos))
        };
        self.gcra.store(new);
        rest.quota = quota;
        self.generation.fetch_add(1, Relaxed);
        rest.forget_gaps(|_| true);
        rest.moves.clear();
        // Another number in any case, for those who have read the old one.
        self.full_at.store(full_at + u64::from(full_at == was), Release);
    }

    /// What [`take`](Self::take) would say. Takes nothing.
    pub(crate) fn test(&self, tokens: u32, nanos: u64) -> Result<Level, Unmet> {
        let (gcra, now, full_at) = self.look(nanos);
        let cost = gcra.cost(tokens).map_err(Unmet::TooCostly)?;
        match gcra.take(full_at, cost, now, now.tick) {
            Ok(_) => Ok(gcra.level(full_at, now)),
            Err(allowed_at) => Err(Unmet::Until(gcra, now, allowed_at)),
        }
    }
}
