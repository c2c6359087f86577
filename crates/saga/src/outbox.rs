mod relay;

use std::{
    fmt,
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use self::relay::{Relaying, Shared};
use crate::{BoxError, Orchestrator, Outgoing, Policy, Store};

/// Where an [`OutboxRelay`] sends messages: a broker, mostly. Implemented for closures.
pub trait OutboxTarget: Send + Sync + 'static {
    /// Sends one message, and answers `Ok` when the receiver will not lose it. It may come more than once, always under the same
    /// [`MessageId`](crate::MessageId): hand that on, so that the receiver can tell.
    ///
    /// # Errors
    ///
    /// Any error, and a panic, means that it is sent again later. What the receiver is never going to take should be put aside here and answered `Ok`, or it holds
    /// the later messages of its saga for ever.
    ///
    /// # Cancellation
    ///
    /// After a third of [`RelayOptions::lease`] the future is dropped, which counts as a failure.
    fn deliver(&self, message: Outgoing) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl<F, R, E> OutboxTarget for F
where
    F: Fn(Outgoing) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), E>> + Send,
    E: Into<BoxError>,
{
    async fn deliver(&self, message: Outgoing) -> Result<(), BoxError> {
        self(message).await.map_err(Into::into)
    }
}

/// How an [`OutboxRelay`] works; [`RelayOptions::default`] states and explains the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    at_once: usize,
    lease: Duration,
    every: Duration,
    retry: Policy,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            at_once: 64,
            lease: Duration::from_secs(30),
            every: Duration::from_secs(1),
            retry: Policy::step().backoff(Duration::from_millis(100), Duration::from_secs(60)),
        }
    }
}

impl RelayOptions {
    /// Sagas whose messages are under way at once, one message of each; 0 means the same as 1. Default 64: enough that a target which takes
    /// milliseconds gets ten thousand a second.
    #[must_use]
    pub const fn at_once(mut self, sagas: usize) -> Self {
        self.at_once = if sagas == 0 { 1 } else { sagas };
        self
    }

    /// How long other nodes leave this one the messages that it took. Default 30 s: what a node that died had taken is late by that. An attempt of the target may take a third
    /// of it. Less than 1 s means 1 s.
    #[must_use]
    pub const fn lease(mut self, span: Duration) -> Self {
        let least = Duration::from_secs(1);
        self.lease = if span.as_nanos() < least.as_nanos() { least } else { span };
        self
    }

    /// How often to look for what others left and for what pauses. Default 1 s. What this process's orchestrator emits is sent at once. Less than 1 ms means 1 ms.
    #[must_use]
    pub const fn look_every(mut self, span: Duration) -> Self {
        let least = Duration::from_millis(1);
        self.every = if span.as_nanos() < least.as_nanos() { least } else { span };
        self
    }

    /// Bound of the first pause after a failure, and of every pause, as in [`Policy`]. Default 100 ms and 60 s. There is no last attempt.
    #[must_use]
    pub const fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.retry = self.retry.backoff(base, cap);
        self
    }
}

/// Sends the messages that steps [emit](crate::StepContext::emit): **each at least once, those of one saga in their order**, and none of an attempt that was
/// not written down as done.
///
/// In their order means: a message is sent for the first time only after the target took all earlier ones of its saga. Sagas wait for each other neither when they
/// emit nor when they fail. A message that was taken is deleted; one whose deletion was lost to a crash is sent again under the same id.
///
/// ```
/// use gusset_saga::{BoxError, MemoryStore, Orchestrator, Outgoing, RelayOptions, Saga, StepContext, StepError};
///
/// async fn pay(cx: StepContext, cents: u64) -> Result<u64, StepError> {
///     cx.emit("order.paid", &cents).map_err(StepError::rejected)?;
///     Ok(cents)
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let (broker, mut published) = tokio::sync::mpsc::channel(10);
/// let publish = move |message: Outgoing| {
///     let broker = broker.clone();
///     async move {
///         // A real one gets `message.id`, and takes what it had before for the same.
///         broker.send(format!("{} {}", message.message.topic, message.message.body.get())).await.map_err(BoxError::from)
///     }
/// };
///
/// let mut saga = Saga::define("order", 1);
/// let paid = saga.step("pay").run(pay).no_undo();
/// let order = saga.finish(&paid)?;
/// let sagas = Orchestrator::new(MemoryStore::new());
/// let relay = sagas.spawn_relay(publish, RelayOptions::default());
/// sagas.run(&order, 1_999).await?;
/// assert_eq!(published.recv().await.as_deref(), Some("order.paid 1999"));
/// relay.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # When the target fails
///
/// The message is tried again after a pause that grows, and holds the later ones of its saga, in every node. Messages of other sagas pass. Nothing is ever given up:
/// [`Pending::failing`](crate::Pending::failing) and [`RelayStats::failures`] show what to look at.
///
/// # Several nodes
///
/// Each may have a relay. A saga's messages are taken by one for a lease, and it stops in time before that ends, so nothing is sent twice while nodes and
/// store are well. A node that was frozen for longer sends what it had in hand once more.
///
/// # Memory
///
/// At most [`RelayOptions::at_once`] sagas with 16 messages each, and each message of at most [`Json::MAX`](crate::Json::MAX). What waits is in the
/// store: [`MemoryStore`](crate::MemoryStore) takes [`MESSAGES`](crate::MemoryStore::MESSAGES), the others what fits on their disk.
///
/// # Cancellation
///
/// Dropping it ends its task where it is. What it had taken is free after the lease, and may be sent again. [`close`](Self::close) leaves nothing behind.
#[must_use = "dropping the relay ends it"]
pub struct OutboxRelay {
    shared: Arc<dyn Told>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What a relay says of itself, whatever its target is.
trait Told: Send + Sync {
    fn stats(&self) -> RelayStats;
}

impl<T: OutboxTarget> Told for Shared<T> {
    fn stats(&self) -> RelayStats {
        RelayStats {
            relayed: self.relayed.load(Relaxed),
            failures: self.failures.load(Relaxed),
            store_errors: self.store_errors.load(Relaxed),
        }
    }
}

/// How often what happened in one relay since it began. What waits is told by [`Store::pending`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayStats {
    /// Messages that the target took.
    pub relayed: u64,
    /// Attempts that failed, and messages that could not be read.
    pub failures: u64,
    /// Answers of the store that were failures.
    pub store_errors: u64,
}

impl OutboxRelay {
    /// Spawns a task that relays what is in `store`, for a process that has no orchestrator on it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(store: Arc<dyn Store>, target: impl OutboxTarget, options: RelayOptions) -> Self {
        Self::spawn_told(store, target, options, Arc::default())
    }

    fn spawn_told<T: OutboxTarget>(
        store: Arc<dyn Store>,
        target: T,
        options: RelayOptions,
        emitted: Arc<Notify>,
    ) -> Self {
        let stop = watch::Sender::new(false);
        let shared = Arc::new(Shared::new(store, target, options, stop.subscribe()));
        let task = tokio::spawn(Relaying::new(shared.clone(), emitted).run());
        Self { shared, stop, task }
    }

    /// Takes no further messages, lets the ones under way come to their end, at most a third of the lease, writes down what became of them, and gives the others back.
    ///
    /// # Cancellation
    ///
    /// As if the relay were dropped.
    pub async fn close(mut self) {
        self.stop.send_replace(true);
        // It errs only if the task was ended from outside, with its runtime.
        let _ = (&mut self.task).await;
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        self.shared.stats()
    }
}

impl Drop for OutboxRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for OutboxRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxRelay").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Messages that steps emit.
impl Orchestrator {
    /// Spawns a task that sends to `target` what steps [emit](crate::StepContext::emit), here as soon as it is durable, and in other processes with the same store. See [`OutboxRelay`]
    /// for what is guaranteed. The relay outlives the orchestrator: close it after the [`shutdown`](Self::shutdown).
    pub fn spawn_relay(&self, target: impl OutboxTarget, options: RelayOptions) -> OutboxRelay {
        let engine = self.engine();
        let (store, emitted) = (engine.store.clone(), engine.emitted.clone());
        OutboxRelay::spawn_told(store, target, options, emitted)
    }
}
