use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io, mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use gusset_call::BoxError;
use http::{Method, Request, Response, Version};
use http_body::Body;
use tokio::io::{AsyncWrite, WriteHalf, split};
use tower_service::Service;

use super::{
    Upload,
    answer_head::Asked,
    before::Before,
    idle::Idle,
    reader::Reader,
    refusal::Refusal,
    request_head::{self, RequestHead},
    upload::{Back, Home},
};
use crate::{
    buffers,
    hints::Hints,
    server::{body::Source, wire::Wire},
    socket::Socket,
    spare,
    transport::{Framing, Sending, TransportError},
};

/// How a connection has ended.
pub(in crate::server) enum Ended {
    Closed,
    /// The next request, which has not been answered, wants another protocol.
    Upgrade(Wire<Socket>),
}

/// How a connection is served.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Manner {
    pub(in crate::server) head_timeout: Duration,
    /// Whether clients are told what instances say before their answers.
    pub(in crate::server) hints: bool,
}

/// Serves one request after the other, each of which may take `head_timeout` to come. `leaving` ends when idle connections are to go.
pub(in crate::server) async fn serve<S, B>(
    wire: Wire<Socket>,
    mut service: S,
    Manner { head_timeout, hints }: Manner,
    leaving: impl Future<Output = ()>,
) -> io::Result<Ended>
where
    S: Service<Request<Source>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (half, write) = split(wire);
    let reading = Turn::Here(Reader::new(half));
    let mut connection = Connection { reading, write, cut: false, hints };
    let mut idle = pin!(Idle::new(head_timeout, leaving));
    loop {
        idle.as_mut().begin(head_timeout);
        let head = match poll_fn(|cx| connection.poll_head(cx, idle.as_mut())).await? {
            Next::Request(head) if head.upgrade => return Ok(connection.upgrade(&head.bytes)),
            Next::Request(head) => head,
            Next::None => return Ok(Ended::Closed),
            Next::Refused(refusal) => {
                tracing::debug!(?refusal, "request refused");
                let asked = Asked::by(&Method::GET, Version::HTTP_11);
                let _ = connection.answer(b"", &asked, refusal.answer(), false).await?;
                return connection.farewell().await;
            }
        };
        match connection.exchange(head, &mut service).await {
            Ok(true) => {}
            Ok(false) => return connection.farewell().await,
            Err(error) => {
                if connection.cut {
                    connection.reset();
                }
                return Err(error);
            }
        }
    }
}

pub(super) struct Connection {
    pub(super) reading: Turn,
    pub(super) write: WriteHalf<Wire<Socket>>,
    /// Whether a regular end of the connection would be a lie.
    cut: bool,
    hints: bool,
}

/// Who reads.
pub(super) enum Turn {
    Here(Reader),
    /// The body of a request.
    Lent(Home),
    /// Nobody, for the body of a request is not wanted, or is none.
    Unread(Option<Back>),
}

#[allow(clippy::large_enum_variant, reason = "it is the usual one, and taken apart at once")]
enum Next {
    Request(RequestHead),
    Refused(Refusal),
    None,
}

impl Connection {
    fn poll_head<L: Future<Output = ()>>(
        &mut self,
        cx: &mut Context<'_>,
        idle: Pin<&mut Idle<L>>,
    ) -> Poll<io::Result<Next>> {
        let Turn::Here(reader) = &mut self.reading else { return Poll::Ready(Ok(Next::None)) };
        loop {
            match request_head::take(&mut reader.read) {
                Ok(Some(head)) => return Poll::Ready(Ok(Next::Request(head))),
                Ok(None) => {}
                Err(refusal) => return Poll::Ready(Ok(Next::Refused(refusal))),
            }
            let begun = !reader.read.is_empty();
            match reader.poll_fill(cx)? {
                Poll::Ready(1..) => {}
                Poll::Ready(0) if begun => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(0) => return Poll::Ready(Ok(Next::None)),
                Poll::Pending => {
                    ready!(idle.poll_over(cx, begun));
                    let slow = if begun { Next::Refused(Refusal::TooSlow) } else { Next::None };
                    return Poll::Ready(Ok(slow));
                }
            }
        }
    }

    /// Answers one request. Whether the connection can take another.
    async fn exchange<S, B>(&mut self, head: RequestHead, service: &mut S) -> io::Result<bool>
    where
        S: Service<Request<Source>, Response = Response<B>, Error = Infallible>,
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let RequestHead { mut parts, body, keep, expects, .. } = head;
        let asked = Asked::by(&parts.method, parts.version);
        let source = if body.is_over() {
            Source::Empty
        } else {
            let home = Home::default();
            match mem::replace(&mut self.reading, Turn::Lent(home.clone())) {
                Turn::Here(reader) => {
                    Source::Http1(Box::new(Upload::new(reader, body, home, expects)))
                }
                // A request is read here, and nowhere else.
                Turn::Lent(_) | Turn::Unread(_) => return Ok(false),
            }
        };
        let mut before = Before::default();
        if self.hints && parts.version == Version::HTTP_11 {
            let hints = Hints::default();
            parts.extensions.insert(hints.clone());
            before.hints = Some(hints);
        }
        let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
        let mut call = pin!(service.call(Request::from_parts(parts, source)));
        let answered = poll_fn(|cx| match call.as_mut().poll(cx) {
            Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
            Poll::Pending => self.poll_between(cx, &mut before).map(Err),
        });
        let answer = answered.await?;
        let keep = keep && self.settle();
        before.gather();
        if !self.answer(&before.bytes, &asked, answer, keep).await? {
            return Ok(false);
        }
        if let Turn::Lent(home) = &self.reading {
            let home = home.clone();
            let back = poll_fn(|cx| home.poll_back(cx)).await;
            self.reading = Turn::Unread(Some(back));
        }
        Ok(self.skip())
    }

    /// While the service has no answer yet. Ends when the client has gone.
    fn poll_between(&mut self, cx: &mut Context<'_>, before: &mut Before) -> Poll<io::Error> {
        if let Turn::Lent(home) = &self.reading {
            if home.is_wanted() {
                before.bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
        }
        before.gather();
        while !before.bytes.is_empty() {
            match Pin::new(&mut self.write).poll_write(cx, &before.bytes) {
                Poll::Ready(Ok(count)) => before.bytes.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.poll_gone(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            match &mut self.reading {
                Turn::Here(reader) => return reader.poll_gone(cx),
                Turn::Unread(_) => return Poll::Pending,
                Turn::Lent(home) => {
                    self.reading = Turn::Unread(Some(ready!(home.poll_back(cx))));
                    self.skip();
                }
            }
        }
    }

    /// Whether the next request can be read, now or when the body of this one has ended.
    fn settle(&mut self) -> bool {
        let Turn::Lent(home) = &self.reading else { return self.skip() };
        let Some(back) = home.back() else { return true };
        self.reading = Turn::Unread(Some(back));
        self.skip()
    }

    /// Whether the next request can be read now.
    fn skip(&mut self) -> bool {
        if let Turn::Unread(back) = &mut self.reading {
            match back.take().map(Back::skip) {
                Some(Ok(reader)) => self.reading = Turn::Here(reader),
                Some(Err(unread)) => *back = Some(unread),
                None => {}
            }
        }
        let Turn::Here(reader) = &mut self.reading else { return false };
        reader.read.rest();
        true
    }

    /// Sends an answer, behind `before`. Whether the connection can be used again.
    async fn answer<B>(
        &mut self,
        before: &[u8],
        asked: &Asked,
        answer: Response<B>,
        keep: bool,
    ) -> io::Result<bool>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (head, body) = answer.into_parts();
        let body = pin!(body);
        let mut bytes = buffers::take();
        bytes.extend_from_slice(before);
        let (framing, keep) = asked.write(&mut bytes, &head, &body, keep);
        spare::give_response(head);
        let mut sending = Sending::new(bytes, body, framing);
        let mut failed = None;
        let sent = poll_fn(|cx| -> Poll<Result<(), BoxError>> {
            if failed.is_none() {
                match sending.poll(&mut self.write, cx) {
                    // What came before goes out before.
                    Poll::Ready(Err(error)) if !is_broken(&error) => failed = Some(error),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    sent => {
                        if sending.is_written() {
                            // What is encrypted waits in a buffer of its own.
                            ready!(Pin::new(&mut self.write).poll_flush(cx))?;
                        }
                        if sent.is_ready() {
                            return sent;
                        }
                        return self.poll_gone(cx).map(|error| Err(error.into()));
                    }
                }
            }
            ready!(sending.poll_write(&mut self.write, cx))?;
            ready!(Pin::new(&mut self.write).poll_flush(cx))?;
            Poll::Ready(failed.take().map_or(Ok(()), Err))
        });
        if let Err(error) = sent.await {
            // Without chunks and a length a regular end would be that of the body.
            self.cut = framing == Framing::UntilClose;
            return Err(io::Error::other(error));
        }
        Ok(keep)
    }
}

fn is_broken(error: &BoxError) -> bool {
    matches!(error.downcast_ref(), Some(TransportError::Broken(_)))
}
