use std::{
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use super::{Shared, lock};
use crate::{Publisher, Snapshot, Watch, table::Table};

/// One service: its table, and who is told of it.
pub(super) struct Service {
    pub(super) name: Arc<str>,
    table: Mutex<State>,
    publisher: Publisher,
    /// The snapshot is behind the table. Written under its lock.
    stale: AtomicBool,
}

pub(super) struct State {
    pub(super) table: Table,
    /// No longer among the services: whoever still finds it must look again.
    pub(super) removed: bool,
    /// When the last snapshot was made.
    published: Option<Duration>,
    /// It is among the [`Held`].
    listed: bool,
}

/// What a change did to the listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// Callers can do without it for a moment: somebody came or is well again.
    Gain,
    /// The next pick has to know it.
    Any,
}

impl Change {
    pub(super) const fn gain(changed: bool) -> Self {
        if changed { Self::Gain } else { Self::Nothing }
    }

    pub(super) const fn any(changed: bool) -> Self {
        if changed { Self::Any } else { Self::Nothing }
    }
}

/// Services whose last change is not published yet, and whether anybody is there to do that.
#[derive(Default)]
pub(super) struct Held {
    sweepers: usize,
    services: Vec<Arc<Service>>,
}

impl Service {
    pub(super) fn new(name: Arc<str>, table: Table) -> Self {
        Self {
            publisher: Publisher::new(name.clone()),
            name,
            table: Mutex::new(State { table, removed: false, published: None, listed: false }),
            stale: AtomicBool::new(false),
        }
    }

    /// Changes the table, and publishes if that changed the listing, at once or a moment later. Nobody is woken under the lock.
    pub(super) fn change<T>(
        self: &Arc<Self>,
        shared: &Shared,
        change: impl FnOnce(&mut State) -> (T, Change),
    ) -> T {
        let mut state = lock(&self.table);
        let (result, change) = change(&mut state);
        let now = match change {
            Change::Nothing => None,
            Change::Gain | Change::Any => Some(shared.board.now()),
        };
        let publishes = now.filter(|&now| {
            change == Change::Any || !shared.may_hold(&state, now) || !self.hold(shared, &mut state)
        });
        if let Some(now) = publishes {
            self.store(shared, &mut state, now);
        }
        drop(state);
        if publishes.is_some() {
            self.publisher.wake();
        }
        result
    }

    /// Leaves the change to the sweeper, if there is one.
    fn hold(self: &Arc<Self>, shared: &Shared, state: &mut State) -> bool {
        if !state.listed {
            let mut held = lock(&shared.held);
            if held.sweepers == 0 {
                return false;
            }
            held.services.push(self.clone());
            state.listed = true;
            shared.is_held.notify_one();
        }
        self.stale.store(true, Release);
        true
    }

    fn store(&self, shared: &Shared, state: &mut State, now: Duration) {
        self.publisher.replace(state.table.listing());
        self.stale.store(false, Release);
        state.published = Some(now);
        shared.changes.fetch_add(1, Relaxed);
    }

    /// Publishes what is held.
    fn catch_up(&self, shared: &Shared, unlist: bool) {
        let mut state = lock(&self.table);
        state.listed &= !unlist;
        let stale = self.stale.load(Relaxed);
        if stale {
            self.store(shared, &mut state, shared.board.now());
        }
        drop(state);
        if stale {
            self.publisher.wake();
        }
    }

    /// With everything that was changed before.
    pub(super) fn snapshot(&self, shared: &Shared) -> Arc<Snapshot> {
        if self.stale.load(Acquire) {
            self.catch_up(shared, false);
        }
        self.publisher.snapshot()
    }

    /// The last word on a service without instances and watchers. A watch is made under the same lock, so none can be
    /// left with a publisher that nobody publishes to.
    pub(super) fn remove_if_unused(&self) -> bool {
        let mut state = lock(&self.table);
        state.removed = state.table.is_empty() && self.publisher.is_alone();
        state.removed
    }

    pub(super) fn watch(&self, shared: &Shared) -> Option<Watch> {
        if self.stale.load(Acquire) {
            self.catch_up(shared, false);
        }
        let state = lock(&self.table);
        (!state.removed).then(|| self.publisher.watch())
    }
}

impl Shared {
    /// Whether the service had a snapshot a moment ago. One that had none for a while gets its next at once.
    fn may_hold(&self, state: &State, now: Duration) -> bool {
        state.published.is_some_and(|published| now < published.saturating_add(self.hold))
    }

    /// Publishes what all services hold.
    pub(super) fn catch_up(&self) {
        let held = std::mem::take(&mut lock(&self.held).services);
        for service in held {
            service.catch_up(self, true);
        }
    }
}

/// Somebody publishes what is held, until this is dropped.
pub(super) struct Publishing(Arc<Shared>);

impl Publishing {
    pub(super) fn begin(shared: &Arc<Shared>) -> Self {
        lock(&shared.held).sweepers += 1;
        Self(shared.clone())
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        // Whoever holds something from now on sees that nobody is there.
        lock(&self.0.held).sweepers -= 1;
        self.0.catch_up();
    }
}
