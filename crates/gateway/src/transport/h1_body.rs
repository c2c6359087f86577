use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;
use gusset_call::BoxError;
use http_body::{Body, Frame, SizeHint};

use super::{
    TransportError,
    connection::Connection,
    decoder::{Decoded, Decoder},
    pool::Home,
    sending::Sending,
};

/// Body of an answer by HTTP/1.1. At its end the connection waits for the next call; dropped before, it is closed.
///
/// What is not sent of the request yet, goes out while this is polled.
pub(super) struct H1Body<B> {
    decoder: Decoder,
    /// `None` once the connection is not needed any more.
    talk: Option<Talk<B>>,
}

/// A connection between the head of an answer and its end.
pub(super) struct Talk<B> {
    pub(super) connection: Box<Connection>,
    /// `None` when all is sent.
    pub(super) sending: Option<Box<Sending<B>>>,
    pub(super) home: Home,
}

impl<B> H1Body<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) const fn empty() -> Self {
        Self { decoder: Decoder::Over, talk: None }
    }

    pub(super) fn new(decoder: Decoder, talk: Talk<B>) -> Self {
        let mut body = Self { decoder, talk: Some(talk) };
        if body.decoder.is_over() {
            body.end();
        }
        body
    }

    /// The answer is whole. If the request is not, nobody waits for the rest of it.
    fn end(&mut self) {
        let Some(talk) = self.talk.take() else { return };
        let Talk { connection, sending, home } = talk;
        if sending.is_none_or(|sending| sending.is_gone()) {
            home.check_in(connection);
        }
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, TransportError>> {
        loop {
            let Some(talk) = &mut self.talk else { return Poll::Ready(Ok(None)) };
            talk.send(cx);
            match self.decoder.decode(&mut talk.connection.read)? {
                Decoded::Data(data) => {
                    if self.decoder.is_over() {
                        self.end();
                    }
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                Decoded::Trailers(trailers) => {
                    self.end();
                    return Poll::Ready(Ok(Some(Frame::trailers(trailers))));
                }
                Decoded::Over => self.end(),
                Decoded::Nothing => match talk.connection.poll_fill(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0)) if self.decoder.may_end() => {
                        // The end of such a body is the end of its connection, which has nothing more to reset.
                        talk.connection.busy = false;
                        self.talk = None;
                    }
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(TransportError::ended_early())),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(TransportError::Broken(error)));
                    }
                },
            }
        }
    }
}

impl<B> Talk<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Sends what is left of the request. That it fails is no matter of the answer, but this connection serves nobody else.
    fn send(&mut self, cx: &mut Context<'_>) {
        let Some(sending) = &mut self.sending else { return };
        match sending.poll(&mut self.connection.socket, cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.sending = None,
            Poll::Ready(Err(_)) => {
                self.home.reuse = false;
                self.sending = None;
            }
        }
    }
}

impl<B> H1Body<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        let polled = self.poll_data(cx).map(Result::transpose);
        if let Poll::Ready(Some(Err(_))) = polled {
            self.cut();
        }
        polled
    }
}

impl<B> H1Body<B> {
    /// Closes the connection at once, and not when somebody drops the body.
    pub(super) fn cut(&mut self) {
        self.talk = None;
    }

    pub(super) const fn is_end_stream(&self) -> bool {
        self.talk.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.decoder.size_hint()
    }
}

impl<B> fmt::Debug for H1Body<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H1Body").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}
