//! Deadlines of whole answers.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
};

use gusset_call::{BoxError, Context, Deadline, DeadlineExceeded};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use super::timeout::is_grpc;

/// Ends answers whose body is still on its way when the deadline of the call passes. Clones share nothing.
///
/// Put it inside of a [`DeadlineLayer`](crate::DeadlineLayer), which only bounds the wait for the headers; the deadline is that of the request's extensions or of the
/// context, the sooner of both. Without one, nothing happens. A body that is too late ends with
/// `gusset_call::DeadlineExceeded` as its error; that of a gRPC answer with trailers that say `DEADLINE_EXCEEDED`, so that servers of streams
/// tell their clients why. The body of the service is dropped at that moment. It is polled within the context of the call.
///
/// It is for calls that mean their deadline as that of the whole answer, as gRPC's do; a download may well take longer than its first byte.
///
/// ```
/// # use std::time::Duration;
/// use gusset_sidecar::{BodyDeadlineLayer, DeadlineLayer};
/// use tower::ServiceBuilder;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # let app = tower::service_fn(|_: Request<Full<bytes::Bytes>>| async { Ok::<_, std::io::Error>(Response::new(Full::<bytes::Bytes>::default())) });
///
/// let server = ServiceBuilder::new()
///     .layer(DeadlineLayer::server(Duration::from_secs(30)))
///     .layer(BodyDeadlineLayer::new())
///     .service(app);
/// # fn is_service<S: tower::Service<Request<Full<bytes::Bytes>>>>(_: S) {}
/// # is_service(server);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BodyDeadlineLayer {
    _private: (),
}

impl BodyDeadlineLayer {
    /// The layer; there is nothing to set.
    #[must_use]
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

impl<S> Layer<S> for BodyDeadlineLayer {
    type Service = WithBodyDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithBodyDeadline { inner }
    }
}

/// Service of [`BodyDeadlineLayer`].
///
/// # Readiness
///
/// That of the inner service.
///
/// # Cancellation
///
/// Dropping the future or the body drops that of the inner service.
#[derive(Clone, Debug)]
pub struct WithBodyDeadline<S> {
    inner: S,
}

impl<S, B, RB> Service<Request<B>> for WithBodyDeadline<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body,
{
    type Response = Response<DeadlineBody<RB>>;
    type Error = S::Error;
    type Future = BodyDeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let current = Context::current();
        let own = request.extensions().get::<Deadline>().copied();
        let scope = own.map_or(current, |own| current.with_deadline(own));
        BodyDeadlineFuture { inner: self.inner.call(request), scope }
    }
}

pin_project! {
    /// Future of [`WithBodyDeadline`].
    #[derive(Debug)]
    pub struct BodyDeadlineFuture<F> {
        #[pin]
        inner: F,
        scope: Context,
    }
}

impl<F, RB, E> Future for BodyDeadlineFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    RB: Body,
{
    type Output = Result<Response<DeadlineBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let (scope, is_grpc) = (*this.scope, is_grpc(response.headers()));
        let bound = |inner| DeadlineBody { inner: Some(inner), timer: None, scope, is_grpc };
        Poll::Ready(Ok(response.map(bound)))
    }
}

pin_project! {
    /// Response body of [`BodyDeadlineLayer`]: the inner one, as long as there is time.
    pub struct DeadlineBody<B> {
        // None once it has ended or was too late.
        #[pin]
        inner: Option<B>,
        // Armed when the body is first pending; on the heap, so that the body is `Unpin` if the inner one is.
        timer: Option<Pin<Box<Sleep>>>,
        scope: Context,
        is_grpc: bool,
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let deadline = this.scope.deadline();
        // Also before a body that is always ready, which would never see a timer.
        if !deadline.is_some_and(Deadline::has_passed) {
            if let Poll::Ready(frame) = this.scope.sync_scope(|| inner.poll_frame(cx)) {
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
            let Some(deadline) = deadline else { return Poll::Pending };
            let arm = || Box::pin(sleep_until(deadline.instant()));
            ready!(this.timer.get_or_insert_with(arm).as_mut().poll(cx));
        }
        // Here the body of the service is dropped, and with it all that it waits for.
        this.scope.sync_scope(|| this.inner.set(None));
        *this.timer = None;
        let end = if *this.is_grpc {
            Ok(Frame::trailers(exceeded()))
        } else {
            Err(DeadlineExceeded.into())
        };
        Poll::Ready(Some(end))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// How gRPC says it.
fn exceeded() -> HeaderMap {
    const STATUS: HeaderName = HeaderName::from_static("grpc-status");
    const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from_static("4"));
    trailers.insert(MESSAGE, HeaderValue::from_static("deadline exceeded"));
    trailers
}

impl<B> fmt::Debug for DeadlineBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineBody").field("scope", &self.scope).finish_non_exhaustive()
    }
}
