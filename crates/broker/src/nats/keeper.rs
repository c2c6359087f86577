//! The deliveries that are out, and what becomes of them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

mod chores;
mod settling;

pub(crate) use chores::{Chore, do_chores};

use self::settling::AT_ONCE;
use super::{
    core::Core,
    link::Fault,
    records::{self, Note},
    wire::{Delivered, Route},
};
use crate::{
    Error, Failure, FailureKind, Message,
    engine::{Lease, Settling},
    message::wall_clock,
    policy::after,
};

const WORKING: Bytes = Bytes::from_static(b"+WPI");

/// A delivery that somebody holds.
#[derive(Debug)]
struct Held {
    delivery: Delivery,
    /// When the server last heard of it.
    heard: Instant,
    /// When it is over, and how long it may take between two words of whoever has it.
    limit: Option<(Instant, Duration)>,
}

#[derive(Clone, Debug)]
struct Delivery {
    reply: async_nats::Subject,
    message: Arc<Message>,
    route: Route,
    seq: u64,
    attempt: u32,
    note: Note,
}

/// Of one group, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) delivered: AtomicU64,
    pub(crate) redelivered: AtomicU64,
    pub(crate) redriven: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) delayed: AtomicU64,
    pub(crate) returned: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) overdue: AtomicU64,
}

/// Settles the deliveries of one subscription.
#[derive(Debug)]
pub(crate) struct Ledger {
    core: Arc<Core>,
    /// The group as a token.
    token: String,
    group: Arc<str>,
    pub(crate) counts: Arc<Counts>,
    held: Mutex<HashMap<u64, Held>>,
    last: AtomicU64,
    idle: Notify,
    leaving: AtomicBool,
    afterwards: mpsc::UnboundedSender<Chore>,
}

impl Ledger {
    pub(crate) fn new(
        core: Arc<Core>,
        token: String,
        group: Arc<str>,
        counts: Arc<Counts>,
        afterwards: mpsc::UnboundedSender<Chore>,
    ) -> Self {
        let (held, last, idle) = (Mutex::default(), AtomicU64::new(0), Notify::new());
        let leaving = AtomicBool::new(false);
        Self { core, token, group, counts, held, last, idle, leaving, afterwards }
    }

    pub(crate) const fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.held().len()
    }

    /// From now on what is given back is for others.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    /// Waits until nothing is out.
    pub(crate) async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.held().is_empty() {
                return;
            }
            idle.await;
        }
    }

    /// Makes a lease of what the server delivered. Asks how it failed before, if it did.
    pub(crate) async fn lend(
        self: Arc<Self>,
        reply: async_nats::Subject,
        message: Message,
        route: Route,
        delivered: Delivered,
        is_first: bool,
    ) -> (u64, Lease) {
        let mut note = Note::default();
        if !is_first {
            let place = self.core.layout.note(&self.token, message.id(), route.redrives);
            match records::read_note(&self.core, &place).await {
                Ok(found) => note = found.unwrap_or_default(),
                // It goes on without: with more attempts charged than it deserves, and less to tell.
                Err(error) => {
                    let group = &*self.group;
                    tracing::warn!(group, id = %message.id(), %error, "how it failed is not known");
                }
            }
        }
        note.goes_on(delivered.times, self.core.link.miscounts());
        let attempt = note.attempt(delivered.times);
        self.counts.delivered.fetch_add(1, Relaxed);
        self.counts.redelivered.fetch_add(u64::from(attempt > 1), Relaxed);
        self.counts.redriven.fetch_add(u64::from(route.redrives > 0 && attempt == 1), Relaxed);
        let message = Arc::new(message);
        let seq = delivered.seq;
        let redriven = route.redrives > 0;
        let delivery = Delivery { reply, message: message.clone(), route, seq, attempt, note };
        let expired = is_past(&message, message.ttl());
        let token = self.last.fetch_add(1, Relaxed);
        self.held().insert(token, Held { delivery, heard: Instant::now(), limit: None });
        (token, Lease::new(message, attempt, self, token).expired(expired).redriven(redriven))
    }

    /// Leaves a message that is early to the server until its time has come, uncharged.
    pub(crate) fn postpone(
        self: &Arc<Self>,
        reply: async_nats::Subject,
        message: Message,
        route: Route,
        delivered: Delivered,
    ) {
        let ledger = self.clone();
        let chore = async move {
            let wait = remaining(&message, message.delay());
            let place = ledger.core.layout.note(&ledger.token, message.id(), route.redrives);
            let mut note = Note::default();
            if let (true, Ok(Some(found))) =
                (delivered.times > 1, records::read_note(&ledger.core, &place).await)
            {
                note = found;
            }
            note.goes_on(delivered.times, ledger.core.link.miscounts());
            note.uncharged = note.uncharged.saturating_add(1);
            let (message, seq, attempt) = (Arc::new(message), delivered.seq, 1);
            let delivery = Delivery { reply, message, route, seq, attempt, note: Note::default() };
            ledger.write_note(&delivery, &note).await;
            let _ = ledger.nak(&delivery, wait).await;
        };
        let _ = self.afterwards.send(Chore::Do(chore.boxed()));
    }

    /// Somebody has taken it, who may take so long between two words.
    pub(crate) fn limit(&self, token: u64, span: Duration) {
        if let Some(held) = self.held().get_mut(&token) {
            held.limit = Some((after(Instant::now(), span), span));
        }
    }

    /// Ends the deliveries whose time is over. Charged: whoever had them has had them.
    pub(crate) fn end_overdue(self: &Arc<Self>) {
        let now = Instant::now();
        let over = |(token, held): (&u64, &Held)| match held.limit {
            Some((until, span)) if until <= now => Some((*token, span)),
            _ => None,
        };
        let over: Vec<_> = self.held().iter().filter_map(over).collect();
        for (token, span) in over {
            let Some(delivery) = self.end(token) else { continue };
            self.counts.overdue.fetch_add(1, Relaxed);
            let (attempt, at, kind) = (delivery.attempt, wall_clock(), FailureKind::Timeout);
            let error = format!("no answer within {span:?}").into();
            let failure = Failure { attempt, at, kind, error };
            let ledger = self.clone();
            drop(self.assign(async move { ledger.retry(delivery, AT_ONCE, failure).await }));
        }
    }

    fn end(&self, token: u64) -> Option<Delivery> {
        let mut held = self.held();
        let ended = held.remove(&token)?.delivery;
        let is_idle = held.is_empty();
        drop(held);
        if is_idle {
            self.idle.notify_waiters();
        }
        Some(ended)
    }

    /// Gives back all that is out, though somebody may still be at work on it; how many that were.
    pub(crate) fn end_all(self: &Arc<Self>) -> usize {
        let ended: Vec<_> = self.held().drain().map(|(_, held)| held.delivery).collect();
        let count = ended.len();
        for delivery in ended {
            self.hand_over(delivery);
        }
        self.idle.notify_waiters();
        count
    }

    fn hand_over(self: &Arc<Self>, delivery: Delivery) {
        let ledger = self.clone();
        let chore = async move { ledger.give_back(&delivery).await };
        // Without anybody to do it, the server delivers it again in its own time.
        let _ = self.afterwards.send(Chore::Do(chore.boxed()));
    }

    /// Does it in any case: a worker that is ended in the middle of it would leave the message to the ack wait.
    fn assign(
        &self,
        settlement: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> Settling {
        let (tell, told) = oneshot::channel();
        let chore = async move {
            let _ = tell.send(settlement.await);
        };
        if self.afterwards.send(Chore::Do(chore.boxed())).is_err() {
            return Settling::Done(Err(Fault::Ended.into()));
        }
        let told = async move { told.await.unwrap_or_else(|_| Err(Fault::Ended.into())) };
        Settling::Waiting(told.boxed())
    }

    /// Tells the server of all deliveries of which it has not heard for `span`.
    pub(crate) async fn still_working(&self, span: Duration) {
        let now = Instant::now();
        let due: Vec<_> = self
            .held()
            .values_mut()
            .filter(|held| now.duration_since(held.heard) >= span)
            .map(|held| {
                held.heard = now;
                held.delivery.reply.clone()
            })
            .collect();
        for reply in due {
            let _ = self.core.link.tell(reply, WORKING).await;
        }
    }
}

/// How long it is until `span` after the message was published, by the wall clock.
fn remaining(message: &Message, span: Option<Duration>) -> Duration {
    let Some(span) = span else { return Duration::ZERO };
    let age = wall_clock().duration_since(message.published_at()).unwrap_or_default();
    span.saturating_sub(age)
}

fn is_past(message: &Message, span: Option<Duration>) -> bool {
    span.is_some() && remaining(message, span).is_zero()
}

/// Whether the time of a message that was published with a delay has not come.
pub(crate) fn is_early(message: &Message) -> bool {
    !remaining(message, message.delay()).is_zero()
}
