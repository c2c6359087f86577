use std::time::Duration;

use tokio::sync::Semaphore;

use crate::Policy;

/// How an orchestrator works; [`Options::default`] states and explains the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub(crate) max_running: usize,
    pub(crate) lease: Duration,
    pub(crate) store_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_running: 1_000,
            lease: Duration::from_secs(30),
            store_timeout: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// How many sagas may be under way at once; 0 means the same as 1. Default 1,000: each is a task of a few KiB, and
    /// more of them would only queue at the store. Further ones wait, first come first served, before they begin. A saga
    /// keeps its place during pauses. An action that waits for another saga of the same orchestrator takes a second place, and hangs
    /// until its timeout when all places are taken by such actions.
    #[must_use]
    pub const fn max_running(mut self, sagas: usize) -> Self {
        let most = Semaphore::MAX_PERMITS;
        self.max_running = if sagas == 0 {
            1
        } else if sagas > most {
            most
        } else {
            sagas
        };
        self
    }

    /// How long this process may be silent before others take its sagas over; renewed after a third of it. Default 30 s: longer
    /// than a pause of the machine, short enough for someone who waits. Less than 1 s means 1 s.
    #[must_use]
    pub const fn lease(mut self, span: Duration) -> Self {
        let least = Duration::from_secs(1);
        self.lease = if span.as_nanos() < least.as_nanos() { least } else { span };
        self
    }

    /// How long the store may take to answer before that counts as a failure. Default 10 s.
    #[must_use]
    pub const fn store_timeout(mut self, span: Duration) -> Self {
        self.store_timeout = span;
        self
    }

    /// How long a saga is left to processes that know its definition.
    pub(crate) fn orphaned(&self) -> Duration {
        self.lease / 3
    }

    /// Pauses while the store fails: up to 5 s, without end.
    pub(crate) const fn store_policy(&self) -> Policy {
        Policy::step().backoff(Duration::from_millis(50), Duration::from_secs(5))
    }
}
