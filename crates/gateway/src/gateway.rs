use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gusset_call::BoxError;
use gusset_registry::Registry;
use gusset_sidecar::{ActiveCall, ActiveSpan, Measure, Metrics, Trace, Watched};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::util::Oneshot;
use tower_service::Service;

use crate::{
    Breaker, Builder, RouteStats, Upstream,
    answer::Answer,
    body::RequestBody,
    front::Front,
    headers::{add_via, remove_hop_by_hop},
    stats::Counters,
    upstream::{self, Caller},
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
    pub(crate) inner: Trace<Measure<Forward>>,
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
            target.counters.read(target.path.clone(), target.host.clone(), target.upstream.clone())
        };
        self.shared.targets.iter().map(read).collect()
    }

    /// Where requests are counted and timed.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The circuits of the healthy instances, upstream by upstream.
    #[must_use]
    pub fn breakers(&self) -> Vec<Breaker> {
        let of_upstream = |(name, upstream): (&Upstream, &upstream::Shared)| {
            let name = name.clone();
            let breaker =
                move |(instance, circuit)| Breaker { upstream: name.clone(), instance, circuit };
            upstream.circuits().into_iter().map(breaker)
        };
        let mut breakers: Vec<_> = self.shared.upstreams.iter().flat_map(of_upstream).collect();
        breakers.sort_by_cached_key(|breaker| breaker.upstream.to_string());
        breakers
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
        inner: <Trace<Measure<Forward>> as Service<Request<Full<Bytes>>>>::Future,
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
        inner: Watched<Watched<AnyBody, ActiveCall>, ActiveSpan>,
    }
}

type UpstreamBody = Watched<Incoming, ActiveSpan>;
type AnyBody = Either<UpstreamBody, Full<Bytes>>;

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

/// What all clones of a gateway share.
pub(crate) struct Shared {
    pub(crate) front: Front,
    /// In the order of the front's gates.
    pub(crate) targets: Vec<Target>,
    pub(crate) upstreams: HashMap<Upstream, upstream::Shared>,
    pub(crate) metrics: Metrics,
}

/// Where a route leads.
pub(crate) struct Target {
    /// The route's name in metrics and traces: its path.
    pub(crate) name: gusset_sidecar::Route,
    pub(crate) path: Arc<str>,
    pub(crate) host: Option<Arc<str>>,
    pub(crate) upstream: Upstream,
    pub(crate) caller: Caller,
    pub(crate) counters: Counters,
}

/// The gateway without what observes it.
#[derive(Clone)]
pub(crate) struct Forward(pub(crate) Arc<Shared>);

impl<B> Service<Request<B>> for Forward
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnyBody>;
    type Error = Infallible;
    type Future = ForwardFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ForwardFuture {
        let started = Instant::now();
        let (route, state) = match self.0.front.admit(request) {
            Ok((number, request)) => {
                let call = Oneshot::new(self.0.targets[number].caller.clone(), request);
                (Some(number), State::Calling { call })
            }
            Err((route, answer)) => {
                if let Some(number) = route {
                    self.0.targets[number].counters.refused();
                }
                (route, State::Refused { answer: Some(answer) })
            }
        };
        ForwardFuture { state, shared: self.0.clone(), route, started }
    }
}

pin_project! {
    /// Future of [`Forward`].
    pub(crate) struct ForwardFuture {
        #[pin]
        state: State,
        shared: Arc<Shared>,
        route: Option<usize>,
        started: Instant,
    }
}

pin_project! {
    #[project = StateProj]
    enum State {
        Calling { #[pin] call: Oneshot<Caller, Request<RequestBody>> },
        Refused { answer: Option<Answer> },
    }
}

impl Future for ForwardFuture {
    type Output = Result<Response<AnyBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = match this.state.project() {
            StateProj::Calling { call } => {
                ready!(call.poll(cx)).map_err(|error| this.shared.explain(*this.route, &error))
            }
            StateProj::Refused { answer } => match answer.take() {
                Some(answer) => Err(answer),
                // Polled again after it was ready, which only a broken caller does.
                None => return Poll::Pending,
            },
        };
        Poll::Ready(Ok(this.shared.respond(*this.route, *this.started, outcome)))
    }
}

impl Shared {
    fn target(&self, route: Option<usize>) -> Option<&Target> {
        route.and_then(|number| self.targets.get(number))
    }

    /// The log says what the client is not told.
    fn explain(&self, route: Option<usize>, error: &BoxError) -> Answer {
        let limit = route.and_then(|number| self.front.gates.get(number)).map(|g| g.body_limit);
        let answer = Answer::to_error(error, limit.unwrap_or_default());
        let path = self.target(route).map(|target| &*target.path);
        let cause = &**error as &dyn std::error::Error;
        if answer == Answer::BadGateway {
            tracing::warn!(route = path, error = cause, "upstream failed");
        } else {
            tracing::debug!(route = path, error = cause, "call ended without an answer");
        }
        answer
    }

    fn respond(
        &self,
        route: Option<usize>,
        started: Instant,
        outcome: Result<Response<UpstreamBody>, Answer>,
    ) -> Response<AnyBody> {
        let mut response = match outcome.and_then(passed_back) {
            Ok(response) => response.map(Either::Left),
            Err(answer) => answer.into_response().map(Either::Right),
        };
        if let Some(target) = self.target(route) {
            target.counters.answered(response.status(), started.elapsed());
            response.extensions_mut().insert(target.name.clone());
        }
        response
    }
}

/// An upstream's answer as one of the gateway's.
fn passed_back(mut response: Response<UpstreamBody>) -> Result<Response<UpstreamBody>, Answer> {
    // Nobody asked for another protocol: `Upgrade` is not passed on.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Answer::BadGateway);
    }
    let version = response.version();
    remove_hop_by_hop(response.headers_mut());
    add_via(response.headers_mut(), version);
    Ok(response)
}
