//! The hedge layer: layer, policy, service; then the future and what decides.

mod future;
mod latency;
mod policy;
mod pressure;

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::{BoxError, Clock};
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

pub use future::HedgeFuture;
use latency::Latencies;
pub use policy::HedgePolicy;
use pressure::Pressure;

use crate::{Budget, Classify, ReplayBody, Samples, Transient, retry::Pays};

/// Makes a slow call a second time and takes the answer that comes first. All services and clones share one memory of
/// how long calls take, one budget and one set of counters.
///
/// Where one instance of many stalls for a moment, the slowest calls become about as quick as the rest, for a few percent more
/// calls (Dean and Barroso, "The Tail at Scale", 2013). Put it where retries stand, with a balancer inside, so that the second call goes to
/// another instance; around it a [`RetryLayer`](crate::RetryLayer) may share its [budget](HedgePolicy::budget).
///
/// A call is hedged when it has taken longer than the wanted share of recent calls until its headers, if all of this holds:
///
/// - it is [`Idempotent`](crate::Idempotent), and not itself part of a retry;
/// - all of its body was sent, and is kept;
/// - enough calls were timed, by default 100 in the last 15 to 30 s;
/// - the service is not in trouble: of the calls of the last one to two seconds no more than the [bearable share](HedgePolicy::bearable) were late or failed.
///   A service that is slow as a whole is not made quicker by more calls;
/// - the budget pays for it.
///
/// The first good answer wins ([`Classify`] calls it final, and it is no error), its body is streamed, and the other call is dropped. A bad answer is
/// returned only if no other call is under way. The second call carries its `gusset_call::Attempt` as a retry does.
///
/// # Differences from
///
/// **tower's hedge**: what is not idempotent is never made twice; a budget and the state of the service bound what is added; the histogram has a
/// fixed size, 2.2 KiB; a slow call that lost, or that its caller gave up, counts in it with the time it had taken, so that hedges do not bring the next ones
/// forward; the request need not be `Clone`.
///
/// ```
/// use gusset_sidecar::{HedgeLayer, HedgePolicy, RetryLayer, RetryPolicy};
/// use tower::ServiceBuilder;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use bytes::Bytes;
/// # type Body = Full<Bytes>;
/// # let client = tower::service_fn(|_: Request<gusset_sidecar::ReplayBody<gusset_sidecar::ReplayBody<Body>>>| async {
/// #     Ok::<_, std::io::Error>(Response::new(Body::default()))
/// # });
///
/// let retry = RetryLayer::new(RetryPolicy::default());
/// let hedge = match retry.budget() {
///     Some(budget) => HedgePolicy::default().budget(budget.clone()),
///     None => HedgePolicy::default(),
/// };
/// let stock = ServiceBuilder::new().layer(retry).layer(HedgeLayer::new(hedge)).service(client);
/// # fn is_service<S: tower::Service<Request<Body>>>(_: S) {}
/// # is_service(stock);
/// ```
#[derive(Clone, Debug)]
pub struct HedgeLayer<C = Transient> {
    shared: Arc<Shared>,
    classify: C,
}

impl HedgeLayer {
    /// Hedges as `policy` allows; an answer is bad if it is [`Transient`].
    #[must_use]
    pub fn new(policy: HedgePolicy) -> Self {
        let shared = Shared::new(policy, Arc::default());
        Self { shared: Arc::new(shared), classify: Transient }
    }
}

impl<C> HedgeLayer<C> {
    /// Lets `classify` judge the answers.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> HedgeLayer<D> {
        HedgeLayer { shared: self.shared, classify }
    }

    /// Counts together with `other`, as [`RetryLayer::counted_with`](crate::RetryLayer::counted_with) does. How long calls take each of them finds out for itself; it has to come before
    /// the first call, for it begins that anew.
    #[must_use]
    pub fn counted_with<D>(mut self, other: &HedgeLayer<D>) -> Self {
        self.shared =
            Arc::new(Shared::new(self.shared.policy.clone(), other.shared.counters.clone()));
        self
    }

    /// Counts since the layer was made.
    #[must_use]
    pub fn stats(&self) -> HedgeStats {
        let Counters { hedges, won, over_budget, overloaded, body_gone } = &*self.shared.counters;
        HedgeStats {
            delay: self.shared.delay(self.shared.clock.nanos()),
            hedges: hedges.load(Relaxed),
            won: won.load(Relaxed),
            over_budget: over_budget.load(Relaxed),
            overloaded: overloaded.load(Relaxed),
            body_gone: body_gone.load(Relaxed),
        }
    }

    /// Adds the figures of these hedges to `samples`, for the service `upstream`; to be called from a source of
    /// [`Metrics::on_render`](crate::Metrics::on_render).
    #[expect(clippy::cast_precision_loss, reason = "counts in Prometheus are floats")]
    pub fn report(&self, upstream: &str, samples: &mut Samples) {
        let stats = self.stats();
        let of = [("upstream", upstream)];
        let help = "Calls made a second time because the first was slow.";
        samples.counter("gusset_hedges_total", help, &of, stats.hedges as f64);
        let help = "Such calls that were answered first.";
        samples.counter("gusset_hedges_won_total", help, &of, stats.won as f64);
        let help = "Slow calls that were not made a second time.";
        for (reason, count) in [
            ("over_budget", stats.over_budget),
            ("overloaded", stats.overloaded),
            ("body_gone", stats.body_gone),
        ] {
            let labels = [("upstream", upstream), ("reason", reason)];
            samples.counter("gusset_hedges_withheld_total", help, &labels, count as f64);
        }
    }
}

impl<S, C: Clone> Layer<S> for HedgeLayer<C> {
    type Service = Hedge<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Hedge { inner, shared: self.shared.clone(), classify: self.classify.clone() }
    }
}

#[derive(Debug)]
struct Shared {
    policy: HedgePolicy,
    budget: Option<Budget>,
    /// Whether calls pay in here, and not in the layer that the budget is shared with.
    deposits: bool,
    clock: Clock,
    latencies: Latencies,
    pressure: Pressure,
    counters: Arc<Counters>,
}

impl Shared {
    fn new(policy: HedgePolicy, counters: Arc<Counters>) -> Self {
        let (budget, deposits) = match &policy.budget {
            Pays::Own => (Some(Budget::default()), true),
            Pays::Shared(budget) => (Some(budget.clone()), false),
            Pays::Nothing => (None, false),
        };
        Self {
            clock: Clock::new(),
            latencies: Latencies::new(policy.quantile, policy.min_samples),
            pressure: Pressure::new(policy.bearable),
            counters,
            policy,
            budget,
            deposits,
        }
    }

    fn delay(&self, now: u64) -> Option<Duration> {
        self.latencies.quantile(now).map(|span| span.max(self.policy.floor))
    }
}

#[derive(Debug, Default)]
struct Counters {
    hedges: AtomicU64,
    won: AtomicU64,
    over_budget: AtomicU64,
    overloaded: AtomicU64,
    body_gone: AtomicU64,
}

/// What became of slow calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgeStats {
    /// After how long a call is hedged at present; none while too few were timed.
    pub delay: Option<Duration>,
    /// Calls made a second time, or once more.
    pub hedges: u64,
    /// Those that were answered first.
    pub won: u64,
    /// Slow calls that were not hedged because the budget was spent.
    pub over_budget: u64,
    /// Slow calls that were not hedged because the service was in trouble.
    pub overloaded: u64,
    /// Slow calls that were not hedged because their body could not be sent again.
    pub body_gone: u64,
}

/// Service of [`HedgeLayer`].
///
/// # Readiness
///
/// That of the inner service. The instance that was polled ready makes the first call; it is polled ready again before a hedge, inside the
/// call. While it is not ready there is no hedge.
///
/// # Cancellation
///
/// Dropping the future drops all calls that are under way.
#[derive(Clone, Debug)]
pub struct Hedge<S, C = Transient> {
    inner: S,
    shared: Arc<Shared>,
    classify: C,
}

impl<S, C, B, RB> Service<Request<B>> for Hedge<S, C>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    B: Body + Unpin,
    C: Classify<RB> + Clone,
{
    type Response = Response<RB>;
    type Error = BoxError;
    type Future = HedgeFuture<S, B, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The future needs a service for its hedges. It takes the one that is ready, and leaves a clone, which is not.
        let clone = self.inner.clone();
        let service = mem::replace(&mut self.inner, clone);
        HedgeFuture::new(service, request, self.shared.clone(), self.classify.clone())
    }
}
