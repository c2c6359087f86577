//! What the calls of a balancer tell of an endpoint: how many are under way, how many failed lately, and how long they take.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

use crate::balance::{
    ejector::Record, failures::Failures, hub::Hub, latency::Latency, state::State,
};

/// All times are nanoseconds of the balancer's clock.
// Cache lines of its own, for it is written by every call.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Load {
    pub(crate) state: State,
    failures: AtomicU64,
    latency: AtomicU64,
    /// Since when it may take calls; 0 for one that was there from the beginning.
    since: AtomicU64,
    pub(crate) record: Record,
    pub(crate) hub: Arc<Hub>,
}

/// Holds the load of an endpoint for all but its calls. Calls hold the load itself, so the count of its owners is that of the
/// calls under way: no counter has to be kept beside it.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Load>);

impl Seat {
    pub(crate) fn new(load: Load) -> Arc<Self> {
        Arc::new(Self(Arc::new(load)))
    }

    pub(crate) fn pending(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    /// A call begins; dropping what it gets ends it.
    pub(crate) fn take(&self) -> Arc<Load> {
        self.0.clone()
    }
}

impl Deref for Seat {
    type Target = Load;

    fn deref(&self) -> &Load {
        &self.0
    }
}

impl Load {
    pub(crate) fn new(since: u64, hub: Arc<Hub>) -> Self {
        Self {
            state: State::new(),
            failures: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            since: AtomicU64::new(since),
            record: Record::new(),
            hub,
        }
    }

    pub(crate) fn since(&self) -> u64 {
        self.since.load(Relaxed)
    }

    pub(crate) fn begin_anew(&self, now: u64) {
        self.since.store(now, Relaxed);
    }

    /// `now` is asked only if it matters, so that no clock is read for an endpoint that is well.
    pub(crate) fn failure_ratio(&self, now: impl FnOnce() -> u64) -> f64 {
        let failures = Failures(self.failures.load(Acquire));
        if failures.is_none() { 0.0 } else { failures.ratio(now()) }
    }

    pub(crate) fn is_owed_a_trial(&self, now: u64) -> bool {
        Failures(self.failures.load(Acquire)).is_owed_a_trial(now)
    }

    #[inline]
    pub(crate) fn has_failures(&self) -> bool {
        !Failures(self.failures.load(Relaxed)).is_none()
    }

    /// The readiness of the service of this epoch failed.
    pub(crate) fn broke(&self, epoch: u32) {
        self.state.broke(epoch);
        self.hub.invalidate();
    }

    /// Takes the end of a call down.
    #[inline]
    pub(crate) fn ended(&self, failed: bool) {
        self.note(failed);
        self.hub.judge(&self.record, failed);
    }

    #[inline]
    fn note(&self, failed: bool) {
        if failed || self.has_failures() {
            let now = self.hub.now();
            let next = |word| Some(Failures(word).after(failed, now).0);
            // Always Ok, as `next` never says no.
            let _ = self.failures.fetch_update(AcqRel, Acquire, next);
        }
    }

    /// The mean in nanoseconds, `None` if nothing was measured. `memory` is in seconds.
    pub(crate) fn latency(&self, now: u64, memory: f32) -> Option<f32> {
        Latency(self.latency.load(Relaxed)).mean(now, memory)
    }

    pub(crate) fn measured(&self, nanos: u64, failed: bool, now: u64, memory: f32) {
        let mut word = self.latency.load(Relaxed);
        loop {
            let next = Latency(word).after(nanos, failed, now, memory).0;
            if next == word {
                return;
            }
            match self.latency.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }
}
