//! How many retries a share of the traffic pays for: a window that slides in ten steps, without a lock.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use gusset_call::Clock;

use crate::{
    Ratio,
    metrics::lines::{LINES, OWNED, line},
};

/// Bounds retries to a share of the calls, so that a service in trouble is not drowned by them. Clones share one
/// budget.
///
/// Every call deposits its share, every retry withdraws one; what is older than the window counts no more. Besides
/// there is a reserve of so many retries a second, for callers with little traffic. In any span as long as the window
/// there are therefore never more retries than
/// `share × calls + reserve × window`, both counted in that span.
///
/// Threads deposit in places of their own, and do not wait for each other. One that makes many calls looks at the clock for every 64th of
/// them only: up to 63 may count as made some time before, and so expire sooner, never later.
///
/// The default is 20 % and 10 a second over 10 s, as in Finagle and Linkerd: traffic to a dead service grows by a fifth and
/// not fourfold.
///
/// ```
/// # use std::time::Duration;
/// use gusset_sidecar::{Budget, Ratio};
///
/// let budget = Budget::new(Ratio::percent(50), 0, Duration::from_secs(10));
/// budget.deposit();
/// assert!(!budget.try_withdraw(), "half a retry is none");
/// budget.deposit();
/// assert!(budget.try_withdraw());
/// assert!(!budget.try_withdraw());
/// ```
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    window: Window,
    clock: Clock,
    withdrawn: AtomicU64,
    refused: AtomicU64,
}

/// Counts since a budget was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetStats {
    /// Retries that were paid for.
    pub withdrawn: u64,
    /// Retries that were not made because the budget was spent.
    pub refused: u64,
}

impl Budget {
    /// Pays for retries with `share` of the calls of the last `window`, and for `reserve` retries a second more. The window
    /// is at least 10 ms; one of zero means that.
    #[must_use]
    pub fn new(share: Ratio, reserve: u32, window: Duration) -> Self {
        Self(Arc::new(Shared {
            window: Window::new(share, reserve, window),
            clock: Clock::new(),
            withdrawn: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Pays in for one call, however often it will be tried.
    pub fn deposit(&self) {
        self.0.window.deposit(|| self.0.clock.nanos());
    }

    /// Takes out one retry, if it is paid for.
    #[must_use]
    pub fn try_withdraw(&self) -> bool {
        let paid = self.0.window.withdraw(self.0.clock.nanos());
        let count = if paid { &self.0.withdrawn } else { &self.0.refused };
        count.fetch_add(1, Relaxed);
        paid
    }

    /// Counts since the budget was made.
    #[must_use]
    pub fn stats(&self) -> BudgetStats {
        BudgetStats {
            withdrawn: self.0.withdrawn.load(Relaxed),
            refused: self.0.refused.load(Relaxed),
        }
    }
}

impl Default for Budget {
    /// 20 % and 10 a second over 10 s.
    fn default() -> Self {
        Self::new(Ratio::percent(20), 10, Duration::from_secs(10))
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("share", &self.0.window.share)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Steps that a window is cut into.
const STEPS: u64 = 10;
/// One more, since the oldest step leaves the window while the youngest fills.
const SLOTS: usize = STEPS as usize + 1;

/// The machine. `now` is the time since some fixed point, in nanoseconds.
#[derive(Debug)]
struct Window {
    share: Ratio,
    /// Retries in one window that need no deposit.
    reserve: u64,
    step_nanos: u64,
    /// Of each thread; made when it first deposits.
    deposits: [OnceLock<Box<Deposits>>; LINES],
    withdrawals: [Slot; SLOTS],
}

/// What a thread deposited, in two cache lines that no other writes to; or several threads, where there are many.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Deposits {
    slots: [Slot; SLOTS],
    /// How many more deposits count in the step of the last. Of a thread that shares its lines, none.
    more: AtomicU64,
    step: AtomicU64,
}

/// After how many deposits in one step a thread looks at the clock for every second only, for every third, and so on.
const OFTEN: u64 = 16;
/// How many deposits in a row go by one look at the clock at most.
const UNTIMED: u64 = 63;

impl Window {
    fn new(share: Ratio, reserve: u32, window: Duration) -> Self {
        let window = window.max(Duration::from_millis(10));
        let reserve = u128::from(reserve) * window.as_nanos() / 1_000_000_000;
        Self {
            share,
            reserve: u64::try_from(reserve).unwrap_or(u64::MAX),
            step_nanos: u64::try_from(window.as_nanos() / u128::from(STEPS)).unwrap_or(u64::MAX),
            deposits: [const { OnceLock::new() }; LINES],
            withdrawals: Default::default(),
        }
    }

    #[inline]
    fn deposit(&self, now: impl FnOnce() -> u64) {
        let line = line();
        let Deposits { slots, more, step } = &**self.deposits[line].get_or_init(Box::default);
        if line >= OWNED {
            let step = self.step(now());
            slot(slots, step).add(step);
            return;
        }
        // Nobody else writes here. A sum that misses what is under way is too small, and so on the safe side.
        match more.load(Relaxed) {
            0 => {
                let present = self.step(now());
                step.store(present, Relaxed);
                let count = slot(slots, present).add_alone(present);
                more.store((count / OFTEN).min(UNTIMED), Relaxed);
            }
            left => {
                let step = step.load(Relaxed);
                slot(slots, step).add_alone(step);
                more.store(left - 1, Relaxed);
            }
        }
    }

    /// Takes its place first and counts then, so that of several at once the last to come sees all others, and the
    /// budget is never overdrawn; at worst one is refused that could have been paid.
    fn withdraw(&self, now: u64) -> bool {
        let step = self.step(now);
        let mine = slot(&self.withdrawals, step);
        if !mine.add(step) {
            return false;
        }
        // The youngest step is not full yet. Deposits are counted over at most, withdrawals over at least a window: both
        // errors are on the safe side.
        let threads = self.deposits.iter().filter_map(OnceLock::get);
        let deposited = threads.map(|thread| sum(&thread.slots, step, STEPS)).sum();
        let withdrawn = sum(&self.withdrawals, step, STEPS + 1);
        let paid = withdrawn <= self.reserve.saturating_add(self.share.of(deposited));
        if !paid {
            mine.undo(step);
        }
        paid
    }

    /// Steps begin at 1, so that a fresh slot is of no step.
    fn step(&self, now: u64) -> u64 {
        (now / self.step_nanos + 1).min(u64::MAX >> COUNT_BITS)
    }
}

fn slot(slots: &[Slot; SLOTS], step: u64) -> &Slot {
    #[expect(clippy::cast_possible_truncation, reason = "less than the number of slots")]
    let index = (step % SLOTS as u64) as usize;
    &slots[index]
}

/// What the last `steps` steps up to `step` counted.
fn sum(slots: &[Slot; SLOTS], step: u64, steps: u64) -> u64 {
    let counts = slots.iter().filter_map(|slot| {
        let (of, count) = unpack(slot.0.load(SeqCst));
        (of != 0 && of + steps > step).then_some(count)
    });
    counts.sum()
}

/// Steps of the shortest window, 1 ms, last 34 years in the other 40 bits.
const COUNT_BITS: u32 = 24;
/// Beyond this a step counts no further: deposits are lost and retries refused, at 16 million a second with the default window.
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The count of one step, in one word: step (40 bits) | count (24 bits).
#[derive(Debug, Default)]
struct Slot(AtomicU64);

impl Slot {
    /// Counts one in `step`, or tells that there is no room. The count of an older step is forgotten; where another caller
    /// was ahead by its reading of the clock, the younger step counts.
    fn add(&self, step: u64) -> bool {
        let added = self.0.fetch_update(SeqCst, SeqCst, |word| match unpack(word) {
            (of, _) if of < step => Some(pack(step, 1)),
            (_, MAX_COUNT) => None,
            (of, count) => Some(pack(of, count + 1)),
        });
        added.is_ok()
    }

    /// The same where no other thread adds. Returns what it has counted in that step.
    fn add_alone(&self, step: u64) -> u64 {
        let count = match unpack(self.0.load(Relaxed)) {
            (of, count) if of >= step => (count + 1).min(MAX_COUNT),
            _ => 1,
        };
        self.0.store(pack(step, count), Relaxed);
        count
    }

    fn undo(&self, step: u64) {
        let _ = self.0.fetch_update(SeqCst, SeqCst, |word| match unpack(word) {
            (of, count) if of == step => Some(pack(of, count.saturating_sub(1))),
            _ => None,
        });
    }
}

const fn unpack(word: u64) -> (u64, u64) {
    (word >> COUNT_BITS, word & MAX_COUNT)
}

const fn pack(step: u64, count: u64) -> u64 {
    step << COUNT_BITS | count
}

#[cfg(test)]
mod tests;
