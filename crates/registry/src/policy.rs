use std::{num::NonZeroUsize, time::Duration};

/// For how long a registry believes in an instance it does not hear of, and how many it holds.
///
/// ```
/// # use std::time::Duration;
/// use gusset_registry::Policy;
///
/// let policy = Policy::default().ttl(Duration::from_secs(3)).sweep_every(Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) ttl: Duration,
    pub(crate) sweep_every: Duration,
    pub(crate) evict_after: Duration,
    pub(crate) capacity: NonZeroUsize,
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

    /// How often silent instances are looked for, and so by how much later than the TTL they are out. Default 10 s.
    /// At most a third of the TTL, which more means as well, and at least 1 ms.
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

    pub(crate) fn sweep_used(&self) -> Duration {
        self.sweep_every.min(self.ttl_used() / 3).max(SHORTEST)
    }
}

impl Default for Policy {
    fn default() -> Self {
        const CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);
        Self {
            ttl: Duration::from_secs(30),
            sweep_every: Duration::from_secs(10),
            evict_after: Duration::from_secs(60),
            capacity: CAPACITY,
        }
    }
}
