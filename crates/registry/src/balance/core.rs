//! What a balancer and a chooser share: the current set, and when it is not current any more.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire},
    },
};

use arc_swap::{ArcSwap, Guard};
use gusset_call::Clock;
use tokio::sync::{Notify, futures::OwnedNotified};

use crate::{
    Ejection, Fleet, Watch,
    balance::{
        connection::InFlight,
        ejection::Ejector,
        load::Load,
        set::{FOR_EVER, Set},
    },
};

pub(crate) struct Core<S> {
    pub(crate) watch: Watch,
    pub(crate) rules: Rules,
    ejector: Option<Ejector>,
    set: ArcSwap<Set<S>>,
    /// Rises whenever a set must be built although the instances did not change.
    generation: AtomicU64,
    changed: Arc<Notify>,
}

/// What sets are built by.
pub(crate) struct Rules {
    pub(crate) fleet: Fleet,
    pub(crate) clock: Clock,
    /// Calls under way at all endpoints.
    pub(crate) total: Arc<AtomicUsize>,
}

impl<S> Core<S> {
    pub(crate) fn new(watch: Watch, fleet: Fleet, ejection: Option<Ejection>) -> Self {
        let rules = Rules { fleet, clock: Clock::new(), total: Arc::default() };
        Self {
            watch,
            rules,
            ejector: ejection.map(Ejector::new),
            set: ArcSwap::from_pointee(Set::empty()),
            generation: AtomicU64::new(0),
            changed: Arc::default(),
        }
    }

    /// Another one for the same, with which it shares nothing.
    pub(crate) fn afresh<R>(&self) -> Core<R> {
        Core::new(self.watch.clone(), self.rules.fleet.clone(), self.ejection())
    }

    pub(crate) fn ejection(&self) -> Option<Ejection> {
        self.ejector.as_ref().map(|ejector| ejector.policy().clone())
    }

    pub(crate) const fn ejector(&self) -> Option<&Ejector> {
        self.ejector.as_ref()
    }

    pub(crate) fn now(&self) -> u64 {
        self.rules.clock.nanos()
    }

    #[inline]
    pub(crate) fn is_current(&self, set: &Set<S>) -> bool {
        set.version >= self.watch.version()
            && set.generation >= self.generation.load(Acquire)
            && (set.until == FOR_EVER || self.now() < set.until)
    }

    /// The set of the current snapshot.
    #[inline]
    pub(crate) fn current(&self) -> Guard<Arc<Set<S>>> {
        let present = self.set.load();
        if self.is_current(&present) { present } else { self.refresh() }
    }

    #[cold]
    fn refresh(&self) -> Guard<Arc<Set<S>>> {
        self.set.rcu(|present| {
            if self.is_current(present) {
                return present.clone();
            }
            // Read before what it stands for, so that nothing later is taken for seen.
            let generation = self.generation.load(Acquire);
            let next = present.next(&self.watch.snapshot(), &self.rules, self.now());
            Arc::new(Set { generation, ..next })
        });
        self.set.load()
    }

    /// The set has to be built anew.
    pub(crate) fn invalidate(&self) {
        self.generation.fetch_add(1, AcqRel);
        self.changed.notify_waiters();
    }

    /// Is ready once the set is invalidated after this was called.
    pub(crate) fn invalidated(&self) -> OwnedNotified {
        self.changed.clone().notified_owned()
    }

    /// Takes the end of a call down.
    #[inline]
    pub(crate) fn settle(&self, flight: &mut InFlight, failed: bool) {
        flight.settle(failed);
        self.judge(flight.load(), failed);
    }

    #[inline]
    pub(crate) fn judge(&self, load: &Load, failed: bool) {
        if let Some(ejector) = &self.ejector {
            if ejector.note(load, failed, || self.now()) {
                self.eject(ejector);
            }
        }
    }

    #[cold]
    fn eject(&self, ejector: &Ejector) {
        let set = self.current();
        let loads: Vec<&Load> = set.all().map(|(member, _)| &**member.seat).collect();
        if ejector.decide(&loads, self.now()) {
            drop(set);
            self.invalidate();
        }
    }

    /// The readiness of a service failed.
    pub(crate) fn broke(&self, load: &Load, epoch: u32) {
        load.state.broke(epoch);
        self.invalidate();
    }
}

impl<S> Drop for Core<S> {
    fn drop(&mut self) {
        // So that the connector ends.
        self.changed.notify_waiters();
    }
}
