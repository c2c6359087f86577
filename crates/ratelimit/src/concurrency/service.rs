use std::task::{Context, Poll};

use gusset_call::BoxError;
use tower_service::Service;

use super::{
    AllNormal, Classify, ConcurrencyFuture, ConcurrencyLimiter, Prioritize, RefusalsAreOverload,
};

/// A service of which no more calls run at once than a [`ConcurrencyLimiter`] has places. Clones share the limiter.
///
/// # Readiness
///
/// That of the inner service; it never waits for a place. While all places are taken it is ready without asking the inner
/// one, and the call returns [`Overloaded`](gusset_call::Overloaded). Readiness itself takes no place, and never fails for a
/// refusal. The place is taken in `call`, where the priority of the request is known.
///
/// A refusal in `call` leaves the inner service ready and reserved for the next call.
///
/// # Cancellation
///
/// Dropping the future drops the inner one and then gives the place back. It counts as overload if the call had run for
/// [`Concurrency::timeout`](crate::Concurrency::timeout), else it says nothing. A panic gives the place back, too.
#[derive(Debug)]
pub struct ConcurrencyLimit<S, P = AllNormal, C = RefusalsAreOverload> {
    inner: S,
    limiter: ConcurrencyLimiter,
    prioritize: P,
    classify: C,
    /// Readiness was answered without the inner service, which therefore must not be called.
    refusing: bool,
}

impl<S, P, C> ConcurrencyLimit<S, P, C> {
    pub(super) const fn new(
        inner: S,
        limiter: ConcurrencyLimiter,
        prioritize: P,
        classify: C,
    ) -> Self {
        Self { inner, limiter, prioritize, classify, refusing: false }
    }

    /// The limiter that guards the service.
    pub const fn limiter(&self) -> &ConcurrencyLimiter {
        &self.limiter
    }
}

/// The clone shares the limiter and starts unready.
impl<S: Clone, P: Clone, C: Clone> Clone for ConcurrencyLimit<S, P, C> {
    fn clone(&self) -> Self {
        let (prioritize, classify) = (self.prioritize.clone(), self.classify.clone());
        Self::new(self.inner.clone(), self.limiter.clone(), prioritize, classify)
    }
}

impl<S, P, C, Req> Service<Req> for ConcurrencyLimit<S, P, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    P: Prioritize<Req>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ConcurrencyFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.refusing = self.limiter.is_full();
        if self.refusing {
            return Poll::Ready(Ok(()));
        }
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let priority = self.prioritize.priority(&request);
        if std::mem::take(&mut self.refusing) {
            return ConcurrencyFuture::refused(self.limiter.refuse(priority));
        }
        match self.limiter.try_acquire(priority) {
            Ok(permit) => {
                let classify = self.classify.clone();
                ConcurrencyFuture::called(self.inner.call(request), permit, classify)
            }
            Err(overloaded) => ConcurrencyFuture::refused(overloaded),
        }
    }
}
