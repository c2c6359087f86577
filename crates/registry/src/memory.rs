use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_core::future::BoxFuture;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    Error, Instance, InstanceKey, Policy, Publisher, Registry, Snapshot, Watch,
    table::{Refused, Table},
};

/// A registry within this process. Clones share one state.
///
/// It forgets everything when the process ends. Nobody expires before [`MemoryRegistry::spawn_sweeper`] is called.
///
/// # Memory
///
/// At most [`Policy::capacity`] instances; at the bound new ones are refused, and [`Stats::refused`] counts them. What
/// an instance says of itself is not measured: who takes instances from a network bounds them there. A service takes up
/// room while it has instances or is watched. Adding a service costs time in proportion to the number of services.
#[derive(Clone)]
pub struct MemoryRegistry(Arc<Shared>);

struct Shared {
    policy: Policy,
    epoch: Instant,
    /// Replaced as a whole when a service is added, so that finding one takes no lock.
    services: ArcSwap<HashMap<Arc<str>, Arc<Service>>>,
    /// Held while `services` is replaced.
    adding: Mutex<()>,
    instances: AtomicUsize,
    counters: Counters,
}

struct Service {
    table: Mutex<State>,
    publisher: Publisher,
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
}

impl MemoryRegistry {
    /// An empty registry. No task is spawned.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(Shared {
            policy,
            epoch: Instant::now(),
            services: ArcSwap::default(),
            adding: Mutex::default(),
            instances: AtomicUsize::new(0),
            counters: Counters::default(),
        }))
    }

    /// Spawns the task that finds silent instances, every [`Policy::sweep_every`].
    ///
    /// Where sweeps come late, because the process was paused or no sweeper was running, the time beyond one interval
    /// is not held against anybody: no heartbeat could arrive in it. A test must therefore let the clock
    /// run (`tokio::time::sleep`) rather than jump (`tokio::time::advance`) for instances to expire.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use = "dropping it ends the sweeping"]
    pub fn spawn_sweeper(&self) -> Sweeper {
        let registry = self.clone();
        let interval = self.0.policy.sweep_used();
        Sweeper(tokio::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                registry.sweep();
            }
        }))
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
        }
    }

    fn sweep(&self) {
        for (name, service) in self.0.services.load_full().iter() {
            let swept = service.change(|state| {
                let swept = state.table.sweep(self.now());
                (swept, swept != Default::default())
            });
            self.0.instances.fetch_sub(swept.evicted, AcqRel);
            self.0.counters.expired.fetch_add(swept.expired as u64, Relaxed);
            self.0.counters.evicted.fetch_add(swept.evicted as u64, Relaxed);
            if swept != Default::default() {
                let (expired, evicted) = (swept.expired, swept.evicted);
                tracing::warn!(service = &**name, expired, evicted, "instances fell silent");
            }
        }
    }

    fn register_now(&self, instance: &Instance) -> Result<(), Error> {
        instance.validate()?;
        loop {
            let service = self.find_or_add(&instance.service);
            if let Some(registered) = self.register_in(&service, instance) {
                return registered;
            }
        }
    }

    /// `None` if the service was removed in the meantime.
    fn register_in(&self, service: &Service, instance: &Instance) -> Option<Result<(), Error>> {
        service.change(|state| {
            if state.removed {
                return (None, false);
            }
            if !state.table.contains(&instance.id) && !self.reserve() {
                let error = Error::Full { capacity: self.0.policy.capacity.get() };
                return (Some(Err(error)), false);
            }
            match state.table.register(instance.clone(), self.now()) {
                Ok(()) => (Some(Ok(())), true),
                Err(refused) => (Some(Err(refused.of(instance.key()))), false),
            }
        })
    }

    /// Takes a place for one more instance.
    fn reserve(&self) -> bool {
        let capacity = self.0.policy.capacity.get();
        let one_more = |held| (held < capacity).then_some(held + 1);
        let reserved = self.0.instances.fetch_update(AcqRel, Relaxed, one_more).is_ok();
        if !reserved {
            self.0.counters.refused.fetch_add(1, Relaxed);
        }
        reserved
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
            match change(&mut state.table, self.now()) {
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
        let _adding = self.0.adding.lock().unwrap_or_else(PoisonError::into_inner);
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
        let state =
            State { table: Table::new(&self.0.policy, self.0.epoch, self.now()), removed: false };
        let publisher = Publisher::new(name.clone());
        let service = Arc::new(Service { table: Mutex::new(state), publisher });
        services.insert(name.clone(), service.clone());
        self.0.services.store(Arc::new(services));
        service
    }

    fn now(&self) -> Duration {
        self.0.epoch.elapsed()
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
        let mut state = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, changed) = change(&mut state);
        if changed {
            self.publisher.store(state.table.listing());
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
        let mut state = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        state.removed = state.table.is_empty() && self.publisher.is_alone();
        state.removed
    }

    fn watch(&self) -> Option<Watch> {
        let state = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        (!state.removed).then(|| self.publisher.watch())
    }
}

impl Registry for MemoryRegistry {
    fn ttl(&self) -> Duration {
        self.0.policy.ttl_used()
    }

    fn register(&self, instance: Instance) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.register_now(&instance) })
    }

    fn heartbeat<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.change(key, |table, now| table.heartbeat(key, now)) })
    }

    fn drain<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.change(key, |table, _| table.drain(key)) })
    }

    fn deregister<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.change(key, |table, _| table.deregister(key).map(|()| true))?;
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

/// Guard of the task of [`MemoryRegistry::spawn_sweeper`]: dropping it ends the task.
#[derive(Debug)]
pub struct Sweeper(JoinHandle<()>);

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn block_on(answer: BoxFuture<'_, Result<(), Error>>) -> Result<(), Error> {
        tokio_test::block_on(answer)
    }

    fn services(registry: &MemoryRegistry) -> usize {
        registry.0.services.load().len()
    }

    #[tokio::test(start_paused = true)]
    async fn services_that_nobody_needs_take_no_room_for_long() {
        let registry = MemoryRegistry::default();
        let watched = registry.watch("watched");
        for n in 0..1_000 {
            drop(registry.watch(&format!("glanced-at-{n}")));
            let instance = Instance::new(format!("short-lived-{n}"), "h", 1);
            registry.register(instance.clone()).await.unwrap();
            registry.deregister(instance.key()).await.unwrap();
        }
        assert!(services(&registry) <= 4, "{}", services(&registry));
        registry.register(Instance::new("watched", "h", 1)).await.unwrap();
        assert_eq!(watched.snapshot().instances().len(), 1, "the watch still sees its service");
    }

    #[test]
    fn a_service_that_was_removed_after_it_was_found_is_looked_up_again() {
        let registry = MemoryRegistry::default();
        let stale = registry.find_or_add(&"s".into());
        drop(registry.watch("other"));
        assert!(stale.watch().is_none());
        let instance = Instance::new("s", "h", 1);
        assert!(registry.register_in(&stale, &instance).is_none());
        assert_eq!(registry.stats().instances, 0);

        let watch = registry.watch("s");
        block_on(registry.register(instance)).unwrap();
        assert_eq!(watch.snapshot().instances().len(), 1);
    }

    #[test]
    fn threads_at_the_bound_never_pass_it() {
        let policy = Policy::default().capacity(NonZeroUsize::new(100).unwrap());
        let registry = MemoryRegistry::new(policy);
        let registered: usize = std::thread::scope(|scope| {
            let registry = &registry;
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    scope.spawn(move || {
                        let instance = |n| Instance::new(format!("s{thread}"), "h", n);
                        (0..50)
                            .filter(|&n| block_on(registry.register(instance(n))).is_ok())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(registered, 100);
        assert_eq!((registry.stats().instances, registry.stats().refused), (100, 100));
    }
}
