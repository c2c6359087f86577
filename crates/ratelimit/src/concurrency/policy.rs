use std::{num::NonZeroU32, time::Duration};

use gusset_call::Ratio;

use super::{
    aimd::Aimd,
    gradient::Gradient,
    tuner::{Algorithm, Tuner},
    window::Bounds,
};

/// How many calls may run at once, and what changes that number.
///
/// ```
/// # use std::time::Duration;
/// use gusset_ratelimit::Concurrency;
///
/// let policy = Concurrency::gradient().between(2, 100).initial(10).timeout(Duration::from_millis(900));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    kind: Kind,
    initial: u32,
    min: u32,
    max: u32,
    timeout: Duration,
    low_share: Ratio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed,
    Aimd,
    Gradient,
}

impl Concurrency {
    /// Always `limit`. For where the right number is known, such as the size of a pool behind. Reads no clock.
    #[must_use]
    pub const fn fixed(limit: NonZeroU32) -> Self {
        let limit = limit.get();
        Self { initial: limit, min: limit, max: limit, ..Self::adaptive(Kind::Fixed) }
    }

    /// Falls to 0.9 after overload, grows by 1 without, once in a window of at least 100 ms and 10 calls. For services that
    /// say that they are overloaded, or run into a [`timeout`](Self::timeout): slower ones alone do not lower it.
    ///
    /// It grows only if at least half of it was in use, and falls only if more than 1 % of the calls of the window were
    /// overload. After Chiu and Jain (1989), with the numbers of Netflix's `concurrency-limits`.
    #[must_use]
    pub const fn aimd() -> Self {
        Self::adaptive(Kind::Aimd)
    }

    /// Falls when calls take longer than 1.5 times the unloaded latency, by up to a tenth in a window of at least 100 ms and
    /// 50 calls; grows when they do not, by a fifth of its square root. Falls after overload as [`aimd`](Self::aimd) does. For
    /// services that queue what they cannot do.
    ///
    /// It grows only if at least half of it was in use. It settles at about 1.5 times of what the service can do at once, so the
    /// queue there is half as long as the work. Latency is the geometric mean of a window, which a few slow calls move
    /// little.
    ///
    /// The unloaded latency is measured at the first load, about every 30 s under load, and after the limit fell by 30 %: the
    /// limit then goes down in steps of 30 % as long as the latency falls along, a window each, and returns to the last step but
    /// one. That costs some refusals for a moment: 30 % for a window, where there is no queue and latency is steady. Latency that
    /// varies by itself may lead it a few steps too far, from which the limit grows again.
    ///
    /// After Netflix's `Gradient2` and Envoy's gradient controller.
    #[must_use]
    pub const fn gradient() -> Self {
        Self::adaptive(Kind::Gradient)
    }

    const fn adaptive(kind: Kind) -> Self {
        Self {
            kind,
            initial: 20,
            min: 4,
            max: 1_000,
            timeout: Duration::from_secs(5),
            low_share: Ratio::percent(80),
        }
    }

    /// The bounds of an adaptive limit; 0 means 1, and a `max` below `min` means `min`. A fixed limit has none.
    ///
    /// Default 4 to 1,000. Fewer than 4 calls leave little to measure, and one of them must not stop all others. A service that
    /// needs more than 1,000 at once, the default of Envoy, is rare enough to say so.
    #[must_use]
    pub const fn between(mut self, min: u32, max: u32) -> Self {
        if !matches!(self.kind, Kind::Fixed) {
            self.min = if min == 0 { 1 } else { min };
            self.max = if max < self.min { self.min } else { max };
        }
        self
    }

    /// Where an adaptive limit begins; brought into the bounds. Default 20, as Netflix's: enough for most, and as it grows by
    /// about ten a second under load, soon enough for others.
    #[must_use]
    pub const fn initial(mut self, limit: u32) -> Self {
        if !matches!(self.kind, Kind::Fixed) {
            self.initial = limit;
        }
        self
    }

    /// From which duration on a call is a sign of overload, even if it was served or dropped. Default 5 s, as Netflix's.
    ///
    /// Set it just below a timeout that stands outside. A call that is dropped sooner says nothing: its caller was impatient.
    #[must_use]
    pub const fn timeout(mut self, span: Duration) -> Self {
        self.timeout = span;
        self
    }

    /// Which part of the places calls of [`Priority::Low`](crate::Priority::Low) may use, rounded down, but at least one
    /// place. [`Ratio::NONE`] refuses them all. Default 80 %: what is more important finds every fifth place free.
    ///
    /// Below 50 % a limit that only such calls use does not grow, for they never use half of it.
    #[must_use]
    pub const fn low_share(mut self, share: Ratio) -> Self {
        self.low_share = share;
        self
    }

    pub(super) fn first_limit(&self) -> u32 {
        self.initial.clamp(self.min, self.max)
    }

    pub(super) fn tuner(&self, seed: u64) -> Option<Tuner> {
        let limit = f64::from(self.first_limit());
        let bounds = Bounds { min: f64::from(self.min), max: f64::from(self.max) };
        let algorithm = match self.kind {
            Kind::Fixed => return None,
            Kind::Aimd => Algorithm::Aimd(Aimd { limit, bounds }),
            Kind::Gradient => Algorithm::Gradient(Gradient::new(limit, bounds, seed)),
        };
        Some(Tuner::new(algorithm, self.timeout))
    }

    /// How many of `limit` places calls of low priority may use.
    pub(super) fn low_places(&self, limit: u32) -> u32 {
        let places = self.low_share.of(limit.into()) as u32;
        if places == 0 && self.low_share != Ratio::NONE { 1 } else { places }
    }
}
