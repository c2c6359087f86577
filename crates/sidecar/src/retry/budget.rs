//! How many retries a share of the traffic pays for.

mod window;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::Clock;

use self::window::Window;
use crate::Ratio;

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

#[cfg(test)]
mod tests;
