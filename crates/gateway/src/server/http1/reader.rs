use std::{
    io,
    task::{Context, Poll, ready},
};

use tokio::io::ReadHalf;

use crate::{
    buffers::{Intake, READ},
    server::wire::Wire,
    socket::Socket,
};

/// The reading half of a connection, and what was read and not looked at yet.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) half: ReadHalf<Wire<Socket>>,
    pub(super) read: Intake,
}

impl Reader {
    pub(super) fn new(half: ReadHalf<Wire<Socket>>) -> Self {
        Self { half, read: Intake::new() }
    }

    /// Reads what is there; 0 bytes are the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.poll_fill(&mut self.half, cx)
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
}
