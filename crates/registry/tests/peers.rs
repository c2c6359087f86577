//! What went wrong elsewhere, and what holds here. Each test names who reported it. Those of etcd are in `tests/etcd`, those of
//! balancers in `tests/balance.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod faulty;

use std::{num::NonZeroUsize, sync::atomic::Ordering::SeqCst, time::Duration};

use faulty::{Mode, Remote};
use gusset_registry::{
    Error, Health, Instance, InstanceKey, MemoryRegistry, Policy, Registration, RegistrationState,
    Registry,
};
use tokio::time::{Instant, advance, sleep, timeout};

const TTL: Duration = Duration::from_secs(30);

fn well(id: &str) -> Instance {
    Instance::new("cart", "10.0.0.7", 80).with_id(id).with_health(Health::Healthy)
}

fn key(id: &str) -> InstanceKey<'_> {
    InstanceKey::new("cart", id)
}

async fn healthy(registry: &MemoryRegistry) -> usize {
    match registry.instances("cart").await {
        Ok(snapshot) => snapshot.healthy().count(),
        Err(_) => 0,
    }
}

/// Heartbeats of these instances every 10 s, for so long.
async fn beat(registry: &MemoryRegistry, ids: &[String], for_so_long: Duration) {
    let end = Instant::now() + for_so_long;
    while Instant::now() < end {
        for id in ids {
            let _ = registry.heartbeat(key(id)).await;
        }
        sleep(Duration::from_secs(10)).await;
    }
}

async fn fleet(n: usize) -> (MemoryRegistry, Vec<String>) {
    let registry = MemoryRegistry::default();
    let ids: Vec<_> = (0..n).map(|n| format!("{n:02}")).collect();
    for id in &ids {
        registry.register(well(id)).await.unwrap();
    }
    (registry, ids)
}

/// kratos 3883, 2398 and 856; go-zero 4201 and 1926; rpcx 420; kitex registry-etcd 11; moleculer 918: after an outage of the registry the process was healthy,
/// and gone from discovery until it was restarted.
#[tokio::test(start_paused = true)]
async fn a_healthy_process_is_back_after_every_kind_of_outage() {
    for outage in [Mode::Down, Mode::Frozen, Mode::Panics] {
        for lasts in [1, 20, 29, 31, 100, 3_600] {
            let remote = Remote::default();
            let _sweeper = remote.engine().spawn_sweeper();
            let registration = Registration::spawn(remote.clone(), well("a"));
            registration.registered().await.unwrap();
            remote.set(outage);
            sleep(Duration::from_secs(lasts)).await;
            remote.restart_empty();
            remote.set(Mode::Up);
            // A heartbeat, or the limit of one that hangs and the longest pause.
            sleep(TTL / 3 + Duration::from_millis(10)).await;
            assert_eq!(remote.health().await, Some(Health::Healthy), "{outage:?} for {lasts} s");
            assert_eq!(registration.state(), RegistrationState::Registered);
        }
    }
}

/// go-zero 4960: the key was gone while the lease lived, and nobody looked.
#[tokio::test(start_paused = true)]
async fn who_was_removed_by_somebody_else_is_back_with_the_next_heartbeat() {
    let remote = Remote::default();
    let registration = Registration::spawn(remote.clone(), well("a"));
    registration.registered().await.unwrap();
    remote.engine().deregister(key("a")).await.unwrap();
    sleep(TTL / 3).await;
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

/// nitro-plugins 127, rabbitmq-server 17404: a first attempt that failed was the last.
#[tokio::test(start_paused = true)]
async fn a_first_registration_that_fails_is_not_the_last() {
    let remote = Remote::default();
    remote.set(Mode::Down);
    let registration = Registration::spawn(remote.clone(), well("a"));
    sleep(Duration::from_secs(600)).await;
    assert!(remote.failed.load(SeqCst) > 100);
    remote.set(Mode::Up);
    timeout(Duration::from_secs(5), registration.registered()).await.unwrap().unwrap();
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

/// go-kit 343: entries without a time to live outlived their process.
#[tokio::test(start_paused = true)]
async fn an_instance_whose_process_died_is_out_without_anybody_s_help() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    registry.register(well("a")).await.unwrap();
    sleep(TTL + Duration::from_secs(2)).await;
    assert_eq!(healthy(&registry).await, 0);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(registry.stats().instances, 0);
}

/// Eureka's `Lease.renew` adds the duration twice: who died was served for 180 s instead of 90.
#[tokio::test(start_paused = true)]
async fn a_renewed_instance_lives_one_ttl_longer_and_not_two() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    registry.register(well("a")).await.unwrap();
    beat(&registry, &["a".into()], Duration::from_secs(60)).await;
    // The last heartbeat was 10 s ago.
    sleep(TTL - Duration::from_secs(10) + Duration::from_millis(1_100)).await;
    assert_eq!(healthy(&registry).await, 0);
}

/// Eureka 1267, 1073, 941; spring-cloud-netflix 2407, 747, 6, 3934: after a scale-down the self-preservation stayed for ever, for what it expected was
/// not counted anew.
#[tokio::test(start_paused = true)]
async fn a_scale_down_does_not_begin_the_protection_and_what_is_expected_is_counted_anew() {
    let (registry, ids) = fleet(20).await;
    let _sweeper = registry.spawn_sweeper();
    beat(&registry, &ids, Duration::from_secs(60)).await;
    for id in &ids[5..] {
        registry.deregister(key(id)).await.unwrap();
    }
    beat(&registry, &ids[..5], Duration::from_secs(600)).await;
    assert_eq!((registry.stats().protected, healthy(&registry).await), (0, 5));
    // One that dies now is seen to have died, although one of five is more than 15 %.
    beat(&registry, &ids[..4], Duration::from_secs(40)).await;
    assert_eq!((registry.stats().protected, healthy(&registry).await), (0, 4));
}

/// The same, where the scale-down was by force and nobody deregistered: it is taken for an outage, and that ends.
#[tokio::test(start_paused = true)]
async fn a_protection_ends_by_itself_and_does_not_come_back() {
    let (registry, ids) = fleet(20).await;
    let _sweeper = registry.spawn_sweeper();
    beat(&registry, &ids, Duration::from_secs(60)).await;
    beat(&registry, &ids[..5], Duration::from_secs(40)).await;
    assert_eq!((registry.stats().protected, healthy(&registry).await), (1, 20));
    beat(&registry, &ids[..5], Duration::from_secs(600)).await;
    assert_eq!((registry.stats().protected, healthy(&registry).await), (0, 5));
    beat(&registry, &ids[..5], Duration::from_secs(3_600)).await;
    assert_eq!((registry.stats().protected, registry.stats().instances), (0, 5));
}

/// rustlavel-discovery 0.9.1: what was killed and replaced piled up until its share stopped all eviction for good.
#[tokio::test(start_paused = true)]
async fn instances_that_are_killed_and_replaced_one_by_one_do_not_pile_up() {
    let (registry, mut ids) = fleet(10).await;
    let _sweeper = registry.spawn_sweeper();
    for n in 10..60 {
        ids.remove(0);
        ids.push(format!("{n:02}"));
        registry.register(well(&ids[9])).await.unwrap();
        beat(&registry, &ids, Duration::from_secs(30)).await;
        assert_eq!(registry.stats().protected, 0);
        assert!(registry.stats().instances <= 14, "{}", registry.stats().instances);
    }
    beat(&registry, &ids, Duration::from_secs(100)).await;
    assert_eq!((healthy(&registry).await, registry.stats().instances), (10, 10));
}

/// Nacos 2031: under protection instances were shown as well that nobody had ever found so.
#[tokio::test(start_paused = true)]
async fn a_protection_makes_nobody_well_who_was_not() {
    let (registry, ids) = fleet(12).await;
    let _sweeper = registry.spawn_sweeper();
    beat(&registry, &ids, Duration::from_secs(30)).await;
    registry.report(key("00"), false).unwrap();
    registry.drain(key("01")).await.unwrap();
    registry.register(well("new").with_health(Health::Unknown)).await.unwrap();
    sleep(Duration::from_secs(40)).await;
    assert_eq!(registry.stats().protected, 1);
    let snapshot = registry.instances("cart").await.unwrap();
    assert_eq!(snapshot.healthy().count(), 10);
    assert!(snapshot.healthy().all(|instance| instance.suspect), "and they say what they are");
    for id in ["00", "01", "new"] {
        assert_ne!(snapshot.get(id).unwrap().health, Health::Healthy, "{id}");
    }
}

/// Nacos 5054: the threshold was lost, and one service's outage emptied another's list.
#[tokio::test(start_paused = true)]
async fn one_service_is_protected_without_the_others() {
    let (registry, ids) = fleet(10).await;
    let _sweeper = registry.spawn_sweeper();
    for n in 0..3 {
        registry.register(well(&n.to_string()).in_namespace("small")).await.unwrap();
    }
    beat(&registry, &ids, Duration::from_secs(20)).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(registry.stats().protected, 1);
    assert_eq!(healthy(&registry).await, 10);
    let small = registry.instances("small/cart").await.unwrap();
    assert_eq!(small.healthy().count(), 0, "three are too few to doubt one's own ears");
}

/// Nacos 8090: a pause of the server, for a collection of garbage, evicted everybody.
#[tokio::test(start_paused = true)]
async fn a_pause_of_the_server_evicts_nobody_however_long_and_often() {
    let policy = Policy::default().never_protect();
    let registry = MemoryRegistry::new(policy);
    let _sweeper = registry.spawn_sweeper();
    let ids: Vec<_> = (0..100).map(|n| format!("{n:02}")).collect();
    for id in &ids {
        registry.register(well(id)).await.unwrap();
    }
    for pause in [2, 29, 31, 90, 600, 86_400, 45, 45, 45] {
        beat(&registry, &ids, Duration::from_secs(10)).await;
        advance(Duration::from_secs(pause)).await;
        // The timers of the clients were late as well, by up to a heartbeat.
        sleep(Duration::from_secs(9)).await;
        assert_eq!(healthy(&registry).await, 100, "after a pause of {pause} s");
    }
    assert_eq!((registry.stats().expired, registry.stats().evicted), (0, 0));
}

/// Nacos 1873: each server looked after the heartbeats of a part, and when one was gone its part was evicted. Here whoever has a
/// handle takes the heartbeats of all.
#[tokio::test(start_paused = true)]
async fn heartbeats_count_whichever_handle_takes_them() {
    let registry = MemoryRegistry::default();
    let first = registry.spawn_sweeper();
    let _second = registry.spawn_sweeper();
    registry.register(well("a")).await.unwrap();
    for n in 0..60 {
        let handle = registry.clone();
        let lease = handle.lease(key("a")).unwrap();
        if n % 2 == 0 {
            lease.renew().unwrap()
        } else {
            handle.heartbeat(key("a")).await.unwrap()
        }
        sleep(Duration::from_secs(10)).await;
    }
    drop(first);
    assert_eq!(healthy(&registry).await, 1);
    sleep(TTL + Duration::from_secs(2)).await;
    assert_eq!(healthy(&registry).await, 0, "the other sweeper goes on");
}

/// volo 0.12.4: a watcher that was too slow for the queue of changes kept what it had, for ever.
#[tokio::test(start_paused = true)]
async fn a_watcher_that_slept_through_any_number_of_changes_sees_the_last_state() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    let mut watch = registry.watch("cart");
    for n in 0..10_000 {
        registry.register(well("a").with_version(n.to_string())).await.unwrap();
    }
    registry.register(well("b")).await.unwrap();
    let mut last = watch.changed().await;
    while last.get("b").is_none() {
        last = watch.changed().await;
    }
    assert_eq!(last.get("a").unwrap().version.as_deref(), Some("9999"));
    let more = timeout(Duration::from_secs(5), watch.changed()).await;
    assert!(more.is_err(), "it was the last");
}

/// volo 0.12.4: a change of weight or tags alone was told to nobody.
#[tokio::test(start_paused = true)]
async fn a_change_of_weight_or_tags_alone_is_a_change() {
    let registry = MemoryRegistry::default();
    registry.register(well("a")).await.unwrap();
    let mut watch = registry.watch("cart");
    registry.register(well("a").with_weight(5.try_into().unwrap())).await.unwrap();
    assert_eq!(watch.changed().await.get("a").unwrap().weight.get(), 5);
    registry.register(well("a").with_tag("blue")).await.unwrap();
    assert!(watch.changed().await.get("a").unwrap().tags.contains("blue"));
}

/// nginx-upsync 126, light-4j 335: an update that changed nothing began the rotation anew.
#[tokio::test(start_paused = true)]
async fn heartbeats_make_no_snapshots() {
    let (registry, ids) = fleet(10).await;
    let _sweeper = registry.spawn_sweeper();
    let watch = registry.watch("cart");
    let before = watch.snapshot().version();
    beat(&registry, &ids, Duration::from_secs(600)).await;
    assert_eq!(watch.snapshot().version(), before);
}

/// Consul 2890: an instance that came and went was well each time that it came.
#[tokio::test(start_paused = true)]
async fn what_flaps_is_well_after_more_heartbeats_each_time() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    registry.register(well("a")).await.unwrap();
    for needed in [1, 2, 3, 3] {
        sleep(TTL + Duration::from_secs(2)).await;
        assert_eq!(healthy(&registry).await, 0);
        for beats in 1..=needed {
            registry.heartbeat(key("a")).await.unwrap();
            assert_eq!(healthy(&registry).await, usize::from(beats == needed), "{beats}/{needed}");
            sleep(Duration::from_secs(2)).await;
        }
    }
}

/// Consul 3520 and 8705: who never came back was listed for ever, or no less than a minute and a half after it was to be reaped.
#[tokio::test(start_paused = true)]
async fn the_silent_are_forgotten_when_the_policy_says_so() {
    let policy = Policy::default().ttl(Duration::from_secs(3)).evict_after(Duration::from_secs(2));
    let registry = MemoryRegistry::new(policy);
    let _sweeper = registry.spawn_sweeper();
    registry.register(well("a")).await.unwrap();
    sleep(Duration::from_secs(4 + 3)).await;
    assert_eq!(registry.stats().instances, 0);
}

/// A registry that takes whatever is sent grows until it is killed: none of those that were read has a bound.
#[tokio::test(start_paused = true)]
async fn what_a_registry_holds_is_bounded_and_the_refusal_ends_when_there_is_room() {
    let policy = Policy::default().capacity(NonZeroUsize::new(3).unwrap());
    let registry = MemoryRegistry::new(policy);
    let crowd: Vec<_> = (0..5)
        .map(|n| Registration::spawn(registry.clone(), Instance::new("cart", "h", n)))
        .collect();
    let mut refused = 0;
    for registration in &crowd {
        refused += usize::from(registration.registered().await.is_err());
    }
    assert_eq!(refused, 2);
    let lost = |crowd: &[Registration]| {
        crowd.iter().filter(|one| one.state() == RegistrationState::Lost).count()
    };
    assert_eq!((lost(&crowd), registry.stats().instances), (2, 3));
    let full = crowd.iter().find_map(Registration::last_error).unwrap();
    assert!(matches!(*full, Error::Full { capacity: 3 }), "{full}");

    let (gone, stay): (Vec<_>, Vec<_>) =
        crowd.into_iter().partition(|one| one.state() == RegistrationState::Registered);
    drop(gone);
    sleep(TTL / 3).await;
    assert_eq!((lost(&stay), registry.stats().instances), (0, 2));
}
