use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
    time::Duration,
};

use gusset_call::{BoxError, Deadline, DeadlineExceeded};
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep, sleep_until};
use tower_service::Service;

use super::{
    AttemptTimedOut, Classify, PeekedBody, ReplayBody,
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
        // Of the attempt, of the wait, or of the deadline, as the state has it. Armed only when something is pending, and on the heap: it is
        // as large as all the rest, which moves into the futures around.
        timer: Option<Pin<Box<Sleep>>>,
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
    RB: Body,
{
    #[inline]
    pub(super) const fn attempt(future: S::Future, service: S, classify: C, call: Call<B>) -> Self {
        Self { state: State::Attempt { future }, timer: None, service, classify, call }
    }

    pub(super) const fn too_late(service: S, classify: C, call: Call<B>) -> Self {
        Self { state: State::TooLate, timer: None, service, classify, call }
    }
}

/// How long the headers of a gRPC answer are withheld for what follows them. A service that has failed says so right behind them; one that sends nothing for
/// so long has something to wait for, and its caller may want to know that it does.
const FIRST: Duration = Duration::from_secs(1);

/// What an attempt has come to.
enum Came<B> {
    /// Its result is what the caller gets.
    Over,
    /// There will be another, with this body and after this wait.
    Again(ReplayBody<B>, Duration),
    /// It has an answer that cannot be judged yet.
    Look(Look),
}

impl<B: Body + Unpin> Call<B> {
    fn came<RB: Body>(
        &mut self,
        result: &Result<Response<RB>, BoxError>,
        classify: &impl Classify<RB>,
    ) -> Came<B> {
        if let Some(look) = result.as_ref().ok().and_then(|response| self.look(response)) {
            return Came::Look(look);
        }
        match self.next(result, classify) {
            Some((body, wait)) => Came::Again(body, wait),
            None => Came::Over,
        }
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
            let (body, wait) = match this.state.as_mut().project() {
                StateProj::Attempt { future } => {
                    let result = match future.poll(cx) {
                        Poll::Ready(result) => result.map_err(Into::into),
                        Poll::Pending => {
                            let Some(span) = this.call.attempt_timeout() else {
                                return Poll::Pending;
                            };
                            ready!(poll_timer(this.timer, cx, || sleep(span)));
                            Err(AttemptTimedOut(span).into())
                        }
                    };
                    // Dropped first, for it may hold the body.
                    this.state.set(State::Over);
                    *this.timer = None;
                    match (this.call.came(&result, this.classify), result) {
                        (Came::Over, result) => {
                            let unseen = |response: Response<RB>| response.map(PeekedBody::unseen);
                            let result = result.map_err(|error| this.call.told(error));
                            return Poll::Ready(result.map(unseen));
                        }
                        // An unread answer is dropped here, and with it what it holds of its connection.
                        (Came::Again(body, wait), _) => (body, wait),
                        (Came::Look(look), Ok(response)) => {
                            let peek = Some(Box::new(Peek::new(response, look)));
                            this.state.set(State::Peek { peek });
                            continue;
                        }
                        (Came::Look(_), Err(error)) => return Poll::Ready(Err(error)),
                    }
                }
                StateProj::Peek { peek: slot } => {
                    let Some(peek) = slot else { return Poll::Pending };
                    let seen = match peek.poll(cx) {
                        Poll::Ready(seen) => seen.map_err(Into::into),
                        Poll::Pending => {
                            let span = this.call.patience(peek.has_to_end());
                            let Some(span) = span else { return Poll::Pending };
                            ready!(poll_timer(this.timer, cx, || sleep(span)));
                            if peek.has_to_end() { Err(this.call.too_slow()) } else { Ok(()) }
                        }
                    };
                    let Some(peek) = slot.take() else { return Poll::Pending };
                    this.state.set(State::Over);
                    *this.timer = None;
                    match this.call.looked(seen.map(|()| *peek), this.classify) {
                        (Some(next), _) => next,
                        (None, result) => {
                            return Poll::Ready(result.map_err(|error| this.call.told(error)));
                        }
                    }
                }
                StateProj::Wait { body } => {
                    ready!(poll_timer(this.timer, cx, || sleep(Duration::ZERO)));
                    let body = body.take();
                    *this.timer = None;
                    this.state.set(State::Readying { body });
                    continue;
                }
                StateProj::Readying { body } => {
                    let error = match this.service.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {
                            let Some(body) = body.take() else { return Poll::Pending };
                            *this.timer = None;
                            match this.call.again(body) {
                                Some(request) => {
                                    let future = this.service.call(request);
                                    this.state.set(State::Attempt { future });
                                    continue;
                                }
                                None => "the request cannot be made again".into(),
                            }
                        }
                        Poll::Ready(Err(error)) => error.into(),
                        Poll::Pending => {
                            let Some(deadline) = this.call.deadline else { return Poll::Pending };
                            let timer = || sleep_until(deadline.instant());
                            ready!(poll_timer(this.timer, cx, timer));
                            DeadlineExceeded.into()
                        }
                    };
                    this.state.set(State::Over);
                    *this.timer = None;
                    return Poll::Ready(Err(this.call.unready(error)));
                }
                StateProj::TooLate => {
                    this.state.set(State::Over);
                    count(&this.call.shared.counters.unattempted);
                    return Poll::Ready(Err(this.call.unready(DeadlineExceeded.into())));
                }
                // Polled again after it was ready, which only a broken caller does.
                StateProj::Over => return Poll::Pending,
            };
            tracing::debug!(attempt = %this.call.attempt, ?wait, "tries again");
            *this.timer = Some(Box::pin(sleep(wait)));
            this.state.set(State::Wait { body: Some(body) });
        }
    }
}

type Judged<B, RB> =
    (Option<(ReplayBody<B>, Duration)>, Result<Response<PeekedBody<RB>>, BoxError>);

impl<B: Body + Unpin> Call<B> {
    /// For how long an answer is looked at, from now on. `whole` says that it has to end.
    fn patience(&self, whole: bool) -> Option<Duration> {
        let left = self.deadline.map(Deadline::remaining);
        let first = (!whole).then_some(FIRST);
        self.attempt_timeout().into_iter().chain(left).chain(first).min()
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

    /// What comes after an answer that was looked at, or that broke off meanwhile.
    fn looked<RB: Body + Unpin>(
        &mut self,
        peek: Result<Peek<RB>, BoxError>,
        classify: &impl Classify<RB>,
    ) -> Judged<B, RB> {
        match peek {
            Ok(peek) => peek.finish(|result| self.next(result, classify)),
            Err(error) => {
                let result = Err(error);
                let next = self.next(&result, classify);
                (next, result.map(|response| response.map(PeekedBody::unseen)))
            }
        }
    }

    /// The call fails without another attempt.
    fn unready(&self, error: BoxError) -> BoxError {
        count(&self.shared.counters.calls_failed);
        self.told(error)
    }
}

/// Polls the timer, after arming it if it is not yet.
fn poll_timer(
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut task::Context<'_>,
    arm: impl FnOnce() -> Sleep,
) -> Poll<()> {
    timer.get_or_insert_with(|| Box::pin(arm())).as_mut().poll(cx)
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
