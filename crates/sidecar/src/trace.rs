//! The trace layer: layer, service, future; then what it is made of.

pub(crate) mod propagate;
pub(crate) mod record;
mod recorder;
pub(crate) mod span;
mod tracestate;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

use gusset_call::{Attempt, Context};
use http::{Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

pub use record::{Record, SpanKind};
pub use recorder::{Cursor, Recorder, RecorderStats};
pub use span::ActiveSpan;

use crate::{
    Ratio, Route, RouteOf, Watched,
    ambient::{Ambient, attempt_in},
    names::{MethodName, Naming},
    watched::Watch,
};
use propagate::{extract, inject, parent_of_call, span_below};
use span::Open;

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
/// see [`End`](crate::End). No header and no path is recorded.
#[derive(Clone)]
pub struct TraceLayer {
    recorder: Recorder,
    kind: SpanKind,
    sampling: Ratio,
    naming: Naming,
}

impl TraceLayer {
    /// Traces the requests that come in.
    #[must_use]
    pub const fn server(recorder: Recorder) -> Self {
        let naming = Naming::Router(None);
        Self { recorder, kind: SpanKind::Server, sampling: Ratio::ALL, naming }
    }

    /// Traces the requests that go out.
    #[must_use]
    pub const fn client(recorder: Recorder) -> Self {
        let naming = Naming::Upstream(None);
        Self { recorder, kind: SpanKind::Client, sampling: Ratio::ALL, naming }
    }

    /// Which share of the traces that begin here are marked as sampled. A trace that began elsewhere keeps the mark it
    /// came with. Every call is recorded in either case; the mark decides what is exported. Default all of them, as the
    /// OpenTelemetry SDKs do.
    #[must_use]
    pub const fn sample(mut self, share: Ratio) -> Self {
        self.sampling = share;
        self
    }

    /// How a server finds the route of a request whose router does not leave a [`Route`] in the extensions.
    #[must_use]
    pub fn route_of(mut self, route_of: RouteOf) -> Self {
        self.naming.set_route_of(route_of);
        self
    }

    /// The name of the service that a client calls.
    #[must_use]
    pub fn upstream(mut self, name: impl Into<Route>) -> Self {
        self.naming.set_upstream(name.into());
        self
    }
}

impl fmt::Debug for TraceLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLayer")
            .field("kind", &self.kind)
            .field("sampling", &self.sampling)
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

impl TraceLayer {
    fn start<B>(&self, request: &mut Request<B>) -> ActiveSpan {
        let cx = Context::current();
        let (parent, ambient, attempt, peer) = match self.kind {
            SpanKind::Client => {
                let extension = request.extensions().get::<Attempt>().copied();
                let attempt = extension.unwrap_or_else(|| attempt_in(request.headers()));
                let parent = parent_of_call(cx, request.headers_mut());
                (parent, Ambient::current(), attempt, request.uri().authority().cloned())
            }
            _ => {
                let (parent, tracestate) = extract(request.headers());
                let attempt = attempt_in(request.headers());
                (parent, Ambient { tracestate, attempt }, attempt, None)
            }
        };
        let (trace, parent) = span_below(parent, self.sampling);
        if self.kind == SpanKind::Client {
            inject(trace, request.headers_mut());
        }
        let route = self.naming.name(request.extensions());
        let method = MethodName::of(request.method());
        let open = Open {
            recorder: self.recorder.clone(),
            trace,
            parent,
            kind: self.kind,
            started: Instant::now(),
            route,
            method,
            peer,
            attempt,
            status: None,
            grpc_status: None,
            error: None,
            tags: Vec::new(),
        };
        let log = log_span(&open);
        ActiveSpan::new(open, cx, ambient, log)
    }
}

macro_rules! log_span {
    ($name:literal, $open:ident) => {
        tracing::info_span!(
            $name,
            trace_id = %$open.trace.trace_id(),
            span_id = %$open.trace.span_id(),
            otel.kind = $name,
            http.request.method = $open.method.as_str(),
            http.route = $open.route.as_deref(),
            http.response.status_code = tracing::field::Empty,
            error = tracing::field::Empty,
        )
    };
}

/// The span as `tracing` sees it. Names must be literals, for they are part of the call site.
pub(crate) fn log_span(open: &Open) -> tracing::Span {
    match open.kind {
        SpanKind::Server => log_span!("server", open),
        SpanKind::Client => log_span!("client", open),
        SpanKind::Internal => log_span!("internal", open),
        SpanKind::Producer => log_span!("producer", open),
        SpanKind::Consumer => log_span!("consumer", open),
    }
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
        let inner = span.enter(|| self.inner.call(request));
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
        // Taken out while the handler runs: should it panic, the span is dropped by the unwinding and knows it.
        let Some(mut span) = this.span.take() else { return Poll::Pending };
        match span.enter(|| this.inner.poll(cx)) {
            Poll::Pending => {
                *this.span = Some(span);
                Poll::Pending
            }
            Poll::Ready(Ok(response)) => {
                span.update(|open| {
                    open.status = Some(response.status().as_u16());
                    if open.kind == SpanKind::Server {
                        let route = response.extensions().get::<Route>().cloned();
                        open.route = route.or(open.route.take());
                    }
                });
                Poll::Ready(Ok(Watched::watch(*this.to_head, response, span)))
            }
            Poll::Ready(Err(error)) => {
                span.fail(&error);
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F> fmt::Debug for TraceFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceFuture").field("span", &self.span).finish_non_exhaustive()
    }
}
