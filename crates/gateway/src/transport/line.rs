use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use gusset_call::BoxError;
#[cfg(feature = "http2")]
use http::header;
use http::{Method, Request, Response, request::Parts};
use http_body::Body;
use tower_service::Service;

#[cfg(feature = "http2")]
use super::Wanted;
use super::{
    AnswerBody, Pool, Transport,
    exchange::{Exchange, Kind, Start},
    places::Places,
    pool,
    request_head::{self, Expects, Framing},
    sending::Sending,
};
#[cfg(feature = "http2")]
use super::{h2_exchange::H2Exchange, h2_head, multiplex::Multiplex};
use crate::{buffers, spare};

/// Calls of one instance by connections that are kept.
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// Dropping the future or the body of the answer resets the connection, or the stream.
#[derive(Clone)]
pub(crate) struct Line {
    place: Arc<Place>,
}

/// An instance as the pool knows it.
pub(super) struct Place {
    pool: Pool,
    number: u64,
    authority: Box<str>,
    address: Box<str>,
    places: Option<Places>,
    transport: Arc<Transport>,
    #[cfg(feature = "http2")]
    multiplex: Multiplex,
}

impl Place {
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Where connections go.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// `None` where there may be any number of connections.
    pub(super) const fn places(&self) -> Option<&Places> {
        self.places.as_ref()
    }

    #[cfg(feature = "http2")]
    pub(super) const fn multiplex(&self) -> &Multiplex {
        &self.multiplex
    }
}

impl Line {
    /// To `authority`: a name or an address, and a port.
    #[cfg(test)]
    pub(crate) fn new(pool: Pool, authority: &str, transport: Arc<Transport>) -> Self {
        Self::at(pool, (authority, authority), transport)
    }

    /// To `address`, a name or an address and a port, which is asked for `authority`.
    pub(crate) fn at(
        pool: Pool,
        (authority, address): (&str, &str),
        transport: Arc<Transport>,
    ) -> Self {
        Self {
            place: Arc::new(Place {
                pool,
                number: pool::number(),
                authority: authority.into(),
                address: address.into(),
                places: Places::new(&transport.connections),
                transport,
                #[cfg(feature = "http2")]
                multiplex: Multiplex::default(),
            }),
        }
    }

    /// Whether this thread has an idle connection that has not ended.
    #[cfg(test)]
    pub(super) fn has_quiet(&self) -> bool {
        self.place.pool.has_quiet(self.place.number)
    }

    fn http1<B>(&self, mut head: Parts, body: B) -> Exchange<B>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let framing = Framing::of(&body);
        let repeatable =
            head.method.is_idempotent() || head.headers.contains_key("idempotency-key");
        let may_reuse = repeatable || !self.place.transport.connections.fresh_for_unsafe;
        let bodyless = head.method == Method::HEAD;
        let hints = head.extensions.remove();
        let mut kind = Kind { repeatable, may_reuse, bodyless, wanted: None, hints };
        let start = Start::of(&self.place, &kind);
        let mut bytes = buffers::take();
        request_head::write(&mut bytes, &head, &self.place.authority, framing);
        kind.wanted = head.extensions.remove();
        let mut sending = Sending::new(bytes, body, framing);
        if head.extensions.get::<Expects>().is_some() {
            sending.hold();
        }
        spare::give_request(head);
        Exchange::new(self.place.clone(), start, sending, kind)
    }

    #[cfg(feature = "http2")]
    fn http2<B>(&self, mut head: Parts, body: B) -> H2Exchange<B>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let framing = Framing::of(&body);
        let hints = head.extensions.remove();
        let head = h2_head::of(head, &self.place.authority, self.place.transport.is_tls(), framing);
        let body = (framing != Framing::Empty).then_some(body);
        H2Exchange::new(self.place.clone(), (head, body), hints)
    }
}

/// Whether the request is one of gRPC, which is spoken over HTTP/2 only.
#[cfg(feature = "http2")]
fn is_grpc(head: &Parts) -> bool {
    let kind = head.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc")).is_some_and(|rest| {
        // gRPC-Web is another protocol.
        matches!(rest.first(), None | Some(b'+' | b';'))
    })
}

impl<B> Service<Request<B>> for Line
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = BoxError;
    type Future = Calling<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Calling<B> {
        let (head, body) = request.into_parts();
        #[cfg(feature = "http2")]
        if (self.place.transport.http2 || is_grpc(&head))
            && head.extensions.get::<Wanted>().is_none()
        {
            return Calling::Http2(Box::new(self.http2(head, body)));
        }
        Calling::Http1(Box::new(self.http1(head, body)))
    }
}

/// Future of [`Line`].
pub(crate) enum Calling<B> {
    // Boxed, for they move into the futures of all layers around.
    Http1(Box<Exchange<B>>),
    #[cfg(feature = "http2")]
    Http2(Box<H2Exchange<B>>),
}

impl<B> Future for Calling<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<AnswerBody<B>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Http1(exchange) => Pin::new(&mut **exchange).poll(cx),
            #[cfg(feature = "http2")]
            Self::Http2(exchange) => Pin::new(&mut **exchange).poll(cx),
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("authority", &self.place.authority).finish_non_exhaustive()
    }
}
