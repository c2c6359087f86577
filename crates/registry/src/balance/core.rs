//! What a balancer and a chooser share: the current set, and when it is not current any more.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::{
    Ejection, Fleet, Instance, Watch,
    balance::{
        ejector::{Ejector, Record},
        hub::Hub,
        set::{FOR_EVER, Set},
    },
};

pub(crate) struct Core<S> {
    pub(crate) watch: Watch,
    pub(crate) fleet: Fleet,
    pub(crate) hub: Arc<Hub>,
    set: ArcSwap<Set<S>>,
}

impl<S> Core<S> {
    pub(crate) fn new(watch: Watch, fleet: Fleet, ejection: Option<Ejection>) -> Self {
        let (hub, set) = (Hub::new(ejection), ArcSwap::from_pointee(Set::empty()));
        Self { watch, fleet, hub, set }
    }

    /// Another one for the same, with which it shares nothing.
    pub(crate) fn afresh<R>(&self) -> Core<R> {
        Core::new(self.watch.clone(), self.fleet.clone(), self.ejection())
    }

    pub(crate) fn ejection(&self) -> Option<Ejection> {
        self.hub.ejector.as_ref().map(|ejector| ejector.policy().clone())
    }

    #[inline]
    pub(crate) fn is_current(&self, set: &Set<S>) -> bool {
        self.is_fresh(set) && !self.hub.stale.is_due()
    }

    #[inline]
    fn is_fresh(&self, set: &Set<S>) -> bool {
        set.version >= self.watch.version()
            && self.hub.stale.is_fresh(set.generation)
            && (set.until == FOR_EVER || self.hub.now() < set.until)
    }

    /// The set of the current snapshot. `still_reaches` says whether what was made for the one goes on serving the other.
    #[inline]
    pub(crate) fn current(
        &self,
        still_reaches: impl Fn(&Instance, &Instance) -> bool,
    ) -> Guard<Arc<Set<S>>> {
        let present = self.set.load();
        if self.is_current(&present) { present } else { self.refresh(&still_reaches) }
    }

    #[cold]
    fn refresh(&self, still_reaches: &dyn Fn(&Instance, &Instance) -> bool) -> Guard<Arc<Set<S>>> {
        loop {
            self.set.rcu(|present| {
                if self.is_fresh(present) {
                    return present.clone();
                }
                // Read before what it stands for, so that nothing later is taken for seen.
                let generation = self.hub.stale.generation();
                let next =
                    present.next(&self.watch.snapshot(), &self.fleet, &self.hub, still_reaches);
                Arc::new(Set { generation, ..next })
            });
            let set = self.set.load();
            match &self.hub.ejector {
                Some(ejector) if self.hub.stale.take_due() && self.eject(ejector, &set) => {}
                _ => return set,
            }
        }
    }

    /// Whether somebody had to go.
    fn eject(&self, ejector: &Ejector, set: &Set<S>) -> bool {
        let records: Vec<&Record> = set.all().map(|(member, _)| &member.seat.record).collect();
        let any = ejector.decide(&records, self.hub.now());
        if any {
            self.hub.invalidate();
        }
        any
    }
}

impl<S> Drop for Core<S> {
    fn drop(&mut self) {
        // So that the connector ends.
        self.hub.wake();
    }
}
