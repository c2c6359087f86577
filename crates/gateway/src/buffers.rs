//! Memory that connections read into while they have something to read, and share while they have not: most connections are idle most of the time.

use std::{
    cell::RefCell,
    future::Future,
    io,
    ops::{Deref, DerefMut},
    pin::pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Buffers kept for each thread, and how large they may be.
const KEPT: usize = 64;
const LARGEST: usize = 16 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// One that somebody else has done with, or an empty one.
pub(crate) fn take() -> BytesMut {
    SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// For whoever reads next on this thread, if nothing is in it.
pub(crate) fn give(buffer: &mut BytesMut) {
    if !buffer.is_empty() || buffer.capacity() == 0 {
        return;
    }
    let buffer = std::mem::take(buffer);
    // While a thread ends, its connections may still end, and nobody reads any more.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT && buffer.capacity() <= LARGEST {
            spare.push(buffer);
        }
    });
}

/// Bytes that are read at once: few, or as many as a fast sender makes worth it.
pub(crate) const READ: usize = 8 * 1024;
const READ_MOST: usize = 64 * 1024;

/// Room that is enough for a head.
const ENOUGH: usize = 2 * 1024;

/// What was read of a connection and not looked at yet.
#[derive(Debug)]
pub(crate) struct Intake {
    bytes: BytesMut,
    at_once: usize,
}

impl Intake {
    pub(crate) fn new() -> Self {
        Self { bytes: BytesMut::new(), at_once: READ }
    }

    /// Reads what is there; 0 bytes are the end.
    pub(crate) fn poll_fill(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() == 0 {
            self.bytes = take();
        }
        let room = self.bytes.capacity() - self.bytes.len();
        // Memory of which a head took its part serves the next ones, as long as it is enough for them.
        if room < self.at_once && (room < ENOUGH || self.at_once > READ) {
            self.bytes.reserve(self.at_once);
        }
        let room = self.bytes.capacity() - self.bytes.len();
        let read = pin!(source.read_buf(&mut self.bytes)).poll(cx);
        match read {
            Poll::Ready(Ok(count)) if count == room => {
                self.at_once = (self.at_once * 2).min(READ_MOST);
            }
            Poll::Ready(_) => {}
            // Whoever waits for something needs no memory for it.
            Poll::Pending => give(&mut self.bytes),
        }
        read
    }

    /// Before a connection waits for what comes next, memory that one large body needed is given back.
    pub(crate) fn rest(&mut self) {
        self.at_once = READ;
        give(&mut self.bytes);
    }
}

impl Deref for Intake {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for Intake {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}
