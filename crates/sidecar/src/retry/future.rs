use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    time::Duration,
};

use gusset_call::{BoxError, Deadline, DeadlineExceeded, Tried};
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep, sleep_until};
use tower_service::Service;

use super::{
    AttemptTimedOut, Classify, PeekedBody, ReplayBody, Shared,
    call::Call,
    peek::{Look, Peek},
    stats::count,
};

pin_project! {
    /// Future of [`Retry`](crate::Retry).
    pub struct RetryFuture<S, B, C, RB>
    where
        S: Service<Request<ReplayBody<B>>>,
        RB: Body,
    {
        #[pin]
        state: State<S::Future, B, RB>,
        // Of the attempt, of the wait, or of the deadline, as the state has it. Armed only when something is pending.
        #[pin]
        timer: Option<Sleep>,
        service: S,
        classify: C,
        call: Call<B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B, RB>
    where
        RB: Body,
    {
        Attempt { #[pin] future: F },
        /// The headers of the answer are there, its body is looked at.
        Peek { peek: Option<Box<Peek<RB>>> },
        /// Waits, with the body of the next attempt.
        Wait { body: Option<ReplayBody<B>> },
        /// Wait is over; the service is polled ready.
        Readying { body: Option<ReplayBody<B>> },
        Over,
        /// The deadline had passed before the first attempt.
        TooLate,
    }
}

impl<S, B, C, RB> RetryFuture<S, B, C, RB>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body + Unpin,
    RB: Body,
{
    pub(super) fn new(
        mut service: S,
        request: Request<B>,
        shared: Arc<Shared>,
        classify: C,
    ) -> Self {
        let (mut call, first) = Call::new(request, shared);
        let state = match first {
            _ if call.deadline.is_some_and(Deadline::has_passed) => State::TooLate,
            Some(request) => {
                let (future, tried) = Tried::offered(|| service.call(request));
                call.note(tried);
                State::Attempt { future }
            }
            None => State::Over,
        };
        Self { state, timer: None, service, classify, call }
    }
}

/// What an attempt has come to.
enum Came<B, RB: Body> {
    /// It is what the caller gets.
    Over(Result<Response<PeekedBody<RB>>, BoxError>),
    /// There will be another, with this body and after this wait.
    Again(ReplayBody<B>, Duration),
    /// An answer that cannot be judged yet.
    Look(Response<RB>, Look),
}

impl<B: Body + Unpin> Call<B> {
    fn came<RB: Body>(
        &mut self,
        result: Result<Response<RB>, BoxError>,
        classify: &impl Classify<RB>,
    ) -> Came<B, RB> {
        let look = result.as_ref().ok().and_then(|response| self.look(response));
        let result = match (result, look) {
            (Ok(response), Some(look)) => return Came::Look(response, look),
            (result, _) => result,
        };
        match self.next(&result, classify) {
            // An unread answer is dropped here, and with it what it holds of its connection.
            Some((body, wait)) => Came::Again(body, wait),
            None => Came::Over(result.map(|response| response.map(PeekedBody::unseen))),
        }
    }

    /// The same for an answer that was looked at, or that broke off meanwhile.
    fn looked<RB: Body + Unpin>(
        &mut self,
        peek: Result<Peek<RB>, BoxError>,
        classify: &impl Classify<RB>,
    ) -> Came<B, RB> {
        let (next, result) = match peek {
            Ok(peek) => peek.finish(|result| self.next(result, classify)),
            Err(error) => {
                let result = Err(error);
                let next = self.next(&result, classify);
                (next, result.map(|response| response.map(PeekedBody::unseen)))
            }
        };
        next.map_or_else(|| Came::Over(result), |(body, wait)| Came::Again(body, wait))
    }
}

impl<S, B, C, RB> Future for RetryFuture<S, B, C, RB>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    B: Body + Unpin,
    RB: Body + Unpin,
    RB::Error: Into<BoxError>,
    C: Classify<RB>,
{
    type Output = Result<Response<PeekedBody<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let came = match this.state.as_mut().project() {
                StateProj::Attempt { future } => {
                    let result = match future.poll(cx) {
                        Poll::Ready(result) => result.map_err(Into::into),
                        Poll::Pending => {
                            let Some(span) = this.call.attempt_timeout() else {
                                return Poll::Pending;
                            };
                            ready!(poll_timer(this.timer.as_mut(), cx, || sleep(span)));
                            Err(AttemptTimedOut(span).into())
                        }
                    };
                    // Dropped first, for it may hold the body.
                    this.state.set(State::Over);
                    this.call.came(result, this.classify)
                }
                StateProj::Peek { peek: slot } => {
                    let Some(peek) = slot else { return Poll::Pending };
                    let seen = match peek.poll(cx) {
                        Poll::Ready(seen) => seen.map_err(Into::into),
                        Poll::Pending => {
                            let Some(span) = this.call.patience() else { return Poll::Pending };
                            ready!(poll_timer(this.timer.as_mut(), cx, || sleep(span)));
                            if peek.has_to_end() { Err(this.call.too_slow()) } else { Ok(()) }
                        }
                    };
                    let Some(peek) = slot.take() else { return Poll::Pending };
                    this.call.looked(seen.map(|()| *peek), this.classify)
                }
                StateProj::Wait { body } => {
                    ready!(poll_timer(this.timer.as_mut(), cx, || sleep(Duration::ZERO)));
                    let body = body.take();
                    this.timer.set(None);
                    this.state.set(State::Readying { body });
                    continue;
                }
                StateProj::Readying { body } => match this.service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => {
                        let request = body.take().and_then(|body| this.call.again(body));
                        let Some(request) = request else { return Poll::Pending };
                        this.timer.set(None);
                        let future = this.service.call(request);
                        this.state.set(State::Attempt { future });
                        continue;
                    }
                    Poll::Ready(Err(error)) => this.call.unready(error),
                    Poll::Pending => {
                        let Some(deadline) = this.call.deadline else { return Poll::Pending };
                        let timer = || sleep_until(deadline.instant());
                        ready!(poll_timer(this.timer.as_mut(), cx, timer));
                        this.call.unready(DeadlineExceeded)
                    }
                },
                StateProj::TooLate => {
                    count(&this.call.shared.counters.unattempted);
                    this.call.unready(DeadlineExceeded)
                }
                // Polled again after it was ready, which only a broken caller does.
                StateProj::Over => return Poll::Pending,
            };
            this.timer.set(None);
            match came {
                Came::Over(result) => {
                    this.state.set(State::Over);
                    return Poll::Ready(result);
                }
                Came::Again(body, wait) => {
                    tracing::debug!(attempt = %this.call.attempt, ?wait, "tries again");
                    this.timer.set(Some(sleep(wait)));
                    this.state.set(State::Wait { body: Some(body) });
                }
                Came::Look(response, look) => {
                    let peek = Some(Box::new(Peek::new(response, look)));
                    this.state.set(State::Peek { peek });
                }
            }
        }
    }
}

impl<B: Body + Unpin> Call<B> {
    /// For how long an answer is looked at, from now on.
    fn patience(&self) -> Option<Duration> {
        let left = self.deadline.map(Deadline::remaining);
        self.attempt_timeout().into_iter().chain(left).min()
    }

    /// What it means that it was not over by then.
    fn too_slow(&self) -> BoxError {
        match self.attempt_timeout() {
            Some(span) if !self.deadline.is_some_and(Deadline::has_passed) => {
                AttemptTimedOut(span).into()
            }
            _ => DeadlineExceeded.into(),
        }
    }

    /// The call fails without another attempt.
    fn unready<RB: Body>(&self, error: impl Into<BoxError>) -> Came<B, RB> {
        count(&self.shared.counters.calls_failed);
        Came::Over(Err(error.into()))
    }
}

/// Polls the timer, after arming it if it is not yet.
fn poll_timer(
    mut timer: Pin<&mut Option<Sleep>>,
    cx: &mut task::Context<'_>,
    arm: impl FnOnce() -> Sleep,
) -> Poll<()> {
    if timer.is_none() {
        timer.set(Some(arm()));
    }
    timer.as_pin_mut().map_or(Poll::Ready(()), |timer| timer.poll(cx))
}

impl<S, B, C, RB> fmt::Debug for RetryFuture<S, B, C, RB>
where
    S: Service<Request<ReplayBody<B>>>,
    RB: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").field("attempt", &self.call.attempt).finish_non_exhaustive()
    }
}
