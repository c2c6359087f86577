use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::http1::Upload;

/// Body of a request that a [`Server`](crate::Server) hands to its service: streamed as the client sends it.
///
/// It is an error if the body is malformed, if the client leaves in its middle, or if it sends nothing of it for [`Server::body_timeout`](crate::Server::body_timeout).
///
/// # Cancellation
///
/// Dropped before its end, it ends its connection with the answer, unless the rest has come already.
pub struct ClientBody {
    source: Source,
    /// How long nothing may come.
    span: Duration,
    /// While nothing comes.
    stalled: Option<Pin<Box<Sleep>>>,
}

pub(super) enum Source {
    Empty,
    // Most requests have none, and all are moved through many hands.
    Http1(Box<Upload>),
    Hyper(Box<Incoming>),
}

impl From<Incoming> for Source {
    fn from(body: Incoming) -> Self {
        Self::Hyper(Box::new(body))
    }
}

impl ClientBody {
    pub(super) const fn new(source: Source, span: Duration) -> Self {
        Self { source, span, stalled: None }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = match &mut this.source {
            Source::Empty => Poll::Ready(None),
            Source::Http1(body) => Pin::new(&mut **body).poll_frame(cx),
            Source::Hyper(body) => Pin::new(&mut **body).poll_frame(cx).map_err(BoxError::from),
        };
        if polled.is_ready() {
            this.stalled = None;
            return polled;
        }
        let span = this.span;
        let stalled = this.stalled.get_or_insert_with(|| Box::pin(sleep(span)));
        if stalled.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.source = Source::Empty;
        let slow = io::Error::new(io::ErrorKind::TimedOut, "the client sends nothing");
        Poll::Ready(Some(Err(slow.into())))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Http1(body) => body.is_end_stream(),
            Source::Hyper(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Http1(body) => body.size_hint(),
            Source::Hyper(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for ClientBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBody").field("size_hint", &self.size_hint()).finish_non_exhaustive()
    }
}
