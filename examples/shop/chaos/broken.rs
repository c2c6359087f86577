//! A registry that can be broken.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use gusset::registry::{Error, Instance, InstanceKey, Registry, Snapshot, Watch};

use super::{Chaos, Fault};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Stands between an instance and its registry. What a watch knows goes on to hold: it is the asking that fails.
#[derive(Debug)]
pub(crate) struct Broken {
    inner: Arc<dyn Registry>,
    chaos: Chaos,
}

impl Broken {
    pub(crate) fn before(inner: Arc<dyn Registry>, chaos: &Chaos) -> Arc<dyn Registry> {
        Arc::new(Self { inner, chaos: chaos.clone() })
    }

    async fn ask<T>(&self, asking: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if self.chaos.is_on(Fault::RegistryFrozen) {
            self.chaos.is_over(Fault::RegistryFrozen).await;
        }
        if self.chaos.is_on(Fault::RegistryFails) {
            return Err(Error::Unavailable("broken on purpose".into()));
        }
        asking.await
    }
}

impl Registry for Broken {
    fn ttl(&self) -> Duration {
        self.inner.ttl()
    }

    fn register(&self, instance: Instance) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.ask(self.inner.register(instance)))
    }

    fn heartbeat<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.ask(self.inner.heartbeat(instance)))
    }

    fn drain<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.ask(self.inner.drain(instance)))
    }

    fn deregister<'a>(&'a self, instance: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.ask(self.inner.deregister(instance)))
    }

    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        Box::pin(self.ask(self.inner.instances(service)))
    }

    fn services(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>> {
        Box::pin(self.ask(self.inner.services()))
    }

    fn services_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Arc<str>>, Error>> {
        Box::pin(self.ask(self.inner.services_in(namespace)))
    }

    fn watch(&self, service: &str) -> Watch {
        self.inner.watch(service)
    }
}
