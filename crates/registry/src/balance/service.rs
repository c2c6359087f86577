use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use gusset_call::{BoxError, NoInstance};
use tokio::sync::futures::OwnedNotified;
use tower_service::Service;

use crate::{
    Instance, MakeEndpoint, Pick, Watch,
    balance::{
        Eligible, Endpoint, Opaque, Protocol, ResponseFuture, RoundRobin,
        endpoints::{Endpoints, InFlight},
    },
};

/// Sends each call to one of the healthy instances of a service. Clones share the endpoints.
///
/// Three things make it up: how to reach an instance (`M`, a [`MakeEndpoint`]), whose turn it is (`P`, a [`Pick`]),
/// and what it understands of the messages (`T`, a [`Protocol`]).
///
/// # Readiness
///
/// Always ready, for nobody knows the endpoint before the request is there. The readiness of the endpoint is awaited within
/// the future of the call; put limits of concurrency outside. An endpoint whose readiness fails is made anew when it is picked next.
///
/// # Cancellation
///
/// Dropping the future takes the call off the endpoint's load, whether it was still waiting or already under way.
///
/// # Errors
///
/// [`NoInstance`] if there was no healthy instance within [`Balance::wait`]. Errors of the endpoint come out as they are.
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
    shared: Arc<Shared<M, P, T>>,
}

struct Shared<M: MakeEndpoint, P, T> {
    watch: Watch,
    make: M,
    pick: P,
    protocol: T,
    wait: Duration,
    endpoints: ArcSwap<Endpoints<M::Service>>,
    /// There is a broken endpoint among `endpoints`.
    broken: AtomicBool,
}

impl<M: MakeEndpoint> Balance<M> {
    /// Balances over what `watch` sees, in [`RoundRobin`]. The endpoints are made by `make`: a closure
    /// `Fn(&Instance) -> S`, where calls use clones of `S`.
    pub fn new(watch: Watch, make: M) -> Self {
        Self::build(watch, make, RoundRobin, Opaque, Duration::from_secs(1))
    }
}

impl<M: MakeEndpoint, P, T> Balance<M, P, T> {
    fn build(watch: Watch, make: M, pick: P, protocol: T, wait: Duration) -> Self {
        let (endpoints, broken) =
            (ArcSwap::from_pointee(Endpoints::empty()), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { watch, make, pick, protocol, wait, endpoints, broken }) }
    }

    /// Another way to choose: [`LeastLoaded`](crate::LeastLoaded), or a closure. Default [`RoundRobin`].
    ///
    /// Like the other setters, it gives a balancer that shares nothing with clones made before.
    #[must_use]
    pub fn pick<Q>(self, pick: Q) -> Balance<M, Q, T>
    where
        M: Clone,
        T: Clone,
    {
        let Shared { watch, make, protocol, wait, .. } = &*self.shared;
        Balance::build(watch.clone(), make.clone(), pick, protocol.clone(), *wait)
    }

    /// What to understand of the messages, for instance `Http` (feature `http`). Default [`Opaque`]: nothing.
    #[must_use]
    pub fn protocol<U>(self, protocol: U) -> Balance<M, P, U>
    where
        M: Clone,
        P: Clone,
    {
        let Shared { watch, make, pick, wait, .. } = &*self.shared;
        Balance::build(watch.clone(), make.clone(), pick.clone(), protocol, *wait)
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
        let Shared { watch, make, pick, protocol, wait, .. } = &*self.shared;
        let make = Eligible::new(make.clone(), rule);
        Balance::build(watch.clone(), make, pick.clone(), protocol.clone(), *wait)
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
        let Shared { watch, make, pick, protocol, .. } = &*self.shared;
        Self::build(watch.clone(), make.clone(), pick.clone(), protocol.clone(), span)
    }

    /// The healthy instances, and how they fare in the hands of this balancer.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.current().list()
    }

    /// Picks an endpoint, if there is one now.
    pub(crate) fn begin<Req, Res>(
        &self,
        request: &Req,
    ) -> Option<(M::Service, InFlight<M::Service>)>
    where
        P: Pick<Req>,
        T: Protocol<Req, Res>,
    {
        let Shared { make, pick, protocol, .. } = &*self.shared;
        let tried = protocol.tried(request);
        self.current().begin(make, pick, request, tried.as_ref())
    }

    pub(crate) fn protocol_ref(&self) -> &T {
        &self.shared.protocol
    }

    pub(crate) fn note_broken(&self) {
        self.shared.broken.store(true, Release);
    }

    pub(crate) fn span(&self) -> Duration {
        self.shared.wait
    }

    pub(crate) fn changed(&self) -> OwnedNotified {
        self.shared.watch.notified()
    }

    pub(crate) fn refusal(&self) -> NoInstance {
        NoInstance::new(self.shared.watch.service().clone())
    }

    /// The endpoints of the current snapshot.
    fn current(&self) -> Guard<Arc<Endpoints<M::Service>>> {
        let Shared { watch, endpoints, broken, .. } = &*self.shared;
        let present = endpoints.load();
        if present.version >= watch.version() && !broken.load(Acquire) {
            return present;
        }
        broken.swap(false, AcqRel);
        let snapshot = watch.snapshot();
        endpoints.rcu(|present| {
            if present.is_good_for(&snapshot) {
                return present.clone();
            }
            Arc::new(present.next(&snapshot))
        });
        endpoints.load()
    }
}

impl<M: MakeEndpoint, P, T> Clone for Balance<M, P, T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<M, P, T, Req> Service<Req> for Balance<M, P, T>
where
    M: MakeEndpoint,
    M::Service: Service<Req>,
    <M::Service as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    T: Protocol<Req, <M::Service as Service<Req>>::Response>,
{
    type Response = <M::Service as Service<Req>>::Response;
    type Error = BoxError;
    type Future = ResponseFuture<M, P, T, Req>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ResponseFuture::new(self.clone(), request)
    }
}

impl<M: MakeEndpoint, P, T> fmt::Debug for Balance<M, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("service", self.shared.watch.service())
            .field("endpoints", &self.endpoints())
            .finish_non_exhaustive()
    }
}
