use std::{fmt, sync::Arc};

use gusset_call::{Context, Overloaded, TraceContext, TraceState};
use serde::Serialize;
use tokio::sync::SemaphorePermit;

use crate::{
    Definition, Finished, Json, Options, SagaError, SagaId, Span, Stats, Store,
    engine::Engine,
    handle::{Handle, outcome},
    live::{Found, Live, NotEntered},
    seat::{Phase, Seat},
    work::{self, Trace},
};

/// Runs sagas, each by itself, and keeps their journals in a [`Store`]. Clones share all.
///
/// ```
/// use gusset_saga::{Finished, MemoryStore, Orchestrator, Saga, StepContext, StepError};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut saga = Saga::define("greet", 1);
/// let greeting = saga.step("compose").run(|_cx, name: String| async move { Ok(format!("hello {name}")) }).no_undo();
/// let greet = saga.finish(&greeting)?;
///
/// let sagas = Orchestrator::new(MemoryStore::new());
/// let finished = sagas.run(&greet, "world".to_owned()).await?;
/// assert!(matches!(finished, Finished::Completed(text) if text == "hello world"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Tasks
///
/// [`start`](Self::start), [`run`](Self::run), [`recover`](Self::recover) and orders spawn the sagas' tasks on the
/// tokio runtime that they are called in, and one that renews all leases. What a saga can do before it has to wait for the first time is done by the
/// caller of `start` or `run` itself, before its task is spawned; one that never waits, as with a store in memory, needs no task. Dropping what these methods return does **not** end them: a saga that began is carried on, forward or
/// back, whoever waits for it or not. The orchestrator is their guard: [`shutdown`](Self::shutdown) ends them between two
/// attempts, and dropping the last clone ends them where they are, as a crash would; their journals stay. An action that owns a clone
/// of its own orchestrator keeps it alive for ever.
#[derive(Clone)]
pub struct Orchestrator(Arc<Owner>);

struct Owner {
    engine: Arc<Engine>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.engine.live.abort_all();
        self.engine.end_keeping();
    }
}

impl Orchestrator {
    /// With default [`Options`].
    pub fn new(store: impl Store) -> Self {
        Self::with(Arc::new(store), Options::default())
    }

    /// With a shared store, and options.
    pub fn with(store: Arc<dyn Store>, options: Options) -> Self {
        Self(Arc::new(Owner { engine: Arc::new(Engine::new(store, options)) }))
    }

    /// Has `listener` told of each attempt when it is over, of actions and of undos: for an exporter of traces. Call it before the first saga; further calls are
    /// ignored.
    ///
    /// The trace that a saga is begun in is in its journal, so all its attempts are children of one span, in whichever process and after whatever crash. One that
    /// is begun outside of any trace gets a new one, whose first span nobody records. During an attempt [`Context::current`] names the attempt's
    /// span; without a listener, it names the span that the saga was begun in.
    ///
    /// It is called on the task of the saga, under no lock, and must not block; a panic in it is swallowed. An attempt that ends with its process is told
    /// by nobody: it is the gap before the first attempt of the next epoch.
    ///
    /// ```
    /// # use gusset_saga::{MemoryStore, Orchestrator};
    /// let (spans, ended) = std::sync::mpsc::channel();
    /// let sagas = Orchestrator::new(MemoryStore::new()).on_span(move |span| drop(spans.send(span)));
    /// # drop((sagas, ended));
    /// ```
    #[must_use]
    pub fn on_span(self, listener: impl Fn(Span) + Send + Sync + 'static) -> Self {
        // It errs where there is one.
        let _ = self.engine().listener.set(Arc::new(listener));
        self
    }

    /// Makes a definition known to [`recover`](Self::recover) and to orders. [`start`](Self::start) does so too.
    ///
    /// # Errors
    ///
    /// [`SagaError::DefinitionDiffers`] when its name and version are known with other steps.
    pub fn register<In, Out>(&self, definition: &Definition<In, Out>) -> Result<(), SagaError> {
        self.engine().register(&definition.plan)
    }

    /// Runs a saga under a new id to its end.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start) and of [`Handle::outcome`].
    ///
    /// # Cancellation
    ///
    /// Once begun, the saga goes on without the caller; before that, nothing has happened.
    pub async fn run<In: Serialize, Out>(
        &self,
        definition: &Definition<In, Out>,
        input: In,
    ) -> Result<Finished<Out>, SagaError> {
        // By the clock that is read for its first record as well, as soon as there is one.
        let saga = self.engine().known_now().map_or_else(SagaId::random, SagaId::random_at);
        self.run_as(definition, saga, input).await
    }

    /// Runs the saga of this id to its end, or tells how it ended, if there is one already.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start) and of [`Handle::outcome`].
    ///
    /// # Cancellation
    ///
    /// As [`run`](Self::run).
    pub async fn run_as<In: Serialize, Out>(
        &self,
        definition: &Definition<In, Out>,
        saga: SagaId,
        input: In,
    ) -> Result<Finished<Out>, SagaError> {
        let input = Json::encode(&input).map_err(|error| SagaError::Input(error.into()))?;
        self.register(definition)?;
        let seat = self.enter(definition, &saga, input).await?;
        outcome(&seat, &definition.needs, definition.decode).await
    }

    /// Begins a saga; its journal is durable when this returns. The same id with the same definition and input, at any time while the
    /// store remembers it and in any process, does not begin it again: the handle is of the one that there is.
    ///
    /// Waits while [`Options::max_running`] sagas are under way. The trace of [`Context::current`] is kept and continued; its deadline is not,
    /// since a saga must come to its end.
    ///
    /// # Errors
    ///
    /// - [`SagaError::Input`], [`SagaError::DefinitionDiffers`], [`SagaError::IdTaken`], [`SagaError::ShuttingDown`], and
    ///   [`StoreError::Full`](crate::StoreError::Full): nothing was begun.
    /// - [`SagaError::Store`] otherwise: the store failed three times, and may have the saga nevertheless, which recovery then
    ///   carries on. Start the same id again to know.
    ///
    /// # Cancellation
    ///
    /// As [`run`](Self::run).
    pub async fn start<In: Serialize, Out>(
        &self,
        definition: &Definition<In, Out>,
        saga: SagaId,
        input: In,
    ) -> Result<Handle<Out>, SagaError> {
        let input = Json::encode(&input).map_err(|error| SagaError::Input(error.into()))?;
        self.register(definition)?;
        let seat = self.enter(definition, &saga, input).await?;
        seat.reached(|phase| phase != Phase::Entered).await;
        if let Some(Err(error)) = seat.ended() {
            return Err(error.clone());
        }
        let (needs, decode) = (definition.needs.clone(), definition.decode);
        Ok(Handle { seat, needs, decode })
    }

    /// Begins no further saga, lets those under way finish their present attempt and write down how it went, and returns when all have
    /// stopped. What is left is in the journals, free for others to take over at once.
    ///
    /// It takes as long as the longest attempt, at most its timeout, and what the store needs to answer; limit it with
    /// `tokio::time::timeout`, and drop the orchestrator then.
    ///
    /// # Cancellation
    ///
    /// The sagas stop all the same.
    pub async fn shutdown(&self) {
        let engine = self.engine();
        engine.live.close();
        engine.permits.close();
        engine.drain();
        engine.live.call_all();
        engine.live.emptied().await;
        engine.end_keeping();
    }

    /// What happened so far in this process.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine().counters.stats(self.engine().live.len())
    }

    async fn enter<In, Out>(
        &self,
        definition: &Definition<In, Out>,
        saga: &SagaId,
        input: Json,
    ) -> Result<Arc<Seat>, SagaError> {
        let engine = self.engine();
        let shape = &definition.plan.shape;
        let mut permit = engine.permits.try_acquire().ok();
        loop {
            let found = match permit.take() {
                Some(permit) => match self.begin(definition, saga, &input, permit).await {
                    Ok(seat) => return Ok(seat),
                    // Someone was quicker: theirs is the one.
                    Err(NotEntered::Occupied(other)) => Some(Found::of(other, shape, &input)),
                    Err(NotEntered::Closed) => return Err(shutting_down()),
                },
                // One that is under way already needs none.
                None => engine.live.find(saga, shape, &input),
            };
            match found {
                Some(Found::Same(seat)) => return Ok(seat),
                Some(Found::Other) => return Err(SagaError::IdTaken(saga.clone())),
                Some(Found::Unsettled(seat)) => seat.moved_on().await,
                None => permit = Some(self.permit().await?),
            }
        }
    }

    async fn begin<In, Out>(
        &self,
        definition: &Definition<In, Out>,
        saga: &SagaId,
        input: &Json,
        permit: SemaphorePermit<'_>,
    ) -> Result<Arc<Seat>, NotEntered> {
        let plan = definition.plan.clone();
        let given = (plan.shape.clone(), input.clone());
        let seat = Seat::new(self.engine().clone(), saga.clone(), given);
        let job = work::Begin { plan, input: input.clone(), trace: self.trace() };
        let entered = Live::enter(seat, permit, |seat| work::begin(seat, job))?;
        Ok(entered.begin().await)
    }

    /// The trace that a saga is begun in, and what goes with it.
    fn trace(&self) -> Option<Trace> {
        let traced = self.engine().listener.get().map(|_| TraceContext::new_root());
        let context = Context::current().trace();
        let state = context.and_then(|_| TraceState::current());
        context.or(traced).map(|context| Trace { context, state })
    }

    pub(crate) async fn permit(&self) -> Result<SemaphorePermit<'_>, SagaError> {
        self.engine().permits.acquire().await.map_err(|_| shutting_down())
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }
}

pub(crate) fn shutting_down() -> SagaError {
    SagaError::ShuttingDown(Overloaded::new("saga orchestrator"))
}

impl fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
