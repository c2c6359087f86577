//! The retry layer: layer, service; then the future and what it is made of.

mod backoff;
mod body;
mod budget;
mod call;
mod classify;
mod future;
mod head;
mod peek;
mod policy;
mod stats;
mod unsent;
pub(crate) mod wait;

use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::{BoxError, Tried};
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

pub use backoff::Backoff;
pub(crate) use body::Replay;
pub use body::ReplayBody;
pub use budget::{Budget, BudgetStats};
use call::Call;
pub(crate) use call::{GRPC_PREVIOUS_ATTEMPTS, stamp};
pub use classify::{Classify, Idempotent, Transient, Verdict};
pub use future::RetryFuture;
pub(crate) use head::Head;
pub use peek::PeekedBody;
pub(crate) use policy::Pays;
pub use policy::RetryPolicy;
use stats::Counters;
pub use stats::RetryStats;
pub(crate) use stats::is_failure;
#[cfg(feature = "otlp")]
pub(crate) use wait::retry_after;

/// Makes failed calls again. All services and clones share one budget and one set of counters.
///
/// A call is made again if its result may pass the next time ([`Classify`]), if that does no harm (the request
/// never left, or it is [`Idempotent`]), if the body can be sent again as a whole ([`ReplayBody`]), if the wait ends before the
/// deadline, and if the budget pays for it. Otherwise the result of the last attempt is returned as it is.
///
/// Every attempt after the first carries its `gusset_call::Attempt` and the call's one `gusset_call::Tried` in the extensions of the request, and
/// its number in the header `x-gusset-attempt`, for gRPC also in `grpc-previous-rpc-attempts`. During the first a balancer asks for the list with
/// [`Tried::current`](gusset_call::Tried::current), so that calls which succeed at once do not pay for it. A layer in between that hands requests to
/// another task, such as tower's `Buffer`, hides that one choice.
///
/// # gRPC
///
/// A gRPC server tells in trailers how a call ended; where it answers without a message they may be the headers, or follow them. So the first frame
/// of the body is awaited, no longer than a second, the attempt's timeout and the deadline, if the headers have no status, if
/// the call may be made again, and if all of the request was sent; what was read is passed on. The headers of a stream then come with its first
/// message, or after that second. That a call may be made again has to be said by [`Idempotent`], since every call is a POST.
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
        let shared = Shared { policy, budget, counters: Arc::default() };
        Self { shared: Arc::new(shared), classify: Transient }
    }
}

impl<C> RetryLayer<C> {
    /// Lets `classify` judge the results.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> RetryLayer<D> {
        RetryLayer { shared: self.shared, classify }
    }

    /// Counts together with `other`, whose policy may be another one: for the figures of an upstream that is called in several ways. What this one had counted before stays
    /// with the clones that were made of it.
    #[must_use]
    pub fn counted_with<D>(mut self, other: &RetryLayer<D>) -> Self {
        let Shared { policy, budget, .. } = &*self.shared;
        let (policy, budget) = (policy.clone(), budget.clone());
        let counters = other.shared.counters.clone();
        self.shared = Arc::new(Shared { policy, budget, counters });
        self
    }

    /// What pays for the retries; none if nothing has to.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.shared.budget.as_ref()
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
    counters: Arc<Counters>,
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
    RB: Body + Unpin,
    RB::Error: Into<BoxError>,
    C: Classify<RB> + Clone,
{
    type Response = Response<PeekedBody<RB>>;
    type Error = BoxError;
    type Future = RetryFuture<S, B, C, RB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The future needs a service for its retries. It takes the one that is ready, and leaves a clone, which is not.
        let clone = self.inner.clone();
        let mut service = mem::replace(&mut self.inner, clone);
        let classify = self.classify.clone();
        let mut call = Call::new(&mut request, self.shared.clone());
        if call.is_too_late() {
            return RetryFuture::too_late(service, classify, call);
        }
        // By steps and in one place, since to hand the request on would be to copy it each time.
        let offer = Tried::offer();
        let future = service.call(request.map(|body| call.first(body)));
        call.note(offer.asked());
        RetryFuture::attempt(future, service, classify, call)
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
