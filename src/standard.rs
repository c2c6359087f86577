//! The client of a service by its name: all layers of the family in the order that makes sense.
//!
//! ```text
//! trace → metrics → retry (budget, attempt timeout) → deadline → balance → breaker of the instance → your client
//! ```
//!
//! - **Trace and metrics** see what the caller got in the end.
//! - **Retry** stands outside of the balancer, so that each attempt may go to another instance.
//! - **The breaker** stands inside of it, one for each instance, so that it sees single attempts, and the balancer
//!   passes over an instance whose circuit is open.
//!
//! # Which instance
//!
//! | default | why |
//! |---|---|
//! | [`LeastLoaded::new`]: of two by chance the one with fewer calls under way, divided by its share of recent successes | a slow or failing instance gets fewer calls at once, long before a circuit opens; no counter that all write |
//! | newcomers with a [slow start](Fleet::slow_start) of 30 s | cold caches and pools |
//! | an open circuit: its probes only | the balancer asks [`MakeEndpoint::is_eligible`], which asks the circuit |
//! | [ejection](Ejection) by [success rate](SuccessRate) alone, of half of the instances at most | a circuit knows its own instance and opens after failures in a row; who fails more often than the others is seen only by comparing |
//! | no panic threshold | the registry protects itself from a loss of heartbeats |
//!
//! Times of calls are not compared: a client sends cheap calls and dear ones, and an instance that had a dear one would be avoided for seconds. Where
//! calls are alike and instances are not, [`balanced`] takes another pick, and zones, subsets and tags as well:
//!
//! ```
//! # use std::{num::NonZeroUsize, time::Duration};
//! # use gusset::{breaker, registry::{Fleet, LeastLoaded, MemoryRegistry, Registry}, sidecar::Sidecar, standard::balanced};
//! # use gusset::sidecar::ReplayBody;
//! # use http_body_util::Full;
//! # use tower::Layer;
//! # type Request = http::Request<ReplayBody<Full<bytes::Bytes>>>;
//! # let http_client = tower::service_fn(|_: Request| async { Ok::<_, std::io::Error>(http::Response::new("".to_owned())) });
//! # let registry = MemoryRegistry::default();
//! # let circuits = breaker::Circuits::new(breaker::Policy::default(), NonZeroUsize::new(1_000).unwrap());
//! let instances = balanced(registry.watch("payments"), &circuits, http_client)
//!     .pick(LeastLoaded::peak_ewma(Duration::from_secs(10)))
//!     .among(Fleet::new().slow_start(Duration::from_secs(30)).zone("eu-1"));
//! let payments = Sidecar::new("orders").outbound("payments").layer(instances);
//! # fn is_service<S: tower::Service<http::Request<Full<bytes::Bytes>>> + Clone>(_: S) {}
//! # is_service(payments);
//! ```
//!
//! A [connector](Balance::spawn_connector) in the background is worth its task where the readiness of `client` is that of a connection, as with
//! tonic's channels: spawn it from what [`balanced`] gives, before the layers. hyper-util's client connects when it is called and is always ready, so there
//! it would have nothing to do.
//!
//! # Two numbers that go together
//!
//! Each attempt counts in the circuit, so a call that fails in all its attempts (4 by default) counts as
//! four failures: give the circuits a threshold to match. And an attempt that the retry layer gives up for its slowness is dropped,
//! which counts only from the circuit's `slow_after` on: set that below `RetryPolicy::attempt_timeout`.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use gusset::{breaker, registry::{MemoryRegistry, Registry}, sidecar::Sidecar, standard::standard};
//! # use gusset::sidecar::ReplayBody;
//! # use http_body_util::Full;
//! # type Request = http::Request<ReplayBody<Full<bytes::Bytes>>>;
//! # let http_client = tower::service_fn(|_: Request| async { Ok::<_, std::io::Error>(http::Response::new("".to_owned())) });
//!
//! let registry = MemoryRegistry::default();
//! let circuits = breaker::Circuits::new(breaker::Policy::default(), NonZeroUsize::new(1_000).unwrap());
//! let payments = standard(&Sidecar::new("orders"), registry.watch("payments"), &circuits, http_client);
//! # fn is_service<S: tower::Service<http::Request<Full<bytes::Bytes>>> + Clone>(_: S) {}
//! # is_service(payments);
//! ```

use std::{fmt, sync::Arc, time::Duration};

use gusset_breaker::{Breaker, BreakerLayer, Circuit, Circuits, HttpStatus};
use gusset_registry::{
    Balance, Ejection, Fleet, Http, Instance, LeastLoaded, MakeEndpoint, SuccessRate, Watch,
};
use gusset_sidecar::{Outbound, Sidecar};
use tower_layer::Layer;

pub use gusset_registry::ToInstance;

/// The client that [`standard`] builds around `S`.
pub type Standard<S> = Outbound<Balanced<S>>;

/// The innermost part of it: the instances of a service, balanced, each behind a circuit.
pub type Balanced<S> = Balance<ToInstances<S>, LeastLoaded, Http>;

/// How long a newcomer takes to get its whole share.
const SLOW_START: Duration = Duration::from_secs(30);

/// Builds the client of the service that `watch` follows. Requests name a path only; the host is that of the chosen instance.
///
/// `circuits` keeps one circuit for each id of an instance. `client` sends single requests, for instance hyper-util's
/// client; clones of it should share their connections.
pub fn standard<S: Clone>(
    sidecar: &Sidecar,
    watch: Watch,
    circuits: &Circuits<Arc<str>>,
    client: S,
) -> Standard<S> {
    sidecar.outbound(watch.service().clone()).layer(balanced(watch, circuits, client))
}

/// What [`standard`] puts its layers around, with the [defaults](self#which-instance) that it has; for who wants others.
pub fn balanced<S: Clone>(watch: Watch, circuits: &Circuits<Arc<str>>, client: S) -> Balanced<S> {
    let outliers = Ejection::default().consecutive(u32::MAX).success_rate(SuccessRate::default());
    Balance::new(watch, ToInstances { client, circuits: circuits.clone() })
        .protocol(Http)
        .pick(LeastLoaded::new())
        .among(Fleet::new().slow_start(SLOW_START))
        .eject(outliers)
}

/// Calls instances with a client that they share, each behind a circuit of its own.
#[derive(Clone)]
pub struct ToInstances<S> {
    client: S,
    circuits: Circuits<Arc<str>>,
}

impl<S: Clone> MakeEndpoint for ToInstances<S> {
    type Service = Breaker<ToInstance<S>, HttpStatus>;

    fn make(&self, instance: &Instance) -> Self::Service {
        let client = ToInstance::new(self.client.clone(), instance);
        let circuit = self.circuits.get(instance.id.clone());
        BreakerLayer::new(circuit).classify(HttpStatus).layer(client)
    }

    fn is_eligible(&self, _: &Instance, service: &Self::Service) -> bool {
        Circuit::is_eligible(service.circuit())
    }
}

impl<S> fmt::Debug for ToInstances<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToInstances").field("circuits", &self.circuits).finish_non_exhaustive()
    }
}
