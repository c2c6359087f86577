use std::task::{Context, Poll};

use gusset_call::BoxError;
use tower_service::Service;

use crate::{Limit, RateLimiter, ResponseFuture};

/// A service that is called no more often than a limit allows. Clones share the limit.
///
/// # Readiness
///
/// That of the inner service, and nothing else: whether a call is allowed depends on its request, so `call` decides,
/// at once. A refusal is an error of the call, [`Limited`](gusset_call::Limited) or
/// [`Inadmissible`](gusset_call::Inadmissible); the inner service then was not called, and stays as ready as it was. Nothing ever
/// waits for tokens while it holds the readiness of the inner service.
///
/// # Cancellation
///
/// Dropping the future drops the inner one. The token stays spent, for the inner service was called.
#[derive(Clone, Debug)]
pub struct RateLimit<S, L = RateLimiter> {
    inner: S,
    limit: L,
}

impl<S, L> RateLimit<S, L> {
    /// `inner`, called as often as `limit` allows.
    pub const fn new(inner: S, limit: L) -> Self {
        Self { inner, limit }
    }
}

impl<S, L, Req> Service<Req> for RateLimit<S, L>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    L: Limit<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let cost = self.limit.cost(&request);
        match self.limit.admit(&request, cost) {
            Ok(_) => ResponseFuture::called(self.inner.call(request)),
            Err(refused) => ResponseFuture::refused(refused),
        }
    }
}
