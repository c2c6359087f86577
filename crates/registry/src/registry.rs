use std::{fmt, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;

use crate::{Error, Instance, InstanceKey, Snapshot, Watch, split_name};

/// Who is alive where.
///
/// Services are named `name`, or `namespace/name`: equal names in two namespaces are two services. An engine takes the whole for
/// the name and needs to know no more, except that a `/` may be in it.
///
/// Of two registrations of one id the one with the higher [incarnation](Instance::incarnation) is the younger. What the older says then, late
/// or because it does not know, is refused with [`Error::Superseded`], until the younger has gone or fallen silent.
///
/// The engine is usually chosen by configuration, so the trait is made for `Arc<dyn Registry>` and its futures are
/// boxed. None of this is on the path of a call: a caller holds a [`Watch`], which is read without asking the engine.
///
/// # Cancellation
///
/// The futures do nothing before they are polled. One that is dropped midway may or may not have had its effect; every
/// method can be called again.
pub trait Registry: fmt::Debug + Send + Sync + 'static {
    /// For how long an instance counts as healthy after it was last heard of.
    fn ttl(&self) -> Duration;

    /// Adds the instance, or replaces the one of the same service and id.
    ///
    /// It begins with the health that it states, and its TTL begins anew.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::Superseded`], [`Error::Full`], [`Error::Unavailable`].
    fn register(&self, instance: Instance) -> BoxFuture<'_, Result<(), Error>>;

    /// Says that the instance is alive. One that is unknown or unhealthy becomes healthy; one that
    /// is draining stays so.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchInstance`] if the registry does not (or no longer) know it: register again.
    /// [`Error::Superseded`], [`Error::Unavailable`].
    fn heartbeat<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>>;

    /// Announces that the instance is going to leave: it gets no new calls. It stays so until it registers again.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchService`], [`Error::NoSuchInstance`], [`Error::Superseded`], [`Error::Unavailable`].
    fn drain<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes the instance.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchService`], [`Error::NoSuchInstance`], [`Error::Superseded`], [`Error::Unavailable`].
    fn deregister<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>>;

    /// All instances of the service, whatever their health; at least one.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchService`], [`Error::Unavailable`].
    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>>;

    /// Full names of all services that have instances, in all namespaces, sorted.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`].
    fn services(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>>;

    /// Names of the services of one namespace, without it, sorted. The default namespace is the empty one.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`].
    fn services_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Arc<str>>, Error>> {
        Box::pin(async move {
            let services = self.services().await?;
            let split = services.iter().map(|service| split_name(service));
            let here = split.filter(|(there, _)| *there == namespace);
            Ok(here.map(|(_, name)| name.into()).collect())
        })
    }

    /// Follows the service, which need not exist yet.
    fn watch(&self, service: &str) -> Watch;

    /// The instances of the service, at least one of them healthy.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchService`], [`Error::NoHealthyInstance`], [`Error::Unavailable`].
    fn discover<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        Box::pin(async move {
            let snapshot = self.instances(service).await?;
            if snapshot.healthy().next().is_none() {
                return Err(Error::NoHealthyInstance { service: service.into() });
            }
            Ok(snapshot)
        })
    }
}

impl<R: Registry + ?Sized> Registry for Arc<R> {
    fn ttl(&self) -> Duration {
        (**self).ttl()
    }

    fn register(&self, instance: Instance) -> BoxFuture<'_, Result<(), Error>> {
        (**self).register(instance)
    }

    fn heartbeat<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        (**self).heartbeat(instance)
    }

    fn drain<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        (**self).drain(instance)
    }

    fn deregister<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        (**self).deregister(instance)
    }

    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        (**self).instances(service)
    }

    fn services(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>> {
        (**self).services()
    }

    fn services_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Arc<str>>, Error>> {
        (**self).services_in(namespace)
    }

    fn watch(&self, service: &str) -> Watch {
        (**self).watch(service)
    }

    fn discover<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        (**self).discover(service)
    }
}
