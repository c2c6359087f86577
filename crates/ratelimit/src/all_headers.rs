//! Several limits and what is left of each, told to HTTP clients.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use gusset_call::{BoxError, ServiceLimit};
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{AllOf, HeadersFuture, Refused, ResponseFuture, all_of::Exceeded, headers::Told};

impl<B> AllOf<Request<B>> {
    /// Also tells HTTP clients of each limit that has a quota, by the fields of [`RateLimitLayer::headers`](crate::RateLimitLayer::headers), in
    /// the order and by the names in which they were joined.
    ///
    /// | field | says |
    /// |---|---|
    /// | `RateLimit-Policy: "second";q=5;w=1, "day";q=1000;w=86400` | 5 tokens in each second, and 1,000 in each day |
    /// | `RateLimit: "second";r=4;t=1, "day";r=900;t=77760` | so many are left of each |
    ///
    /// On a refusal, only the limit that refuses has a time; it is that of `Retry-After`.
    #[must_use]
    pub fn headers(self) -> AllHeadersLayer<B> {
        let told = self.parts.iter().map(|part| {
            let changes = part.limit.changes();
            Some(Told::new(&part.name, part.limit.quota()?, changes))
        });
        AllHeadersLayer { told: Arc::new(told.collect()), limits: self }
    }
}

/// An [`AllOf`] that also tells HTTP clients. All services and clones share the limits.
pub struct AllHeadersLayer<B> {
    limits: AllOf<Request<B>>,
    /// Of each limit; none of one without a quota.
    told: Arc<Vec<Option<Told>>>,
}

impl<B> AllHeadersLayer<B> {
    /// Also by `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, as [`HeadersLayer::legacy`](crate::HeadersLayer::legacy). Those have no names, so
    /// they tell of the limit with the fewest tokens left.
    #[must_use]
    pub fn legacy(mut self) -> Self {
        for told in Arc::make_mut(&mut self.told).iter_mut().flatten() {
            told.legacy = true;
        }
        self
    }
}

impl<S, B> Layer<S> for AllHeadersLayer<B> {
    type Service = AllHeaders<S, B>;

    fn layer(&self, inner: S) -> Self::Service {
        AllHeaders { inner, layer: self.clone() }
    }
}

/// Service of [`AllHeadersLayer`].
///
/// # Readiness
///
/// As [`RateLimit`](crate::RateLimit).
///
/// # Cancellation
///
/// As [`RateLimit`](crate::RateLimit).
pub struct AllHeaders<S, B> {
    inner: S,
    layer: AllHeadersLayer<B>,
}

impl<B> AllHeadersLayer<B> {
    /// What is told, after all changes of the quotas.
    fn follow(&mut self) {
        let parts = &self.limits.parts;
        let behind = |(told, index): (&Option<Told>, usize)| {
            let changes = parts[index].limit.changes();
            told.as_ref().is_some_and(|told| told.is_behind(changes))
        };
        if !self.told.iter().zip(0..).any(behind) {
            return;
        }
        for (told, part) in Arc::make_mut(&mut self.told).iter_mut().zip(parts.iter()) {
            if let Some(told) = told {
                told.follow(part.limit.changes(), || part.limit.quota());
            }
        }
    }

    fn admit(&self, request: &Request<B>) -> Result<Vec<ServiceLimit>, Refused> {
        let mut limits = Vec::with_capacity(self.told.len());
        let charged = self.limits.charge(request, 1, |index, level| {
            limits.extend(self.told[index].as_ref().map(|told| told.admitted(&level)));
        });
        match charged {
            Ok(()) => Ok(limits),
            Err(exceeded) => Err(self.refused(request, exceeded)),
        }
    }

    fn refused(&self, request: &Request<B>, exceeded: Exceeded) -> Refused {
        let Refused::Limited(limited) = exceeded.refused else { return exceeded.refused };
        let limits = self.limits.parts.iter().zip(self.told.iter()).filter_map(|(part, told)| {
            let told = told.as_ref()?;
            if Arc::ptr_eq(&part.name, &exceeded.limit) {
                // Who is refused a single token has none.
                return Some(told.refused(&limited, 0));
            }
            Some(told.beside(&part.peek(request)?))
        });
        let limits: Vec<_> = limits.collect();
        limited.with_limits(limits).into()
    }
}

impl<S, B, RB> Service<Request<B>> for AllHeaders<S, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<RB>;
    type Error = BoxError;
    type Future = HeadersFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.layer.follow();
        match self.layer.admit(&request) {
            Ok(limits) => {
                let future = ResponseFuture::called(self.inner.call(request));
                HeadersFuture::telling(limits, future)
            }
            Err(refused) => HeadersFuture::refused(refused),
        }
    }
}

impl<B> Clone for AllHeadersLayer<B> {
    fn clone(&self) -> Self {
        Self { limits: self.limits.clone(), told: self.told.clone() }
    }
}

impl<S: Clone, B> Clone for AllHeaders<S, B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<B> fmt::Debug for AllHeadersLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AllHeadersLayer").field(&self.limits).finish()
    }
}

impl<S: fmt::Debug, B> fmt::Debug for AllHeaders<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllHeaders")
            .field("inner", &self.inner)
            .field("limits", &self.layer.limits)
            .finish()
    }
}
