//! A registration as the service that owns it sees it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

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
    Error, Health, Instance, InstanceKey, MemoryRegistry, Registration, RegistrationState,
    Registry, Snapshot, Watch,
};
use tokio::time::{Instant, sleep, timeout};

/// A registry over a network: sometimes away, sometimes frozen, sometimes restarted empty.
#[derive(Clone, Debug, Default)]
struct Remote {
    engine: Arc<Mutex<MemoryRegistry>>,
    mode: Arc<Mutex<Mode>>,
    heartbeats: Arc<AtomicU32>,
    registers: Arc<AtomicU32>,
    failed: Arc<AtomicU32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mode {
    #[default]
    Up,
    Down,
    Frozen,
    Panics,
}

impl Remote {
    fn engine(&self) -> MemoryRegistry {
        self.engine.lock().unwrap().clone()
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn restart_empty(&self) {
        *self.engine.lock().unwrap() = MemoryRegistry::default();
    }

    async fn health(&self) -> Option<Health> {
        let snapshot = self.engine().instances("cart").await.ok()?;
        Some(snapshot.get("a").unwrap().health)
    }

    async fn reach(&self) -> Result<MemoryRegistry, Error> {
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

fn spawn(remote: &Remote) -> Registration {
    Registration::spawn(remote.clone(), Instance::new("cart", "h", 1).with_id("a"))
}

async fn within(limit: Duration, registration: &Registration, wanted: RegistrationState) {
    let mut state = registration.subscribe();
    let reached = state.wait_for(|state| *state == wanted);
    timeout(limit, reached)
        .await
        .unwrap_or_else(|_| panic!("not {wanted:?} in {limit:?}"))
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_every_third_of_the_ttl_or_a_fifth_sooner() {
    let remote = Remote::default();
    let _sweeper = remote.engine().spawn_sweeper();
    let registration = spawn(&remote);
    registration.registered().await;
    sleep(Duration::from_secs(3_600)).await;
    let beats = remote.heartbeats.load(SeqCst);
    assert!((360..=450).contains(&beats), "{beats} in an hour");
    assert_eq!(remote.registers.load(SeqCst), 1);
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn many_registrations_do_not_beat_in_step() {
    let remote = Remote::default();
    let crowd: Vec<_> = (0..100)
        .map(|n| Registration::spawn(remote.clone(), Instance::new("cart", "h", n)))
        .collect();
    sleep(Duration::from_secs(300)).await;
    let before = remote.heartbeats.load(SeqCst);
    sleep(Duration::from_secs(1)).await;
    let within_a_second = remote.heartbeats.load(SeqCst) - before;
    assert!((1..50).contains(&within_a_second), "{within_a_second} of 100");
    drop(crowd);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_forgotten_is_back_within_a_heartbeat() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await;
    remote.restart_empty();
    assert_eq!(remote.health().await, None);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(remote.health().await, Some(Health::Healthy));
    assert_eq!(registration.state(), RegistrationState::Registered);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_evicted_is_back_as_well() {
    let remote = Remote::default();
    let _sweeper = remote.engine().spawn_sweeper();
    let registration = spawn(&remote);
    registration.registered().await;
    remote.set(Mode::Frozen);
    within(Duration::from_secs(16), &registration, RegistrationState::Retrying).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(remote.health().await, None);
    remote.set(Mode::Up);
    within(Duration::from_secs(10), &registration, RegistrationState::Registered).await;
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_hours_is_survived_and_the_registry_is_not_flooded() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await;
    remote.set(Mode::Down);
    within(Duration::from_secs(10), &registration, RegistrationState::Retrying).await;
    sleep(Duration::from_secs(3_600)).await;
    let attempts = remote.failed.load(SeqCst);
    assert!((720..1_500).contains(&attempts), "{attempts} in an hour");
    remote.restart_empty();
    remote.set(Mode::Up);
    within(Duration::from_secs(5), &registration, RegistrationState::Registered).await;
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn a_service_may_start_before_its_registry() {
    let remote = Remote::default();
    remote.set(Mode::Down);
    let registration = spawn(&remote);
    assert!(timeout(Duration::from_secs(60), registration.registered()).await.is_err());
    assert_eq!(registration.state(), RegistrationState::Retrying);
    remote.set(Mode::Up);
    timeout(Duration::from_secs(5), registration.registered()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_lasts_through_a_registry_that_forgets() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await;
    registration.drain().await;
    assert_eq!(remote.health().await, Some(Health::Draining));
    remote.restart_empty();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(remote.health().await, Some(Health::Draining));
    assert_eq!(registration.state(), RegistrationState::Draining);
}

#[tokio::test(start_paused = true)]
async fn closing_drains_first_and_then_deregisters() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await;
    let state = registration.subscribe();
    let before = remote.watch("cart").snapshot().version();
    registration.close().await.unwrap();
    assert_eq!(remote.health().await, None);
    assert_eq!(remote.watch("cart").snapshot().version(), before + 2, "draining, then gone");
    assert_eq!(*state.borrow(), RegistrationState::Ended);
}

#[tokio::test(start_paused = true)]
async fn closing_ends_within_bounds_when_the_registry_is_frozen_and_says_so() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await;
    remote.set(Mode::Frozen);
    let begin = Instant::now();
    let error = registration.close().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(begin.elapsed() <= Duration::from_millis(10_010), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closing_a_registration_that_is_not_known_is_fine() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await;
    remote.restart_empty();
    registration.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_it_deregisters_and_ends_the_task() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await;
    let mut state = registration.subscribe();
    drop(registration);
    state.wait_for(|state| *state == RegistrationState::Ended).await.unwrap();
    assert_eq!(remote.health().await, None);
    let beats = remote.heartbeats.load(SeqCst);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(remote.heartbeats.load(SeqCst), beats);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_dropped_deregisters_all_the_same() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await;
    let mut state = registration.subscribe();
    let mut close = tokio_test::task::spawn(registration.close());
    tokio_test::assert_pending!(close.poll());
    drop(close);
    state.wait_for(|state| *state == RegistrationState::Ended).await.unwrap();
    assert_eq!(remote.health().await, None);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_before_it_was_registered_leaves_nothing_behind() {
    let remote = Remote::default();
    drop(spawn(&remote));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(remote.health().await, None);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_task_by_a_panic_is_seen_and_nobody_waits_for_ever() {
    let remote = Remote::default();
    remote.set(Mode::Panics);
    let registration = spawn(&remote);
    registration.registered().await;
    registration.drain().await;
    assert_eq!(registration.state(), RegistrationState::Ended);
    assert!(registration.close().await.is_err());
}
