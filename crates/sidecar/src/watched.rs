//! A response body that knows when the answer is over.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use serde::Serialize;

/// How a call was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The answer was delivered as a whole, whatever its status.
    Complete,
    /// The service returned an error, or the answer broke off in its body.
    Error,
    /// The caller left before it had the whole answer.
    Cancelled,
    /// The service panicked.
    Panicked,
}

impl End {
    /// What it means that a call is dropped without having ended.
    pub(crate) fn of_drop() -> Self {
        if std::thread::panicking() { Self::Panicked } else { Self::Cancelled }
    }
}

/// Observes a call until its end. Dropped before that, it takes it for [`End::of_drop`].
pub trait Watch {
    /// Runs a step of the call.
    fn enter<T>(&self, step: impl FnOnce() -> T) -> T;
    /// The call carries `grpc-status` in these headers or trailers, if at all.
    fn trailers(&mut self, trailers: &HeaderMap);
    /// The call is over.
    fn end(self, end: End);
}

pin_project! {
    /// Response body of the trace and metrics layers: the inner one, watched until its end.
    #[derive(Debug)]
    pub struct Watched<B, W> {
        #[pin]
        inner: B,
        watch: Option<W>,
        // Bytes still to come by `content-length`. A server stops polling when it has sent that many.
        left: Option<u64>,
    }
}

impl<B: Body, W: Watch> Watched<B, W> {
    /// Watches the body of `response`. Nobody polls the body of an answer to HEAD.
    pub(crate) fn watch(to_head: bool, response: Response<B>, mut watch: W) -> Response<Self> {
        let (parts, inner) = response.into_parts();
        watch.trailers(&parts.headers);
        let left = parts
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        // Nor one that may not be sent or is empty.
        let bodyless = to_head
            || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || left == Some(0)
            || inner.is_end_stream();
        let watch = if bodyless {
            watch.end(End::Complete);
            None
        } else {
            Some(watch)
        };
        Response::from_parts(parts, Self { inner, watch, left })
    }
}

impl<B: Body, W: Watch> Body for Watched<B, W> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        // Taken out while user code runs: should that panic, the watch is dropped by the unwinding and knows it.
        let Some(mut watch) = this.watch.take() else { return this.inner.poll_frame(cx) };
        let polled = watch.enter(|| this.inner.as_mut().poll_frame(cx));
        match &polled {
            Poll::Pending => *this.watch = Some(watch),
            Poll::Ready(None) => watch.end(End::Complete),
            Poll::Ready(Some(Err(_))) => watch.end(End::Error),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    watch.trailers(trailers);
                }
                if let (Some(data), Some(left)) = (frame.data_ref(), this.left.as_mut()) {
                    *left = left.saturating_sub(bytes::Buf::remaining(data) as u64);
                }
                if *this.left == Some(0) || this.inner.is_end_stream() {
                    watch.end(End::Complete);
                } else {
                    *this.watch = Some(watch);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The code of `grpc-status` in `headers`.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok())
}

/// Whether a server is to blame for a gRPC status: the codes that OpenTelemetry's conventions count as errors.
pub(crate) fn is_server_fault(grpc_status: u8) -> bool {
    matches!(grpc_status, 2 | 4 | 12 | 13 | 14 | 15)
}
