use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::socket::Socket;

/// How a connection of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's connection. It breaks if the client takes nothing for too long.
#[derive(Debug)]
pub(super) struct Wire<I> {
    io: I,
    /// Read already.
    read: Bytes,
    send_timeout: Duration,
    /// While something waits to be sent.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Wire<I> {
    pub(super) const fn new(io: I, send_timeout: Duration) -> Self {
        Self { io, read: Bytes::new(), send_timeout, stalled: None }
    }

    /// Gives back what was read: it comes again, before all else.
    pub(super) fn unread(&mut self, read: Bytes) {
        self.read = [read, self.read.split_off(0)].concat().into();
    }

    /// Whether the client speaks HTTP/2 from its first byte on.
    pub(super) async fn begins_as_http2(&mut self) -> io::Result<bool> {
        if cfg!(not(feature = "http2")) {
            return Ok(false);
        }
        let mut read = BytesMut::with_capacity(1024);
        while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
            if self.io.read_buf(&mut read).await? == 0 {
                break;
            }
        }
        let http2 = read.starts_with(PREFACE);
        self.read = read.freeze();
        Ok(http2)
    }

    /// `polled`, if the client is not too slow.
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let span = self.send_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(span)));
        let too_slow =
            |()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing"));
        stalled.as_mut().poll(cx).map(too_slow)
    }
}

impl Wire<Socket> {
    /// Closes the connection with a reset.
    pub(super) fn reset(self) {
        // That it fails, only a socket without a connection could make it.
        let _ = self.io.tcp().set_zero_linger();
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Wire<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, into);
        }
        let count = self.read.len().min(into.remaining());
        into.put_slice(&self.read[..count]);
        self.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.in_time(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.in_time(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.in_time(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.in_time(cx, polled)
    }
}
