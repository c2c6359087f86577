//! A connection to a client or to an instance, in the clear or not.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::PeerCertificate;

#[derive(Debug)]
pub(crate) enum Socket {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

impl Socket {
    /// Of which this end is the client, or the server.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(stream: impl Into<tokio_rustls::TlsStream<TcpStream>>) -> Self {
        Self::Tls(Box::new(stream.into()))
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether it is certain, without a look, that nothing can be read.
    pub(crate) fn has_nothing(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx).is_pending(),
            // It may have read more than it has told.
            #[cfg(feature = "tls")]
            Self::Tls(_) => false,
        }
    }

    pub(crate) const fn is_encrypted(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Whether both sides have agreed on HTTP/2; `None` where they did not speak of it.
    pub(crate) fn agreed_on_http2(&self) -> Option<bool> {
        match self {
            Self::Plain(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol().map(|agreed| agreed == b"h2"),
        }
    }

    /// What the other side has proved to be.
    pub(crate) fn certificate(&self) -> io::Result<Option<PeerCertificate>> {
        match self {
            Self::Plain(_) => Ok(None),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => {
                let chain = stream.get_ref().1.peer_certificates();
                let first = chain.and_then(|chain| chain.first());
                let read = first.map(|first| PeerCertificate::from_der(first.as_ref()));
                read.transpose().map_err(io::Error::other)
            }
        }
    }
}

/// Does the same with whichever it is.
macro_rules! either {
    ($this:expr, $stream:ident => $done:expr) => {
        match $this.get_mut() {
            Socket::Plain($stream) => {
                let $stream = Pin::new($stream);
                $done
            }
            #[cfg(feature = "tls")]
            Socket::Tls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $done
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, into))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}
