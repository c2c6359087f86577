//! The breaker as its callers see it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use gusset_breaker::{BreakerLayer, Circuit, Open, Outcome, Policy, State};
use gusset_call::{BoxError, refusal_in};
use tokio::time::{advance, timeout};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_test::mock;

fn circuit(policy: Policy) -> Circuit {
    Circuit::new("backend", policy)
}

async fn fails(_: ()) -> Result<(), BoxError> {
    Err("refused".into())
}

async fn hangs(_: ()) -> Result<(), BoxError> {
    std::future::pending().await
}

async fn trip(circuit: &Circuit) {
    while circuit.state() != State::Open {
        let service = BreakerLayer::new(circuit.clone()).layer(service_fn(fails));
        service.oneshot(()).await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_backend_is_left_alone_until_it_recovers() {
    let circuit = circuit(Policy::default());
    let calls = Arc::new(AtomicU32::new(0));
    let healthy = Arc::new(AtomicU32::new(0));
    let backend = {
        let (calls, healthy) = (calls.clone(), healthy.clone());
        service_fn(move |_: ()| {
            calls.fetch_add(1, SeqCst);
            let answer = if healthy.load(SeqCst) == 1 { Ok(()) } else { Err("down") };
            async move { answer }
        })
    };
    let service = BreakerLayer::new(circuit.clone()).layer(backend);
    let mut states = circuit.subscribe();

    for _ in 0..100 {
        service.clone().oneshot(()).await.unwrap_err();
    }
    assert_eq!(calls.load(SeqCst), 5, "95 calls never reached it");
    assert_eq!(*states.borrow_and_update(), State::Open);

    advance(Duration::from_secs(20)).await;
    let error = service.clone().oneshot(()).await.unwrap_err();
    let retry_after = refusal_in(&*error).unwrap().retry_after().unwrap();
    assert_eq!(retry_after, Duration::from_secs(10));

    healthy.store(1, SeqCst);
    advance(retry_after).await;
    for _ in 0..3 {
        service.clone().oneshot(()).await.unwrap();
    }
    assert_eq!(*states.borrow_and_update(), State::Closed);
    assert_eq!(circuit.stats().refused, 96);
}

#[tokio::test(start_paused = true)]
async fn layers_and_clones_of_one_circuit_trip_together() {
    let layer = BreakerLayer::new(circuit(Policy::consecutive(2)));
    let (one, two) = (layer.layer(service_fn(fails)), layer.clone().layer(service_fn(fails)));
    one.clone().oneshot(()).await.unwrap_err();
    two.clone().oneshot(()).await.unwrap_err();
    for service in [one, two.clone(), two] {
        let error = service.oneshot(()).await.unwrap_err();
        assert!(error.downcast_ref::<Open>().is_some(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_the_breaker_trips_it() {
    let circuit = circuit(Policy::consecutive(3).slow_after(Duration::from_secs(1)));
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(hangs));
    for _ in 0..3 {
        timeout(Duration::from_secs(1), service.clone().oneshot(())).await.unwrap_err();
    }
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn impatient_callers_do_not_trip_it() {
    let circuit = circuit(Policy::consecutive(3).slow_after(Duration::from_secs(1)));
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(hangs));
    for _ in 0..100 {
        timeout(Duration::from_millis(900), service.clone().oneshot(())).await.unwrap_err();
    }
    assert_eq!(circuit.state(), State::Closed);
    assert_eq!(circuit.stats().ignored, 100);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_probe_gives_its_place_back() {
    let circuit = circuit(Policy::consecutive(1).max_probes(1));
    trip(&circuit).await;
    advance(Duration::from_secs(30)).await;
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(hangs));

    let mut probe = task::spawn(service.clone().oneshot(()));
    assert_pending!(probe.poll());
    assert_eq!(circuit.state(), State::HalfOpen);
    assert!(circuit.try_acquire().is_err(), "the only place is taken");
    drop(probe);
    circuit.try_acquire().unwrap().success();
}

#[tokio::test]
async fn a_panic_is_a_failure_even_where_it_is_caught() {
    let circuit = circuit(Policy::consecutive(2));
    let panics = service_fn(|_: ()| async { panic!("bug") as Result<(), BoxError> });
    let service = BreakerLayer::new(circuit.clone()).layer(panics);

    tokio::spawn(service.clone().oneshot(())).await.unwrap_err();
    assert_eq!(circuit.stats().failures, 1);

    let mut call = Box::pin(service.oneshot(()));
    let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _ = task::spawn(call.as_mut()).poll();
    }));
    assert!(caught.is_err());
    drop(call);
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test]
async fn the_panic_of_a_caller_is_no_failure_of_the_service() {
    let circuit = circuit(Policy::consecutive(1));
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(hangs));
    let caller = tokio::spawn(async move {
        let mut call = Box::pin(service.oneshot(()));
        std::future::poll_fn(|cx| {
            assert!(call.as_mut().poll(cx).is_pending());
            panic!("a bug of the caller") as Poll<()>
        })
        .await
    });
    caller.await.unwrap_err();
    assert_eq!((circuit.state(), circuit.stats().ignored), (State::Closed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_gives_its_place_back_and_opens_it() {
    let circuit = circuit(Policy::consecutive(1));
    trip(&circuit).await;
    advance(Duration::from_secs(30)).await;
    let panics = service_fn(|_: ()| async { panic!("bug") as Result<(), BoxError> });
    let service = BreakerLayer::new(circuit.clone()).layer(panics);
    tokio::spawn(service.oneshot(())).await.unwrap_err();
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn while_open_the_inner_service_is_not_even_asked_for_readiness() {
    let circuit = circuit(Policy::default());
    circuit.force_open();
    let (mut service, mut handle) =
        mock::spawn_with(|inner| BreakerLayer::new(circuit.clone()).layer(inner));
    handle.allow(0);
    assert_ready_ok!(service.poll_ready());
    let error = service.call(()).await.map(|(): ()| ()).unwrap_err();
    assert_eq!(error.to_string(), "circuit backend is open");
    assert_eq!(circuit.stats().refused, 1, "readiness alone is no refused call");
    assert_pending!(task::spawn(handle.next_request()).poll());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_is_a_failure() {
    let circuit = circuit(Policy::consecutive(1));
    let (mut service, mut handle) = mock::spawn_with(|inner: mock::Mock<(), ()>| {
        BreakerLayer::new(circuit.clone()).layer(inner)
    });
    handle.send_error("connection lost");
    assert!(matches!(service.poll_ready(), Poll::Ready(Err(_))));
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test]
async fn the_classifier_decides_what_is_a_failure() {
    let circuit = circuit(Policy::consecutive(1));
    let layer =
        BreakerLayer::new(circuit.clone()).classify(
            |result: &Result<u32, BoxError>| match result {
                Ok(0..100) => Outcome::Success,
                Ok(_) => Outcome::Failure,
                Err(_) => Outcome::Ignored,
            },
        );
    let echo = layer.layer(service_fn(|n: u32| async move { Ok::<_, BoxError>(n) }));
    echo.clone().oneshot(7).await.unwrap();
    assert_eq!(circuit.state(), State::Closed);
    assert_eq!(echo.oneshot(500).await.unwrap(), 500, "the answer itself passes untouched");
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn many_tasks_in_half_open_see_at_most_the_allowed_probes() {
    let circuit = circuit(Policy::consecutive(1).max_probes(3));
    trip(&circuit).await;
    advance(Duration::from_secs(30)).await;

    let (service, mut handle) = mock::pair::<(), ()>();
    let service = BreakerLayer::new(circuit.clone()).layer(service);
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(service.clone().oneshot(()))).collect();
    for _ in 0..3 {
        let (_, answer) = handle.next_request().await.unwrap();
        answer.send_response(());
    }
    let mut passed = 0;
    for call in calls {
        passed += u32::from(call.await.unwrap().is_ok());
    }
    assert_eq!(passed, 3);
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn by_hand_it_is_the_same_circuit() {
    let circuit = circuit(Policy::consecutive(2));
    circuit.try_acquire().unwrap().failure();
    circuit.try_acquire().unwrap().ignore();
    circuit.try_acquire().unwrap().failure();
    let open = circuit.try_acquire().unwrap_err();
    assert_eq!(open.circuit(), "backend");
    assert_eq!(open.retry_after(), Some(Duration::from_secs(30)));
    circuit.reset();
    drop(circuit.try_acquire().unwrap());
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_while_probes_hang_is_refused_and_does_not_wait_behind_them() {
    let circuit = circuit(Policy::consecutive(1).max_probes(1));
    trip(&circuit).await;
    advance(Duration::from_secs(30)).await;
    let inner = tower::limit::ConcurrencyLimit::new(service_fn(hangs), 1);
    let service = BreakerLayer::new(circuit.clone()).layer(inner);
    let mut probe = task::spawn(service.clone().oneshot(()));
    assert_pending!(probe.poll());
    let error = timeout(Duration::from_secs(1), service.oneshot(())).await.unwrap().unwrap_err();
    assert!(error.is::<Open>());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_counts_while_ramping_and_is_no_refused_call() {
    let second = Duration::from_secs(1);
    let circuit = circuit(Policy::consecutive(1).successes_to_close(1).ramp(3_600 * second));
    trip(&circuit).await;
    advance(30 * second).await;
    circuit.try_acquire().unwrap().success();
    let refused = circuit.stats().refused;
    let (mut service, mut handle) = mock::spawn_with(|inner: mock::Mock<(), ()>| {
        BreakerLayer::new(circuit.clone()).layer(inner)
    });
    handle.send_error("connection lost");
    assert!(matches!(service.poll_ready(), Poll::Ready(Err(_))));
    assert_eq!((circuit.state(), circuit.stats().refused), (State::Open, refused));
}

/// With the default policy, and the timeout that many clients have.
#[tokio::test(start_paused = true)]
async fn a_timeout_of_five_seconds_trips_the_default_policy() {
    let circuit = circuit(Policy::default());
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(hangs));
    for _ in 0..5 {
        timeout(Duration::from_secs(5), service.clone().oneshot(())).await.unwrap_err();
    }
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test]
async fn a_panic_after_a_pause_is_a_failure() {
    let circuit = circuit(Policy::consecutive(1));
    let panics = service_fn(|_: ()| async {
        tokio::task::yield_now().await;
        panic!("bug") as Result<(), BoxError>
    });
    let service = BreakerLayer::new(circuit.clone()).layer(panics);
    tokio::spawn(service.oneshot(())).await.unwrap_err();
    assert_eq!(circuit.state(), State::Open);
}

#[test]
fn a_panic_with_a_permit_in_hand_is_a_failure() {
    let circuit = circuit(Policy::consecutive(1));
    let call = AssertUnwindSafe(|| {
        let _permit = circuit.try_acquire().unwrap();
        panic!("bug");
    });
    assert!(std::panic::catch_unwind(call).is_err());
    assert_eq!(circuit.state(), State::Open);
}

/// The call's own drop may take its time, or ask for a place.
#[tokio::test(start_paused = true)]
async fn the_place_is_back_before_the_call_is_dropped() {
    struct Asks(Circuit, Arc<AtomicU32>);
    impl Drop for Asks {
        fn drop(&mut self) {
            self.1.fetch_add(u32::from(self.0.try_acquire().is_ok()), SeqCst);
        }
    }
    let circuit = circuit(Policy::consecutive(1).max_probes(1));
    trip(&circuit).await;
    advance(Duration::from_secs(30)).await;
    let found = Arc::new(AtomicU32::new(0));
    let (asks, count) = (circuit.clone(), found.clone());
    let hangs = service_fn(move |_: ()| {
        let asks = Asks(asks.clone(), count.clone());
        async move {
            let _asks = asks;
            std::future::pending::<Result<(), BoxError>>().await
        }
    });
    let mut probe = task::spawn(BreakerLayer::new(circuit).layer(hangs).oneshot(()));
    assert_pending!(probe.poll());
    drop(probe);
    assert_eq!(found.load(SeqCst), 1);
}
