use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use gusset_call::{BoxError, Overloaded};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::yield_now,
};

use super::{Connections, line::Place};

/// The bound on the connections to one instance, from all threads together.
///
/// A call holds a place as long as it has a connection, and whoever has a place may open one: if there are as many as may be, then one of them is idle, and goes.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    most_waiting: usize,
    max: usize,
    /// Those in use and those that are idle.
    open: Arc<AtomicUsize>,
}

/// The place of a call. It outlives the connection.
pub(super) type Permit = OwnedSemaphorePermit;

pub(super) enum Take {
    Now(Permit),
    /// In the order of those who wait.
    Later(Pin<Box<dyn Future<Output = Option<Permit>> + Send>>),
    Refused(BoxError),
}

impl Places {
    pub(super) fn new(connections: &Connections) -> Option<Self> {
        let max = connections.max?.min(Semaphore::MAX_PERMITS);
        Some(Self {
            free: Arc::new(Semaphore::new(max)),
            waiting: Arc::default(),
            most_waiting: connections.waiting,
            max,
            open: Arc::default(),
        })
    }

    /// A place, at the end of the queue if there is one.
    pub(super) fn take(&self, authority: &str) -> Take {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Take::Now(permit);
        }
        let Some(counted) = Counted::below(&self.waiting, self.most_waiting) else {
            return Take::Refused(Overloaded::new(authority).into());
        };
        let free = self.free.clone();
        Take::Later(Box::pin(async move {
            let _counted = counted;
            // It is never closed.
            free.acquire_owned().await.ok()
        }))
    }

    /// Counts a connection that is about to be opened, by a call that has a place.
    pub(super) async fn open(&self, place: &Place) -> Counted {
        loop {
            if let Some(counted) = Counted::below(&self.open, self.max) {
                return counted;
            }
            if !place.pool().evict(place.number()) {
                // One that is on its way from a call to the pool, or out of it, is in neither for a moment.
                yield_now().await;
            }
        }
    }
}

/// One more, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn below(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let more = |count| (count < most).then_some(count + 1);
        count.fetch_update(SeqCst, SeqCst, more).ok().map(|_| Self(count.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
