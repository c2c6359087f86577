use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout},
};

/// How long a connection may take to be made. A SYN that gets lost is sent again after 1 s.
const CONNECT: Duration = Duration::from_secs(2);

/// Bytes that are read at once: few, or as many as a fast sender makes worth it.
const READ: usize = 8 * 1024;
const READ_MOST: usize = 64 * 1024;

/// A connection to an instance, and what was read of it and not looked at yet.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) read: BytesMut,
    /// Memory for the next head that is written.
    pub(super) spare: BytesMut,
    /// Whether it has served a call.
    pub(super) used: bool,
    /// Something is under way. Dropped like that, it is reset.
    pub(super) busy: bool,
    pub(super) made: Instant,
    at_once: usize,
}

impl Connection {
    pub(super) async fn make(authority: &str) -> io::Result<Box<Self>> {
        let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
        let connecting = TcpStream::connect(authority);
        let socket = timeout(CONNECT, connecting).await.map_err(timed_out)??;
        socket.set_nodelay(true)?;
        Ok(Box::new(Self {
            socket,
            read: BytesMut::new(),
            spare: BytesMut::new(),
            used: false,
            busy: false,
            made: Instant::now(),
            at_once: READ,
        }))
    }

    /// Reads what is there; 0 bytes are the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(self.at_once);
        let room = self.read.capacity() - self.read.len();
        let read = pin!(self.socket.read_buf(&mut self.read)).poll(cx);
        if let Poll::Ready(Ok(count)) = read {
            if count == room {
                self.at_once = (self.at_once * 2).min(READ_MOST);
            }
        }
        read
    }

    /// Whether the instance has neither ended it nor said what nobody asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Before it waits for the next call, memory that one large answer needed is given back.
    pub(super) fn rest(&mut self) {
        self.busy = false;
        self.used = true;
        self.at_once = READ;
        if self.read.capacity() > 2 * READ {
            self.read = BytesMut::new();
        }
        if self.spare.capacity() > 2 * READ {
            self.spare = BytesMut::new();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.busy {
            // A regular end could be taken for the end of what was sent. That it fails, only a socket without a connection could make it.
            let _ = self.socket.set_zero_linger();
        }
    }
}
