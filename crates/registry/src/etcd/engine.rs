//! What the tasks and the handles of one engine share.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tonic::{Code, Status};

use super::{
    calls::{self, Listing, On, Swap},
    connector::Line,
    holdings::{Holdings, Refused, Verdict, Waiting},
    keys::{Keys, Record, value},
    link::Link,
    names::Names,
    policy::EtcdPolicy,
    service::Service,
    state::Meters,
    supervised::supervised,
};
use crate::{Error, Health, Instance, InstanceKey, Snapshot, key::Run};

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) policy: Arc<EtcdPolicy>,
    pub(super) keys: Keys,
    /// Tells our keys from those of another process with the same ids.
    pub(super) owner: String,
    pub(super) line: Arc<Line>,
    pub(super) meters: Arc<Meters>,
    /// Wakes the keeper after a change of the holdings.
    pub(super) dirty: Notify,
    epoch: Instant,
    /// Milliseconds from `epoch` to when etcd last confirmed the lease.
    confirmed: AtomicU64,
    holdings: Mutex<Holdings>,
    services: Mutex<HashMap<Arc<str>, Arc<Service>>>,
    /// The last answers to [`Engine::service_names`]: by namespace, and of all.
    pub(super) names: Mutex<Names>,
}

/// So many times a key is tried again that others change at the same time.
const CONTESTED: usize = 5;

impl Engine {
    pub(super) fn new(policy: Arc<EtcdPolicy>, keys: Keys) -> Self {
        let holdings = Holdings::new(policy.ttl_used(), policy.capacity.get());
        Self {
            policy,
            keys,
            owner: format!("{:032x}", rand::random::<u128>()),
            line: Arc::new(Line::new()),
            meters: Arc::default(),
            dirty: Notify::new(),
            epoch: Instant::now(),
            confirmed: AtomicU64::new(0),
            holdings: Mutex::new(holdings),
            services: Mutex::default(),
            names: Mutex::default(),
        }
    }

    /// A task of this engine, which is begun anew if it panics.
    pub(super) async fn supervise<F: Future<Output = ()>>(
        self: Arc<Self>,
        task: &'static str,
        run: impl Fn(Arc<Self>) -> F,
    ) {
        supervised(task, &self.meters, self.policy.ttl_used(), || run(self.clone())).await;
    }

    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(super) fn holdings(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// etcd has said that the lease lives, in answer to a question at `asked`.
    pub(super) fn confirm_lease(&self, asked: Duration) {
        self.confirmed.store(asked.as_millis() as u64, Relaxed);
    }

    /// Whether the lease can have expired for all we know.
    pub(super) fn is_lease_old(&self) -> bool {
        let confirmed = Duration::from_millis(self.confirmed.load(Relaxed));
        self.now().saturating_sub(confirmed) > self.policy.ttl_used()
    }

    /// Waits until the keeper has done what was wished for.
    pub(super) async fn verdict(
        &self,
        waiting: Waiting,
        key: InstanceKey<'_>,
    ) -> Result<(), Error> {
        self.dirty.notify_one();
        match timeout(2 * self.policy.call_within, waiting).await {
            Ok(Ok(Verdict::Done)) => Ok(()),
            Ok(Ok(Verdict::Superseded)) => Err(self.refused(Refused::Superseded, key)),
            Ok(Ok(Verdict::Failed(cause))) => Err(Error::Refused((*cause).into())),
            // Another wish for the same instance came in between, or time is over.
            Ok(Err(_)) | Err(_) => Err(self.line.unavailable()),
        }
    }

    pub(super) fn refused(&self, refused: Refused, key: InstanceKey<'_>) -> Error {
        let (service, id) = (key.service.into(), key.id.into());
        match refused {
            Refused::NoService => Error::NoSuchService { service },
            Refused::NoInstance => Error::NoSuchInstance { service, id },
            Refused::Superseded => Error::Superseded { service, id },
            Refused::Full => {
                self.meters.refused.fetch_add(1, Relaxed);
                Error::Full { capacity: self.policy.capacity.get() }
            }
        }
    }

    /// The service, and whether it has just been added, so that somebody has to follow it.
    pub(super) fn service<T>(&self, name: &str, take: impl FnOnce(&Arc<Service>, bool) -> T) -> T {
        let mut services = self.services();
        let name: Arc<str> = name.into();
        match services.entry(name.clone()) {
            Entry::Occupied(entry) => take(entry.get(), false),
            Entry::Vacant(entry) => {
                let capacity = self.policy.capacity.get();
                let span = self.keys.service(&name);
                take(entry.insert(Arc::new(Service::new(name, span, capacity))), true)
            }
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Service>> {
        self.services().get(name).cloned()
    }

    /// Ends the following of a service that nobody needs. A watch is made under the same lock, so none is left behind.
    pub(super) fn forget_if_idle(&self, service: &Service) -> bool {
        let mut services = self.services();
        let idle = service.is_idle();
        if idle {
            services.remove(&service.name);
        }
        idle
    }

    fn services(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Service>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, if there is one soon.
    pub(super) async fn link(&self) -> Result<Arc<Link>, Error> {
        let link = timeout(self.policy.call_within, self.line.link()).await;
        link.map_err(|_| self.line.unavailable())
    }

    /// What etcd has now of the service, with the connection over which it said so.
    pub(super) async fn listing(&self, service: &str) -> Result<(Arc<Link>, Listing), Error> {
        let link = self.link().await?;
        let span = self.keys.service(service);
        let listing = calls::list(&link, &span, self.policy.capacity.get()).await;
        Ok((link, listing.map_err(unavailable)?))
    }

    /// Waits for what was wished for, or does it to the instance of another process.
    pub(super) async fn bring_about(
        &self,
        wished: Result<Waiting, Refused>,
        key: InstanceKey<'_>,
        drain: bool,
    ) -> Result<(), Error> {
        match wished {
            Ok(waiting) => self.verdict(waiting, key).await,
            Err(Refused::NoService | Refused::NoInstance) => self.change_foreign(key, drain).await,
            Err(refused) => Err(self.refused(refused, key)),
        }
    }

    /// Drains or deregisters an instance that another process has registered.
    pub(super) async fn change_foreign(
        &self,
        instance: InstanceKey<'_>,
        drain: bool,
    ) -> Result<(), Error> {
        let link = self.link().await?;
        let key = self.keys.instance(instance.service, instance.id);
        for _ in 0..CONTESTED {
            let found = calls::get(&link, &key).await.map_err(unavailable)?;
            let record = found.as_ref().and_then(|found| Record::parse(&found.value));
            let (Some(found), Some(record)) = (found, record) else {
                return Err(self.not_found(instance).await?);
            };
            match instance.run(record.instance.incarnation) {
                Run::Same => {}
                Run::Older => return Err(self.refused(Refused::Superseded, instance)),
                Run::Younger => return Err(self.refused(Refused::NoInstance, instance)),
            }
            let swapped = if drain {
                let drained = record.instance.with_health(Health::Draining);
                let value = self.value(&drained, &record.owner).map_err(unavailable)?;
                calls::put(&link, &key, value, On::Same, found.mod_revision).await
            } else {
                calls::delete(&link, &key, found.mod_revision).await
            };
            if matches!(swapped.map_err(unavailable)?, Swap::Done(_)) {
                return Ok(());
            }
        }
        Err(Error::Unavailable("others keep changing the instance".into()))
    }

    async fn not_found(&self, key: InstanceKey<'_>) -> Result<Error, Error> {
        let (_, listing) = self.listing(key.service).await?;
        let empty = listing.pairs.is_empty();
        Ok(self.refused(if empty { Refused::NoService } else { Refused::NoInstance }, key))
    }

    pub(super) fn value(&self, instance: &Instance, owner: &str) -> Result<Vec<u8>, Status> {
        value(instance, owner).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// The last known set of the service, if it is known and has instances.
    pub(super) fn last_known(&self, service: &str) -> Option<Result<Arc<Snapshot>, Error>> {
        let snapshot = self.find(service)?.last_known()?;
        Some(if snapshot.instances().is_empty() {
            Err(Error::NoSuchService { service: service.into() })
        } else {
            Ok(snapshot)
        })
    }
}

/// A failed call: etcd answered that it will not, or it cannot, or nobody knows.
pub(super) fn unavailable(status: Status) -> Error {
    match status.code() {
        Code::PermissionDenied | Code::InvalidArgument | Code::ResourceExhausted => {
            Error::Refused(status.into())
        }
        _ => Error::Unavailable(status.into()),
    }
}
