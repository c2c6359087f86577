use std::time::Duration;

use gusset_call::Clock;
use tokio::time::Instant;

use crate::engine::Source;

/// How long a source keeps to itself what it has set aside for a worker: about as long as it takes to wake another.
const BRIEF: Duration = Duration::from_micros(50);

/// Moments within one poll of a worker. In between the cheap clock is read, which is too inexact to be followed for long, and knows nothing of
/// tokio's time if that is paused later.
pub(super) struct Time {
    now: Instant,
    /// By the cheap clock.
    read: u64,
    let_go: u64,
}

impl Time {
    pub(super) fn now(clock: &Clock) -> Self {
        let read = clock.nanos();
        Self { now: Instant::now(), read, let_go: read }
    }

    /// What time it is; the source is told if it has passed.
    pub(super) fn passes(&mut self, clock: &Clock, source: &mut dyn Source) -> Instant {
        let read = clock.nanos();
        if Duration::from_nanos(read.saturating_sub(self.let_go)) > BRIEF {
            self.let_go = read;
            source.let_go();
        }
        self.now + Duration::from_nanos(read.saturating_sub(self.read))
    }
}
