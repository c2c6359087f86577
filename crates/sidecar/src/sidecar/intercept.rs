use std::{
    borrow::Cow,
    fmt,
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
};

use pin_project_lite::pin_project;

use crate::{
    ActiveSpan, Route, Sidecar,
    watched::{End, Watch, guarded},
};

pin_project! {
    /// Future of [`Sidecar::intercept`].
    ///
    /// # Cancellation
    ///
    /// Dropping it drops the operation, which then is over as [`End::Cancelled`](crate::End::Cancelled).
    #[derive(Debug)]
    pub struct Intercept<F> {
        #[pin]
        future: F,
        span: ActiveSpan,
    }
}

impl<F> Intercept<F> {
    pub(super) fn new(sidecar: &Sidecar, operation: Route, future: F) -> Self {
        Self { future, span: sidecar.work().work(operation) }
    }

    /// Notes something about the operation in its record: at most 16 tags, of 256 bytes each; what is longer is cut.
    #[must_use]
    pub fn tag(mut self, key: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.span.tag(key.into(), value.into());
        self
    }
}

impl<F, T, E> Future for Intercept<F>
where
    F: Future<Output = Result<T, E>>,
    E: fmt::Display,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(guarded(this.span, || this.future.poll(cx)));
        match &result {
            Ok(_) => this.span.end(End::Complete),
            Err(error) => this.span.fail(error),
        }
        Poll::Ready(result)
    }
}
