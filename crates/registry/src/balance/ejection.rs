//! Takes an endpoint out for a while whose calls fail, although the registry has it as healthy.

use std::time::Duration;

use gusset_call::Ratio;

/// When an endpoint is ejected because its calls fail, and for how long (Envoy's outlier detection).
///
/// The first ejection takes [`base`](Self::base) (30 s), the second twice that, and so on up to [`longest`](Self::longest)
/// (5 min), plus up to 10 % by chance, so that endpoints that failed together do not come back together. It ends by itself. Each `base` without ejection
/// takes one back. At most [`share`](Self::share) of the instances (half) are out at once, and never the last one.
///
/// | an endpoint is ejected | default |
/// |---|---|
/// | after so many [failures in a row](Self::consecutive) | 5 |
/// | when its [success rate](Self::success_rate) is far below the mean | off |
///
/// ```
/// use gusset_registry::{Balance, Ejection, Instance, MemoryRegistry, Registry};
///
/// # let client = |authority: String| authority;
/// let registry = MemoryRegistry::default();
/// let cart = Balance::new(registry.watch("cart"), move |instance: &Instance| client(instance.authority()))
///     .eject(Ejection::default().consecutive(3));
/// ```
#[derive(Clone, Debug)]
pub struct Ejection {
    pub(crate) consecutive: u32,
    pub(crate) success_rate: Option<SuccessRate>,
    pub(crate) base: Duration,
    longest: Duration,
    share: Ratio,
}

/// Which success rate is far below that of the others, for [`Ejection::success_rate`].
#[derive(Clone, Debug)]
pub struct SuccessRate {
    pub(crate) interval: Duration,
    pub(crate) min_calls: u32,
    min_endpoints: usize,
    deviations: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive: 5,
            success_rate: None,
            base: Duration::from_secs(30),
            longest: Duration::from_secs(300),
            share: Ratio::percent(50),
        }
    }
}

impl Default for SuccessRate {
    /// Envoy's numbers: over 10 s, with at least 100 calls at each of at least 5 endpoints, 1.9 standard deviations below the mean.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            min_calls: 100,
            min_endpoints: 5,
            deviations: 1.9,
        }
    }
}

impl SuccessRate {
    /// How often rates are compared. Default 10 s.
    #[must_use]
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Endpoints with fewer calls in an interval are left out. Default 100.
    #[must_use]
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }

    /// Nothing is compared with fewer endpoints that have enough calls. Default 5.
    #[must_use]
    pub const fn min_endpoints(mut self, endpoints: usize) -> Self {
        self.min_endpoints = endpoints;
        self
    }

    /// How many standard deviations below the mean are too many. Default 1.9.
    #[must_use]
    pub const fn deviations(mut self, deviations: f64) -> Self {
        self.deviations = deviations;
        self
    }

    /// Those of `rates` that are too low.
    pub(crate) fn outliers(&self, rates: &[(usize, f64)]) -> Vec<usize> {
        if rates.len() < self.min_endpoints.max(1) {
            return Vec::new();
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
        let least = mean - self.deviations * variance.sqrt();
        rates.iter().filter(|(_, rate)| *rate < least).map(|(index, _)| *index).collect()
    }
}

impl Ejection {
    /// By [success rate](SuccessRate) alone: for endpoints that have a circuit breaker each, since failures in a row are what that judges by, and two
    /// judges of one thing get in each other's way. That an endpoint fails more often than the others no circuit can see.
    #[must_use]
    pub fn by_comparison() -> Self {
        Self::default().consecutive(u32::MAX).success_rate(SuccessRate::default())
    }

    /// After how many failures in a row; 0 counts as 1, `u32::MAX` as never. Default 5, as in Envoy.
    #[must_use]
    pub const fn consecutive(mut self, failures: u32) -> Self {
        self.consecutive = if failures == 0 { 1 } else { failures };
        self
    }

    /// Compares success rates as well. Off by default: it needs a fleet with much traffic.
    #[must_use]
    pub const fn success_rate(mut self, rate: SuccessRate) -> Self {
        self.success_rate = Some(rate);
        self
    }

    /// For how long the first time. Default 30 s.
    #[must_use]
    pub const fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// For how long at most, before the 10 % by chance. Default 5 min.
    #[must_use]
    pub const fn longest(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// Which part of the healthy instances may be out at once. One is always left. Default 50 %; Envoy has
    /// 10 %, where one bad release of a third of a small fleet stays in.
    #[must_use]
    pub const fn share(mut self, share: Ratio) -> Self {
        self.share = share;
        self
    }

    /// How many of `count` may be out at once.
    pub(crate) fn most(&self, count: usize) -> usize {
        (self.share.of(count as u64) as usize).min(count.saturating_sub(1))
    }

    pub(crate) fn span(&self, times: u32, chance: u64) -> Duration {
        let span = self.base.saturating_mul(times).min(self.longest.max(self.base));
        span.saturating_add(span.mul_f64((chance >> 32) as f64 / (1_u64 << 32) as f64 / 10.0))
    }
}
