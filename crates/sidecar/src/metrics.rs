//! The metrics layer: layer, service, future; then the registry.

pub(crate) mod call;
pub(crate) mod calls;
mod collected;
mod endpoint;
mod exemplars;
mod histogram;
mod instruments;
pub(crate) mod lines;
mod names;
mod process;
mod registry;
mod samples;
pub(crate) mod series;
mod snapshot;
mod table;
mod text;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

pub use call::ActiveCall;
pub use collected::{
    Collected, Distribution, Exemplar, Family, FamilyKind, Label, Labels, Point, Value,
};
pub use endpoint::MetricsEndpoint;
pub use histogram::Durations;
pub use instruments::{Counter, Gauge, Held, Histogram, Labelled};
pub use registry::Metrics;
pub use samples::Samples;
pub(crate) use snapshot::is_failure;
pub use snapshot::{Active, SeriesSnapshot, Snapshot, Summary};

use crate::{
    Route, RouteOf, SpanKind, Watched,
    names::Naming,
    watched::{End, Watch, guarded},
};

/// Counts and times every call. All services and clones count in the one [`Metrics`].
///
/// Labels are the method (`_OTHER` for one that HTTP does not define), the matched [`Route`] or the upstream, the status and the kind of error,
/// never a path or the text of an error. A call is over with the last byte of the response body, or when the caller drops
/// it.
#[derive(Clone, Debug)]
pub struct MetricsLayer {
    metrics: Metrics,
    kind: SpanKind,
    naming: Naming,
}

impl MetricsLayer {
    /// Measures the requests that come in: `http.server.request.duration`, `http.server.active_requests`.
    #[must_use]
    pub const fn server(metrics: Metrics) -> Self {
        Self { metrics, kind: SpanKind::Server, naming: Naming::Router(None) }
    }

    /// Measures the requests that go out: `http.client.request.duration`, `http.client.active_requests`.
    #[must_use]
    pub const fn client(metrics: Metrics) -> Self {
        Self { metrics, kind: SpanKind::Client, naming: Naming::Upstream(None) }
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

impl<S> Layer<S> for MetricsLayer {
    type Service = Measure<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Measure { inner, settings: self.clone() }
    }
}

/// Service of [`MetricsLayer`].
///
/// # Readiness
///
/// That of the inner service.
///
/// # Cancellation
///
/// Dropping the future, or later the body before its end, counts the call as cancelled and as no longer active.
#[derive(Clone, Debug)]
pub struct Measure<S> {
    inner: S,
    settings: MetricsLayer,
}

impl<S, B, RB> Service<Request<B>> for Measure<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body,
{
    type Response = Response<Watched<RB, ActiveCall>>;
    type Error = S::Error;
    type Future = MeasureFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let MetricsLayer { metrics, kind, naming } = &self.settings;
        let to_head = request.method() == Method::HEAD;
        let call = ActiveCall::new(metrics, *kind, naming, &request);
        MeasureFuture { inner: self.inner.call(request), call: Some(call), to_head }
    }
}

pin_project! {
    /// Future of [`Measure`].
    #[derive(Debug)]
    pub struct MeasureFuture<F> {
        #[pin]
        inner: F,
        call: Option<ActiveCall>,
        to_head: bool,
    }
}

impl<F, RB, E> Future for MeasureFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    RB: Body,
{
    type Output = Result<Response<Watched<RB, ActiveCall>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(call) = this.call.as_mut() else { return Poll::Pending };
        let result = ready!(guarded(call, || this.inner.poll(cx)));
        let Some(mut call) = this.call.take() else { return Poll::Pending };
        Poll::Ready(match result {
            Ok(response) => {
                call.answered(&response);
                Ok(Watched::watch(*this.to_head, response, call))
            }
            Err(error) => {
                call.end(End::Error);
                Err(error)
            }
        })
    }
}
