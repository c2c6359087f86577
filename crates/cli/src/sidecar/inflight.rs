//! How many requests the app has at once.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use gusset_call::BoxError;
use gusset_ratelimit::{ConcurrencyLimiter, Overloaded, Permit, Priority};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

/// Refuses what is above the limit, at once. A request counts from its head to the end of its answer's body.
///
/// # Readiness
///
/// That of the inner service.
///
/// # Cancellation
///
/// Dropping the future, or the body of the answer, gives the place back.
#[derive(Clone)]
pub(super) struct InFlight<S> {
    inner: S,
    /// `None` without a limit.
    limiter: Option<ConcurrencyLimiter>,
}

impl<S> InFlight<S> {
    pub(super) const fn new(inner: S, limiter: Option<ConcurrencyLimiter>) -> Self {
        Self { inner, limiter }
    }
}

impl<S, B, RB> Service<Request<B>> for InFlight<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<Held<RB>>;
    type Error = BoxError;
    type Future = InFlightFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let permit = match &self.limiter {
            None => None,
            Some(limiter) => match limiter.try_acquire(Priority::Normal) {
                Ok(permit) => Some(permit),
                Err(refusal) => return InFlightFuture::Refused { refusal: Some(refusal) },
            },
        };
        InFlightFuture::Called { future: self.inner.call(request), permit }
    }
}

pin_project! {
    #[project = InFlightProj]
    pub(super) enum InFlightFuture<F> {
        Called { #[pin] future: F, permit: Option<Permit> },
        Refused { refusal: Option<Overloaded> },
    }
}

impl<F, RB, E> Future for InFlightFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<Held<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            InFlightProj::Called { future, permit } => {
                let response = ready!(future.poll(cx)).map_err(Into::into)?;
                let permit = permit.take();
                Poll::Ready(Ok(response.map(|inner| Held { inner, permit })))
            }
            InFlightProj::Refused { refusal } => match refusal.take() {
                Some(refusal) => Poll::Ready(Err(refusal.into())),
                // Polled again after it was ready, which only a broken caller does.
                None => Poll::Pending,
            },
        }
    }
}

pin_project! {
    /// An answer's body that holds a place until it ends.
    pub(super) struct Held<B> {
        #[pin]
        inner: B,
        permit: Option<Permit>,
    }
}

impl<B: Body> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if frame.is_none() {
            *this.permit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
