use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io, mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use gusset_call::{BoxError, Deadline};
use http::{Method, Request, Response, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf, split},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tower_service::Service;

use super::{
    Upload,
    answer_head::Asked,
    reader::Reader,
    refusal::Refusal,
    request_head::{self, RequestHead},
    upload::{Back, Home},
};
use crate::{
    buffers,
    server::{body::Source, wire::Wire},
    socket::Socket,
    spare,
    transport::{Framing, Sending, TransportError},
};

/// How long a client that is told to go may still send, and how much. Closed at once, its connection would break before it has read what it was told.
const FAREWELL: Duration = Duration::from_secs(2);
const FAREWELL_BYTES: u64 = 1024 * 1024;

/// How a connection has ended.
pub(in crate::server) enum Ended {
    Closed,
    /// The next request, which has not been answered, wants another protocol.
    Upgrade(Wire<Socket>),
}

/// Serves one request after the other, each of which may take `head_timeout` to come. `leaving` ends when idle connections are to go.
pub(in crate::server) async fn serve<S, B>(
    wire: Wire<Socket>,
    mut service: S,
    head_timeout: Duration,
    leaving: impl Future<Output = ()>,
) -> io::Result<Ended>
where
    S: Service<Request<Source>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (half, write) = split(wire);
    let reading = Turn::Here(Reader::new(half));
    let mut connection = Connection { reading, write, cut: false };
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

struct Connection {
    reading: Turn,
    write: WriteHalf<Wire<Socket>>,
    /// Whether a regular end of the connection would be a lie.
    cut: bool,
}

/// Who reads.
enum Turn {
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
        let RequestHead { parts, body, keep, expects, .. } = head;
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
        let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
        let mut call = pin!(service.call(Request::from_parts(parts, source)));
        let mut go_on: &[u8] = b"";
        let answered = poll_fn(|cx| match call.as_mut().poll(cx) {
            Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
            Poll::Pending => self.poll_between(cx, &mut go_on).map(Err),
        });
        let answer = answered.await?;
        let keep = keep && self.settle();
        if !self.answer(go_on, &asked, answer, keep).await? {
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
    fn poll_between(&mut self, cx: &mut Context<'_>, go_on: &mut &[u8]) -> Poll<io::Error> {
        if let Turn::Lent(home) = &self.reading {
            if home.is_wanted() {
                *go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            }
        }
        while !go_on.is_empty() {
            match Pin::new(&mut self.write).poll_write(cx, go_on) {
                Poll::Ready(Ok(count)) => go_on.advance(count),
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

    /// Ends the connection in a way that cannot be taken for the end of an answer.
    fn reset(self) {
        let reader = match self.reading {
            Turn::Here(reader) => Some(reader),
            Turn::Unread(back) => back.map(Back::into_reader),
            Turn::Lent(home) => home.back().map(Back::into_reader),
        };
        if let Some(reader) = reader {
            reader.half.unsplit(self.write).reset();
        }
    }

    /// For another protocol, as if nothing were read yet.
    fn upgrade(self, head: &[u8]) -> Ended {
        let Turn::Here(mut reader) = self.reading else { return Ended::Closed };
        let mut wire = reader.half.unsplit(self.write);
        let mut bytes = BytesMut::from(head);
        bytes.unsplit(reader.read.split());
        wire.unread(bytes.freeze());
        Ended::Upgrade(wire)
    }

    async fn farewell(mut self) -> io::Result<Ended> {
        self.write.shutdown().await?;
        let rest = match self.reading {
            Turn::Unread(Some(back)) => back.into_reader(),
            Turn::Here(reader) => reader,
            Turn::Unread(None) | Turn::Lent(_) => return Ok(Ended::Closed),
        };
        let mut rest = rest.half.take(FAREWELL_BYTES);
        let mut nowhere = tokio::io::sink();
        let gone = tokio::io::copy(&mut rest, &mut nowhere);
        let _ = timeout(FAREWELL, gone).await;
        Ok(Ended::Closed)
    }
}

fn is_broken(error: &BoxError) -> bool {
    matches!(error.downcast_ref(), Some(TransportError::Broken(_)))
}

pin_project! {
    /// Until a connection has been idle for too long.
    struct Idle<L> {
        #[pin]
        sleep: Sleep,
        until: Instant,
        #[pin]
        leaving: L,
        left: bool,
    }
}

impl<L: Future<Output = ()>> Idle<L> {
    fn new(span: Duration, leaving: L) -> Self {
        let until = Deadline::after(span).instant();
        Self { sleep: sleep_until(until), until, leaving, left: false }
    }

    /// The timer stays where it is: it finds out by itself that it goes on.
    fn begin(self: Pin<&mut Self>, span: Duration) {
        *self.project().until = Deadline::after(span).instant();
    }

    /// `begun` says that a request is on its way, which is waited for though the server is leaving.
    fn poll_over(self: Pin<&mut Self>, cx: &mut Context<'_>, begun: bool) -> Poll<()> {
        let mut this = self.project();
        *this.left = *this.left || this.leaving.as_mut().poll(cx).is_ready();
        if *this.left && !begun {
            return Poll::Ready(());
        }
        while this.sleep.as_mut().poll(cx).is_ready() {
            if *this.until <= Instant::now() {
                return Poll::Ready(());
            }
            this.sleep.as_mut().reset(*this.until);
        }
        Poll::Pending
    }
}
