use std::{fmt, ops::Deref, sync::Arc};

use crate::{
    Ejection, Fleet, Instance, Pick, RoundRobin, Watch,
    balance::{
        candidates::Member,
        core::Core,
        endpoint::{Endpoint, list},
        flight::InFlight,
        hash::first_turn,
        set::{Asking, Now, Set},
    },
};

/// Chooses an instance for a call that is made by hand. Clones share turns and loads.
///
/// ```
/// use gusset_registry::{Chooser, Instance, Watch};
///
/// let watch = Watch::fixed("cart", [Instance::new("cart", "10.0.0.7", 80)]);
/// let mut cart = Chooser::new(watch);
/// let instance = cart.choose(&()).expect("there is one");
/// assert_eq!(instance.authority(), "10.0.0.7:80");
/// // After the call: it takes part in what `LeastLoaded` and `Ejection` know.
/// instance.succeeded();
/// ```
///
/// Each handle keeps the set that it used last, which makes a choice as cheap as a few nanoseconds, and holds the descriptions of
/// instances, not connections. So a handle that is not used keeps one old set.
///
/// [`Balance`](crate::Balance) is the same as a service, with connections.
pub struct Chooser<P = RoundRobin> {
    core: Arc<Core<()>>,
    set: Arc<Set<()>>,
    pick: P,
    turn: usize,
}

impl Chooser {
    /// Chooses among what `watch` sees, in [`RoundRobin`].
    #[must_use]
    pub fn new(watch: Watch) -> Self {
        Self::build(watch, RoundRobin, Fleet::default(), None)
    }
}

impl<P> Chooser<P> {
    fn build(watch: Watch, pick: P, fleet: Fleet, ejection: Option<Ejection>) -> Self {
        let core = Arc::new(Core::new(watch, fleet, ejection));
        Self { core, set: Arc::new(Set::empty()), pick, turn: first_turn() }
    }

    /// Another way to choose. Default [`RoundRobin`].
    ///
    /// Like the other setters, it gives a chooser that shares nothing with clones made before.
    #[must_use]
    pub fn pick<Q>(self, pick: Q) -> Chooser<Q> {
        let Core { watch, fleet, .. } = &*self.core;
        let ejection = self.core.ejection();
        Chooser::build(watch.clone(), pick, fleet.clone(), ejection)
    }

    /// Which instances take part. Default: all that are healthy.
    #[must_use]
    pub fn among(self, fleet: Fleet) -> Self {
        let ejection = self.core.ejection();
        Self::build(self.core.watch.clone(), self.pick, fleet, ejection)
    }

    /// Ejects instances of which calls are told to have [failed](Chosen::failed). Off by default.
    #[must_use]
    pub fn eject(self, ejection: Ejection) -> Self {
        let fleet = self.core.fleet.clone();
        Self::build(self.core.watch.clone(), self.pick, fleet, Some(ejection))
    }

    /// The instance for this call, `None` if there is none.
    #[inline]
    pub fn choose<Req>(&mut self, request: &Req) -> Option<Chosen<'_>>
    where
        P: Pick<Req>,
    {
        if !self.core.is_current(&self.set) {
            self.set = self.core.current(Instance::is_reached_like).clone();
        }
        let roster = &self.set.roster;
        if roster.members.is_empty() {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        let (now, needs) = (Now::new(&self.core.hub.clock), self.pick.needs());
        let asking = Asking { turn: None.into(), own_turn: self.turn, now: &now, needs };
        let index = roster.ask(&self.pick, request, &asking, &|_| true)?;
        let counted = needs.pending || needs.total_pending || needs.latency.is_some();
        // `ask` answers with places within the list only.
        let member = roster.members.get(index)?;
        let flight = counted.then(|| InFlight::begin(&member.seat, 0, needs, &now));
        Some(Chosen { member, flight })
    }

    /// The instances, and how they fare in the hands of this chooser.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        list(&self.core.hub, &self.core.current(Instance::is_reached_like))
    }
}

/// An instance that a [`Chooser`] chose, and the place of the call in its load: it is given back when this is dropped.
#[must_use = "dropping it takes the call off the load of the instance"]
pub struct Chosen<'a> {
    member: &'a Member,
    flight: Option<InFlight>,
}

impl Chosen<'_> {
    /// The instance, to be kept.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        &self.member.instance
    }

    /// The call went well.
    #[inline]
    pub fn succeeded(self) {
        self.settle(false);
    }

    /// The call failed by the fault of the instance.
    #[inline]
    pub fn failed(self) {
        self.settle(true);
    }

    #[inline]
    fn settle(mut self, failed: bool) {
        match &mut self.flight {
            Some(flight) => flight.settle(failed),
            None => self.member.seat.ended(failed),
        }
    }
}

impl Deref for Chosen<'_> {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.member.instance
    }
}

impl<P: Clone> Clone for Chooser<P> {
    fn clone(&self) -> Self {
        let turn = first_turn();
        Self { core: self.core.clone(), set: self.set.clone(), pick: self.pick.clone(), turn }
    }
}

impl<P> fmt::Debug for Chooser<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chooser")
            .field("service", self.core.watch.service())
            .field("endpoints", &self.endpoints())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Chosen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chosen").field(&self.member.instance).finish()
    }
}
