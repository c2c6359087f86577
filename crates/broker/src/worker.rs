mod time;
mod waits;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{self, Poll},
};

use gusset_call::{Attempt, BoxError, Clock, Context, Deadline};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tower_service::Service;

use self::time::Time;
use crate::{
    Answer, Broker, Delivery, Failure, FailureKind, Headers, IntoReply, Message, MessageId, Reply,
    attempt::{Attempting, Outcome, Terms, contain, discard, shortened},
    delivery::Body,
    engine::{Claim, GroupInfo, Lease, Settling, Source, Verdict},
    judge,
    tasks::Working,
};

/// What the guard of a subscription tells its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Running,
    Paused,
    Closing,
}

/// How the body of a message is read.
pub(crate) type Read<T> = fn(&Message) -> Result<Body<T>, String>;

/// One of the workers of a subscription: handles one message at a time.
pub(crate) struct Worker<S, T> {
    pub(crate) broker: Broker,
    pub(crate) source: Box<dyn Source>,
    pub(crate) group: GroupInfo,
    pub(crate) mode: watch::Receiver<Mode>,
    /// The last that was heard of `mode`.
    pub(crate) runs: bool,
    pub(crate) decode: Read<T>,
    pub(crate) clock: Clock,
    /// Never polled; what is used is a clone of it.
    pub(crate) pristine: S,
    pub(crate) service: S,
    // Dropped last, after what keeps the engine.
    pub(crate) _working: Working,
}

/// A message in the hands of the handler.
struct AtWork {
    claim: Claim,
    id: MessageId,
    attempt: u32,
    terms: Terms,
    /// The message, if somebody waits for an answer to it.
    question: Option<Arc<Message>>,
}

/// Why a worker stops going from message to message.
enum Pause {
    /// It is told something.
    Told,
    /// It has had its turn.
    Spent,
    /// There is nothing to do.
    Idle,
    /// The handler is not ready.
    Unready,
    /// The handler cannot be made ready, and says why.
    Broken(String),
    Settling(MessageId, Settling),
    /// Boxed, since it is large and rare.
    Answering(Box<AtWork>, Answer),
}

const PANIC: &str = "panic in poll_ready";
/// Messages that a worker may handle before others on its thread have a turn: as many as tokio lets a task receive.
const TURN: u32 = 128;
impl<S, T> Worker<S, T>
where
    S: Service<Delivery<T>> + Clone,
    S::Response: IntoReply,
    S::Error: Into<BoxError>,
{
    pub(crate) async fn run(mut self) {
        let mut at_work = None;
        // Dropped before the claim, so that nobody gets the message while the handler still has it.
        let mut attempting = pin!(Attempting::idle());
        while self.may_work().await {
            let paused =
                poll_fn(|cx| self.poll_messages(attempting.as_mut(), &mut at_work, cx)).await;
            match paused {
                Pause::Told => {}
                // Handlers that never wait would otherwise keep this thread to themselves.
                Pause::Spent => tokio::task::yield_now().await,
                Pause::Idle => {
                    // Being ready may mean to hold a place that others wait for.
                    self.start_afresh();
                    if !self.work().await {
                        return;
                    }
                }
                Pause::Unready => self.ready().await,
                Pause::Broken(error) => self.recover(error).await,
                Pause::Settling(id, settling) => {
                    let result = settling.await;
                    self.settled(id, result);
                }
                Pause::Answering(work, answer) => self.answer(*work, answer).await,
            }
        }
    }

    /// From message to message, as long as nothing has to be waited for but handlers.
    fn poll_messages(
        &mut self,
        mut attempting: Pin<&mut Attempting<S::Future>>,
        at_work: &mut Option<AtWork>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Pause> {
        let mut time = Time::now(&self.clock, self.group.policy.attempt_timeout);
        let mut turn = 0;
        loop {
            let paused = if let Some(work) = at_work.take() {
                match attempting.as_mut().poll(&work.terms, cx) {
                    Poll::Ready(result) => self.judge(work, result),
                    Poll::Pending => {
                        *at_work = Some(work);
                        return Poll::Pending;
                    }
                }
            } else {
                turn += 1;
                if let Some(pause) = self.pause(turn, cx) {
                    return Poll::Ready(pause);
                }
                let Some(lease) = self.source.take() else { return Poll::Ready(Pause::Idle) };
                let ends = time.passes(&self.clock, &mut *self.source);
                if let Some(verdict) = judge::beforehand(&self.group.policy, &lease) {
                    self.dismiss(lease, verdict)
                } else {
                    let attempt = (lease.attempt(), lease.is_redriven());
                    let (message, claim) = lease.split();
                    let work = self.take_up(&message, claim, attempt, ends);
                    match self.begin(attempting.as_mut(), &work, message, cx) {
                        Poll::Ready(result) => self.judge(work, result),
                        Poll::Pending => {
                            *at_work = Some(work);
                            self.source.let_go();
                            return Poll::Pending;
                        }
                    }
                }
            };
            if let Some(pause) = paused {
                return Poll::Ready(pause);
            }
        }
    }

    /// Why no message is taken now, if there is a reason.
    fn pause(&mut self, turn: u32, cx: &mut task::Context<'_>) -> Option<Pause> {
        if turn > TURN {
            self.source.let_go();
            return Some(Pause::Spent);
        }
        let broken = match contain(|| self.service.poll_ready(cx)) {
            Some(Poll::Ready(Ok(()))) => None,
            Some(Poll::Ready(Err(error))) => {
                Some(contain(|| error.into().to_string()).unwrap_or_default())
            }
            None => Some(PANIC.to_owned()),
            Some(Poll::Pending) => return Some(Pause::Unready),
        };
        if let Some(error) = broken {
            return Some(Pause::Broken(error));
        }
        // A worker that is told to stop while it waits for its handler takes no message more.
        self.mode.has_changed().unwrap_or(true).then_some(Pause::Told)
    }

    /// Ends a delivery that the handler does not see.
    fn dismiss(&mut self, lease: Lease, verdict: Verdict) -> Option<Pause> {
        let (message, claim) = lease.split();
        let paused = self.settle(message.id(), claim.settle(verdict));
        discard(message);
        paused
    }

    fn take_up(
        &self,
        message: &Arc<Message>,
        claim: Claim,
        (attempt, redriven): (u32, bool),
        ends: Instant,
    ) -> AtWork {
        let timeout = self.group.policy.attempt_timeout;
        let mut context = Context::default().with_deadline(Deadline::at(ends));
        let mut question = None;
        if message.headers().iter().next().is_some() {
            if let Some(left) = message.patience().filter(|_| !redriven) {
                context = context.with_deadline(Deadline::after(left));
            }
            if let Some(publisher) = message.trace() {
                context = context.with_trace(publisher);
            }
            let asked = message.headers().get(Headers::REPLY_TO).is_some();
            question = asked.then(|| message.clone());
        }
        let terms = Terms { context, timeout, ends };
        AtWork { claim, id: message.id(), attempt, terms, question }
    }

    fn begin(
        &mut self,
        attempting: Pin<&mut Attempting<S::Future>>,
        work: &AtWork,
        message: Arc<Message>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Result<(), Box<Outcome>>> {
        let (service, decode, group) = (&mut self.service, self.decode, &self.group);
        let attempt = numbered(work.attempt);
        attempting.begin(&work.terms, cx, move || match decode(&message) {
            Ok(body) => {
                let (name, max) = (group.name.clone(), group.policy.max_attempts.get());
                Ok(service.call(Delivery::new(message, name, attempt, max, body)))
            }
            Err(why) => Err(Outcome::Undecodable(shortened(&why))),
        })
    }

    fn judge(&mut self, work: AtWork, result: Result<(), Box<Outcome>>) -> Option<Pause> {
        let Err(outcome) = result else {
            let settling = self.source.ack(work.claim);
            return self.settle(work.id, settling);
        };
        let verdict = match *outcome {
            Outcome::Replied(Reply::Answer(answer)) if work.question.is_some() => {
                self.source.let_go();
                return Some(Pause::Answering(work.into(), answer));
            }
            outcome => self.verdict(work.attempt, outcome),
        };
        self.settle(work.id, work.claim.settle(verdict))
    }

    fn verdict(&mut self, attempt: u32, outcome: Outcome) -> Verdict {
        if matches!(outcome, Outcome::Failed { kind: FailureKind::Panic, .. }) {
            self.start_afresh();
        }
        let verdict = judge::judge(&self.group.policy, attempt, outcome);
        if let Verdict::Retry { failure, .. } = &verdict {
            let (Failure { attempt, kind, .. }, error) = (failure, &*failure.error);
            tracing::debug!(group = &*self.group.name, attempt, ?kind, error, "delivery failed");
        }
        verdict
    }

    /// A settlement may take its time.
    fn settle(&mut self, id: MessageId, settling: Settling) -> Option<Pause> {
        match settling {
            Settling::Done(result) => {
                self.settled(id, result);
                None
            }
            settling @ Settling::Waiting(_) => {
                self.source.let_go();
                Some(Pause::Settling(id, settling))
            }
        }
    }

    fn settled(&self, id: MessageId, result: Result<(), crate::Error>) {
        if let Err(error) = result {
            let group = &*self.group.name;
            tracing::warn!(group, %id, %error, "settling failed; the message is delivered again");
        }
    }

    /// The message is handled when the answer is with whoever asked.
    async fn answer(&mut self, work: AtWork, answer: Answer) {
        let mut outcome = Outcome::Replied(Reply::Ack);
        if let Some(question) = &work.question {
            // Where it goes may be full, or far.
            match timeout_at(work.terms.ends, self.broker.answer(question, answer)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => outcome = Outcome::of_error(&error.into()),
                Err(_) => outcome = Outcome::timed_out(work.terms.timeout),
            }
        }
        let verdict = self.verdict(work.attempt, outcome);
        let settled = work.claim.settle(verdict).await;
        self.settled(work.id, settled);
    }
}

pub(crate) fn numbered(attempt: u32) -> Attempt {
    std::num::NonZeroU32::new(attempt).map_or(Attempt::FIRST, Attempt::new)
}
