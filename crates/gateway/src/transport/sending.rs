use std::{
    fmt::Write,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use gusset_call::BoxError;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::{
    TransportError,
    request_head::{Framing, write_fields},
};
use crate::buffers;
use crate::headers::{may_trail, remove_where};

/// Data up to this size is copied behind what stands before it, and goes out with it.
const SMALL: usize = 4 * 1024;

/// What is gathered before it is written, but for data that is not copied.
const GATHERED: usize = 16 * 1024;

/// A request on its way out.
pub(crate) struct Sending<B> {
    /// What goes out now: these bytes, of which some have gone, then data that was not copied, then the end of its chunk.
    bytes: BytesMut,
    gone: usize,
    data: Bytes,
    tail: &'static [u8],
    /// `None` when all of it was taken, or there is none.
    body: Option<B>,
    /// Of a length, what is left.
    framing: Framing,
    /// Nothing of a body was taken.
    intact: bool,
    /// Nothing of a body is to be taken yet.
    held: bool,
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// `head` ends as `framing` says.
    pub(crate) fn new(head: BytesMut, body: B, framing: Framing) -> Self {
        let body = (framing != Framing::Empty).then_some(body);
        Self {
            bytes: head,
            gone: 0,
            data: Bytes::new(),
            tail: b"",
            body,
            framing,
            intact: true,
            held: false,
        }
    }

    /// Sends nothing but the head, before it is [`release`](Self::release)d.
    pub(super) fn hold(&mut self) {
        self.held = self.body.is_some();
    }

    /// Whether it was held.
    pub(super) fn release(&mut self) -> bool {
        std::mem::take(&mut self.held)
    }

    pub(super) const fn is_held(&self) -> bool {
        self.held
    }

    /// Goes back to the first byte, if that is here still: there is no body, or nobody has looked at it.
    pub(super) fn rewind(&mut self) -> bool {
        if self.intact {
            self.gone = 0;
        }
        self.intact
    }

    /// Whether nothing is left to send.
    pub(super) fn is_gone(&self) -> bool {
        self.body.is_none() && self.is_written()
    }

    /// Whether all that was taken of the body has gone.
    pub(crate) fn is_written(&self) -> bool {
        self.gone == self.bytes.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Sends all of it. Errors of the body are those of the client.
    pub(crate) fn poll(
        &mut self,
        socket: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>> {
        loop {
            let waits = self.gather(cx)?;
            ready!(self.poll_write(socket, cx)).map_err(TransportError::Broken)?;
            if waits {
                return Poll::Pending;
            }
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes from the body what is there, up to a bound. Whether it waits for the body.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, BoxError> {
        if self.held {
            return Ok(true);
        }
        // What comes next goes out behind the end of a chunk, also of one whose data have gone without it.
        while self.data.is_empty() && self.tail.is_empty() && self.bytes.len() < GATHERED {
            let Some(body) = &mut self.body else { break };
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else { return Ok(true) };
            let over = body.is_end_stream();
            self.intact = false;
            match frame.transpose().map_err(Into::into)? {
                Some(frame) => {
                    self.put(frame)?;
                    if over {
                        self.end()?;
                    }
                }
                None => self.end()?,
            }
        }
        Ok(false)
    }

    fn put(&mut self, frame: Frame<Bytes>) -> Result<(), BoxError> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                // Without chunks there is no place for trailers.
                if let (Ok(mut trailers), Framing::Chunked) = (frame.into_trailers(), self.framing)
                {
                    remove_where(&mut trailers, |name| !may_trail(name));
                    self.bytes.extend_from_slice(b"0\r\n");
                    write_fields(&mut self.bytes, &trailers);
                    self.bytes.extend_from_slice(b"\r\n");
                    self.body = None;
                }
                return Ok(());
            }
        };
        if data.is_empty() {
            return Ok(());
        }
        let tail: &[u8] = match &mut self.framing {
            Framing::Chunked => {
                // It cannot fail: memory is all that it needs.
                let _ = write!(self.bytes, "{:x}\r\n", data.len());
                b"\r\n"
            }
            Framing::Length(left) => {
                let less = left.checked_sub(data.len() as u64);
                *left = less.ok_or(TransportError::WrongLength)?;
                b""
            }
            Framing::UntilClose => b"",
            Framing::Empty => return Err(TransportError::WrongLength.into()),
        };
        if data.len() <= SMALL {
            self.bytes.extend_from_slice(&data);
            self.bytes.extend_from_slice(tail);
        } else {
            (self.data, self.tail) = (data, tail);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxError> {
        if self.body.take().is_none() {
            return Ok(());
        }
        match self.framing {
            // Behind data that was not copied there is place for the end of its chunk, and this end.
            Framing::Chunked if self.data.is_empty() => self.bytes.extend_from_slice(b"0\r\n\r\n"),
            Framing::Chunked => self.tail = b"\r\n0\r\n\r\n",
            Framing::Length(1..) => return Err(TransportError::WrongLength.into()),
            Framing::Length(0) | Framing::Empty | Framing::UntilClose => {}
        }
        Ok(())
    }

    /// Sends what was taken.
    pub(crate) fn poll_write(
        &mut self,
        socket: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let slices = [&self.bytes[self.gone..], &self.data[..], self.tail];
            let mut socket = Pin::new(&mut *socket);
            let written = match slices {
                // The kernel takes one piece more cheaply than a list of one.
                [bytes, [], []] => ready!(socket.as_mut().poll_write(cx, bytes))?,
                _ => ready!(socket.as_mut().poll_write_vectored(cx, &slices.map(IoSlice::new)))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        // TLS takes more than the kernel does.
        ready!(Pin::new(&mut *socket).poll_flush(cx))?;
        // What may have to be sent again stays.
        if !self.intact {
            self.bytes.clear();
            self.gone = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        let of_bytes = written.min(self.bytes.len() - self.gone);
        self.gone += of_bytes;
        let of_data = (written - of_bytes).min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[written - of_bytes - of_data..];
    }
}

impl<B> Drop for Sending<B> {
    fn drop(&mut self) {
        self.bytes.clear();
        buffers::give(&mut self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, task::Waker};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Takes so much at a time, and then nothing for once.
    #[derive(Default)]
    struct Narrow {
        takes: VecDeque<usize>,
        taken: Vec<u8>,
        waits: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.waits = !self.waits;
            if self.waits {
                return Poll::Pending;
            }
            let most = self.takes.pop_front().unwrap_or(usize::MAX);
            let count = bytes.len().min(most);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.poll_write(cx, &bytes)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Pieces of a body.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn sent(pieces: &[Vec<u8>], takes: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let body = Pieces(pieces.iter().cloned().map(Bytes::from).collect());
        let mut sending = Sending::new(BytesMut::new(), body, Framing::Chunked);
        let mut socket = Narrow { takes: takes.into_iter().collect(), ..Narrow::default() };
        let mut cx = Context::from_waker(Waker::noop());
        while sending.poll(&mut socket, &mut cx).map(Result::unwrap).is_pending() {}
        socket.taken
    }

    fn written(pieces: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
            bytes.extend(piece);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }

    #[test]
    fn a_chunk_ends_before_the_next_begins_wherever_the_kernel_stops() {
        let pieces = [vec![b'a'; SMALL + 1], vec![b'b'; SMALL + 1], vec![b'c'; 3]];
        let whole = written(&pieces);
        // Somewhere in the middle of data is as good as anywhere there.
        let near = |stop: &usize| {
            whole[stop.saturating_sub(3)..].iter().take(6).any(|b| !b"abc".contains(b))
        };
        for stop in (1..whole.len()).filter(near) {
            assert_eq!(sent(&pieces, [stop]), whole, "stopped at {stop}");
        }
    }

    proptest! {
        #[test]
        fn what_goes_out_in_pieces_is_what_was_given(
            pieces in vec(prop_oneof![1usize..20, SMALL..SMALL + 3], 1..6),
            takes in vec(prop_oneof![1usize..4, SMALL + 4..SMALL + 12, 1usize..3 * SMALL], 0..30),
        ) {
            let letters = b'a'..;
            let piece = |(letter, length)| vec![letter; length];
            let pieces: Vec<_> = letters.zip(pieces).map(piece).collect();
            prop_assert_eq!(sent(&pieces, takes), written(&pieces));
        }
    }
}
