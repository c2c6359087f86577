use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use gusset_call::BoxError;
use pin_project_lite::pin_project;

use crate::Refused;

pin_project! {
    /// Future of [`RateLimit`](crate::RateLimit).
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Called { #[pin] future: F },
        Refused { refused: Option<Refused> },
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) const fn called(future: F) -> Self {
        Self { state: State::Called { future } }
    }

    pub(crate) const fn refused(refused: Refused) -> Self {
        Self { state: State::Refused { refused: Some(refused) } }
    }
}

impl<F, Res, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { future } => future.poll(cx).map_err(Into::into),
            StateProj::Refused { refused } => match refused.take() {
                Some(refused) => Poll::Ready(Err(refused.into_error())),
                // Polled again after it was ready, which only a broken caller does.
                None => Poll::Pending,
            },
        }
    }
}
