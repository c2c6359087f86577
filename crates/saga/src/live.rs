use std::{
    collections::{HashMap, hash_map},
    future::Future,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use foldhash::fast::RandomState;
use futures_util::future::{AbortHandle, Abortable};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

use crate::{Json, SagaError, SagaId, Shape, engine::Engine, progress::Progress};

/// The sagas that this process is working on: one task each, and no saga twice.
#[derive(Default)]
pub(crate) struct Live {
    table: Mutex<Table>,
    /// Notified when an entry goes.
    left: Notify,
}

#[derive(Default)]
struct Table {
    sagas: HashMap<SagaId, Entry, RandomState>,
    /// No further saga enters.
    closed: bool,
}

struct Entry {
    /// What it runs, where that is known.
    given: Option<(Arc<Shape>, Json)>,
    phase: watch::Receiver<Phase>,
    abort: AbortHandle,
    control: Arc<Control>,
}

/// How the others reach the task of a saga.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// In which epoch this process holds the saga; 0 before it does.
    epoch: AtomicU64,
    lost: AtomicBool,
    mail: AtomicBool,
    call: Notify,
}

impl Control {
    pub(crate) fn hold(&self, epoch: u64) {
        self.epoch.store(epoch, Relaxed);
    }

    /// Another process has the saga.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Relaxed);
        self.call();
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    pub(crate) fn tell_of_mail(&self) {
        self.mail.store(true, Relaxed);
        self.call();
    }

    pub(crate) fn take_mail(&self) -> bool {
        self.mail.swap(false, Relaxed)
    }

    /// Has the task look around.
    pub(crate) fn call(&self) {
        self.call.notify_one();
    }

    /// Until somebody wants something. Only one task may wait.
    pub(crate) async fn called(&self) {
        self.call.notified().await;
    }
}

/// What is known of a saga's task.
#[derive(Clone)]
pub(crate) enum Phase {
    Entered,
    /// The journal exists.
    Begun,
    /// It waits for long: the store has it fetched again.
    Parked,
    Ended(Ended),
}

pub(crate) type Ended = Result<Arc<Progress>, SagaError>;

/// What [`Live::find`] found.
pub(crate) enum Found {
    /// The saga that was asked for.
    Same(watch::Receiver<Phase>),
    /// One that is certain to be another.
    Other,
    /// One of which that is not known yet: ask again once its phase is another.
    Unsettled(watch::Receiver<Phase>),
}

/// What the task of a saga is given.
pub(crate) struct Task {
    pub(crate) engine: Arc<Engine>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) control: Arc<Control>,
}

/// Why a saga got no task.
pub(crate) enum NotEntered {
    /// It has one.
    Occupied,
    Closed,
}

impl Live {
    /// Spawns `work` as the task of `saga`. `given` is what someone who starts the same id must agree with.
    pub(crate) fn enter<F>(
        engine: &Arc<Engine>,
        saga: SagaId,
        given: Option<(Arc<Shape>, Json)>,
        permit: OwnedSemaphorePermit,
        work: impl FnOnce(Task) -> F,
    ) -> Result<watch::Receiver<Phase>, NotEntered>
    where
        F: Future<Output = Phase> + Send + 'static,
    {
        let (sender, phase) = watch::channel(Phase::Entered);
        let (abort, registration) = AbortHandle::new_pair();
        let control = Arc::new(Control::default());
        {
            let mut table = engine.live.table();
            if table.closed {
                return Err(NotEntered::Closed);
            }
            let hash_map::Entry::Vacant(vacant) = table.sagas.entry(saga.clone()) else {
                return Err(NotEntered::Occupied);
            };
            vacant.insert(Entry { given, phase: phase.clone(), abort, control: control.clone() });
        }
        let task = Task { engine: engine.clone(), phase: sender.clone(), control };
        let work = Abortable::new(work(task), registration);
        engine.keep_leases();
        let place = Place { engine: engine.clone(), saga, phase: sender, ended: false, permit };
        // Not under the lock: a runtime that shuts down drops the future here, and with it the place.
        tokio::spawn(async move {
            if let Ok(ended) = work.await {
                place.end(ended);
            }
        });
        Ok(phase)
    }

    /// The task of `saga`, if there is one, and whether it runs what `shape` and `input` say.
    pub(crate) fn find(&self, saga: &SagaId, shape: &Shape, input: &Json) -> Option<Found> {
        let table = self.table();
        let entry = table.sagas.get(saga)?;
        let (given, phase) = (entry.given.clone(), entry.phase.clone());
        // Comparing may take a while, and must not hold up the others.
        drop(table);
        let same = given.map(|(known, taken)| *known == *shape && taken.same_as(input));
        let now = phase.borrow().clone();
        Some(match (same, now) {
            (Some(true), Phase::Entered | Phase::Begun | Phase::Ended(Ok(_))) => Found::Same(phase),
            (Some(false), Phase::Begun | Phase::Ended(Ok(_))) => Found::Other,
            // One that has not begun, or whose task failed, may be wrong about the id.
            (None, _) | (_, Phase::Entered | Phase::Parked | Phase::Ended(Err(_))) => {
                Found::Unsettled(phase)
            }
        })
    }

    pub(crate) fn phase(&self, saga: &SagaId) -> Option<watch::Receiver<Phase>> {
        self.table().sagas.get(saga).map(|entry| entry.phase.clone())
    }

    pub(crate) fn control(&self, saga: &SagaId) -> Option<Arc<Control>> {
        self.table().sagas.get(saga).map(|entry| entry.control.clone())
    }

    /// The sagas that this process holds, with their epochs.
    pub(crate) fn held(&self) -> Vec<(SagaId, u64)> {
        let table = self.table();
        let held =
            table.sagas.iter().map(|(saga, entry)| (saga, entry.control.epoch.load(Relaxed)));
        held.filter(|(_, epoch)| *epoch > 0).map(|(saga, epoch)| (saga.clone(), epoch)).collect()
    }

    /// The store says that this process does not hold the saga in this epoch any more.
    pub(crate) fn lose(&self, saga: &SagaId, epoch: Option<u64>) {
        let control = self.control(saga);
        if let Some(control) = control.filter(|one| Some(one.epoch.load(Relaxed)) == epoch) {
            control.lose();
        }
    }

    /// Has all tasks look around.
    pub(crate) fn call_all(&self) {
        for entry in self.table().sagas.values() {
            entry.control.call();
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
        let tasks: Vec<_> = self.table().sagas.values().map(|entry| entry.abort.clone()).collect();
        for task in tasks {
            task.abort();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A saga's place among the live ones. However its task ends, by panic or abort as well, the place is given back and who waits is told.
struct Place {
    engine: Arc<Engine>,
    saga: SagaId,
    phase: watch::Sender<Phase>,
    ended: bool,
    #[expect(dead_code, reason = "held for its drop")]
    permit: OwnedSemaphorePermit,
}

impl Place {
    fn end(mut self, ended: Phase) {
        if matches!(ended, Phase::Ended(Err(SagaError::Interrupted(_)))) {
            self.engine.counters.interrupted.add(1);
        }
        self.phase.send_replace(ended);
        self.ended = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !mem::replace(&mut self.ended, true) {
            self.engine.counters.interrupted.add(1);
            self.phase.send_replace(Phase::Ended(Err(SagaError::Interrupted(self.saga.clone()))));
        }
        let mut table = self.engine.live.table();
        table.sagas.remove(&self.saga);
        // Nobody waits for it before.
        if table.closed {
            drop(table);
            self.engine.live.left.notify_waiters();
        }
    }
}
