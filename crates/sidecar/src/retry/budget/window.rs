//! The machine: a window that slides in ten steps, without a lock.

use std::{sync::OnceLock, time::Duration};

use crate::{
    Ratio,
    metrics::lines::{LINES, OWNED, line},
    sync::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

/// Steps that a window is cut into.
const STEPS: u64 = 10;
/// One more, since the oldest step leaves the window while the youngest fills.
const SLOTS: usize = STEPS as usize + 1;

/// The machine. `now` is the time since some fixed point, in nanoseconds.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) share: Ratio,
    /// Retries in one window that need no deposit.
    reserve: u64,
    step_nanos: u64,
    /// Of each thread; made when it first deposits.
    pub(super) deposits: [OnceLock<Box<Deposits>>; LINES],
    pub(super) withdrawals: [Slot; SLOTS],
}

/// What a thread deposited, in two cache lines that no other writes to; or several threads, where there are many.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Deposits {
    pub(super) slots: [Slot; SLOTS],
    /// How many more deposits count in the step of the last. Of a thread that shares its lines, none.
    more: AtomicU64,
    step: AtomicU64,
}

/// After how many deposits in one step a thread looks at the clock for every second only, for every third, and so on.
const OFTEN: u64 = 16;
/// How many deposits in a row go by one look at the clock at most.
pub(super) const UNTIMED: u64 = 63;

impl Window {
    pub(super) fn new(share: Ratio, reserve: u32, window: Duration) -> Self {
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
    pub(super) fn deposit(&self, now: impl FnOnce() -> u64) {
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
    pub(super) fn withdraw(&self, now: u64) -> bool {
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

pub(super) fn slot(slots: &[Slot; SLOTS], step: u64) -> &Slot {
    #[expect(clippy::cast_possible_truncation, reason = "less than the number of slots")]
    let index = (step % SLOTS as u64) as usize;
    &slots[index]
}

/// What the last `steps` steps up to `step` counted.
pub(super) fn sum(slots: &[Slot; SLOTS], step: u64, steps: u64) -> u64 {
    let counts = slots.iter().filter_map(|slot| {
        let (of, count) = unpack(slot.0.load(SeqCst));
        (of != 0 && of + steps > step).then_some(count)
    });
    counts.sum()
}

/// Steps of the shortest window, 1 ms, last 34 years in the other 40 bits.
const COUNT_BITS: u32 = 24;
/// Beyond this a step counts no further: deposits are lost and retries refused, at 16 million a second with the default window.
pub(super) const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The count of one step, in one word: step (40 bits) | count (24 bits).
#[derive(Debug, Default)]
pub(super) struct Slot(pub(super) AtomicU64);

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

pub(super) const fn pack(step: u64, count: u64) -> u64 {
    step << COUNT_BITS | count
}
