//! Whose fault it is that a deadline passed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use gusset_call::{BoxError, DeadlineExceeded};
use http::Request;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::body::{ClientFault, Upload};

/// Tells a deadline that the client let pass from one that the instance did: without that, whoever sends slowly opens
/// the circuit for all.
#[derive(Clone, Debug)]
pub(crate) struct Blame<S> {
    inner: S,
}

impl<S> Blame<S> {
    pub(crate) const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<B>> for Blame<S>
where
    S: Service<Request<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BlameFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let upload = request.extensions().get().cloned();
        BlameFuture { inner: self.inner.call(request), upload }
    }
}

pin_project! {
    /// Future of [`Blame`].
    pub(crate) struct BlameFuture<F> {
        #[pin]
        inner: F,
        upload: Option<Upload>,
    }
}

impl<F, R> Future for BlameFuture<F>
where
    F: Future<Output = Result<R, BoxError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Before the poll, which drops the body if the deadline has passed.
        let awaited = this.upload.as_ref().is_some_and(Upload::is_awaited);
        Poll::Ready(match ready!(this.inner.poll(cx)) {
            Err(error) if awaited && error.is::<DeadlineExceeded>() => {
                Err(ClientFault::Slow.into())
            }
            result => result,
        })
    }
}
