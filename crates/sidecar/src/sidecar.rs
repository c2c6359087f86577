//! The layers composed, and the same for work that is no HTTP request.

mod intercept;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use gusset_call::{Answer, AnswerLayer};
use tower_layer::{Layer, Stack};

pub use intercept::Intercept;

use crate::{
    BodyDeadlineLayer, DeadlineLayer, Details, FaultLayer, HedgeLayer, HedgePolicy, Metrics,
    Propagation, Ratio, Recorder, Retry, RetryLayer, RetryPolicy, Route, RouteOf, SpanKind, Trace,
    TraceLayer,
};

/// All layers of this crate around one service and the clients that it calls with. Clones share the recorder and the metrics.
///
/// ```
/// use gusset_sidecar::Sidecar;
/// use tower::ServiceBuilder;
/// # use http::{Request, Response};
/// # use http_body_util::Empty;
/// # use bytes::Bytes;
/// # type Body = Empty<Bytes>;
/// # let app = tower::service_fn(|_: Request<Body>| async { Ok::<_, std::io::Error>(Response::new(Body::new())) });
/// # let client = tower::service_fn(|_: Request<gusset_sidecar::ReplayBody<Body>>| async { Ok::<_, std::io::Error>(Response::new(Body::new())) });
///
/// let sidecar = Sidecar::new("orders");
/// let app = ServiceBuilder::new().layer(sidecar.inbound()).service(app);
/// let payments = ServiceBuilder::new().layer(sidecar.outbound("payments")).service(client);
/// # fn is_service<S: tower::Service<Request<Body>>>(_: S) {}
/// # is_service(app); is_service(payments);
/// ```
#[derive(Clone, Debug)]
pub struct Sidecar {
    recorder: Recorder,
    metrics: Metrics,
    retry: RetryPolicy,
    deadline: DeadlineLayer,
    sampling: Ratio,
    route_of: Option<RouteOf>,
    propagation: Propagation,
    details: Details,
    /// For what is no request.
    work: TraceLayer,
}

impl Sidecar {
    /// The sidecar of the service with this name, with the default of every layer. Requests that come in get at most
    /// 30 s: a browser or a proxy in front has long shown an error by then.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self::with_recorder(Recorder::new(service))
    }

    /// The same, recording into `recorder`; so that several services in one process share one, or that none is kept.
    #[must_use]
    pub fn with_recorder(recorder: Recorder) -> Self {
        let metrics = Metrics::new();
        metrics.report_process();
        let traces = recorder.clone();
        metrics.on_render(move |samples| {
            let (name, help) = ("gusset_traces_recorded_total", "Finished calls recorded.");
            let stats = traces.stats();
            samples.counter(name, help, &[], stats.recorded as f64);
            let (name, help) = ("gusset_traces_overwritten_total", "Records that made room.");
            samples.counter(name, help, &[], stats.overwritten as f64);
        });
        let work = TraceLayer::of(recorder.clone(), SpanKind::Internal).metrics(metrics.clone());
        Self {
            work,
            recorder,
            metrics,
            retry: RetryPolicy::default(),
            deadline: DeadlineLayer::server(Duration::from_secs(30)),
            sampling: Ratio::ALL,
            route_of: None,
            propagation: Propagation::new(),
            details: Details::new(),
        }
    }

    /// The deadline of requests that come in.
    #[must_use]
    pub const fn deadline(mut self, layer: DeadlineLayer) -> Self {
        self.deadline = layer;
        self
    }

    /// The retries of requests that go out.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Which share of the traces that begin here are sampled; see [`TraceLayer::sample`].
    #[must_use]
    pub fn sample(mut self, share: Ratio) -> Self {
        self.sampling = share;
        self.work = self.work.sample(share);
        self
    }

    /// How to find the route of a request; see [`TraceLayer::route_of`]. Without it, and without a [`Route`] in the extensions, spans and
    /// metrics have no route. In axum, whose routers tell by `MatchedPath`:
    ///
    /// ```
    /// # use gusset_sidecar::Sidecar;
    /// # struct MatchedPath(String);
    /// # impl MatchedPath { fn as_str(&self) -> &str { &self.0 } }
    /// let sidecar = Sidecar::new("orders")
    ///     .route_of(|extensions| Some(extensions.get::<MatchedPath>()?.as_str().to_owned().into()));
    /// ```
    #[must_use]
    pub const fn route_of(mut self, route_of: RouteOf) -> Self {
        self.route_of = Some(route_of);
        self
    }

    /// How long an attempt of a request that goes out may take, if there is a limit; see [`RetryPolicy::attempt_timeout`].
    #[must_use]
    pub const fn attempt_timeout(&self) -> Option<Duration> {
        self.retry.attempt_timeout
    }

    /// What goes along with calls beside the W3C trace context, on both sides; see [`TraceLayer::propagation`].
    #[must_use]
    pub const fn propagation(mut self, beside: Propagation) -> Self {
        self.propagation = beside;
        self
    }

    /// What is recorded of calls beyond what every record has, on both sides; see [`TraceLayer::record`].
    #[must_use]
    pub fn record(mut self, details: Details) -> Self {
        self.details = details;
        self
    }

    /// The finished calls.
    #[must_use]
    pub const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The counts.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What belongs around a server: trace → metrics → answers → deadline → the service.
    ///
    /// The answers (`gusset_call::AnswerLayer`) stand inside of trace and metrics, so that a refusal is seen there with the status that
    /// the caller gets; nothing but responses comes out.
    #[must_use]
    pub fn inbound(&self) -> InboundLayer {
        let trace = TraceLayer::server(self.recorder.clone());
        let trace = trace
            .metrics(self.metrics.clone())
            .sample(self.sampling)
            .propagation(self.propagation.clone())
            .record(self.details.clone());
        let trace = match self.route_of {
            Some(route_of) => trace.route_of(route_of),
            None => trace,
        };
        InboundLayer { trace, inside: self.deadline }
    }

    /// What belongs around a client of the service `upstream`: trace → metrics → retry → deadline → the client. Make one for each
    /// upstream and clone it: each has a budget of its own. The name is that of its spans, and the label `upstream` of its metrics.
    /// [`hedge`](OutboundLayer::hedge), [`body_deadline`](OutboundLayer::body_deadline) and [`fault`](OutboundLayer::fault) add what not every client wants.
    ///
    /// Trace and metrics stand outside, so they show what the caller got in the end, not the single attempts; the deadline stands
    /// inside, so that every attempt tells what is left when it begins.
    #[must_use]
    pub fn outbound(&self, upstream: impl Into<Arc<str>>) -> OutboundLayer {
        let upstream: Arc<str> = upstream.into();
        let name = Route::from(upstream.clone());
        let retry = RetryLayer::new(self.retry.clone());
        let counted = retry.clone();
        let of = upstream.clone();
        self.metrics.on_render(move |samples| counted.report(&of, samples));
        OutboundLayer {
            upstream,
            metrics: self.metrics.clone(),
            inside: DeadlineLayer::client(),
            trace: TraceLayer::client(self.recorder.clone())
                .metrics(self.metrics.clone())
                .sample(self.sampling)
                .propagation(self.propagation.clone())
                .record(self.details.clone())
                .upstream(name),
            retry,
        }
    }

    /// Traces and measures work that is no HTTP request, as an [`inbound`](Self::inbound) layer would: the future runs in a span of its
    /// own below the current one, and whoever it calls continues that.
    ///
    /// The name must come from the program's text and not from data, since it is a label.
    pub fn intercept<F, T, E>(&self, operation: impl Into<Route>, future: F) -> Intercept<F>
    where
        F: Future<Output = Result<T, E>>,
        E: fmt::Display,
    {
        Intercept::new(self, operation.into(), future)
    }

    pub(crate) const fn work(&self) -> &TraceLayer {
        &self.work
    }
}

/// The service that [`Sidecar::inbound`] makes of `S`: its name, for a field or a state. `I` is what [`InboundLayer`] has inside.
pub type Inbound<S, I = DeadlineLayer> = <InboundLayer<I> as Layer<S>>::Service;

/// The client that [`Sidecar::outbound`] makes of `S`: its name, for a field or a state. `I` is what [`OutboundLayer`] has inside.
pub type Outbound<S, I = DeadlineLayer> = <OutboundLayer<I> as Layer<S>>::Service;

/// Layer of [`Sidecar::inbound`], and what stands inside of its answers.
#[derive(Clone, Debug)]
pub struct InboundLayer<I = DeadlineLayer> {
    trace: TraceLayer,
    inside: I,
}

impl<I> InboundLayer<I> {
    /// Ends answers whose body is still on its way at the deadline, as [`BodyDeadlineLayer`] says; directly around the service.
    #[must_use]
    pub fn body_deadline(self) -> InboundLayer<Stack<BodyDeadlineLayer, I>> {
        self.with(BodyDeadlineLayer::new())
    }

    /// Lets calls go wrong as `faults` is [set](FaultLayer::set), directly around the service; nothing until then.
    #[must_use]
    pub fn fault(self, faults: FaultLayer) -> InboundLayer<Stack<FaultLayer, I>> {
        self.with(faults)
    }

    fn with<L>(self, layer: L) -> InboundLayer<Stack<L, I>> {
        InboundLayer { trace: self.trace, inside: Stack::new(layer, self.inside) }
    }
}

impl<S, I: Layer<S>> Layer<S> for InboundLayer<I> {
    type Service = Trace<Answer<I::Service>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.trace.layer(AnswerLayer::new().layer(self.inside.layer(inner)))
    }
}

/// Layer of [`Sidecar::outbound`], and what stands inside of its retries.
///
/// ```
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use bytes::Bytes;
/// # type Body = Full<Bytes>;
/// # type Twice = gusset_sidecar::ReplayBody<gusset_sidecar::ReplayBody<Body>>;
/// # let client = tower::service_fn(|_: Request<Twice>| async { Ok::<_, std::io::Error>(Response::new(Body::default())) });
/// use gusset_sidecar::{FaultLayer, HedgePolicy, Sidecar};
/// use tower::ServiceBuilder;
///
/// let (sidecar, faults) = (Sidecar::new("orders"), FaultLayer::new());
/// // trace → metrics → retry → hedge → deadline → deadline of bodies → faults → the client
/// let stock = sidecar.outbound("stock").body_deadline().fault(faults).hedge(HedgePolicy::default());
/// let stock = ServiceBuilder::new().layer(stock).service(client);
/// # fn is_service<S: tower::Service<Request<Body>>>(_: S) {}
/// # is_service(stock);
/// ```
#[derive(Clone, Debug)]
pub struct OutboundLayer<I = DeadlineLayer> {
    trace: TraceLayer,
    retry: RetryLayer,
    inside: I,
    metrics: Metrics,
    upstream: Arc<str>,
}

impl<I> OutboundLayer<I> {
    /// The retries of this upstream.
    #[must_use]
    pub const fn retry(&self) -> &RetryLayer {
        &self.retry
    }

    /// Makes slow calls a second time: inside of the retries, so that each of them may be hedged, and outside of all else, so that a hedge tells what is left when it
    /// begins. Hedges come out of the budget of the retries, whatever budget `policy` has, unless retries have none; and their counts go into the metrics.
    #[must_use]
    pub fn hedge(self, policy: HedgePolicy) -> OutboundLayer<Stack<I, HedgeLayer>> {
        let policy = match self.retry.budget() {
            Some(budget) => policy.budget(budget.clone()),
            None => policy,
        };
        let hedge = HedgeLayer::new(policy);
        let (counted, of) = (hedge.clone(), self.upstream.clone());
        self.metrics.on_render(move |samples| counted.report(&of, samples));
        self.inside(|inside| Stack::new(inside, hedge))
    }

    /// Ends answers whose body is still on its way at the deadline, as [`BodyDeadlineLayer`] says; directly around the client.
    #[must_use]
    pub fn body_deadline(self) -> OutboundLayer<Stack<BodyDeadlineLayer, I>> {
        self.inside(|inside| Stack::new(BodyDeadlineLayer::new(), inside))
    }

    /// Lets calls go wrong as `faults` is [set](FaultLayer::set), directly around the client, so that each attempt may; nothing until then.
    #[must_use]
    pub fn fault(self, faults: FaultLayer) -> OutboundLayer<Stack<FaultLayer, I>> {
        self.inside(|inside| Stack::new(faults, inside))
    }

    fn inside<J>(self, change: impl FnOnce(I) -> J) -> OutboundLayer<J> {
        let Self { trace, retry, inside, metrics, upstream } = self;
        OutboundLayer { trace, retry, inside: change(inside), metrics, upstream }
    }
}

impl<S, I: Layer<S>> Layer<S> for OutboundLayer<I> {
    type Service = Trace<Retry<I::Service>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.trace.layer(self.retry.layer(self.inside.layer(inner)))
    }
}
