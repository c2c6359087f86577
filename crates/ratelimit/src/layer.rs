use std::fmt::Display;

use tower_layer::Layer;

use crate::{Greedy, Keyed, PerKey, Quota, RateLimit, RateLimiter, Stats, Weighed, WithoutKey};

/// Limits how often services are called. All services and clones share the state of the limiter they were given.
///
/// Whoever comes too often is refused at once and told when to come back. A layer that waited instead would, on a server, fill it with
/// requests that wait, whose clients give up before their turn and try again. A client that would rather wait than be
/// refused does so by hand, where it holds nothing yet, and with a bound:
///
/// ```
/// # use std::time::Duration;
/// # use gusset_ratelimit::{Limited, Quota, RateLimiter};
/// # async fn fetch(_: &str) {}
/// # async fn download(pages: &[&str]) -> Result<(), Limited> {
/// let limiter = RateLimiter::new(Quota::per_second(5).burst(1));
/// for page in pages {
///     limiter.until_ready(Duration::from_secs(10)).await?; // first come, first served
///     fetch(page).await;
/// }
/// # Ok(())
/// # }
/// ```
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

    /// Notes the keys of requests that are refused, to show who is greedy. What is noted is shown to whoever may look: not for keys that are secrets. Default: nowhere.
    #[must_use]
    pub fn note_refused(mut self, greedy: &Greedy) -> Self
    where
        K: Display,
    {
        self.limit = self.limit.note_refused(greedy);
        self
    }

    /// How many requests had no key, and were allowed or refused; of all services and clones of this layer together. Watch it, by a clone that
    /// is kept: if it grows with all requests, no key is ever found, and all callers share one bucket.
    #[must_use]
    pub fn stats_without_key(&self) -> Stats {
        self.limit.stats_without_key()
    }
}

impl<L> RateLimitLayer<L> {
    /// A request costs as many tokens as `cost` says, where it would cost 1; all of them or it is refused. A request that costs
    /// nothing passes.
    ///
    /// One that costs more than the burst is refused for good, with [`Inadmissible`](gusset_call::Inadmissible): keep the burst above
    /// the costs that are to be possible, or cap them in the closure.
    ///
    /// ```
    /// use gusset_ratelimit::{Quota, RateLimitLayer, RateLimiter};
    ///
    /// struct Search { pages: u32 }
    /// let layer = RateLimitLayer::new(RateLimiter::new(Quota::per_second(50).burst(100)))
    ///     .cost(|search: &Search| search.pages.min(100));
    /// ```
    #[must_use]
    pub fn cost<Req, C: Fn(&Req) -> u32>(self, cost: C) -> RateLimitLayer<Weighed<L, C>> {
        RateLimitLayer { limit: Weighed::new(self.limit, cost), quota: self.quota }
    }

    /// What the layer allows, all requests together or each key, as it was when the layer was made.
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
