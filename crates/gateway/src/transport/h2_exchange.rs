use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gusset_call::BoxError;
use h2::client::ResponseFuture;
use http::{Request, Response, header};
use http_body::Body;

use super::{
    AnswerBody, TransportError,
    exchange::INTERIM,
    h2_body::H2Body,
    line::Place,
    multiplex::{Dialing, Found, Multiplex, Seat},
    upload::{Upload, Uploaded},
};
use crate::hints::Hints;

/// How often a call looks for a connection that is not to be had in the end. Several of the tries are for those that are made for it.
const TRIES: u32 = 8;

/// One request to an instance by HTTP/2, up to the head of its answer.
pub(crate) struct H2Exchange<B> {
    place: Arc<Place>,
    request: Option<(Request<()>, Option<B>)>,
    state: State<B>,
    tries: u32,
    hints: Option<Hints>,
}

enum State<B> {
    Looking,
    /// For a connection that is being made, by whomever.
    Waiting(Pin<Box<dyn Future<Output = Option<Arc<io::Error>>> + Send>>),
    /// For a stream.
    Seated(Seat),
    Open(Open<B>),
    Over,
}

struct Open<B> {
    answer: ResponseFuture,
    upload: Option<Upload<B>>,
    unwanted: bool,
    bodyless: bool,
    interim: u32,
    counted: Arc<()>,
}

impl<B> H2Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// `body` is `None` if there is none.
    pub(super) const fn new(
        place: Arc<Place>,
        request: (Request<()>, Option<B>),
        hints: Option<Hints>,
    ) -> Self {
        Self { place, request: Some(request), state: State::Looking, tries: 0, hints }
    }

    fn look(&self) -> State<B> {
        match Multiplex::find(&self.place) {
            Found::Seat(seat) => State::Seated(seat),
            Found::Dialing(dialing) => State::Waiting(Box::pin(dialed(dialing))),
        }
    }

    /// Whether it goes on when a connection has ended before it had a stream.
    fn failed(&mut self) -> Result<(), TransportError> {
        self.tries += 1;
        if self.tries < TRIES {
            return Ok(());
        }
        Err(TransportError::Connect(io::Error::other("its connections end at once")))
    }

    /// What becomes of it when no connection could be made.
    fn undialed(&self, error: &Arc<io::Error>) -> Result<State<B>, TransportError> {
        let other = self.place.multiplex().any();
        other
            .map(State::Seated)
            .ok_or_else(|| TransportError::Connect(io::Error::new(error.kind(), error.clone())))
    }

    fn open(&mut self, seat: Seat) -> Result<State<B>, TransportError> {
        let Seat { mut send, counted, .. } = seat;
        let Some((head, body)) = self.request.take() else { return Ok(State::Over) };
        let bodyless = head.method() == http::Method::HEAD;
        let sent = send.send_request(head, body.is_none());
        let (answer, stream) = sent.map_err(TransportError::of_stream)?;
        let upload = body.map(|body| Upload::new(stream, body));
        Ok(State::Open(Open { answer, upload, unwanted: false, bodyless, interim: 0, counted }))
    }
}

async fn dialed(mut dialing: Dialing) -> Option<Arc<io::Error>> {
    // It errs when there is nothing to tell, and then there is a connection, or nobody makes one any more.
    dialing.wait_for(Option::is_some).await.ok().and_then(|error| error.clone())
}

impl<B> Open<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Both ways at once, for an instance may answer before it has read everything.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        hints: Option<&Hints>,
    ) -> Poll<Result<Response<h2::RecvStream>, BoxError>> {
        if let Some(upload) = &mut self.upload {
            match upload.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(uploaded) => {
                    self.upload = None;
                    match uploaded {
                        Ok(uploaded) => self.unwanted = uploaded == Uploaded::Unwanted,
                        // Why the stream has ended, its other half tells as well, behind the answer if there is one.
                        Err(error) if error.is::<TransportError>() => {}
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
            }
        }
        // Each is to be counted, and h2 drops those that come while it is asked for the answer.
        while let Some(Ok(interim)) = ready!(self.answer.poll_informational(cx)) {
            if let Some(hints) = hints {
                hints.tell(interim.status(), interim.headers());
            }
            self.interim += 1;
            if self.interim > INTERIM {
                Err(TransportError::Malformed("too many interim answers"))?;
            }
        }
        Pin::new(&mut self.answer).poll(cx).map_err(|error| TransportError::of_stream(error).into())
    }

    fn answered(self, answer: Response<h2::RecvStream>) -> Response<H2Body<B>> {
        let length = answer.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let nothing = self.bodyless || matches!(answer.status().as_u16(), 204 | 304);
        let left = if nothing { Some(0) } else { length };
        answer.map(|stream| H2Body::new(stream, self.upload, self.unwanted, left, self.counted))
    }
}

impl<B> Future for H2Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<AnswerBody<B>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            this.state = match &mut this.state {
                State::Looking => this.look(),
                State::Waiting(dialed) => match ready!(dialed.as_mut().poll(cx)) {
                    // It was made, or nobody makes one any more.
                    None => {
                        this.failed()?;
                        State::Looking
                    }
                    Some(error) => this.undialed(&error)?,
                },
                State::Seated(seat) => match ready!(seat.send.poll_ready(cx)) {
                    Ok(()) => match std::mem::replace(&mut this.state, State::Over) {
                        State::Seated(seat) => this.open(seat)?,
                        _ => State::Over,
                    },
                    Err(_) => {
                        this.place.multiplex().forget(seat.id);
                        this.failed()?;
                        State::Looking
                    }
                },
                State::Open(open) => {
                    let answer = ready!(open.poll(cx, this.hints.as_ref()));
                    let State::Open(open) = std::mem::replace(&mut this.state, State::Over) else {
                        return Poll::Pending;
                    };
                    let idle = this.place.transport().answer_idle;
                    let answer = answer.map(|answer| open.answered(answer));
                    return Poll::Ready(
                        answer.map(|answer| answer.map(|body| AnswerBody::http2(body, idle))),
                    );
                }
                // Polled again after it was ready, which only a broken caller does.
                State::Over => return Poll::Pending,
            };
        }
    }
}

impl<B> fmt::Debug for H2Exchange<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H2Exchange").field("tries", &self.tries).finish_non_exhaustive()
    }
}
