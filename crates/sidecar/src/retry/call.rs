//! What outlasts an attempt.

use std::{sync::Arc, time::Duration};

use gusset_call::{Attempt, BoxError, Context, Deadline, PerhapsMade, Tried, never_made};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;

use super::{
    Classify, Idempotent, ReplayBody, Shared, Verdict,
    body::Replay,
    classify::GRPC_STATUS,
    head::Head,
    peek::Look,
    stats::{count, is_failure},
};
use crate::{
    ambient::{ATTEMPT_HEADER, attempt_in},
    deadline::timeout::is_grpc,
};

/// How gRPC's own retries tell how often a call was made before (gRFC A6).
pub(crate) const GRPC_PREVIOUS_ATTEMPTS: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");

pub(super) struct Call<B> {
    pub(super) shared: Arc<Shared>,
    /// None if there can be no other attempt.
    head: Option<Head>,
    replay: Replay<B>,
    pub(super) deadline: Option<Deadline>,
    pub(super) attempt: Attempt,
    /// Attempts after the first.
    retries: u32,
    /// Whether an attempt that may have been acted on can be made again.
    repeatable: bool,
    /// Whether an attempt before this one may have been acted on.
    perhaps_made: bool,
    tried: Option<Tried>,
}

impl<B: Body + Unpin> Call<B> {
    /// The call, before its first attempt.
    pub(super) fn new(request: &mut Request<B>, shared: Arc<Shared>) -> Self {
        let Shared { policy, budget, counters } = &*shared;
        counters.call();
        if let Some(budget) = budget {
            budget.deposit();
        }
        let extensions = request.extensions();
        let own = extensions.get::<Deadline>().copied();
        let around = Context::current().deadline();
        let deadline = own.into_iter().chain(around).min();
        let attempt = attempt_in(request.headers())
            .max(Attempt::current())
            .max(extensions.get().copied().unwrap_or(Attempt::FIRST));
        let again = policy.retries > 0;
        let repeatable = again && !attempt.is_retry() && Idempotent::is(request);
        let head = again.then(|| Head::of(request));
        if attempt.is_retry() {
            stamp(request, attempt);
        }
        Self {
            shared,
            head,
            replay: Replay::NONE,
            deadline,
            attempt,
            retries: 0,
            repeatable,
            perhaps_made: false,
            tried: None,
        }
    }

    /// The deadline has passed before the first attempt.
    pub(super) fn is_too_late(&self) -> bool {
        self.deadline.is_some_and(Deadline::has_passed)
    }

    /// The body of the first attempt.
    #[inline]
    pub(super) fn first(&mut self, body: B) -> ReplayBody<B> {
        // Also of what may not be repeated: HTTP/2 may refuse a request of which much was written.
        let limit = if self.head.is_some() { self.shared.policy.body_limit } else { 0 };
        let (replay, body) = Replay::new(body, limit);
        self.replay = replay;
        body
    }

    /// Notes that a balancer inside asked for the list of instances, and has written its choice there.
    pub(super) fn note(&mut self, tried: Option<Tried>) {
        self.tried = tried;
    }

    /// The attempt for which [`next`](Self::next) gave the body.
    pub(super) fn again(&mut self, body: ReplayBody<B>) -> Option<Request<ReplayBody<B>>> {
        let mut request = self.head.as_ref()?.request(body)?;
        stamp(&mut request, self.attempt);
        let given = request.extensions().get::<Tried>().cloned();
        let tried = self.tried.get_or_insert_with(|| given.unwrap_or_default());
        request.extensions_mut().insert(tried.clone());
        count(&self.shared.counters.retries);
        Some(request)
    }

    fn may_repeat(&self) -> bool {
        self.repeatable && self.retries < self.shared.policy.retries
    }

    /// The longest that the attempt under way may take; see `RetryPolicy::attempt_timeout`.
    pub(super) fn attempt_timeout(&self) -> Option<Duration> {
        self.shared.policy.attempt_timeout.filter(|_| self.may_repeat())
    }

    /// How much of the answer has to be seen before it can be judged. While the request is still being sent nothing is: its
    /// sender may be waiting for the headers of the answer.
    pub(super) fn look<RB: Body>(&self, response: &Response<RB>) -> Option<Look> {
        let whole = self.shared.policy.whole_answers;
        let headers = response.headers();
        let undecided = || is_grpc(headers) && !headers.contains_key(&GRPC_STATUS);
        let look = match whole {
            0 if undecided() => Look::First,
            0 => return None,
            limit => Look::Whole(limit),
        };
        let worth = self.may_repeat() && !response.body().is_end_stream() && self.replay.is_sent();
        worth.then_some(look)
    }

    /// After an attempt that is over and dropped: the body of the next one and the wait before it, if there is to be one.
    pub(super) fn next<RB>(
        &mut self,
        result: &Result<Response<RB>, BoxError>,
        classify: &impl Classify<RB>,
    ) -> Option<(ReplayBody<B>, Duration)> {
        let counters = &self.shared.counters;
        let (sent, after) = match classify.classify(result) {
            Verdict::Final => {
                if is_failure(result) {
                    count(&counters.attempts_failed);
                    count(&counters.calls_failed);
                } else if self.retries > 0 {
                    count(&counters.recovered);
                }
                return None;
            }
            Verdict::Failed { after } => (true, after),
            Verdict::NotSent { after } => (false, after),
        };
        count(&counters.attempts_failed);
        let next = if self.repeatable || !sent { self.pay(after) } else { None };
        if next.is_none() {
            count(&self.shared.counters.calls_failed);
        } else {
            self.perhaps_made |= sent;
        }
        next
    }

    /// The error of the last attempt as that of the call. That this one was refused does not say that none was made.
    pub(super) fn told(&self, error: BoxError) -> BoxError {
        if self.perhaps_made && never_made(&*error).is_some() {
            return PerhapsMade::new(error).into();
        }
        error
    }

    /// Another attempt, if the policy, the deadline, the body and at last the budget allow it.
    fn pay(&mut self, after: Option<Duration>) -> Option<(ReplayBody<B>, Duration)> {
        let Shared { policy, budget, counters } = &*self.shared;
        if self.retries >= policy.retries {
            count(&counters.exhausted);
            return None;
        }
        // On top of what was asked for, for others were asked for the same.
        let wait = policy.backoff.wait(self.retries + 1, &mut rand::rng());
        let wait = wait.saturating_add(after.unwrap_or_default());
        if after.is_some_and(|after| after > policy.max_wait)
            || self.deadline.is_some_and(|deadline| wait >= deadline.remaining())
        {
            count(&counters.too_late);
            return None;
        }
        let Some(body) = self.replay.next() else {
            count(&counters.body_gone);
            return None;
        };
        if budget.as_ref().is_some_and(|budget| !budget.try_withdraw()) {
            count(&counters.over_budget);
            return None;
        }
        self.retries += 1;
        self.attempt = self.attempt.next();
        Some((body, wait))
    }
}

/// Writes down which attempt a request is.
pub(crate) fn stamp<B>(request: &mut Request<B>, attempt: Attempt) {
    request.extensions_mut().insert(attempt);
    let headers = request.headers_mut();
    headers.insert(ATTEMPT_HEADER, HeaderValue::from(attempt.number()));
    if is_grpc(headers) {
        headers.insert(GRPC_PREVIOUS_ATTEMPTS, HeaderValue::from(attempt.number() - 1));
    }
}
