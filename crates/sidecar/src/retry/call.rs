//! What outlasts an attempt.

use std::{sync::Arc, time::Duration};

use gusset_call::{Attempt, BoxError, Context, Deadline, Tried};
use http::{HeaderName, HeaderValue, Request, Response, request::Parts};
use http_body::Body;

use super::{
    Classify, Idempotent, ReplayBody, Shared, Verdict,
    body::Replay,
    classify::GRPC_STATUS,
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
    head: Option<Parts>,
    replay: Replay<B>,
    pub(super) deadline: Option<Deadline>,
    pub(super) attempt: Attempt,
    /// Attempts after the first.
    retries: u32,
    /// Whether an attempt that may have been acted on can be made again.
    repeatable: bool,
    tried: Option<Tried>,
}

impl<B: Body + Unpin> Call<B> {
    /// The call, and its first attempt.
    pub(super) fn new(
        request: Request<B>,
        shared: Arc<Shared>,
    ) -> (Self, Option<Request<ReplayBody<B>>>) {
        let Shared { policy, budget, counters } = &*shared;
        count(&counters.calls);
        if let Some(budget) = budget {
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
        let repeatable = idempotent && !attempt.is_retry() && policy.retries > 0;
        // Also of what may not be repeated: HTTP/2 may refuse a request of which much was written.
        let replay = Replay::new(body, if policy.retries > 0 { policy.body_limit } else { 0 });
        let kept = (policy.retries > 0).then(|| head.clone());
        if attempt.is_retry() {
            stamp(&mut head, attempt);
        }
        let first = replay.next().map(|body| Request::from_parts(head, body));
        let (retries, tried) = (0, None);
        (Self { shared, head: kept, replay, deadline, attempt, retries, repeatable, tried }, first)
    }

    /// Notes that a balancer inside asked for the list of instances, and has written its choice there.
    pub(super) fn note(&mut self, tried: Option<Tried>) {
        self.tried = tried;
    }

    /// The attempt for which [`next`](Self::next) gave the body.
    pub(super) fn again(&mut self, body: ReplayBody<B>) -> Option<Request<ReplayBody<B>>> {
        let mut head = self.head.clone()?;
        stamp(&mut head, self.attempt);
        let given = head.extensions.get::<Tried>().cloned();
        let tried = self.tried.get_or_insert_with(|| given.unwrap_or_default());
        head.extensions.insert(tried.clone());
        count(&self.shared.counters.retries);
        Some(Request::from_parts(head, body))
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
        let (allowed, after) = match classify.classify(result) {
            Verdict::Final => {
                if is_failure(result) {
                    count(&counters.attempts_failed);
                    count(&counters.calls_failed);
                } else if self.retries > 0 {
                    count(&counters.recovered);
                }
                return None;
            }
            Verdict::Failed { after } => (self.repeatable, after),
            Verdict::NotSent { after } => (true, after),
        };
        count(&counters.attempts_failed);
        let next = if allowed { self.pay(after) } else { None };
        if next.is_none() {
            count(&self.shared.counters.calls_failed);
        }
        next
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
pub(crate) fn stamp(head: &mut Parts, attempt: Attempt) {
    head.extensions.insert(attempt);
    head.headers.insert(ATTEMPT_HEADER, HeaderValue::from(attempt.number()));
    if is_grpc(&head.headers) {
        let before = HeaderValue::from(attempt.number() - 1);
        head.headers.insert(GRPC_PREVIOUS_ATTEMPTS, before);
    }
}
