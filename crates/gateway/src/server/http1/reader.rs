use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, ReadHalf};

use crate::{
    buffers,
    server::{stream::Stream, wire::Wire},
};

/// Bytes that are read at once: few, or as many as a fast sender makes worth it.
const READ: usize = 8 * 1024;
const READ_MOST: usize = 64 * 1024;

/// Room that is enough for a head.
const ENOUGH: usize = 2 * 1024;

/// The reading half of a connection, and what was read and not looked at yet.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) half: ReadHalf<Wire<Stream>>,
    pub(super) read: BytesMut,
    at_once: usize,
}

impl Reader {
    pub(super) fn new(half: ReadHalf<Wire<Stream>>) -> Self {
        Self { half, read: BytesMut::new(), at_once: READ }
    }

    /// Reads what is there; 0 bytes are the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() == 0 {
            self.read = buffers::take();
        }
        let room = self.read.capacity() - self.read.len();
        // Memory of which a head took its part serves the next ones, as long as it is enough for them.
        if room < self.at_once && (room < ENOUGH || self.at_once > READ) {
            self.read.reserve(self.at_once);
        }
        let room = self.read.capacity() - self.read.len();
        let read = pin!(self.half.read_buf(&mut self.read)).poll(cx);
        match read {
            Poll::Ready(Ok(count)) if count == room => {
                self.at_once = (self.at_once * 2).min(READ_MOST);
            }
            Poll::Ready(_) => {}
            // Whoever waits for something needs no memory for it.
            Poll::Pending => buffers::give(&mut self.read),
        }
        read
    }

    /// Ends when the client has gone. What it sends ahead is read up to a bound, behind which it cannot be known.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.read.len() < READ {
            match ready!(self.poll_fill(cx)) {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    }

    /// Before it waits for the next request, memory that one large body needed is given back.
    pub(super) fn rest(&mut self) {
        self.at_once = READ;
        buffers::give(&mut self.read);
    }
}
