use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::Guard;
use gusset_call::{BoxError, NoInstance};
use tower_service::Service;

use crate::{
    BalanceStats, Ejection, Fleet, Instance, MakeEndpoint, Pick, Watch,
    balance::{
        Eligible, Endpoint, Opaque, Protocol, ResponseFuture, RoundRobin, choice::Choice,
        core::Core, endpoint, hash::first_turn, set::Set,
    },
};

/// Sends each call to one of the healthy instances of a service. Clones share the endpoints.
///
/// Three things make it up: how to reach an instance (`M`, a [`MakeEndpoint`]), whose turn it is (`P`, a [`Pick`]),
/// and what it understands of the messages (`T`, a [`Protocol`]).
///
/// # Readiness
///
/// Always ready, for nobody knows the endpoint before the request is there. The endpoint is chosen by `call`, and called at once if it is ready; else
/// its readiness is awaited within the future. Put limits of concurrency outside.
///
/// A service whose readiness fails is made anew: at once the first time, and if it was not ready before it failed again, after a rest from 50-100 ms up to
/// 5-10 s. Meanwhile calls go to the others; where all rest they wait. Nothing has to happen for it to come back but time.
/// [`Balance::spawn_connector`] does all that in the background, before calls need it.
///
/// # Cancellation
///
/// Dropping the future takes the call off the endpoint's load, whether it was still waiting or already under way. What the endpoint was told by
/// then is the endpoint's affair, also if the future was never polled.
///
/// # Errors
///
/// [`NoInstance`] if there was no instance to call within [`Balance::wait`]. Errors of the endpoint come out as they are.
///
/// # Panics
///
/// The future panics outside of a tokio runtime where it has to wait for an instance.
///
/// # Memory
///
/// One endpoint for each healthy instance. That of an instance which left is dropped by the first call after it, or when
/// its last call ends, whichever is later.
pub struct Balance<M: MakeEndpoint, P = RoundRobin, T = Opaque> {
    pub(crate) shared: Arc<Shared<M, P, T>>,
    /// Number of the next call of this handle.
    turn: usize,
}

pub(crate) struct Shared<M: MakeEndpoint, P, T> {
    pub(crate) core: Core<M::Service>,
    pub(crate) make: M,
    pub(crate) pick: P,
    pub(crate) protocol: T,
    pub(crate) wait: Duration,
}

impl<M: MakeEndpoint> Balance<M> {
    /// Balances over what `watch` sees, in [`RoundRobin`]. The endpoints are made by `make`: a closure
    /// `Fn(&Instance) -> S`, where calls use clones of `S`.
    pub fn new(watch: Watch, make: M) -> Self {
        Self::build(Core::new(watch, Fleet::default(), None), make, RoundRobin, Opaque, WAIT)
    }

    /// Balances over a list that never changes: instances, or their socket addresses.
    ///
    /// ```
    /// # use std::net::SocketAddr;
    /// use gusset_registry::{Balance, Instance};
    ///
    /// let places: [SocketAddr; 2] = ["10.0.0.7:80".parse()?, "10.0.0.8:80".parse()?];
    /// let cart = Balance::fixed(places, |instance: &Instance| instance.authority());
    /// assert_eq!(cart.endpoints().len(), 2);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn fixed<I: Into<Instance>>(instances: impl IntoIterator<Item = I>, make: M) -> Self {
        let instances: Vec<Instance> = instances.into_iter().map(Into::into).collect();
        let named = instances.iter().find(|instance| !instance.service.is_empty());
        let service = named.map_or_else(|| "fixed".into(), |instance| instance.service.clone());
        Self::new(Watch::fixed(service, instances), make)
    }
}

/// Long enough for a service that is just starting, short enough that callers do not pile up.
const WAIT: Duration = Duration::from_secs(1);

impl<M: MakeEndpoint, P, T> Balance<M, P, T> {
    fn build(core: Core<M::Service>, make: M, pick: P, protocol: T, wait: Duration) -> Self {
        Self { shared: Arc::new(Shared { core, make, pick, protocol, wait }), turn: first_turn() }
    }

    /// Another way to choose: see the [table](crate#choosing-an-instance), or a closure. Default [`RoundRobin`].
    ///
    /// Like the other setters, it gives a balancer that shares nothing with clones made before.
    #[must_use]
    pub fn pick<Q>(self, pick: Q) -> Balance<M, Q, T>
    where
        M: Clone,
        T: Clone,
    {
        let Shared { core, make, protocol, wait, .. } = &*self.shared;
        Balance::build(core.afresh(), make.clone(), pick, protocol.clone(), *wait)
    }

    /// What to understand of the messages, for instance `Http` (feature `http`). Default [`Opaque`]: nothing.
    #[must_use]
    pub fn protocol<U>(self, protocol: U) -> Balance<M, P, U>
    where
        M: Clone,
        P: Clone,
    {
        let Shared { core, make, pick, wait, .. } = &*self.shared;
        Balance::build(core.afresh(), make.clone(), pick.clone(), protocol, *wait)
    }

    /// Passes over endpoints of which `rule` says no, unless it says so of all: for instance those whose circuit is
    /// open. It is asked for every call and must be quick.
    #[must_use]
    pub fn eligible<F>(self, rule: F) -> Balance<Eligible<M, F>, P, T>
    where
        F: Fn(&Instance, &M::Service) -> bool,
        M: Clone,
        P: Clone,
        T: Clone,
    {
        let Shared { core, make, pick, protocol, wait } = &*self.shared;
        let make = Eligible::new(make.clone(), rule);
        Balance::build(core.afresh(), make, pick.clone(), protocol.clone(), *wait)
    }

    /// Which instances take calls, and which part of them: by zone, tag, age. Default: all that are healthy, alike.
    #[must_use]
    pub fn among(self, fleet: Fleet) -> Self
    where
        M: Clone,
        P: Clone,
        T: Clone,
    {
        let core = Core::new(self.shared.core.watch.clone(), fleet, self.shared.core.ejection());
        self.with(core, self.shared.wait)
    }

    /// Takes endpoints out for a while whose calls fail. Off by default: where each endpoint has a circuit breaker of its own, as in
    /// the standard stack, that says who is [eligible](Self::eligible).
    #[must_use]
    pub fn eject(self, ejection: Ejection) -> Self
    where
        M: Clone,
        P: Clone,
        T: Clone,
    {
        let Core { watch, fleet, .. } = &self.shared.core;
        let core = Core::new(watch.clone(), fleet.clone(), Some(ejection));
        self.with(core, self.shared.wait)
    }

    /// For how long a call waits for a first healthy instance before it is refused. Default 1 s: long enough for a service
    /// that is just starting, short enough that callers do not pile up. Zero refuses at once.
    #[must_use]
    pub fn wait(self, span: Duration) -> Self
    where
        M: Clone,
        P: Clone,
        T: Clone,
    {
        self.with(self.shared.core.afresh(), span)
    }

    fn with(&self, core: Core<M::Service>, wait: Duration) -> Self
    where
        M: Clone,
        P: Clone,
        T: Clone,
    {
        let Shared { make, pick, protocol, .. } = &*self.shared;
        Self::build(core, make.clone(), pick.clone(), protocol.clone(), wait)
    }

    /// The instances that take calls or are ejected, and how they fare in the hands of this balancer.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        endpoint::list(&self.shared.core.hub, &self.shared.current())
    }

    /// The [`endpoints`](Self::endpoints), each with its service if that was made: for pages that show what the maker put into it, for instance a circuit. It makes none.
    ///
    /// ```
    /// use gusset_registry::{Balance, Instance};
    ///
    /// let cart = Balance::fixed([Instance::new("cart", "10.0.0.7", 80)], |instance: &Instance| instance.authority());
    /// assert!(cart.services()[0].1.is_none(), "it is made by the first call");
    /// ```
    #[must_use]
    pub fn services(&self) -> Vec<(Endpoint, Option<M::Service>)> {
        let current = self.shared.current();
        let list = endpoint::with_services(&self.shared.core.hub, &current);
        list.into_iter().map(|(endpoint, service)| (endpoint, service.cloned())).collect()
    }

    /// Whether an instance takes calls at present, so that a call would not wait for one. It costs as much as a choice.
    #[must_use]
    pub fn has_instances(&self) -> bool {
        !self.shared.current().roster.members.is_empty()
    }

    /// What it did on its own.
    #[must_use]
    pub fn stats(&self) -> BalanceStats {
        endpoint::stats(&self.shared.core.hub, &self.shared.current())
    }
}

impl<M: MakeEndpoint, P, T> Shared<M, P, T> {
    #[inline]
    pub(crate) fn current(&self) -> Guard<Arc<Set<M::Service>>> {
        self.core.current(|made_for, now| self.make.still_reaches(made_for, now))
    }

    pub(crate) fn refusal(&self) -> NoInstance {
        NoInstance::new(self.core.watch.service().clone())
    }
}

impl<M: MakeEndpoint, P, T> Clone for Balance<M, P, T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), turn: first_turn() }
    }
}

impl<M, P, T, Req> Service<Req> for Balance<M, P, T>
where
    M: MakeEndpoint,
    M::Service: Service<Req>,
    <M::Service as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    T: Protocol<Req, <M::Service as Service<Req>>::Response> + Clone,
{
    type Response = <M::Service as Service<Req>>::Response;
    type Error = BoxError;
    type Future = ResponseFuture<M, P, T, Req>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        self.turn = self.turn.wrapping_add(1);
        match self.shared.choose::<Req, Self::Response>(self.turn, &request) {
            Choice::Call(service, flight) => {
                ResponseFuture::begin(flight, service, self.shared.protocol.clone(), request)
            }
            // Most calls do not come here, and need no handle of their own.
            _ => ResponseFuture::wait(self.shared.clone(), self.turn, request),
        }
    }
}

impl<M: MakeEndpoint, P, T> fmt::Debug for Balance<M, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("service", self.shared.core.watch.service())
            .field("endpoints", &self.endpoints())
            .finish_non_exhaustive()
    }
}
