use std::time::Duration;

use crate::{Budget, Ratio, retry::Pays};

/// When and how often slow calls are made a second time.
#[derive(Clone, Debug)]
pub struct HedgePolicy {
    pub(super) quantile: Ratio,
    pub(super) floor: Duration,
    pub(super) min_samples: u32,
    pub(super) hedges: u32,
    pub(super) bearable: Ratio,
    pub(super) body_limit: usize,
    pub(super) budget: Pays,
}

impl HedgePolicy {
    /// A call is slow when it has taken longer than this share of the calls of the last 15 to 30 s. Default 95 %, as in "The Tail at
    /// Scale": about one call in twenty is made twice, and the slowest of a thousand become quick.
    #[must_use]
    pub const fn quantile(mut self, share: Ratio) -> Self {
        self.quantile = share;
        self
    }

    /// No call is slow sooner than this. Default 1 ms, which is how finely tokio's timers work.
    #[must_use]
    pub const fn floor(mut self, span: Duration) -> Self {
        self.floor = span;
        self
    }

    /// No call is slow before so many were timed. Default 100, so that five are slower than the default quantile.
    #[must_use]
    pub const fn min_samples(mut self, calls: u32) -> Self {
        self.min_samples = calls;
        self
    }

    /// How often one call may be hedged, each time after the same wait. Default 1; 0 never.
    #[must_use]
    pub const fn hedges(mut self, hedges: u32) -> Self {
        self.hedges = hedges;
        self
    }

    /// Of the calls of the last one to two seconds, from 20 on, which share may be late or fail before none is hedged. Default 20 %: four times what is
    /// late by the default quantile.
    #[must_use]
    pub const fn bearable(mut self, share: Ratio) -> Self {
        self.bearable = share;
        self
    }

    /// How much of a request body is kept for a hedge, in bytes; a call that has sent more is not hedged. Default 64 KiB, as for retries.
    #[must_use]
    pub const fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Takes hedges out of the budget of the [retries](crate::RetryLayer::budget) around this layer, so that both together stay within it.
    /// Calls pay in there, not here. By default a layer makes a [`Budget::default`] of its own, and calls pay in.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Pays::Shared(budget);
        self
    }
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self {
            quantile: Ratio::percent(95),
            floor: Duration::from_millis(1),
            min_samples: 100,
            hedges: 1,
            bearable: Ratio::percent(20),
            body_limit: 64 * 1024,
            budget: Pays::Own,
        }
    }
}
