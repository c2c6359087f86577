//! Testing with faults and paused time: an outage of a minute, a circuit that opens and closes, and retries, in no time at all.
//!
//! `cargo run --example paused_time`; in a test it is `#[tokio::test(start_paused = true)]`.

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::time::Duration;

use bytes::Bytes;
use gusset::{
    breaker::{BreakerLayer, Circuit, HttpStatus, Policy, State},
    call::BoxError,
    sidecar::{Fault, FaultLayer, ReplayBody, RetryLayer, RetryPolicy},
    testing::{Act, Scripted},
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt};

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let begun = Instant::now();

    // A dependency that does as it is told; the real client would stand here as well.
    let stock = Scripted::new(|call, _: Request<ReplayBody<Full<Bytes>>>| match call {
        1 => Act::fail("connection reset"),
        _ => Act::answer(Response::new(Full::<Bytes>::default())).after(Duration::from_millis(20)),
    });
    // Made while time stands still, so they follow it.
    let circuit = Circuit::new("stock", Policy::consecutive(8).open_for(Duration::from_secs(30)));
    let faults = FaultLayer::new();
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::default()))
        .layer(BreakerLayer::new(circuit.clone()).classify(HttpStatus))
        .layer(faults.clone())
        .service(stock.clone());
    let ask = async || {
        let request = Request::get("http://stock/lamp").body(Full::<Bytes>::default())?;
        Ok::<_, BoxError>(client.clone().oneshot(request).await?.status())
    };

    println!("the first attempt is reset: {}, {} attempts", ask().await?, stock.calls());

    faults.set([Fault::abort(StatusCode::SERVICE_UNAVAILABLE)]);
    let (mut failed, outage) = (0, Instant::now());
    while outage.elapsed() < Duration::from_secs(60) {
        failed += u32::from(!ask().await.is_ok_and(|status| status.is_success()));
        sleep(Duration::from_millis(500)).await;
    }
    println!("an outage of a minute: {failed} calls failed, {} faults", faults.stats().aborts);
    println!(
        "the circuit is {:?}, and the service was spared: {}",
        circuit.state(),
        stock.calls() == 2
    );

    faults.set([]);
    while circuit.state() != State::Closed {
        let _ = ask().await;
        sleep(Duration::from_millis(500)).await;
    }
    println!("it is over: {}, the circuit is {:?}", ask().await?, circuit.state());
    println!("more than a minute has passed: {}", begun.elapsed() > Duration::from_secs(60));
    Ok(())
}
