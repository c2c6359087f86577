use std::{
    borrow::Cow,
    fmt,
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

use gusset_call::Context;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{
    ActiveCall, ActiveSpan, Route, Sidecar, SpanKind,
    ambient::Ambient,
    names::MethodName,
    trace::{
        log_span,
        propagate::span_below,
        span::{MAX_TAGS, Open},
    },
    watched::{End, Watch},
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
        watches: Option<(ActiveCall, ActiveSpan)>,
    }
}

impl<F> Intercept<F> {
    pub(super) fn new(sidecar: &Sidecar, operation: Route, future: F) -> Self {
        let cx = Context::current();
        let ambient = Ambient::current();
        let (trace, parent) = span_below(cx.trace(), sidecar.sampling());
        let kind = SpanKind::Internal;
        let metrics = sidecar.metrics().clone();
        let call = ActiveCall::new(metrics, kind, MethodName::NONE, Some(operation.clone()));
        let open = Open {
            recorder: sidecar.recorder().clone(),
            trace,
            parent,
            kind,
            started: Instant::now(),
            route: Some(operation),
            method: MethodName::NONE,
            peer: None,
            attempt: ambient.attempt,
            status: None,
            grpc_status: None,
            error: None,
            tags: Vec::new(),
        };
        let log = log_span(&open);
        Self { future, watches: Some((call, ActiveSpan::new(open, cx, ambient, log))) }
    }

    /// Notes something about the operation in its record: at most 16 tags, of 256 bytes each; what is longer is cut.
    #[must_use]
    pub fn tag(mut self, key: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        if let Some((_, span)) = &mut self.watches {
            span.update(|open| {
                if open.tags.len() < MAX_TAGS {
                    open.tags.push((key.into(), crate::trace::span::cut(value.into())));
                }
            });
        }
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
        // Taken out while the operation runs, so that a panic is known as one.
        let Some((call, span)) = this.watches.take() else { return Poll::Pending };
        match span.enter(|| this.future.poll(cx)) {
            Poll::Pending => {
                *this.watches = Some((call, span));
                Poll::Pending
            }
            Poll::Ready(Ok(value)) => {
                call.end(End::Complete);
                span.end(End::Complete);
                Poll::Ready(Ok(value))
            }
            Poll::Ready(Err(error)) => {
                call.end(End::Error);
                span.fail(&error);
                Poll::Ready(Err(error))
            }
        }
    }
}
