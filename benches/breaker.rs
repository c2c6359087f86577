//! What does a circuit breaker add to a call, in time and in allocations, beside the bare service and the peer crates?
//!
//! `layer_*` drive `poll_ready`, `call` and the future to its end. On one thread each future is polled once with a waker that
//! does nothing, for every one is ready at its first poll; no runtime is in the way. `layer_closed_2_threads` starts one
//! task on each of two runtime workers, both with clones that share one circuit; its time is that of one call while the
//! other task calls too, so a breaker that scales shows the time of one thread. It needs two processors with nothing else to
//! do: on a busy machine the tasks take turns and show something else.
//!
//! Before it measures, it prints the allocations of each contender, and panics if a closed circuit of gusset makes one.

#![allow(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait")]
#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    future::{Future, Ready, poll_fn, ready},
    hint::black_box,
    pin::pin,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group};
use failsafe::{backoff, failure_policy};
use gusset_breaker::{Breaker, BreakerLayer, Circuit, Policy};
use recloser::Recloser;
use tokio::runtime::Runtime;
use tower::{Layer, Service};
use tower_resilience_circuitbreaker::{CircuitBreaker, CircuitBreakerLayer, DefaultClassifier};

/// Longer than a run, so that an open circuit stays so.
const OPEN_FOR: Duration = Duration::from_secs(3600);

/// The inner service: always ready, and so is its answer.
#[derive(Clone)]
struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

fn circuit() -> Circuit {
    Circuit::new("bench", Policy::consecutive(5).open_for(OPEN_FOR))
}

fn gusset() -> Breaker<Echo> {
    BreakerLayer::new(circuit()).layer(Echo)
}

fn gusset_open() -> Breaker<Echo> {
    let service = gusset();
    for _ in 0..5 {
        service.circuit().try_acquire().expect("it is closed").failure();
    }
    service
}

/// The window it has by default, 100 calls by count, and a name as long as ours.
fn tower_resilience() -> CircuitBreaker<Echo, DefaultClassifier> {
    CircuitBreakerLayer::builder()
        .name("bench")
        .sliding_window_size(100)
        .wait_duration_in_open(OPEN_FOR)
        .build()
        .expect("the numbers are in range")
        .layer(Echo)
}

/// The condition that gusset's circuit has, too.
fn tower_resilience_consecutive() -> CircuitBreaker<Echo, DefaultClassifier> {
    CircuitBreakerLayer::builder()
        .name("bench")
        .consecutive_failures(5)
        .wait_duration_in_open(OPEN_FOR)
        .build()
        .expect("the numbers are in range")
        .layer(Echo)
}

fn tower_resilience_open() -> CircuitBreaker<Echo, DefaultClassifier> {
    let service = tower_resilience();
    now(service.force_open());
    service
}

fn failsafe() -> impl Fn() {
    let policy = failure_policy::consecutive_failures(5, backoff::constant(OPEN_FOR));
    let circuit = failsafe::Config::new().failure_policy(policy).build();
    move || {
        assert!(circuit.is_call_permitted());
        circuit.on_success();
    }
}

fn recloser() -> impl Fn() {
    let circuit = Recloser::custom().closed_len(100).error_rate(0.5).open_wait(OPEN_FOR).build();
    move || assert!(circuit.call(|| Ok::<_, Infallible>(())).is_ok())
}

fn gusset_manual() -> impl Fn() {
    let circuit = circuit();
    move || match circuit.try_acquire() {
        Ok(permit) => permit.success(),
        Err(open) => unreachable!("{open}"),
    }
}

/// The output of a future that is ready at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

fn drive<S: Service<u64, Response = u64>>(service: &mut S) -> Result<u64, S::Error> {
    now(poll_fn(|cx| service.poll_ready(cx)))?;
    now(service.call(black_box(7)))
}

/// A function of each call of `service`, which has to pass.
fn passing<S: Service<u64, Response = u64>>(mut service: S) -> impl FnMut() {
    move || assert!(black_box(drive(&mut service)).is_ok())
}

/// A function of each call of `service`, which has to be refused.
fn refused<S: Service<u64, Response = u64>>(mut service: S) -> impl FnMut() {
    move || assert!(black_box(drive(&mut service)).is_err())
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
                let ready = poll_fn(|cx| service.poll_ready(cx)).await;
                assert!(ready.is_ok());
                assert!(black_box(service.call(black_box(7)).await).is_ok());
            }
            (began, Instant::now())
        })
    });
    let [one, other] = tasks.map(|task| runtime.block_on(task).expect("no task panics"));
    one.1.max(other.1) - one.0.min(other.0)
}

fn breaker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("breaker");
    let mut bench = |name: &str, call: &mut dyn FnMut(&mut criterion::Bencher<'_>)| {
        group.bench_function(name, |bencher| call(bencher));
    };

    let mut call = passing(gusset());
    bench("layer_closed/gusset", &mut |bencher| bencher.iter(&mut call));
    let mut call = passing(Echo);
    bench("layer_closed/bare", &mut |bencher| bencher.iter(&mut call));
    let mut call = passing(tower_resilience());
    bench("layer_closed/tower-resilience", &mut |bencher| bencher.iter(&mut call));
    let mut call = passing(tower_resilience_consecutive());
    bench("layer_closed/tower-resilience-consecutive", &mut |bencher| bencher.iter(&mut call));

    let call = gusset_manual();
    bench("manual_closed/gusset", &mut |bencher| bencher.iter(&call));
    let call = failsafe();
    bench("manual_closed/failsafe", &mut |bencher| bencher.iter(&call));
    let call = recloser();
    bench("manual_closed/recloser", &mut |bencher| bencher.iter(&call));

    let mut call = refused(gusset_open());
    bench("layer_open/gusset", &mut |bencher| bencher.iter(&mut call));
    let mut call = refused(tower_resilience_open());
    bench("layer_open/tower-resilience", &mut |bencher| bencher.iter(&mut call));

    let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    let workers = workers.expect("two threads can be started");
    let service = gusset();
    bench("layer_closed_2_threads/gusset", &mut |bencher| {
        bencher.iter_custom(|calls| two_workers(&workers, &service, calls));
    });
    bench("layer_closed_2_threads/bare", &mut |bencher| {
        bencher.iter_custom(|calls| two_workers(&workers, &Echo, calls));
    });
    let service = tower_resilience();
    bench("layer_closed_2_threads/tower-resilience", &mut |bencher| {
        bencher.iter_custom(|calls| two_workers(&workers, &service, calls));
    });
    group.finish();
}

/// Counts while it is told to; otherwise it costs the contenders that allocate one load and a predicted branch.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

impl Counting {
    fn count() {
        if COUNTS.load(Relaxed) {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
    }
}

// SAFETY: every call goes to `System` as it came; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promises are those that `System` asks for; the same holds below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: see `alloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: see `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: see `alloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations per call, after one that may set things up.
fn allocations(name: &str, mut call: impl FnMut()) -> f64 {
    const CALLS: u64 = 10_000;
    call();
    ALLOCATIONS.store(0, Relaxed);
    COUNTS.store(true, Relaxed);
    for _ in 0..CALLS {
        call();
    }
    COUNTS.store(false, Relaxed);
    let per_call = ALLOCATIONS.load(Relaxed) as f64 / CALLS as f64;
    eprintln!("allocations per call: {name:<48} {per_call}");
    per_call
}

/// Prints the allocations of all contenders, and proves that a closed circuit makes none.
fn prove_no_allocation() {
    let layer = allocations("layer_closed/gusset", passing(gusset()));
    allocations("layer_closed/bare", passing(Echo));
    allocations("layer_closed/tower-resilience", passing(tower_resilience()));
    let consecutive = passing(tower_resilience_consecutive());
    allocations("layer_closed/tower-resilience-consecutive", consecutive);
    let manual = allocations("manual_closed/gusset", gusset_manual());
    allocations("manual_closed/failsafe", failsafe());
    allocations("manual_closed/recloser", recloser());
    allocations("layer_open/gusset", refused(gusset_open()));
    allocations("layer_open/tower-resilience", refused(tower_resilience_open()));
    assert!(layer == 0.0 && manual == 0.0, "the closed path of gusset allocates");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500));
    targets = breaker
}

fn main() {
    prove_no_allocation();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
