//! How much goes through, and how long it takes. The numbers in the documentation are those of
//! `cargo test --release -p gusset-registry --all-features --test remote speed -- --nocapture --test-threads 1`; the bounds are far from them, for busy
//! machines, and for tests that are not optimised.

use std::{sync::Arc, time::Instant};

use gusset_registry::{InstanceKey, Registry, RemotePolicy, RemoteRegistry};

use super::{harness::Process, instance, ms};

const RELEASE: bool = !cfg!(debug_assertions);

/// Bytes of memory in use by this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Calls `call` with all numbers below `count`, 64 at a time, and returns how many it were a second.
async fn rate<F: Future<Output = ()> + Send + 'static>(
    count: usize,
    call: impl Fn(usize) -> F + Send + Sync + 'static,
) -> f64 {
    let (call, began) = (Arc::new(call), Instant::now());
    let all: Vec<_> = (0..64)
        .map(|first| {
            let call = call.clone();
            tokio::spawn(async move {
                for n in (first..count).step_by(64) {
                    call(n).await;
                }
            })
        })
        .collect();
    for one in all {
        one.await.unwrap();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_over_sixteen_connections() {
    let server = Process::start();
    let patient = RemotePolicy::default().ttl(ms(600_000)).call_within(ms(30_000));
    let registry = RemoteRegistry::new(&server.address(), patient).unwrap();
    let count = if RELEASE { 100_000 } else { 2_000 };
    let name = |n: usize| (format!("s{}", n / 10), n.to_string());
    let to = registry.clone();
    let registered = rate(count, move |n| {
        let (to, (service, id)) = (to.clone(), name(n));
        async move { to.register(instance(&service, &id)).await.unwrap() }
    })
    .await;
    let to = registry.clone();
    let beats = rate(count, move |n| {
        let (to, (service, id)) = (to.clone(), name(n));
        async move { to.heartbeat(InstanceKey::new(&service, &id)).await.unwrap() }
    })
    .await;
    println!("{count} instances: {registered:.0} registrations/s, {beats:.0} heartbeats/s");
    assert!(registry.stats().connected <= 16, "{:?}", registry.stats());
    assert!(beats > if RELEASE { 5_000.0 } else { 200.0 }, "{beats}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_watchers_are_told_of_one_change() {
    let server = Process::start();
    let registry = RemoteRegistry::new(&server.address(), RemotePolicy::default()).unwrap();
    for n in 0..10 {
        registry.register(instance("cart", &n.to_string())).await.unwrap();
    }
    // Each a client of its own, as in processes of their own.
    let patient = RemotePolicy::default().wait(ms(60_000)).call_within(ms(30_000));
    let before = resident();
    let watches: Vec<_> = (0..2_000)
        .map(|_| {
            let registry = RemoteRegistry::new(&server.address(), patient.clone()).unwrap();
            (registry.watch("cart"), registry)
        })
        .collect();
    for (watch, _) in &watches {
        super::shows(watch, "0 1 2 3 4 5 6 7 8 9").await;
    }
    // Until the last has its question open, which the server does not tell of.
    tokio::time::sleep(ms(500)).await;
    let each = resident().saturating_sub(before) / 2_000;
    let began = Instant::now();
    registry.deregister(InstanceKey::new("cart", "0")).await.unwrap();
    for (watch, _) in &watches {
        super::shows(watch, "1 2 3 4 5 6 7 8 9").await;
    }
    let told = began.elapsed();
    println!("2,000 watchers of 10 instances told within {told:?}; {each} bytes each");
    assert!(told < ms(if RELEASE { 1_000 } else { 10_000 }), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_a_watcher_within_milliseconds() {
    let server = Process::start();
    let registry = RemoteRegistry::new(&server.address(), RemotePolicy::default()).unwrap();
    let other = RemoteRegistry::new(&server.address(), RemotePolicy::default()).unwrap();
    let mut watch = other.watch("cart");
    let mut spans = Vec::new();
    for n in 0..100 {
        let changed = instance("cart", "a").with_version(n.to_string());
        let began = Instant::now();
        let told = async {
            let seen = |watch: &gusset_registry::Watch| {
                let snapshot = watch.snapshot();
                snapshot.get("a").is_some_and(|found| found.version == changed.version)
            };
            while !seen(&watch) {
                watch.changed().await;
            }
            began.elapsed()
        };
        let (told, registered) = tokio::join!(told, registry.register(changed.clone()));
        registered.unwrap();
        spans.push(told);
        // A watch asks at most a hundred times a second.
        tokio::time::sleep(ms(15)).await;
    }
    spans.sort();
    println!("registered to watch {:?} in the median", spans[50]);
    assert!(spans[50] < ms(500), "{:?}", spans[50]);
}
