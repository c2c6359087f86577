use std::time::Duration;

use crate::gcra::{Gcra, Now};

/// The ticks that belong to one caller: its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) gcra: Gcra,
    pub(crate) now: Now,
    /// The bucket is full then, as far as this caller knew.
    pub(crate) end: u64,
    pub(crate) cost: u64,
    pub(crate) tokens: u32,
    /// How often tokens had been given back from before those of others.
    pub(crate) moves: u64,
}

impl Place {
    /// How long from the moment when it was taken until it is the caller's turn.
    pub(crate) fn wait(&self) -> Duration {
        let allowed_at = self.gcra.allowed_at(self.end);
        // Else it could have been taken earlier still.
        if allowed_at <= self.now.tick {
            Duration::ZERO
        } else {
            self.gcra.span_until(allowed_at, self.now)
        }
    }

    /// The same from another moment.
    pub(crate) fn wait_from(&self, nanos: u64) -> Duration {
        let wait = self.gcra.span_until(self.gcra.allowed_at(self.end), self.gcra.now(nanos));
        if self.wait().is_zero() { Duration::ZERO } else { wait }
    }
}
