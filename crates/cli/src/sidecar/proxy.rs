//! The two ways through: to the app, and from it to others.

use std::{fs::OpenOptions, io, num::NonZeroU32, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use gusset_breaker::Policy;
use gusset_gateway::{
    AccessLog, Builder, ByHost, Client, CommonQuota, Gateway, Route, Transport, Upstream,
    UpstreamPolicy,
};
use gusset_ratelimit::{Concurrency, ConcurrencyLimiter, network};
use gusset_registry::{Fleet, MemoryRegistry, Registry};
use gusset_sidecar::{Metrics, RetryPolicy, Sidecar as Layers};
use http::HeaderMap;

use super::{
    admin::State,
    mesh::{CALLER, Callers, Known, Mesh},
    options::{AppHttp, Limit, LogTo, QuotaBy, QuotaOf, Sidecar},
    way::Way,
};

/// In and out, as they are at present.
#[derive(Clone)]
pub(super) struct Proxy {
    ways: Arc<ArcSwap<Ways>>,
    registry: Arc<dyn Registry>,
    layers: Layers,
}

/// In and out, as some settings have them.
pub(super) struct Ways {
    options: Sidecar,
    inbound: Callers<Gateway>,
    outbound: ByHost,
    limiter: Option<ConcurrencyLimiter>,
    quota: Option<CommonQuota>,
    log: Option<AccessLog>,
}

pub(super) type Inbound = Way<Ways, Callers<Gateway>>;
pub(super) type Outbound = Way<Ways, ByHost>;

/// How long the log of requests may take at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// Spoken through instead of HTTP where both sides agree.
const UPGRADES: [&str; 1] = ["websocket"];

impl Proxy {
    pub(super) fn new(
        options: &Sidecar,
        registry: Arc<dyn Registry>,
        layers: &Layers,
    ) -> Result<Self, String> {
        let ways = ways(options, None, &registry, layers)?;
        let ways = Arc::new(ArcSwap::from_pointee(ways));
        Ok(Self { ways, registry, layers: layers.clone() })
    }

    /// What these settings ask for. What they do not change goes on: counts, places, circuits and connections.
    pub(super) fn prepare(&self, options: &Sidecar) -> Result<Ways, String> {
        ways(options, Some(&self.ways.load()), &self.registry, &self.layers)
    }

    /// All requests from now on go these ways.
    pub(super) fn swap(&self, ways: Ways) {
        self.ways.store(Arc::new(ways));
    }

    /// The settings in force.
    pub(super) fn options(&self) -> Sidecar {
        self.ways.load().options.clone()
    }

    pub(super) fn inbound(&self) -> Inbound {
        Way::new(self.ways.clone(), |ways| &ways.inbound)
    }

    pub(super) fn outbound(&self) -> Outbound {
        Way::new(self.ways.clone(), |ways| &ways.outbound)
    }

    /// Waits until all requests that have ended are in their log. It blocks.
    pub(super) fn flush(&self) {
        if let Some(log) = &self.ways.load().log {
            log.flush(FLUSH);
        }
    }

    /// Shows on the page of metrics how things stand.
    pub(super) fn report(&self, metrics: &Metrics, state: State) {
        let ways = self.ways.clone();
        metrics.on_render(move |samples| {
            let ways = ways.load();
            let works = f64::from(u8::from(*state.works.borrow()));
            samples.gauge("gusset_sidecar_app_up", "1 while the app works.", &[], works);
            let stats = ways.outbound.stats();
            let (name, help) = ("gusset_sidecar_services", "Services that the app has called.");
            samples.gauge(name, help, &[], stats.services as f64);
            let name = "gusset_sidecar_services_replaced_total";
            let help = "Services that were forgotten, for the app has called so many others since.";
            samples.counter(name, help, &[], stats.replaced as f64);
            ways.outbound.report(samples);
            if let Some(log) = &ways.log {
                let name = "gusset_sidecar_access_log_lost_total";
                let help = "Lines of the log of requests that were left out, for too many waited.";
                samples.counter(name, help, &[], log.lost() as f64);
            }
            if let Some(limiter) = &ways.limiter {
                let (name, help) = ("gusset_sidecar_in_flight", "Requests that the app has.");
                samples.gauge(name, help, &[], f64::from(limiter.in_flight()));
                let name = "gusset_sidecar_refused_total";
                let help = "Requests that were refused, for the app had as many as it may.";
                samples.counter(name, help, &[], limiter.stats().normal.refused as f64);
            }
        });
    }
}

/// `before` are the ways that these replace.
fn ways(
    options: &Sidecar,
    before: Option<&Ways>,
    registry: &Arc<dyn Registry>,
    layers: &Layers,
) -> Result<Ways, String> {
    let like = |same: fn(&Sidecar, &Sidecar) -> bool| {
        before.filter(|before| same(&before.options, options))
    };
    let limiter = match like(|a, b| a.in_flight == b.in_flight) {
        Some(before) => before.limiter.clone(),
        None => options
            .in_flight
            .map(|most: NonZeroU32| ConcurrencyLimiter::new("app", Concurrency::fixed(most))),
    };
    let quota = match like(|a, b| a.quota == b.quota) {
        Some(before) => before.quota.clone(),
        None => options.quota.as_ref().map(quota),
    };
    // Opened anew, for it may have been moved aside.
    let log = options.access_log.as_ref().map(access_log).transpose()?;
    let outbound = match like(|a, b| a.timeout == b.timeout) {
        Some(before) => before.outbound.clone(),
        None => outbound(options, registry.clone(), layers)?,
    };
    let app = app(options, layers, (quota.as_ref(), limiter.as_ref()), log.as_ref())?;
    let inbound = Callers::new(app, options.mesh.clone());
    Ok(Ways { options: options.clone(), inbound, outbound, limiter, quota, log })
}

fn quota(of: &QuotaOf) -> CommonQuota {
    let by = of.by.clone();
    CommonQuota::by(of.quota, move |client: &Client<'_>| {
        let headers = &client.head.headers;
        match &by {
            QuotaBy::All => String::new(),
            QuotaBy::Caller => line(headers, CALLER.as_str()),
            QuotaBy::Address => {
                client.address.map_or_else(String::new, |address| network(address).to_string())
            }
            QuotaBy::Header(name) => line(headers, name.as_str()),
        }
    })
}

/// The first line of this field; those without it are one.
fn line(headers: &HeaderMap, name: &str) -> String {
    let line = headers.get(name).map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    line.unwrap_or_default()
}

fn access_log(to: &LogTo) -> Result<AccessLog, String> {
    let wrong = |error: io::Error| match to {
        LogTo::Output => format!("--access-log: {error}"),
        LogTo::File(file) => format!("--access-log: {}: {error}", file.display()),
    };
    match to {
        LogTo::Output => AccessLog::to(io::stdout()),
        LogTo::File(file) => {
            AccessLog::to(OpenOptions::new().create(true).append(true).open(file).map_err(wrong)?)
        }
    }
    .map_err(wrong)
}

/// To the app. One that fails is neither left alone nor asked twice: its callers know better when to do that, and there is no other one.
fn app(
    options: &Sidecar,
    layers: &Layers,
    (quota, places): (Option<&CommonQuota>, Option<&ConcurrencyLimiter>),
    log: Option<&AccessLog>,
) -> Result<Gateway, String> {
    let app = Upstream::fixed([options.app]);
    let transport = match options.app_http {
        AppHttp::One => Transport::http1(),
        AppHttp::Two => Transport::http2(),
    };
    let policy = UpstreamPolicy::new()
        .breaker(Policy::consecutive(u32::MAX).slow_after(Duration::MAX))
        .eject(None)
        .retry(RetryPolicy::default().retries(0))
        .transport(transport.answer_idle(None))
        .unmeasured();
    let mut builder = Gateway::builder(MemoryRegistry::default()).upstream(app.clone(), policy);
    if let Some(log) = log {
        builder = builder.access_log(log.clone());
    }
    if options.mesh.is_some() {
        builder = builder.authenticate(Known).identity_headers(Known::headers());
    }
    let mut route = route(&app, options.timeout);
    if let Some(quota) = quota {
        route = route.quota_in_common(quota.clone());
    }
    if let Some(places) = places {
        route = route.in_flight_of(places.clone());
    }
    if options.mesh.is_some() {
        route = route.authenticated();
    }
    built(builder, route, layers).map_err(|error| error.to_string())
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
    let breaker = match options.open_for {
        Some(span) => Policy::default().slow_after(Duration::MAX).open_for(span),
        None => Policy::instance(),
    };
    let (timeout, mesh, layers) = (options.timeout, options.mesh.clone(), layers.clone());
    Ok(ByHost::new(fallback, move |service: &str| {
        let transport = transport(mesh.as_ref(), service)?;
        let policy = UpstreamPolicy::new().breaker(breaker).among(fleet.clone());
        let policy = policy.transport(transport);
        let to = Upstream::service(service);
        let builder = Gateway::builder(registry.clone()).upstream(to.clone(), policy);
        built(builder, route(&to, timeout), &layers).ok()
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

/// All paths, with bodies of any size: the app knows what it can bear.
fn route(to: &Upstream, timeout: Limit) -> Route {
    let route = Route::new("/{*path}").to(to.clone()).timeout(timeout.0);
    route.body_limit(u64::MAX).upgrades(UPGRADES)
}

fn built(
    builder: Builder,
    route: Route,
    layers: &Layers,
) -> Result<Gateway, gusset_gateway::BuildError> {
    let builder = builder.route(route);
    let builder = builder.metrics(layers.metrics().clone()).recorder(layers.recorder().clone());
    builder.between_services().build()
}
