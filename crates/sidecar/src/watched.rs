//! A response body that knows when the answer is over.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
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
    /// The attribute `error.type` of what did not end well, in traces, metrics and logs alike; what ended complete may have a status that says more.
    pub(crate) const fn error_type(self) -> Option<&'static str> {
        match self {
            Self::Complete => None,
            Self::Error => Some("error"),
            Self::Cancelled => Some("cancelled"),
            Self::Panicked => Some("panicked"),
        }
    }

    /// What it means that a call is dropped without having ended.
    pub(crate) fn of_drop() -> Self {
        if std::thread::panicking() { Self::Panicked } else { Self::Cancelled }
    }
}

/// Observes a call until its end. Dropped before that, it takes it for [`End::of_drop`].
pub trait Watch {
    /// Runs a step of the call.
    fn enter<T>(&mut self, step: impl FnOnce() -> T) -> T;
    /// The call carries this `grpc-status` in its headers or trailers.
    fn grpc_status(&mut self, code: u8);
    /// The call is over. It ends once: what comes later means nothing.
    fn end(&mut self, end: End);
}

/// Runs a step of the call, and ends it should that panic. The watch stays where it is meanwhile: to take it out of its future and put it
/// back would cost more than all that it does.
pub(crate) fn guarded<W: Watch, T>(watch: &mut W, step: impl FnOnce() -> T) -> T {
    let unwinding = Unwinding(watch);
    let done = unwinding.0.enter(step);
    std::mem::forget(unwinding);
    done
}

/// Dropped, which is to say by a panic, it ends the call as one that panicked.
pub(crate) struct Unwinding<'a, W: Watch>(pub(crate) &'a mut W);

impl<W: Watch> Drop for Unwinding<'_, W> {
    fn drop(&mut self) {
        self.0.end(End::Panicked);
    }
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
        let (mut status, mut length) = (None, None);
        // Most answers have few headers: to look at each is quicker than to look for two.
        for (name, value) in &parts.headers {
            if *name == header::CONTENT_LENGTH {
                length = length.or(Some(value));
            } else if *name == GRPC_STATUS {
                status = status.or(Some(value));
            }
        }
        if let Some(code) = status.and_then(code_of) {
            watch.grpc_status(code);
        }
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
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
        let Some(watch) = this.watch.as_mut() else { return this.inner.poll_frame(cx) };
        let polled = guarded(watch, || this.inner.as_mut().poll_frame(cx));
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => watch.end(End::Complete),
            Poll::Ready(Some(Err(_))) => watch.end(End::Error),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(grpc_status) {
                    watch.grpc_status(code);
                }
                if let (Some(data), Some(left)) = (frame.data_ref(), this.left.as_mut()) {
                    *left = left.saturating_sub(bytes::Buf::remaining(data) as u64);
                }
                if *this.left == Some(0) || this.inner.is_end_stream() {
                    watch.end(End::Complete);
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

/// No constant, which would be made and dropped wherever it is used.
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The code of `grpc-status` in `trailers`.
fn grpc_status(trailers: &HeaderMap) -> Option<u8> {
    code_of(trailers.get(&GRPC_STATUS)?)
}

/// A code that gRPC does not define is 2, `UNKNOWN`. The other side can write any number there.
fn code_of(value: &HeaderValue) -> Option<u8> {
    let code: u8 = value.to_str().ok()?.parse().ok()?;
    Some(if code > 16 { 2 } else { code })
}

/// Whether a server is to blame for a gRPC status: the codes that OpenTelemetry's conventions count as errors.
pub(crate) fn is_server_fault(grpc_status: u8) -> bool {
    matches!(grpc_status, 2 | 4 | 12 | 13 | 14 | 15)
}
