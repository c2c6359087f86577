//! Faults as callers, metrics and traces see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{io, time::Duration};

use gusset_call::{AnswerBody, BoxError};
use gusset_sidecar::{
    FAULT_HEADER, Fault, FaultLayer, Injected, Ratio, RetryLayer, RetryPolicy, Route, Sidecar,
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use support::{Client, Upstream, request};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

type Body = Full<bytes::Bytes>;

async fn call(
    layer: &FaultLayer,
    upstream: &Upstream,
    request: Request<Body>,
) -> Result<Response<AnswerBody<Body>>, BoxError> {
    layer.layer(Client(upstream.clone())).oneshot(request).await
}

const CHAOS: HeaderName = HeaderName::from_static("x-chaos");

#[tokio::test(start_paused = true)]
async fn without_faults_nothing_goes_wrong_whatever_the_request_says() {
    let (layer, upstream) = (FaultLayer::new(), Upstream::new([]));
    for header in ["x-gusset-fault", "x-envoy-fault-abort-request", "x-chaos"] {
        let mut asks = request("GET", "");
        asks.headers_mut().insert(header, HeaderValue::from_static("503"));
        let answer = call(&layer, &upstream, asks).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key(FAULT_HEADER));
    }
    assert_eq!(layer.stats(), Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_delayed_call_reaches_the_service_later_and_an_aborted_one_never() {
    let (layer, upstream) = (FaultLayer::new(), Upstream::new([]));
    layer.set([Fault::delay(Duration::from_secs(1)), Fault::delay(Duration::from_secs(2))]);
    let answer = call(&layer, &upstream, request("PUT", "payload")).await.unwrap();
    assert_eq!(answer.headers()[FAULT_HEADER], "delay");
    assert_eq!(
        (upstream.times(), upstream.seen()[0].body.as_ref()),
        (vec![3_000], &b"payload"[..])
    );

    layer.set([Fault::delay(Duration::from_secs(1)), Fault::abort(StatusCode::BAD_GATEWAY)]);
    let began = Instant::now();
    let answer = call(&layer, &upstream, request("GET", "")).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()[FAULT_HEADER]),
        (StatusCode::BAD_GATEWAY, &HeaderValue::from_static("abort"))
    );
    assert_eq!((began.elapsed().as_secs(), upstream.seen().len()), (1, 1));

    layer.set([Fault::break_off()]);
    let error = call(&layer, &upstream, request("GET", "")).await.unwrap_err();
    let source = error
        .downcast_ref::<Injected>()
        .and_then(|injected| std::error::Error::source(injected)?.downcast_ref::<io::Error>());
    assert_eq!(source.unwrap().kind(), io::ErrorKind::ConnectionReset);
    let stats = layer.stats();
    assert_eq!((stats.delays, stats.aborts, stats.breaks), (2, 1, 1));

    layer.set([]);
    assert_eq!(call(&layer, &upstream, request("GET", "")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_is_aborted_in_its_own_words() {
    let layer = FaultLayer::new();
    layer.set([Fault::abort(StatusCode::SERVICE_UNAVAILABLE)]);
    let mut grpc = request("POST", "");
    grpc.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let answer = call(&layer, &Upstream::new([]), grpc).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["grpc-status"].as_bytes()),
        (200, &b"14"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_calls_is_that_share() {
    let (layer, upstream) = (FaultLayer::new(), Upstream::new([]));
    layer.set([Fault::abort(StatusCode::BAD_GATEWAY).share(Ratio::percent(20))]);
    for _ in 0..2_000 {
        call(&layer, &upstream, request("GET", "")).await.unwrap();
    }
    assert!((300..500).contains(&layer.stats().aborts), "{:?}", layer.stats());
}

#[tokio::test(start_paused = true)]
async fn a_header_switches_on_only_what_asks_for_it_and_only_with_its_value() {
    let (layer, upstream) = (FaultLayer::new(), Upstream::new([]));
    let fails = Fault::abort(StatusCode::BAD_GATEWAY);
    layer.set([fails.with_header(CHAOS, HeaderValue::from_static("s3cret"))]);
    for (value, status) in [(None, 200), (Some("guess"), 200), (Some("s3cret"), 502)] {
        let mut asks = request("GET", "");
        asks.headers_mut().extend(value.map(|value| (CHAOS, HeaderValue::from_static(value))));
        assert_eq!(call(&layer, &upstream, asks).await.unwrap().status(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_is_that_of_the_extensions_or_what_the_router_left() {
    struct Matched(&'static str);
    let layer = FaultLayer::new().route_of(|ext| Some(ext.get::<MatchedRoute>()?.0.into()));
    #[derive(Clone)]
    struct MatchedRoute(&'static str);
    let upstream = Upstream::new([]);
    layer.set([Fault::abort(StatusCode::BAD_GATEWAY).on_route("/orders/{id}")]);
    let with = |route: Matched, own: bool| {
        let mut request = request("GET", "");
        if own {
            request.extensions_mut().insert(Route::from(route.0));
        } else {
            request.extensions_mut().insert(MatchedRoute(route.0));
        }
        request
    };
    for (path, status) in [("/orders/{id}", 502), ("/orders", 200)] {
        for own in [true, false] {
            let answer = call(&layer, &upstream, with(Matched(path), own)).await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
        }
    }
    assert_eq!(call(&layer, &upstream, request("GET", "")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn metrics_and_traces_show_it() {
    let sidecar = Sidecar::new("orders");
    let layer = FaultLayer::new().seen_by(&sidecar);
    layer.set([Fault::delay(Duration::from_secs(1)), Fault::break_off().share(Ratio::NONE)]);
    let service = sidecar.inbound().layer(layer.layer(Client(Upstream::new([]))));
    drop(service.oneshot(request("GET", "")).await.unwrap());
    let records = sidecar.recorder().recent(10);
    let fault = records.iter().find(|record| *record.operation == *"fault").unwrap();
    let server = records.iter().find(|record| record.status == Some(200)).unwrap();
    assert_eq!(fault.parent_id, Some(server.span_id));
    assert_eq!(fault.duration.as_secs(), 1);
    let text = sidecar.metrics().render_prometheus();
    assert!(text.contains("gusset_faults_injected_total{kind=\"delay\"} 1"), "{text}");
    assert!(text.contains("gusset_faults_injected_total{kind=\"abort\"} 0"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn retries_around_it_try_again() {
    let (faults, upstream) = (FaultLayer::new(), Upstream::new([]));
    faults.set([Fault::break_off().share(Ratio::percent(50))]);
    let retry = RetryLayer::new(RetryPolicy::default().retries(20).without_budget());
    for _ in 0..50 {
        let service = retry.layer(faults.layer(Client(upstream.clone())));
        assert_eq!(service.oneshot(request("GET", "")).await.unwrap().status(), 200);
    }
    assert_eq!((retry.stats().retries, upstream.seen().len()), (faults.stats().breaks, 50));
}
