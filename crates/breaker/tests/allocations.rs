//! A closed circuit allocates nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    future::{Future, poll_fn, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use gusset_breaker::{BoxError, BreakerLayer, Circuit, Policy, Ratio, Window};
use tower::{Layer, Service, service_fn};

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

#[test]
fn a_call_through_a_closed_circuit_allocates_nothing() {
    let half = Policy::failure_ratio(Ratio::percent(50));
    for policy in [
        Policy::default(),
        half,
        half.window(Window::calls(100)),
        half.or_slow_ratio(Ratio::percent(80), Duration::from_secs(2)),
    ] {
        let circuit = Circuit::new("backend", policy);
        let mut service = BreakerLayer::new(circuit.clone())
            .layer(service_fn(|n: u32| ready(Ok::<_, BoxError>(n))));
        let made = allocation_counter::measure(|| {
            for n in 0..1_000 {
                now(poll_fn(|cx| service.poll_ready(cx))).unwrap();
                assert_eq!(now(service.call(n)).unwrap(), n);
                circuit.try_acquire().unwrap().success();
            }
            // Nor does a failure that trips nothing.
            circuit.try_acquire().unwrap().failure();
            drop(circuit.try_acquire().unwrap());
        });
        assert_eq!(made.count_total, 0, "{policy:?}");
    }
}
