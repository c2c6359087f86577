//! Takes messages from the store, sends them, and writes down what became of them.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{OutboxTarget, RelayOptions};
use crate::{Bundle, Outgoing, Relay, Relayed, SagaId, Store, StoreError, error::error_line};

/// Messages of one saga that are taken at once. Few: they are held while they wait for each other.
const MESSAGES: usize = 16;

/// Longest pause of a relay whose store does not write.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often a relay that stops tries to write down what it sent.
const LAST_TRIES: u32 = 5;

pub(super) struct Shared<T> {
    store: Arc<dyn Store>,
    target: T,
    options: RelayOptions,
    node: Arc<str>,
    stop: watch::Receiver<bool>,
    pub(super) relayed: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) store_errors: AtomicU64,
}

impl<T: OutboxTarget> Shared<T> {
    pub(super) fn new(
        store: Arc<dyn Store>,
        target: T,
        options: RelayOptions,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let node = SagaId::random().as_str().into();
        let zero = AtomicU64::default;
        let (relayed, failures, store_errors) = (zero(), zero(), zero());
        Self { store, target, options, node, stop, relayed, failures, store_errors }
    }

    /// The store may take a sixth of the lease, and the target a third. Who begins with nothing when half of it has passed is through before its end.
    async fn ask<A>(
        &self,
        answer: impl Future<Output = Result<A, StoreError>>,
    ) -> Result<A, StoreError> {
        let span = self.options.lease / 6;
        let answer = timeout(span, answer).await;
        let answer =
            answer.unwrap_or_else(|_| Err(StoreError::failed(format!("no answer in {span:?}"))));
        if let Err(error) = &answer {
            self.store_errors.fetch_add(1, Relaxed);
            tracing::warn!(error = %error_line(error), "the store of the outbox fails");
        }
        answer
    }

    async fn take(self: Arc<Self>, sagas: usize, after: Option<SagaId>) -> Taken {
        let since = Instant::now();
        let (node, lease) = (self.node.clone(), self.options.lease);
        let relay = Relay { node, lease, after, sagas, messages: MESSAGES };
        let bundles = self.ask(self.store.outbox(&relay)).await;
        Taken { since, wanted: relay, bundles }
    }

    async fn write_down(self: Arc<Self>, done: Vec<Relayed>) -> Written {
        let written = self.ask(self.store.relayed(&done)).await.is_ok();
        Written { done, written }
    }

    /// Sends the messages of one saga, one after the other, until one fails, or it is time to let go.
    async fn send(self: Arc<Self>, bundle: Bundle, since: Instant) -> Sent {
        let Bundle { saga, failures, messages } = bundle;
        let mut sent = Vec::new();
        let mut failed = None;
        let messages = messages.unwrap_or_else(|error| {
            failed = Some(error_line(&error));
            Vec::new()
        });
        let all = messages.len();
        for message in messages {
            if *self.stop.borrow() || since.elapsed() > self.options.lease / 2 {
                break;
            }
            let id = message.id.clone();
            match self.attempt(message).await {
                Ok(()) => sent.push(id),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.relayed.fetch_add(sent.len() as u64, Relaxed);
        let pause = failed.map(|error| {
            let failures = if sent.is_empty() { failures.saturating_add(1) } else { 1 };
            self.failures.fetch_add(1, Relaxed);
            tracing::warn!(%saga, %error, failures, "message not relayed");
            (self.options.retry.pause(failures, &mut rand::rng()), failures)
        });
        let more = pause.is_none() && (all == MESSAGES || sent.len() < all);
        Sent { relayed: Relayed { saga, node: self.node.clone(), sent, pause }, more }
    }

    async fn attempt(&self, message: Outgoing) -> Result<(), Arc<str>> {
        let span = self.options.lease / 3;
        // The call itself may panic as well as its future.
        let attempt = AssertUnwindSafe(async { self.target.deliver(message).await }).catch_unwind();
        match timeout(span, attempt).await {
            Ok(Ok(taken)) => taken.map_err(|error| error_line(&*error)),
            Ok(Err(_)) => Err("panicked".into()),
            Err(_) => Err(format!("not taken within {span:?}").into()),
        }
    }
}

struct Taken {
    since: Instant,
    wanted: Relay,
    bundles: Result<Vec<Bundle>, StoreError>,
}

struct Written {
    done: Vec<Relayed>,
    written: bool,
}

struct Sent {
    relayed: Relayed,
    /// Whether there may be more of the saga's to send at once.
    more: bool,
}

/// The task. Nothing in it waits for anything else: while the store is asked, messages are sent.
pub(super) struct Relaying<T> {
    shared: Arc<Shared<T>>,
    emitted: Arc<Notify>,
    sending: FuturesUnordered<BoxFuture<'static, Sent>>,
    taking: Option<BoxFuture<'static, Taken>>,
    writing: Option<BoxFuture<'static, Written>>,
    /// Not written down yet.
    done: Vec<Relayed>,
    /// Whose messages were taken, and not given back yet.
    held: HashSet<SagaId>,
    /// Not before then is the store asked again to write.
    write_at: Instant,
    failed_writes: u32,
    look_at: Instant,
    /// When the first pause that is known of is over.
    retry_at: Option<Instant>,
    /// Whether there may be messages of sagas that are not given back yet.
    more: bool,
    /// Sagas up to this one were looked at in this round.
    after: Option<SagaId>,
    stopping: bool,
}

impl<T: OutboxTarget> Relaying<T> {
    pub(super) fn new(shared: Arc<Shared<T>>, emitted: Arc<Notify>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            emitted,
            sending: FuturesUnordered::new(),
            taking: None,
            writing: None,
            done: Vec::new(),
            held: HashSet::new(),
            write_at: now,
            failed_writes: 0,
            look_at: now,
            retry_at: None,
            more: false,
            after: None,
            stopping: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut stop = self.shared.stop.clone();
        let emitted = self.emitted.clone();
        loop {
            self.begin();
            if self.is_over() {
                return;
            }
            let timer = self.next();
            tokio::select! {
                Some(sent) = self.sending.next() => self.sent(sent),
                Some(taken) = OptionFuture::from(self.taking.as_mut()) => self.took(taken),
                Some(written) = OptionFuture::from(self.writing.as_mut()) => self.wrote(written),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {}
                () = emitted.notified(), if !self.stopping => {
                    // Of a saga whose messages are held it is not found before they are given back.
                    (self.look_at, self.more) = (Instant::now(), !self.held.is_empty());
                }
                // It errs when the guard is gone, and then this task is ended as well.
                _ = stop.wait_for(|stop| *stop), if !self.stopping => self.stopping = true,
            }
        }
    }

    fn begin(&mut self) {
        let now = Instant::now();
        if self.writing.is_none() && !self.done.is_empty() && now >= self.write_at {
            let done = std::mem::take(&mut self.done);
            self.writing = Some(self.shared.clone().write_down(done).boxed());
        }
        if self.takes() && now >= self.look_at.min(self.retry_at.unwrap_or(self.look_at)) {
            self.look_at = now + self.shared.options.every;
            self.retry_at = self.retry_at.filter(|at| *at > now);
            let after = self.after.clone();
            self.taking = Some(self.shared.clone().take(self.free(), after).boxed());
        }
    }

    fn free(&self) -> usize {
        self.shared.options.at_once.saturating_sub(self.held.len())
    }

    /// Not for every single place that is free: each look is a write.
    fn takes(&self) -> bool {
        let enough = (self.shared.options.at_once / 2).max(1);
        self.taking.is_none() && !self.stopping && self.free() >= enough
    }

    fn is_over(&self) -> bool {
        let idle = self.sending.is_empty() && self.taking.is_none() && self.writing.is_none();
        self.stopping && idle && (self.done.is_empty() || self.failed_writes >= LAST_TRIES)
    }

    /// When there is something to do unless something happens.
    fn next(&self) -> Option<Instant> {
        let writes = self.writing.is_none() && !self.done.is_empty();
        let looks = [Some(self.look_at), self.retry_at].into_iter().flatten();
        let looks = looks.filter(|_| self.takes());
        looks.chain(writes.then_some(self.write_at)).min()
    }

    fn took(&mut self, taken: Taken) {
        self.taking = None;
        let Taken { since, wanted, bundles } = taken;
        let Ok(bundles) = bundles else {
            self.look_at = Instant::now() + self.shared.options.every;
            return;
        };
        let all = bundles.len() < wanted.sagas;
        self.after = bundles.last().filter(|_| !all).map(|bundle| bundle.saga.clone());
        // At the end of the ids it goes on from the beginning, unless it began there.
        if !all || wanted.after.is_some() {
            self.look_at = since;
        }
        for bundle in bundles {
            self.held.insert(bundle.saga.clone());
            self.sending.push(self.shared.clone().send(bundle, since).boxed());
        }
    }

    fn sent(&mut self, sent: Sent) {
        self.more |= sent.more;
        self.done.push(sent.relayed);
    }

    fn wrote(&mut self, Written { mut done, written }: Written) {
        self.writing = None;
        let now = Instant::now();
        if !written {
            self.failed_writes += 1;
            let pause = self.shared.options.retry.pause(self.failed_writes, &mut rand::rng());
            self.write_at = now + pause.min(LONGEST_PAUSE);
            done.append(&mut self.done);
            self.done = done;
            return;
        }
        self.failed_writes = 0;
        for relayed in done {
            self.held.remove(&relayed.saga);
            // The store counts from a moment before now, in milliseconds.
            let over = relayed.pause.map(|(span, _)| now + span + Duration::from_millis(1));
            self.retry_at = self.retry_at.into_iter().chain(over).min();
        }
        if self.more {
            self.look_at = now;
            self.more = !self.done.is_empty();
        }
    }
}
