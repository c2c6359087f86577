//! What does it cost to know the instances of a service and to choose one of them?
//!
//! `pick_*` choose one of 3, 10, 100 and 1,000 instances, on one thread and on two at once.
//!
//! - `gusset` is a `Chooser`: by an exact rotation that all share, by one of each handle, by two choices and calls under way, by
//!   weights, by key, by chance.
//! - `pingora` (feature `pingora`) is `LoadBalancer::select`, in rotation or by Ketama. It looks at the health of a backend, and counts nothing.
//!
//! `call_*` choose an endpoint and call it: `poll_ready`, `call`, the answer, each at once, on one thread.
//!
//! - `gusset` is `Balance` over the watch of a `MemoryRegistry`.
//! - `bare` is a rotating index and a clone of what it points to.
//! - `tower` is its `balance::p2c::Balance` with `PendingRequests`, in `call_ewma_*` with `PeakEwma`: two choices, not `Clone`, polled by
//!   the one caller it has.
//!
//! What the registry itself costs:
//!
//! - `snapshot_read` takes the list of 100 instances and looks at one; `bare` clones an `Arc` that never changes. `snapshot_read_busy` is the same
//!   while another thread sends 10,000 heartbeats a second.
//! - `heartbeat` tells the registry of one of 100 instances; `bare` is a map behind a mutex, with the time of the last one.
//! - `heartbeat_100k` does so by lease, for each of 100,000 instances once in a tick, in an order by chance; `bare` exchanges one word for each.
//! - `tick_100k` is one sweep over 100,000 instances that beat every 8 to 10 ticks, of 30 in a TTL.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

#[path = "../common.rs"]
mod common;
mod heartbeats;

use std::{
    hint::black_box,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::{Echo, drive, now};
use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use gusset_registry::{
    Balance, Chooser, Consistent, Health, Instance, LeastLoaded, LocalRoundRobin, MemoryRegistry,
    Pick, Random, Registry, RoundRobin, WeightedRoundRobin,
};
use tower::{
    balance::p2c,
    discover::ServiceList,
    load::{CompleteOnResponse, PeakEwma, PendingRequests},
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

fn tower_ewma(instances: usize) -> impl FnMut() {
    let (rtt, memory) = (Duration::from_millis(1), MEMORY.as_nanos() as f64);
    let service = |_| PeakEwma::new(Echo, rtt, memory, CompleteOnResponse::default());
    let services: Vec<_> = (0..instances).map(service).collect();
    let mut balance = p2c::Balance::new(ServiceList::new::<u64>(services));
    move || assert!(black_box(drive(&mut balance, 7)).is_ok())
}

#[cfg(feature = "pingora")]
fn pingora<S>(instances: usize) -> impl FnMut()
where
    S: pingora_load_balancing::selection::BackendSelection + 'static,
    S::Iter: pingora_load_balancing::selection::BackendIter,
{
    let addresses = (0..instances).map(|number| format!("{}:80", instance(number).host));
    let balancer =
        pingora_load_balancing::LoadBalancer::<S>::try_from_iter(addresses).expect("they parse");
    let mut key = 0_u64;
    move || {
        key = key.wrapping_add(1);
        assert!(black_box(balancer.select(&key.to_le_bytes(), 256)).is_some());
    }
}

/// Over which slow calls are forgotten.
const MEMORY: Duration = Duration::from_secs(10);

/// One choice on one thread, and one while another thread chooses as well.
fn pick_by<P>(group: &mut BenchmarkGroup<'_, WallTime>, case: &str, instances: usize, pick: P)
where
    P: Pick<u64> + Clone + Send + Sync,
{
    let registry = registry(instances);
    let chooser = Chooser::new(registry.watch("cart")).pick(pick);
    let choose = |chooser: &mut Chooser<P>, key: u64| {
        assert!(chooser.choose(black_box(&key)).is_some_and(|chosen| chosen.port == 80));
    };
    let mut one = chooser.clone();
    group.bench_function(format!("pick_{case}_{instances}/gusset"), |bencher| {
        let mut key = 0_u64;
        bencher.iter(|| {
            key = key.wrapping_add(1);
            choose(&mut one, key);
        });
    });
    group.bench_function(format!("pick_{case}_{instances}_2_threads/gusset"), |bencher| {
        bencher.iter_custom(|calls| {
            let begin = Barrier::new(2);
            let run = || {
                let mut chooser = chooser.clone();
                begin.wait();
                let start = Instant::now();
                (0..calls).for_each(|key| choose(&mut chooser, key));
                start.elapsed()
            };
            std::thread::scope(|scope| {
                let other = scope.spawn(run);
                run().max(other.join().expect("nobody panics"))
            })
        });
    });
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    for instances in [3, 10, 100, 1_000] {
        pick_by(&mut group, "round_robin", instances, RoundRobin::new());
        pick_by(&mut group, "local", instances, LocalRoundRobin::new());
        pick_by(&mut group, "p2c", instances, LeastLoaded::new());
        #[cfg(feature = "pingora")]
        {
            use pingora_load_balancing::selection;
            group.bench_function(format!("pick_round_robin_{instances}/pingora"), |bencher| {
                bencher.iter(pingora::<selection::RoundRobin>(instances));
            });
            group.bench_function(format!("pick_key_{instances}/pingora"), |bencher| {
                bencher.iter(pingora::<selection::Consistent>(instances));
            });
        }
    }
    for instances in [10, 1_000] {
        pick_by(&mut group, "weighted", instances, WeightedRoundRobin::new());
        pick_by(&mut group, "key", instances, Consistent::new(|key: &u64| *key));
        pick_by(&mut group, "random", instances, Random::new());
    }
    group.finish();
}

fn call(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    for instances in [3, 10, 100, 1_000] {
        let registry = registry(instances);
        let id = |case: &str, who: &str| format!("call_{case}_{instances}/{who}");
        let mut balance = Balance::new(registry.watch("cart"), |_: &Instance| Echo);
        group.bench_function(id("round_robin", "gusset"), |bencher| {
            bencher.iter(|| assert!(black_box(drive(&mut balance, 7)).is_ok()));
        });
        group.bench_function(id("round_robin", "bare"), |bencher| bencher.iter(bare(instances)));
        let mut balance = balance.pick(LeastLoaded::new());
        group.bench_function(id("p2c", "gusset"), |bencher| {
            bencher.iter(|| assert!(black_box(drive(&mut balance, 7)).is_ok()));
        });
        group.bench_function(id("p2c", "tower"), |bencher| bencher.iter(tower(instances)));
        let mut balance = balance.pick(LeastLoaded::peak_ewma(MEMORY));
        group.bench_function(id("ewma", "gusset"), |bencher| {
            bencher.iter(|| assert!(black_box(drive(&mut balance, 7)).is_ok()));
        });
        group.bench_function(id("ewma", "tower"), |bencher| bencher.iter(tower_ewma(instances)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = pick, call, heartbeats::snapshot_read, heartbeats::heartbeat, heartbeats::fleet
}
criterion_main!(benches);
