use std::{
    future::Future,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Response, StatusCode};
use http_body::Body;
use tokio::time::{Sleep, sleep};

use super::{
    AnswerBody, Switched, TransportError, Wanted,
    answer_head::{self, AnswerHead},
    connection::Connection,
    decoder::Decoder,
    h1_body::{H1Body, Talk},
    line::Place,
    places::{Permit, Take},
    pool::Home,
    sending::Sending,
};
use crate::hints::Hints;

/// Answers before the answer (1xx) that are passed over, by either version.
pub(super) const INTERIM: u32 = 16;

/// How long an instance may leave a body held back without a word. Many know nothing of it.
const PATIENCE: Duration = Duration::from_secs(1);

/// One request to an instance by HTTP/1.1, up to the head of its answer.
pub(crate) struct Exchange<B> {
    place: Arc<Place>,
    state: State,
    /// `None` when all is sent.
    sending: Option<Sending<B>>,
    kind: Kind,
    interim: u32,
    /// The instance has asked for the body that is held back.
    may_go_on: bool,
    /// Until when an instance may leave the body held back without a word.
    patience: Option<Pin<Box<Sleep>>>,
    /// The place of the call where connections are bounded. It goes after the connection.
    permit: Option<Permit>,
}

/// What is to be known of a request once its head is written.
pub(super) struct Kind {
    /// Whether it may be sent a second time though the first may have been seen.
    pub(super) repeatable: bool,
    /// Whether it may go by a connection that was used before.
    pub(super) may_reuse: bool,
    /// Whether answers have no body, as to HEAD.
    pub(super) bodyless: bool,
    pub(super) wanted: Option<Wanted>,
    /// Where hints go that come before the answer.
    pub(super) hints: Option<Hints>,
}

/// How a call begins.
pub(super) enum Start {
    Idle(Box<Connection>, Option<Permit>),
    /// By a connection that is to be made.
    Fresh(Option<Permit>),
    Waiting(Pin<Box<dyn Future<Output = Option<Permit>> + Send>>),
    Refused(BoxError),
}

impl Start {
    pub(super) fn of(place: &Place, kind: &Kind) -> Self {
        let permit = match place.places().map(|places| places.take(place.authority())) {
            None => None,
            Some(Take::Now(permit)) => Some(permit),
            Some(Take::Later(waiting)) => return Self::Waiting(waiting),
            Some(Take::Refused(error)) => return Self::Refused(error),
        };
        Self::with(place, kind, permit)
    }

    fn with(place: &Place, kind: &Kind, permit: Option<Permit>) -> Self {
        let check_out = || place.pool().check_out(place.number(), !kind.repeatable);
        match kind.may_reuse.then(check_out).flatten() {
            Some(connection) => Self::Idle(connection, permit),
            None => Self::Fresh(permit),
        }
    }
}

enum State {
    /// For a place.
    Waiting(Pin<Box<dyn Future<Output = Option<Permit>> + Send>>),
    Refused(BoxError),
    Connecting(Pin<Box<dyn Future<Output = io::Result<Box<Connection>>> + Send>>),
    Talking(Box<Connection>),
    Over,
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(place: Arc<Place>, start: Start, sending: Sending<B>, kind: Kind) -> Self {
        let mut exchange = Self {
            place,
            state: State::Over,
            sending: Some(sending),
            kind,
            interim: 0,
            may_go_on: false,
            patience: None,
            permit: None,
        };
        exchange.start(start);
        exchange
    }

    fn start(&mut self, start: Start) {
        match start {
            Start::Idle(connection, permit) => {
                self.permit = permit;
                self.talk(connection);
            }
            Start::Fresh(permit) => {
                self.permit = permit;
                self.connect();
            }
            Start::Waiting(waiting) => self.state = State::Waiting(waiting),
            Start::Refused(error) => self.state = State::Refused(error),
        }
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
        loop {
            let polled = self.poll_both(cx);
            // Once it is let go, there is more to send.
            if !(self.may_go_on || polled.is_pending() && self.is_impatient(cx)) {
                return polled;
            }
            self.may_go_on = false;
            self.sending.as_mut().map(Sending::release);
        }
    }

    /// Whether the body was held back for long enough.
    fn is_impatient(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.sending.as_ref().is_some_and(Sending::is_held) {
            return false;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        patience.as_mut().poll(cx).is_ready()
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, BoxError>> {
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
                if let Some(hints) = &self.kind.hints {
                    hints.tell(head.status, &head.headers);
                }
                self.interim += 1;
                if self.interim > INTERIM {
                    Err(TransportError::Malformed("too many interim answers"))?;
                }
                let held = self.sending.as_ref().is_some_and(Sending::is_held);
                if head.status == StatusCode::CONTINUE && held {
                    self.may_go_on = true;
                    return Poll::Pending;
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

    fn answered(&mut self, mut head: AnswerHead) -> Response<AnswerBody<B>> {
        let connection = match mem::replace(&mut self.state, State::Over) {
            State::Talking(connection) => Some(connection),
            _ => None,
        };
        let mut switched = None;
        let (idle, permit) = (self.place.transport().answer_idle, self.permit.take());
        let body = match (connection, self.kind.wanted.take()) {
            (Some(connection), Some(wanted)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                switched = Some(Switched(wanted.protocol().clone()));
                // It ends with either side, and with the server.
                tokio::spawn(wanted.tunnel(connection, permit));
                H1Body::empty()
            }
            (Some(connection), _) => {
                let (reuse, keeps) = (head.reuse, head.keeps);
                let home = Home { place: self.place.clone(), reuse, keeps, permit };
                // Nearly always all of it has gone.
                let unsent = self.sending.take().filter(|sending| !sending.is_gone());
                let sending = unsent.map(Box::new);
                let decoder = mem::replace(&mut head.body, Decoder::Over);
                H1Body::new(decoder, Talk { connection, sending, home })
            }
            (None, _) => H1Body::empty(),
        };
        let mut response = Response::new(AnswerBody::http1(body, idle));
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.headers;
        if let Some(switched) = switched {
            response.extensions_mut().insert(switched);
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
                State::Waiting(waiting) => {
                    let permit = ready!(waiting.as_mut().poll(cx));
                    let start = Start::with(&this.place, &this.kind, permit);
                    this.start(start);
                }
                State::Refused(_) => {
                    if let State::Refused(error) = mem::replace(&mut this.state, State::Over) {
                        return Poll::Ready(Err(error));
                    }
                }
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
