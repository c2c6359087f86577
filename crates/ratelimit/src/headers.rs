//! The limit and what is left of it, told to HTTP clients.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use gusset_call::{BoxError, Limited, QuotaPolicy, ServiceLimit};
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Level, Limit, Quota, RateLimitLayer, RateLimiter, Refused, ResponseFuture};

impl<L> RateLimitLayer<L> {
    /// Also tells HTTP clients, by the fields of `draft-ietf-httpapi-ratelimit-headers`. `name` is the policy's name; characters
    /// that cannot stand in one are replaced by `_`.
    ///
    /// | field | says |
    /// |---|---|
    /// | `RateLimit-Policy: "default";q=100;w=60` | 100 tokens in each 60 s |
    /// | `RateLimit: "default";r=50;t=30` | 50 are left, for the next 30 s |
    /// | `Retry-After: 1` | refused; come back in 1 s |
    ///
    /// They are on each answer that was admitted, behind those that something further in has put there, and on each that was refused, if
    /// `gusset_call::AnswerLayer` outside makes an answer of the refusal; the refusal carries them there. An answer that passed
    /// without a bucket has none. A quota that is changed is told as it is from then on.
    ///
    /// `t` is the time in which so many tokens come back as are left: a client that spreads the `r` it has over `t` never has
    /// to stop, and a client that divides one by the other gets the rate of the quota and no higher one. With none left it is the time
    /// until there is one, and on a refusal that of `Retry-After`. All in whole seconds, rounded up.
    #[must_use]
    pub fn headers(self, name: &str) -> HeadersLayer<L> {
        HeadersLayer { told: Told::new(name, self.quota(), 0), limit: self.limit }
    }
}

impl Quota {
    /// The quota as clients are told of it, for those who write the fields by hand; see [`Level::told`].
    #[must_use]
    pub fn policy(&self, name: &str) -> QuotaPolicy {
        QuotaPolicy::new(name, self.tokens.into(), self.per)
    }
}

impl Level {
    /// The level of a bucket as clients are told of it, for those who write the fields by hand. `policy` and `quota` are those of
    /// the bucket.
    ///
    /// ```
    /// use gusset_call::ServiceLimit;
    /// use gusset_ratelimit::{Quota, RateLimiter};
    ///
    /// let (second, day) = (Quota::per_second(5), Quota::new(1_000, std::time::Duration::from_secs(86_400)));
    /// let levels = [("second", second), ("day", day)].map(|(name, quota)| {
    ///     let level = RateLimiter::new(quota).check().unwrap();
    ///     level.told(&quota.policy(name), quota)
    /// });
    /// let mut headers = http::HeaderMap::new();
    /// ServiceLimit::tell(&levels, &mut headers);
    /// assert_eq!(headers["ratelimit"], "\"second\";r=4;t=1, \"day\";r=999;t=86314");
    /// ```
    #[must_use]
    pub fn told(&self, policy: &QuotaPolicy, quota: Quota) -> ServiceLimit {
        ServiceLimit::new(policy.clone(), self.remaining().into()).within(self.window(quota))
    }

    /// In which as many tokens come back as are left, or the next one if none is.
    fn window(&self, quota: Quota) -> Duration {
        let span = |tokens: u32| {
            // At most 94 bits and 32.
            let nanos = u128::from(tokens) * quota.per.as_nanos();
            let nanos = nanos.div_ceil(u128::from(quota.tokens.max(1)));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        match self.remaining() {
            0 => self.full_in().saturating_sub(span(quota.burst.saturating_sub(1))),
            left => span(left),
        }
    }
}

/// What does not change from answer to answer.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    policy: Arc<Policy>,
    /// The same after a change of the quota, for those clones that have not seen it yet. Nobody looks there before.
    latest: Arc<Mutex<Arc<Policy>>>,
    pub(crate) legacy: bool,
}

/// After so many changes, this quota, and as clients are told of it.
type Policy = (u64, Quota, QuotaPolicy);

impl Told {
    pub(crate) fn new(name: &str, quota: Quota, changes: u64) -> Self {
        let policy = Arc::new((changes, quota, quota.policy(name)));
        Self { latest: Arc::new(Mutex::new(policy.clone())), policy, legacy: false }
    }

    pub(crate) fn is_behind(&self, changes: u64) -> bool {
        self.policy.0 != changes
    }

    pub(crate) fn follow(&mut self, changes: u64, quota: impl FnOnce() -> Option<Quota>) {
        if !self.is_behind(changes) {
            return;
        }
        let latest = self.latest().clone();
        self.policy = latest;
        if !self.is_behind(changes) {
            return;
        }
        if let Some(quota) = quota() {
            let policy = quota.policy(self.policy.2.name());
            self.policy = Arc::new((changes, quota, policy));
            self.latest().clone_from(&self.policy);
        }
    }

    fn latest(&self) -> MutexGuard<'_, Arc<Policy>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn admitted(&self, level: &Level) -> ServiceLimit {
        self.finished(level.told(&self.policy.2, self.policy.1))
    }

    /// This quota is why the call was refused, for so long.
    pub(crate) fn refused(&self, limited: &Limited, remaining: u32) -> ServiceLimit {
        let wait = limited.retry_after().unwrap_or_default();
        let limit = ServiceLimit::new(self.policy.2.clone(), remaining.into());
        self.finished(limit.within(wait).exceeded())
    }

    /// This quota would have let a call through that another refused. Without a time: who has to wait for one need not be told how long to make
    /// do with the others.
    pub(crate) fn beside(&self, level: &Level) -> ServiceLimit {
        self.finished(ServiceLimit::new(self.policy.2.clone(), level.remaining().into()))
    }

    fn finished(&self, limit: ServiceLimit) -> ServiceLimit {
        if self.legacy { limit.with_legacy() } else { limit }
    }
}

/// A [`RateLimitLayer`] that also tells HTTP clients. All services and clones share the state of the limiter.
#[derive(Clone, Debug)]
pub struct HeadersLayer<L = RateLimiter> {
    limit: L,
    told: Told,
}

impl<L> HeadersLayer<L> {
    /// Also by `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, for clients that are older than the draft:
    /// its `q`, `r` and `t`. `Reset` is a number of seconds from now, as with most who send it; with some it is a point in
    /// time, for which the clocks of both sides would have to be right.
    #[must_use]
    pub const fn legacy(mut self) -> Self {
        self.told.legacy = true;
        self
    }
}

impl<S, L: Clone> Layer<S> for HeadersLayer<L> {
    type Service = Headers<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        Headers { inner, limit: self.limit.clone(), told: self.told.clone() }
    }
}

/// Service of [`HeadersLayer`].
///
/// # Readiness
///
/// As [`RateLimit`](crate::RateLimit).
///
/// # Cancellation
///
/// As [`RateLimit`](crate::RateLimit).
#[derive(Clone, Debug)]
pub struct Headers<S, L = RateLimiter> {
    inner: S,
    limit: L,
    told: Told,
}

impl<S, L, B, RB> Service<Request<B>> for Headers<S, L>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    L: Limit<Request<B>>,
{
    type Response = Response<RB>;
    type Error = BoxError;
    type Future = HeadersFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = &self.limit;
        self.told.follow(limit.changes(), || limit.quota());
        let cost = self.limit.cost(&request);
        let refused = match self.limit.admit(&request, cost) {
            Ok(level) => {
                let limit = level.map(|level| self.told.admitted(&level));
                let future = ResponseFuture::called(self.inner.call(request));
                return HeadersFuture { limit, others: Vec::new(), future };
            }
            Err(Refused::Limited(limited)) => {
                // Who is refused a single token has none; only for more is it worth a look.
                let left = || self.limit.peek(&request).map_or(0, |level| level.remaining());
                let left = if cost == 1 { 0 } else { left().min(cost.saturating_sub(1)) };
                let limit = self.told.refused(&limited, left);
                limited.with_limits([limit]).into()
            }
            Err(other) => other,
        };
        HeadersFuture::refused(refused)
    }
}

pin_project! {
    /// Future of [`Headers`] and [`AllHeaders`](crate::AllHeaders).
    #[derive(Debug)]
    pub struct HeadersFuture<F> {
        limit: Option<ServiceLimit>,
        // Which takes memory only where there are several.
        others: Vec<ServiceLimit>,
        #[pin]
        future: ResponseFuture<F>,
    }
}

impl<F> HeadersFuture<F> {
    pub(crate) const fn refused(refused: Refused) -> Self {
        Self::telling(Vec::new(), ResponseFuture::refused(refused))
    }

    pub(crate) const fn telling(limits: Vec<ServiceLimit>, future: ResponseFuture<F>) -> Self {
        Self { limit: None, others: limits, future }
    }
}

impl<F, B, E> Future for HeadersFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<B>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.future.poll(cx));
        let limit = this.limit.take();
        let limits = limit.as_ref().map_or(&**this.others, std::slice::from_ref);
        match &mut result {
            Ok(response) if !limits.is_empty() => {
                ServiceLimit::tell(limits, response.headers_mut());
            }
            Ok(_) => {}
            Err(error) => {
                // Another limit, further in, has refused what these admitted.
                if let Some(limited) = error.downcast_mut::<Limited>() {
                    limits.iter().cloned().for_each(|limit| limited.add(limit));
                }
            }
        }
        Poll::Ready(result)
    }
}
