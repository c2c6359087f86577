use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Version, header};
use pin_project_lite::pin_project;
use tower_service::Service;

#[cfg(feature = "http2")]
use super::extended;
use super::{
    body::{ClientBody, Source},
    hub::Held,
};
use crate::{PeerAddr, PeerCertificate, client::OverTls, spare};

/// Tells requests their peer, and the peer when to leave.
#[derive(Clone)]
pub(super) struct OfPeer<S> {
    inner: S,
    peer: SocketAddr,
    leaving: Arc<AtomicBool>,
    held: Option<Held>,
    body_timeout: Duration,
    pub(super) certificate: Option<PeerCertificate>,
    pub(super) secure: bool,
}

impl<S> OfPeer<S> {
    pub(super) const fn new(
        inner: S,
        peer: SocketAddr,
        leaving: Arc<AtomicBool>,
        held: Option<Held>,
        body_timeout: Duration,
    ) -> Self {
        Self { inner, peer, leaving, held, body_timeout, certificate: None, secure: false }
    }
}

impl<S, B, R> Service<Request<R>> for OfPeer<S>
where
    S: Service<Request<ClientBody>, Response = Response<B>>,
    R: Into<Source>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = OfPeerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let mut request = request.map(|body| ClientBody::new(body.into(), self.body_timeout));
        // In HTTP/2 there is no field to say it in, and the connection says it itself.
        let leaving = (request.version() < Version::HTTP_2).then(|| self.leaving.clone());
        #[cfg(feature = "http2")]
        let extended = extended::ask(&mut request);
        #[cfg(not(feature = "http2"))]
        let extended = false;
        if request.extensions().is_empty() {
            *request.extensions_mut() = spare::extensions();
        }
        request.extensions_mut().insert(PeerAddr(self.peer));
        if self.secure {
            request.extensions_mut().insert(OverTls);
        }
        if let Some(certificate) = &self.certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        // What a connection becomes has its place.
        if let Some(held) =
            self.held.as_ref().filter(|_| request.headers().contains_key(header::UPGRADE))
        {
            request.extensions_mut().insert(held.clone());
        }
        OfPeerFuture { inner: self.inner.call(request), leaving, extended }
    }
}

pin_project! {
    /// Future of [`OfPeer`].
    pub(super) struct OfPeerFuture<F> {
        #[pin]
        inner: F,
        leaving: Option<Arc<AtomicBool>>,
        extended: bool,
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
        let leaving = this.leaving.as_ref().is_some_and(|leaving| leaving.load(Relaxed));
        if let (Ok(response), true) = (&mut result, leaving) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        #[cfg(feature = "http2")]
        if let (Ok(response), true) = (&mut result, *this.extended) {
            extended::tell(response);
        }
        Poll::Ready(result)
    }
}
