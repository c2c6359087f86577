use std::task::{Context, Poll, ready};

use gusset_call::{BoxError, Open};
use tower_service::Service;

use crate::{Circuit, Classify, ErrorsFail, Permit, ResponseFuture, machine::Ticket};

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
    refusal: Option<Box<Open>>,
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

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.refusal = self.circuit.certain_refusal();
        if self.refusal.is_some() {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(ready!(self.inner.poll_ready(cx)).map_err(|error| {
            let error = error.into();
            self.circuit.fail(&error);
            error
        }))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        match self.admit() {
            Ok(ticket) => self.pass(ticket, request),
            Err(open) => ResponseFuture::refused(open),
        }
    }
}

impl<S, C> Breaker<S, C> {
    /// Whether a call may pass that was made after readiness was asked for.
    #[inline]
    pub(crate) fn admit(&mut self) -> Result<Option<Ticket>, Box<Open>> {
        if let Some(open) = self.refusal.take() {
            self.circuit.count_refusal();
            return Err(open);
        }
        self.circuit.admit()
    }

    #[inline]
    pub(crate) fn pass<Req>(
        &mut self,
        ticket: Option<Ticket>,
        request: Req,
    ) -> ResponseFuture<S::Future, C>
    where
        S: Service<Req>,
        C: Clone,
    {
        // Before the call, so that a panic in it counts.
        let permit = Permit::called(self.circuit.clone(), ticket);
        ResponseFuture::called(self.inner.call(request), permit, self.classify.clone())
    }
}
