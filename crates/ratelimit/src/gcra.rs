//! The arithmetic of a token bucket, with time measured in tokens.
//!
//! The generic cell rate algorithm (ITU-T I.371) keeps one number per bucket: the time at which it is full again. Here
//! that time is read off a clock whose tick is a binary fraction of a token, so a token costs a whole number
//! of ticks whatever the rate. Nothing is ever added up in rounded steps: the clock is computed from the absolute time by one
//! multiplication, and no fraction of a token is lost, however often one asks.

use std::time::Duration;

use gusset_call::Limited;

use crate::{
    Denied, Level, Quota, TooCostly,
    sync::{AtomicU64, Ordering::Relaxed},
};

/// Ticks per nanosecond, at most 1, as a binary fraction with 63 places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale(u64);

impl Scale {
    const PLACES: u32 = 63;

    /// A tick is a nanosecond.
    #[cfg(feature = "redis")]
    pub(crate) const NANOS: Self = Self(1 << Self::PLACES);

    /// Where the clock stops: 292 years after it started.
    pub(crate) const END: u64 = 1 << 63;

    /// A span in nanoseconds, as far as the clock goes.
    pub(crate) fn nanos(span: Duration) -> u64 {
        u64::try_from(span.as_nanos()).unwrap_or(Self::END).min(Self::END)
    }

    /// The tick at nanosecond `nanos`.
    #[inline]
    pub(crate) fn tick(self, nanos: u64) -> u64 {
        ((u128::from(nanos) * u128::from(self.0)) >> Self::PLACES) as u64
    }

    /// The first nanosecond at which the clock shows `tick`.
    pub(crate) fn nanos_at(self, tick: u64) -> u64 {
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
    pub(crate) scale: Scale,
    /// A token is `1 << shift` ticks.
    pub(crate) shift: u32,
    /// In tokens.
    burst: u32,
}

/// By so much the clocks of two threads may differ without one of them having gone back.
pub(crate) const SLACK: Duration = Duration::from_millis(1);

/// A moment on the clock of a quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) nanos: u64,
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
        Self { scale: Scale(scale as u64), shift, burst }
    }

    /// The moment `nanos` nanoseconds after the epoch.
    #[inline]
    pub(crate) fn now(&self, nanos: u64) -> Now {
        let nanos = nanos.min(Scale::END);
        Now { nanos, tick: self.scale.tick(nanos) }
    }

    /// `now`, and `span` later.
    pub(crate) fn tick_after(&self, now: Now, span: Duration) -> u64 {
        self.scale.tick(now.nanos.saturating_add(Scale::nanos(span)).min(Scale::END))
    }

    /// What `tokens` cost, in ticks.
    #[inline]
    pub(crate) fn cost(&self, tokens: u32) -> Result<u64, TooCostly> {
        if tokens > self.burst {
            return Err(TooCostly::new(tokens, self.burst));
        }
        Ok(u64::from(tokens) << self.shift)
    }

    /// Takes `cost` from a bucket that is full at tick `full_at`, if that is allowed at tick `latest` or before. Gives the tick at which
    /// the bucket is then full, or the tick at which it would have been allowed.
    #[inline]
    pub(crate) fn take(&self, full_at: u64, cost: u64, now: Now, latest: u64) -> Result<u64, u64> {
        let spent = full_at.max(now.tick) + cost;
        let allowed_at = self.allowed_at(spent);
        if allowed_at <= latest { Ok(spent) } else { Err(allowed_at) }
    }

    /// When it was or will be allowed to fill the bucket up to `full_at`.
    #[inline]
    pub(crate) fn allowed_at(&self, full_at: u64) -> u64 {
        full_at.saturating_sub(self.burst_ticks())
    }

    #[inline]
    pub(crate) const fn burst_ticks(&self) -> u64 {
        (self.burst as u64) << self.shift
    }

    /// When a bucket is full that is empty now. No bucket is full later than that, unless somebody waits or the clock went back.
    #[inline]
    pub(crate) const fn empty(&self, now: Now) -> u64 {
        now.tick + self.burst_ticks()
    }

    /// What a bucket of an `older` quota, full at its tick `full_at`, comes to under this one at the same moment: spent tokens stay spent, up to
    /// the new burst.
    pub(crate) fn carried(&self, older: &Self, full_at: u64, nanos: u64) -> u64 {
        let full_at = full_at.min(older.empty(older.now(nanos)));
        self.owed(older, full_at, nanos).min(self.empty(self.now(nanos)))
    }

    /// The same, of tokens of which some are not due yet: all are still owed.
    pub(crate) fn owed(&self, older: &Self, full_at: u64, nanos: u64) -> u64 {
        let (then, now) = (older.now(nanos), self.now(nanos));
        let debt = full_at.saturating_sub(then.tick);
        let ticks = (u128::from(debt) << self.shift).div_ceil(1 << older.shift);
        now.tick.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    #[inline]
    pub(crate) fn level(&self, full_at: u64, now: Now) -> Level {
        let debt = full_at.saturating_sub(now.tick);
        // Not more than the burst, so it fits.
        let remaining = (self.burst_ticks().saturating_sub(debt) >> self.shift) as u32;
        Level::new(remaining, full_at, now.nanos, self.scale)
    }

    /// How long after `now` the clock shows `tick`.
    pub(crate) fn span_until(&self, tick: u64, now: Now) -> Duration {
        self.scale.span_until(tick, now.nanos)
    }

    /// The refusal of what would be allowed at tick `allowed_at`.
    #[cold]
    pub(crate) fn limited(&self, allowed_at: u64, now: Now) -> Limited {
        Limited::new(self.scale.span_until(allowed_at, now.nanos))
    }

    /// Nanoseconds since the epoch at which the clock shows `tick`.
    pub(crate) fn nanos_at(&self, tick: u64) -> u64 {
        self.scale.nanos_at(tick)
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

/// A [`Gcra`] that may be exchanged while others read it. They may read half of the old and half of the new one; so whoever reads it
/// must learn from elsewhere that it has not changed, before acting on it.
#[derive(Debug)]
pub(crate) struct GcraCell {
    scale: AtomicU64,
    /// The burst above, the shift below.
    shape: AtomicU64,
}

impl GcraCell {
    pub(crate) fn new(gcra: Gcra) -> Self {
        Self { scale: AtomicU64::new(gcra.scale.0), shape: AtomicU64::new(gcra.shape()) }
    }

    #[inline]
    pub(crate) fn load(&self) -> Gcra {
        let (scale, shape) = (self.scale.load(Relaxed), self.shape.load(Relaxed));
        // Below 64 it is anyhow; the mask tells the compiler.
        Gcra { scale: Scale(scale), shift: shape as u32 & 63, burst: (shape >> 32) as u32 }
    }

    pub(crate) fn store(&self, gcra: Gcra) {
        self.scale.store(gcra.scale.0, Relaxed);
        self.shape.store(gcra.shape(), Relaxed);
    }
}

impl Gcra {
    const fn shape(&self) -> u64 {
        (self.burst as u64) << 32 | self.shift as u64
    }
}
