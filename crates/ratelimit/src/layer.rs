use tower_layer::Layer;

use crate::{Keyed, PerKey, Quota, RateLimit, RateLimiter, WithoutKey};

/// Limits how often services are called. All services and clones share the state of the limiter they were given.
#[derive(Clone, Debug)]
pub struct RateLimitLayer<L = RateLimiter> {
    pub(crate) limit: L,
    quota: Quota,
}

impl RateLimitLayer {
    /// One bucket for all requests.
    #[must_use]
    pub fn new(limiter: RateLimiter) -> Self {
        Self { quota: limiter.quota(), limit: limiter }
    }
}

impl<K, X> RateLimitLayer<PerKey<K, X>> {
    /// One bucket for each key that `extract` finds in the requests: a closure `|&Request| -> Option<Key>`, or one of the
    /// ready-made ones. Requests without a key share one bucket; see [`without_key`](Self::without_key).
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use gusset_ratelimit::{Keyed, Quota, RateLimitLayer};
    ///
    /// struct Order { customer: Option<u64> }
    /// let customers = Keyed::<u64>::new(Quota::per_second(10), NonZeroUsize::new(100_000).unwrap());
    /// let layer = RateLimitLayer::keyed(customers, |order: &Order| order.customer);
    /// ```
    #[must_use]
    pub fn keyed(keyed: Keyed<K>, extract: X) -> Self {
        Self { quota: keyed.quota(), limit: PerKey::new(keyed, extract) }
    }

    /// What becomes of requests in which there is no key. Default [`WithoutKey::ShareOne`]: whoever leaves out
    /// the key gains nothing by it.
    #[must_use]
    pub fn without_key(mut self, policy: WithoutKey) -> Self {
        self.limit = self.limit.without_key(policy);
        self
    }
}

impl<L> RateLimitLayer<L> {
    /// What the layer allows, all requests together or each key.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        self.quota
    }
}

impl<S, L: Clone> Layer<S> for RateLimitLayer<L> {
    type Service = RateLimit<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit::new(inner, self.limit.clone())
    }
}
