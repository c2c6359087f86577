use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

#[cfg(feature = "http2")]
use super::h2_body::H2Body;
use super::{TransportError, h1_body::H1Body};

/// Body of an instance's answer, streamed. Dropped before its end, it resets its connection, or its stream.
///
/// What is not sent of the request yet, goes out while this is polled.
pub(crate) struct AnswerBody<B>(
    /// An answer moves through many hands.
    Box<Answering<B>>,
);

struct Answering<B> {
    way: Way<B>,
    idle: Idle,
}

enum Way<B> {
    Http1(H1Body<B>),
    #[cfg(feature = "http2")]
    Http2(H2Body<B>),
}

impl<B> AnswerBody<B> {
    pub(super) fn http1(body: H1Body<B>, idle: Option<Duration>) -> Self {
        Self(Box::new(Answering { way: Way::Http1(body), idle: Idle::new(idle) }))
    }

    #[cfg(feature = "http2")]
    pub(super) fn http2(body: H2Body<B>, idle: Option<Duration>) -> Self {
        Self(Box::new(Answering { way: Way::Http2(body), idle: Idle::new(idle) }))
    }
}

impl<B> Answering<B> {
    fn cut(&mut self) {
        match &mut self.way {
            Way::Http1(body) => body.cut(),
            #[cfg(feature = "http2")]
            Way::Http2(body) => body.cut(),
        }
    }
}

impl<B> Body for AnswerBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self.0;
        let polled = match &mut this.way {
            Way::Http1(body) => body.poll_frame(cx),
            #[cfg(feature = "http2")]
            Way::Http2(body) => body.poll_frame(cx),
        };
        match polled {
            Poll::Ready(frame) => {
                this.idle.moved();
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending if this.idle.is_over(cx) => {
                this.cut();
                Poll::Ready(Some(Err(TransportError::Stalled.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0.way {
            Way::Http1(body) => body.is_end_stream(),
            #[cfg(feature = "http2")]
            Way::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0.way {
            Way::Http1(body) => body.size_hint(),
            #[cfg(feature = "http2")]
            Way::Http2(body) => body.size_hint(),
        }
    }
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("AnswerBody");
        match &self.0.way {
            Way::Http1(body) => debug.field("http1", body),
            #[cfg(feature = "http2")]
            Way::Http2(body) => debug.field("http2", body),
        };
        debug.finish_non_exhaustive()
    }
}

/// How long nothing has come.
struct Idle {
    limit: Option<Duration>,
    /// Since when the body waits. One whose next part is there has no need of a clock.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    const fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: None, timer: None }
    }

    fn moved(&mut self) {
        self.since = None;
    }

    /// Whether that has been too long. Else the task is woken when it may be.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(limit) = self.limit else { return false };
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(end) = since.checked_add(limit) else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        // It is not moved whenever something comes, which is often, but when it has gone off too early, which is rare.
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= end {
                return true;
            }
            timer.as_mut().reset(end);
        }
        false
    }
}
