use std::{
    error::Error,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use gusset_call::{BoxError, Inadmissible, Limited, Open, Overloaded};
use pin_project_lite::pin_project;

use crate::{Classify, Outcome, Permit};

pin_project! {
    /// Future of [`Breaker`](crate::Breaker).
    #[derive(Debug)]
    pub struct ResponseFuture<F, C> {
        #[pin]
        state: State<F, C>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F, C> {
        // The permit stands before the future, so that what the future's own drop does cannot keep the place.
        Called { permit: Option<Permit>, #[pin] future: F, classify: C },
        // Boxed, as it leaves: so the future of the usual call stays small.
        Refused { error: Option<BoxError> },
    }
}

impl<F, C> ResponseFuture<F, C> {
    #[inline]
    pub(crate) const fn called(future: F, permit: Permit, classify: C) -> Self {
        Self { state: State::Called { future, permit: Some(permit), classify } }
    }

    #[cold]
    pub(crate) fn refused(open: Box<Open>) -> Self {
        Self { state: State::Refused { error: Some(open) } }
    }
}

impl<F, C, Res, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    C: Classify<Res, E>,
{
    type Output = Result<Res, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { future, permit, classify } => {
                let mut held = AtWork(permit);
                held.resume();
                let Poll::Ready(result) = future.poll(cx) else {
                    held.rest();
                    return Poll::Pending;
                };
                let outcome = classify.classify(&result);
                let result = result.map_err(Into::into);
                match &result {
                    Err(error) => held.settle(unless_refused(outcome, &**error), Some(error)),
                    Ok(_) if outcome != Outcome::Failure => held.settle(outcome, None),
                    Ok(response) => {
                        let wrong = Wrong { classify, response, error: PhantomData };
                        held.settle(outcome, Some(&wrong));
                    }
                }
                Poll::Ready(result)
            }
            StateProj::Refused { error } => match error.take() {
                Some(error) => Poll::Ready(Err(error)),
                // Polled again after it was ready, which only a broken caller does.
                None => Poll::Pending,
            },
        }
    }
}

/// The permit while user code runs. Should that panic, unwinding drops the permit where it stands, and the permit
/// knows it, even where someone catches the panic before the future is dropped.
struct AtWork<'a>(&'a mut Option<Permit>);

impl AtWork<'_> {
    #[inline]
    fn resume(&mut self) {
        if let Some(permit) = self.0 {
            permit.resume();
        }
    }

    #[inline]
    fn rest(mut self) {
        if let Some(permit) = &mut self.0 {
            permit.rest();
        }
        // The permit stays where it is.
        std::mem::forget(self);
    }

    #[inline]
    fn settle(self, outcome: Outcome, error: Option<&dyn fmt::Display>) {
        if let Some(permit) = &mut *self.0 {
            permit.settle(outcome, error);
        }
    }
}

impl Drop for AtWork<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.0 = None;
    }
}

/// A refusal from inside says that the service was not asked.
#[cold]
fn unless_refused(outcome: Outcome, error: &(dyn Error + 'static)) -> Outcome {
    let mut next = Some(error);
    while let Some(error) = next {
        let was_not_asked = error.is::<Limited>()
            || error.is::<Inadmissible>()
            || error.is::<Overloaded>()
            || error.is::<Open>();
        if was_not_asked {
            return Outcome::Ignored;
        }
        next = error.source();
    }
    outcome
}

/// What is wrong with a response, written only if somebody reads it.
struct Wrong<'a, C, Res, E> {
    classify: &'a C,
    response: &'a Res,
    error: PhantomData<E>,
}

impl<C: Classify<Res, E>, Res, E> fmt::Display for Wrong<'_, C, Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.classify.describe(self.response, f)
    }
}
