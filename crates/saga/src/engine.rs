use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use gusset_call::Clock;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, Semaphore, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    Options, SagaError, Store, StoreError, definition::Plan, live::Live, span::Listener,
    stats::Counters,
};

/// What the tasks of an orchestrator share. They hold this, not the orchestrator, whose last drop ends them.
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) options: Options,
    /// Name of this orchestrator in the store.
    pub(crate) node: Arc<str>,
    /// Tells it from the others in this process; from 1 on.
    number: u64,
    pub(crate) live: Live,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) counters: Counters,
    /// Held by who has claimed sagas that have no task yet: until then the store's word that they are ours does not mean that nobody works on them.
    pub(crate) claims: AsyncMutex<()>,
    /// Told when messages become durable.
    pub(crate) emitted: Arc<Notify>,
    /// Is told of attempts.
    pub(crate) listener: OnceLock<Arc<Listener>>,
    draining: watch::Sender<bool>,
    /// The same, cheap to read.
    drains: AtomicBool,
    /// By name and version. Bounded by the program: definitions are part of it.
    plans: RwLock<Plans>,
    clock: Clock,
    /// What the store's clock showed when ours showed 0; 0 before that is known.
    anchor: AtomicU64,
    /// How many tasks recover sagas.
    recoverers: AtomicUsize,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

type Plans = HashMap<(Arc<str>, u32), Arc<Plan>>;

impl Engine {
    pub(crate) fn new(store: Arc<dyn Store>, options: Options) -> Self {
        static ENGINES: AtomicU64 = AtomicU64::new(1);
        Self {
            number: ENGINES.fetch_add(1, Relaxed),
            store,
            permits: Arc::new(Semaphore::new(options.max_running)),
            options,
            node: uuid::Uuid::now_v7().to_string().into(),
            live: Live::default(),
            counters: Counters::default(),
            claims: AsyncMutex::default(),
            emitted: Arc::default(),
            listener: OnceLock::new(),
            draining: watch::Sender::new(false),
            drains: AtomicBool::new(false),
            plans: RwLock::default(),
            clock: Clock::new(),
            anchor: AtomicU64::new(0),
            recoverers: AtomicUsize::new(0),
            keeper: Mutex::new(None),
        }
    }

    /// Makes a definition known, which it may be already.
    pub(crate) fn register(&self, plan: &Arc<Plan>) -> Result<(), SagaError> {
        // As for each saga but the first one of a definition.
        if plan.known_to.load(Relaxed) == self.number {
            return Ok(());
        }
        self.check_in(plan)?;
        plan.known_to.store(self.number, Relaxed);
        Ok(())
    }

    fn check_in(&self, plan: &Arc<Plan>) -> Result<(), SagaError> {
        let shape = &plan.shape;
        if let Some(known) = self.plan(&shape.name, shape.version) {
            return if known.shape == *shape {
                Ok(())
            } else {
                Err(SagaError::DefinitionDiffers(shape.name.clone(), shape.version))
            };
        }
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        let known =
            plans.entry((shape.name.clone(), shape.version)).or_insert_with(|| plan.clone());
        if known.shape == *shape {
            Ok(())
        } else {
            Err(SagaError::DefinitionDiffers(shape.name.clone(), shape.version))
        }
    }

    pub(crate) fn known(&self) -> Vec<(Arc<str>, u32)> {
        self.plans.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(crate) fn plan(&self, name: &Arc<str>, version: u32) -> Option<Arc<Plan>> {
        let plans = self.plans.read().unwrap_or_else(PoisonError::into_inner);
        plans.get(&(name.clone(), version)).cloned()
    }

    /// Reads the store's clock, where that was not done yet, or is to be done again.
    pub(crate) async fn sync(&self, again: bool) -> Result<(), StoreError> {
        if again || self.anchor.load(Relaxed) == 0 {
            return Box::pin(self.read_clock()).await;
        }
        Ok(())
    }

    async fn read_clock(&self) -> Result<(), StoreError> {
        let theirs = self.store(self.store.now()).await?;
        // Ours is read after theirs: we are late by what the answer took, never early.
        self.anchor.store(theirs.saturating_sub(self.elapsed()).max(1), Relaxed);
        Ok(())
    }

    /// The store's clock, as far as it was heard of.
    pub(crate) fn now(&self) -> u64 {
        self.anchor.load(Relaxed) + self.elapsed()
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.clock.now().as_millis()).unwrap_or(u64::MAX)
    }

    /// Answer of the store, or a failure if it takes too long.
    pub(crate) async fn store<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let span = self.options.store_timeout;
        let answer = within(span, answer)
            .await
            .unwrap_or_else(|| Err(StoreError::failed(format!("no answer within {span:?}"))));
        if matches!(answer, Err(StoreError::Failed(_))) {
            self.counters.store_errors.add(1);
        }
        answer
    }

    /// Whether this process fetches sagas from the store again that are due.
    pub(crate) fn is_recovering(&self) -> bool {
        self.recoverers.load(Relaxed) > 0
    }

    pub(crate) fn begin_recovering(&self) {
        self.recoverers.fetch_add(1, Relaxed);
    }

    pub(crate) fn end_recovering(&self) {
        self.recoverers.fetch_sub(1, Relaxed);
    }

    /// Sees to it that a task keeps the leases of all sagas under way. It is begun anew if its runtime has gone.
    pub(crate) fn keep_leases(self: &Arc<Self>) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            *keeper = Some(tokio::spawn(keep_leases(self.clone())));
        }
    }

    pub(crate) fn end_keeping(&self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keeper.take() {
            keeper.abort();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drains.load(Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.drains.store(true, Relaxed);
        self.draining.send_replace(true);
    }

    /// Until the shutdown begins.
    pub(crate) async fn drained(&self) {
        // It errs only without a sender, and that is ours.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }
}

/// A timeout that reads no clock and makes no timer for what is ready at once.
async fn within<T>(span: Duration, answer: impl Future<Output = T>) -> Option<T> {
    let (mut answer, mut alarm) = (pin!(answer), None);
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        // In a box, since the future of each saga has room for it else.
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep(span)));
        alarm.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// Renews all leases each third of a lease, as one batch. A store that fails is not a lost lease: should another process take over, the next append tells.
async fn keep_leases(engine: Arc<Engine>) {
    /// Leases in one request.
    const MOST: usize = 500;
    let lease = engine.options.lease;
    loop {
        sleep(lease / 3).await;
        for held in engine.live.held().chunks(MOST) {
            match engine.store(engine.store.renew(held, lease)).await {
                Ok(renewed) => {
                    for saga in &renewed.lost {
                        // One that has come to its end, or was taken up anew since, lost nothing.
                        let epoch = held.iter().find(|(id, _)| id == saga).map(|(_, epoch)| *epoch);
                        engine.live.lose(saga, epoch);
                    }
                    for saga in &renewed.mail {
                        if let Some(seat) = engine.live.seat(saga) {
                            seat.tell_of_mail();
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, sagas = held.len(), "leases not renewed"),
            }
        }
    }
}
