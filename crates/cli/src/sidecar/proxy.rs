//! The two ways through: to the app, and from it to others.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use gusset_breaker::Policy;
use gusset_call::{Answer, AnswerLayer};
use gusset_gateway::{Builder, ByHost, Gateway, Route, Transport, Upstream, UpstreamPolicy};
use gusset_ratelimit::{Concurrency, ConcurrencyLimiter};
use gusset_registry::{Fleet, MemoryRegistry, Registry};
use gusset_sidecar::{Metrics, RetryPolicy, Sidecar as Layers};
use tower_layer::Layer;

use super::{
    admin::State,
    inflight::InFlight,
    mesh::{Callers, Mesh},
    options::{AppHttp, Limit, Sidecar},
};

pub(super) type Inbound = Callers<Answer<InFlight<Gateway>>>;

#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) inbound: Inbound,
    pub(super) outbound: ByHost,
    limiter: Option<ConcurrencyLimiter>,
}

/// Spoken through instead of HTTP where both sides agree.
const UPGRADES: [&str; 1] = ["websocket"];

impl Proxy {
    pub(super) fn new(
        options: &Sidecar,
        registry: Arc<dyn Registry>,
        layers: &Layers,
    ) -> Result<Self, String> {
        let limited = |most: NonZeroU32| ConcurrencyLimiter::new("app", Concurrency::fixed(most));
        let limiter = options.in_flight.map(limited);
        let app = app(options, layers)?;
        let inbound = AnswerLayer::new().layer(InFlight::new(app, limiter.clone()));
        let inbound = Callers::new(inbound, options.mesh.clone());
        let outbound = outbound(options, registry, layers)?;
        Ok(Self { inbound, outbound, limiter })
    }

    /// Shows on the page of metrics how things stand.
    pub(super) fn report(&self, metrics: &Metrics, state: State) {
        let Self { outbound, limiter, .. } = self.clone();
        metrics.on_render(move |samples| {
            let works = f64::from(u8::from(*state.works.borrow()));
            samples.gauge("gusset_sidecar_app_up", "1 while the app works.", &[], works);
            let stats = outbound.stats();
            let (name, help) = ("gusset_sidecar_services", "Services that the app has called.");
            samples.gauge(name, help, &[], stats.services as f64);
            let name = "gusset_sidecar_services_replaced_total";
            let help = "Services that were forgotten, for the app has called so many others since.";
            samples.counter(name, help, &[], stats.replaced as f64);
            if let Some(limiter) = &limiter {
                let (name, help) = ("gusset_sidecar_in_flight", "Requests that the app has.");
                samples.gauge(name, help, &[], f64::from(limiter.in_flight()));
                let name = "gusset_sidecar_refused_total";
                let help = "Requests that were refused, for the app had as many as it may.";
                samples.counter(name, help, &[], limiter.stats().normal.refused as f64);
            }
        });
    }
}

/// To the app. One that fails is neither left alone nor asked twice: its callers know better when to do that, and there is no other one.
fn app(options: &Sidecar, layers: &Layers) -> Result<Gateway, String> {
    let app = Upstream::fixed([options.app]);
    let transport = match options.app_http {
        AppHttp::One => Transport::http1(),
        AppHttp::Two => Transport::http2(),
    };
    let policy = UpstreamPolicy::new()
        .breaker(Policy::consecutive(u32::MAX).slow_after(Duration::MAX))
        .eject(None)
        .retry(RetryPolicy::default().retries(0))
        .transport(transport.answer_idle(None));
    let builder = Gateway::builder(MemoryRegistry::default()).upstream(app.clone(), policy);
    built(builder, &app, options.timeout, layers).map_err(|error| error.to_string())
}

/// From the app to the services that it names.
fn outbound(
    options: &Sidecar,
    registry: Arc<dyn Registry>,
    layers: &Layers,
) -> Result<ByHost, String> {
    let fallback = Gateway::builder(registry.clone()).build().map_err(|error| error.to_string())?;
    let fleet = Fleet::new().slow_start(Fleet::SLOW_START);
    let fleet = match &options.labels.zone {
        Some(zone) => fleet.zone(zone),
        None => fleet,
    };
    let (timeout, mesh, layers) = (options.timeout, options.mesh.clone(), layers.clone());
    Ok(ByHost::new(fallback, move |service: &str| {
        let transport = transport(mesh.as_ref(), service)?;
        let policy = UpstreamPolicy::new().among(fleet.clone()).transport(transport);
        let to = Upstream::service(service);
        let builder = Gateway::builder(registry.clone()).upstream(to.clone(), policy);
        built(builder, &to, timeout, &layers).ok()
    }))
}

/// How the sidecars of a service are called. `None` if certificates cannot be read; whoever calls next tries again.
fn transport(mesh: Option<&Mesh>, service: &str) -> Option<Transport> {
    // How long a stream may say nothing is between the two that it belongs to.
    let transport = Transport::http1().answer_idle(None);
    let Some(mesh) = mesh else { return Some(transport) };
    match mesh.towards(service) {
        Ok(tls) => Some(transport.tls(tls)),
        Err(error) => {
            tracing::warn!(%error, service, "no certificate to call with");
            None
        }
    }
}

/// All paths, and bodies of any size: the app knows what it can bear.
fn built(
    builder: Builder,
    to: &Upstream,
    timeout: Limit,
    layers: &Layers,
) -> Result<Gateway, gusset_gateway::BuildError> {
    let routes = ["/", "/{*path}"].map(|path| {
        let route = Route::new(path).to(to.clone()).timeout(timeout.0);
        route.body_limit(u64::MAX).upgrades(UPGRADES)
    });
    let builder = routes.into_iter().fold(builder, Builder::route);
    let builder = builder.metrics(layers.metrics().clone()).recorder(layers.recorder().clone());
    builder.between_services().build()
}
