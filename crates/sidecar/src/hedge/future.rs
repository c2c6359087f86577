use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::{Attempt, BoxError, Tried, never_made};
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::Shared;
use crate::{
    ambient::attempt_in,
    retry::{Classify, Head, Idempotent, Replay, ReplayBody, Verdict, is_failure, stamp},
};

pin_project! {
    /// Future of [`Hedge`](crate::Hedge).
    pub struct HedgeFuture<S, B, C>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        // None once it has failed while a hedge is under way, or when all is over.
        #[pin]
        first: Option<S::Future>,
        // A place on the heap for each, for most calls have none.
        hedges: Vec<Running<S::Future>>,
        failed: Option<Result<S::Response, BoxError>>,
        // On the heap, since it is as large as all the rest, and most calls are over before they are late.
        timer: Option<Pin<Box<Sleep>>>,
        service: S,
        classify: C,
        call: Call<B>,
    }
}

struct Running<F> {
    future: Pin<Box<F>>,
    /// When it began, by the layer's clock.
    began: u64,
}

struct Call<B> {
    timed: Timed,
    /// None if the call is never hedged.
    plan: Option<Plan<B>>,
}

/// What a hedge is made of.
struct Plan<B> {
    head: Head,
    replay: Replay<B>,
    tried: Option<Tried>,
    attempt: Attempt,
    delay: Duration,
    left: u32,
    /// The wait is over, and the service is polled ready.
    due: bool,
}

/// How long the first call takes. If it is dropped when it is late already, by whoever gives it up, that is how long it took at least: were such
/// calls left out, the quick ones alone would say what is slow.
struct Timed {
    shared: Arc<Shared>,
    began: u64,
    late: bool,
    /// Calls that may not be hedged are not timed.
    runs: bool,
}

impl Timed {
    fn end(&mut self, counts: bool) {
        if std::mem::take(&mut self.runs) && counts {
            let now = self.shared.clock.nanos();
            self.shared.latencies.record(now, now.saturating_sub(self.began));
        }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.end(self.late);
    }
}

impl<S, B, C> HedgeFuture<S, B, C>
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
        let (mut call, request) = Call::new(request, shared);
        let offer = Tried::offer();
        let first = Some(service.call(request));
        let tried = offer.asked();
        if let Some(plan) = &mut call.plan {
            plan.tried = tried;
        }
        Self { first, hedges: Vec::new(), failed: None, timer: None, service, classify, call }
    }
}

impl<B: Body + Unpin> Call<B> {
    fn new(request: Request<B>, shared: Arc<Shared>) -> (Self, Request<ReplayBody<B>>) {
        if let (true, Some(budget)) = (shared.deposits, &shared.budget) {
            budget.deposit();
        }
        let began = shared.clock.nanos();
        let own = request.extensions().get().copied().unwrap_or(Attempt::FIRST);
        let attempt = attempt_in(request.headers()).max(Attempt::current()).max(own);
        let hedged = Idempotent::is(&request) && !attempt.is_retry() && shared.policy.hedges > 0;
        let timed = |runs| Timed { shared: shared.clone(), began, late: false, runs };
        let delay = if hedged {
            shared.pressure.call(began);
            shared.delay(began)
        } else {
            None
        };
        let head = delay.map(|_| Head::of(&request));
        let mut replay = Replay::NONE;
        let first = request.map(|body| {
            let limit = if hedged { shared.policy.body_limit } else { 0 };
            let (kept, body) = Replay::new(body, limit);
            replay = kept;
            body
        });
        let (left, due, tried) = (shared.policy.hedges, false, None);
        let plan = head.zip(delay);
        let plan =
            plan.map(|(head, delay)| Plan { head, replay, tried, attempt, delay, left, due });
        (Self { timed: timed(hedged), plan }, first)
    }

    /// A wait is over. Whether a hedge is to be made, which then is paid for.
    fn may_hedge(&mut self) -> Option<Request<ReplayBody<B>>> {
        let plan = self.plan.as_mut()?;
        let Shared { budget, counters, clock, pressure, .. } = &*self.timed.shared;
        let Some(body) = plan.replay.next() else {
            counters.body_gone.fetch_add(1, Relaxed);
            return None;
        };
        if pressure.is_high(clock.nanos()) {
            counters.overloaded.fetch_add(1, Relaxed);
            return None;
        }
        if budget.as_ref().is_some_and(|budget| !budget.try_withdraw()) {
            counters.over_budget.fetch_add(1, Relaxed);
            return None;
        }
        counters.hedges.fetch_add(1, Relaxed);
        plan.left -= 1;
        plan.attempt = plan.attempt.next();
        let mut request = plan.head.request(body)?;
        stamp(&mut request, plan.attempt);
        if let Some(tried) = &plan.tried {
            request.extensions_mut().insert(tried.clone());
        }
        Some(request)
    }

    /// The call is over, though its future may be kept for long.
    fn end(&mut self) {
        self.plan = None;
        self.timed.end(self.timed.late);
    }

    fn late(&mut self) {
        if !std::mem::replace(&mut self.timed.late, true) {
            self.timed.shared.pressure.bad(self.timed.shared.clock.nanos());
        }
    }

    /// Whether a result ends the call, though others may be under way.
    fn is_good<RB>(
        &self,
        result: &Result<Response<RB>, BoxError>,
        classify: &impl Classify<RB>,
    ) -> bool {
        matches!(classify.classify(result), Verdict::Final) && !is_failure(result)
    }

    fn note_failure(&self) {
        // Late ones are noted already.
        if !self.timed.late {
            self.timed.shared.pressure.bad(self.timed.shared.clock.nanos());
        }
    }
}

impl<S, B, C, RB> Future for HedgeFuture<S, B, C>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    B: Body + Unpin,
    C: Classify<RB>,
{
    type Output = Result<Response<RB>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Some(result) = self.as_mut().poll_calls(cx) {
                let mut this = self.project();
                // Those that lost end here, and give back what they hold.
                this.first.set(None);
                this.hedges.clear();
                *this.timer = None;
                *this.failed = None;
                this.call.end();
                return Poll::Ready(result);
            }
            let Poll::Ready(request) = self.as_mut().poll_wait(cx) else { return Poll::Pending };
            let this = self.as_mut().project();
            if let Some(request) = request {
                let began = this.call.timed.shared.clock.nanos();
                let future = Box::pin(this.service.call(request));
                this.hedges.push(Running { future, began });
            }
        }
    }
}

impl<S, B, C, RB> HedgeFuture<S, B, C>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    B: Body + Unpin,
    C: Classify<RB>,
{
    /// Polls all that is under way, until a result ends the call.
    fn poll_calls(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Option<Result<S::Response, BoxError>> {
        let mut this = self.project();
        if let Some(Poll::Ready(result)) = this.first.as_mut().as_pin_mut().map(|f| f.poll(cx)) {
            this.first.set(None);
            let result = result.map_err(Into::into);
            let good = this.call.is_good(&result, this.classify);
            this.call.timed.end(good);
            if good {
                return Some(result);
            }
            this.call.note_failure();
            fail(this.failed, result);
        }
        let mut place = 0;
        while let Some(running) = this.hedges.get_mut(place) {
            let Poll::Ready(result) = running.future.as_mut().poll(cx) else {
                place += 1;
                continue;
            };
            let Running { began, .. } = this.hedges.swap_remove(place);
            let result = result.map_err(Into::into);
            if this.call.is_good(&result, this.classify) {
                let Shared { clock, latencies, counters, .. } = &*this.call.timed.shared;
                let now = clock.nanos();
                latencies.record(now, now.saturating_sub(began));
                counters.won.fetch_add(1, Relaxed);
                return Some(result);
            }
            fail(this.failed, result);
        }
        if this.first.is_none() && this.hedges.is_empty() { this.failed.take() } else { None }
    }

    /// Ready when the next wait is over and the service is ready, with a hedge if there is to be one.
    fn poll_wait(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Request<ReplayBody<B>>>> {
        let this = self.project();
        let Some(plan) = this.call.plan.as_mut().filter(|plan| plan.left > 0) else {
            return Poll::Pending;
        };
        if !plan.due {
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(plan.delay)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            *this.timer = None;
            plan.due = true;
            this.call.late();
        }
        let ready = match this.service.poll_ready(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(ready) => ready.is_ok(),
        };
        let request = if ready { this.call.may_hedge() } else { None };
        match (&mut this.call.plan, &request) {
            (Some(plan), Some(_)) => plan.due = false,
            // What speaks against a hedge now would do so later.
            (plan, _) => *plan = None,
        }
        Poll::Ready(request)
    }
}

/// The later failure is as good as the earlier, unless it only says that it was refused while the earlier may have had its effect.
fn fail<R>(earlier: &mut Option<Result<R, BoxError>>, later: Result<R, BoxError>) {
    let unmade = |result: &Result<R, BoxError>| {
        result.as_ref().is_err_and(|error| never_made(&**error).is_some())
    };
    if earlier.as_ref().is_none_or(|earlier| unmade(earlier) || !unmade(&later)) {
        *earlier = Some(later);
    }
}

impl<S, B, C> fmt::Debug for HedgeFuture<S, B, C>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeFuture").field("hedges", &self.hedges.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use gusset_call::Open;

    use super::*;

    #[test]
    fn of_two_failures_the_one_stays_that_may_have_had_an_effect() {
        let refused = || Err::<u16, BoxError>(Open::new("c").into());
        let broke = || Err::<u16, BoxError>("connection reset".into());
        let after = |earlier, later| {
            let mut failed = Some(earlier);
            fail(&mut failed, later);
            failed.unwrap().map_err(|error| error.to_string())
        };
        assert_eq!(after(Ok(503), refused()), Ok(503));
        assert_eq!(after(refused(), Ok(503)), Ok(503));
        assert_eq!(after(broke(), refused()), Err("connection reset".to_owned()));
        assert_eq!(after(refused(), broke()), Err("connection reset".to_owned()));
        assert_eq!(after(Ok(502), Ok(503)), Ok(503), "the later");
        assert!(after(refused(), refused()).is_err());
    }
}
