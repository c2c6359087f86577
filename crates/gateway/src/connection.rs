//! Where a server's connections come from, and what it adds to their requests and answers.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tower_service::Service;

use crate::PeerAddr;

/// Waits out errors: most are of the one connection, the others (no file descriptor left) pass when connections end.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The connections that the kernel has made and nobody has accepted; closing the listener would reset them.
pub(crate) fn backlog(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    // Asked directly, because tokio may not know of the newest yet.
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    std::iter::from_fn(|| listener.accept().ok())
        .filter_map(|(stream, peer)| {
            stream.set_nonblocking(true).ok()?;
            Some((TcpStream::from_std(stream).ok()?, peer))
        })
        .collect()
}

/// Tells requests their peer, and the peer when to leave.
#[derive(Clone)]
pub(crate) struct OfPeer<S> {
    inner: S,
    peer: SocketAddr,
    leaving: Arc<AtomicBool>,
}

impl<S> OfPeer<S> {
    pub(crate) const fn new(inner: S, peer: SocketAddr, leaving: Arc<AtomicBool>) -> Self {
        Self { inner, peer, leaving }
    }
}

impl<S, B> Service<Request<Incoming>> for OfPeer<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = OfPeerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(PeerAddr(self.peer));
        OfPeerFuture { inner: self.inner.call(request), leaving: self.leaving.clone() }
    }
}

pin_project! {
    /// Future of [`OfPeer`].
    pub(crate) struct OfPeerFuture<F> {
        #[pin]
        inner: F,
        leaving: Arc<AtomicBool>,
    }
}

impl<F, B, E> Future for OfPeerFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.inner.poll(cx));
        if let (Ok(response), true) = (&mut result, this.leaving.load(Relaxed)) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(result)
    }
}
