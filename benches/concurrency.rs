//! What does a limit of concurrency add to a call that gets a place, and what does a refusal cost?
//!
//! Every limit is far above what runs, but in `refused`. tower's fixed limit has `LoadShed` around it, which is what makes it
//! refuse instead of wait; tower-resilience's adaptive limit waits in `poll_ready`, and has no refusal to measure.
//!
//! - `fixed`: `Concurrency::fixed` beside tower's. `adaptive`: `Concurrency::gradient` (`gusset`) and `Concurrency::aimd` beside AIMD and
//!   `Gradient2` of tower-resilience. An adaptive limit reads a clock twice in each call: gusset that of `gusset_call::Clock`,
//!   tower-resilience the standard library's.
//! - `by_hand`: a permit taken, and given back as a success; tokio's semaphore is the floor of what only counts places.
//! - `*_2_threads`: one task on each of two runtime workers, with clones that share one limit; the time is that of one call while the
//!   other task calls too. It needs two processors with nothing else to do.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{
    future::poll_fn,
    hint::black_box,
    num::NonZeroU32,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use common::{Echo, drive, now};
use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use gusset_ratelimit::{
    Concurrency, ConcurrencyLimit, ConcurrencyLimitLayer, ConcurrencyLimiter, Permit, Priority,
};
use tokio::{runtime::Runtime, sync::Semaphore};
use tower::{
    Layer, Service,
    limit::ConcurrencyLimitLayer as TowerLayer,
    load_shed::{LoadShed, LoadShedLayer},
};
use tower_resilience_adaptive::{AdaptiveLimiterLayer, AdaptiveService, Aimd, Gradient2};

const LIMIT: u32 = 1_000;

fn fixed(limit: u32) -> Concurrency {
    Concurrency::fixed(NonZeroU32::new(limit).expect("it is not 0"))
}

fn gusset(policy: Concurrency) -> ConcurrencyLimit<Echo> {
    let limiter = ConcurrencyLimiter::new("bench", policy.initial(LIMIT));
    ConcurrencyLimitLayer::new(limiter).layer(Echo)
}

fn tower(limit: u32) -> LoadShed<tower::limit::ConcurrencyLimit<Echo>> {
    LoadShedLayer::new().layer(TowerLayer::new(limit as usize).layer(Echo))
}

fn aimd() -> AdaptiveService<Echo, Aimd> {
    let limit = LIMIT as usize;
    let aimd = Aimd::builder().initial_limit(limit).max_limit(limit).build();
    AdaptiveLimiterLayer::new(aimd.expect("it is within its bounds")).layer(Echo)
}

fn gradient2() -> AdaptiveService<Echo, Gradient2> {
    let limit = LIMIT as usize;
    let gradient = Gradient2::builder().initial_limit(limit).max_limit(limit).build();
    AdaptiveLimiterLayer::new(gradient.expect("it is within its bounds")).layer(Echo)
}

fn concurrency(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("concurrency");
    let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    let workers = workers.expect("two threads can be started");

    passing(&mut group, &workers, "fixed", "gusset", gusset(fixed(LIMIT)));
    passing(&mut group, &workers, "fixed", "tower", tower(LIMIT));
    passing(&mut group, &workers, "fixed", "bare", Echo);

    passing(&mut group, &workers, "adaptive", "gusset", gusset(Concurrency::gradient()));
    passing(&mut group, &workers, "adaptive", "gusset-aimd", gusset(Concurrency::aimd()));
    passing(&mut group, &workers, "adaptive", "tower-resilience", aimd());
    passing(&mut group, &workers, "adaptive", "tower-resilience-gradient2", gradient2());
    passing(&mut group, &workers, "adaptive", "bare", Echo);

    for (name, policy) in [("gusset", Concurrency::gradient()), ("gusset-fixed", fixed(LIMIT))] {
        let limiter = ConcurrencyLimiter::new("bench", policy);
        group.bench_function(format!("by_hand/{name}"), |bencher| {
            bencher.iter(|| black_box(limiter.try_acquire(Priority::Normal)).map(Permit::success));
        });
    }
    let semaphore = Arc::new(Semaphore::new(LIMIT as usize));
    group.bench_function("by_hand/tokio-semaphore", |bencher| {
        bencher.iter(|| assert!(black_box(semaphore.clone().try_acquire_owned()).is_ok()));
    });

    let mut full = gusset(fixed(1));
    let permit = full.limiter().try_acquire(Priority::Normal);
    group.bench_function("refused/gusset", |bencher| {
        bencher.iter(|| assert!(black_box(drive(&mut full, 7)).is_err()));
    });
    drop(permit);
    let mut holder = TowerLayer::new(1).layer(Echo);
    let mut full = LoadShedLayer::new().layer(holder.clone());
    assert!(now(poll_fn(|cx| holder.poll_ready(cx))).is_ok());
    group.bench_function("refused/tower", |bencher| {
        bencher.iter(|| assert!(black_box(drive(&mut full, 7)).is_err()));
    });
    group.finish();
}

fn passing<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    workers: &Runtime,
    case: &str,
    name: &str,
    mut service: S,
) where
    S: Service<u64, Future: Send, Error: Send> + Clone + Send + 'static,
{
    group.bench_function(format!("{case}/{name}"), |bencher| {
        bencher.iter(|| assert!(black_box(drive(&mut service, 7)).is_ok()));
    });
    group.bench_function(format!("{case}_2_threads/{name}"), |bencher| {
        bencher.iter_custom(|calls| two_workers(workers, &service, calls));
    });
}

/// How long it takes from the first call of the first worker to the last of the last, of `calls` each.
fn two_workers<S>(runtime: &Runtime, service: &S, calls: u64) -> Duration
where
    S: Service<u64, Future: Send, Error: Send> + Clone + Send + 'static,
{
    // A thread's barrier, not a task's: it blocks the worker, so the other task must begin on the other one.
    let start = Arc::new(Barrier::new(2));
    let tasks = [service.clone(), service.clone()].map(|mut service| {
        let start = start.clone();
        runtime.spawn(async move {
            start.wait();
            let began = Instant::now();
            for _ in 0..calls {
                assert!(poll_fn(|cx| service.poll_ready(cx)).await.is_ok());
                assert!(service.call(black_box(7)).await.is_ok());
            }
            (began, Instant::now())
        })
    });
    let [one, other] = tasks.map(|task| runtime.block_on(task).expect("no task panics"));
    one.1.max(other.1) - one.0.min(other.0)
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = concurrency
}
criterion_main!(benches);
