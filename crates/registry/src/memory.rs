mod directory;
#[cfg(all(any(test, fuzzing), feature = "consul", feature = "file"))]
pub(crate) mod fuzz;
mod lease;
#[cfg(feature = "file")]
mod saver;
mod service;
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
use service::{Change, Held, Service};
pub use sweep::Sweeper;

use tokio::sync::Notify;

use crate::{
    Error, Instance, InstanceKey, Policy, Registry, Snapshot, Watch,
    table::{Board, Rota, Rules},
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
/// # Changes
///
/// What [`Registry::deregister`], [`Registry::drain`] and [`MemoryRegistry::report`] take out is in the snapshots of all watches when they return, and so is the
/// first change after a quiet moment. While a sweeper runs, instances that come or recover within 10 ms of it (and a quarter of a sweep interval) are gathered
/// into one snapshot, which watches see at the end of that time. [`Registry::instances`] and a new watch see them at once.
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
    rota: Mutex<Rota<Owner>>,
    /// Those to be reviewed in each sweep.
    protected: Mutex<Vec<Arc<Service>>>,
    /// Replaced as a whole when a service is added, so that finding one takes no lock.
    services: ArcSwap<HashMap<Arc<str>, Arc<Service>>>,
    /// Held while `services` is replaced.
    adding: Mutex<()>,
    instances: AtomicUsize,
    counters: Counters,
    /// Rises with each change of any listing.
    changes: AtomicU64,
    /// For how long changes of a service that can wait are gathered into one snapshot.
    hold: Duration,
    /// Its lock is the last one taken.
    held: Mutex<Held>,
    /// Wakes the sweeper for them.
    is_held: Notify,
}

/// Longest time for which a change is gathered with others. Callers notice it less than a connection takes to be made.
const HOLD: Duration = Duration::from_millis(10);

/// Whose slot it is: the service, and the id in it.
type Owner = (Arc<Service>, Arc<str>);

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
            rota: Mutex::new(Rota::new(policy.sweep_used(), rules.span)),
            hold: HOLD.min(policy.sweep_used() / 4),
            held: Mutex::default(),
            is_held: Notify::new(),
            protected: Mutex::default(),
            changes: AtomicU64::new(0),
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
        self.change(key, |table, now| {
            let changed = table.report(key, works, now)?;
            Ok(if works { Change::gain(changed) } else { Change::any(changed) })
        })
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
        Box::pin(async move { self.change(key, |table, _| table.drain(key).map(Change::any)) })
    }

    fn deregister<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.change(key, |table, _| {
                let freed = table.deregister(key)?;
                lock(&self.0.rota).release(freed);
                Ok(Change::Any)
            })?;
            self.0.instances.fetch_sub(1, AcqRel);
            Ok(())
        })
    }

    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        Box::pin(async move {
            let snapshot = self.find(service).map(|found| found.snapshot(&self.0));
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
                .filter(|(_, service)| !service.snapshot(&self.0).instances().is_empty())
                .map(|(name, _)| name.clone())
                .collect();
            names.sort();
            Ok(names)
        })
    }

    fn watch(&self, service: &str) -> Watch {
        let name = service.into();
        loop {
            if let Some(watch) = self.find_or_add(&name).watch(&self.0) {
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
