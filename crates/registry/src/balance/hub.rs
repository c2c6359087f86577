//! What the endpoints of one balancer share, and what the end of a call is told to. It knows nothing of sets and services, so that a call under
//! way needs to hold no more than the load of its endpoint.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::Clock;
use tokio::sync::{Notify, futures::OwnedNotified};

use crate::{
    Ejection,
    balance::{
        ejector::{Ejector, Record},
        stale::Stale,
    },
};

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) clock: Clock,
    pub(crate) stale: Stale,
    pub(crate) ejector: Option<Ejector>,
    changed: Arc<Notify>,
    total: Total,
}

/// Calls under way at all endpoints together, of pickers that ask for it.
// A cache line of its own, for those calls write it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Total(AtomicUsize);

impl Hub {
    pub(crate) fn new(ejection: Option<Ejection>) -> Arc<Self> {
        Arc::new(Self {
            clock: Clock::new(),
            stale: Stale::new(),
            ejector: ejection.map(Ejector::new),
            changed: Arc::default(),
            total: Total::default(),
        })
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.nanos()
    }

    /// The set has to be built anew.
    pub(crate) fn invalidate(&self) {
        self.stale.invalidate();
        self.changed.notify_waiters();
    }

    /// Is ready once the set is invalidated or to be looked over after this was called.
    pub(crate) fn notified(&self) -> OwnedNotified {
        self.changed.clone().notified_owned()
    }

    /// Nobody who waits for a change has to wait any longer.
    pub(crate) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Takes the end of a call down. Who has to go for it goes before the next choice.
    #[inline]
    pub(crate) fn judge(&self, record: &Record, failed: bool) {
        if let Some(ejector) = &self.ejector {
            if ejector.note(record, failed, || self.now()) {
                self.stale.look_over();
                self.changed.notify_waiters();
            }
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.total.0.load(Relaxed)
    }

    pub(crate) fn enter_total(&self) {
        self.total.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn leave_total(&self) {
        self.total.0.fetch_sub(1, Relaxed);
    }
}

pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
