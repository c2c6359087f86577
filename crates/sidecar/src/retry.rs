//! The retry layer: layer, service; then the future and what it is made of.

mod backoff;
mod body;
mod budget;
mod classify;
mod future;
mod policy;
mod wait;

use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::BoxError;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

pub use backoff::Backoff;
pub use body::ReplayBody;
pub use budget::{Budget, BudgetStats};
pub use classify::{Classify, Idempotent, Transient, Verdict};
pub use future::RetryFuture;
use policy::Pays;
pub use policy::RetryPolicy;

/// Makes failed calls again. All services and clones share one budget and one set of counters.
///
/// A call is made again if its result may pass the next time ([`Classify`]), if that does no harm (the request
/// never left, or it is [`Idempotent`]), if the body can be sent again as a whole ([`ReplayBody`]), if the wait ends before the
/// deadline, and if the budget pays for it. Otherwise the result of the last attempt is returned as it is.
///
/// Every attempt carries its `gusset_call::Attempt` and the call's one `gusset_call::Tried` in the extensions of the request; those after the
/// first also the header `x-gusset-attempt`.
///
/// # Retries inside of retries
///
/// Four tries on each of three levels would be 64 calls at the bottom. A call that is itself part of a retry is therefore made again only
/// if it was never sent. It is part of one if its request carries an [`Attempt`](gusset_call::Attempt) above 1 in its extensions or in
/// `x-gusset-attempt`, or if it is made by a handler inside a [`TraceLayer::server`](crate::TraceLayer::server) whose own request does.
#[derive(Clone, Debug)]
pub struct RetryLayer<C = Transient> {
    shared: Arc<Shared>,
    classify: C,
}

impl RetryLayer {
    /// Tries again what is [`Transient`], as `policy` allows.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        let budget = match &policy.budget {
            Pays::Own => Some(Budget::default()),
            Pays::Shared(budget) => Some(budget.clone()),
            Pays::Nothing => None,
        };
        let shared = Shared { policy, budget, counters: Counters::default() };
        Self { shared: Arc::new(shared), classify: Transient }
    }
}

impl<C> RetryLayer<C> {
    /// Lets `classify` judge the results.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> RetryLayer<D> {
        RetryLayer { shared: self.shared, classify }
    }

    /// Counts since the layer was made.
    #[must_use]
    pub fn stats(&self) -> RetryStats {
        let counters = &self.shared.counters;
        RetryStats {
            retries: counters.retries.load(Relaxed),
            recovered: counters.recovered.load(Relaxed),
            exhausted: counters.exhausted.load(Relaxed),
            over_budget: counters.over_budget.load(Relaxed),
            too_late: counters.too_late.load(Relaxed),
            body_gone: counters.body_gone.load(Relaxed),
        }
    }
}

impl<S, C: Clone> Layer<S> for RetryLayer<C> {
    type Service = Retry<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner, shared: self.shared.clone(), classify: self.classify.clone() }
    }
}

#[derive(Debug)]
struct Shared {
    policy: RetryPolicy,
    budget: Option<Budget>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    retries: AtomicU64,
    recovered: AtomicU64,
    exhausted: AtomicU64,
    over_budget: AtomicU64,
    too_late: AtomicU64,
    body_gone: AtomicU64,
}

/// What became of calls that failed at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryStats {
    /// Attempts after the first.
    pub retries: u64,
    /// Calls with a good answer from such an attempt.
    pub recovered: u64,
    /// Calls that failed as often as the policy allows.
    pub exhausted: u64,
    /// Calls given up because the budget was spent.
    pub over_budget: u64,
    /// Calls given up because the wait would have outlasted the deadline or [`RetryPolicy::max_wait`].
    pub too_late: u64,
    /// Calls given up because their body could not be sent again.
    pub body_gone: u64,
}

/// Service of [`RetryLayer`].
///
/// # Readiness
///
/// That of the inner service. The instance that was polled ready makes the first attempt; it is polled ready again before each further one,
/// inside the call.
///
/// # Cancellation
///
/// Dropping the future drops the attempt or the wait that is under way, and no other follows.
#[derive(Clone, Debug)]
pub struct Retry<S, C = Transient> {
    inner: S,
    shared: Arc<Shared>,
    classify: C,
}

impl<S, C, B, RB> Service<Request<B>> for Retry<S, C>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    B: Body + Unpin,
    C: Classify<RB> + Clone,
{
    type Response = Response<RB>;
    type Error = BoxError;
    type Future = RetryFuture<S, B, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The future needs a service for its retries. It takes the one that is ready, and leaves a clone, which is not.
        let clone = self.inner.clone();
        let service = mem::replace(&mut self.inner, clone);
        RetryFuture::new(service, request, self.shared.clone(), self.classify.clone())
    }
}

/// An attempt took longer than [`RetryPolicy::attempt_timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptTimedOut(Duration);

impl fmt::Display for AttemptTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within the {:?} of an attempt", self.0)
    }
}

impl std::error::Error for AttemptTimedOut {}
