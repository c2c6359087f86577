use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gusset_breaker::Circuit;
use gusset_call::BoxError;
use gusset_registry::{Endpoint, Registry};
use gusset_sidecar::{ActiveSpan, Metrics, Trace, Watched};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    Breaker, Builder, RouteLimit, RouteStats, Upstream,
    forward::{Answered, Forward, Shared, Target},
    traffic::Mirroring,
    upstream,
};

/// The front door: takes HTTP requests to the services behind it, and answers for them where it must. Clones share everything.
///
/// It never fails: what goes wrong is an answer, see the table in the crate's documentation.
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// Dropping the future, or later the body of the answer, cancels the call of the upstream, whose connection is closed then unless
/// it had answered in full. No other attempt follows.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) inner: Trace<Forward>,
    pub(crate) shared: Arc<Shared>,
}

impl Gateway {
    /// Begins a gateway whose services are found in `registry`.
    pub fn builder(registry: impl Registry) -> Builder {
        Builder::new(Arc::new(registry))
    }

    /// What became of the requests, route by route in the order they were added.
    #[must_use]
    pub fn stats(&self) -> Vec<RouteStats> {
        let read = |target: &Target| {
            let upstreams = target.ways.iter().map(|way| way.upstream.clone()).collect();
            let (path, host) = (target.path.clone(), target.host.clone());
            let mut stats = target.counters.read(path, host, upstreams);
            stats.name = target.named.clone();
            #[cfg(feature = "compose")]
            if let Some(composed) = &target.composed {
                stats.branches = composed.branches();
            }
            stats
        };
        self.shared.targets.iter().map(read).collect()
    }

    /// How the quotas of routes are used, in the order of the routes.
    #[must_use]
    pub fn limits(&self) -> Vec<RouteLimit> {
        let routes = self.shared.targets.iter().zip(&self.shared.front.gates);
        let limits = routes.filter_map(|(target, gate)| Some((target, gate.limit.as_ref()?)));
        limits.map(|(target, limit)| limit.read(target.path.clone(), target.host.clone())).collect()
    }

    /// What each route leads to, in the order they were added.
    #[cfg(feature = "admin")]
    pub(crate) fn targets(&self) -> &[Target] {
        &self.shared.targets
    }

    /// Whether this clone is the last one, and no request, and no copy for a [`Mirror`](crate::Mirror), is under way any more. Answers whose heads were given may go on.
    #[must_use]
    pub fn is_left(&self) -> bool {
        // The service within and this have one each.
        let no_request = Arc::strong_count(&self.shared) <= 2;
        let mut mirrors = self.shared.targets.iter().filter_map(|target| target.mirror.as_ref());
        no_request && mirrors.all(Mirroring::is_idle)
    }

    /// Where requests are counted and timed.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The healthy instances and their circuits, upstream by upstream, to look at and to give orders to. Where an upstream has a thousand circuits, that of an instance which
    /// was never called is a new one each time, whose orders are kept.
    #[must_use]
    pub fn breakers(&self) -> Vec<Breaker> {
        let of_upstream = |(name, upstream): (&Upstream, &upstream::Shared)| {
            let name = name.clone();
            let breaker = move |(endpoint, circuit): (Endpoint, Circuit)| Breaker {
                upstream: name.clone(),
                instance: endpoint.instance.clone(),
                circuit,
                endpoint,
            };
            upstream.endpoints().into_iter().map(breaker)
        };
        let mut breakers: Vec<_> = self.shared.upstreams.iter().flat_map(of_upstream).collect();
        breakers.sort_by_cached_key(|breaker| breaker.upstream.to_string());
        breakers
    }

    /// The same without the circuits that nobody needed yet.
    #[cfg(feature = "admin")]
    pub(crate) fn read(&self) -> impl Iterator<Item = (&Upstream, Endpoint, Option<Circuit>)> {
        let of_upstream = |(name, upstream): (_, &upstream::Shared)| {
            upstream.read().into_iter().map(move |(endpoint, circuit)| (name, endpoint, circuit))
        };
        self.shared.upstreams.iter().flat_map(of_upstream)
    }
}

impl<B> Service<Request<B>> for Gateway
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

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture {
        self.shared.front.distrust(&mut request);
        ResponseFuture { inner: self.inner.call(request) }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.shared.targets.iter().map(|target| &target.path);
        f.debug_struct("Gateway")
            .field("routes", &paths.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// Future of [`Gateway`].
    pub struct ResponseFuture {
        #[pin]
        inner: <Trace<Forward> as Service<Request<Full<Bytes>>>>::Future,
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<GatewayBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.project().inner.poll(cx));
        Poll::Ready(result.map(|response| response.map(|inner| GatewayBody { inner })))
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// Body of a gateway's answer: the upstream's, streamed, or a problem. If the upstream breaks off, so does this.
    pub struct GatewayBody {
        #[pin]
        inner: Watched<Answered, ActiveSpan>,
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl fmt::Debug for GatewayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayBody").finish_non_exhaustive()
    }
}
