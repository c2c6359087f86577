//! What do the layers of the sidecar add to an HTTP call that succeeds at once?
//!
//! Each call clones a request without a body, drives `poll_ready`, `call` and the future, and reads the body of the answer (64 bytes)
//! to its end, for that is where a call ends. One thread, within a runtime that is not asked for anything but its clock. No
//! `tracing` subscriber is installed except where said.
//!
//! - `trace_metrics`: gusset records each call (the last 10,000) and counts it by method and status. `passed` is a server whose caller sent a
//!   `traceparent` that is not sampled, `root` one whose caller sent none; `sent` a client that sends a new span's identifier on, `sampled` the same within
//!   a sampled trace. `two_layers` has a layer each for traces and metrics in place of one for both. `tower-http` is its `TraceLayer` with
//!   nobody listening: it records and counts nothing.
//! - `trace_one_percent` (feature `otel`): a server that begins traces, of which 1 % are sampled; gusset records and counts every call. The others have the OpenTelemetry
//!   SDK behind: sampled spans go to a processor that drops them, and metrics are read by nobody. `tower-http` is its `TraceLayer` with tracing-opentelemetry, without
//!   metrics; `tower-otel` its trace and metrics layers, the same way; `instrumentation` opentelemetry-instrumentation-tower, which does both without `tracing`.
//! - `retry_first_succeeds`: the policy is asked once, the budget gets its deposit. `tower` is its `Retry` with a `TpsBudget`
//!   of the same numbers (20 %, 10 per second, over 10 s); `tower-resilience` has a token bucket of 100. `retry_6_headers` is the same with six
//!   headers, `retry_static_uri` without, by a URI whose copies count no references.
//! - `hedge_quick`: calls that are answered long before they would be hedged. `tower` is its `Hedge` for all calls.
//! - `deadline_ready`: 30 s, on the side of the server. gusset reads the caller's timeout from the headers, too, and arms a timer only if the answer is not there
//!   at once; `context` is the same without the request's extensions; `tower-http` and `tower` make a timer for each call.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use common::{drive, now};
use criterion::{Criterion, criterion_group, criterion_main};
use gusset_sidecar::{
    DeadlineLayer, HedgeLayer, HedgePolicy, Metrics, MetricsLayer, Recorder, RetryLayer,
    RetryPolicy, TraceLayer,
};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full};
use tower::{
    Layer, Service, ServiceBuilder, hedge,
    retry::{
        self,
        budget::{Budget, TpsBudget},
    },
};
use tower_resilience_retry::RetryBudgetBuilder;

/// The handler.
#[derive(Clone, Debug)]
struct Hello;

impl<B> Service<Request<B>> for Hello {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Full::from(&[b'x'; 64][..]))))
    }
}

/// A function of each whole call of `service`.
fn calls<S, B>(service: S) -> impl FnMut()
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: http_body::Body<Data = Bytes>,
{
    let request = Request::get("http://orders.example/orders/7").body(Empty::new());
    calls_with(service, request.expect("it is a valid request"))
}

/// The same within a trace.
fn calls_within<S, B>(service: S, traceparent: &str) -> impl FnMut()
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: http_body::Body<Data = Bytes>,
{
    let request = Request::get("http://orders.example/orders/7").header("traceparent", traceparent);
    calls_with(service, request.body(Empty::new()).expect("it is a valid request"))
}

fn calls_with<S, B>(mut service: S, request: Request<Empty<Bytes>>) -> impl FnMut()
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: http_body::Body<Data = Bytes>,
{
    move || {
        let response = drive(&mut service, request.clone()).ok().expect("it succeeds");
        let body = now(response.into_body().collect()).ok().expect("it has no errors");
        assert_eq!(black_box(body.to_bytes()).len(), 64);
    }
}

fn trace_metrics(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sidecar");
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let recorder = Recorder::new("bench");
    let server = TraceLayer::server(recorder.clone()).metrics(Metrics::new()).layer(Hello);
    let client = TraceLayer::client(recorder.clone()).metrics(Metrics::new()).layer(Hello);
    let two_layers = ServiceBuilder::new()
        .layer(TraceLayer::server(recorder))
        .layer(MetricsLayer::server(Metrics::new()))
        .service(Hello);
    group.bench_function("trace_metrics_passed/gusset", |b| {
        b.iter(calls_within(server.clone(), UNSAMPLED));
    });
    group.bench_function("trace_metrics_two_layers/gusset", |b| {
        b.iter(calls_within(two_layers.clone(), UNSAMPLED));
    });
    for (case, traceparent) in [("sent", UNSAMPLED), ("sampled", SAMPLED)] {
        let name = format!("trace_metrics_{case}/gusset");
        group.bench_function(name, |b| b.iter(calls_within(client.clone(), traceparent)));
    }
    group.bench_function("trace_metrics_passed/bare", |b| b.iter(calls_within(Hello, UNSAMPLED)));
    group.bench_function("trace_metrics_root/gusset", |b| b.iter(calls(server.clone())));
    group.bench_function("trace_metrics_root/bare", |b| b.iter(calls(Hello)));
    let service = tower_http::trace::TraceLayer::new_for_http().layer(Hello);
    group.bench_function("trace_metrics_root/tower-http", |b| b.iter(calls(service.clone())));
    group.finish();
}

/// Tries server errors again as long as the budget pays for it.
#[derive(Clone)]
struct Paid(Arc<TpsBudget>);

impl<B: Clone, R, E> retry::Policy<Request<B>, Response<R>, E> for Paid {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        result: &mut Result<Response<R>, E>,
    ) -> Option<Ready<()>> {
        if matches!(result, Ok(response) if !response.status().is_server_error()) {
            self.0.deposit();
            return None;
        }
        self.0.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

fn retry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sidecar");
    let ours = RetryLayer::new(RetryPolicy::default()).layer(Hello);
    let budget = Arc::new(TpsBudget::new(Duration::from_secs(10), 10, 0.2));
    let tower = retry::RetryLayer::new(Paid(budget)).layer(Hello);
    let resilience = resilience().layer(Hello);

    let plain = || Request::get("http://orders.example/orders/7");
    let headers = ["accept", "accept-encoding", "cookie", "host", "user-agent", "x-request-id"];
    let six = headers.iter().fold(plain(), |request, name| request.header(*name, "a value"));
    let fixed = Request::get(Uri::from_static("/orders/7"));
    for (row, request) in
        [("retry_first_succeeds", plain()), ("retry_6_headers", six), ("retry_static_uri", fixed)]
    {
        let request = request.body(Empty::new()).expect("it is a valid request");
        let mut run = |who: &str, call: &mut dyn FnMut()| {
            group.bench_function(format!("{row}/{who}"), |b| b.iter(&mut *call));
        };
        run("gusset", &mut calls_with(ours.clone(), request.clone()));
        run("bare", &mut calls_with(Hello, request.clone()));
        run("tower", &mut calls_with(tower.clone(), request.clone()));
        run("tower-resilience", &mut calls_with(resilience.clone(), request.clone()));
    }
    group.finish();
}

type Resilience =
    tower_resilience_retry::RetryLayer<Request<Empty<Bytes>>, Response<Full<Bytes>>, Infallible>;

fn resilience() -> Resilience {
    let tokens = RetryBudgetBuilder::new().token_bucket().max_tokens(100).initial_tokens(100);
    let tokens = tokens.build().expect("it is a valid budget");
    Resilience::builder().max_attempts(4).budget(tokens).build()
}

/// Every call may be made twice.
#[derive(Clone)]
struct All;

impl<B: Clone> hedge::Policy<Request<B>> for All {
    fn clone_request(&self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }

    fn can_retry(&self, _: &Request<B>) -> bool {
        true
    }
}

fn hedge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sidecar");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("it starts no thread");
    let _within = runtime.enter();
    let service = HedgeLayer::new(HedgePolicy::default()).layer(Hello);
    group.bench_function("hedge_quick/gusset", |b| b.iter(calls(service.clone())));
    group.bench_function("hedge_quick/bare", |b| b.iter(calls(Hello)));
    let service =
        hedge::Hedge::new::<Request<Empty<Bytes>>>(Hello, All, 100, 0.95, Duration::from_secs(15));
    let mut call = calls(service);
    group.bench_function("hedge_quick/tower", |b| b.iter(&mut call));
    group.finish();
}

fn deadline(criterion: &mut Criterion) {
    const LIMIT: Duration = Duration::from_secs(30);
    let mut group = criterion.benchmark_group("sidecar");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("it starts no thread");
    let _within = runtime.enter();
    let service = DeadlineLayer::server(LIMIT).layer(Hello);
    group.bench_function("deadline_ready/gusset", |b| b.iter(calls(service.clone())));
    let service = DeadlineLayer::server(LIMIT).only_in_context().layer(Hello);
    group.bench_function("deadline_ready/context", |b| b.iter(calls(service.clone())));
    let service = tower::timeout::TimeoutLayer::new(LIMIT).layer(Hello);
    group.bench_function("deadline_ready/tower", |b| b.iter(calls(service.clone())));
    group.bench_function("deadline_ready/bare", |b| b.iter(calls(Hello)));
    let status = StatusCode::GATEWAY_TIMEOUT;
    let service = tower_http::timeout::TimeoutLayer::with_status_code(status, LIMIT).layer(Hello);
    group.bench_function("deadline_ready/tower-http", |b| b.iter(calls(service.clone())));
    group.finish();
}

#[cfg(feature = "otel")]
mod otel {
    use std::time::Duration;

    use criterion::Criterion;
    use gusset_sidecar::{Metrics, Ratio, Recorder, TraceLayer};
    use opentelemetry::{Context, global, metrics::MeterProvider, trace::TracerProvider};
    use opentelemetry_instrumentation_tower::http::server::LayerBuilder;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        metrics::{ManualReader, SdkMeterProvider},
        trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
    };
    use tower::{Layer, ServiceBuilder};
    use tower_otel::{metrics, trace};
    use tracing_subscriber::layer::SubscriberExt;

    use super::{Hello, calls};

    /// Takes every span and drops it.
    #[derive(Debug)]
    struct Drops;

    impl SpanProcessor for Drops {
        fn on_start(&self, _: &mut Span, _: &Context) {}

        fn on_end(&self, span: SpanData) {
            std::hint::black_box(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    pub(crate) fn one_percent(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("sidecar");
        let mut run = |who: &str, call: &mut dyn FnMut()| {
            group.bench_function(format!("trace_one_percent/{who}"), |b| b.iter(&mut *call));
        };
        let ours = TraceLayer::server(Recorder::new("bench")).metrics(Metrics::new());
        run("gusset", &mut calls(ours.sample(Ratio::percent(1)).layer(Hello)));
        run("bare", &mut calls(Hello));

        let share = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.01)));
        let tracers = SdkTracerProvider::builder().with_sampler(share).with_span_processor(Drops);
        let tracers = tracers.build();
        let reader = ManualReader::builder().build();
        let meters = SdkMeterProvider::builder().with_reader(reader).build();
        let layer = tracing_opentelemetry::layer().with_tracer(tracers.tracer("bench"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let layer = tower_http::trace::TraceLayer::new_for_http();
            run("tower-http", &mut calls(layer.layer(Hello)));
            let both = ServiceBuilder::new()
                .layer(metrics::HttpLayer::server(&meters.meter("bench")))
                .layer(trace::HttpLayer::server(tracing::Level::INFO));
            run("tower-otel", &mut calls(both.service(Hello)));
        });
        // It knows the global ones only.
        global::set_tracer_provider(tracers);
        global::set_meter_provider(meters);
        let layer = LayerBuilder::builder().build().expect("it has all that it needs");
        run("instrumentation", &mut calls(layer.layer(Hello)));
        group.finish();
    }
}

#[cfg(not(feature = "otel"))]
mod otel {
    pub(crate) fn one_percent(_: &mut criterion::Criterion) {}
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = trace_metrics, otel::one_percent, retry, hedge, deadline
}
criterion_main!(benches);
