//! The instances of one upstream, balanced, and one attempt after the other.

use std::{fmt, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use gusset_breaker::{Circuit, Circuits, Policy};
use gusset_call::{BoxError, NoInstance};
use gusset_registry::{Balance, Http, Instance, MakeEndpoint, Registry, RoundRobin, Watch};
use gusset_sidecar::{
    Backoff, Budget, Classify, DeadlineLayer, Retry, RetryLayer, RetryPolicy, TraceLayer,
    Transient, Verdict, WithDeadline,
};
use http::Response;
use hyper_util::client::legacy;
use tower_layer::Layer;

use crate::{
    Upstream,
    body::ClientFault,
    endpoint::{Connections, Endpoint},
    route::Place,
};

/// What all routes to one upstream share.
#[derive(Clone)]
pub(crate) struct Shared {
    instances: Instances,
    balance: Balanced,
    budget: Budget,
}

type Balanced = Balance<Instances, RoundRobin, Http>;

/// The call of an upstream as a route makes it: a deadline around all attempts, each to an instance of its own.
pub(crate) type Caller = WithDeadline<Retry<Balanced, Judge>>;

impl Shared {
    pub(crate) fn new(
        upstream: &Upstream,
        registry: &dyn Registry,
        connections: Connections,
        traces: TraceLayer,
        policy: Policy,
    ) -> Self {
        let circuits = Circuits::new(policy, Instances::CIRCUITS);
        let instances = Instances { connections, traces, circuits };
        let balance = Balance::new(watch(upstream, registry), instances.clone()).protocol(Http);
        Self { instances, balance, budget: Budget::default() }
    }

    pub(crate) fn caller(&self, timeout: Duration, retry: Option<RetryPolicy>) -> Caller {
        let retry = retry.unwrap_or_else(|| self.default_retry());
        let retry = RetryLayer::new(retry).classify(Judge).layer(self.balance.clone());
        DeadlineLayer::server(timeout).layer(retry)
    }

    fn default_retry(&self) -> RetryPolicy {
        let backoff = Backoff::exponential(Duration::from_millis(25), Duration::from_secs(1));
        RetryPolicy::default().retries(2).backoff(backoff).budget(self.budget.clone())
    }

    /// The healthy instances and their circuits.
    pub(crate) fn circuits(&self) -> Vec<(Arc<Instance>, Circuit)> {
        let endpoints = self.balance.endpoints().into_iter();
        endpoints.map(|e| (e.instance.clone(), self.instances.circuit(&e.instance))).collect()
    }
}

/// Makes the endpoints of one upstream. Their circuits stay when an endpoint is made anew.
#[derive(Clone)]
pub(crate) struct Instances {
    connections: Connections,
    traces: TraceLayer,
    circuits: Circuits<Arc<str>>,
}

impl Instances {
    /// Circuits per upstream. Where there are more instances, those of others make room.
    const CIRCUITS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

    fn circuit(&self, instance: &Instance) -> Circuit {
        self.circuits.get(instance.id.clone())
    }
}

impl MakeEndpoint for Instances {
    type Service = Endpoint;

    fn make(&self, instance: &Instance) -> Self::Service {
        let circuit = self.circuit(instance);
        let connections = self.connections.clone();
        Endpoint::new(&instance.authority(), connections, &self.traces, circuit)
    }

    fn is_eligible(&self, _: &Instance, service: &Self::Service) -> bool {
        service.circuit().is_eligible()
    }
}

impl fmt::Debug for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instances").field("circuits", &self.circuits).finish_non_exhaustive()
    }
}

/// What is worth another attempt: as [`Transient`], but neither what the client did wrong, nor a lack of instances, for which
/// the balancer has waited already. No connection at all means, whatever the reason, that nothing was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge;

impl<B> Classify<B> for Judge {
    fn classify(&self, result: &Result<Response<B>, BoxError>) -> Verdict {
        match result {
            Err(error) if error.is::<NoInstance>() => Verdict::Final,
            Err(error) if ClientFault::in_error(&**error).is_some() => Verdict::Final,
            Err(error) if error.downcast_ref().is_some_and(legacy::Error::is_connect) => {
                Verdict::NotSent { after: None }
            }
            _ => Transient.classify(result),
        }
    }
}

/// The instances that `upstream` speaks of.
fn watch(upstream: &Upstream, registry: &dyn Registry) -> Watch {
    match &upstream.0 {
        Place::Service(name) => registry.watch(name),
        Place::Fixed(addresses) => {
            let name: Arc<str> = upstream.to_string().into();
            let instance = |address: &SocketAddr| {
                Instance::new(name.clone(), address.ip().to_string(), address.port())
            };
            Watch::fixed(name.clone(), addresses.iter().map(instance))
        }
    }
}
