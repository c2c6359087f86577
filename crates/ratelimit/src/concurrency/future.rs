use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use gusset_call::{BoxError, Overloaded};
use pin_project_lite::pin_project;

use super::{Classify, Permit, RefusalsAreOverload};

pin_project! {
    /// Future of [`ConcurrencyLimit`](crate::ConcurrencyLimit).
    ///
    /// The place is given back when the answer is there, not when this future is dropped. What an answer still streams
    /// afterwards takes no place.
    #[derive(Debug)]
    pub struct ConcurrencyFuture<F, C = RefusalsAreOverload> {
        #[pin]
        state: State<F, C>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F, C> {
        // The permit stands behind the future: while any of a call is left, its place is taken.
        Called { #[pin] future: F, permit: Option<Permit>, classify: C },
        Refused { overloaded: Option<Overloaded> },
    }
}

impl<F, C> ConcurrencyFuture<F, C> {
    pub(super) const fn called(future: F, permit: Permit, classify: C) -> Self {
        Self { state: State::Called { future, permit: Some(permit), classify } }
    }

    pub(super) const fn refused(overloaded: Overloaded) -> Self {
        Self { state: State::Refused { overloaded: Some(overloaded) } }
    }
}

impl<F, C, Res, E> Future for ConcurrencyFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    C: Classify<Res, E>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { future, permit, classify } => {
                // Taken out while user code runs: should that panic, the unwinding gives the place back, even where someone
                // catches the panic and keeps this future.
                let held = permit.take();
                let Poll::Ready(result) = future.poll(cx) else {
                    *permit = held;
                    return Poll::Pending;
                };
                let outcome = classify.classify(&result);
                if let Some(held) = held {
                    held.settle(outcome);
                }
                Poll::Ready(result.map_err(Into::into))
            }
            StateProj::Refused { overloaded } => match overloaded.take() {
                Some(overloaded) => Poll::Ready(Err(overloaded.into())),
                // Polled again after it was ready, which only a broken caller does.
                None => Poll::Pending,
            },
        }
    }
}
