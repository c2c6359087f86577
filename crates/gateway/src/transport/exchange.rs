use std::{
    future::Future,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Response, StatusCode};
use http_body::Body;

use super::{
    AnswerBody, Switched, TransportError, Wanted,
    answer_head::{self, AnswerHead},
    connection::Connection,
    h1_body::{H1Body, Talk},
    line::Place,
    pool::Home,
    sending::Sending,
};

/// Answers before the answer (1xx) that are passed over.
const INTERIM: u32 = 16;

/// One request to an instance by HTTP/1.1, up to the head of its answer.
pub(crate) struct Exchange<B> {
    place: Arc<Place>,
    state: State,
    /// `None` when all is sent.
    sending: Option<Sending<B>>,
    kind: Kind,
    interim: u32,
}

/// What is to be known of a request once its head is written.
pub(super) struct Kind {
    /// Whether it may be sent a second time though the first may have been seen.
    pub(super) repeatable: bool,
    /// Whether answers have no body, as to HEAD.
    pub(super) bodyless: bool,
    pub(super) wanted: Option<Wanted>,
}

enum State {
    Connecting(Pin<Box<dyn Future<Output = io::Result<Box<Connection>>> + Send>>),
    Talking(Box<Connection>),
    Over,
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        place: Arc<Place>,
        connection: Option<Box<Connection>>,
        sending: Sending<B>,
        kind: Kind,
    ) -> Self {
        let sending = Some(sending);
        let mut exchange = Self { place, state: State::Over, sending, kind, interim: 0 };
        match connection {
            Some(connection) => exchange.talk(connection),
            None => exchange.connect(),
        }
        exchange
    }

    fn connect(&mut self) {
        let place = self.place.clone();
        let connecting = async move { Connection::make(&place).await };
        self.state = State::Connecting(Box::pin(connecting));
    }

    fn talk(&mut self, mut connection: Box<Connection>) {
        connection.busy = true;
        self.state = State::Talking(connection);
    }

    /// The connection had served before, and its instance may have closed it when the request came. If nothing of an answer was read, the
    /// request is sent once more, by a connection that was never idle.
    fn again(&mut self, error: BoxError) -> Result<(), BoxError> {
        let State::Talking(connection) = &self.state else { return Err(error) };
        if connection.calls == 0 || self.interim > 0 || !connection.read.is_empty() {
            return Err(error);
        }
        let stale = match error.downcast::<TransportError>().map(|error| *error) {
            Ok(TransportError::Broken(error)) => TransportError::Stale(error),
            Ok(other) => return Err(other.into()),
            Err(error) => return Err(error),
        };
        if !self.kind.repeatable || !self.sending.as_mut().is_some_and(Sending::rewind) {
            return Err(stale.into());
        }
        self.connect();
        Ok(())
    }

    fn poll_talk(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, BoxError>> {
        let State::Talking(connection) = &mut self.state else { return Poll::Pending };
        // An instance may answer before it has read everything, and close after it: what it said counts for more than that it cannot be told the rest.
        let unsent = match self.sending.as_mut().map(|s| s.poll(&mut connection.socket, cx)) {
            Some(Poll::Ready(Err(error))) if is_broken(&error) => Some(error),
            Some(Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
            Some(Poll::Ready(Ok(())) | Poll::Pending) | None => None,
        };
        loop {
            while let Some(head) = answer_head::take(&mut connection.read, self.kind.bodyless)? {
                if !head.status.is_informational() {
                    return Poll::Ready(Ok(head));
                }
                if head.status == StatusCode::SWITCHING_PROTOCOLS {
                    if self.kind.wanted.as_ref().is_some_and(|w| w.is_granted(&head.headers)) {
                        return Poll::Ready(Ok(head));
                    }
                    Err(TransportError::Malformed("it switches to a protocol nobody asked for"))?;
                }
                self.interim += 1;
                if self.interim > INTERIM {
                    Err(TransportError::Malformed("too many interim answers"))?;
                }
            }
            match connection.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Pending if unsent.is_none() => return Poll::Pending,
                // What could not be sent is the earlier sign of the same end.
                ended => {
                    let ended = match ended {
                        Poll::Ready(Err(error)) => TransportError::Broken(error).into(),
                        _ => TransportError::ended_early().into(),
                    };
                    return Poll::Ready(Err(unsent.unwrap_or(ended)));
                }
            }
        }
    }

    fn answered(&mut self, head: AnswerHead) -> Response<AnswerBody<B>> {
        let idle = self.place.transport().answer_idle;
        let mut response = Response::new(AnswerBody::http1(H1Body::empty(), None));
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.headers;
        if let State::Talking(connection) = mem::replace(&mut self.state, State::Over) {
            if let (StatusCode::SWITCHING_PROTOCOLS, Some(wanted)) =
                (head.status, self.kind.wanted.take())
            {
                response.extensions_mut().insert(Switched(wanted.protocol().clone()));
                // It ends with either side, and with the server.
                tokio::spawn(wanted.tunnel(connection));
                return response;
            }
            let home = Home { place: self.place.clone(), reuse: head.reuse, keeps: head.keeps };
            let talk = Talk { connection, sending: self.sending.take(), home };
            *response.body_mut() = AnswerBody::http1(H1Body::new(head.body, talk), idle);
        }
        response
    }
}

impl<B> Future for Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<AnswerBody<B>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Connecting(connecting) => {
                    let made = ready!(connecting.as_mut().poll(cx));
                    this.talk(made.map_err(TransportError::Connect)?);
                }
                State::Talking(_) => match ready!(this.poll_talk(cx)) {
                    Ok(head) => return Poll::Ready(Ok(this.answered(head))),
                    Err(error) => this.again(error)?,
                },
                // Polled again after it was ready, which only a broken caller does.
                State::Over => return Poll::Pending,
            }
        }
    }
}

fn is_broken(error: &BoxError) -> bool {
    matches!(error.downcast_ref(), Some(TransportError::Broken(_)))
}
