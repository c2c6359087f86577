//! The trace layer: layer, service, future; then what it is made of.

mod b3;
mod details;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod propagate;
mod propagation;
pub(crate) mod record;
mod recorder;
mod ring;
mod settings;
mod span;
mod tracestate;

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
};

use gusset_call::{Ambient, Attempt, Context};
use http::{Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

pub use b3::B3;
pub use details::Details;
pub use propagation::Propagation;
pub use record::{Record, SpanKind};
pub use recorder::{Cursor, Recorder, RecorderStats};
pub use span::ActiveSpan;

use crate::{
    Metrics, Ratio, Route, RouteOf,
    metrics::{
        call::{rpc_path, scheme},
        series::Protocol,
    },
    names::MethodName,
    watched::{Unwinding, Watched},
};
use propagate::{Above, Seen, inject, span_below};
use settings::Settings;

/// Gives every call a span. All services and clones record into the one [`Recorder`].
///
/// On a server ([`TraceLayer::server`]) the span continues the one in the `traceparent` header, and the handler runs with it as
/// its `gusset_call::Context`; a header that is malformed starts a new trace and is no error. Around a client
/// ([`TraceLayer::client`]) the span is a child of the current context, and its identifier goes out as `traceparent`, with the
/// `tracestate` that came in.
///
/// Both also open a `tracing` span (`server` or `client`, level INFO, target `gusset_sidecar::trace`) with the fields `trace_id`,
/// `span_id`, `otel.kind`, `http.request.method`, `http.route`, `http.response.status_code` and `error`.
///
/// The span ends with the last byte of the response body, with an error, or when the caller drops the call or the body;
/// see [`End`](crate::End). No query is recorded, and no header and no path unless [asked for](Self::record).
///
/// `baggage` goes along in both directions; see [`Propagation`] for that, Zipkin's B3 and request ids. Handlers read it as
/// `gusset_call::Baggage::current()`.
#[derive(Clone)]
pub struct TraceLayer(Arc<Settings>);

impl TraceLayer {
    /// Traces the requests that come in.
    #[must_use]
    pub fn server(recorder: Recorder) -> Self {
        Self::of(recorder, SpanKind::Server)
    }

    /// Traces the requests that go out.
    #[must_use]
    pub fn client(recorder: Recorder) -> Self {
        Self::of(recorder, SpanKind::Client)
    }

    pub(crate) fn of(recorder: Recorder, kind: SpanKind) -> Self {
        Self(Arc::new(Settings::new(recorder, kind)))
    }

    /// Counts and times the calls in `metrics` as well, as a [`MetricsLayer`](crate::MetricsLayer) directly inside would, for less: they share
    /// the clock, the name of the call and the end of its body. Default: they are not counted.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.change().metrics = Some(metrics);
        self
    }

    /// Which share of the traces that begin here are marked as sampled. A trace that began elsewhere keeps the mark it
    /// came with. Every call is recorded in either case; the mark decides what is exported. Default all of them, as the
    /// OpenTelemetry SDKs do.
    #[must_use]
    pub fn sample(mut self, share: Ratio) -> Self {
        self.change().sampling = share;
        self
    }

    /// How a server finds the route of a request whose router does not leave a [`Route`] in the extensions.
    #[must_use]
    pub fn route_of(mut self, route_of: RouteOf) -> Self {
        self.change().naming.set_route_of(route_of);
        self
    }

    /// The name of the service that a client calls.
    #[must_use]
    pub fn upstream(mut self, name: impl Into<Route>) -> Self {
        self.change().naming.set_upstream(name.into());
        self
    }

    /// What goes along with calls beside the W3C trace context. Default [`Propagation::new`]: `baggage`.
    #[must_use]
    pub fn propagation(mut self, beside: Propagation) -> Self {
        self.change().propagation = beside;
        self
    }

    /// What is recorded of calls beyond what every record has. Default nothing.
    #[must_use]
    pub fn record(mut self, details: Details) -> Self {
        self.change().details = details;
        self
    }

    fn change(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.0)
    }

    /// A span of work that is no request, below the current one.
    pub(crate) fn work(&self, operation: Route) -> ActiveSpan {
        let around = Ambient::current();
        let above = Above { parent: around.context().trace(), sampled: None };
        let ids = span_below(above, self.0.sampling);
        let attempt = Attempt::current();
        let mut span = ActiveSpan::new(&self.0, MethodName::NONE, ids, attempt, around);
        if let Some(open) = span.open() {
            open.route = Some(operation);
        }
        span.log();
        span
    }

    fn start<B>(&self, request: &mut Request<B>) -> ActiveSpan {
        let settings = &self.0;
        let method = MethodName::of(request.method());
        let name = settings.naming.name(request.extensions());
        let seen = Seen::of(request.headers());
        let mut span = if settings.kind == SpanKind::Client {
            let attempt = request.extensions().get().copied().unwrap_or_else(|| seen.attempt());
            let around = Ambient::current();
            let (above, state) = seen.above_call(settings, &around);
            let replaces = seen.has_one_parent();
            let ids = span_below(above, settings.sampling);
            let headers = request.headers_mut();
            state.write(headers);
            inject(settings, ids, replaces, &around, headers);
            let mut span = ActiveSpan::new(settings, method, ids, attempt, around);
            if let Some(open) = span.open() {
                open.peer = request.uri().authority().cloned();
            }
            span
        } else {
            let (above, state) = seen.above(settings);
            let ids = span_below(above, settings.sampling);
            let attempt = seen.attempt();
            let around = Ambient::default()
                .with_context(Context::current())
                .with_attempt(attempt)
                .with_trace_state(state)
                .with_baggage(seen.baggage(settings))
                .with_request_id(seen.request_id(settings, ids.0.trace_id()));
            ActiveSpan::new(settings, method, ids, attempt, around)
        };
        if let Some(open) = span.open() {
            open.route = name;
            open.protocol = Protocol::of(settings.kind, request);
            open.scheme = scheme(request.uri());
            let server = settings.kind == SpanKind::Server;
            if server {
                open.version = open.protocol.version;
            }
            if settings.metrics.is_some() {
                open.path = rpc_path(open.protocol, request);
            }
            if open.protocol.grpc || settings.details.paths && server {
                span.to(request.uri().path());
            }
        }
        span.headers(details::REQUEST, request.headers());
        span.log();
        span
    }
}

impl fmt::Debug for TraceLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLayer")
            .field("kind", &self.0.kind)
            .field("sampling", &self.0.sampling)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Trace { inner, settings: self.clone() }
    }
}

/// Service of [`TraceLayer`].
///
/// # Readiness
///
/// That of the inner service.
///
/// # Cancellation
///
/// Dropping the future, or later the body before its end, ends the span as [`End::Cancelled`](crate::End::Cancelled).
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    settings: TraceLayer,
}

impl<S, B, RB> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: fmt::Display,
    RB: Body,
{
    type Response = Response<Watched<RB, ActiveSpan>>;
    type Error = S::Error;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let span = self.settings.start(&mut request);
        let to_head = request.method() == Method::HEAD;
        let entered = span.enter_call();
        // Should it panic, the span is dropped, and ends as panicked.
        let inner = self.inner.call(request);
        drop(entered);
        TraceFuture { inner, span: Some(span), to_head }
    }
}

pin_project! {
    /// Future of [`Trace`].
    pub struct TraceFuture<F> {
        // Before the span, so that what its drop logs still belongs to an open one.
        #[pin]
        inner: F,
        span: Option<ActiveSpan>,
        to_head: bool,
    }
}

impl<F, RB, E> Future for TraceFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: fmt::Display,
    RB: Body,
{
    type Output = Result<Response<Watched<RB, ActiveSpan>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(span) = this.span.as_mut() else { return Poll::Pending };
        let unwinding = Unwinding(span);
        let entered = unwinding.0.enter_call();
        let polled = this.inner.poll(cx);
        drop(entered);
        mem::forget(unwinding);
        let result = ready!(polled);
        let Some(mut span) = this.span.take() else { return Poll::Pending };
        Poll::Ready(match result {
            Ok(mut response) => {
                span.answered(&mut response);
                Ok(Watched::watch(*this.to_head, response, span))
            }
            Err(error) => {
                span.fail(&error);
                Err(error)
            }
        })
    }
}

impl<F> fmt::Debug for TraceFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceFuture").field("span", &self.span).finish_non_exhaustive()
    }
}
