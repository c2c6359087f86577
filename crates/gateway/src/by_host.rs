//! A gateway for each service, found by the host of the request.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use gusset_call::BoxError;
use gusset_sidecar::Samples;
use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{Gateway, GatewayBody, ResponseFuture, host::host_of, report};

/// Sends each request to the service that its host names: `GET http://cart/items` to `cart`. A [`Gateway`] for each is made when it is first asked for. Clones
/// share everything.
///
/// It is the way out of a program that knows nothing of discovery: the program calls this with the name of a service as `Host`, or has it as its HTTP proxy. A port says nothing;
/// neither does a dot at the end.
///
/// ```
/// use gusset_gateway::{ByHost, Gateway, Route};
/// use gusset_registry::MemoryRegistry;
///
/// let registry = MemoryRegistry::default();
/// let empty = Gateway::builder(registry.clone()).build()?;
/// let outbound = ByHost::new(empty, move |service: &str| {
///     let all = Route::new("/{*path}").to(service);
///     Gateway::builder(registry.clone()).between_services().route(all).build().ok()
/// });
/// assert_eq!(outbound.stats().services, 0);
/// # Ok::<(), gusset_gateway::BuildError>(())
/// ```
///
/// # Memory
///
/// At most 256 services ([`most`](Self::most)). For one more the one goes that was not asked for the longest: requests under way are finished, and what was known of its instances'
/// health is forgotten. [`ByHostStats::replaced`] counts that.
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// As of [`Gateway`].
#[derive(Clone)]
pub struct ByHost {
    shared: Arc<Shared>,
}

struct Shared {
    /// Answers what names no service.
    fallback: Gateway,
    make: Box<Make>,
    most: AtomicUsize,
    services: ArcSwap<Services>,
    /// Held while a service is added.
    adding: Mutex<()>,
    /// Grows by two with each service that is added: what is used from then on is younger.
    round: AtomicU64,
    replaced: AtomicU64,
}

type Make = dyn Fn(&str) -> Option<Gateway> + Send + Sync;
type Services = HashMap<Arc<str>, Arc<Known>>;

struct Known {
    gateway: Gateway,
    /// The round in which it was asked for last.
    used: AtomicU64,
}

/// What a [`ByHost`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ByHostStats {
    /// Services that have a gateway.
    pub services: usize,
    /// Those that had to make room for others.
    pub replaced: u64,
}

impl ByHost {
    /// `make` is asked for the gateway of a service that is not known yet; two threads may ask at once, and then one of the two goes unused. Where it has none, and where a request has no
    /// valid host or is to make a tunnel, `fallback` answers.
    pub fn new(
        fallback: Gateway,
        make: impl Fn(&str) -> Option<Gateway> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                fallback,
                make: Box::new(make),
                most: AtomicUsize::new(256),
                services: ArcSwap::default(),
                adding: Mutex::default(),
                round: AtomicU64::new(0),
                replaced: AtomicU64::new(0),
            }),
        }
    }

    /// How many services it keeps, from the next one on. Default 256, several times what one program calls.
    #[must_use]
    pub fn most(self, services: NonZeroUsize) -> Self {
        self.shared.most.store(services.get(), Relaxed);
        self
    }

    /// The services that were asked for, by name, and their gateways.
    #[must_use]
    pub fn services(&self) -> Vec<(Arc<str>, Gateway)> {
        let services = self.shared.services.load();
        let pair = |(name, known): (&Arc<str>, &Arc<Known>)| (name.clone(), known.gateway.clone());
        let mut pairs: Vec<_> = services.iter().map(pair).collect();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> ByHostStats {
        let services = self.shared.services.load().len();
        ByHostStats { services, replaced: self.shared.replaced.load(Relaxed) }
    }

    /// Adds how the upstreams of all its services stand, as [`Gateway::report`] does.
    pub fn report(&self, samples: &mut Samples) {
        let services = self.shared.services.load();
        report::all(services.values().map(|known| &known.gateway), samples);
    }

    fn gateway<B>(&self, request: &Request<B>) -> Gateway {
        let shared = &self.shared;
        let host = host_of(request.uri(), request.headers());
        // What makes a tunnel can be sent nowhere, whatever it names.
        let name = host.map(service_of).filter(|_| request.method() != Method::CONNECT);
        let Some(name) = name else { return shared.fallback.clone() };
        match shared.services.load().get(name) {
            Some(known) => known.used(shared.round.load(Relaxed)),
            None => shared.add(name),
        }
    }
}

impl Shared {
    fn add(&self, name: &str) -> Gateway {
        // Made before it is known whether another thread is quicker: no code of the caller's runs under the lock.
        let Some(gateway) = (self.make)(name) else { return self.fallback.clone() };
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut services = Services::clone(&self.services.load());
        if let Some(known) = services.get(name) {
            return known.used(self.round.load(Relaxed));
        }
        let most = self.most.load(Relaxed);
        while services.len() >= most {
            let oldest = services.iter().min_by_key(|(_, known)| known.used.load(Relaxed));
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            services.remove(&oldest);
            self.replaced.fetch_add(1, Relaxed);
        }
        // Younger than all that was used before, older than all that is from now on.
        let used = AtomicU64::new(self.round.fetch_add(2, Relaxed) + 1);
        services.insert(name.into(), Arc::new(Known { gateway: gateway.clone(), used }));
        self.services.store(Arc::new(services));
        gateway
    }
}

impl Known {
    fn used(&self, round: u64) -> Gateway {
        // Nearly always it is that already, and then nothing is written that others read.
        if self.used.load(Relaxed) != round {
            self.used.store(round, Relaxed);
        }
        self.gateway.clone()
    }
}

/// The service that a host names.
fn service_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand before its bracket.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

impl<B> Service<Request<B>> for ByHost
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<GatewayBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.gateway(&request).call(request)
    }
}

impl fmt::Debug for ByHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = self.shared.services.load();
        f.debug_struct("ByHost").field("services", &services.keys()).finish_non_exhaustive()
    }
}
