//! All layers of the family in the order that makes sense: around a [`server`], and around the client of a service by its name.
//!
//! ```text
//! trace → metrics → answers → deadline → limit of calls at once → your service
//!
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
//! # use std::time::Duration;
//! # use gusset::{breaker, registry::{Fleet, LeastLoaded, MemoryRegistry, Registry}, sidecar::Sidecar, standard::{balanced, circuits}};
//! # use gusset::sidecar::ReplayBody;
//! # use http_body_util::Full;
//! # use tower::Layer;
//! # type Request = http::Request<ReplayBody<Full<bytes::Bytes>>>;
//! # let http_client = tower::service_fn(|_: Request| async { Ok::<_, std::io::Error>(http::Response::new("".to_owned())) });
//! # let registry = MemoryRegistry::default();
//! # let sidecar = Sidecar::new("orders");
//! # let circuits = circuits(&sidecar, breaker::Policy::default());
//! let instances = balanced(registry.watch("payments"), &circuits, http_client)
//!     .pick(LeastLoaded::peak_ewma(Duration::from_secs(10)))
//!     .among(Fleet::new().slow_start(Duration::from_secs(30)).zone("eu-1"));
//! let payments = sidecar.outbound("payments").layer(instances);
//! # fn is_service<S: tower::Service<http::Request<Full<bytes::Bytes>>> + Clone>(_: S) {}
//! # is_service(payments);
//! ```
//!
//! A [connector](Balance::spawn_connector) in the background is worth its task where the readiness of `client` is that of a connection, as with
//! tonic's channels: spawn it from what [`balanced`] gives, before the layers. hyper-util's client connects when it is called and is always ready, so there
//! it would have nothing to do.
//!
//! # What counts as a failure of an instance
//!
//! Each attempt does, in the circuit of the instance that it went to: it has shown something about that instance, whatever becomes of the call. Attempts of a call go to
//! different instances where there are several. Where there is one, a call that fails in all its attempts (4 by default) counts four times, so that
//! [`Policy::consecutive`]`(5)` opens its circuit with the second such call.
//!
//! An attempt that is given up for its slowness is dropped, which a circuit takes for an impatient caller up to its `slow_after`. [`circuits`] sets that below
//! `RetryPolicy::attempt_timeout`; who makes `Circuits` by hand has to.
//!
//! ```
//! use gusset::{breaker, registry::{MemoryRegistry, Registry}, sidecar::Sidecar, standard::{circuits, standard}};
//! # use gusset::sidecar::ReplayBody;
//! # use http_body_util::Full;
//! # type Request = http::Request<ReplayBody<Full<bytes::Bytes>>>;
//! # let http_client = tower::service_fn(|_: Request| async { Ok::<_, std::io::Error>(http::Response::new("".to_owned())) });
//!
//! let (registry, sidecar) = (MemoryRegistry::default(), Sidecar::new("orders"));
//! let circuits = circuits(&sidecar, breaker::Policy::default());
//! let payments = standard(&sidecar, registry.watch("payments"), &circuits, http_client);
//! # fn is_service<S: tower::Service<http::Request<Full<bytes::Bytes>>> + Clone>(_: S) {}
//! # is_service(payments);
//! ```

mod server;

use std::{fmt, num::NonZeroUsize, sync::Arc};

use gusset_breaker::{Breaker, BreakerLayer, Circuit, Circuits, GrpcStatus, Policy};
#[cfg(doc)]
use gusset_registry::SuccessRate;
use gusset_registry::{Balance, Ejection, Fleet, Http, Instance, LeastLoaded, MakeEndpoint, Watch};
use gusset_sidecar::{Outbound, Sidecar};
use tower_layer::Layer;

pub use gusset_registry::ToInstance;
pub use server::{Server, ServerLayer, server, server_with};

/// The client that [`standard`] builds around `S`.
pub type Standard<S> = Outbound<Balanced<S>>;

/// The innermost part of it: the instances of a service, balanced, each behind a circuit.
pub type Balanced<S> = Balance<ToInstances<S>, LeastLoaded, Http>;

/// How many instances have a circuit, by [`circuits`].
const INSTANCES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// Circuits for [`standard`], one for each instance, of which a thousand at most are kept. They trip by `policy`; its `slow_after` is nine tenths of what
/// the retries of `sidecar` let an attempt take, if they have such a limit, so that an attempt which is given up counts as a failure.
///
/// One set is enough for all clients of a process.
#[must_use]
pub fn circuits(sidecar: &Sidecar, policy: Policy) -> Circuits<Arc<str>> {
    let limit = sidecar.attempt_timeout();
    let policy = limit.map_or(policy, |limit| policy.slow_after(limit.mul_f64(0.9)));
    Circuits::new(policy, INSTANCES)
}

/// Builds the client of the service that `watch` follows. Requests name a path only; the host is that of the chosen instance.
///
/// `circuits` keeps one circuit for each id of an instance; [`circuits`] makes them. `client` sends single requests, for instance hyper-util's
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
    Balance::new(watch, ToInstances { client, circuits: circuits.clone() })
        .protocol(Http)
        .pick(LeastLoaded::new())
        .among(Fleet::new().slow_start(Fleet::SLOW_START))
        .eject(Ejection::by_comparison())
}

/// Calls instances with a client that they share, each behind a circuit of its own.
#[derive(Clone)]
pub struct ToInstances<S> {
    client: S,
    circuits: Circuits<Arc<str>>,
}

impl<S: Clone> MakeEndpoint for ToInstances<S> {
    type Service = Breaker<ToInstance<S>, GrpcStatus>;

    fn make(&self, instance: &Instance) -> Self::Service {
        let client = ToInstance::new(self.client.clone(), instance);
        let circuit = self.circuits.get(instance.id.clone());
        BreakerLayer::new(circuit).classify(GrpcStatus).layer(client)
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
