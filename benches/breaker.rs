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

#[allow(dead_code, unreachable_pub, reason = "a part of the crate, which has more use for it")]
#[path = "../crates/breaker/src/machine/mod.rs"]
mod machine;
#[allow(dead_code, unreachable_pub, reason = "as above")]
#[path = "../crates/breaker/src/outcome.rs"]
mod outcome;
#[allow(dead_code, unreachable_pub, reason = "as above")]
#[path = "../crates/breaker/src/policy.rs"]
mod policy;
#[path = "../crates/breaker/src/sync.rs"]
mod sync;
#[allow(dead_code, unreachable_pub, reason = "as above")]
#[path = "../crates/breaker/src/window.rs"]
mod window;

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    future::poll_fn,
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::{Echo, drive, now};
use criterion::{Criterion, criterion_group};
use failsafe::{backoff, failure_policy};
use gusset_breaker::{self as breaker, Breaker, BreakerLayer, Circuit, Ratio};
use recloser::Recloser;
use tokio::runtime::Runtime;
use tower::{Layer, Service};
use tower_resilience_circuitbreaker::{
    CircuitBreaker, CircuitBreakerLayer, DefaultClassifier, SlidingWindowType,
};

// What the files of the machine name; all else is measured as its users have it.
use crate::{
    machine::{Machine, World},
    outcome::Outcome,
    policy::Policy,
    window::Window,
};

/// Longer than a run, so that an open circuit stays so.
const OPEN_FOR: Duration = Duration::from_secs(3600);
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// The last 100 calls, as tower-resilience and recloser have it by default.
fn by_calls() -> breaker::Policy {
    breaker::Policy::failure_ratio(breaker::Ratio::percent(50))
        .window(breaker::Window::calls(100))
        .open_for(OPEN_FOR)
}

fn by_time() -> breaker::Policy {
    breaker::Policy::failure_ratio(breaker::Ratio::percent(50)).open_for(OPEN_FOR)
}

fn in_a_row() -> breaker::Policy {
    breaker::Policy::consecutive(5).open_for(OPEN_FOR)
}

fn gusset(policy: breaker::Policy) -> Breaker<Echo> {
    BreakerLayer::new(Circuit::new("bench", policy)).layer(Echo)
}

fn gusset_slow() -> Breaker<Echo> {
    gusset(by_calls().or_slow_ratio(breaker::Ratio::percent(80), SLOW_AFTER))
}

fn gusset_open() -> Breaker<Echo> {
    let service = gusset(in_a_row());
    for _ in 0..5 {
        service.circuit().try_acquire().expect("it is closed").failure();
    }
    service
}

type TowerResilience = CircuitBreaker<Echo, DefaultClassifier>;

/// The window it has by default, 100 calls by count, and a name as long as ours.
fn tower_resilience() -> TowerResilience {
    CircuitBreakerLayer::builder()
        .name("bench")
        .sliding_window_size(100)
        .wait_duration_in_open(OPEN_FOR)
        .build()
        .expect("the numbers are in range")
        .layer(Echo)
}

fn tower_resilience_slow() -> TowerResilience {
    CircuitBreakerLayer::builder()
        .name("bench")
        .sliding_window_size(100)
        .slow_call_duration_threshold(SLOW_AFTER)
        .slow_call_rate_threshold(0.8)
        .wait_duration_in_open(OPEN_FOR)
        .build()
        .expect("the numbers are in range")
        .layer(Echo)
}

/// It looks at every call of the window in every call, so the window is short: a longer one would only be slower.
fn tower_resilience_time() -> TowerResilience {
    CircuitBreakerLayer::builder()
        .name("bench")
        .sliding_window_type(SlidingWindowType::TimeBased)
        .sliding_window_duration(Duration::from_millis(1))
        .wait_duration_in_open(OPEN_FOR)
        .build()
        .expect("the numbers are in range")
        .layer(Echo)
}

/// The condition that gusset's `in_a_row` has, too.
fn tower_resilience_in_a_row() -> TowerResilience {
    CircuitBreakerLayer::builder()
        .name("bench")
        .consecutive_failures(5)
        .wait_duration_in_open(OPEN_FOR)
        .build()
        .expect("the numbers are in range")
        .layer(Echo)
}

fn tower_resilience_open() -> TowerResilience {
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

/// By hand, with the verdict on a permit that is dropped, for which the clock is read.
fn gusset_manual(policy: breaker::Policy) -> impl Fn() {
    let circuit = Circuit::new("bench", policy);
    move || match circuit.try_acquire() {
        Ok(permit) => permit.success(),
        Err(open) => unreachable!("{open}"),
    }
}

/// The caller knows the time.
struct Noon;

impl World for Noon {
    fn nanos(&self) -> u64 {
        black_box(43_200_000_000_000)
    }

    fn chance(&self) -> u64 {
        0
    }
}

fn gusset_machine(window: Window) -> impl Fn() {
    let machine = Machine::new(Policy::failure_ratio(Ratio::percent(50)).window(window));
    move || match machine.admit(&Noon) {
        Ok((ticket, _)) => {
            black_box(machine.record(ticket, Outcome::Success, false, &Noon));
        }
        Err(refused) => unreachable!("{refused:?}"),
    }
}

/// A function of each call of `service`, which has to pass.
fn passing<S: Service<u64, Response = u64>>(mut service: S) -> impl FnMut() {
    move || assert!(black_box(drive(&mut service, 7)).is_ok())
}

/// A function of each call of `service`, which has to be refused.
fn refused<S: Service<u64, Response = u64>>(mut service: S) -> impl FnMut() {
    move || assert!(black_box(drive(&mut service, 7)).is_err())
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

type Contender = (&'static str, Box<dyn FnMut()>);

fn layers() -> Vec<Contender> {
    vec![
        ("layer_by_calls/gusset", Box::new(passing(gusset(by_calls())))),
        ("layer_by_calls/bare", Box::new(passing(Echo))),
        ("layer_by_calls/tower-resilience", Box::new(passing(tower_resilience()))),
        ("layer_by_calls_slow/gusset", Box::new(passing(gusset_slow()))),
        ("layer_by_calls_slow/tower-resilience", Box::new(passing(tower_resilience_slow()))),
        ("layer_by_time/gusset", Box::new(passing(gusset(by_time())))),
        ("layer_by_time/tower-resilience", Box::new(passing(tower_resilience_time()))),
        ("layer_in_a_row/gusset", Box::new(passing(gusset(in_a_row())))),
        ("layer_in_a_row/tower-resilience", Box::new(passing(tower_resilience_in_a_row()))),
        ("layer_open/gusset", Box::new(refused(gusset_open()))),
        ("layer_open/tower-resilience", Box::new(refused(tower_resilience_open()))),
    ]
}

fn by_hand() -> Vec<Contender> {
    let hour = Window::time(Duration::from_secs(3600));
    vec![
        ("manual_in_a_row/gusset", Box::new(gusset_manual(in_a_row()))),
        ("manual_in_a_row/failsafe", Box::new(failsafe())),
        ("manual_by_calls/gusset", Box::new(gusset_manual(by_calls()))),
        ("machine_by_calls/gusset", Box::new(gusset_machine(Window::calls(100)))),
        ("machine_by_calls/recloser", Box::new(recloser())),
        ("machine_by_time/gusset", Box::new(gusset_machine(hour))),
    ]
}

fn breaker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("breaker");
    let mut bench = |name: &str, call: &mut dyn FnMut(&mut criterion::Bencher<'_>)| {
        group.bench_function(name, |bencher| call(bencher));
    };

    for (name, mut call) in layers().into_iter().chain(by_hand()) {
        bench(name, &mut |bencher| bencher.iter(&mut call));
    }

    let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    let workers = workers.expect("two threads can be started");
    for (name, policy) in
        [("in_a_row", in_a_row()), ("by_calls", by_calls()), ("by_time", by_time())]
    {
        let service = gusset(policy);
        bench(&format!("layer_{name}_2_threads/gusset"), &mut |bencher| {
            bencher.iter_custom(|calls| two_workers(&workers, &service, calls));
        });
    }
    bench("layer_in_a_row_2_threads/bare", &mut |bencher| {
        bencher.iter_custom(|calls| two_workers(&workers, &Echo, calls));
    });
    let service = tower_resilience_in_a_row();
    bench("layer_in_a_row_2_threads/tower-resilience", &mut |bencher| {
        bencher.iter_custom(|calls| two_workers(&workers, &service, calls));
    });
    let service = tower_resilience();
    bench("layer_by_calls_2_threads/tower-resilience", &mut |bencher| {
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
    for (name, call) in layers().into_iter().chain(by_hand()) {
        let made = allocations(name, call);
        let ours = name.ends_with("/gusset") && !name.starts_with("layer_open");
        assert!(!ours || made == 0.0, "the closed path of gusset allocates");
    }
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
