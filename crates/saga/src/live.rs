use std::{
    cell::Cell,
    collections::{HashMap, hash_map},
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use foldhash::fast::RandomState;
use futures_util::FutureExt;
use tokio::sync::{Notify, SemaphorePermit};

use crate::{
    Json, SagaError, SagaId, Shape,
    seat::{Outcome, Phase, Seat},
};

/// The sagas that this process is working on: one task each, and no saga twice.
#[derive(Default)]
pub(crate) struct Live {
    table: Mutex<Table>,
    /// Notified when an entry goes.
    left: Notify,
}

#[derive(Default)]
struct Table {
    sagas: HashMap<SagaId, Arc<Seat>, RandomState>,
    /// No further saga enters.
    closed: bool,
}

/// What [`Live::find`] found.
pub(crate) enum Found {
    /// The saga that was asked for.
    Same(Arc<Seat>),
    /// One that is certain to be another.
    Other,
    /// One of which that is not known yet: ask again once it has [moved on](Seat::moved_on).
    Unsettled(Arc<Seat>),
}

impl Found {
    pub(crate) fn of(seat: Arc<Seat>, shape: &Arc<Shape>, input: &Json) -> Self {
        let same = seat.runs(shape, input);
        match (same, seat.phase(), seat.ended()) {
            (true, Phase::Entered | Phase::Begun, _) | (true, Phase::Ended, Some(Ok(_))) => {
                Self::Same(seat)
            }
            (false, Phase::Begun, _) | (false, Phase::Ended, Some(Ok(_))) => Self::Other,
            // One that has not begun, or whose task failed, may be wrong about the id.
            _ => Self::Unsettled(seat),
        }
    }
}

/// Why a saga got no task.
pub(crate) enum NotEntered {
    /// This one has it.
    Occupied(Arc<Seat>),
    Closed,
}

/// A saga that has its place, and no task yet.
#[must_use = "dropping it gives the place back"]
pub(crate) struct Entered {
    seat: Arc<Seat>,
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

thread_local! {
    /// How many sagas are being begun within each other on this stack: actions begin sagas, whose actions begin sagas.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Deeper ones get a task, and with it a stack of their own.
const DEEPEST: u32 = 8;

impl Entered {
    /// Gives it a task.
    pub(crate) fn spawn(self) -> Arc<Seat> {
        self.seat.will_be_spawned();
        // Not under a lock: a runtime that shuts down drops the future here, and with it the place.
        let task = tokio::spawn(self.work);
        self.seat.work_is(task.abort_handle());
        self.seat
    }

    /// Does here what can be done without waiting for anything, and gives it a task if something is left. A saga that never waits needs none. Whoever
    /// waits for it does not hold it up: from the first time on that it waits, it goes on by itself. This future is ready at once.
    pub(crate) async fn begin(mut self) -> Arc<Seat> {
        let depth = DEPTH.get();
        if depth >= DEEPEST {
            return self.spawn();
        }
        let over = poll_fn(|cx| {
            let poll = || self.work.as_mut().poll(cx);
            DEPTH.set(depth + 1);
            // As in a task of its own, a panic is not the caller's.
            let over = catch_unwind(AssertUnwindSafe(poll)).map_or(true, |poll| poll.is_ready());
            DEPTH.set(depth);
            Poll::Ready(over)
        });
        if over.await { self.seat } else { self.spawn() }
    }
}

impl Live {
    /// Makes `work` the work on `saga`. `given` is what someone who starts the same id must agree with.
    pub(crate) fn enter<F>(
        seat: Seat,
        permit: SemaphorePermit<'_>,
        work: impl FnOnce(Arc<Seat>) -> F,
    ) -> Result<Entered, NotEntered>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let seat = Arc::new(seat);
        {
            let mut table = seat.engine.live.table();
            if table.closed {
                return Err(NotEntered::Closed);
            }
            match table.sagas.entry(seat.saga.clone()) {
                hash_map::Entry::Vacant(vacant) => vacant.insert(seat.clone()),
                hash_map::Entry::Occupied(other) => {
                    return Err(NotEntered::Occupied(other.get().clone()));
                }
            };
        }
        let place = Place { seat: seat.clone(), outcome: None };
        // The place gives it back.
        permit.forget();
        seat.engine.keep_leases();
        let work = work(seat.clone());
        // No async block: it would have room for the work twice, as what it was given and as what it awaits.
        let work = Box::pin(work.map(|outcome| place.end(outcome)));
        Ok(Entered { seat, work })
    }

    /// The saga of this id, if it is under way, and whether it runs what `shape` and `input` say.
    pub(crate) fn find(&self, saga: &SagaId, shape: &Arc<Shape>, input: &Json) -> Option<Found> {
        self.seat(saga).map(|seat| Found::of(seat, shape, input))
    }

    pub(crate) fn seat(&self, saga: &SagaId) -> Option<Arc<Seat>> {
        self.table().sagas.get(saga).cloned()
    }

    /// The sagas that this process holds, with their epochs.
    pub(crate) fn held(&self) -> Vec<(SagaId, u64)> {
        let table = self.table();
        let held = table.sagas.iter().map(|(saga, seat)| (saga, seat.epoch()));
        held.filter(|(_, epoch)| *epoch > 0).map(|(saga, epoch)| (saga.clone(), epoch)).collect()
    }

    /// The store says that this process does not hold the saga in this epoch any more.
    pub(crate) fn lose(&self, saga: &SagaId, epoch: Option<u64>) {
        if let Some(seat) = self.seat(saga).filter(|seat| Some(seat.epoch()) == epoch) {
            seat.lose();
        }
    }

    /// Has all tasks look around.
    pub(crate) fn call_all(&self) {
        for seat in self.table().sagas.values() {
            seat.call();
        }
    }

    pub(crate) fn ids(&self) -> Vec<SagaId> {
        self.table().sagas.keys().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.table().sagas.len()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.table().closed
    }

    pub(crate) fn close(&self) {
        self.table().closed = true;
    }

    /// Until all tasks have ended.
    pub(crate) async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.len() == 0 {
                return;
            }
            left.await;
        }
    }

    pub(crate) fn abort_all(&self) {
        self.close();
        let seats: Vec<_> = self.table().sagas.values().cloned().collect();
        for seat in seats {
            seat.abort();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A saga's place among the live ones, and one of the permits. However the work on it ends, by panic or abort as well, both are given back and who waits is told.
struct Place {
    seat: Arc<Seat>,
    outcome: Option<Outcome>,
}

impl Place {
    fn end(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (seat, engine) = (&*self.seat, &*self.seat.engine);
        let interrupted = || Err(SagaError::Interrupted(seat.saga.clone()));
        let outcome = self.outcome.take().unwrap_or_else(interrupted);
        if matches!(outcome, Err(SagaError::Interrupted(_))) {
            engine.counters.interrupted.add(1);
        }
        let mut table = engine.live.table();
        table.sagas.remove(&seat.saga);
        let closed = table.closed;
        drop(table);
        seat.leave(outcome);
        engine.permits.add_permits(1);
        // Nobody waits for it before.
        if closed {
            engine.live.left.notify_waiters();
        }
    }
}
