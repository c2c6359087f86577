//! The breaker as its operator sees it: orders, reasons, events, fallbacks.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_breaker::{
    BoxError, BreakerLayer, Circuit, Event, Open, Outcome, Policy, Ratio, State, Window,
};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};

async fn fails(_: u32) -> Result<String, BoxError> {
    Err("connection refused".into())
}

fn open() -> Circuit {
    let circuit = Circuit::new("prices", Policy::consecutive(1));
    circuit.force_open();
    circuit
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_opened_the_circuit() {
    let circuit = Circuit::new("prices", Policy::consecutive(2));
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(fails));
    for _ in 0..2 {
        service.clone().oneshot(7).await.unwrap_err();
    }
    let error = service.clone().oneshot(7).await.unwrap_err();
    let open = error.downcast::<Open>().unwrap();
    assert_eq!(open.cause(), Some("2 failures in a row, the last: connection refused"));
    assert_eq!(open.to_string(), "circuit prices is open", "clients need not know");

    advance(Duration::from_secs(30)).await;
    circuit.try_acquire().unwrap().failure_with("no route to host");
    let cause = circuit.try_acquire().unwrap_err();
    assert_eq!(cause.cause(), Some("a probe failed, the last: no route to host"));

    circuit.force_open();
    assert_eq!(circuit.try_acquire().unwrap_err().cause(), Some("forced open"));
}

#[tokio::test(start_paused = true)]
async fn the_cause_counts_what_was_in_the_window() {
    let half = Policy::failure_ratio(Ratio::percent(50));
    let circuit = Circuit::new("prices", half.window(Window::calls(10).min_calls(4)));
    circuit.try_acquire().unwrap().success();
    for _ in 0..3 {
        circuit.try_acquire().unwrap().failure();
    }
    assert_eq!(circuit.try_acquire().unwrap_err().cause(), Some("3 of 4 calls failed"));

    let second = Duration::from_secs(1);
    let slow = Policy::consecutive(9).or_slow_ratio(Ratio::ALL, second);
    let circuit = Circuit::new("prices", slow.window(Window::calls(10).min_calls(2)));
    for _ in 0..2 {
        let permit = circuit.try_acquire().unwrap();
        advance(second).await;
        permit.success();
    }
    assert_eq!(circuit.try_acquire().unwrap_err().cause(), Some("2 of 2 calls were slow"));
}

#[tokio::test(start_paused = true)]
async fn slow_answers_trip_it_and_quick_ones_do_not() {
    let second = Duration::from_secs(1);
    let policy = Policy::consecutive(5).or_slow_ratio(Ratio::percent(60), second);
    for (millis, expected) in [(999, State::Closed), (1_000, State::Open)] {
        let circuit = Circuit::new("prices", policy);
        let sleeps = service_fn(move |_: ()| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok::<_, BoxError>(())
        });
        let service = BreakerLayer::new(circuit.clone()).layer(sleeps);
        let calls = (0..20).map(|_| tokio::spawn(service.clone().oneshot(())));
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
        assert_eq!(circuit.state(), expected, "after {millis} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn forced_closed_lets_all_pass_and_counts_and_disabled_does_not_even_count() {
    let circuit = Circuit::new("prices", Policy::consecutive(1));
    circuit.force_closed();
    for _ in 0..10 {
        circuit.try_acquire().unwrap().failure();
    }
    assert_eq!((circuit.state(), circuit.stats().failures), (State::ForcedClosed, 10));
    circuit.disable();
    for _ in 0..10 {
        circuit.try_acquire().unwrap().failure();
    }
    assert_eq!((circuit.state(), circuit.stats().failures), (State::Disabled, 10));
    circuit.reset();
    circuit.try_acquire().unwrap().failure();
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn while_it_observes_it_refuses_nothing_and_tells_what_it_would_have_done() {
    let circuit = Circuit::new("prices", Policy::consecutive(2).successes_to_close(1));
    circuit.observe(true);
    let service = BreakerLayer::new(circuit.clone()).layer(service_fn(fails));
    for _ in 0..10 {
        let error = service.clone().oneshot(7).await.unwrap_err();
        assert!(!error.is::<Open>());
    }
    assert!(circuit.is_eligible());
    let stats = circuit.stats();
    assert_eq!((circuit.state(), stats.failures, stats.refused), (State::Open, 2, 8));

    advance(Duration::from_secs(30)).await;
    circuit.try_acquire().unwrap().success();
    assert_eq!(circuit.state(), State::Closed, "its probes close it as always");

    circuit.force_open();
    assert!(!circuit.is_eligible());
    assert!(service.oneshot(7).await.unwrap_err().is::<Open>(), "an order outweighs it");
    assert!(circuit.try_acquire().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_listener_hears_all_that_happens_in_its_order() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let listener = move |circuit: &str, event: &Event<'_>| {
        log.lock().unwrap().push(format!("{circuit}: {event:?}"));
    };
    let circuit = Circuit::with_listener("prices", Policy::consecutive(1), listener);
    circuit.try_acquire().unwrap().success();
    let late = circuit.try_acquire().unwrap();
    circuit.try_acquire().unwrap().failure();
    circuit.try_acquire().unwrap_err();
    late.success();
    assert_eq!(
        *heard.lock().unwrap(),
        [
            "prices: Outcome(Success)",
            "prices: Transition { from: Closed, to: Open, cause: Some(\"a failure\") }",
            "prices: Outcome(Failure)",
            "prices: Refused",
            "prices: Late",
        ]
    );
}

/// A listener that asks the circuit would be stuck, if it were told under a lock.
#[tokio::test(start_paused = true)]
async fn a_listener_may_ask_the_circuit() {
    let slot: Arc<Mutex<Option<Circuit>>> = Arc::default();
    let states = Arc::new(Mutex::new(Vec::new()));
    let (ask, log) = (slot.clone(), states.clone());
    let listener = move |_: &str, event: &Event<'_>| {
        let circuit = ask.lock().unwrap().clone();
        if let (Event::Transition { .. }, Some(circuit)) = (event, circuit) {
            let state = *circuit.subscribe().borrow();
            let refusal = circuit.try_acquire().map(drop);
            log.lock().unwrap().push((state, circuit.stats().failures, refusal.is_err()));
        }
    };
    let circuit = Circuit::with_listener("prices", Policy::consecutive(1), listener);
    *slot.lock().unwrap() = Some(circuit.clone());
    circuit.try_acquire().unwrap().failure();
    assert_eq!(*states.lock().unwrap(), [(State::Open, 1, true)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_window_can_be_seen() {
    let circuit = Circuit::new("prices", Policy::failure_ratio(Ratio::percent(50)));
    circuit.try_acquire().unwrap().success();
    circuit.try_acquire().unwrap().failure();
    circuit.try_acquire().unwrap().ignore();
    let recent = circuit.recent();
    assert_eq!((recent.calls, recent.failures, recent.slow), (2, 1, 0));
    advance(Duration::from_secs(11)).await;
    assert_eq!(circuit.recent().calls, 0);
    let stats = circuit.stats();
    assert_eq!((stats.successes, stats.failures, stats.ignored), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_fallback_answers_refusals_and_leaves_errors_alone() {
    let circuit = Circuit::new("prices", Policy::consecutive(1));
    let service = BreakerLayer::new(circuit.clone())
        .fallback(|item: u32, open: Open| async move {
            Ok::<_, BoxError>(format!("price of {item} unknown: {open}"))
        })
        .layer(service_fn(fails));
    let error = service.clone().oneshot(7).await.unwrap_err();
    assert_eq!(error.to_string(), "connection refused");
    let answer = service.clone().oneshot(7).await.unwrap();
    assert_eq!(answer, "price of 7 unknown: circuit prices is open");
    assert_eq!(circuit.stats().refused, 1);

    let failing = BreakerLayer::new(circuit)
        .fallback(|_: u32, _: Open| async { Err::<String, _>("nothing cached") })
        .layer(service_fn(fails));
    assert_eq!(failing.oneshot(7).await.unwrap_err().to_string(), "nothing cached");
}

#[tokio::test(start_paused = true)]
async fn a_value_or_another_service_can_be_the_fallback() {
    let value = BreakerLayer::new(open())
        .fallback_value("out of stock".to_owned())
        .layer(service_fn(fails));
    assert_eq!(value.oneshot(7).await.unwrap(), "out of stock");

    let replica = tower::limit::ConcurrencyLimit::new(
        service_fn(
            |item: u32| async move { Ok::<_, BoxError>(format!("{item} from the replica")) },
        ),
        1,
    );
    let service = BreakerLayer::new(open()).fallback_service(replica).layer(service_fn(fails));
    assert_eq!(service.clone().oneshot(7).await.unwrap(), "7 from the replica");
    assert_eq!(service.oneshot(8).await.unwrap(), "8 from the replica");
}

#[tokio::test(start_paused = true)]
async fn a_fallback_in_half_open_is_for_those_without_a_place() {
    let circuit = Circuit::new("prices", Policy::consecutive(1).max_probes(1));
    circuit.try_acquire().unwrap().failure();
    advance(Duration::from_secs(30)).await;
    let hangs = service_fn(|_: u32| std::future::pending::<Result<&str, BoxError>>());
    let mut service = BreakerLayer::new(circuit).fallback_value("cached").layer(hangs);
    let mut probe = tokio_test::task::spawn(service.ready().await.unwrap().call(7));
    tokio_test::assert_pending!(probe.poll());
    assert_eq!(service.oneshot(7).await.unwrap(), "cached");
}

#[tokio::test(start_paused = true)]
async fn an_ignored_call_is_in_no_window() {
    let circuit = Circuit::new("prices", Policy::failure_ratio(Ratio::percent(50)));
    let layer = BreakerLayer::new(circuit.clone())
        .classify(|_: &Result<String, BoxError>| Outcome::Ignored);
    for _ in 0..100 {
        layer.layer(service_fn(fails)).oneshot(7).await.unwrap_err();
    }
    assert_eq!((circuit.state(), circuit.recent().calls), (State::Closed, 0));
}

/// The text of an error is user code.
#[tokio::test(start_paused = true)]
async fn an_error_whose_text_panics_does_not_hide_the_transition() {
    struct Bad;
    impl std::fmt::Display for Bad {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("bug")
        }
    }
    let circuit = Circuit::new("prices", Policy::consecutive(1));
    let states = circuit.subscribe();
    let permit = circuit.try_acquire().unwrap();
    let fails = std::panic::AssertUnwindSafe(|| permit.failure_with(Bad));
    assert!(std::panic::catch_unwind(fails).is_err());
    assert_eq!((circuit.state(), circuit.stats().failures), (State::Open, 1));
    assert_eq!(*states.borrow(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn the_cause_is_that_of_the_last_opening() {
    struct Forces(Circuit);
    impl std::fmt::Display for Forces {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.force_open();
            f.write_str("meanwhile an operator came")
        }
    }
    let circuit = Circuit::new("prices", Policy::consecutive(1));
    circuit.try_acquire().unwrap().failure_with(Forces(circuit.clone()));
    assert_eq!(circuit.try_acquire().unwrap_err().cause(), Some("forced open"));
}

#[test]
fn no_success_is_told_that_was_none() {
    let circuit = Circuit::new("prices", Policy::consecutive(u32::MAX));
    std::thread::scope(|scope| {
        let failing = scope.spawn(|| {
            for _ in 0..200_000 {
                circuit.try_acquire().unwrap().failure();
            }
        });
        while !failing.is_finished() {
            assert_eq!(circuit.stats().successes, 0);
        }
    });
    assert_eq!(circuit.stats().failures, 200_000);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_from_inside_says_nothing_about_the_service() {
    use gusset_call::{DeadlineExceeded, Limited, NoInstance, Overloaded};
    let errors: [fn() -> BoxError; 5] = [
        || Limited::new(Duration::from_secs(1)).into(),
        || Overloaded::new("queue").into(),
        || Open::new("other").into(),
        || NoInstance::new("prices").into(),
        || DeadlineExceeded.into(),
    ];
    let outcomes = errors.map(|error| {
        let circuit = Circuit::new("prices", Policy::default());
        let refuses = service_fn(move |_: u32| std::future::ready(Err::<String, _>(error())));
        let service = BreakerLayer::new(circuit.clone()).layer(refuses);
        tokio_test::task::spawn(service.oneshot(7))
            .poll()
            .is_ready()
            .then(|| circuit.stats().failures)
    });
    assert_eq!(outcomes, [Some(0), Some(0), Some(0), Some(1), Some(1)]);
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn the_cause_names_the_status() {
    let circuit = Circuit::new("prices", Policy::consecutive(1));
    let bad_gateway = service_fn(|_: u32| async {
        Ok::<_, BoxError>(http::Response::builder().status(502).body(()).unwrap())
    });
    let layer = BreakerLayer::new(circuit.clone()).classify(gusset_breaker::HttpStatus);
    layer.layer(bad_gateway).oneshot(7).await.unwrap();
    assert_eq!(circuit.try_acquire().unwrap_err().cause(), Some("a failure, the last: status 502"));
}

#[tokio::test(start_paused = true)]
async fn a_call_by_hand_tells_the_circuit_by_itself() {
    let circuit = Circuit::new("prices", Policy::consecutive(2));
    assert_eq!(circuit.call(|| Ok::<_, &str>(7)).unwrap(), Ok(7));
    assert_eq!(circuit.call(|| Err::<u8, _>("no route")).unwrap(), Err("no route"));
    assert_eq!(circuit.run(async { Err::<u8, _>("no route") }).await.unwrap(), Err("no route"));
    let open = circuit.run(async { Ok::<_, &str>(7) }).await.unwrap_err();
    assert_eq!(open.cause(), Some("2 failures in a row, the last: no route"));
    assert!(circuit.call(|| -> Result<u8, &str> { unreachable!() }).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_peek_tells_of_the_next_probe_and_counts_nothing() {
    let circuit = Circuit::new("bank", Policy::consecutive(1).open_for(Duration::from_secs(30)));
    assert!(circuit.peek().is_none());
    circuit.try_acquire().unwrap().failure_with("closed on Sundays");
    advance(Duration::from_secs(10)).await;
    let open = circuit.peek().unwrap();
    assert_eq!(open.retry_after(), Some(Duration::from_secs(20)));
    assert!(open.cause().unwrap().ends_with("closed on Sundays"));
    advance(Duration::from_secs(20)).await;
    assert!(circuit.peek().is_none(), "a probe may pass");
    circuit.force_open();
    assert_eq!(circuit.peek().unwrap().retry_after(), None);
    assert_eq!(circuit.stats().refused, 0);
}
