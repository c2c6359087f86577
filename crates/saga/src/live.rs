use std::{
    collections::{HashMap, hash_map},
    future::Future,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, watch},
    task::AbortHandle,
};

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
    sagas: HashMap<SagaId, Entry>,
    /// No further saga enters.
    closed: bool,
}

struct Entry {
    claim: Option<(Arc<Shape>, Json)>,
    phase: watch::Receiver<Phase>,
    abort: AbortHandle,
}

/// What is known of a saga's task.
#[derive(Clone)]
pub(crate) enum Phase {
    Entered,
    /// The journal exists.
    Begun,
    Ended(Ended),
}

pub(crate) type Ended = Result<Arc<Progress>, SagaError>;

/// Why a saga got no task.
pub(crate) enum NotEntered {
    /// It has one.
    Occupied,
    Closed,
}

impl Live {
    /// Spawns `work` as the task of `saga`. `claim` is what someone who starts the same id must agree with, where it is known.
    pub(crate) fn enter<F>(
        engine: &Arc<Engine>,
        saga: SagaId,
        claim: Option<(Arc<Shape>, Json)>,
        permit: OwnedSemaphorePermit,
        work: impl FnOnce(Arc<Engine>, watch::Sender<Phase>) -> F,
    ) -> Result<watch::Receiver<Phase>, NotEntered>
    where
        F: Future<Output = Ended> + Send + 'static,
    {
        let mut table = engine.live.table();
        if table.closed {
            return Err(NotEntered::Closed);
        }
        let hash_map::Entry::Vacant(vacant) = table.sagas.entry(saga.clone()) else {
            return Err(NotEntered::Occupied);
        };
        let (sender, phase) = watch::channel(Phase::Entered);
        let work = work(engine.clone(), sender.clone());
        let place = Place { engine: engine.clone(), saga, phase: sender, ended: false, permit };
        let task = tokio::spawn(async move { place.end(work.await) });
        vacant.insert(Entry { claim, phase: phase.clone(), abort: task.abort_handle() });
        Ok(phase)
    }

    /// The task of `saga`, if there is one and it runs what `shape` and `input` say.
    pub(crate) fn find(
        &self,
        saga: &SagaId,
        shape: &Shape,
        input: &Json,
    ) -> Option<Result<watch::Receiver<Phase>, SagaError>> {
        let table = self.table();
        let entry = table.sagas.get(saga)?;
        let (claim, phase) = (entry.claim.clone(), entry.phase.clone());
        // Comparing may take a while, and must not hold up the others.
        drop(table);
        Some(match claim {
            Some((known, given)) if *known != *shape || !given.same_as(input) => {
                Err(SagaError::IdTaken(saga.clone()))
            }
            _ => Ok(phase),
        })
    }

    pub(crate) fn ids(&self) -> Vec<SagaId> {
        self.table().sagas.keys().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.table().sagas.len()
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
    fn end(mut self, ended: Ended) {
        if matches!(ended, Err(SagaError::Interrupted(_))) {
            self.engine.counters.interrupted.add(1);
        }
        self.phase.send_replace(Phase::Ended(ended));
        self.ended = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !mem::replace(&mut self.ended, true) {
            self.engine.counters.interrupted.add(1);
            self.phase.send_replace(Phase::Ended(Err(SagaError::Interrupted(self.saga.clone()))));
        }
        self.engine.live.table().sagas.remove(&self.saga);
        self.engine.live.left.notify_waiters();
    }
}
