use std::{future::poll_fn, task::Poll, time::Duration};

use gusset_call::{Attempt, BoxError, Context, Deadline};
use tokio::{sync::watch, time::Instant};
use tower_service::Service;

use crate::{
    Broker, Delivery, Failure, FailureKind, IntoReply, Message, Reply,
    attempt::{Attempting, Outcome, contain, shortened},
    engine::{GroupInfo, Lease, Source, Verdict},
    handling::HANDLING,
    judge,
    policy::after,
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
pub(crate) type Read<T> = fn(&Message) -> Result<T, String>;

/// One of the workers of a subscription: handles one message at a time.
pub(crate) struct Worker<S, T> {
    pub(crate) broker: Broker,
    pub(crate) source: Box<dyn Source>,
    pub(crate) group: GroupInfo,
    pub(crate) mode: watch::Receiver<Mode>,
    /// The last that was heard of `mode`.
    pub(crate) runs: bool,
    pub(crate) decode: Read<T>,
    /// Never polled; what is used is a clone of it.
    pub(crate) pristine: S,
    pub(crate) service: S,
    // Dropped last, after what keeps the engine.
    pub(crate) _working: Working,
}

impl<S, T> Worker<S, T>
where
    S: Service<Delivery<T>> + Clone,
    S::Response: IntoReply,
    S::Error: Into<BoxError>,
{
    pub(crate) async fn run(mut self) {
        while self.may_work().await {
            // A worker that is told to stop while it waits for its handler takes no message more.
            if !self.ready().await || self.mode.has_changed().unwrap_or(true) {
                continue;
            }
            match self.source.take() {
                Some(lease) => {
                    self.handle(lease).await;
                    // Handlers that never wait would otherwise keep this thread to themselves.
                    tokio::task::coop::consume_budget().await;
                }
                None => {
                    // Being ready may mean to hold a place that others wait for.
                    self.start_afresh();
                    if !self.work().await {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until there may be work. False if there never will be again.
    async fn work(&mut self) -> bool {
        let source = &mut self.source;
        tokio::select! {
            more = poll_fn(|cx| source.poll_work(cx)) => more,
            () = told(&mut self.mode) => true,
        }
    }

    /// Waits out a pause. False when it is time to go.
    async fn may_work(&mut self) -> bool {
        loop {
            match self.mode.has_changed() {
                Err(_) => return false,
                Ok(false) if self.runs => return true,
                Ok(_) => {}
            }
            let mode = *self.mode.borrow_and_update();
            self.runs = mode == Mode::Running;
            match mode {
                Mode::Running => {}
                Mode::Closing => return false,
                Mode::Paused => {
                    self.start_afresh();
                    // Whoever was called and is paused lets another go.
                    self.source.rest();
                    told(&mut self.mode).await;
                }
            }
        }
    }

    /// Waits until the handler can take a message; false if it is better to look again first. No message is held
    /// meanwhile: another member may be ready sooner.
    async fn ready(&mut self) -> bool {
        let (service, source) = (&mut self.service, &mut self.source);
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
                    source.rest();
                }
                Poll::Pending
            }
        });
        let error = tokio::select! {
            biased;
            ready = ready => ready,
            () = told(&mut self.mode) => return false,
        };
        let Some(error) = error else { return true };
        tracing::warn!(
            group = &*self.group.name,
            error,
            "handler is not ready; tried again in 1 s"
        );
        self.start_afresh();
        self.source.rest();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = told(&mut self.mode) => {}
        }
        false
    }

    fn start_afresh(&mut self) {
        contain(|| self.service = self.pristine.clone());
    }

    async fn handle(&mut self, lease: Lease) {
        let (message, attempt) = (lease.message().clone(), lease.attempt());
        let policy = self.group.policy;
        if let Some(verdict) = judge::beforehand(&policy, &lease) {
            return settle(&self.group, lease, verdict).await;
        }
        let ends = after(Instant::now(), policy.attempt_timeout);
        let mut cx = Context::default().with_deadline(Deadline::at(ends));
        if let Some(left) = message.patience().filter(|_| !lease.is_redriven()) {
            cx = cx.with_deadline(Deadline::after(left));
        }
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
            let delivery = Delivery::new(message, name, numbered(attempt), max, body);
            match service.call(delivery).await {
                Ok(response) => Outcome::Replied(response.into_reply()),
                Err(error) => Outcome::of_error(&error.into()),
            }
        };
        let call = HANDLING.scope(group.id, cx.scope(call));
        let mut outcome = Attempting::new(call, policy.attempt_timeout, ends).await;
        if let Outcome::Replied(Reply::Answer(answer)) = &outcome {
            let answer = answer.clone();
            if let Err(error) = self.broker.answer(lease.message(), answer).await {
                outcome = Outcome::of_error(&error.into());
            }
        }
        if matches!(outcome, Outcome::Failed { kind: FailureKind::Panic, .. }) {
            self.start_afresh();
        }
        settle(&self.group, lease, judge::judge(&policy, attempt, outcome)).await;
    }
}

/// Ready when there is something new, or nobody to tell any more; leaves the reading of it to [`Worker::may_work`].
async fn told(mode: &mut watch::Receiver<Mode>) {
    if mode.changed().await.is_ok() {
        mode.mark_changed();
    }
}

async fn settle(group: &GroupInfo, lease: Lease, verdict: Verdict) {
    if let Verdict::Retry { failure, .. } = &verdict {
        let Failure { attempt, kind, error, .. } = failure;
        tracing::debug!(group = &*group.name, attempt, ?kind, error, "delivery failed");
    }
    let id = lease.message().id();
    if let Err(error) = lease.settle(verdict).await {
        tracing::warn!(group = &*group.name, %id, %error, "settling failed; the message is delivered again");
    }
}

pub(crate) fn numbered(attempt: u32) -> Attempt {
    std::num::NonZeroU32::new(attempt).map_or(Attempt::FIRST, Attempt::new)
}
