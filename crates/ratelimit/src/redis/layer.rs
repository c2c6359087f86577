use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use gusset_call::BoxError;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Extract, Level, WithoutKey, limit::NO_KEY};

use super::{
    decided::{Decided, RedisDenied},
    key::WireKey,
    limiter::RedisLimiter,
};

/// Limits how often services are called, in all processes together. All services and clones share the limiter they
/// were given.
#[derive(Clone, Debug)]
pub struct RedisLimitLayer<X = ForAll> {
    limiter: RedisLimiter,
    extract: X,
    without_key: WithoutKey,
}

/// No request has a key: one bucket for all.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForAll;

impl<Req> Extract<Req> for ForAll {
    type Key = &'static str;

    fn extract(&self, _: &Req) -> Option<&'static str> {
        None
    }
}

impl RedisLimitLayer {
    /// One bucket for all requests.
    #[must_use]
    pub const fn new(limiter: RedisLimiter) -> Self {
        Self { limiter, extract: ForAll, without_key: WithoutKey::ShareOne }
    }
}

impl<X> RedisLimitLayer<X> {
    /// One bucket for each key that `extract` finds in the requests: a closure `|&Request| -> Option<Key>`, or one of the
    /// ready-made ones. Requests without a key share one bucket; see [`without_key`](Self::without_key).
    ///
    /// Keys stand in Redis as they are: what is secret, such as an API key, should be hashed by `extract`. A `Route` is no key
    /// here, for it is a hash that is the same only in programs built alike; give its text.
    #[must_use]
    pub const fn keyed(limiter: RedisLimiter, extract: X) -> Self {
        Self { limiter, extract, without_key: WithoutKey::ShareOne }
    }

    /// What becomes of requests in which there is no key. Default [`WithoutKey::ShareOne`]: whoever leaves out
    /// the key gains nothing by it.
    #[must_use]
    pub const fn without_key(mut self, policy: WithoutKey) -> Self {
        self.without_key = policy;
        self
    }
}

#[cfg(feature = "http")]
impl<X> RedisLimitLayer<X> {
    pub(super) fn quota(&self) -> crate::Quota {
        self.limiter.quota()
    }
}

impl<S, X: Clone> Layer<S> for RedisLimitLayer<X> {
    type Service = RedisLimit<S, X>;

    fn layer(&self, inner: S) -> RedisLimit<S, X> {
        RedisLimit { inner, layer: self.clone() }
    }
}

/// Service of [`RedisLimitLayer`].
///
/// # Readiness
///
/// That of the inner service, and nothing else. The instance that was polled ready goes with the request; a clone of it takes its place. What it has
/// reserved is so held while Redis is asked, for [`RedisPolicy::call_within`](crate::RedisPolicy::call_within) at most, and given back
/// if the call is refused. Put what is scarce, such as a concurrency limit, inside of what does not reserve (a buffer), or
/// outside of this layer.
///
/// # Cancellation
///
/// Dropping the future drops the inner one. Whether a token was taken is open if Redis had not answered yet; it stays
/// taken if it had.
#[derive(Clone, Debug)]
pub struct RedisLimit<S, X = ForAll> {
    inner: S,
    layer: RedisLimitLayer<X>,
}

impl<S, X, Req> Service<Req> for RedisLimit<S, X>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    X: Extract<Req>,
    X::Key: WireKey,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RedisLimitFuture<S, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> RedisLimitFuture<S, Req> {
        let key = self.layer.extract.extract(&request);
        if key.is_none() {
            match self.layer.without_key {
                WithoutKey::ShareOne => {}
                WithoutKey::Pass => {
                    let future = self.inner.call(request);
                    return RedisLimitFuture {
                        state: State::Called { future },
                        admitted: Some(None),
                    };
                }
                WithoutKey::Refuse => {
                    return RedisLimitFuture {
                        state: State::Refused { error: Some(NO_KEY.into()) },
                        admitted: None,
                    };
                }
            }
        }
        let asking: Asking = Box::pin(self.layer.limiter.check_owned(key));
        let fresh = self.inner.clone();
        let ready = mem::replace(&mut self.inner, fresh);
        let state = State::Asking { asking, call: Some((ready, request)) };
        RedisLimitFuture { state, admitted: None }
    }
}

/// The network is asked, so a box more does not matter.
type Asking = Pin<Box<dyn Future<Output = Result<Decided, RedisDenied>> + Send>>;

pin_project! {
    /// Future of [`RedisLimit`].
    #[project = RedisLimitFutureProj]
    pub struct RedisLimitFuture<S, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req>,
        admitted: Option<Option<Level>>,
    }
}

#[cfg(feature = "http")]
impl<S: Service<Req>, Req> RedisLimitFuture<S, Req> {
    /// Whether the service was called.
    pub(super) const fn is_admitted(&self) -> bool {
        self.admitted.is_some()
    }

    /// How full the bucket was then, if it has one.
    pub(super) fn level(&self) -> Option<Level> {
        self.admitted.flatten()
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req>
    where
        S: Service<Req>,
    {
        Asking { asking: Asking, call: Option<(S, Req)> },
        Called { #[pin] future: S::Future },
        Refused { error: Option<BoxError> },
    }
}

impl<S, Req> Future for RedisLimitFuture<S, Req>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let RedisLimitFutureProj { mut state, admitted } = self.as_mut().project();
            match state.as_mut().project() {
                StateProj::Asking { asking, call } => {
                    // Taken before anything else, so that a future polled once too often is not polled inside.
                    if call.is_none() {
                        return Poll::Pending;
                    }
                    let decided = ready!(asking.as_mut().poll(cx));
                    let Some((mut inner, request)) = call.take() else { return Poll::Pending };
                    match decided {
                        Err(denied) => return Poll::Ready(Err(denied.into_refusal())),
                        Ok(decided) => {
                            *admitted = Some(decided.level());
                            state.set(State::Called { future: inner.call(request) });
                        }
                    }
                }
                StateProj::Refused { error } => {
                    return match error.take() {
                        Some(error) => Poll::Ready(Err(error)),
                        None => Poll::Pending,
                    };
                }
                StateProj::Called { future } => return future.poll(cx).map_err(Into::into),
            }
        }
    }
}

impl<S: Service<Req>, Req> fmt::Debug for RedisLimitFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimitFuture").finish_non_exhaustive()
    }
}
