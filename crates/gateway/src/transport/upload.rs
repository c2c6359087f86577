use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gusset_call::BoxError;
use h2::{Reason, SendStream};
use http_body::Body;

use super::TransportError;
use crate::headers::{may_trail, remove_where};

/// The body of a request on its way out, by HTTP/2. Dropped before its end together with the stream's other half, it resets the stream.
pub(super) struct Upload<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Data that the instance has given no room for yet.
    data: Bytes,
}

/// How an upload has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uploaded {
    Whole,
    /// The instance wants no more of it, and its answer is whole (RFC 9113, 8.1).
    Unwanted,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) const fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body, data: Bytes::new() }
    }

    /// Errors of the body are those of the client.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Uploaded, BoxError>> {
        loop {
            if !self.data.is_empty() {
                if let Some(uploaded) = ready!(self.poll_send(cx))? {
                    return Poll::Ready(Ok(uploaded));
                }
                continue;
            }
            if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                return Poll::Ready(of_reset(reset).map_err(Into::into));
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            let frame = match frame.transpose().map_err(Into::into) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Poll::Ready(self.end()),
                Err(error) => {
                    // Not a regular end, which would make a whole of the part.
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(error));
                }
            };
            match frame.into_data() {
                Ok(data) => self.data = data,
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    remove_where(&mut trailers, |name| !may_trail(name));
                    let sent = self.stream.send_trailers(trailers);
                    sent.map_err(TransportError::of_stream)?;
                    return Poll::Ready(Ok(Uploaded::Whole));
                }
            }
            if self.data.is_empty() && self.body.is_end_stream() {
                return Poll::Ready(self.end());
            }
        }
    }

    fn end(&mut self) -> Result<Uploaded, BoxError> {
        self.stream.send_data(Bytes::new(), true).map_err(TransportError::of_stream)?;
        Ok(Uploaded::Whole)
    }

    /// Sends what there is room for. `Some` if that was the end.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Uploaded>, TransportError>> {
        self.stream.reserve_capacity(self.data.len());
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Poll::Ready(Err(TransportError::of_stream(error)));
                }
                // The stream takes no more, and says why.
                None => {
                    let reset = ready!(self.stream.poll_reset(cx));
                    return Poll::Ready(of_reset(reset).map(Some));
                }
            }
        }
        let room = self.stream.capacity().min(self.data.len());
        let data = self.data.split_to(room);
        let over = self.data.is_empty() && self.body.is_end_stream();
        self.stream.send_data(data, over).map_err(TransportError::of_stream)?;
        Poll::Ready(Ok(over.then_some(Uploaded::Whole)))
    }
}

fn of_reset(reset: Result<Reason, h2::Error>) -> Result<Uploaded, TransportError> {
    match reset {
        Ok(Reason::NO_ERROR) => Ok(Uploaded::Unwanted),
        Ok(reason) => Err(TransportError::of_stream(reason.into())),
        Err(error) => Err(TransportError::of_stream(error)),
    }
}
