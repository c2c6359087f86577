use std::{fmt, time::Duration};

use crate::gcra::Scale;

/// How full a bucket is.
#[derive(Clone, Copy)]
pub struct Level {
    remaining: u32,
    /// A tick; turned into a time only for those who ask, for that takes a division.
    full_at: u64,
    now: u64,
    scale: Scale,
}

impl Level {
    pub(crate) const fn new(remaining: u32, full_at: u64, now: u64, scale: Scale) -> Self {
        Self { remaining, full_at, now, scale }
    }

    /// As somebody else counted it.
    #[cfg(feature = "redis")]
    pub(crate) fn counted_elsewhere(remaining: u32, full_in: Duration) -> Self {
        Self::new(remaining, Scale::nanos(full_in), 0, Scale::NANOS)
    }

    /// How many whole tokens are left.
    #[must_use]
    pub const fn remaining(&self) -> u32 {
        self.remaining
    }

    /// How long from then until the bucket is full, if nothing more is taken.
    #[must_use]
    pub fn full_in(&self) -> Duration {
        self.scale.span_until(self.full_at, self.now)
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Level")
            .field("remaining", &self.remaining)
            .field("full_in", &self.full_in())
            .finish()
    }
}
