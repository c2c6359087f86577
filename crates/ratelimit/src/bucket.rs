//! One bucket for all, with a queue that is made of nothing but time.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Denied, Level, Quota, TooCostly,
    gcra::{Gcra, GcraCell, Now},
    sync::{Acquire, AtomicU64, Mutex, MutexGuard, PoisonError, Relaxed, Release},
};

/// By so much the clocks of two threads may differ without one of them having gone back.
pub(crate) const SLACK: Duration = Duration::from_millis(1);

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
    full_at: AtomicU64,
    gcra: GcraCell,
    /// How often the quota was changed.
    generation: AtomicU64,
    waiters: Waiters,
    rest: Mutex<Rest>,
}

/// What is needed off the path of a call only.
#[derive(Debug)]
struct Rest {
    quota: Quota,
    /// Places that were given up, by their ends.
    gaps: BTreeMap<u64, Gap>,
    wasted: u64,
}

#[derive(Debug)]
struct Gap {
    start: u64,
    tokens: u32,
}

/// The ticks that belong to one caller: its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) gcra: Gcra,
    pub(crate) now: Now,
    /// The bucket is full then, as far as this caller knew.
    pub(crate) end: u64,
    cost: u64,
    tokens: u32,
}

impl Place {
    /// How long from the moment when it was taken until it is the caller's turn.
    pub(crate) fn wait(&self) -> Duration {
        let allowed_at = self.gcra.allowed_at(self.end);
        // Else it could have been taken earlier still.
        if allowed_at <= self.now.tick {
            Duration::ZERO
        } else {
            self.gcra.span_until(allowed_at, self.now)
        }
    }

    /// The same from another moment.
    pub(crate) fn wait_from(&self, nanos: u64) -> Duration {
        let wait = self.gcra.span_until(self.gcra.allowed_at(self.end), self.gcra.now(nanos));
        if self.wait().is_zero() { Duration::ZERO } else { wait }
    }
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unmet {
    TooCostly(TooCostly),
    /// It would have been allowed at a tick.
    Until(Gcra, Now, u64),
}

impl Unmet {
    /// How long it would take; none if for ever.
    pub(crate) fn wait(&self) -> Option<Duration> {
        match self {
            Self::TooCostly(_) => None,
            Self::Until(gcra, now, tick) => Some(gcra.span_until(*tick, *now)),
        }
    }
}

impl From<Unmet> for Denied {
    #[cold]
    fn from(refused: Unmet) -> Self {
        match refused {
            Unmet::TooCostly(costly) => Self::TooCostly(costly),
            Unmet::Until(gcra, now, tick) => Self::Limited(gcra.limited(tick, now)),
        }
    }
}

impl Bucket {
    /// Ticks of a burst fit into so many bits, and so do the ticks of 292 years and of a wait beside them.
    const BITS: u32 = 62;

    const FROZEN: u64 = u64::MAX;

    /// More gaps than these are not remembered; the one that passes soonest is forgotten then, as the least likely to be given back.
    const MOST_GAPS: usize = 1024;

    /// A full bucket.
    pub(crate) fn new(quota: Quota) -> Self {
        let rest = Rest { quota, gaps: BTreeMap::new(), wasted: 0 };
        Self {
            full_at: AtomicU64::new(0),
            gcra: GcraCell::new(Gcra::new(quota, Self::BITS)),
            generation: AtomicU64::new(0),
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
            let (full_at, gcra) = self.read();
            // After the bucket: whatever that shows was done by clocks that did not show more than this one.
            let now = gcra.now(clock());
            let cost = gcra.cost(tokens).map_err(Unmet::TooCostly)?;
            let latest = if wait.is_zero() { now.tick } else { gcra.tick_after(now, wait) };
            match gcra.take(full_at, cost, now, latest) {
                Ok(end) => {
                    // Whoever sees this place also sees that somebody waits, where that is so.
                    if self.full_at.compare_exchange_weak(full_at, end, Release, Relaxed).is_ok() {
                        return Ok(Place { gcra, now, end, cost, tokens });
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

    pub(crate) const fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn quota(&self) -> Quota {
        self.rest().quota
    }

    /// How often the quota was changed.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// From now on, another quota. Tokens that are spent stay spent, and the turns of those who wait stay where they are.
    pub(crate) fn set_quota(&self, quota: Quota, nanos: u64) {
        let mut rest = self.rest();
        let (old, new) = (self.gcra.load(), Gcra::new(quota, Self::BITS));
        let then = old.now(nanos);
        let last = self.last_place(&old, then, SLACK);
        let was = self.full_at.swap(Self::FROZEN, Acquire);
        let full_at = if was <= old.empty(then) {
            new.carried(&old, was, nanos)
        } else {
            let last_turn = old.nanos_at(old.allowed_at(was.min(last)));
            new.empty(new.now(last_turn))
        };
        self.gcra.store(new);
        rest.quota = quota;
        self.generation.fetch_add(1, Relaxed);
        rest.forget_gaps(|_| true);
        // Another number in any case, for those who have read the old one.
        self.full_at.store(full_at + u64::from(full_at == was), Release);
    }

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

    /// What [`take`](Self::take) would say. Takes nothing.
    pub(crate) fn test(&self, tokens: u32, nanos: u64) -> Result<Level, Unmet> {
        let (gcra, now, full_at) = self.look(nanos);
        let cost = gcra.cost(tokens).map_err(Unmet::TooCostly)?;
        match gcra.take(full_at, cost, now, now.tick) {
            Ok(_) => Ok(gcra.level(full_at, now)),
            Err(allowed_at) => Err(Unmet::Until(gcra, now, allowed_at)),
        }
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
    /// Forgets the first gaps, as long as `done` says so of their ends.
    fn forget_gaps(&mut self, mut done: impl FnMut(u64) -> bool) {
        while let Some(gap) = self.gaps.first_entry() {
            if !done(*gap.key()) {
                break;
            }
            self.wasted += u64::from(gap.remove().tokens);
        }
    }
}

/// How many wait, and how long the longest of them had to when it came; in one word, so that one is never seen without the other.
#[derive(Debug)]
pub(crate) struct Waiters {
    /// Microseconds above, number below.
    word: AtomicU64,
    most: AtomicU64,
}

impl Waiters {
    const BITS: u32 = 16;

    /// So many fit.
    pub(crate) const MOST: u16 = u16::MAX;

    const DEFAULT: u16 = 1024;

    fn new() -> Self {
        Self { word: AtomicU64::new(0), most: AtomicU64::new(Self::DEFAULT.into()) }
    }

    pub(crate) fn set_most(&self, most: u16) {
        self.most.store(most.into(), Relaxed);
    }

    pub(crate) fn number(&self) -> usize {
        (self.word.load(Relaxed) & u64::from(Self::MOST)) as usize
    }

    /// At most [`Scale::END`](crate::gcra::Scale) fits, so the sum with it cannot overflow.
    fn longest(&self) -> Duration {
        Duration::from_micros(self.word.load(Relaxed) >> Self::BITS)
    }

    /// One more, unless there are as many as there may be.
    pub(crate) fn enter(&self) -> bool {
        let most = self.most.load(Relaxed);
        let one_more = |word| (word & u64::from(Self::MOST) < most).then_some(word + 1);
        self.word.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// One of those who wait is about to wait this long.
    pub(crate) fn expect(&self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        let longest = micros.min(u64::MAX >> Self::BITS) << Self::BITS;
        let most = |word: u64| {
            let number = word & u64::from(Self::MOST);
            (word < longest).then_some(longest | number)
        };
        let _ = self.word.fetch_update(Relaxed, Relaxed, most);
    }

    pub(crate) fn leave(&self) {
        let one_less = |word: u64| match word & u64::from(Self::MOST) {
            0 | 1 => Some(0),
            _ => Some(word - 1),
        };
        let _ = self.word.fetch_update(Relaxed, Relaxed, one_less);
    }
}

#[cfg(test)]
mod tests;
