use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{self, Poll, ready},
    time::Duration,
};

use gusset_call::{Attempt, BoxError, Context, Deadline, DeadlineExceeded, Tried};
use http::{HeaderValue, Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep, sleep_until};
use tower_service::Service;

use super::{AttemptTimedOut, Classify, Idempotent, ReplayBody, Shared, Verdict, body::Replay};
use crate::ambient::{ATTEMPT_HEADER, attempt_in};

pin_project! {
    /// Future of [`Retry`](crate::Retry).
    pub struct RetryFuture<S, B, C>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        #[pin]
        state: State<S::Future, B>,
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
    enum State<F, B> {
        Attempt { #[pin] future: F },
        /// Waits, with the body of the next attempt.
        Wait { body: Option<ReplayBody<B>> },
        /// Wait is over; the service is polled ready.
        Readying { body: Option<ReplayBody<B>> },
        Over,
        /// The deadline had passed before the first attempt.
        TooLate,
    }
}

/// What outlasts an attempt.
struct Call<B> {
    shared: Arc<Shared>,
    head: Parts,
    replay: Replay<B>,
    deadline: Option<Deadline>,
    attempt: Attempt,
    /// Attempts after the first.
    retries: u32,
    /// Whether an attempt that may have been acted on can be made again.
    repeatable: bool,
}

impl<S, B, C> RetryFuture<S, B, C>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body + Unpin,
{
    pub(super) fn new(
        mut service: S,
        request: Request<B>,
        shared: Arc<Shared>,
        classify: C,
    ) -> Self {
        let mut call = Call::new(request, shared);
        let state = if call.deadline.is_some_and(Deadline::has_passed) {
            State::TooLate
        } else {
            match call.replay.next() {
                Some(body) => State::Attempt { future: service.call(call.request(body)) },
                None => State::Over,
            }
        };
        Self { state, timer: None, service, classify, call }
    }
}

impl<B: Body + Unpin> Call<B> {
    fn new(request: Request<B>, shared: Arc<Shared>) -> Self {
        if let Some(budget) = &shared.budget {
            budget.deposit();
        }
        let idempotent = Idempotent::is(&request);
        let (mut head, body) = request.into_parts();
        let deadline = match (head.extensions.get::<Deadline>(), Context::current().deadline()) {
            (Some(own), Some(around)) => Some(around.min(*own)),
            (own, around) => own.copied().or(around),
        };
        let attempt = attempt_in(&head.headers)
            .max(Attempt::current())
            .max(head.extensions.get().copied().unwrap_or(Attempt::FIRST));
        if head.extensions.get::<Tried>().is_none() {
            head.extensions.insert(Tried::new());
        }
        let repeatable = idempotent && !attempt.is_retry() && shared.policy.retries > 0;
        let limit = if repeatable { shared.policy.body_limit } else { 0 };
        let replay = Replay::new(body, limit);
        Self { shared, head, replay, deadline, attempt, retries: 0, repeatable }
    }

    fn request(&mut self, body: ReplayBody<B>) -> Request<ReplayBody<B>> {
        let mut head = self.head.clone();
        head.extensions.insert(self.attempt);
        if self.attempt.is_retry() {
            head.headers.insert(ATTEMPT_HEADER, HeaderValue::from(self.attempt.number()));
        }
        Request::from_parts(head, body)
    }

    /// The longest that the attempt under way may take; see `RetryPolicy::attempt_timeout`.
    fn attempt_timeout(&self) -> Option<Duration> {
        let another = self.repeatable && self.retries < self.shared.policy.retries;
        self.shared.policy.attempt_timeout.filter(|_| another)
    }

    /// After an attempt that is over and dropped: the body of the next one and the wait before it, if there is to be one.
    fn next<RB>(
        &mut self,
        result: &Result<Response<RB>, BoxError>,
        classify: &impl Classify<RB>,
    ) -> Option<(ReplayBody<B>, Duration)> {
        let Shared { policy, budget, counters } = &*self.shared;
        let (allowed, after) = match classify.classify(result) {
            Verdict::Final => {
                if self.retries > 0 && result.is_ok() {
                    counters.recovered.fetch_add(1, Relaxed);
                }
                return None;
            }
            Verdict::Failed { after } => (self.repeatable, after),
            Verdict::NotSent { after } => (true, after),
        };
        if !allowed {
            return None;
        }
        if self.retries >= policy.retries {
            counters.exhausted.fetch_add(1, Relaxed);
            return None;
        }
        // On top of what was asked for, for others were asked for the same.
        let wait = policy.backoff.wait(self.retries + 1, &mut rand::rng());
        let wait = wait.saturating_add(after.unwrap_or_default());
        if after.is_some_and(|after| after > policy.max_wait)
            || self.deadline.is_some_and(|deadline| wait >= deadline.remaining())
        {
            counters.too_late.fetch_add(1, Relaxed);
            return None;
        }
        let Some(body) = self.replay.next() else {
            counters.body_gone.fetch_add(1, Relaxed);
            return None;
        };
        if budget.as_ref().is_some_and(|budget| !budget.try_withdraw()) {
            counters.over_budget.fetch_add(1, Relaxed);
            return None;
        }
        counters.retries.fetch_add(1, Relaxed);
        self.retries += 1;
        self.attempt = self.attempt.next();
        Some((body, wait))
    }
}

impl<S, B, C, RB> Future for RetryFuture<S, B, C>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    B: Body + Unpin,
    C: Classify<RB>,
{
    type Output = Result<Response<RB>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let over = match this.state.as_mut().project() {
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
                    match this.call.next(&result, this.classify) {
                        Some((body, wait)) => {
                            tracing::debug!(attempt = %this.call.attempt, ?wait, "tries again");
                            // An unread answer is dropped here, and with it what it holds of its connection.
                            drop(result);
                            this.timer.set(Some(sleep(wait)));
                            this.state.set(State::Wait { body: Some(body) });
                            continue;
                        }
                        None => result,
                    }
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
                        let Some(body) = body.take() else { return Poll::Pending };
                        this.timer.set(None);
                        let future = this.service.call(this.call.request(body));
                        this.state.set(State::Attempt { future });
                        continue;
                    }
                    Poll::Ready(Err(error)) => Err(error.into()),
                    Poll::Pending => {
                        let Some(deadline) = this.call.deadline else { return Poll::Pending };
                        let timer = || sleep_until(deadline.instant());
                        ready!(poll_timer(this.timer.as_mut(), cx, timer));
                        Err(DeadlineExceeded.into())
                    }
                },
                StateProj::TooLate => Err(DeadlineExceeded.into()),
                // Polled again after it was ready, which only a broken caller does.
                StateProj::Over => return Poll::Pending,
            };
            this.state.set(State::Over);
            this.timer.set(None);
            return Poll::Ready(over);
        }
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

impl<S, B, C> fmt::Debug for RetryFuture<S, B, C>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").field("attempt", &self.call.attempt).finish_non_exhaustive()
    }
}
