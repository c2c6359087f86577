use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use gusset_ratelimit::{ConcurrencyLimiter, Priority, Quota};
use gusset_sidecar::{HedgePolicy, RetryPolicy};
use http::{Method, request::Parts};

use super::{Condition, FixedAnswer, HeaderEdits, Methods, Redirect, Upstream};
use crate::{
    Cors, Idempotency, Identity,
    compose::Composition,
    identity::Requirement,
    limit::{CommonQuota, KeyOf, Limit},
    stats::Counters,
    traffic::{Mirror, Split},
};

/// Which requests go where, and under which conditions.
///
/// ```
/// use gusset_gateway::Route;
/// use gusset_ratelimit::Quota;
/// use http::Method;
///
/// let orders = Route::new("/api/orders/{id}")
///     .methods([Method::GET, Method::DELETE])
///     .to("order-service")
///     .strip_prefix("/api")
///     .quota(Quota::per_minute(100))
///     .authenticated();
/// ```
#[derive(Clone, Debug)]
pub struct Route {
    pub(crate) name: Option<String>,
    pub(crate) path: String,
    pub(crate) host: Option<String>,
    pub(crate) methods: Methods,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) rank: i32,
    pub(crate) leads: Leads,
    pub(crate) new_path: NewPath,
    pub(crate) new_host: Option<String>,
    pub(crate) request_headers: HeaderEdits,
    pub(crate) answer_headers: HeaderEdits,
    pub(crate) quota: Option<(Quota, KeyOf)>,
    /// The buckets of its quota, if they are there already.
    pub(crate) limit: Option<Limit>,
    pub(crate) counters: Option<Arc<Counters>>,
    pub(crate) timeout: Duration,
    pub(crate) body_limit: u64,
    /// Of its senders, if they must be known.
    pub(crate) requires: Option<Requirement>,
    pub(crate) keeps_credentials: bool,
    pub(crate) cors: Option<Cors>,
    pub(crate) upgrades: Vec<Box<str>>,
    pub(crate) grpc_web: bool,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) hedge: Option<HedgePolicy>,
    pub(crate) in_flight: Option<NonZeroU32>,
    /// The places of that, if they are there already.
    pub(crate) places: Option<ConcurrencyLimiter>,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) priority: Priority,
    pub(crate) composition: Option<Composition>,
}

/// Who answers.
#[derive(Clone, Debug)]
pub(crate) enum Leads {
    Nowhere,
    To(Upstream),
    Split(Split),
    Redirect(Redirect),
    Answer(FixedAnswer),
}

impl Leads {
    pub(crate) const fn split(&self) -> Option<&Split> {
        match self {
            Self::Split(split) => Some(split),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NewPath {
    Same,
    Without(String),
    Like(String),
}

impl Route {
    /// A route for the paths that match `path`: literal segments, `{name}` for one segment or, as in `v{major}.json`, a part of one, and `{*name}` at the
    /// end for all that follows, which may be nothing: `/api/{*rest}` is `/api/` and `/api/a/b`, not `/api`. Every method but CONNECT and TRACE, every host.
    ///
    /// Where several routes take a request, the most specific one gets it, in whatever order they were added: first by host
    /// (a name, then the longest wildcard, then any), then by path, segment by segment from the left (literal, then the most text around a parameter, then the rest), and
    /// then by [`rank`](Self::rank) and the number of [conditions](Self::when). Two that only chance could tell apart are refused when the gateway is built.
    ///
    /// Matched, and forwarded, is the path in its normal form: without `.`, `..` and empty segments, unreserved
    /// characters decoded. A request whose path servers read in different ways (`%2f`, `%5c`, `%00`, `..;`) is answered with 400.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            name: None,
            path: path.into(),
            host: None,
            methods: Methods::Any,
            conditions: Vec::new(),
            rank: 0,
            leads: Leads::Nowhere,
            new_path: NewPath::Same,
            new_host: None,
            request_headers: HeaderEdits::new(),
            answer_headers: HeaderEdits::new(),
            quota: None,
            limit: None,
            counters: None,
            timeout: Duration::from_secs(10),
            body_limit: 2 * 1024 * 1024,
            requires: None,
            keeps_credentials: false,
            cors: None,
            upgrades: Vec::new(),
            grpc_web: false,
            idempotency: None,
            retry: None,
            hedge: None,
            in_flight: None,
            places: None,
            mirror: None,
            priority: Priority::Normal,
            composition: None,
        }
    }

    /// Where its requests go: the name of a service in the registry, or [`Upstream::fixed`] addresses.
    #[must_use]
    pub fn to(mut self, upstream: impl Into<Upstream>) -> Self {
        self.leads = Leads::To(upstream.into());
        self
    }

    /// Where its requests go instead, several places at once, whose answers become one. It takes GET.
    #[cfg(feature = "compose")]
    #[must_use]
    pub fn fan_out(mut self, to: crate::FanOut) -> Self {
        if self.methods == Methods::Any {
            self.methods = Methods::these([Method::GET]);
        }
        self.composition = Some(Composition::FanOut(to));
        self
    }

    /// Its requests, in JSON, become calls of this method; of how, see [`GrpcMethod`](crate::GrpcMethod). It needs [`methods`](Self::methods).
    #[cfg(feature = "grpc-json")]
    #[must_use]
    pub fn grpc(mut self, method: crate::GrpcMethod) -> Self {
        self.composition = Some(Composition::Grpc(method));
        self
    }

    /// Whether upstreams see another path.
    #[cfg(feature = "compose")]
    pub(crate) fn rewrites(&self) -> bool {
        self.new_path != NewPath::Same
    }

    /// Only these methods; other ones are answered with 405. GET stands for HEAD as well.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = Methods::these(methods);
        self
    }

    /// Only requests for this host, whatever the port; `*.shop.example` stands for all hosts below that one, and not for itself.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// The upstream sees the path without `prefix`, with which the route's path must begin literally.
    #[must_use]
    pub fn strip_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.new_path = NewPath::Without(prefix.into());
        self
    }

    /// The upstream sees this path. Its `{name}` segments stand for those of the route's path. The query stays.
    #[must_use]
    pub fn rewrite(mut self, path: impl Into<String>) -> Self {
        self.new_path = NewPath::Like(path.into());
        self
    }

    /// Which web pages may read its answers. Default: what [`Builder::cors`](crate::Builder::cors) says.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some(cors);
        self
    }

    /// What `Idempotency-Key` means here. Default nothing: it is passed on.
    #[must_use]
    pub fn idempotency(mut self, policy: Idempotency) -> Self {
        self.idempotency = Some(policy);
        self
    }

    /// What it is called in metrics and traces, in the log of requests and by operators. Default its path. Names are few and known: metrics keep each.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How much each client may, on this route alone; above that it gets 429. A client is the authenticated
    /// subject if there is one, or what its [quota key](Identity::with_quota_key) says, and else the IP address, of an IPv6 one its /64 network, for that is what one customer has. Default: no
    /// limit.
    #[must_use]
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some((quota, KeyOf::default()));
        self
    }

    /// The same, where `key` tells clients apart. It runs on the path of every request, under no lock.
    #[must_use]
    pub fn quota_by(
        mut self,
        quota: Quota,
        key: impl Fn(&Client<'_>) -> String + Send + Sync + 'static,
    ) -> Self {
        self.quota = Some((quota, KeyOf::new(key)));
        self
    }

    /// The same, for all routes together that have this one.
    #[must_use]
    pub fn quota_in_common(self, quota: CommonQuota) -> Self {
        self.limited_by(quota.0)
    }

    /// The same, with the buckets of `limiter`, which all gateways share that ask the same Redis server: a client may so much at all of them together. Who decides while
    /// that server is away, and how long a request waits for it, is the limiter's. Feature `redis`.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn shared_quota(mut self, limiter: gusset_ratelimit::RedisLimiter) -> Self {
        self.limit = Some(Limit::in_redis(limiter, KeyOf::default()));
        self
    }

    pub(crate) fn limited_by(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    #[cfg(feature = "config")]
    pub(crate) fn counted_by(mut self, counters: Arc<Counters>) -> Self {
        self.counters = Some(counters);
        self
    }

    /// How long the upstream may take, all attempts together, from the head of the request to the head of the answer; then 504. The
    /// body of the answer may take longer. A trusted proxy may ask for less by `x-request-timeout-ms`. Default 10 s: people do not wait longer, and programs should not.
    #[must_use]
    pub const fn timeout(mut self, span: Duration) -> Self {
        self.timeout = span;
        self
    }

    /// How many bytes the body of a request may have; more is answered with 413. Default 2 MiB, as in axum.
    #[must_use]
    pub const fn body_limit(mut self, bytes: u64) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Protocols that a client and its instance may agree on to speak instead of HTTP, as `websocket`; the gateway then passes bytes both ways, until one side
    /// ends. Over HTTP/1.1, by a request without a body; WebSocket also by an extended CONNECT of HTTP/2 (RFC 8441), with an instance of HTTP/1.1. Default none: whoever asks is answered by HTTP.
    ///
    /// Who speaks WebSocket is told when the server ends, by a frame that closes (1001) to both sides, between two of theirs; other protocols are cut at the end of its drain.
    ///
    /// Such a connection has no time limit, keeps its place among the server's, and outlives changes of the routes.
    #[must_use]
    pub fn upgrades<P: Into<Box<str>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.upgrades = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Clients may speak gRPC-Web (`application/grpc-web`, or in base64 `application/grpc-web-text`) where the upstream speaks gRPC alone: their calls go on as gRPC, and the trailers of answers
    /// come back as their last message. Messages are passed on as they come, in both directions. Other requests are as ever. Needs the feature `http2`.
    ///
    /// Default no, for an upstream may know gRPC-Web itself, and what it says is passed on as it is; the gateway cannot tell which of them it is.
    ///
    /// A page of another origin needs a [`Cors`] with the fields that its client sends (`content-type`, `x-grpc-web`, `x-user-agent`, `grpc-timeout`); that it may read `grpc-status` is
    /// said by itself.
    #[must_use]
    pub const fn grpc_web(mut self) -> Self {
        self.grpc_web = true;
        self
    }

    /// When requests are tried again. Whatever it says, one is only if that is safe: its method is idempotent, or it never
    /// reached an instance; and an attempt goes to an instance that was not tried yet, if there is one.
    ///
    /// Default: two retries, after 25 ms and 50 ms at most, for another instance need not be waited for; bodies up
    /// to 64 KiB; out of a budget of 20 % that the routes to an upstream share.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Makes a slow request a second time, to another instance, and takes the answer that comes first; the other call is cancelled. Only requests whose method is idempotent, and that
    /// take longer than most others did lately. Each upstream that the route leads to has its own measure of that. Default not at all, for it costs
    /// instances a few percent more requests.
    #[must_use]
    pub fn hedge(mut self, policy: HedgePolicy) -> Self {
        self.hedge = Some(policy);
        self
    }
}

/// Whose request it is, as far as the gateway knows.
#[derive(Clone, Copy, Debug)]
pub struct Client<'r> {
    /// The address: the peer's, or what a trusted proxy says. `None` where no [`PeerAddr`](crate::PeerAddr) was set.
    pub address: Option<IpAddr>,
    /// The authenticated subject, on a route that asks for one.
    pub subject: Option<&'r str>,
    /// The same, with scopes, roles and claims.
    pub identity: Option<&'r Identity>,
    /// The head of the request, as it came.
    pub head: &'r Parts,
}
