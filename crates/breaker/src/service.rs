use std::task::{Context, Poll, ready};

use gusset_call::{BoxError, Open};
use tower_service::Service;

use crate::{Circuit, Classify, ErrorsFail, Outcome, ResponseFuture};

/// A service behind a [`Circuit`].
///
/// # Readiness
///
/// That of the inner service. While the circuit is certain to refuse, it is ready without asking the inner one, and
/// the call returns [`Open`]; readiness itself never fails for a refusal. An error of the inner `poll_ready` counts as a failure.
///
/// A refusal in `call` leaves the inner service ready and reserved for the next call: use this clone again or drop it, and put
/// limits of concurrency outside.
///
/// # Cancellation
///
/// Dropping the future gives its place back; see the crate's documentation for when that counts as a failure.
#[derive(Debug)]
pub struct Breaker<S, C = ErrorsFail> {
    inner: S,
    circuit: Circuit,
    classify: C,
    /// Readiness was answered without the inner service, which therefore must not be called.
    refusal: Option<Open>,
}

impl<S, C> Breaker<S, C> {
    pub(crate) const fn new(inner: S, circuit: Circuit, classify: C) -> Self {
        Self { inner, circuit, classify, refusal: None }
    }

    /// The circuit that guards the service.
    pub const fn circuit(&self) -> &Circuit {
        &self.circuit
    }
}

/// The clone shares the circuit and starts unready.
impl<S: Clone, C: Clone> Clone for Breaker<S, C> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.circuit.clone(), self.classify.clone())
    }
}

impl<S, C, Req> Service<Req> for Breaker<S, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.refusal = self.circuit.certain_refusal();
        if self.refusal.is_some() {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(ready!(self.inner.poll_ready(cx)).map_err(|error| {
            if let Ok(permit) = self.circuit.acquire() {
                permit.settle(Outcome::Failure);
            }
            error.into()
        }))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        if let Some(open) = self.refusal.take() {
            self.circuit.count_refusal();
            return ResponseFuture::refused(open);
        }
        match self.circuit.acquire() {
            Ok(permit) => {
                ResponseFuture::called(self.inner.call(request), permit, self.classify.clone())
            }
            Err(open) => ResponseFuture::refused(open),
        }
    }
}
