//! The shared limit and what is left of it, told to HTTP clients.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use gusset_call::{BoxError, Limited, ServiceLimit};
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    key::WireKey,
    layer::{ForAll, RedisLimit, RedisLimitFuture, RedisLimitLayer},
};
use crate::{Extract, headers::Told};

impl<X> RedisLimitLayer<X> {
    /// Also tells HTTP clients, by the fields of [`RateLimitLayer::headers`](crate::RateLimitLayer::headers).
    ///
    /// While this process decides alone, what is left is that of its share. An answer about which nobody decided has no fields.
    #[must_use]
    pub fn headers(self, name: &str) -> RedisHeadersLayer<X> {
        RedisHeadersLayer { told: Told::new(name, self.quota(), 0), layer: self }
    }
}

/// A [`RedisLimitLayer`] that also tells HTTP clients. All services and clones share the limiter.
#[derive(Clone, Debug)]
pub struct RedisHeadersLayer<X = ForAll> {
    layer: RedisLimitLayer<X>,
    told: Told,
}

impl<X> RedisHeadersLayer<X> {
    /// Also by `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, as [`HeadersLayer::legacy`](crate::HeadersLayer::legacy).
    #[must_use]
    pub const fn legacy(mut self) -> Self {
        self.told.legacy = true;
        self
    }
}

impl<S, X: Clone> Layer<S> for RedisHeadersLayer<X> {
    type Service = RedisHeaders<S, X>;

    fn layer(&self, inner: S) -> Self::Service {
        RedisHeaders { limit: self.layer.layer(inner), told: self.told.clone() }
    }
}

/// Service of [`RedisHeadersLayer`].
///
/// # Readiness
///
/// As [`RedisLimit`].
///
/// # Cancellation
///
/// As [`RedisLimit`].
#[derive(Clone, Debug)]
pub struct RedisHeaders<S, X = ForAll> {
    limit: RedisLimit<S, X>,
    told: Told,
}

impl<S, X, B, RB> Service<Request<B>> for RedisHeaders<S, X>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    X: Extract<Request<B>>,
    X::Key: WireKey,
{
    type Response = Response<RB>;
    type Error = BoxError;
    type Future = RedisHeadersFuture<S, Request<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.limit.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        RedisHeadersFuture { told: self.told.clone(), future: self.limit.call(request) }
    }
}

pin_project! {
    /// Future of [`RedisHeaders`].
    pub struct RedisHeadersFuture<S, Req>
    where
        S: Service<Req>,
    {
        told: Told,
        #[pin]
        future: RedisLimitFuture<S, Req>,
    }
}

impl<S, Req, B> Future for RedisHeadersFuture<S, Req>
where
    S: Service<Req, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<B>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = ready!(this.future.as_mut().poll(cx));
        let limit = this.future.level().map(|level| this.told.admitted(&level));
        Poll::Ready(match result {
            Ok(mut response) => {
                if let Some(limit) = limit {
                    ServiceLimit::tell(&[limit], response.headers_mut());
                }
                Ok(response)
            }
            // Another limit, further in, has refused what this one admitted.
            Err(mut error) if this.future.is_admitted() => {
                if let (Some(limited), Some(limit)) = (error.downcast_mut::<Limited>(), limit) {
                    limited.add(limit);
                }
                Err(error)
            }
            Err(error) => Err(match error.downcast::<Limited>() {
                // Who is refused a single token has none.
                Ok(limited) => {
                    let limit = this.told.refused(&limited, 0);
                    limited.with_limits([limit]).into()
                }
                Err(error) => error,
            }),
        })
    }
}

impl<S: Service<Req>, Req> fmt::Debug for RedisHeadersFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisHeadersFuture").field("told", &self.told).finish_non_exhaustive()
    }
}
