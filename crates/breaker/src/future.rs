use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use gusset_call::{BoxError, Open};
use pin_project_lite::pin_project;

use crate::{Classify, Permit};

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
        Refused { open: Option<Open> },
    }
}

impl<F, C> ResponseFuture<F, C> {
    pub(crate) const fn called(future: F, permit: Permit, classify: C) -> Self {
        Self { state: State::Called { future, permit: Some(permit), classify } }
    }

    pub(crate) const fn refused(open: Open) -> Self {
        Self { state: State::Refused { open: Some(open) } }
    }
}

impl<F, C, Res, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    C: Classify<Res, E>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { future, permit, classify } => {
                // Taken out while user code runs: should that panic, the permit is dropped by the unwinding
                // and knows it, even where someone catches the panic before this future is dropped.
                let mut held = permit.take();
                if let Some(held) = &mut held {
                    held.resume();
                }
                let Poll::Ready(result) = future.poll(cx) else {
                    if let Some(held) = &mut held {
                        held.rest();
                    }
                    *permit = held;
                    return Poll::Pending;
                };
                let outcome = classify.classify(&result);
                if let Some(held) = held {
                    held.settle(outcome);
                }
                Poll::Ready(result.map_err(Into::into))
            }
            StateProj::Refused { open } => match open.take() {
                Some(open) => Poll::Ready(Err(open.into())),
                // Polled again after it was ready, which only a broken caller does.
                None => Poll::Pending,
            },
        }
    }
}
