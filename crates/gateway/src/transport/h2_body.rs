use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gusset_call::BoxError;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};

use crate::headers::{may_trail, remove_where};

use super::{
    TransportError,
    upload::{Upload, Uploaded},
};

/// Body of an answer by HTTP/2. Dropped before its end, it resets its stream.
pub(super) struct H2Body<B> {
    /// `None` at the end.
    stream: Option<RecvStream>,
    /// `None` when all is sent.
    upload: Option<Upload<B>>,
    /// The instance has ended the upload, and may end the stream with it.
    unwanted: bool,
    /// What `Content-Length` says is still to come.
    left: Option<u64>,
    /// What makes the stream count.
    _counted: Arc<()>,
}

impl<B> H2Body<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) const fn new(
        stream: RecvStream,
        upload: Option<Upload<B>>,
        unwanted: bool,
        left: Option<u64>,
        counted: Arc<()>,
    ) -> Self {
        Self { stream: Some(stream), upload, unwanted, left, _counted: counted }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        self.upload(cx);
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // It makes room for more, at the pace of whoever reads. That it fails, the next poll says better.
                let _ = stream.flow_control().release_capacity(data.len());
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                if stream.is_end_stream() && self.upload.is_none() {
                    self.stream = None;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => self.ended(error),
            None => {
                let trailers = ready!(stream.poll_trailers(cx));
                let trailers = match trailers {
                    Ok(trailers) => trailers,
                    Err(error) => return self.ended(error),
                };
                self.cut();
                let Some(mut trailers) = trailers else { return Poll::Ready(None) };
                remove_where(&mut trailers, |name| !may_trail(name));
                Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn ended(&mut self, error: h2::Error) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        let regular = error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        let whole = self.left == Some(0) || (self.left.is_none() && self.unwanted);
        self.cut();
        if regular && whole {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(TransportError::of_body(error))))
    }

    /// That it fails, is no matter of the answer.
    fn upload(&mut self, cx: &mut Context<'_>) {
        let Some(upload) = &mut self.upload else { return };
        if let Poll::Ready(uploaded) = upload.poll(cx) {
            self.unwanted |= matches!(uploaded, Ok(Uploaded::Unwanted));
            self.upload = None;
        }
    }
}

impl<B> H2Body<B> {
    /// Gives the stream up.
    pub(super) fn cut(&mut self) {
        self.stream = None;
        self.upload = None;
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match &self.stream {
            None => true,
            Some(stream) => self.upload.is_none() && stream.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl<B> fmt::Debug for H2Body<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H2Body").field("left", &self.left).finish_non_exhaustive()
    }
}
