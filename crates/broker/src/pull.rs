use std::{
    fmt,
    future::poll_fn,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;

use crate::{
    Delivery, FailureKind, Reply,
    attempt::{Outcome, shortened},
    engine::{GroupInfo, Lease, Member, Settling, Source},
    judge,
    worker::{Read, numbered},
};

/// Messages of a group, taken by hand; a [`Stream`] as well. From [`Subscribe::pull`](crate::Subscribe::pull). Dropping it leaves the group; deliveries that were
/// taken may still be answered, if the group stays.
///
/// # Memory
///
/// It takes no message before it is asked. What was taken and is not answered counts for the group's bounds.
pub struct Pull<T = Bytes> {
    source: Box<dyn Source>,
    group: GroupInfo,
    decode: Read<T>,
    /// Of a message that nobody will see; to be done before the next is taken.
    settling: Option<Settling>,
    // Left last.
    _member: Arc<dyn Member>,
}

impl<T> Pull<T> {
    pub(crate) fn new(member: Arc<dyn Member>, decode: Read<T>) -> Self {
        let group = member.group().clone();
        let source = member.source(Some(group.policy.attempt_timeout));
        Self { source, group, decode, settling: None, _member: member }
    }

    /// Name of the group; one that begins with `_` if none was given.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group.name
    }

    /// The next message, its attempt counted. None if there will be no more: the broker is closed.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing: it has taken no message unless it was ready, and another member of the group is called in its stead. (As a [`Stream`] it
    /// cannot know that it will not be polled again: a message may wait for it, however idle other members are.)
    pub async fn next(&mut self) -> Option<Pulled<T>> {
        let mut asking = Asking { pull: &mut *self, waits: false };
        poll_fn(move |cx| {
            let polled = asking.pull.poll_pulled(cx);
            asking.waits = polled.is_pending();
            polled
        })
        .await
    }

    fn poll_pulled(&mut self, cx: &mut Context<'_>) -> Poll<Option<Pulled<T>>> {
        loop {
            if let Some(settling) = &mut self.settling {
                if let Err(error) = ready!(Pin::new(settling).poll(cx)) {
                    let group = &*self.group.name;
                    tracing::warn!(group, %error, "settling failed; the message is delivered again");
                }
                self.settling = None;
            }
            if let Some(lease) = self.source.take() {
                match self.open(lease) {
                    Ok(pulled) => return Poll::Ready(Some(pulled)),
                    Err(settling) => self.settling = Some(settling),
                }
            } else if !ready!(self.source.poll_work(cx)) {
                return Poll::Ready(None);
            }
        }
    }

    fn open(&self, lease: Lease) -> Result<Pulled<T>, Settling> {
        let (policy, attempt) = (&self.group.policy, lease.attempt());
        if let Some(verdict) = judge::beforehand(policy, &lease) {
            return Err(lease.settle(verdict));
        }
        match (self.decode)(lease.message()) {
            Ok(body) => {
                let (name, max) = (self.group.name.clone(), policy.max_attempts.get());
                let message = lease.message().clone();
                let delivery = Delivery::new(message, name, numbered(attempt), max, body);
                let held = Some(Held { lease, group: self.group.clone() });
                Ok(Pulled { delivery, held })
            }
            Err(why) => {
                let outcome = Outcome::Undecodable(shortened(&why));
                Err(lease.settle(judge::judge(policy, attempt, outcome)))
            }
        }
    }
}

/// Somebody who asks for a message, and may give up.
struct Asking<'p, T> {
    pull: &'p mut Pull<T>,
    waits: bool,
}

impl<T> Drop for Asking<'_, T> {
    fn drop(&mut self) {
        if self.waits {
            self.pull.source.rest();
        }
    }
}

impl<T> Stream for Pull<T> {
    type Item = Pulled<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Pulled<T>>> {
        self.get_mut().poll_pulled(cx)
    }
}

impl<T> fmt::Debug for Pull<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pull").field("group", &self.group.name).finish_non_exhaustive()
    }
}

/// A delivery that waits for an answer. Each answer is given by the call; awaiting what it returns tells whether it arrived.
///
/// If there is none within [`Policy::attempt_timeout`](crate::Policy::attempt_timeout), the message is delivered again, and a later answer
/// fails with [`Error::LeaseLost`](crate::Error::LeaseLost). Dropped without an answer it counts as failed, like an error of a handler: it is tried again after the
/// backoff.
#[must_use = "dropped without an answer it counts as failed"]
pub struct Pulled<T = Bytes> {
    delivery: Delivery<T>,
    /// None once answered.
    held: Option<Held>,
}

struct Held {
    lease: Lease,
    group: GroupInfo,
}

impl Held {
    fn settle(self, outcome: Outcome) -> Settling {
        let verdict = judge::judge(&self.group.policy, self.lease.attempt(), outcome);
        self.lease.settle(verdict)
    }
}

impl<T> Pulled<T> {
    /// Done.
    pub fn ack(self) -> Settling {
        self.answer(Reply::Ack)
    }

    /// It failed, to be tried again after `delay`, or after the backoff; dead after [`Policy::max_attempts`](crate::Policy::max_attempts).
    pub fn nak(self, delay: Option<Duration>) -> Settling {
        match delay {
            Some(delay) => self.answer(Reply::RetryAfter(delay)),
            None => self.settle(failed("refused by whoever pulled it")),
        }
    }

    /// No use to try again: to the dead letters, with this reason.
    pub fn term(self, reason: impl Into<String>) -> Settling {
        self.answer(Reply::reject(reason))
    }

    /// There is still work on it: the time in which to answer begins anew.
    pub fn in_progress(&self) -> Settling {
        match &self.held {
            Some(held) => held.lease.in_progress(),
            None => Settling::Done(Ok(())),
        }
    }

    fn answer(self, reply: Reply) -> Settling {
        self.settle(Outcome::Replied(reply))
    }

    fn settle(mut self, outcome: Outcome) -> Settling {
        match self.held.take() {
            Some(held) => held.settle(outcome),
            None => Settling::Done(Ok(())),
        }
    }
}

impl<T> Deref for Pulled<T> {
    type Target = Delivery<T>;

    fn deref(&self) -> &Delivery<T> {
        &self.delivery
    }
}

impl<T> Drop for Pulled<T> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            drop(held.settle(failed("dropped without an answer")));
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Pulled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pulled").field(&self.delivery).finish()
    }
}

fn failed(error: &'static str) -> Outcome {
    let (kind, error) = (FailureKind::Error, error.into());
    Outcome::Failed { kind, error, not_before: Duration::ZERO }
}
