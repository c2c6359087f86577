//! The fault layer: layer, what it injects, service, future.

use std::{
    error::Error,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{AnswerBody, BoxError};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Ratio, Route, RouteOf, Samples, Sidecar, deadline::timeout::is_grpc};

/// The header of answers that a fault had a part in: `delay` or `abort`.
pub const FAULT_HEADER: HeaderName = HeaderName::from_static("x-gusset-fault");

/// What goes wrong on purpose, how often, and for which calls.
///
/// ```
/// # use std::time::Duration;
/// use gusset_sidecar::{Fault, Ratio};
/// use http::{HeaderName, HeaderValue, StatusCode};
///
/// let slow = Fault::delay(Duration::from_millis(300)).share(Ratio::percent(5));
/// let fails = Fault::abort(StatusCode::SERVICE_UNAVAILABLE).on_route("/orders/{id}");
/// let mine = Fault::break_off()
///     .with_header(HeaderName::from_static("x-chaos"), HeaderValue::from_static("s3cret"));
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    what: What,
    share: Ratio,
    header: Option<(HeaderName, HeaderValue)>,
    route: Option<Route>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Delay(Duration),
    Abort(StatusCode),
    BreakOff,
}

impl Fault {
    const fn new(what: What) -> Self {
        Self { what, share: Ratio::ALL, header: None, route: None }
    }

    /// The call reaches the service so much later. Delays of several faults add up.
    #[must_use]
    pub const fn delay(span: Duration) -> Self {
        Self::new(What::Delay(span))
    }

    /// The call is answered with `status` and does not reach the service. A gRPC call gets the code that gRPC has for that status.
    #[must_use]
    pub const fn abort(status: StatusCode) -> Self {
        Self::new(What::Abort(status))
    }

    /// The call fails with [`Injected`], as if the connection had been reset, and does not reach the service.
    #[must_use]
    pub const fn break_off() -> Self {
        Self::new(What::BreakOff)
    }

    /// Of the calls that are meant, only this share, by chance. Default all of them.
    #[must_use]
    pub const fn share(mut self, share: Ratio) -> Self {
        self.share = share;
        self
    }

    /// Only calls of this route: the [`Route`] in the request's extensions, or what [`FaultLayer::route_of`] finds.
    #[must_use]
    pub fn on_route(mut self, route: impl Into<Route>) -> Self {
        self.route = Some(route.into());
        self
    }

    /// Only calls that carry this header with exactly this value.
    ///
    /// **Whoever can send the header switches the fault on.** So take a value that strangers do not know, or take the header away where they
    /// come in. A fault without this does not look at headers.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    fn means(&self, headers: &HeaderMap, route: Option<&Route>) -> bool {
        let header = self.header.as_ref();
        header.is_none_or(|(name, value)| headers.get_all(name).iter().any(|v| v == value))
            && self.route.as_ref().is_none_or(|own| Some(own) == route)
            && (self.share == Ratio::ALL || self.share.covers(rand::random()))
    }
}

/// Lets calls go wrong on purpose, to see what callers make of it. All services and clones share one set of faults, which can be changed while they run,
/// and one set of counters.
///
/// **It does nothing until [`FaultLayer::set`] is called**, and then costs one atomic load and no more. Nothing in a request changes that, except
/// where a fault asks for [a header](Fault::with_header).
///
/// Around a server it belongs inside of trace, metrics and answers, around a client inside of the retries: then all of them see the fault as one of the service.
/// What was injected is seen in the header `x-gusset-fault` of the answer, in [`FaultLayer::stats`], and with [`FaultLayer::seen_by`] in metrics
/// and traces.
#[derive(Clone, Debug, Default)]
pub struct FaultLayer {
    shared: Arc<Shared>,
    route_of: Option<RouteOf>,
    sidecar: Option<Arc<Sidecar>>,
}

#[derive(Debug, Default)]
struct Shared {
    on: AtomicBool,
    /// Asked only while there are any.
    faults: Mutex<Arc<[Fault]>>,
    delays: AtomicU64,
    aborts: AtomicU64,
    breaks: AtomicU64,
}

impl FaultLayer {
    /// A layer without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Injects these faults from now on, and none of those before. An empty list ends it.
    pub fn set(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults: Arc<[Fault]> = faults.into_iter().collect();
        let on = !faults.is_empty();
        if on {
            tracing::warn!(faults = faults.len(), "faults are injected from now on");
        }
        let mut current = self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
        *current = faults;
        self.shared.on.store(on, Release);
    }

    /// The present faults.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.shared.faults().to_vec()
    }

    /// How to find the route of a request that has no [`Route`] in its extensions.
    #[must_use]
    pub const fn route_of(mut self, route_of: RouteOf) -> Self {
        self.route_of = Some(route_of);
        self
    }

    /// Shows what is injected in the metrics of `sidecar`, as `gusset_faults_injected_total`, and as a span `fault` of its own in the trace of the call.
    #[must_use]
    pub fn seen_by(mut self, sidecar: &Sidecar) -> Self {
        let counted = self.clone();
        sidecar.metrics().on_render(move |samples| counted.report(samples));
        self.sidecar = Some(Arc::new(sidecar.clone()));
        self
    }

    /// Counts since the layer was made.
    #[must_use]
    pub fn stats(&self) -> FaultStats {
        let Shared { delays, aborts, breaks, .. } = &*self.shared;
        let [delays, aborts, breaks] = [delays, aborts, breaks].map(|count| count.load(Relaxed));
        FaultStats { delays, aborts, breaks }
    }

    /// Adds the figures to `samples`.
    #[expect(clippy::cast_precision_loss, reason = "counts in Prometheus are floats")]
    pub fn report(&self, samples: &mut Samples) {
        let FaultStats { delays, aborts, breaks } = self.stats();
        for (kind, count) in [("delay", delays), ("abort", aborts), ("break_off", breaks)] {
            let name = "gusset_faults_injected_total";
            samples.counter(name, "Faults made on purpose.", &[("kind", kind)], count as f64);
        }
    }

    /// What happens to a call.
    fn choose(&self, headers: &HeaderMap, extensions: &Extensions) -> Chosen {
        let mut chosen = Chosen { delay: Duration::ZERO, end: None };
        if !self.shared.on.load(Relaxed) {
            return chosen;
        }
        let found = || self.route_of.and_then(|route_of| route_of(extensions));
        let route = extensions.get::<Route>().cloned().or_else(found);
        for fault in &*self.shared.faults() {
            if chosen.end.is_some() || !fault.means(headers, route.as_ref()) {
                continue;
            }
            match fault.what {
                What::Delay(span) => chosen.delay = chosen.delay.saturating_add(span),
                What::Abort(status) => chosen.end = Some(End::Abort(status)),
                What::BreakOff => chosen.end = Some(End::BreakOff),
            }
        }
        chosen
    }

    /// Counts what was chosen, and takes the time for it.
    fn inject(&self, chosen: Chosen) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let Chosen { delay, end } = chosen;
        if !delay.is_zero() {
            self.shared.delays.fetch_add(1, Relaxed);
        }
        match end {
            Some(End::Abort(_)) => drop(self.shared.aborts.fetch_add(1, Relaxed)),
            Some(End::BreakOff) => drop(self.shared.breaks.fetch_add(1, Relaxed)),
            None => {}
        }
        tracing::debug!(?delay, ?end, "injects a fault");
        let work = async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if end.is_some() { Err(Injected { source: None }) } else { Ok(()) }
        };
        let Some(sidecar) = &self.sidecar else { return Box::pin(async move { drop(work.await) }) };
        let kind = if end.is_some() { "abort" } else { "delay" };
        let seen = sidecar.intercept("fault", work).tag("fault", kind);
        Box::pin(async move { drop(seen.await) })
    }
}

impl Shared {
    fn faults(&self) -> Arc<[Fault]> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone, Copy, Debug)]
struct Chosen {
    delay: Duration,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Abort(StatusCode),
    BreakOff,
}

impl<S> Layer<S> for FaultLayer {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Faulty { inner, layer: self.clone() }
    }
}

/// How many calls had a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultStats {
    /// Calls that were delayed.
    pub delays: u64,
    /// Calls that were answered with a status.
    pub aborts: u64,
    /// Calls that were broken off.
    pub breaks: u64,
}

/// A fault that was made on purpose. Its source is an `io::Error` of the kind `ConnectionReset`.
#[derive(Debug)]
pub struct Injected {
    source: Option<io::Error>,
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fault made on purpose")
    }
}

impl Error for Injected {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as &(dyn Error + 'static))
    }
}

/// Service of [`FaultLayer`].
///
/// # Readiness
///
/// That of the inner service. A call that is delayed does not hold it meanwhile: a clone is polled ready after the delay.
///
/// # Cancellation
///
/// Dropping the future ends the delay, or drops the inner one.
#[derive(Clone, Debug)]
pub struct Faulty<S> {
    inner: S,
    layer: FaultLayer,
}

impl<S, B, RB> Service<Request<B>> for Faulty<S>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<RB>>;
    type Error = BoxError;
    type Future = FaultFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let chosen = self.layer.choose(request.headers(), request.extensions());
        let state = match chosen {
            Chosen { delay: Duration::ZERO, end: None } => {
                State::Called { future: self.inner.call(request), delayed: false }
            }
            Chosen { end: Some(end), .. } => {
                let grpc = is_grpc(request.headers());
                State::Ends { after: self.layer.inject(chosen), end, grpc }
            }
            Chosen { end: None, .. } => {
                let (after, service) = (Some(self.layer.inject(chosen)), self.inner.clone());
                State::Delayed { after, service, request: Some(request) }
            }
        };
        FaultFuture { state }
    }
}

pin_project! {
    /// Future of [`Faulty`].
    pub struct FaultFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, S::Future, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, B> {
        Called { #[pin] future: F, delayed: bool },
        Delayed {
            // None when it is over.
            after: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
            service: S,
            request: Option<Request<B>>,
        },
        Ends { after: Pin<Box<dyn Future<Output = ()> + Send>>, end: End, grpc: bool },
        Over,
    }
}

impl<S, B, RB> Future for FaultFuture<S, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<AnswerBody<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let result = loop {
            match state.as_mut().project() {
                StateProj::Called { future, delayed } => {
                    let result = ready!(future.poll(cx)).map_err(Into::into);
                    break result.map(|mut response| {
                        if *delayed {
                            let told = HeaderValue::from_static("delay");
                            response.headers_mut().insert(FAULT_HEADER, told);
                        }
                        response.map(Either::Left)
                    });
                }
                StateProj::Delayed { after, service, request } => {
                    if let Some(wait) = after {
                        ready!(wait.as_mut().poll(cx));
                        *after = None;
                    }
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        break Err(error.into());
                    }
                    let Some(request) = request.take() else { return Poll::Pending };
                    let future = service.call(request);
                    state.set(State::Called { future, delayed: true });
                }
                StateProj::Ends { after, end, grpc } => {
                    ready!(after.as_mut().poll(cx));
                    break match *end {
                        End::Abort(status) => Ok(answer(status, *grpc).map(Either::Right)),
                        End::BreakOff => {
                            let source = Some(io::ErrorKind::ConnectionReset.into());
                            Err(Injected { source }.into())
                        }
                    };
                }
                // Polled again after it was ready, which only a broken caller does.
                StateProj::Over => return Poll::Pending,
            }
        };
        state.set(State::Over);
        Poll::Ready(result)
    }
}

fn answer(status: StatusCode, grpc: bool) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    let headers = answer.headers_mut();
    headers.insert(FAULT_HEADER, HeaderValue::from_static("abort"));
    if grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc_code(status)));
        headers.insert("grpc-message", HeaderValue::from_static("fault made on purpose"));
    } else {
        *answer.status_mut() = status;
    }
    answer
}

/// What gRPC makes of an HTTP status (`doc/http-grpc-status-mapping.md`).
const fn grpc_code(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

impl<S, B> fmt::Debug for FaultFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultFuture").finish_non_exhaustive()
    }
}
