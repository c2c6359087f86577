use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use gusset_breaker::Policy;
use gusset_registry::Registry;
use gusset_sidecar::{Metrics, MetricsLayer, Recorder, TraceLayer};
use thiserror::Error;
use tower_layer::Layer;

use crate::{
    Authenticate, Gateway, Network, Route, Upstream,
    endpoint::connections,
    forward::{Forward, Shared, Target},
    front::{Front, Gate},
    limit::Limit,
    path::normalise,
    rewrite::Rewrite,
    route::{NewPath, Place},
    stats::Counters,
    table::{Methods, Rejected, Table},
    upstream,
};

/// Collects what a [`Gateway`] needs; from [`Gateway::builder`].
pub struct Builder {
    registry: Arc<dyn Registry>,
    routes: Vec<Route>,
    authenticate: Option<Arc<dyn Authenticate>>,
    trusted: Vec<Network>,
    breaker: Policy,
    metrics: Metrics,
    recorder: Recorder,
}

impl Builder {
    pub(crate) fn new(registry: Arc<dyn Registry>) -> Self {
        Self {
            registry,
            routes: Vec::new(),
            authenticate: None,
            trusted: Vec::new(),
            breaker: Policy::default().slow_after(Duration::MAX),
            metrics: Metrics::new(),
            recorder: Recorder::with_capacity("gateway", 0),
        }
    }

    /// Adds a route. The order of routes means nothing.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Who tells the senders of requests, on the routes that are [`Route::authenticated`].
    #[must_use]
    pub fn authenticate(mut self, by: impl Authenticate) -> Self {
        self.authenticate = Some(Arc::new(by));
        self
    }

    /// The proxies before this gateway. What their requests say in `X-Forwarded-*`, in `x-gusset-*` and about timeouts is believed and passed
    /// on; from all others it is removed. Default none.
    #[must_use]
    pub fn trusted_proxies(mut self, ranges: impl IntoIterator<Item = Network>) -> Self {
        self.trusted = ranges.into_iter().collect();
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

    /// Checks all of it and builds the gateway. Connections are made when the first requests need them.
    ///
    /// # Errors
    ///
    /// [`BuildError`] for the first route that cannot be.
    pub fn build(self) -> Result<Gateway, BuildError> {
        let connections = connections();
        let mut upstreams: HashMap<Upstream, upstream::Shared> = HashMap::new();
        let mut table = Table::default();
        let (mut gates, mut targets) = (Vec::new(), Vec::new());
        for (number, route) in self.routes.into_iter().enumerate() {
            let to = checked(&route, self.authenticate.is_some())?;
            let (path, host) = (route.path.as_str(), route.host.as_deref());
            let taken = table.insert(host, path, route.methods.clone(), number);
            taken.map_err(|rejected| BuildError::rejected(path, &rejected))?;
            gates.push(gate(&route)?);
            let upstream = upstreams.entry(to.clone()).or_insert_with(|| {
                let traces = TraceLayer::client(self.recorder.clone());
                let connections = connections.clone();
                upstream::Shared::new(&to, &*self.registry, connections, traces, self.breaker)
            });
            let path: Arc<str> = route.path.into();
            targets.push(Target {
                name: path.clone().into(),
                path,
                host: route.host.map(Into::into),
                upstream: to,
                caller: upstream.caller(route.timeout, route.retry),
                counters: Counters::default(),
            });
        }
        let front = Front { table, gates, authenticate: self.authenticate, trusted: self.trusted };
        let metrics = self.metrics.clone();
        let shared = Arc::new(Shared { front, targets, upstreams, metrics });
        let measured = MetricsLayer::server(self.metrics).layer(Forward(shared.clone()));
        Ok(Gateway { inner: TraceLayer::server(self.recorder).layer(measured), shared })
    }
}

/// The upstream of a route that has all it needs.
fn checked(route: &Route, can_authenticate: bool) -> Result<Upstream, BuildError> {
    let path = || route.path.clone();
    if route.authenticated && !can_authenticate {
        return Err(BuildError::NoAuthenticate { path: path() });
    }
    if let Some(reason) = matches_nothing(route) {
        return Err(BuildError::path(&route.path, reason));
    }
    match &route.upstream {
        Some(Upstream(Place::Service(name))) if name.is_empty() => {
            Err(BuildError::NoUpstream { path: path() })
        }
        Some(Upstream(Place::Fixed(addresses))) if addresses.is_empty() => {
            Err(BuildError::NoUpstream { path: path() })
        }
        Some(upstream) => Ok(upstream.clone()),
        None => Err(BuildError::NoUpstream { path: path() }),
    }
}

/// Why no request would ever take the route as it is written.
fn matches_nothing(route: &Route) -> Option<&'static str> {
    let old_style = |segment: &str| segment.starts_with([':', '*']) && segment.len() > 1;
    if !route.path.starts_with('/') {
        Some("it must begin with /")
    } else if route.path.split('/').any(old_style) {
        Some("a parameter is written {name}, the rest of a path {*name}")
    } else if normalise(&route.path).as_deref() != Ok(&route.path) {
        Some("it is not in normal form, nothing matches it")
    } else if matches!(&route.methods, Methods::These(these) if these.is_empty()) {
        Some("it takes no method at all")
    } else {
        None
    }
}

fn gate(route: &Route) -> Result<Gate, BuildError> {
    let rewrite = match &route.new_path {
        NewPath::Same => Ok(Rewrite::Keep),
        NewPath::Without(prefix) => Rewrite::strip_prefix(&route.path, prefix),
        NewPath::Like(new) => Rewrite::template(&route.path, new),
    };
    let limit = route.quota.as_ref().map(|(quota, key_of)| Limit::new(*quota, key_of.clone()));
    Ok(Gate {
        rewrite: rewrite.map_err(|reason| BuildError::path(&route.path, reason))?,
        limit,
        body_limit: route.body_limit,
        authenticated: route.authenticated,
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
    /// An earlier route has the same host, path and method.
    #[error("route {path}: an earlier route takes the same requests")]
    Taken {
        /// The route's path.
        path: String,
    },
    /// [`Route::to`] is missing, or names no address.
    #[error("route {path} leads nowhere")]
    NoUpstream {
        /// The route's path.
        path: String,
    },
    /// The route is authenticated, and the gateway has no [`Authenticate`].
    #[error("route {path} is authenticated, but nothing says by what")]
    NoAuthenticate {
        /// The route's path.
        path: String,
    },
}

impl BuildError {
    fn rejected(path: &str, rejected: &Rejected) -> Self {
        match rejected {
            Rejected::Template(error) => Self::path(path, error.to_string()),
            Rejected::Taken => Self::Taken { path: path.to_owned() },
        }
    }

    fn path(path: &str, reason: impl Into<String>) -> Self {
        Self::Path { path: path.to_owned(), reason: reason.into() }
    }
}
