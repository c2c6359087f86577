//! The registry within a process, as its users see it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use gusset_registry::{Error, Health, Instance, InstanceKey, MemoryRegistry, Policy, Registry};
use tokio::time::{Instant, advance, sleep};

mod conformance;

fn instance(id: &str) -> Instance {
    Instance::new("s", "h", 1).with_id(id).with_health(Health::Healthy)
}

#[tokio::test(start_paused = true)]
async fn it_conforms() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    conformance::holds(async || Arc::new(registry.clone()) as conformance::Engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_instance_is_out_within_one_sweep_after_the_ttl() {
    for offset in [0, 1, 4_999, 9_999] {
        let registry = MemoryRegistry::default();
        let _sweeper = registry.spawn_sweeper();
        sleep(Duration::from_millis(offset)).await;
        registry.register(instance("killed")).await.unwrap();
        let begin = Instant::now();
        let mut watch = registry.watch("s");
        let snapshot = watch.changed().await;
        let silent = begin.elapsed().as_millis();
        assert_eq!(snapshot.get("killed").unwrap().health, Health::Unhealthy);
        assert!((30_000..=31_010).contains(&silent), "out after {silent} ms");

        let snapshot = watch.changed().await;
        let silent = begin.elapsed().as_millis();
        assert!(snapshot.instances().is_empty());
        assert!((90_000..=91_100).contains(&silent), "forgotten after {silent} ms");
        let stats = registry.stats();
        assert_eq!((stats.instances, stats.expired, stats.evicted), (0, 1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_process_expires_nobody() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    registry.register(instance("a")).await.unwrap();
    sleep(Duration::from_secs(9)).await;
    advance(Duration::from_secs(3_600)).await;
    sleep(Duration::from_secs(1)).await;
    assert!(registry.discover("s").await.is_ok());
    sleep(Duration::from_secs(30)).await;
    assert!(registry.discover("s").await.is_err(), "silent for the rest of its TTL");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_sweeper_ends_the_sweeping() {
    let registry = MemoryRegistry::default();
    drop(registry.spawn_sweeper());
    registry.register(instance("a")).await.unwrap();
    sleep(Duration::from_secs(3_600)).await;
    assert!(registry.discover("s").await.is_ok());
}

#[tokio::test]
async fn at_the_bound_new_instances_are_refused_and_known_ones_are_not() {
    let registry = MemoryRegistry::new(Policy::default().capacity(NonZeroUsize::new(2).unwrap()));
    registry.register(instance("a")).await.unwrap();
    registry.register(instance("b")).await.unwrap();
    let error = registry.register(instance("c")).await.unwrap_err();
    assert!(matches!(error, Error::Full { capacity: 2 }), "{error}");
    registry.register(instance("a").with_zone("z")).await.unwrap();
    assert_eq!(registry.stats().refused, 1);

    registry.deregister(InstanceKey::new("s", "b")).await.unwrap();
    registry.register(instance("c")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_age_of_an_instance_is_that_of_the_moment_it_is_asked_for() {
    let registry = MemoryRegistry::default();
    registry.register(instance("a")).await.unwrap();
    let snapshot = registry.instances("s").await.unwrap();
    let age = || snapshot.get("a").unwrap().last_seen.age().unwrap();
    advance(Duration::from_secs(5)).await;
    assert_eq!(age(), Duration::from_secs(5));
    registry.heartbeat(InstanceKey::new("s", "a")).await.unwrap();
    assert_eq!(age(), Duration::ZERO, "an old snapshot shows it as well");
    assert_eq!(registry.instances("s").await.unwrap().version(), snapshot.version());
}
