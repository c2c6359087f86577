//! The arithmetic of a token bucket, with time measured in tokens.
//!
//! The generic cell rate algorithm (ITU-T I.371) keeps one number per bucket: the time at which it is full again. Here
//! that time is read off a clock whose tick is a binary fraction of a token, so a token costs a whole number
//! of ticks whatever the rate. Nothing is ever added up in rounded steps: the clock is computed from the absolute time by one
//! multiplication, and no fraction of a token is lost, however often one asks.

use std::time::Duration;

use gusset_call::Limited;

use crate::{Denied, Level, Quota, TooCostly};

/// Ticks per nanosecond, at most 1, as a binary fraction with 63 places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale(u64);

impl Scale {
    const PLACES: u32 = 63;

    /// A tick is a nanosecond.
    #[cfg(feature = "redis")]
    pub(crate) const NANOS: Self = Self(1 << Self::PLACES);

    /// Where the clock stops: 292 years after it started.
    const END: u64 = 1 << 63;

    /// Nanoseconds since the epoch, as far as the clock goes.
    pub(crate) fn nanos(now: Duration) -> u64 {
        u64::try_from(now.as_nanos()).unwrap_or(Self::END).min(Self::END)
    }

    /// The tick at nanosecond `nanos`.
    fn tick(self, nanos: u64) -> u64 {
        ((u128::from(nanos) * u128::from(self.0)) >> Self::PLACES) as u64
    }

    /// The first nanosecond at which the clock shows `tick`.
    fn nanos_at(self, tick: u64) -> u64 {
        let nanos = (u128::from(tick) << Self::PLACES).div_ceil(u128::from(self.0));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// How long after `now` the clock shows `tick`.
    pub(crate) fn span_until(self, tick: u64, now: u64) -> Duration {
        Duration::from_nanos(self.nanos_at(tick).saturating_sub(now))
    }
}

/// A quota in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gcra {
    scale: Scale,
    /// A token is `1 << shift` ticks.
    shift: u32,
    /// In tokens.
    burst: u32,
    /// What a refusal by a quota that allows nothing names as the time to come back.
    period: Duration,
}

/// A moment on the clock of a quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    nanos: u64,
    pub(crate) tick: u64,
}

impl Gcra {
    /// `bits` bounds the burst in ticks: it is less than `1 << bits`. The tick is as fine as that allows, but not finer
    /// than a nanosecond. At least 32.
    pub(crate) fn new(quota: Quota, bits: u32) -> Self {
        let burst = if quota.tokens == 0 { 0 } else { quota.burst };
        let per = Scale::nanos(quota.per).max(1);
        // Not more than one token per nanosecond.
        let tokens = u64::from(quota.tokens.max(1)).min(per);
        let by_rate = (per / tokens).ilog2();
        let by_burst = bits - (u32::BITS - burst.leading_zeros());
        let shift = by_rate.min(by_burst);
        // Rounded up: then the clock shows a tick no later than it is due, and a token that is due at
        // a whole nanosecond is there at that nanosecond.
        let scale = (u128::from(tokens) << shift << Scale::PLACES).div_ceil(u128::from(per));
        Self { scale: Scale(scale as u64), shift, burst, period: quota.per }
    }

    pub(crate) fn now(&self, since_epoch: Duration) -> Now {
        let nanos = Scale::nanos(since_epoch);
        Now { nanos, tick: self.scale.tick(nanos) }
    }

    /// `now`, and `span` later.
    pub(crate) fn tick_after(&self, now: Now, span: Duration) -> u64 {
        self.scale.tick(now.nanos.saturating_add(Scale::nanos(span)).min(Scale::END))
    }

    /// What `tokens` cost, in ticks.
    pub(crate) fn cost(&self, tokens: u32) -> Result<u64, TooCostly> {
        if tokens > self.burst {
            return Err(TooCostly::new(tokens, self.burst));
        }
        Ok(u64::from(tokens) << self.shift)
    }

    /// Takes `cost` from a bucket that is full at tick `full_at`, if that is allowed at tick `latest` or before. Gives the tick at which
    /// the bucket is then full, or the tick at which it would have been allowed.
    pub(crate) fn take(&self, full_at: u64, cost: u64, now: Now, latest: u64) -> Result<u64, u64> {
        let spent = full_at.max(now.tick) + cost;
        let allowed_at = self.allowed_at(spent);
        if allowed_at <= latest { Ok(spent) } else { Err(allowed_at) }
    }

    /// When it was or will be allowed to fill the bucket up to `full_at`.
    pub(crate) fn allowed_at(&self, full_at: u64) -> u64 {
        full_at.saturating_sub(u64::from(self.burst) << self.shift)
    }

    pub(crate) fn level(&self, full_at: u64, now: Now) -> Level {
        let debt = full_at.saturating_sub(now.tick);
        let left = (u64::from(self.burst) << self.shift).saturating_sub(debt) >> self.shift;
        let remaining = u32::try_from(left).unwrap_or(u32::MAX);
        Level::new(remaining, full_at, now.nanos, self.scale)
    }

    /// The refusal of what would be allowed at tick `allowed_at`.
    pub(crate) fn limited(&self, allowed_at: u64, now: Now) -> Limited {
        Limited::new(self.scale.span_until(allowed_at, now.nanos))
    }

    /// The refusal of a single token; it is too costly only for a quota that allows nothing.
    pub(crate) fn single(&self, denied: Denied) -> Limited {
        match denied {
            Denied::Limited(limited) => limited,
            Denied::TooCostly(_) => Limited::new(self.period),
        }
    }

    /// Nanoseconds since the epoch at which the clock shows `tick`.
    pub(crate) fn nanos_at(&self, tick: u64) -> Duration {
        Duration::from_nanos(self.scale.nanos_at(tick))
    }

    pub(crate) const fn tokens(&self, ticks: u64) -> u64 {
        ticks >> self.shift
    }
}

#[cfg(test)]
pub(crate) mod tests;
