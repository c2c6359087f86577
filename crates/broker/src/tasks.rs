use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, task::AbortHandle};

/// The workers of all subscriptions, so that a broker can end them.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    state: Mutex<State>,
    /// How many workers there are, those included that were aborted and have not noticed yet.
    working: watch::Sender<usize>,
}

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

    /// Waits until no worker is left.
    pub(crate) async fn ended(&self) {
        // The sender is here, so this ends well.
        let _ = self.working.subscribe().wait_for(|working| *working == 0).await;
    }

    pub(crate) fn entry(self: &Arc<Self>) -> Enlisted {
        let mut state = self.lock();
        state.last += 1;
        Enlisted { tasks: self.clone(), id: state.last }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one subscription's workers; dropping it takes them out.
#[derive(Debug)]
pub(crate) struct Enlisted {
    tasks: Arc<Tasks>,
    id: u64,
}

impl Enlisted {
    pub(crate) fn worker(&self) -> Working {
        self.tasks.working.send_modify(|working| *working += 1);
        Working(self.tasks.clone())
    }

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

/// What a worker has as long as it is there.
#[derive(Debug)]
pub(crate) struct Working(Arc<Tasks>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.send_modify(|working| *working -= 1);
    }
}
