use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
};

use gusset_call::Clock;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, Semaphore, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    Options, SagaError, SagaId, Store, StoreError, definition::Plan, live::Live, span::Listener,
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
    pub(crate) permits: Semaphore,
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
    /// Whether that task is there: cheap to read.
    kept: Arc<AtomicBool>,
}

type Plans = HashMap<(Arc<str>, u32), Arc<Plan>>;

impl Engine {
    pub(crate) fn new(store: Arc<dyn Store>, options: Options) -> Self {
        static ENGINES: AtomicU64 = AtomicU64::new(1);
        Self {
            number: ENGINES.fetch_add(1, Relaxed),
            store,
            permits: Semaphore::new(options.max_running),
            options,
            node: SagaId::random().as_str().into(),
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
            kept: Arc::default(),
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

    /// The same, once it was heard of.
    pub(crate) fn known_now(&self) -> Option<u64> {
        let anchor = self.anchor.load(Relaxed);
        (anchor > 0).then(|| anchor + self.elapsed())
    }

    fn elapsed(&self) -> u64 {
        self.clock.nanos() / 1_000_000
    }

    /// Answer of the store, or a failure if it takes too long.
    pub(crate) async fn store<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut answer = pin!(answer);
        match at_once(answer.as_mut()).await {
            Some(answer) => self.noted(answer),
            None => self.awaited(answer).await,
        }
    }

    /// Answer of a store that had none at once.
    pub(crate) async fn awaited<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let span = self.options.store_timeout;
        // In a box, since the future of each saga has room for it else.
        let answer = Box::pin(timeout(span, answer)).await;
        self.noted(
            answer
                .unwrap_or_else(|_| Err(StoreError::failed(format!("no answer within {span:?}")))),
        )
    }

    pub(crate) fn noted<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
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
        if self.kept.load(Relaxed) {
            return;
        }
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.kept.load(Relaxed) {
            let keeping = Keeping(self.kept.clone());
            self.kept.store(true, Relaxed);
            *keeper = Some(tokio::spawn(keep_leases(self.clone(), keeping)));
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

/// What is ready when it is polled once: no clock is read for it, and no timer made.
pub(crate) async fn at_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Says that the task which holds it is there.
struct Keeping(Arc<AtomicBool>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// Renews all leases each third of a lease, as one batch. A store that fails is not a lost lease: should another process take over, the next append tells.
async fn keep_leases(engine: Arc<Engine>, _keeping: Keeping) {
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
