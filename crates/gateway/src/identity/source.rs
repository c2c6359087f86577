//! Keys that are read again while they are in use, from a file or from afar.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use gusset_call::{BoxError, Clock};
use rand::RngExt;
use tokio::{sync::watch, time::timeout};

type Loading<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// How long a load may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The longest wait after loads that failed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// When a [`Source`] is loaded again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// After a load that succeeded. Somebody must ask for it to happen.
    pub(super) refresh: Duration,
    /// The least time between loads that are asked for before they are due.
    pub(super) apart: Duration,
    /// How long the last good value is used when no load succeeds.
    pub(super) stale: Duration,
}

/// A value that is loaded when somebody asks for it and it is old, at most once at a time; meanwhile the last good one is used.
///
/// A load runs in a task of its own, so that nobody who asks and leaves ends it for the others. The task ends after 5 s at most.
pub(super) struct Source<T> {
    current: ArcSwap<Held<T>>,
    load: Box<dyn Fn() -> Loading<T> + Send + Sync>,
    what: String,
    pace: Pace,
    clock: Clock,
    /// When the next load is due, in nanoseconds of the clock.
    due: AtomicU64,
    /// From when on the value is too old.
    stale: AtomicU64,
    state: Mutex<State>,
    /// Loads that have ended.
    ended: watch::Sender<u64>,
}

/// A value, and how often it has changed.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) value: Option<T>,
    pub(super) generation: u64,
}

#[derive(Debug, Default)]
struct State {
    loading: bool,
    failures: u32,
    /// No load begins before.
    earliest: u64,
}

impl<T: PartialEq + Send + Sync + 'static> Source<T> {
    /// `what` is for the log. With a `first` value nothing is loaded until it is due.
    pub(super) fn new<F>(
        what: String,
        first: Option<T>,
        pace: Pace,
        load: impl Fn() -> F + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = Result<T, BoxError>> + Send + 'static,
    {
        let clock = Clock::new();
        let now = clock.nanos();
        let (due, stale) = match first {
            Some(_) => (after(now, pace.refresh), after(now, pace.stale)),
            None => (0, 0),
        };
        // What never changes is never loaded.
        let earliest = if pace.apart == Duration::MAX { u64::MAX } else { 0 };
        Arc::new(Self {
            current: ArcSwap::from_pointee(Held { value: first, generation: 0 }),
            load: Box::new(move || Box::pin(load())),
            what,
            pace,
            clock,
            due: due.into(),
            stale: stale.into(),
            state: Mutex::new(State { earliest, ..State::default() }),
            ended: watch::Sender::new(0),
        })
    }

    /// A value that never changes.
    pub(super) fn fixed(value: T) -> Arc<Self> {
        let never = Pace { refresh: Duration::MAX, apart: Duration::MAX, stale: Duration::MAX };
        Self::new("memory".into(), Some(value), never, || async { Err("it never changes".into()) })
    }

    /// The last good value, if there is one; it may be too old. If it is due, a load begins in the background.
    pub(super) fn current(self: &Arc<Self>) -> Guard<Arc<Held<T>>> {
        if self.clock.nanos() >= self.due.load(Relaxed) {
            drop(self.begin());
        }
        self.current.load()
    }

    /// Whether the value was loaded too long ago to be used.
    #[cfg(feature = "jwt")]
    pub(super) fn is_stale(&self) -> bool {
        self.clock.nanos() >= self.stale.load(Relaxed)
    }

    /// Waits until a load has ended, one that is under way or else a new one. `None` if it is too early for another.
    #[cfg(feature = "jwt")]
    pub(super) fn refreshed(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + use<T>> {
        let mut ended = self.begin()?;
        let source = self.clone();
        Some(async move {
            // The limit is for a load whose runtime has ended in between.
            let _ = timeout(LIMIT * 2, ended.changed()).await;
            drop(source);
        })
    }

    /// Begins a load unless one is under way, and lets its end be seen.
    fn begin(self: &Arc<Self>) -> Option<watch::Receiver<u64>> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let mut state = self.state();
        if !state.loading {
            if self.clock.nanos() < state.earliest {
                return None;
            }
            state.loading = true;
            self.due.store(after(self.clock.nanos(), LIMIT), Relaxed);
            let load = Load { source: self.clone(), outcome: None };
            // Before the task, which may end at once.
            let ended = self.ended.subscribe();
            drop(state);
            runtime.spawn(async move {
                let loaded = timeout(LIMIT, (load.source.load)()).await;
                load.ended(loaded.unwrap_or_else(|elapsed| Err(elapsed.into())));
            });
            return Some(ended);
        }
        Some(self.ended.subscribe())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, outcome: Option<Result<T, BoxError>>) {
        let now = self.clock.nanos();
        let mut wait = self.pace.apart;
        let failures = self.state().failures;
        let failures = match outcome {
            Some(Ok(value)) => {
                let held = self.current.load();
                if held.value.as_ref() != Some(&value) {
                    let generation = held.generation + 1;
                    self.current.store(Arc::new(Held { value: Some(value), generation }));
                }
                self.stale.store(after(now, self.pace.stale), Relaxed);
                self.due.store(after(now, self.pace.refresh), Relaxed);
                0
            }
            Some(Err(error)) => {
                wait = backoff(failures);
                self.due.store(after(now, wait), Relaxed);
                let error = &*error as &dyn std::error::Error;
                tracing::warn!(source = self.what, error, "keys could not be read again");
                failures.saturating_add(1)
            }
            // Its runtime has ended.
            None => {
                wait = Duration::ZERO;
                failures
            }
        };
        let mut state = self.state();
        state.failures = failures;
        state.loading = false;
        state.earliest = after(now, wait);
    }
}

/// A load under way. However it ends, others may begin.
struct Load<T: PartialEq + Send + Sync + 'static> {
    source: Arc<Source<T>>,
    outcome: Option<Result<T, BoxError>>,
}

impl<T: PartialEq + Send + Sync + 'static> Load<T> {
    fn ended(mut self, outcome: Result<T, BoxError>) {
        self.outcome = Some(outcome);
    }
}

impl<T: PartialEq + Send + Sync + 'static> Drop for Load<T> {
    fn drop(&mut self) {
        self.source.finish(self.outcome.take());
        self.source.ended.send_modify(|ended| *ended += 1);
    }
}

/// From half to all of a second, doubled with each failure, so that gateways that failed together do not ask again together.
fn backoff(failures: u32) -> Duration {
    let whole = Duration::from_secs(1 << failures.min(6)).min(LONGEST_WAIT);
    whole.mul_f64(rand::rng().random_range(0.5..=1.0))
}

fn after(now: u64, span: Duration) -> u64 {
    now.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

impl<T> fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("what", &self.what).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "jwt"))]
mod tests;
