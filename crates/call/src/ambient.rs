use std::{
    cell::Cell,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use pin_project_lite::pin_project;
use tokio::task::JoinHandle;
use tracing::{Instrument, Span, instrument::Instrumented};

use crate::{Attempt, Baggage, Context, RequestId, TraceContext, TraceState};

thread_local! {
    /// What is current in the task that this thread polls. Only scopes write here, and each gives back what it found.
    static CURRENT: Slots = const {
        Slots { context: Cell::new(Context::EMPTY), attempt: Cell::new(Attempt::FIRST) }
    };
    /// Not in `CURRENT`: what needs no drop is read without asking whether it has been dropped, and every layer reads it.
    static BESIDE: Cell<Option<Arc<Beside>>> = const { Cell::new(None) };
}

pub(crate) struct Slots {
    pub(crate) context: Cell<Context>,
    pub(crate) attempt: Cell<Attempt>,
}

/// What most calls have not, in one place: what is current changes with every poll of every layer, and so has to be small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    pub(crate) state: Option<TraceState>,
    pub(crate) baggage: Option<Baggage>,
    pub(crate) request_id: Option<RequestId>,
}

impl Beside {
    /// The same with one thing changed; nothing if it has nothing then.
    fn with(before: Option<&Arc<Self>>, change: impl FnOnce(&mut Self)) -> Option<Arc<Self>> {
        let mut beside = before.map(|it| Self::clone(it)).unwrap_or_default();
        change(&mut beside);
        (beside != Self::default()).then(|| Arc::new(beside))
    }
}

impl Slots {
    pub(crate) fn read<R>(read: impl FnOnce(&Self) -> R) -> R {
        CURRENT.with(read)
    }

    /// Puts `value` there until the guard is dropped.
    pub(crate) fn replace<T: Copy>(slot: Slot<T>, value: T) -> Restored<T> {
        Restored { slot, before: Self::read(|slots| slot(slots).replace(value)) }
    }
}

type Slot<T> = fn(&Slots) -> &Cell<T>;

pub(crate) struct Restored<T: Copy> {
    slot: Slot<T>,
    before: T,
}

impl<T: Copy> Drop for Restored<T> {
    fn drop(&mut self) {
        Slots::read(|slots| (self.slot)(slots).set(self.before));
    }
}

impl Beside {
    /// One of the things beside the context.
    pub(crate) fn current<T>(read: impl FnOnce(&Self) -> Option<T>) -> Option<T> {
        Self::all().and_then(|beside| read(&beside))
    }

    /// Runs `f` with one of them changed.
    pub(crate) fn scope<R>(change: impl FnOnce(&mut Self), f: impl FnOnce() -> R) -> R {
        let _restored = Self::replace(Self::with(Self::all().as_ref(), change).as_ref());
        f()
    }

    /// None also in a thread that ends and has dropped it.
    fn all() -> Option<Arc<Self>> {
        let read = |slot: &Cell<Option<Arc<Self>>>| {
            let beside = slot.take()?;
            slot.set(Some(beside.clone()));
            Some(beside)
        };
        BESIDE.try_with(read).ok().flatten()
    }

    /// None if there is nothing to give back: in a thread that ends, or where there was nothing and there is nothing now.
    fn replace(value: Option<&Arc<Self>>) -> Option<RestoredBeside> {
        let replace = |slot: &Cell<Option<Arc<Self>>>| {
            let before = slot.take();
            if before.is_none() && value.is_none() {
                return None;
            }
            slot.set(value.cloned());
            Some(RestoredBeside(before))
        };
        BESIDE.try_with(replace).ok().flatten()
    }
}

struct RestoredBeside(Option<Arc<Beside>>);

impl Drop for RestoredBeside {
    fn drop(&mut self) {
        let before = self.0.take();
        // What is replaced is dropped after the slot is whole again.
        let _over = BESIDE.try_with(|slot| slot.replace(before));
    }
}

/// What [`Context::enter`] and [`Ambient::enter`] made current is so until this is dropped.
#[must_use = "what was entered is left at once"]
pub struct Entered {
    context: Context,
    attempt: Attempt,
    /// Of an [`Ambient`].
    _beside: Option<RestoredBeside>,
    /// It belongs to the thread.
    _here: PhantomData<*const ()>,
}

impl Entered {
    pub(crate) fn context(context: Context) -> Self {
        Slots::read(|slots| Self {
            context: slots.context.replace(context),
            attempt: slots.attempt.get(),
            _beside: None,
            _here: PhantomData,
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        Slots::read(|slots| {
            slots.context.set(self.context);
            slots.attempt.set(self.attempt);
        });
    }
}

impl fmt::Debug for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entered").finish_non_exhaustive()
    }
}

/// All that is current in a task: [`Context`], [`Attempt`], [`TraceState`], [`Baggage`] and [`RequestId`]; to be taken to where they would not go by themselves, such as a
/// thread or another runtime. For tasks there is [`spawn`].
///
/// ```
/// use gusset_call::{Ambient, Context, TraceContext};
///
/// let trace = TraceContext::new_root();
/// Context::default().with_trace(trace).sync_scope(|| {
///     let ambient = Ambient::current();
///     let thread = std::thread::spawn(move || ambient.sync_scope(gusset_call::current_trace));
///     assert_eq!(thread.join().unwrap(), Some(trace));
/// });
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ambient {
    context: Context,
    attempt: Attempt,
    beside: Option<Arc<Beside>>,
}

impl Ambient {
    /// What is current here.
    #[must_use]
    pub fn current() -> Self {
        let (context, attempt) = Slots::read(|slots| (slots.context.get(), slots.attempt.get()));
        Self { context, attempt, beside: Beside::all() }
    }

    /// The same with this context.
    #[must_use]
    pub fn with_context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// The same in this try of a call.
    #[must_use]
    pub fn with_attempt(mut self, attempt: Attempt) -> Self {
        self.attempt = attempt;
        self
    }

    /// The same with this state, or with none.
    #[must_use]
    pub fn with_trace_state(mut self, state: Option<TraceState>) -> Self {
        if state.is_some() || self.beside.is_some() {
            self.beside = Beside::with(self.beside.as_ref(), |beside| beside.state = state);
        }
        self
    }

    /// The same with this baggage, or with none.
    #[must_use]
    pub fn with_baggage(mut self, baggage: Option<Baggage>) -> Self {
        if baggage.is_some() || self.beside.is_some() {
            self.beside = Beside::with(self.beside.as_ref(), |beside| beside.baggage = baggage);
        }
        self
    }

    /// The same for a request of this name, or of none.
    #[must_use]
    pub fn with_request_id(mut self, id: Option<RequestId>) -> Self {
        if id.is_some() || self.beside.is_some() {
            self.beside = Beside::with(self.beside.as_ref(), |beside| beside.request_id = id);
        }
        self
    }

    /// Its context.
    #[must_use]
    pub const fn context(&self) -> Context {
        self.context
    }

    /// Its `tracestate`.
    #[must_use]
    pub fn trace_state(&self) -> Option<&TraceState> {
        self.beside.as_ref()?.state.as_ref()
    }

    /// Its baggage.
    #[must_use]
    pub fn baggage(&self) -> Option<&Baggage> {
        self.beside.as_ref()?.baggage.as_ref()
    }

    /// What its request is called.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        self.beside.as_ref()?.request_id.as_ref()
    }

    /// Runs `future` with this as what is current.
    pub const fn scope<F: Future>(self, future: F) -> Scope<F> {
        Scope { inner: Some(future), kept: Kept::All { ambient: self } }
    }

    /// Runs `f` with this as what is current.
    pub fn sync_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        let _entered = self.enter();
        f()
    }

    /// Makes this what is current until the guard is dropped; see [`Context::enter`].
    pub fn enter(&self) -> Entered {
        let mut entered = Entered::context(self.context);
        Slots::read(|slots| slots.attempt.set(self.attempt));
        entered._beside = Beside::replace(self.beside.as_ref());
        entered
    }
}

pin_project! {
    /// Future of [`Context::scope`] and [`Ambient::scope`].
    ///
    /// # Cancellation
    ///
    /// Dropping it drops the inner future, which still sees what is current for it.
    pub struct Scope<F> {
        #[pin]
        inner: Option<F>,
        kept: Kept,
    }

    impl<F> PinnedDrop for Scope<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.kept.enter(|| this.inner.set(None));
        }
    }
}

impl<F> Scope<F> {
    pub(crate) const fn of_context(context: Context, future: F) -> Self {
        Self { inner: Some(future), kept: Kept::Context { context } }
    }
}

/// What a scope brings along.
enum Kept {
    /// All else is as it is where the future is polled.
    Context {
        context: Context,
    },
    All {
        ambient: Ambient,
    },
}

impl Kept {
    fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        match self {
            Self::Context { context } => context.sync_scope(f),
            Self::All { ambient } => ambient.sync_scope(f),
        }
    }
}

impl<F> fmt::Debug for Scope<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        match this.inner.as_pin_mut() {
            Some(inner) => this.kept.enter(|| inner.poll(cx)),
            None => Poll::Pending,
        }
    }
}

/// The span that this work belongs to: that of [`Context::current`].
#[must_use]
pub fn current_trace() -> Option<TraceContext> {
    Context::current().trace()
}

/// As `tokio::spawn`, but the task keeps all that is current: trace, deadline, [`Ambient`], and the span of `tracing`.
///
/// The task is not ended with the call that it was spawned in. The deadline only tells what it calls how long there is: work that goes on
/// when the caller has its answer wants none.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use gusset_call::{Context, TraceContext, current_trace, spawn};
///
/// let trace = TraceContext::new_root();
/// let cx = Context::default().with_trace(trace);
/// let task = cx.sync_scope(|| spawn(async { current_trace() }));
/// assert_eq!(task.await?, Some(trace));
///
/// // Goes on after the call.
/// let afterwards = Context::current().without_deadline();
/// let task = afterwards.sync_scope(|| spawn(async { /* ... */ }));
/// # task.await?;
/// # Ok::<(), tokio::task::JoinError>(())
/// # }).unwrap();
/// ```
///
/// # Panics
///
/// Outside of a tokio runtime, as `tokio::spawn` does.
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(carry(future))
}

/// As `tokio::task::spawn_blocking`, but the function keeps what [`spawn`] does.
///
/// # Panics
///
/// Outside of a tokio runtime, as `tokio::task::spawn_blocking` does.
#[track_caller]
pub fn spawn_blocking<F, R>(f: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    let (ambient, span) = (Ambient::current(), Span::current());
    tokio::task::spawn_blocking(move || ambient.sync_scope(|| span.in_scope(f)))
}

/// The same future, which keeps what [`spawn`] does wherever it is polled: for a `JoinSet`, a `LocalSet` or another runtime.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use gusset_call::carry;
/// use tokio::task::JoinSet;
///
/// let mut prices = JoinSet::new();
/// for product in [1, 2, 3] {
///     prices.spawn(carry(async move { /* calls others within the same trace */ product * 100 }));
/// }
/// // They end with the call: a `JoinSet` that is dropped ends its tasks.
/// assert_eq!(prices.join_all().await.iter().sum::<i32>(), 600);
/// # });
/// ```
pub fn carry<F: Future>(future: F) -> Carry<F> {
    Carry { inner: Ambient::current().scope(future).instrument(Span::current()) }
}

pin_project! {
    /// Future of [`carry`].
    pub struct Carry<F> {
        #[pin]
        inner: Instrumented<Scope<F>>,
    }
}

impl<F> fmt::Debug for Carry<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carry").finish_non_exhaustive()
    }
}

impl<F: Future> Future for Carry<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}

#[cfg(test)]
mod tests;
