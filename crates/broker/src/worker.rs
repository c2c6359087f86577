use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use gusset_call::{Attempt, BoxError, Context, Deadline};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tower_service::Service;

use crate::{
    Delivery, Failure, FailureKind, IntoReply, Message, Reason, Reply,
    attempt::{Attempting, Outcome, contain, shortened},
    group::Group,
    lent::Lent,
    policy::FAR,
    shared::Shared,
    waits::HANDLING,
};

/// What the guard of a subscription tells its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Running,
    Paused,
    Closing,
}

/// How the body of a message is read.
pub(crate) type Decode<T> = fn(&Message) -> Result<T, String>;

/// One of the workers of a subscription: handles one message at a time.
pub(crate) struct Worker<S, T> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: Arc<Group>,
    pub(crate) mode: watch::Receiver<Mode>,
    pub(crate) decode: Decode<T>,
    /// Never polled; what is used is a clone of it.
    pub(crate) pristine: S,
    pub(crate) service: S,
}

impl<S, T> Worker<S, T>
where
    S: Service<Delivery<T>> + Clone,
    S::Response: IntoReply,
    S::Error: Into<BoxError>,
{
    pub(crate) async fn run(mut self) {
        // A worker that was called either looks at once or calls another: there is no point between at which it
        // could be cancelled and the call be lost.
        while self.may_work().await {
            if !self.ready().await || self.mode.has_changed().unwrap_or(true) {
                continue;
            }
            match self.group.take(Instant::now()) {
                Some(lent) => {
                    self.handle(lent).await;
                    // Handlers that never wait would otherwise keep this thread to themselves.
                    tokio::task::coop::consume_budget().await;
                }
                None => {
                    // Being ready may mean to hold a place that others wait for.
                    self.start_afresh();
                    tokio::select! {
                        () = self.group.called() => {}
                        _ = self.mode.changed() => {}
                    }
                }
            }
        }
        self.group.pass_on();
    }

    /// Waits out a pause. False when it is time to go.
    async fn may_work(&mut self) -> bool {
        loop {
            let mode = *self.mode.borrow_and_update();
            match mode {
                _ if self.mode.has_changed().is_err() => return false,
                Mode::Running => return true,
                Mode::Closing => return false,
                Mode::Paused => {
                    self.start_afresh();
                    // Whoever was called and is paused lets another go.
                    self.group.pass_on();
                    if self.mode.changed().await.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    /// Waits until the handler can take a message; false if it is better to look again first. No message is held
    /// meanwhile: another member may be ready sooner.
    async fn ready(&mut self) -> bool {
        let (service, group) = (&mut self.service, &self.group);
        let mut passed_on = false;
        let ready = poll_fn(|cx| match contain(|| service.poll_ready(cx)) {
            Some(Poll::Ready(Ok(()))) => Poll::Ready(None),
            Some(Poll::Ready(Err(error))) => {
                let text = contain(|| error.into().to_string());
                Poll::Ready(Some(text.unwrap_or_default()))
            }
            None => Poll::Ready(Some("panic in poll_ready".to_owned())),
            Some(Poll::Pending) => {
                if !std::mem::replace(&mut passed_on, true) {
                    group.pass_on();
                }
                Poll::Pending
            }
        });
        let error = tokio::select! {
            biased;
            ready = ready => ready,
            _ = self.mode.changed() => return false,
        };
        let Some(error) = error else { return true };
        tracing::warn!(
            group = &*self.group.name,
            error,
            "handler is not ready; tried again in 1 s"
        );
        self.start_afresh();
        self.group.pass_on();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = self.mode.changed() => {}
        }
        false
    }

    fn start_afresh(&mut self) {
        contain(|| self.service = self.pristine.clone());
    }

    async fn handle(&mut self, lent: Lent) {
        let Some(entry) = lent.entry() else { return };
        let (message, attempts) = (entry.message.clone(), entry.attempts);
        let policy = self.group.policy;
        let ends = after(Instant::now(), policy.attempt_timeout);
        let mut cx = Context::default().with_deadline(Deadline::at(ends));
        if let Some(publisher) = message.trace() {
            cx = cx.with_trace(publisher);
        }
        let (service, decode, group) = (&mut self.service, self.decode, &self.group);
        // Everything foreign happens in here, where a panic is caught.
        let call = async move {
            let body = match decode(&message) {
                Ok(body) => body,
                Err(why) => return Outcome::Undecodable(shortened(&why)),
            };
            let (name, max) = (group.name.clone(), policy.max_attempts.get());
            let delivery = Delivery::new(message, name, numbered(attempts), max, body);
            match service.call(delivery).await {
                Ok(response) => Outcome::Replied(response.into_reply()),
                Err(error) => Outcome::of_error(&error.into()),
            }
        };
        let call = HANDLING.scope(group.id, cx.scope(call));
        let outcome = Attempting::new(call, policy.attempt_timeout, ends).await;
        if matches!(outcome, Outcome::Failed { kind: FailureKind::Panic, .. }) {
            self.start_afresh();
        }
        self.settle(lent, attempts, outcome);
    }
}

impl<S, T> Worker<S, T> {
    fn settle(&self, mut lent: Lent, attempt: u32, outcome: Outcome) {
        let (kind, error, delay) = match outcome {
            Outcome::Replied(Reply::Ack) => return lent.ack(),
            Outcome::Replied(Reply::Reject(why)) => {
                return self.bury(lent, Reason::Rejected(shortened(&why)));
            }
            Outcome::Undecodable(why) => return self.bury(lent, Reason::Undecodable(why)),
            Outcome::Replied(Reply::RetryAfter(delay)) => {
                (FailureKind::Retry, "the handler asked for another attempt".to_owned(), delay)
            }
            Outcome::Failed { kind, error, not_before } => {
                let backoff = self.group.policy.backoff.delay(attempt, &mut rand::rng());
                (kind, error, backoff.max(not_before))
            }
        };
        tracing::debug!(group = &*self.group.name, attempt, ?kind, error, "delivery failed");
        let at = crate::message::wall_clock();
        lent.note(Failure { attempt, at, kind, error });
        if attempt >= self.group.policy.max_attempts.get() {
            return self.bury(lent, Reason::Exhausted);
        }
        lent.retry_at(after(Instant::now(), delay));
    }

    /// The record is written before the message leaves the group, so that it is always in one of them.
    fn bury(&self, lent: Lent, reason: Reason) {
        if let Some(entry) = lent.entry() {
            self.shared.dead.insert(&self.group.name, entry, reason);
        }
        lent.bury();
    }
}

/// Makes messages of a group ready when they are due. One for each subscription, so that waiting workers need no timers.
pub(crate) async fn keep_time(group: Arc<Group>) {
    let mut next = group.next_due();
    loop {
        let due = *next.borrow_and_update();
        let due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => group.tick(Instant::now()),
            changed = next.changed() => if changed.is_err() { return },
        }
    }
}

fn after(now: Instant, span: Duration) -> Instant {
    now.checked_add(span.min(FAR)).unwrap_or(now)
}

fn numbered(attempt: u32) -> Attempt {
    std::num::NonZeroU32::new(attempt).map_or(Attempt::FIRST, Attempt::new)
}
