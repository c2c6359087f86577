use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    Outcome,
    machine::{Recorded, calls::Totals},
};

/// How often what happened to a circuit, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls with [`Outcome::Success`].
    pub successes: u64,
    /// Calls with [`Outcome::Failure`], among them those dropped late or by a panic.
    pub failures: u64,
    /// Calls with [`Outcome::Ignored`], among them those dropped early.
    pub ignored: u64,
    /// Calls not let through; while [observing](crate::Circuit::observe), those that would not have been.
    pub refused: u64,
    /// Outcomes that came after a transition and changed nothing; not counted above.
    pub late: u64,
}

impl Stats {
    /// Each with its name, as a label of metrics has it.
    #[must_use]
    pub const fn by_outcome(&self) -> [(&'static str, u64); 5] {
        [
            ("success", self.successes),
            ("failure", self.failures),
            ("ignored", self.ignored),
            ("late", self.late),
            ("refused", self.refused),
        ]
    }
}

/// What is in the window of a circuit, by which its ratios are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recent {
    /// Successes and failures.
    pub calls: u64,
    /// Failures.
    pub failures: u64,
    /// Those that took [`slow_after`](crate::Policy::slow_after) or longer; 0 where the policy does not ask.
    pub slow: u64,
}

/// What the machine does not count itself.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// The most that was ever told.
    successes: AtomicU64,
    pub(crate) ignored: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) late: AtomicU64,
}

impl Counters {
    pub(crate) fn stats(&self, (successes, failures): (u64, u64)) -> Stats {
        Stats {
            // Failures that end while it is read make it seem smaller than it was.
            successes: self.successes.fetch_max(successes, Relaxed).max(successes),
            failures,
            ignored: self.ignored.load(Relaxed),
            refused: self.refused.load(Relaxed),
            late: self.late.load(Relaxed),
        }
    }

    pub(crate) fn count(&self, recorded: Recorded, outcome: Outcome) {
        let counter = match (recorded, outcome) {
            (Recorded::Late, _) => &self.late,
            (Recorded::Counted(_), Outcome::Ignored) => &self.ignored,
            (Recorded::Counted(_) | Recorded::Unmeasured, _) => return,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl From<Totals> for Recent {
    fn from(totals: Totals) -> Self {
        Self { calls: totals.calls, failures: totals.failed, slow: totals.slow }
    }
}
