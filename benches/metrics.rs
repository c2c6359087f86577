//! What does it cost to count something?
//!
//! One thread, unless a row says otherwise; a row with two threads tells the time of one operation on each of them. No recorder, exporter or reader is asked meanwhile.
//!
//! - `add_and_record`: a counter and a histogram of three labels with 14 bounds, found by the values of their labels. `metrics` is its macros, with the recorder of
//!   metrics-exporter-prometheus.
//! - `add_and_record_held`: the same with both found before. `opentelemetry` (feature `otel`) is its bound instruments, with a reader that nobody asks.
//! - `call`: a call through the layer that measures, an answer of 64 bytes read to its end; its series is found by route, method and status, the clock is read twice, and the calls under
//!   way are counted. `bare` is without the layer; on two threads each call clones the service, as axum does.
//! - `call_traced`: the same through the layer that traces, which counts as well (`gusset`) or not (`traced`): the difference is what counting costs there.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{drive, now};
use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use gusset_sidecar::{Histogram, Metrics, MetricsLayer, Recorder, Route, TraceLayer};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service};

const LABELS: [&str; 3] = ["route", "method", "status"];
const VALUES: [&str; 3] = ["/orders/{id}", "GET", "200"];
const SECONDS: f64 = 0.042;

/// Time of one `work` on each of two threads that do it at the same time.
fn on_two_threads(bencher: &mut Bencher<'_>, work: impl Fn() + Sync) {
    bencher.iter_custom(|times| {
        let timed = || {
            let start = Instant::now();
            (0..times).for_each(|_| work());
            start.elapsed()
        };
        thread::scope(|scope| {
            let other = scope.spawn(timed);
            let mine = timed();
            other.join().map_or(mine, |theirs| theirs.max(mine))
        })
    });
}

fn gusset(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    let metrics = Metrics::new();
    let calls = metrics.counter_by("calls_total", "Calls.", LABELS);
    let times = metrics.histogram_by("calls_seconds", "Times.", Histogram::SECONDS, LABELS);
    let found = || {
        calls.with(black_box(VALUES)).increment();
        times.with(black_box(VALUES)).record(black_box(SECONDS));
    };
    group.bench_function("add_and_record/gusset", |b| b.iter(found));
    group.bench_function("add_and_record_2_threads/gusset", |b| on_two_threads(b, found));
    let (calls, times) = (calls.with(VALUES).clone(), times.with(VALUES).clone());
    let held = || {
        calls.increment();
        times.record(black_box(SECONDS));
    };
    group.bench_function("add_and_record_held/gusset", |b| b.iter(held));
    group.bench_function("add_and_record_held_2_threads/gusset", |b| on_two_threads(b, held));
    group.finish();
}

fn prometheus_client(criterion: &mut Criterion) {
    use prometheus_client::metrics::{
        counter::Counter, family::Family, histogram::Histogram as Theirs,
    };
    type Labels = [(&'static str, &'static str); 3];
    let mut group = criterion.benchmark_group("metrics");
    let labels: Labels = std::array::from_fn(|at| (LABELS[at], VALUES[at]));
    let calls = Family::<Labels, Counter>::default();
    let times = Family::<Labels, Theirs>::new_with_constructor(|| {
        Theirs::new(Histogram::SECONDS.iter().copied())
    });
    let found = || {
        calls.get_or_create(black_box(&labels)).inc();
        times.get_or_create(black_box(&labels)).observe(black_box(SECONDS));
    };
    group.bench_function("add_and_record/prometheus-client", |b| b.iter(found));
    group
        .bench_function("add_and_record_2_threads/prometheus-client", |b| on_two_threads(b, found));
    let held = (calls.get_or_create(&labels).clone(), times.get_or_create(&labels).clone());
    let held = || {
        held.0.inc();
        held.1.observe(black_box(SECONDS));
    };
    group.bench_function("add_and_record_held/prometheus-client", |b| b.iter(held));
    group.bench_function("add_and_record_held_2_threads/prometheus-client", |b| {
        on_two_threads(b, held);
    });
    group.finish();
}

fn metrics_macros(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    let builder = metrics_exporter_prometheus::PrometheusBuilder::new();
    let builder = builder.set_buckets(Histogram::SECONDS).expect("there are some");
    let recorder = builder.build_recorder();
    metrics::with_local_recorder(&recorder, || {
        group.bench_function("add_and_record/metrics", |b| {
            b.iter(|| {
                let [route, method, status] = black_box(VALUES);
                metrics::counter!("calls_total", "route" => route, "method" => method, "status" => status)
                    .increment(1);
                metrics::histogram!("calls_seconds", "route" => route, "method" => method, "status" => status)
                    .record(black_box(SECONDS));
            });
        });
        let calls = metrics::counter!("held_total", "route" => VALUES[0], "method" => VALUES[1], "status" => VALUES[2]);
        group.bench_function("add_held/metrics", |b| b.iter(|| calls.increment(black_box(1))));
    });
    group.finish();
    let _ = recorder.handle().render();
}

#[cfg(feature = "otel")]
fn opentelemetry(criterion: &mut Criterion) {
    use opentelemetry::{KeyValue, metrics::MeterProvider};
    use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};
    let mut group = criterion.benchmark_group("metrics");
    let provider = SdkMeterProvider::builder().with_reader(ManualReader::builder().build()).build();
    let meter = provider.meter("bench");
    let labels: [KeyValue; 3] = std::array::from_fn(|at| KeyValue::new(LABELS[at], VALUES[at]));
    let calls = meter.u64_counter("calls").build();
    let bounds = Histogram::SECONDS.to_vec();
    let times = meter.f64_histogram("times").with_boundaries(bounds).build();
    let found = || {
        calls.add(1, black_box(&labels));
        times.record(black_box(SECONDS), black_box(&labels));
    };
    group.bench_function("add_and_record/opentelemetry", |b| b.iter(found));
    group.bench_function("add_and_record_2_threads/opentelemetry", |b| on_two_threads(b, found));
    let (calls, times) = (calls.bind(&labels), times.bind(&labels));
    let held = || {
        calls.add(1);
        times.record(black_box(SECONDS));
    };
    group.bench_function("add_and_record_held/opentelemetry", |b| b.iter(held));
    group
        .bench_function("add_and_record_held_2_threads/opentelemetry", |b| on_two_threads(b, held));
    group.finish();
}

#[cfg(not(feature = "otel"))]
fn opentelemetry(_: &mut Criterion) {}

/// The handler.
#[derive(Clone, Debug)]
struct Hello;

impl Service<Request<Empty<Bytes>>> for Hello {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Full::from(&[b'x'; 64][..]))))
    }
}

/// One whole call of `service`.
fn call<S, B>(service: &mut S)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: http_body::Body<Data = Bytes>,
{
    let mut request = Request::new(Empty::new());
    request.extensions_mut().insert(Route::from("/orders/{id}"));
    let response = drive(service, request).ok().expect("it succeeds");
    let body = now(response.into_body().collect()).ok().expect("it has no errors");
    black_box(body.to_bytes());
}

fn layer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    let metrics = Metrics::new();
    let service = MetricsLayer::server(metrics.clone()).layer(Hello);
    let mut alone = service.clone();
    group.bench_function("call/gusset", |b| b.iter(|| call(&mut alone)));
    group.bench_function("call/bare", |b| b.iter(|| call(&mut Hello)));
    let trace = TraceLayer::server(Recorder::new("bench"));
    let mut traced = trace.layer(Hello);
    group.bench_function("call_traced/traced", |b| b.iter(|| call(&mut traced)));
    let mut counted = trace.metrics(metrics).layer(Hello);
    group.bench_function("call_traced/gusset", |b| b.iter(|| call(&mut counted)));
    group.bench_function("call_2_threads/gusset", |b| {
        on_two_threads(b, || call(&mut service.clone()));
    });
    group.bench_function("call_2_threads/bare", |b| on_two_threads(b, || call(&mut Hello)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::config().measurement_time(Duration::from_secs(1));
    targets = gusset, prometheus_client, metrics_macros, opentelemetry, layer
}
criterion_main!(benches);
