//! The time that a server was attended: what checks are measured with.

use std::time::Duration;

/// How often a server looks at the clock.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Time in which our own process stood still is not counted: no heartbeat could arrive in it.
#[derive(Debug, Default)]
pub(super) struct Attended {
    ticked: Duration,
    /// What was not counted so far.
    stood: Duration,
}

impl Attended {
    pub(super) fn at(&self, elapsed: Duration) -> Duration {
        let since = elapsed.saturating_sub(self.ticked);
        // Before the tick that tells, a long time may be a pause or not.
        (self.ticked + since.min(2 * TICK)).saturating_sub(self.stood)
    }

    pub(super) fn tick(&mut self, elapsed: Duration) {
        let since = elapsed.saturating_sub(self.ticked);
        self.stood += since.saturating_sub(2 * TICK);
        self.ticked = elapsed;
    }
}
