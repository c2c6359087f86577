//! The limit and what is left of it, told to HTTP clients.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use gusset_call::BoxError;
use http::{HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Level, Limit, Quota, RateLimitLayer, RateLimiter, ResponseFuture};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

impl<L> RateLimitLayer<L> {
    /// Also tells HTTP clients, by the fields of `draft-ietf-httpapi-ratelimit-headers`. `name` is the policy's name; characters
    /// that cannot stand in one are replaced by `_`.
    ///
    /// ```text
    /// RateLimit-Policy: "default";q=100;w=60     100 tokens in 60 s
    /// RateLimit: "default";r=50;t=30             50 left, all back in 30 s
    /// ```
    ///
    /// The fields are appended to each answer that was admitted. A refusal is an error as ever; `gusset_call::AnswerLayer` gives
    /// it a `Retry-After`.
    #[must_use]
    pub fn headers(self, name: &str) -> HeadersLayer<L> {
        let fields = Fields::new(name, self.quota());
        HeadersLayer { limit: self.limit, fields }
    }
}

/// A [`RateLimitLayer`] that also tells HTTP clients. All services and clones share the state of the limiter.
#[derive(Clone, Debug)]
pub struct HeadersLayer<L = RateLimiter> {
    limit: L,
    fields: Fields,
}

impl<S, L: Clone> Layer<S> for HeadersLayer<L> {
    type Service = Headers<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        Headers { inner, limit: self.limit.clone(), fields: self.fields.clone() }
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
    fields: Fields,
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
        match self.limit.admit(&request) {
            Ok(level) => HeadersFuture {
                told: level.map(|level| (self.fields.clone(), level)),
                future: ResponseFuture::called(self.inner.call(request)),
            },
            Err(limited) => HeadersFuture { told: None, future: ResponseFuture::refused(limited) },
        }
    }
}

pin_project! {
    /// Future of [`Headers`].
    #[derive(Debug)]
    pub struct HeadersFuture<F> {
        told: Option<(Fields, Level)>,
        #[pin]
        future: ResponseFuture<F>,
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
        if let (Ok(response), Some((fields, level))) = (&mut result, this.told.take()) {
            if let Some(limit) = fields.limit(&level) {
                response.headers_mut().append(LIMIT, limit);
                response.headers_mut().append(POLICY, fields.policy);
            }
        }
        Poll::Ready(result)
    }
}

/// What does not change from answer to answer. Clones share it.
#[derive(Clone, Debug)]
struct Fields {
    /// As it stands in quotes.
    name: std::sync::Arc<str>,
    policy: HeaderValue,
}

impl Fields {
    fn new(name: &str, quota: Quota) -> Self {
        let allowed = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != '"' && c != '\\';
        let name: String = name.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
        // The window is whole seconds; a quota of a broken number of seconds is told for as many as make it whole or more.
        let window = whole_seconds(quota.per).max(1);
        let tokens = match quota.per.as_nanos() {
            0 => u128::from(quota.tokens),
            per => u128::from(quota.tokens) * u128::from(window) * 1_000_000_000 / per,
        };
        let policy = format!("\"{name}\";q={tokens};w={window}");
        let policy = HeaderValue::try_from(policy);
        Self {
            name: name.into(),
            policy: policy.unwrap_or_else(|_| HeaderValue::from_static("\"default\"")),
        }
    }

    fn limit(&self, level: &Level) -> Option<HeaderValue> {
        let (name, left, full) = (&self.name, level.remaining(), whole_seconds(level.full_in()));
        HeaderValue::try_from(format!("\"{name}\";r={left};t={full}")).ok()
    }
}

/// Rounded up.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_told_in_whole_seconds() {
        let policy = |quota| Fields::new("default", quota).policy;
        assert_eq!(policy(Quota::per_minute(100).burst(5)), "\"default\";q=100;w=60");
        assert_eq!(policy(Quota::new(3, Duration::from_millis(100))), "\"default\";q=30;w=1");
        assert_eq!(policy(Quota::new(3, Duration::from_millis(1500))), "\"default\";q=4;w=2");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_quotes() {
        let fields = Fields::new("a\"b\\c\r\nü", Quota::per_second(1));
        assert_eq!(fields.policy, "\"a_b_c___\";q=1;w=1");
    }
}
