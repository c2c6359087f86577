use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use gusset_call::Ratio;

/// For how long a registry believes in an instance it does not hear of, how it doubts its own ears, and how many it holds.
///
/// ```
/// # use std::time::Duration;
/// use gusset_registry::Policy;
///
/// let policy = Policy::default().ttl(Duration::from_secs(3)).sweep_every(Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    pub(crate) ttl: Duration,
    pub(crate) sweep_every: Duration,
    pub(crate) evict_after: Duration,
    pub(crate) capacity: NonZeroUsize,
    pub(crate) rise: NonZeroU32,
    pub(crate) protect: Option<(Ratio, Duration)>,
}

/// Shorter times than this mean this: a loop must not become a busy one.
const SHORTEST: Duration = Duration::from_millis(1);

impl Policy {
    /// For how long an instance counts as healthy after it was last heard of; at least 3 ms. Default 30 s, of which a
    /// [`Registration`](crate::Registration) uses a third from one heartbeat to the next: two of them may get lost.
    #[must_use]
    pub const fn ttl(mut self, span: Duration) -> Self {
        self.ttl = span;
        self
    }

    /// How often silent instances are looked for, and so by how much later than the TTL they are out. Default 1 s.
    /// With 100,000 instances a sweep takes some 15 µs, most of it waiting for memory. At most a third of the TTL, which more means as well, at least a
    /// 300th of it and 1 ms; a little less than stated where the TTL is no multiple of it.
    #[must_use]
    pub const fn sweep_every(mut self, span: Duration) -> Self {
        self.sweep_every = span;
        self
    }

    /// For how long an unhealthy instance is still listed, so that operators see it and a heartbeat revives
    /// it, before it is forgotten. Default 60 s, so 90 s after its last sign of life.
    #[must_use]
    pub const fn evict_after(mut self, span: Duration) -> Self {
        self.evict_after = span;
        self
    }

    /// How many heartbeats, in different sweep intervals, an instance that falls silent again and again needs to be healthy again. The
    /// first time it takes one, the second time two, and so on up to this; after 900 sweep intervals in health it begins anew.
    /// Default 3, about 30 s with the usual times; 1 turns it off.
    #[must_use]
    pub const fn rise(mut self, heartbeats: NonZeroU32) -> Self {
        self.rise = heartbeats;
        self
    }

    /// When more than this share of a service, and at least 5 instances, fall silent within one TTL, they are kept as they were and
    /// marked [suspect](crate::Instance::suspect): then it is more likely that their heartbeats do not get through than that they are dead. Default one
    /// half, for 10 minutes.
    ///
    /// It ends when no more than the share has been silent for one TTL, when all are back, or after `at_most`. Who is silent then
    /// becomes unhealthy, and no longer counts for what is expected. [`Ratio::NONE`] means any share, [`Ratio::ALL`] that it never happens.
    #[must_use]
    pub const fn protect(mut self, share: Ratio, at_most: Duration) -> Self {
        self.protect = Some((share, at_most));
        self
    }

    /// Silence always means unhealthy, however many fall silent at once.
    #[must_use]
    pub const fn never_protect(mut self) -> Self {
        self.protect = None;
        self
    }

    /// How many instances there may be, of all services together. Default 10,000. At the bound new ones are refused
    /// with [`Error::Full`](crate::Error::Full); none that is registered has to go.
    #[must_use]
    pub const fn capacity(mut self, instances: NonZeroUsize) -> Self {
        self.capacity = instances;
        self
    }

    pub(crate) fn ttl_used(&self) -> Duration {
        self.ttl.max(3 * SHORTEST)
    }

    /// A whole number of them is the TTL, so that nobody is a fraction of one longer.
    pub(crate) fn sweep_used(&self) -> Duration {
        let ttl = self.ttl_used();
        let wanted = self.sweep_every.max(ttl / 300).max(SHORTEST);
        let ticks = ttl.as_nanos().div_ceil(wanted.as_nanos()).max(3);
        // Rounded up, or the TTL would be one tick more.
        let nanos = ttl.as_nanos().div_ceil(ticks);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Default for Policy {
    fn default() -> Self {
        const CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);
        Self {
            ttl: Duration::from_secs(30),
            sweep_every: Duration::from_secs(1),
            evict_after: Duration::from_secs(60),
            capacity: CAPACITY,
            rise: NonZeroU32::MIN.saturating_add(2),
            protect: Some((Ratio::percent(50), Duration::from_secs(600))),
        }
    }
}
