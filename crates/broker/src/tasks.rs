use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::AbortHandle;

/// The workers of all subscriptions, so that a broker can end them.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    workers: HashMap<u64, Vec<AbortHandle>>,
    aborted: bool,
}

impl Tasks {
    pub(crate) fn abort_all(&self) {
        let mut state = self.lock();
        state.aborted = true;
        state.workers.values().flatten().for_each(AbortHandle::abort);
    }

    pub(crate) fn entry(self: &Arc<Self>) -> Enlisted {
        let mut state = self.lock();
        state.last += 1;
        Enlisted { tasks: self.clone(), id: state.last }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one subscription's workers; dropping it takes them out.
#[derive(Debug)]
pub(crate) struct Enlisted {
    tasks: Arc<Tasks>,
    id: u64,
}

impl Enlisted {
    pub(crate) fn enlist(&self, worker: AbortHandle) {
        let mut state = self.tasks.lock();
        if state.aborted {
            worker.abort();
        }
        state.workers.entry(self.id).or_default().push(worker);
    }
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        let workers = self.tasks.lock().workers.remove(&self.id);
        drop(workers);
    }
}
