mod error;
mod gate;
mod parts;

use std::{collections::HashMap, fmt, sync::Arc};

use gusset_breaker::Policy;
use gusset_ratelimit::{Concurrency, ConcurrencyLimiter};
use gusset_registry::{Fleet, Registry};
use gusset_sidecar::{Metrics, Recorder, TraceLayer};
use tower_layer::Layer;

use self::{gate::compiled, parts::Parts};
pub use error::BuildError;

use crate::{
    AccessLog, Authenticate, Cors, Gateway, IdentityHeaders, Network, Picker, Route, Upstream,
    UpstreamPolicy,
    client::Proxies,
    forward::{Forward, Shared},
    front::Front,
    routes::Table,
    transport::Pool,
    upstream::{self, Setup},
};

/// Collects what a [`Gateway`] needs; from [`Gateway::builder`].
pub struct Builder {
    registry: Arc<dyn Registry>,
    routes: Vec<Route>,
    authenticate: Vec<Arc<dyn Authenticate>>,
    identity_headers: IdentityHeaders,
    cors: Option<Cors>,
    trusted: Vec<Network>,
    shed: Option<ConcurrencyLimiter>,
    between_services: bool,
    breaker: Policy,
    pick: Picker,
    fleet: Fleet,
    policies: HashMap<Upstream, UpstreamPolicy>,
    metrics: Metrics,
    recorder: Recorder,
    access_log: Option<AccessLog>,
    pool: Pool,
    /// Upstreams that go on.
    known: HashMap<Upstream, upstream::Shared>,
}

impl Builder {
    pub(crate) fn new(registry: Arc<dyn Registry>) -> Self {
        Self {
            registry,
            routes: Vec::new(),
            authenticate: Vec::new(),
            identity_headers: IdentityHeaders::new(),
            cors: None,
            trusted: Vec::new(),
            shed: None,
            between_services: false,
            breaker: Policy::instance(),
            pick: Picker::default(),
            policies: HashMap::new(),
            fleet: Fleet::new().slow_start(Fleet::SLOW_START),
            metrics: Metrics::new(),
            recorder: Recorder::with_capacity("gateway", 0),
            access_log: None,
            pool: Pool::new(),
            known: HashMap::new(),
        }
    }

    /// Adds a route. The order of routes means nothing.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Who tells the senders of requests, on the routes that are [`Route::authenticated`]. More of them are asked in turn until one finds its kind of
    /// credential, and that one decides.
    #[must_use]
    pub fn authenticate(mut self, by: impl Authenticate) -> Self {
        self.authenticate.push(Arc::new(by));
        self
    }

    /// How upstreams are told of senders. Default [`IdentityHeaders::new`].
    #[must_use]
    pub fn identity_headers(mut self, names: IdentityHeaders) -> Self {
        self.identity_headers = names;
        self
    }

    /// Which web pages may read answers, of the routes that do not say so themselves and of requests without a route. Default: what the upstreams say.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some(cors);
        self
    }

    /// The proxies before this gateway. What their requests say in `X-Forwarded-*`, in `x-gusset-*` and about timeouts is believed and passed
    /// on; from all others it is removed. Default none.
    #[must_use]
    pub fn trusted_proxies(mut self, ranges: impl IntoIterator<Item = Network>) -> Self {
        self.trusted = ranges.into_iter().collect();
        self
    }

    /// How many requests may wait for upstreams at once, over all routes: fixed, or found by latency and overload ([`Concurrency::gradient`]). Above that they are answered with 503 at once,
    /// those of routes of low [priority](Route::priority) from four fifths of it on. Answers of the gateway's own do not count, so health can always be asked for. Default: no limit.
    #[must_use]
    pub fn shed(mut self, limit: Concurrency) -> Self {
        self.shed = Some(ConcurrencyLimiter::new("gateway", limit));
        self
    }

    /// The same, with what is under way and was found out already.
    #[cfg(feature = "config")]
    pub(crate) fn shed_by(mut self, limiter: ConcurrencyLimiter) -> Self {
        self.shed = Some(limiter);
        self
    }

    /// Makes it one hop between services, as a sidecar has, instead of the door before them. A request goes on as it came: its path in the form that it has, also one that
    /// servers read in different ways; its `Host`; its `X-Forwarded-*`, identity and timeouts, whoever sent it, and without a word of this hop but in `Via`. A 503 of its own names the service
    /// without an instance, or the circuit that is open.
    ///
    /// Only where nobody can send requests but services that may say all this: behind a gateway, on the loopback device, or where callers show certificates.
    #[must_use]
    pub const fn between_services(mut self) -> Self {
        self.between_services = true;
        self
    }

    /// When an instance is left alone. Every instance has a circuit of its own, shared by all routes to its upstream. Failures are
    /// answers of 5xx, connections that break, and routes' timeouts that passed.
    ///
    /// Default [`Policy::instance`]: five failures in a row over 20 ms, for 1 s that doubles up to 30 s. A call that is dropped says nothing there, for a client that leaves
    /// late would count like an instance that hangs. Set [`Policy::slow_after`] where retries have an attempt timeout, which drops calls as well.
    #[must_use]
    pub const fn breaker(mut self, policy: Policy) -> Self {
        self.breaker = policy;
        self
    }

    /// Which instance of an upstream takes a request. Default [`LeastLoaded::new`](gusset_registry::LeastLoaded::new): the better one of two by chance, by requests under way and how many
    /// failed lately.
    ///
    /// [`LeastLoaded::peak_ewma`](gusset_registry::LeastLoaded::peak_ewma) counts their times as well: better where instances differ in speed (other machines, other zones) and
    /// requests do not. It is not the default, for the routes of a gateway lead to cheap requests and to dear ones, and who happened to get the dear
    /// one would be avoided for many seconds.
    #[must_use]
    pub fn pick(mut self, picker: impl Into<Picker>) -> Self {
        self.pick = picker.into();
        self
    }

    /// Which instances take requests, of all upstreams: those of the gateway's own [zone](Fleet::zone), of a version, a
    /// [subset](Fleet::subset). Default: all healthy ones, newcomers with a [slow start](Fleet::slow_start) of 30 s; say so here again.
    ///
    /// Those whose success rate is far below that of the others are [ejected](UpstreamPolicy::eject) for a while as well, with the numbers of
    /// [`SuccessRate`](gusset_registry::SuccessRate), at most half of them.
    #[must_use]
    pub fn among(mut self, fleet: Fleet) -> Self {
        self.fleet = fleet;
        self
    }

    /// How this upstream is called, where it differs from the others. Routes to an equal one share it.
    #[must_use]
    pub fn upstream(mut self, upstream: impl Into<Upstream>, policy: UpstreamPolicy) -> Self {
        self.policies.insert(upstream.into(), policy);
        self
    }

    /// Where requests are counted and timed, by the paths of routes, and each call of an instance, by the names of upstreams. Default: metrics of its own, [`Gateway::metrics`].
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Where requests and attempts are recorded. Default: nowhere. Trace identifiers are passed on in any case.
    #[must_use]
    pub fn recorder(mut self, recorder: Recorder) -> Self {
        self.recorder = recorder;
        self
    }

    /// Where a line is written for each request. Default nowhere.
    #[must_use]
    pub fn access_log(mut self, log: AccessLog) -> Self {
        self.access_log = Some(log);
        self
    }

    /// Idle connections are shared with other gateways that have this pool.
    #[cfg(feature = "config")]
    pub(crate) fn pool(mut self, pool: Pool) -> Self {
        self.pool = pool;
        self
    }

    /// An upstream that another gateway has, and that is the same here.
    #[cfg(feature = "config")]
    pub(crate) fn known(mut self, upstream: Upstream, shared: upstream::Shared) -> Self {
        self.known.insert(upstream, shared);
        self
    }

    /// Checks all of it and builds the gateway. Connections are made when the first requests need them.
    ///
    /// # Errors
    ///
    /// [`BuildError`] for the first route that cannot be.
    pub fn build(self) -> Result<Gateway, BuildError> {
        let first = |faults: Vec<Fault>| faults.into_iter().map(|fault| fault.error).next();
        // There is one at least.
        self.compile()
            .map_err(|faults| first(faults).unwrap_or(BuildError::Cors { reason: String::new() }))
    }

    /// The same, with everything that is wrong.
    pub(crate) fn compile(self) -> Result<Gateway, Vec<Fault>> {
        let setup = Setup {
            registry: self.registry,
            pool: self.pool,
            traces: TraceLayer::client(self.recorder.clone()),
            metrics: self.metrics.clone(),
            breaker: self.breaker,
            pick: self.pick,
            fleet: self.fleet,
            policies: self.policies,
        };
        let cors = self.cors.as_ref().map(compiled).transpose();
        let cors = cors.map_err(|reason| vec![Fault::of(None, BuildError::Cors { reason })])?;
        let (upstreams, table) = (self.known, Table::default());
        let mut parts = Parts { setup, cors, shed: self.shed, upstreams, table };
        let (mut gates, mut targets, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        let can_authenticate = !self.authenticate.is_empty();
        for (number, route) in self.routes.into_iter().enumerate() {
            match parts.add(number, route, can_authenticate) {
                Ok((gate, target)) => {
                    gates.push(gate);
                    targets.push(target);
                }
                Err(error) => faults.push(Fault::of(Some(number), error)),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let front = Front {
            table: parts.table,
            gates,
            authenticate: self.authenticate,
            identity_headers: self.identity_headers,
            cors: parts.cors,
            trusted: Proxies::new(self.trusted),
            between_services: self.between_services,
        };
        let (upstreams, metrics) = (parts.upstreams, self.metrics.clone());
        let access_log = self.access_log;
        let shared = Arc::new(Shared { front, targets, upstreams, metrics, access_log });
        let observed = TraceLayer::server(self.recorder).metrics(self.metrics);
        Ok(Gateway { inner: observed.layer(Forward(shared.clone())), shared })
    }
}

/// What is wrong, and with the route of which number.
pub(crate) struct Fault {
    #[cfg_attr(not(feature = "config"), expect(dead_code, reason = "for files"))]
    pub(crate) route: Option<usize>,
    pub(crate) error: BuildError,
}

impl Fault {
    const fn of(route: Option<usize>, error: BuildError) -> Self {
        Self { route, error }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("routes", &self.routes).finish_non_exhaustive()
    }
}
