//! What does it cost to know the instances of a service and to choose one of them?
//!
//! `pick_*` choose one of 3, 100 and 1,000 endpoints and call it: `poll_ready`, `call`, the answer, each at once, on one thread.
//!
//! - `gusset` is `Balance` in rotation over the watch of a `MemoryRegistry`, and `gusset-least-loaded` the same with the power of two choices.
//! - `bare` is a rotating index and a clone of what it points to.
//! - `tower` is its `balance::p2c::Balance` with `PendingRequests`: two choices, not `Clone`, polled by the one caller it has.
//! - `pingora` (feature `pingora`) is `LoadBalancer<RoundRobin>::select`, which chooses an address; one service is called then. Its
//!   `select` looks at the health of a backend, counts nothing and waits for nobody.
//!
//! `snapshot_read` takes the list of 100 instances and looks at one; `bare` clones an `Arc` that never changes. `heartbeat` tells the
//! registry of one of 100 instances; `bare` is a map behind a mutex, with the time of the last one.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use common::{Echo, drive, now};
use criterion::{Criterion, criterion_group, criterion_main};
use gusset_registry::{
    Balance, Health, Instance, InstanceKey, LeastLoaded, MemoryRegistry, Registry,
};
use tower::{
    balance::p2c,
    discover::ServiceList,
    load::{CompleteOnResponse, PendingRequests},
};

/// The `number`th of at most 65,536 instances.
fn instance(number: usize) -> Instance {
    let [.., high, low] = number.to_be_bytes();
    Instance::new("cart", format!("10.0.{high}.{low}"), 80).with_health(Health::Healthy)
}

fn registry(instances: usize) -> MemoryRegistry {
    let registry = MemoryRegistry::default();
    for number in 0..instances {
        now(registry.register(instance(number))).expect("there is room");
    }
    registry
}

fn bare(instances: usize) -> impl FnMut() {
    let (services, turn) = (vec![Echo; instances], AtomicUsize::new(0));
    move || {
        let mut service = services[turn.fetch_add(1, Relaxed) % services.len()];
        assert!(black_box(drive(&mut service, 7)).is_ok());
    }
}

fn tower(instances: usize) -> impl FnMut() {
    let service = |_| PendingRequests::new(Echo, CompleteOnResponse::default());
    let services: Vec<_> = (0..instances).map(service).collect();
    let mut balance = p2c::Balance::new(ServiceList::new::<u64>(services));
    move || assert!(black_box(drive(&mut balance, 7)).is_ok())
}

#[cfg(feature = "pingora")]
fn pingora(instances: usize) -> impl FnMut() {
    use pingora_load_balancing::{LoadBalancer, selection::RoundRobin};

    let addresses = (0..instances).map(|number| format!("{}:80", instance(number).host));
    let balancer = LoadBalancer::<RoundRobin>::try_from_iter(addresses).expect("they parse");
    move || {
        assert!(black_box(balancer.select(b"", 256)).is_some());
        assert!(black_box(drive(&mut Echo, 7)).is_ok());
    }
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    for instances in [3, 100, 1_000] {
        let registry = registry(instances);
        let id = |who: &str| format!("pick_{instances}/{who}");
        let mut balance = Balance::new(registry.watch("cart"), |_: &Instance| Echo);
        group.bench_function(id("gusset"), |bencher| {
            bencher.iter(|| assert!(black_box(drive(&mut balance, 7)).is_ok()));
        });
        let mut balance = balance.pick(LeastLoaded::new());
        group.bench_function(id("gusset-least-loaded"), |bencher| {
            bencher.iter(|| assert!(black_box(drive(&mut balance, 7)).is_ok()));
        });
        group.bench_function(id("bare"), |bencher| bencher.iter(bare(instances)));
        group.bench_function(id("tower"), |bencher| bencher.iter(tower(instances)));
        #[cfg(feature = "pingora")]
        group.bench_function(id("pingora"), |bencher| bencher.iter(pingora(instances)));
    }
    group.finish();
}

fn snapshot_read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    let registry = registry(100);
    let watch = registry.watch("cart");
    group.bench_function("snapshot_read/gusset", |bencher| {
        bencher.iter(|| black_box(watch.snapshot()).instances()[50].port);
    });
    let list: Arc<[Instance]> = (0..100).map(instance).collect();
    group.bench_function("snapshot_read/bare", |bencher| {
        bencher.iter(|| black_box(list.clone())[50].port);
    });
    group.finish();
}

fn heartbeat(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    let registry = registry(100);
    let id = instance(50).id;
    group.bench_function("heartbeat/gusset", |bencher| {
        bencher.iter(|| {
            assert!(now(registry.heartbeat(InstanceKey::new("cart", black_box(&id)))).is_ok())
        });
    });
    let times = (0..100).map(|number| (instance(number).id, Instant::now()));
    let table = Mutex::new(times.collect::<HashMap<_, _>>());
    group.bench_function("heartbeat/bare", |bencher| {
        bencher.iter(|| {
            let mut table = table.lock().expect("nobody panics");
            let last = table.get_mut(black_box(&id)).expect("it is there");
            *last = Instant::now();
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = pick, snapshot_read, heartbeat
}
criterion_main!(benches);
