use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use gusset_call::BoxError;
use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    AnswerBody, Exchange, Pool,
    exchange::Kind,
    pool,
    request_head::{self, Framing},
    sending::Sending,
};

/// Calls of one instance by pooled connections, a connection for each call under way.
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// Dropping the future or the body of the answer closes the connection with a reset.
#[derive(Clone)]
pub(crate) struct Line {
    place: Arc<Place>,
}

/// An instance as the pool knows it.
pub(super) struct Place {
    pool: Pool,
    number: u64,
    authority: Box<str>,
}

impl Place {
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl Line {
    /// To `authority`: a name or an address, and a port.
    pub(crate) fn new(pool: Pool, authority: &str) -> Self {
        Self {
            place: Arc::new(Place { pool, number: pool::number(), authority: authority.into() }),
        }
    }

    /// Whether this thread has an idle connection that has not ended.
    #[cfg(test)]
    pub(super) fn has_quiet(&self) -> bool {
        self.place.pool.has_quiet(self.place.number)
    }
}

impl<B> Service<Request<B>> for Line
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = BoxError;
    type Future = Exchange<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Exchange<B> {
        let (mut head, body) = request.into_parts();
        let framing = Framing::of(&body);
        let mut connection = self.place.pool.check_out(self.place.number);
        let spare = connection.as_mut().map(|connection| std::mem::take(&mut connection.spare));
        let mut bytes: BytesMut = spare.unwrap_or_default();
        request_head::write(&mut bytes, &head, &self.place.authority, framing);
        let repeatable =
            head.method.is_idempotent() || head.headers.contains_key("idempotency-key");
        let bodyless = head.method == Method::HEAD;
        let kind = Kind { repeatable, bodyless, wanted: head.extensions.remove() };
        let sending = Sending::new(bytes, body, framing);
        Exchange::new(self.place.clone(), connection, sending, kind)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("authority", &self.place.authority).finish_non_exhaustive()
    }
}
