//! What a traced and counted call takes from the heap.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use gusset_sidecar::{Histogram, Metrics, MetricsLayer, Recorder, Route, TraceLayer};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service, service_fn};

const CALLS: u64 = 1_000;

async fn hello(_: Request<Empty<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hello")))
}

/// Of each call beyond those of the bare handler.
fn allocations(layer: &TraceLayer, traceparent: &'static str) -> u64 {
    let counted = of_service(layer.layer(service_fn(hello)), traceparent);
    counted.saturating_sub(of_service(service_fn(hello), traceparent)) / CALLS
}

fn of_service<S, B>(mut service: S, traceparent: &'static str) -> u64
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: http_body::Body<Data = Bytes>,
{
    let mut call = || {
        let mut request = Request::get("http://orders/7").body(Empty::new()).unwrap();
        request.headers_mut().insert("traceparent", HeaderValue::from_static(traceparent));
        request.extensions_mut().insert(Route::from("/{id}"));
        let response = now(service.call(request)).ok().unwrap();
        assert_eq!(now(response.into_body().collect()).ok().unwrap().to_bytes(), "hello");
    };
    // The first ones make what is used again later.
    (0..100).for_each(|_| call());
    allocation_counter::measure(|| (0..CALLS).for_each(|_| call())).count_total
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

#[test]
fn a_server_takes_nothing_and_a_client_the_header_it_sends() {
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let recorder = Recorder::with_capacity("s", 500);
    let server = TraceLayer::server(recorder.clone()).metrics(Metrics::new());
    let client = TraceLayer::client(recorder.clone()).metrics(Metrics::new()).upstream("orders");
    for traceparent in [UNSAMPLED, SAMPLED] {
        assert_eq!(allocations(&server, traceparent), 0);
        assert_eq!(allocations(&client, traceparent), 1);
    }
    assert_eq!(recorder.stats().overwritten, 3_900, "the ring went round meanwhile");
}

#[test]
fn counting_takes_nothing() {
    const NONE: &str = "";
    let metrics = Metrics::new();
    let measured = MetricsLayer::server(metrics.clone()).layer(service_fn(hello));
    assert_eq!(of_service(measured, NONE), of_service(service_fn(hello), NONE));

    let orders = metrics.counter_by("orders_total", "Orders.", ["channel", "kind"]);
    let sizes = metrics.histogram_by("sizes_bytes", "Sizes.", Histogram::BYTES, ["channel"]);
    let count = || {
        orders.with(["web", "gift"]).increment();
        sizes.with(["web"]).record(700.0);
    };
    count();
    assert_eq!(allocation_counter::measure(|| (0..CALLS).for_each(|_| count())).count_total, 0);
}
