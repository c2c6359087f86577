use std::time::Duration;

use gusset_call::Clock;
use tokio::time::Instant;

use crate::{engine::Source, policy::after};

/// Nanoseconds that a source keeps to itself what it has set aside for a worker: about as long as it takes to wake another.
const BRIEF: u64 = 50_000;

/// Moments within one poll of a worker. In between the cheap clock is read, which is too inexact to be followed for long, and knows nothing of
/// tokio's time if that is paused later.
pub(super) struct Time {
    /// When an attempt is over that began when this was made.
    ends: Instant,
    /// By the cheap clock.
    read: u64,
    let_go: u64,
}

impl Time {
    pub(super) fn now(clock: &Clock, timeout: Duration) -> Self {
        let read = clock.nanos();
        Self { ends: after(Instant::now(), timeout), read, let_go: read }
    }

    /// When an attempt is over that begins now; the source is told if time has passed.
    pub(super) fn passes(&mut self, clock: &Clock, source: &mut dyn Source) -> Instant {
        let read = clock.nanos();
        if read.saturating_sub(self.let_go) > BRIEF {
            self.let_go = read;
            source.let_go();
        }
        self.ends + Duration::from_nanos(read.saturating_sub(self.read))
    }
}
