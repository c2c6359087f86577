use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_core::future::BoxFuture;
use tokio::{runtime, sync::watch, task::JoinSet};

use super::{
    calls,
    connector::Connector,
    engine::Engine,
    keeper,
    keys::Keys,
    policy::EtcdPolicy,
    service::Service,
    state::{EtcdState, EtcdStats},
};
use crate::{Error, Instance, InstanceKey, LastSeen, Registry, Snapshot, Watch, split_name};

/// A registry that an etcd cluster keeps, version 3.4 or later. Clones share one state.
///
/// A process has one lease. Its instances are keys on that lease, so they are gone within a TTL after the process is. A watch of a
/// service lists it and follows the changes from that revision on.
///
/// ```no_run
/// use gusset_registry::{EtcdPolicy, EtcdRegistry, Instance, Registration, Registry};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoints = ["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"];
/// let registry = EtcdRegistry::spawn(endpoints, EtcdPolicy::default())?;
/// let registration = Registration::spawn(registry.clone(), Instance::new("cart", "10.0.0.7", 80));
/// registration.registered().await?;
/// let watch = registry.watch("cart");
/// # Ok(()) }
/// ```
///
/// # Outages
///
/// Every call has a limit of time. When a member does not answer, another endpoint is tried at once, and then after
/// pauses that grow to 5 s. Watches are listed and opened anew over the next connection, also when etcd has compacted what they missed. A lease that
/// has expired is granted anew and everything is put again; so it is where etcd comes back empty. With
/// every third of a TTL the keys on the lease are compared with what they should be. Meanwhile reads serve the last known set:
/// [`EtcdRegistry::state`] tells of it, [`EtcdRegistry::age`] and [`Instance::last_seen`] for how long nothing has confirmed it.
///
/// # How it differs from [`MemoryRegistry`](crate::MemoryRegistry)
///
/// - A silent instance does not become unhealthy, it is gone. Whoever calls [`Registry::heartbeat`] keeps its instance among those of the process; the
///   lease is kept alive by a task. So an instance whose process is gone is listed for up to a TTL (and as long as an
///   outage of etcd lasts), and one whose [`Registration`](crate::Registration) is gone while the process lives for up to a TTL and a third.
/// - [`Registry::heartbeat`] knows only instances of this process. It asks etcd nothing as long as the task has done so.
/// - Of two processes with the same id the one with the younger [incarnation](Instance::incarnation) has it; where that is not said, the one
///   that registered last. The other gets [`Error::Superseded`] and comes back by itself when the key is free. They do not fight for it.
/// - A drain or deregistration by another process is seen within a third of a TTL: a drain lasts until the instance is registered again, what was deregistered
///   while its process wants it is put again.
/// - [`Registry::instances`] and [`Registry::services`] ask etcd and see all that was committed before. Only where etcd does not answer they
///   say what was known last, and of a service that was never asked for or watched nothing is known.
/// - [`Instance::last_seen`] is when etcd last confirmed what is known of the service.
///
/// # Memory
///
/// Up to [`EtcdPolicy::capacity`] instances of this process, and as many of each service that is watched or has been asked for within
/// the last 5 minutes and had instances.
///
/// # Tasks
///
/// [`EtcdRegistry::spawn`] spawns one for the connection and one for the lease, and each followed service has one. One that panics is begun anew, and counted. Dropping the last clone ends all.
/// It leaves the lease to expire; see [`EtcdRegistry::close`].
#[derive(Clone)]
pub struct EtcdRegistry(Arc<Handle>);

struct Handle {
    engine: Arc<Engine>,
    runtime: runtime::Handle,
    /// Dropping them ends the tasks.
    tasks: Mutex<JoinSet<()>>,
}

impl EtcdRegistry {
    /// Spawns the tasks, and returns at once, whether etcd can be reached or not. An endpoint is `host:port` or a URI.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no endpoint, or one that is none.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        policy: EtcdPolicy,
    ) -> Result<Self, Error> {
        let policy = Arc::new(policy.checked());
        let keys = Keys::new(&policy.prefix);
        let connector = Connector::new(endpoints, policy.clone(), keys.clone())?;
        let engine = Arc::new(Engine::new(policy, keys));
        let mut tasks = JoinSet::new();
        let connector = Arc::new(connector);
        tasks.spawn(engine.clone().supervise("connector", move |engine| {
            connector.clone().run(engine.line.clone(), engine.meters.clone())
        }));
        tasks.spawn(engine.clone().supervise("keeper", keeper::run));
        let runtime = runtime::Handle::current();
        Ok(Self(Arc::new(Handle { engine, runtime, tasks: Mutex::new(tasks) })))
    }

    /// Whether etcd answers, as far as calls have shown: where nothing is registered or watched, an outage is noticed by the next call.
    #[must_use]
    pub fn state(&self) -> EtcdState {
        self.0.engine.line.state().borrow().clone()
    }

    /// Follows whether etcd answers.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<EtcdState> {
        self.0.engine.line.state()
    }

    /// How often what happened.
    #[must_use]
    pub fn stats(&self) -> EtcdStats {
        self.0.engine.meters.stats()
    }

    /// For how long nothing has confirmed what is known of the service; while it is watched and etcd answers no longer than
    /// [`EtcdPolicy::ask_every`]. `None` if nothing is known.
    #[must_use]
    pub fn age(&self, service: &str) -> Option<Duration> {
        self.0.engine.find(service)?.age()
    }

    /// Forgets what was registered here and revokes the lease: all instances of this process are gone at once. It is meant
    /// for the end of a process; a [`Registration`](crate::Registration) that still lives registers again.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`]; the lease then ends with its TTL.
    pub async fn close(&self) -> Result<(), Error> {
        let engine = &self.0.engine;
        let lease = engine.holdings().close();
        let Some(lease) = lease else { return Ok(()) };
        let link = engine.link().await?;
        let revoked = calls::revoke(&link, lease).await;
        revoked.map_err(|status| Error::Unavailable(status.into()))
    }

    fn follow(&self, service: &Arc<Service>) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let service = service.clone();
        let follow = move |engine| service.clone().follow(engine);
        tasks.spawn_on(self.0.engine.clone().supervise("follower", follow), &self.0.runtime);
    }

    /// The service, followed from now on if it was not.
    fn followed<T>(&self, name: &str, take: impl FnOnce(&Arc<Service>) -> T) -> T {
        self.0.engine.service(name, |service, is_new| {
            if is_new {
                self.follow(service);
            }
            take(service)
        })
    }

    async fn read(&self, service: &str) -> Result<Arc<Snapshot>, Error> {
        let engine = &self.0.engine;
        if engine.line.present().is_none()
            && let Some(last_known) = engine.last_known(service)
        {
            return last_known;
        }
        match engine.listing(service).await {
            Ok((_, listing)) if listing.pairs.is_empty() && engine.find(service).is_none() => {
                Err(Error::NoSuchService { service: service.into() })
            }
            Ok((link, listing)) => {
                let service = self.followed(service, Arc::clone);
                service.list(engine, &link, listing);
                engine.last_known(&service.name).unwrap_or_else(|| Err(engine.line.unavailable()))
            }
            Err(error) => engine.last_known(service).unwrap_or(Err(error)),
        }
    }
}

impl Registry for EtcdRegistry {
    fn ttl(&self) -> Duration {
        self.0.engine.policy.ttl_used()
    }

    fn register(&self, mut instance: Instance) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            instance.validate()?;
            instance.suspect = false;
            instance.last_seen = LastSeen::default();
            let engine = &self.0.engine;
            let wished = engine.holdings().register(instance.clone(), engine.now());
            let key = instance.key();
            engine.verdict(wished.map_err(|refused| engine.refused(refused, key))?, key).await
        })
    }

    fn heartbeat<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let engine = &self.0.engine;
            let beat = engine.holdings().heartbeat(instance, engine.now());
            match beat.map_err(|refused| engine.refused(refused, instance))? {
                Some(waiting) => engine.verdict(waiting, instance).await,
                None if engine.line.present().is_none() || engine.is_lease_old() => {
                    Err(engine.line.unavailable())
                }
                None => Ok(()),
            }
        })
    }

    fn drain<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let engine = &self.0.engine;
            let wished = engine.holdings().drain(instance);
            engine.bring_about(wished, instance, true).await
        })
    }

    fn deregister<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let engine = &self.0.engine;
            let wished = engine.holdings().deregister(instance);
            engine.bring_about(wished, instance, false).await
        })
    }

    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        Box::pin(self.read(service))
    }

    fn services(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>> {
        Box::pin(self.0.engine.service_names(None))
    }

    /// Asks etcd for that namespace alone.
    fn services_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Arc<str>>, Error>> {
        Box::pin(async move {
            let services = self.0.engine.service_names(Some(namespace)).await?;
            Ok(services.iter().map(|service| split_name(service).1.into()).collect())
        })
    }

    fn watch(&self, service: &str) -> Watch {
        self.followed(service, |service| service.watch())
    }
}

impl fmt::Debug for EtcdRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdRegistry")
            .field("policy", &self.0.engine.policy)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
