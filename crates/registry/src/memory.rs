mod lease;
#[cfg(feature = "file")]
mod saver;
mod sweep;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_core::future::BoxFuture;
use gusset_call::Clock;
pub use lease::Lease;
pub use sweep::Sweeper;

#[cfg(feature = "file")]
use crate::Health;
use crate::{
    Error, Instance, InstanceKey, Policy, Publisher, Registry, Snapshot, Watch,
    table::{Board, Refused, Rules, SlotId, Table, Wheel},
};

/// A registry within this process. Clones share one state.
///
/// It forgets everything when the process ends, unless it is given a snapshot file (feature `file`). Nobody expires before [`MemoryRegistry::spawn_sweeper`] is called.
///
/// # Memory
///
/// At most [`Policy::capacity`] instances; at the bound new ones are refused, and [`Stats::refused`] counts them. What
/// an instance says of itself is [bounded](Instance::validate). A service takes up
/// room while it has instances or is watched. Adding a service costs time in proportion to the number of services.
///
/// # Time
///
/// It is counted in sweeps, by a clock that follows tokio's paused time if the registry is made in it. An instance is out between one
/// TTL and one TTL plus one sweep interval after it was last heard of.
#[derive(Clone)]
pub struct MemoryRegistry(Arc<Shared>);

struct Shared {
    policy: Policy,
    rules: Rules,
    board: Arc<Board>,
    /// Never held while the lock of a service is taken; the other way round it may be.
    wheel: Mutex<Wheel<Owner>>,
    /// Those to be reviewed in each sweep.
    protected: Mutex<Vec<Arc<Service>>>,
    /// Replaced as a whole when a service is added, so that finding one takes no lock.
    services: ArcSwap<HashMap<Arc<str>, Arc<Service>>>,
    /// Held while `services` is replaced.
    adding: Mutex<()>,
    instances: AtomicUsize,
    counters: Counters,
    /// Rises with each change of any listing.
    changes: Arc<AtomicU64>,
}

/// Whose slot it is: the service, and the id in it.
type Owner = (Arc<Service>, Arc<str>);

struct Service {
    name: Arc<str>,
    table: Mutex<State>,
    publisher: Publisher,
    changes: Arc<AtomicU64>,
}

struct State {
    table: Table,
    /// No longer among the services: whoever still finds it must look again.
    removed: bool,
}

#[derive(Default)]
struct Counters {
    expired: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
    #[cfg(feature = "file")]
    unsaved: AtomicU64,
}

/// How much a registry holds, and how often what happened since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Instances registered now.
    pub instances: usize,
    /// Instances that became unhealthy by silence.
    pub expired: u64,
    /// Unhealthy instances that were forgotten.
    pub evicted: u64,
    /// Registrations refused because the registry was full.
    pub refused: u64,
    /// Services whose last good set is [kept](Policy::protect) now in spite of its silence.
    pub protected: usize,
    /// How often the snapshot file could not be written.
    #[cfg(feature = "file")]
    pub unsaved: u64,
}

impl MemoryRegistry {
    /// An empty registry. No task is spawned.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let rules = Rules::new(&policy);
        Self(Arc::new(Shared {
            policy,
            rules,
            board: Arc::new(Board::new(Clock::new())),
            wheel: Mutex::new(Wheel::new(policy.sweep_used(), rules.span)),
            protected: Mutex::default(),
            changes: Arc::default(),
            services: ArcSwap::default(),
            adding: Mutex::default(),
            instances: AtomicUsize::new(0),
            counters: Counters::default(),
        }))
    }

    /// Says what an active check, or whoever else looks after the instance, found. One that does not work is unhealthy at once and
    /// stays so, whatever its heartbeats say, until this says that it works, or it registers again. It is forgotten only
    /// when it is silent as well, or deregistered.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchService`], [`Error::NoSuchInstance`], [`Error::Superseded`].
    pub fn report(&self, key: InstanceKey<'_>, works: bool) -> Result<(), Error> {
        self.change(key, |table, now| table.report(key, works, now))
    }

    /// Counters and sizes.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.0.counters;
        Stats {
            instances: self.0.instances.load(Relaxed),
            expired: counters.expired.load(Relaxed),
            evicted: counters.evicted.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            protected: lock(&self.0.protected).len(),
            #[cfg(feature = "file")]
            unsaved: counters.unsaved.load(Relaxed),
        }
    }

    fn register_now(&self, instance: &Instance) -> Result<(), Error> {
        self.add(instance, false)
    }

    /// Takes in an instance that was known before a restart.
    #[cfg(feature = "file")]
    fn restore_one(&self, mut instance: Instance) -> Result<(), Error> {
        instance.suspect = matches!(instance.health, Health::Healthy | Health::Draining);
        self.add(&instance, true)
    }

    fn add(&self, instance: &Instance, restored: bool) -> Result<(), Error> {
        instance.validate()?;
        loop {
            let service = self.find_or_add(&instance.service);
            if let Some(registered) = self.register_in(&service, instance, restored) {
                return registered;
            }
        }
    }

    /// `None` if the service was removed in the meantime.
    fn register_in(
        &self,
        service: &Arc<Service>,
        instance: &Instance,
        restored: bool,
    ) -> Option<Result<(), Error>> {
        service.change(|state| {
            if state.removed {
                return (None, false);
            }
            if let Err(refused) = state.table.admits(instance.key()) {
                return (Some(Err(refused.of(instance.key()))), false);
            }
            if restored && state.table.contains(&instance.id) {
                // What it says now is younger than the file.
                return (Some(Ok(())), false);
            }
            let mut slot = None;
            if !state.table.contains(&instance.id) {
                slot = self.reserve(service, &instance.id);
                if slot.is_none() {
                    let error = Error::Full { capacity: self.0.policy.capacity.get() };
                    return (Some(Err(error)), false);
                }
            }
            state.table.register(instance.clone(), self.0.board.now(), slot);
            if restored {
                state.table.mark_restored(&instance.id);
            }
            (Some(Ok(())), true)
        })
    }

    /// Takes a place for one more instance.
    fn reserve(&self, service: &Arc<Service>, id: &Arc<str>) -> Option<SlotId> {
        let capacity = self.0.policy.capacity.get();
        let one_more = |held| (held < capacity).then_some(held + 1);
        if self.0.instances.fetch_update(AcqRel, Relaxed, one_more).is_ok() {
            let owner = (service.clone(), id.clone());
            let index = lock(&self.0.wheel).allocate(owner, self.0.board.tick());
            if let Some(index) = index {
                return Some(self.0.board.occupy(index));
            }
            self.0.instances.fetch_sub(1, AcqRel);
        }
        self.0.counters.refused.fetch_add(1, Relaxed);
        None
    }

    fn heartbeat_now(&self, key: InstanceKey<'_>) -> Result<(), Error> {
        self.change(key, |table, now| table.heartbeat(key, now))
    }

    /// Changes one instance; `change` says whether the listing did.
    fn change(
        &self,
        key: InstanceKey<'_>,
        change: impl FnOnce(&mut Table, Duration) -> Result<bool, Refused>,
    ) -> Result<(), Error> {
        let no_service = || Error::NoSuchService { service: key.service.into() };
        let found = self.find(key.service).ok_or_else(no_service)?;
        found.change(|state| {
            if state.table.is_empty() {
                return (Err(no_service()), false);
            }
            match change(&mut state.table, self.0.board.now()) {
                Ok(changed) => (Ok(()), changed),
                Err(refused) => (Err(refused.of(key)), false),
            }
        })
    }

    fn find(&self, service: &str) -> Option<Arc<Service>> {
        self.0.services.load().get(service).cloned()
    }

    fn find_or_add(&self, name: &Arc<str>) -> Arc<Service> {
        if let Some(service) = self.find(name) {
            return service;
        }
        let _adding = lock(&self.0.adding);
        let present = self.0.services.load();
        if let Some(service) = present.get(name) {
            return service.clone();
        }
        // The map is copied anyway, so this is when those that nobody needs are left behind.
        let mut services: HashMap<_, _> = present
            .iter()
            .filter(|(_, service)| !service.remove_if_unused())
            .map(|(name, service)| (name.clone(), service.clone()))
            .collect();
        let table = Table::new(self.0.rules, self.0.board.clone());
        let service = Arc::new(Service {
            name: name.clone(),
            table: Mutex::new(State { table, removed: false }),
            publisher: Publisher::new(name.clone()),
            changes: self.0.changes.clone(),
        });
        services.insert(name.clone(), service.clone());
        self.0.services.store(Arc::new(services));
        service
    }
}

impl Refused {
    fn of(self, key: InstanceKey<'_>) -> Error {
        let (service, id) = (key.service.into(), key.id.into());
        match self {
            Self::Unknown => Error::NoSuchInstance { service, id },
            Self::Superseded => Error::Superseded { service, id },
        }
    }
}

impl Service {
    /// Changes the table, and publishes if that changed the listing. Nobody is woken under the lock.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> (T, bool)) -> T {
        let mut state = lock(&self.table);
        let (result, changed) = change(&mut state);
        if changed {
            self.publisher.store(state.table.listing());
            self.changes.fetch_add(1, Relaxed);
        }
        drop(state);
        if changed {
            self.publisher.wake();
        }
        result
    }

    /// The last word on a service without instances and watchers. A watch is made under the same lock, so none can be
    /// left with a publisher that nobody publishes to.
    fn remove_if_unused(&self) -> bool {
        let mut state = lock(&self.table);
        state.removed = state.table.is_empty() && self.publisher.is_alone();
        state.removed
    }

    fn watch(&self) -> Option<Watch> {
        let state = lock(&self.table);
        (!state.removed).then(|| self.publisher.watch())
    }
}

impl Registry for MemoryRegistry {
    fn ttl(&self) -> Duration {
        self.0.policy.ttl_used()
    }

    fn register(&self, mut instance: Instance) -> BoxFuture<'_, Result<(), Error>> {
        instance.suspect = false;
        Box::pin(async move { self.register_now(&instance) })
    }

    fn heartbeat<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.heartbeat_now(key) })
    }

    fn drain<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.change(key, |table, _| table.drain(key)) })
    }

    fn deregister<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.change(key, |table, _| {
                let freed = table.deregister(key)?;
                lock(&self.0.wheel).release(freed);
                Ok(true)
            })?;
            self.0.instances.fetch_sub(1, AcqRel);
            Ok(())
        })
    }

    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        Box::pin(async move {
            let snapshot = self.find(service).map(|found| found.publisher.snapshot());
            snapshot
                .filter(|snapshot| !snapshot.instances().is_empty())
                .ok_or_else(|| Error::NoSuchService { service: service.into() })
        })
    }

    fn services(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>> {
        Box::pin(async move {
            let services = self.0.services.load();
            let mut names: Vec<_> = services
                .iter()
                .filter(|(_, service)| !service.publisher.snapshot().instances().is_empty())
                .map(|(name, _)| name.clone())
                .collect();
            names.sort();
            Ok(names)
        })
    }

    fn watch(&self, service: &str) -> Watch {
        let name = service.into();
        loop {
            if let Some(watch) = self.find_or_add(&name).watch() {
                return watch;
            }
        }
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::new(Policy::default())
    }
}

impl fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegistry").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// No user code runs under these locks, so what a panic left behind is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
