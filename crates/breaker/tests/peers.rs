//! What went wrong elsewhere, and what holds here. Each test names who reported it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use gusset_breaker::{BoxError, BreakerLayer, Circuit, Open, Policy, Ratio, State, Window};
use tokio::time::{advance, timeout};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};

const OPEN_FOR: Duration = Duration::from_secs(30);

async fn hangs(_: ()) -> Result<(), BoxError> {
    std::future::pending().await
}

async fn works(_: ()) -> Result<(), BoxError> {
    Ok(())
}

fn by_calls(calls: u32) -> Policy {
    Policy::failure_ratio(Ratio::percent(50))
        .window(Window::calls(calls).min_calls(10))
        .open_for(OPEN_FOR)
        .open_jitter(Ratio::percent(1))
        .open_growth(1, OPEN_FOR)
}

fn tripped(policy: Policy) -> Circuit {
    let circuit = Circuit::new("backend", policy);
    while circuit.state() != State::Open {
        circuit.try_acquire().unwrap().failure();
    }
    circuit
}

async fn half_open(policy: Policy) -> Circuit {
    let circuit = tripped(policy);
    advance(2 * OPEN_FOR).await;
    circuit
}

/// tower-resilience 0.14: a window of 100 calls needed 100 000 failures after as many successes.
#[tokio::test(start_paused = true)]
async fn a_service_that_was_healthy_for_long_trips_as_fast_as_a_new_one() {
    let circuit = Circuit::new("backend", by_calls(100));
    for _ in 0..100_000 {
        circuit.try_acquire().unwrap().success();
    }
    let failures = (1..).find(|_| {
        circuit.try_acquire().unwrap().failure();
        circuit.state() == State::Open
    });
    assert_eq!(failures, Some(50));
}

/// mcp-proxy 220 and 221, with tower-resilience: the minimum was ignored until the window was full.
#[tokio::test(start_paused = true)]
async fn the_minimum_of_calls_counts_before_the_window_is_full() {
    let circuit = Circuit::new("backend", by_calls(100));
    for _ in 0..10 {
        assert_eq!(circuit.state(), State::Closed);
        circuit.try_acquire().unwrap().failure();
    }
    assert_eq!(circuit.state(), State::Open);
}

/// tower-resilience 0.14: a call from before the trip closed the circuit while the probe still hung.
#[tokio::test(start_paused = true)]
async fn a_success_from_before_the_trip_does_not_close_it() {
    let circuit = Circuit::new("backend", Policy::consecutive(1).successes_to_close(1));
    let old = circuit.try_acquire().unwrap();
    circuit.try_acquire().unwrap().failure();
    advance(OPEN_FOR).await;
    let probe = circuit.try_acquire().unwrap();
    old.success();
    assert_eq!((circuit.state(), circuit.stats().late), (State::HalfOpen, 1));
    probe.success();
    assert_eq!(circuit.state(), State::Closed);
}

/// resilience4j 597 and tower-resilience 0.14: successes older than the window were forgotten, and the circuit stuck.
#[tokio::test(start_paused = true)]
async fn probes_close_it_however_far_apart_they_are() {
    let window = Window::time(Duration::from_millis(200));
    let circuit = half_open(by_calls(10).window(window.min_calls(1)).successes_to_close(2)).await;
    for _ in 0..2 {
        circuit.try_acquire().unwrap().success();
        advance(Duration::from_millis(300)).await;
    }
    assert_eq!(circuit.state(), State::Closed);
}

/// resilience4j 903, 935 and 2172, Sentinel 1638, OmniRoute 13836 (six days): a probe that never ended kept it half-open.
#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_for_ever_holds_its_place_for_the_lease_only() {
    let lease = Duration::from_secs(7);
    let circuit =
        half_open(Policy::consecutive(1).max_probes(1).successes_to_close(1).probe_lease(lease))
            .await;
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(hangs));
    let mut hung = task::spawn(service.oneshot(()));
    assert_pending!(hung.poll());
    assert!(circuit.try_acquire().is_err());
    advance(lease).await;
    circuit.try_acquire().unwrap().success();
    assert_eq!(circuit.state(), State::Closed);
}

/// tower-resilience 0.14: each `layer()` of one builder had a state of its own, as an axum route makes one.
#[tokio::test(start_paused = true)]
async fn two_services_of_one_layer_share_the_circuit() {
    let layer = BreakerLayer::new(tripped(Policy::consecutive(1)));
    for _ in 0..2 {
        let error = layer.layer(service_fn(works)).oneshot(()).await.unwrap_err();
        assert!(error.is::<Open>());
    }
}

/// tower-resilience 365 and its outlier detection: while it refused, `poll_ready` woke itself, 800 000 times in 300 ms.
#[tokio::test(start_paused = true)]
async fn a_refusal_neither_waits_nor_wakes_itself() {
    let circuit = tripped(Policy::consecutive(1));
    let mut service = BreakerLayer::new(circuit).layer(service_fn(works));
    let mut ready = task::spawn(std::future::poll_fn(move |cx| -> Poll<Result<(), BoxError>> {
        service.poll_ready(cx)
    }));
    assert_ready_ok!(ready.poll());
    assert!(!ready.is_woken());
}

/// tower-resilience 0.14: readiness was promised to all, and the place given to one. Here nobody is promised a place, and the one
/// who finds none is told so at once.
#[tokio::test(start_paused = true)]
async fn of_two_that_are_ready_the_second_is_refused_at_once() {
    let circuit = half_open(Policy::consecutive(1).max_probes(1)).await;
    let layer = BreakerLayer::new(circuit);
    let (mut one, mut two) = (layer.layer(service_fn(hangs)), layer.layer(service_fn(hangs)));
    one.ready().await.unwrap();
    two.ready().await.unwrap();
    let mut probe = task::spawn(one.call(()));
    assert_pending!(probe.poll());
    let error = assert_ready_err!(task::spawn(two.call(())).poll());
    assert!(error.is::<Open>());
}

/// failsafe 1.3 let 10 000 of 10 000 through, recloser 1.4 64 of 64, tower 855 has no bound; resilience4j 343 and
/// safe-client-gateway 3442 tell of the stampede.
#[tokio::test(start_paused = true)]
async fn half_open_lets_no_more_through_than_it_says() {
    let circuit = half_open(Policy::consecutive(1).max_probes(10)).await;
    let permits: Vec<_> = (0..10_000).filter_map(|_| circuit.try_acquire().ok()).collect();
    assert_eq!(permits.len(), 10);
}

/// All breakers that were looked at: a `Timeout` outside dropped the futures, and 300 of 300 timeouts were not noticed.
#[tokio::test(start_paused = true)]
async fn timeouts_outside_of_the_breaker_are_noticed() {
    let policy = Policy::consecutive(3).slow_after(Duration::from_millis(900));
    let circuit = Circuit::new("backend", policy);
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(hangs));
    let service = tower::ServiceBuilder::new().timeout(Duration::from_secs(1)).service(service);
    let mut refused = 0;
    for _ in 0..300 {
        let error = service.clone().oneshot(()).await.unwrap_err();
        refused += u32::from(error.is::<Open>());
    }
    assert_eq!(refused, 297);
    assert_eq!(circuit.stats().failures, 3);
}

/// cerberus 738: users who closed their browser tripped the circuit of a healthy service.
#[tokio::test(start_paused = true)]
async fn callers_that_leave_early_do_not_trip_it() {
    let circuit = Circuit::new("backend", by_calls(10));
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(hangs));
    for _ in 0..1_000 {
        let call = service.clone().oneshot(());
        timeout(Duration::from_millis(100), call).await.unwrap_err();
    }
    assert_eq!((circuit.state(), circuit.stats().failures), (State::Closed, 0));
}

/// nora 585: a probe that was answered 404 never gave its place back.
#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_service_whose_normal_answers_are_4xx_closes_its_circuit() {
    let circuit = half_open(Policy::consecutive(1)).await;
    let not_found = service_fn(|_: ()| async {
        Ok::<_, BoxError>(http::Response::builder().status(404).body(()).unwrap())
    });
    let service =
        BreakerLayer::new(circuit.clone()).classify(gusset_breaker::HttpStatus).layer(not_found);
    for _ in 0..3 {
        service.clone().oneshot(()).await.unwrap();
    }
    assert_eq!(circuit.state(), State::Closed);
}

/// Polly 1979: a probe that ended in an exception nobody handled stuck it half-open.
#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_opens_it_again() {
    let circuit = half_open(Policy::consecutive(1)).await;
    let panics = service_fn(|_: ()| async { panic!("bug") as Result<(), BoxError> });
    let call = BreakerLayer::new(circuit.clone()).layer(panics).oneshot(());
    tokio::spawn(call).await.unwrap_err();
    assert_eq!(circuit.state(), State::Open);
    advance(OPEN_FOR).await;
    assert!(circuit.try_acquire().is_ok());
}

/// gobreaker 64: a window that is emptied at a fixed time forgets the failures just before.
#[tokio::test(start_paused = true)]
async fn failures_on_both_sides_of_a_second_are_seen_together() {
    let window = Window::time(Duration::from_secs(10)).min_calls(10);
    let circuit = Circuit::new("backend", by_calls(10).window(window));
    advance(Duration::from_millis(9_900)).await;
    for _ in 0..5 {
        circuit.try_acquire().unwrap().failure();
    }
    advance(Duration::from_millis(200)).await;
    for _ in 0..5 {
        circuit.try_acquire().unwrap().failure();
    }
    assert_eq!(circuit.state(), State::Open);
}

/// tower-resilience 286 and 288: the clone that was polled ready was not the one that was called.
#[tokio::test(start_paused = true)]
async fn the_instance_that_is_ready_is_the_one_that_is_called() {
    struct Readied {
        ready: bool,
        calls: Arc<AtomicU32>,
    }
    impl Clone for Readied {
        fn clone(&self) -> Self {
            Self { ready: false, calls: self.calls.clone() }
        }
    }
    impl Service<()> for Readied {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Ready<Result<(), BoxError>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
            self.ready = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            assert!(std::mem::take(&mut self.ready));
            self.calls.fetch_add(1, SeqCst);
            std::future::ready(Ok(()))
        }
    }
    let inner = Readied { ready: false, calls: Arc::default() };
    let calls = inner.calls.clone();
    let service = BreakerLayer::new(Circuit::new("backend", Policy::default())).layer(inner);
    service.clone().oneshot(()).await.unwrap();
    service.oneshot(()).await.unwrap();
    assert_eq!(calls.load(SeqCst), 2);
}
