use tower_layer::Layer;

use super::{AllNormal, ConcurrencyLimit, ConcurrencyLimiter, RefusalsAreOverload};

/// Limits how many calls of a service run at once. All services and clones share the limiter they were given.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimitLayer<P = AllNormal, C = RefusalsAreOverload> {
    limiter: ConcurrencyLimiter,
    prioritize: P,
    classify: C,
}

impl ConcurrencyLimitLayer {
    /// Guards with `limiter`. All requests are of normal priority; refusals and timeouts from inside count as overload.
    #[must_use]
    pub const fn new(limiter: ConcurrencyLimiter) -> Self {
        Self { limiter, prioritize: AllNormal, classify: RefusalsAreOverload }
    }
}

impl<P, C> ConcurrencyLimitLayer<P, C> {
    /// Finds the priority of a request: a closure `|&Request| -> Priority`.
    ///
    /// ```
    /// use gusset_ratelimit::{Concurrency, ConcurrencyLimitLayer, ConcurrencyLimiter, Priority};
    ///
    /// struct Job { is_batch: bool }
    /// let limiter = ConcurrencyLimiter::new("jobs", Concurrency::gradient());
    /// let layer = ConcurrencyLimitLayer::new(limiter)
    ///     .priority(|job: &Job| if job.is_batch { Priority::Low } else { Priority::Normal });
    /// ```
    #[must_use]
    pub fn priority<Q>(self, prioritize: Q) -> ConcurrencyLimitLayer<Q, C> {
        ConcurrencyLimitLayer { limiter: self.limiter, prioritize, classify: self.classify }
    }

    /// Lets `classify` judge the results: a closure `|&Result<Response, Error>| -> Outcome`, or one of the ready-made
    /// ones. HTTP services need it (`OverloadStatus`), for a 503 is no error of the service.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> ConcurrencyLimitLayer<P, D> {
        ConcurrencyLimitLayer { limiter: self.limiter, prioritize: self.prioritize, classify }
    }
}

impl<S, P: Clone, C: Clone> Layer<S> for ConcurrencyLimitLayer<P, C> {
    type Service = ConcurrencyLimit<S, P, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let (prioritize, classify) = (self.prioritize.clone(), self.classify.clone());
        ConcurrencyLimit::new(inner, self.limiter.clone(), prioritize, classify)
    }
}
