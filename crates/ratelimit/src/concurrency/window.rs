use std::time::Duration;

/// What a limiter saw since it last thought about its limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// When it ended, since some fixed point.
    pub(super) now: Duration,
    /// Calls that were served, and those that were not for overload.
    pub(super) served: u64,
    pub(super) overloads: u64,
    /// Overload of calls that began before the limit last fell.
    pub(super) late_overloads: u64,
    /// Mean of the binary logarithms of the nanoseconds that the served calls took; means nothing if there are none.
    pub(super) log_latency: f64,
    /// The most calls that ran at once.
    pub(super) peak: u32,
}

impl Window {
    /// Whether more than 1 % of the calls were overload. A few are no sign of it: some services answer one call in a thousand
    /// with 503 for reasons of their own, and a limit that fell for each of them would stay at its minimum.
    pub(super) const fn is_overloaded(&self) -> bool {
        self.overloads.saturating_mul(100) > self.overloads.saturating_add(self.served)
    }

    /// Whether there was overload that is no reason to fall again, but none to grow either.
    pub(super) const fn is_doubtful(&self) -> bool {
        let overloads = self.overloads.saturating_add(self.late_overloads);
        overloads.saturating_mul(100) > overloads.saturating_add(self.served)
    }

    /// Whether the limit was in use: at least half of it. Otherwise nothing was learnt about more calls at once.
    pub(super) fn used(&self, limit: f64) -> bool {
        f64::from(self.peak) * 2.0 >= limit.floor()
    }
}

/// Between which numbers a limit moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Bounds {
    pub(super) const fn clamp(self, limit: f64) -> f64 {
        limit.max(self.min).min(self.max)
    }

    /// The limit after overload: 0.9 of it. Netflix's ratio; gentler than TCP's half, since a refused call is lost where a
    /// lost packet is only sent again.
    pub(super) fn backed_off(self, limit: f64) -> f64 {
        self.clamp((limit * 0.9).floor())
    }
}
