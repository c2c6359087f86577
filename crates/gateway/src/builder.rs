use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use gusset_breaker::Policy;
use gusset_ratelimit::{Concurrency, ConcurrencyLimiter};
use gusset_registry::{Fleet, Registry};
use gusset_sidecar::{Metrics, Recorder, RetryPolicy, TraceLayer};
use thiserror::Error;
use tower_layer::Layer;

use crate::{
    AccessLog, Authenticate, Cors, Gateway, HeaderEdits, IdentityHeaders, Network, Picker, Route,
    Upstream, UpstreamPolicy,
    client::Proxies,
    cors::Policy as CorsPolicy,
    forward::{Forward, Shared, Target, Way},
    front::{Answers, Front, Gate, GateEdits, OncePer, Sender},
    host::is_host,
    identity::Requirement,
    limit::{KeyOf, Limit},
    path::{BadPath, normalise},
    routes::{Entry, Leads, Methods, NewPath, Pattern, Rewrite, Table, Template, is_host_pattern},
    traffic::{Mirror, Mirroring, Places, Split},
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
            breaker: Policy::default().slow_after(Duration::MAX),
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
    /// servers read in different ways; its `Host`; its `X-Forwarded-*`, identity and timeouts, whoever sent it, and without a word of this hop but in `Via`.
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
    /// Default [`Policy::default`], five failures in a row and 30 s, with an unlimited [`Policy::slow_after`]: a call that is
    /// dropped says nothing, for a client that leaves late would count like an instance that hangs. Set it where
    /// retries have an attempt timeout, which drops calls as well.
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

    /// Where requests are counted and timed, by the paths of routes. Default: metrics of its own, [`Gateway::metrics`].
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

/// What routes are made with, and what they share.
struct Parts {
    setup: Setup,
    cors: Option<Arc<CorsPolicy>>,
    shed: Option<ConcurrencyLimiter>,
    upstreams: HashMap<Upstream, upstream::Shared>,
    table: Table,
}

impl Parts {
    fn add(
        &mut self,
        number: usize,
        route: Route,
        can_authenticate: bool,
    ) -> Result<(Gate, Target), BuildError> {
        checked(&route, can_authenticate)?;
        let wrong = |reason: String| BuildError::path(&route.path, reason);
        let pattern = Pattern::parse(&route.path).map_err(wrong)?;
        let entry = entry(&route, number).map_err(wrong)?;
        let inserted = self.table.insert(route.host.as_deref(), &pattern, entry);
        inserted.map_err(|_| BuildError::Taken { path: route.path.clone() })?;
        let gate = gate(&route, &pattern, self.cors.as_ref(), self.shed.as_ref())?;
        let mut make_caller = |to: &Upstream, limit| {
            let new = || upstream::Shared::new(to, &self.setup);
            let upstream = self.upstreams.entry(to.clone()).or_insert_with(new);
            upstream.caller(limit, route.retry.clone(), route.hedge.clone())
        };
        let composed = route.composition.as_ref();
        let composed = composed.map(|to| to.compile(&route, &mut make_caller)).transpose();
        let composed = composed.map_err(wrong)?;
        let mut ways = Vec::new();
        for upstream in leads_to(&route)? {
            let caller = make_caller(&upstream, route.timeout);
            ways.push((upstream, caller));
        }
        let way = |(upstream, caller): (Upstream, _)| {
            let new = || upstream::Shared::new(&upstream, &self.setup);
            let shared = self.upstreams.entry(upstream.clone()).or_insert_with(new).clone();
            Way { upstream, caller, shared }
        };
        let ways: Vec<_> = ways.into_iter().map(way).collect();
        let mirror = match &route.mirror {
            Some(_) if ways.is_empty() => return Err(wrong(NOTHING_TO_MIRROR.into())),
            Some(mirror) => {
                let new = || upstream::Shared::new(mirror.upstream(), &self.setup);
                let upstream = self.upstreams.entry(mirror.upstream().clone()).or_insert_with(new);
                let caller =
                    upstream.caller(route.timeout, Some(RetryPolicy::default().retries(0)), None);
                Some(Mirroring::new(mirror.clone(), caller, route.timeout))
            }
            None => None,
        };
        let path: Arc<str> = route.path.into();
        let target = Target {
            name: path.clone().into(),
            path,
            host: route.host.map(Into::into),
            ways,
            split: route.leads.split().cloned(),
            mirror,
            composed,
            counters: route.counters.unwrap_or_default(),
        };
        Ok((gate, target))
    }
}

const NOTHING_TO_MIRROR: &str = "it asks no upstream of its own, so there is nothing to mirror";

/// Whether a route makes sense.
fn checked(route: &Route, can_authenticate: bool) -> Result<(), BuildError> {
    if route.requires.is_some() && !can_authenticate {
        return Err(BuildError::NoAuthenticate { path: route.path.clone() });
    }
    let mistake = route.requires.as_ref().and_then(Requirement::mistake);
    let mistake = mistake.or_else(|| route.leads.split().and_then(Split::mistake));
    let mistake = mistake.or_else(|| route.mirror.as_ref().and_then(Mirror::mistake));
    if let Some(reason) = mistake.or_else(|| matches_nothing(route)) {
        return Err(BuildError::path(&route.path, reason));
    }
    Ok(())
}

/// The upstreams of a route; none if the gateway answers itself.
fn leads_to(route: &Route) -> Result<Vec<Upstream>, BuildError> {
    let upstreams = match &route.leads {
        Leads::To(upstream) => vec![upstream.clone()],
        Leads::Split(split) => split.upstreams(),
        Leads::Redirect(_) | Leads::Answer(_) => return Ok(Vec::new()),
        Leads::Nowhere if route.composition.is_some() => return Ok(Vec::new()),
        Leads::Nowhere => Vec::new(),
    };
    if upstreams.is_empty() || !upstreams.iter().all(Upstream::leads_somewhere) {
        return Err(BuildError::NoUpstream { path: route.path.clone() });
    }
    Ok(upstreams)
}

/// What the table knows of a route.
fn entry(route: &Route, number: usize) -> Result<Entry, String> {
    let conditions = route.conditions.iter().map(|condition| condition.compile());
    let (methods, rank) = (route.methods.clone(), route.rank);
    Ok(Entry { methods, conditions: conditions.collect::<Result<_, _>>()?, rank, number })
}

/// Why no request would ever take the route as it is written.
fn matches_nothing(route: &Route) -> Option<String> {
    let path = route.path.as_str();
    let old_style = |segment: &str| segment.starts_with([':', '*']) && segment.len() > 1;
    if !path.starts_with('/') {
        return Some(format!("it must begin with a slash: /{path}"));
    }
    if path.split('/').any(old_style) {
        return Some("a parameter is written {name}, the rest of a path {*name}".into());
    }
    if let Some(host) = route.host.as_ref().filter(|host| !is_host_pattern(host)) {
        return Some(format!("{host:?} is no host: a name, an address, or *. and a name"));
    }
    match normalise(path) {
        Ok(normal) if normal != path => {
            return Some(format!("no request has such a path; in normal form it is {normal}"));
        }
        Err(BadPath::Encoding) => {
            return Some(
                "a percent sign is written %25, for two hexadecimal digits follow one".into(),
            );
        }
        Err(_) => {
            let reason =
                "requests with such a path are refused, for servers read it in different ways";
            return Some(reason.into());
        }
        Ok(_) => {}
    }
    matches!(&route.methods, Methods::These(these) if these.is_empty())
        .then(|| "it takes no method at all; without methods(…) it takes all".into())
}

fn compiled(cors: &Cors) -> Result<Arc<CorsPolicy>, String> {
    cors.compile().map(Arc::new)
}

fn gate(
    route: &Route,
    pattern: &Pattern,
    cors: Option<&Arc<CorsPolicy>>,
    shed: Option<&ConcurrencyLimiter>,
) -> Result<Gate, BuildError> {
    let places = Places {
        gateway: shed.cloned(),
        route: route.places.clone().or_else(|| Places::of_route(route.in_flight)),
        priority: route.priority,
    };
    let rewrite = match &route.new_path {
        NewPath::Same => Ok(Rewrite::Keep),
        NewPath::Without(prefix) => Rewrite::strip_prefix(&route.path, prefix),
        NewPath::Like(new) => Rewrite::template(pattern, new),
    };
    let new = |(quota, key_of): &(_, KeyOf)| Limit::new(*quota, key_of.clone());
    let limit = route.limit.clone().or_else(|| route.quota.as_ref().map(new));
    let wrong = |reason: String| BuildError::path(&route.path, reason);
    let own_cors = route.cors.as_ref().map(compiled).transpose().map_err(wrong)?;
    let sender = |requires: &Requirement| Sender {
        requires: requires.clone(),
        keeps_credentials: route.keeps_credentials,
    };
    Ok(Gate {
        rewrite: rewrite.map_err(wrong)?,
        edits: edits(route, pattern).map_err(wrong)?,
        answers: answers(route, pattern).map_err(wrong)?,
        split: route.leads.split().cloned(),
        places,
        limit,
        body_limit: route.body_limit,
        sender: route.requires.as_ref().map(sender),
        cors: own_cors.or_else(|| cors.cloned()),
        upgrades: route.upgrades.clone(),
        once: route.idempotency.clone().map(|policy| OncePer {
            policy,
            route: format!("{} {}", route.host.as_deref().unwrap_or_default(), route.path),
            limit: route.timeout,
        }),
    })
}

/// What a route changes in heads, if it does.
fn edits(route: &Route, pattern: &Pattern) -> Result<Option<Box<GateEdits>>, String> {
    let none = HeaderEdits::new();
    if route.new_host.is_none() && route.request_headers == none && route.answer_headers == none {
        return Ok(None);
    }
    let host = route.new_host.as_ref().map(|host| Template::parse(host, pattern)).transpose()?;
    let literal = host.as_ref().and_then(Template::literal);
    if let Some(host) = literal.filter(|host| !is_host(host)) {
        return Err(format!("{host:?} is no host"));
    }
    let request = route.request_headers.compile(pattern)?;
    let answer = route.answer_headers.compile(pattern)?;
    Ok(Some(Box::new(GateEdits { host, request, answer })))
}

/// How a route answers without an upstream, if it does.
fn answers(route: &Route, pattern: &Pattern) -> Result<Option<Box<Answers>>, String> {
    Ok(match &route.leads {
        Leads::Redirect(redirect) => Some(Box::new(Answers::Moved(redirect.compile(pattern)?))),
        Leads::Answer(answer) => match answer.mistake() {
            Some(mistake) => return Err(mistake),
            None => Some(Box::new(Answers::Always(Box::new(answer.0.clone())))),
        },
        Leads::Nowhere | Leads::To(_) | Leads::Split(_) => None,
    })
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("routes", &self.routes).finish_non_exhaustive()
    }
}

/// Why a gateway cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The path or the rewriting of a route makes no sense.
    #[error("route {path}: {reason}")]
    Path {
        /// The route's path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Only chance could say which of this route and an earlier one takes a request, or one of them would never take any.
    #[error(
        "route {path}: an earlier route takes the same requests; tell them apart by path, method, host, condition or rank"
    )]
    Taken {
        /// The route's path.
        path: String,
    },
    /// [`Route::to`] is missing, or names no address.
    #[error("route {path} leads nowhere: to(…) names a service, or at least one address")]
    NoUpstream {
        /// The route's path.
        path: String,
    },
    /// The route is authenticated, and the gateway has no [`Authenticate`].
    #[error(
        "route {path} is authenticated, but nothing says by what: give the gateway authenticate(…)"
    )]
    NoAuthenticate {
        /// The route's path.
        path: String,
    },
    /// What [`Builder::cors`] says makes no sense.
    #[error("cors: {reason}")]
    Cors {
        /// What is wrong.
        reason: String,
    },
}

impl BuildError {
    /// Without the route, which is named otherwise.
    #[cfg(feature = "config")]
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Path { reason, .. } | Self::Cors { reason } => reason.clone(),
            Self::Taken { .. } => {
                "an earlier route takes the same requests; tell them apart by path, method, host, condition or rank".into()
            }
            Self::NoUpstream { .. } => "it leads nowhere".into(),
            Self::NoAuthenticate { .. } => {
                "it asks who sends, and nothing tells; add [jwt], [api_keys] or [certificates]"
                    .into()
            }
        }
    }

    fn path(path: &str, reason: impl Into<String>) -> Self {
        Self::Path { path: path.to_owned(), reason: reason.into() }
    }
}
