//! A registry that can be made to fail.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_core::future::BoxFuture;
use gusset_registry::{
    Error, Health, Instance, InstanceKey, MemoryRegistry, Registry, Snapshot, Watch,
};
use tokio::time::sleep;

/// A registry over a network: sometimes away, sometimes frozen, sometimes restarted empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remote {
    engine: Arc<Mutex<MemoryRegistry>>,
    mode: Arc<Mutex<Mode>>,
    pub(crate) heartbeats: Arc<AtomicU32>,
    pub(crate) registers: Arc<AtomicU32>,
    pub(crate) failed: Arc<AtomicU32>,
    /// How long an answer takes.
    delay: Arc<Mutex<Duration>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Mode {
    #[default]
    Up,
    Down,
    Frozen,
    Panics,
}

impl Remote {
    pub(crate) fn engine(&self) -> MemoryRegistry {
        self.engine.lock().unwrap().clone()
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    pub(crate) fn answers_after(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    pub(crate) fn restart_empty(&self) {
        *self.engine.lock().unwrap() = MemoryRegistry::default();
    }

    pub(crate) async fn health(&self) -> Option<Health> {
        let snapshot = self.engine().instances("cart").await.ok()?;
        Some(snapshot.get("a").unwrap().health)
    }

    async fn reach(&self) -> Result<MemoryRegistry, Error> {
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let mode = *self.mode.lock().unwrap();
        match mode {
            Mode::Up => Ok(self.engine()),
            Mode::Frozen => pending().await,
            Mode::Panics => panic!("bug of an engine"),
            Mode::Down => {
                self.failed.fetch_add(1, SeqCst);
                Err(Error::Unavailable("connection refused".into()))
            }
        }
    }
}

impl Registry for Remote {
    fn ttl(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn register(&self, instance: Instance) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.registers.fetch_add(1, SeqCst);
            self.reach().await?.register(instance).await
        })
    }

    fn heartbeat<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.heartbeats.fetch_add(1, SeqCst);
            self.reach().await?.heartbeat(key).await
        })
    }

    fn drain<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.reach().await?.drain(key).await })
    }

    fn deregister<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.reach().await?.deregister(key).await })
    }

    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        Box::pin(async move { self.reach().await?.instances(service).await })
    }

    fn services(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>> {
        Box::pin(async move { self.reach().await?.services().await })
    }

    fn watch(&self, service: &str) -> Watch {
        self.engine().watch(service)
    }
}
