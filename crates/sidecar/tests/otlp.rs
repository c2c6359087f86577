//! What a collector of OpenTelemetry receives, read by code that is generated from the published protocol.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod collector;
mod support;

use std::{
    convert::Infallible,
    io,
    net::TcpListener,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use bytes::Bytes;
use collector::{Collector, Reply, attribute, text};
use gusset_call::Attempt;
use gusset_sidecar::{
    Details, Ratio, Recorder, Route, Sidecar, TraceLayer,
    telemetry::{self, Otlp, SignalStats, Telemetry},
};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use opentelemetry_proto::tonic::{
    metrics::v1::{
        AggregationTemporality, Metric, metric::Data, number_data_point::Value as Number,
    },
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tower::{Layer, ServiceExt, service_fn};
use tracing::Dispatch;

/// None of the process's variables.
const NONE: [(&str, &str); 1] = [("", "")];
/// For what counts requests.
const NO_METRICS: [(&str, &str); 1] = [("OTEL_METRICS_EXPORTER", "none")];

fn otlp(url: &str) -> Otlp {
    Otlp::new().endpoint(url).every(Duration::from_millis(5))
}

fn telemetry(sidecar: &Sidecar, otlp: Otlp) -> (Dispatch, Telemetry) {
    let init = telemetry::init("orders").writer(io::sink).variables(NO_METRICS);
    init.sidecar(sidecar).otlp(otlp).build().unwrap()
}

fn with_metrics(sidecar: &Sidecar, otlp: Otlp) -> (Dispatch, Telemetry) {
    let init = telemetry::init("orders").writer(io::sink).variables(NONE);
    init.sidecar(sidecar).otlp(otlp).build().unwrap()
}

fn exporting(sidecar: &Sidecar, collector: &Collector) -> (Dispatch, Telemetry) {
    telemetry(sidecar, otlp(&collector.url()))
}

async fn two_spans(sidecar: &Sidecar) {
    let inner = async {
        let inner = async { Err::<(), _>("no stock") };
        let _ = sidecar.intercept("inner", inner).tag("order.id", "7").await;
        Ok::<_, String>(())
    };
    sidecar.intercept("outer", inner).await.unwrap();
}

/// As at the end of `main`.
fn end(telemetry: Telemetry) -> Duration {
    let began = Instant::now();
    drop(telemetry);
    began.elapsed()
}

fn by_name<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name} in {spans:?}"))
}

async fn until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn spans_arrive_with_identifiers_parents_names_and_who_sent_them() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    let (_, telemetry) = exporting(&sidecar, &collector);
    two_spans(&sidecar).await;
    end(telemetry);

    let requests = collector.traces();
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), text("orders"));
    assert_eq!(attribute(&resource.attributes, "telemetry.sdk.language"), text("rust"));
    assert_eq!(attribute(&resource.attributes, "service.instance.id").len(), 36);
    let spans = collector.spans();
    let (inner, outer) = (by_name(&spans, "inner"), by_name(&spans, "outer"));
    assert_eq!((&inner.parent_span_id, &inner.trace_id), (&outer.span_id, &outer.trace_id));
    assert!(outer.parent_span_id.is_empty());
    let record = &sidecar.recorder().recent(1)[0];
    assert_eq!(outer.trace_id, record.trace_id.get().to_be_bytes());
    assert_eq!(outer.span_id, record.span_id.get().to_be_bytes());
    assert_eq!(outer.start_time_unix_nano, record.start_unix_nanos);
    let nanos = u64::try_from(record.duration.as_nanos()).unwrap();
    assert_eq!(outer.end_time_unix_nano, record.start_unix_nanos + nanos);
    assert_eq!(outer.kind(), SpanKind::Internal);
    assert_eq!((outer.flags & 1, &outer.status), (1, &None));
    let status = inner.status.as_ref().unwrap();
    assert_eq!((status.code(), &*status.message), (StatusCode::Error, "no stock"));
    assert_eq!(attribute(&inner.attributes, "order.id"), text("7"));
    assert_eq!(attribute(&inner.attributes, "error.type"), text("error"));
    let head = &collector.heads()[0];
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
}

#[tokio::test]
async fn a_call_by_http_is_told_in_the_words_of_the_conventions() {
    const LIST: &str =
        "ArrayValue(ArrayValue { values: [AnyValue { value: Some(StringValue(\"curl\")) }] })";
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    let details = Details::new().paths().header(http::header::USER_AGENT);
    let sidecar = sidecar.record(details);
    let upstream = support::Upstream::new([support::status(503), support::status(404)]);
    let client = TraceLayer::client(sidecar.recorder().clone()).upstream("stock");
    let client = client.layer(support::Client(upstream));
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let client = client.clone();
        async move {
            for (attempt, uri) in [(1, "http://stock:8080/items"), (3, "https://u:pw@stock/items")]
            {
                let mut request = support::request("PUT", "");
                *request.uri_mut() = uri.parse().unwrap();
                request.extensions_mut().insert(Attempt::new(NonZeroU32::new(attempt).unwrap()));
                let answer = client.clone().oneshot(request).await.unwrap();
                answer.into_body().collect().await.unwrap();
            }
            let mut answer = support::answer(200);
            answer.extensions_mut().insert(Route::from("/orders/{id}"));
            Ok::<_, Infallible>(answer)
        }
    });
    let mut request = support::request("GET", "");
    *request.uri_mut() = "https://shop/orders/7?token=s3cret".parse().unwrap();
    request.headers_mut().insert("authorization", "Bearer s3cret".parse().unwrap());
    request.headers_mut().insert("user-agent", "curl".parse().unwrap());
    let answer = sidecar.inbound().layer(handler).oneshot(request).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let (_, telemetry) = exporting(&sidecar, &collector);
    end(telemetry);

    let spans = collector.spans();
    let server = by_name(&spans, "GET /orders/{id}");
    assert_eq!(server.kind(), SpanKind::Server);
    assert_eq!(
        all(server),
        [
            ("http.request.header.user-agent", LIST),
            ("http.request.method", "GET"),
            ("http.response.status_code", "IntValue(200)"),
            ("http.route", "/orders/{id}"),
            ("network.protocol.version", "1.1"),
            ("url.path", "/orders/7"),
            ("url.scheme", "https"),
        ]
        .map(|(key, value)| (text(key), text(value)))
    );
    let clients: Vec<_> = spans.iter().filter(|span| span.kind() == SpanKind::Client).collect();
    let [first, third] = &clients[..] else { panic!("{spans:?}") };
    for (span, port, status) in [(first, 8080, "503"), (third, 443, "404")] {
        assert_eq!((&*span.name, &span.parent_span_id), ("PUT stock", &server.span_id));
        let is = |key: &str, value: &str| assert_eq!(attribute(&span.attributes, key), value);
        is("http.request.method", "PUT");
        is("server.address", "stock");
        is("server.port", &format!("IntValue({port})"));
        is("http.response.status_code", &format!("IntValue({status})"));
        is("error.type", status);
        is("peer.service", "stock");
        is("network.protocol.version", "1.1");
        assert!(!all(span).iter().any(|(key, _)| key.starts_with("url.")));
    }
    assert!(!all(first).iter().any(|(key, _)| key == "http.request.resend_count"));
    assert_eq!(attribute(&third.attributes, "http.request.resend_count"), "IntValue(2)");
    assert!(!format!("{spans:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_call_by_grpc_is_told_by_its_method_and_the_name_of_its_code() {
    let collector = Collector::start([]);
    let recorder = Recorder::new("orders");
    let sidecar = Sidecar::with_recorder(recorder.clone());
    for (path, code) in [("/shop.Orders/Create", 14), ("/shop.Orders/None", 12)] {
        let handler = service_fn(move |_: Request<Full<Bytes>>| async move {
            let mut answer = Response::new(Full::<Bytes>::default());
            let headers = answer.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            headers.insert("grpc-status", code.into());
            *answer.version_mut() = Version::HTTP_2;
            Ok::<_, Infallible>(answer)
        });
        let server = TraceLayer::server(recorder.clone()).layer(handler);
        let client = TraceLayer::client(recorder.clone()).upstream("orders").layer(server);
        let mut request = support::request("POST", "");
        *request.uri_mut() = format!("http://shop:50051{path}").parse().unwrap();
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        client.oneshot(request).await.unwrap();
    }
    let (_, telemetry) = exporting(&sidecar, &collector);
    end(telemetry);

    let spans = collector.spans();
    let of = |name: &str, kind| {
        let span = spans.iter().find(|span| span.name == name && span.kind() == kind);
        all(span.unwrap_or_else(|| panic!("{name} in {spans:?}")))
    };
    let common = [
        ("error.type", "UNAVAILABLE"),
        ("network.protocol.version", "2"),
        ("rpc.method", "shop.Orders/Create"),
        ("rpc.response.status_code", "UNAVAILABLE"),
        ("rpc.system.name", "grpc"),
    ];
    let texts = |pairs: &[(&str, &str)]| -> Vec<_> {
        let mut pairs: Vec<_> = pairs.iter().map(|(key, value)| (text(key), text(value))).collect();
        pairs.sort();
        pairs
    };
    assert_eq!(of("shop.Orders/Create", SpanKind::Server), texts(&common));
    let client = [
        ("peer.service", "orders"),
        ("server.address", "shop"),
        ("server.port", "IntValue(50051)"),
    ];
    let client = texts(&[&common[..], &client].concat());
    assert_eq!(of("shop.Orders/Create", SpanKind::Client), client);
    of("_OTHER", SpanKind::Server);
    of("shop.Orders/None", SpanKind::Client);
}

#[tokio::test]
async fn a_call_that_was_left_or_panicked_says_so() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    let hang = sidecar.intercept("left", std::future::pending::<Result<(), String>>());
    assert!(tokio::time::timeout(Duration::ZERO, hang).await.is_err());
    let recorder = sidecar.recorder();
    let layer = TraceLayer::server(recorder.clone());
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        if true {
            panic!("on purpose");
        }
        Ok::<_, Infallible>(support::answer(200))
    });
    let call = tokio::spawn(layer.layer(handler).oneshot(support::request("GET", "")));
    assert!(call.await.unwrap_err().is_panic());
    let (_, telemetry) = exporting(&sidecar, &collector);
    end(telemetry);
    let spans = collector.spans();
    for (name, error, status) in
        [("left", "cancelled", None), ("GET", "panicked", Some(StatusCode::Error))]
    {
        let span = by_name(&spans, name);
        assert_eq!(attribute(&span.attributes, "error.type"), error);
        assert_eq!(span.status.as_ref().map(|status| status.code()), status);
    }
}

/// The decision comes after them: a call is known to have failed when it ends.
#[tokio::test]
async fn spans_of_a_handler_are_exported_with_a_call_that_failed_and_once() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders").sample(Ratio::NONE);
    let (dispatch, telemetry) = exporting(&sidecar, &collector);
    let guard = tracing::dispatcher::set_default(&dispatch);
    for status in [200, 503] {
        let handler = service_fn(move |_: Request<Full<Bytes>>| async move {
            tracing::info_span!("reserve", status).in_scope(|| ());
            // Until they were looked at, and passed over.
            tokio::time::sleep(Duration::from_millis(20)).await;
            tracing::info_span!("pay", status).in_scope(|| ());
            Ok::<_, Infallible>(support::answer(status))
        });
        let answer = sidecar.inbound().layer(handler).oneshot(support::request("GET", "")).await;
        answer.unwrap().into_body().collect().await.unwrap();
        assert!(telemetry.flush().await);
    }
    drop(guard);
    end(telemetry);
    let spans = collector.spans();
    let mut names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["GET", "pay", "reserve"]);
    let call = by_name(&spans, "GET");
    for name in ["pay", "reserve"] {
        let span = by_name(&spans, name);
        assert_eq!((&span.parent_span_id, &span.trace_id), (&call.span_id, &call.trace_id));
        assert_eq!(attribute(&span.attributes, "status"), text("503"));
    }
}

/// All attributes, by name.
fn all(span: &Span) -> Vec<(String, String)> {
    let pairs = span.attributes.iter();
    let mut pairs: Vec<_> = pairs
        .map(|pair| (pair.key.clone(), collector::value(pair.value.as_ref().unwrap())))
        .collect();
    pairs.sort();
    pairs
}

#[tokio::test]
async fn each_service_of_a_shared_ring_is_a_resource_of_its_own() {
    let collector = Collector::start([]);
    let ring = Recorder::new("orders");
    let (_, telemetry) = exporting(&Sidecar::with_recorder(ring.clone()), &collector);
    for service in ["orders", "payments"] {
        two_spans(&Sidecar::with_recorder(ring.for_service(service))).await;
    }
    end(telemetry);
    let mut services: Vec<_> = collector
        .traces()
        .iter()
        .flat_map(|request| &request.resource_spans)
        .map(|spans| attribute(&spans.resource.as_ref().unwrap().attributes, "service.name"))
        .collect();
    services.sort();
    services.dedup();
    assert_eq!(services, ["orders", "payments"].map(text));
}

#[tokio::test]
async fn logs_arrive_with_severity_fields_and_the_trace_they_belong_to() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    let (dispatch, telemetry) = exporting(&sidecar, &collector);
    let guard = tracing::dispatcher::set_default(&dispatch);
    let work = async {
        tracing::warn!(order = 7, paid = true, who = "a\nb", huge = u64::MAX, "no stock");
        Ok::<_, String>(())
    };
    sidecar.intercept("work", work).await.unwrap();
    tracing::info!("outside");
    drop(guard);
    end(telemetry);

    let logs = collector.logs();
    let [inside, outside] = &logs[..] else { panic!("{logs:?}") };
    let record = &sidecar.recorder().recent(1)[0];
    assert_eq!(inside.trace_id, record.trace_id.get().to_be_bytes());
    assert_eq!(inside.span_id, record.span_id.get().to_be_bytes());
    assert_eq!((inside.flags, inside.severity_number, &*inside.severity_text), (1, 13, "WARN"));
    assert_eq!(collector::value(inside.body.as_ref().unwrap()), text("no stock"));
    assert_eq!(attribute(&inside.attributes, "order"), "IntValue(7)");
    assert_eq!(attribute(&inside.attributes, "paid"), "BoolValue(true)");
    assert_eq!(attribute(&inside.attributes, "who"), text("a\nb"));
    assert_eq!(attribute(&inside.attributes, "huge"), text(&u64::MAX.to_string()));
    assert!(inside.time_unix_nano >= record.start_unix_nanos - 1_000_000_000);
    assert_eq!((outside.trace_id.len(), outside.severity_number), (0, 9));
}

#[tokio::test]
async fn metrics_arrive_with_units_buckets_and_the_time_since_when() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    sidecar.metrics().on_render(|samples| {
        samples.gauge("queue_bytes", "Waiting.", &[("queue", "a")], 7.5);
    });
    let handler = service_fn(|_| async { Ok::<_, Infallible>(support::answer(503)) });
    let server = sidecar.inbound().layer(handler);
    drop(server.oneshot(support::request("GET", "")).await);
    let (_, telemetry) = with_metrics(&sidecar, otlp(&collector.url()));
    assert!(telemetry.flush().await);
    end(telemetry);

    let figures = collector.figures();
    let duration = by_metric(&figures, "http.server.request.duration");
    assert_eq!(duration.unit, "s");
    let Some(Data::Histogram(histogram)) = &duration.data else { panic!("{duration:?}") };
    assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
    let point = &histogram.data_points[0];
    assert_eq!((point.count, point.explicit_bounds.len()), (1, 14));
    assert_eq!(point.bucket_counts.len(), 15);
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), 1);
    assert!(point.start_time_unix_nano > 0 && point.time_unix_nano >= point.start_time_unix_nano);
    assert_eq!(attribute(&point.attributes, "http.response.status_code"), "IntValue(503)");
    assert_eq!(attribute(&point.attributes, "http.request.method"), text("GET"));
    let queue = by_metric(&figures, "queue_bytes");
    let Some(Data::Gauge(gauge)) = &queue.data else { panic!("{queue:?}") };
    assert_eq!(gauge.data_points[0].value, Some(Number::AsDouble(7.5)));
    let exported = by_metric(&figures, "gusset_export_items_total");
    let Some(Data::Sum(sum)) = &exported.data else { panic!("{exported:?}") };
    assert!(sum.is_monotonic && sum.data_points.len() == 12);
}

fn by_metric<'a>(figures: &'a [Metric], name: &str) -> &'a Metric {
    figures.iter().find(|figure| figure.name == name).unwrap_or_else(|| panic!("{name}"))
}

/// Counts add up in the process, so a reading that was not taken is replaced by the next.
#[tokio::test]
async fn a_reading_of_metrics_that_was_not_taken_is_made_anew() {
    let collector = Collector::start([Reply::Status(503, "")]);
    let sidecar = Sidecar::new("orders");
    let otlp = otlp(&collector.url()).metrics_every(Duration::from_millis(5));
    let (dispatch, telemetry) = with_metrics(&sidecar, otlp);
    until(|| telemetry.export_stats().unwrap().metrics.failures == 1).await;
    sidecar.metrics().on_render(|samples| samples.gauge("late", "Late.", &[], 1.0));
    until(|| telemetry.export_stats().unwrap().metrics.exported > 0).await;
    drop((dispatch, telemetry));
    let requests = collector.metrics();
    let names = |request: usize| {
        let metrics = &requests[request].resource_metrics[0].scope_metrics[0].metrics;
        metrics.iter().any(|metric| metric.name == "late")
    };
    assert!(!names(0) && names(1));
}

#[tokio::test]
async fn what_a_collector_does_not_take_waits_and_arrives_later() {
    let collector = Collector::start([Reply::Status(503, ""), Reply::Status(429, "")]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let (_, telemetry) = exporting(&sidecar, &collector);
    until(|| telemetry.export_stats().unwrap().traces.exported == 2).await;
    let stats = telemetry.export_stats().unwrap().traces;
    assert_eq!((stats.failures, stats.dropped, stats.rejected), (2, 0, 0));
    assert_eq!(collector.traces().len(), 3, "the same batch three times");
    end(telemetry);
}

#[tokio::test]
async fn a_collector_that_wants_to_be_left_alone_is() {
    let collector = Collector::start([Reply::Status(503, "retry-after: 1\r\n")]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let began = Instant::now();
    let (_, telemetry) = exporting(&sidecar, &collector);
    until(|| telemetry.export_stats().unwrap().traces.failures == 1).await;
    assert!(!telemetry.flush().await, "nor does a flush break in");
    until(|| telemetry.export_stats().unwrap().traces.exported == 2).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    end(telemetry);
}

#[tokio::test]
async fn what_a_collector_refuses_is_not_sent_again() {
    let collector = Collector::start([Reply::Status(400, "")]);
    let sidecar = Sidecar::new("orders");
    let (dispatch, telemetry) = exporting(&sidecar, &collector);
    two_spans(&sidecar).await;
    until(|| telemetry.export_stats().unwrap().traces.rejected == 2).await;
    two_spans(&sidecar).await;
    assert!(telemetry.flush().await);
    let stats = telemetry.export_stats().unwrap();
    assert_eq!(stats.traces, stats_of(2, 2));
    assert_eq!(collector.spans().len(), 4);
    drop((dispatch, telemetry));
}

fn stats_of(exported: u64, rejected: u64) -> SignalStats {
    let mut stats = SignalStats::default();
    (stats.exported, stats.rejected) = (exported, rejected);
    stats
}

#[tokio::test]
async fn a_part_that_was_refused_is_counted_and_not_sent_again() {
    let collector = Collector::start([Reply::Partial(1, "too old")]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let (_, telemetry) = exporting(&sidecar, &collector);
    assert!(telemetry.flush().await);
    assert_eq!(telemetry.export_stats().unwrap().traces, stats_of(1, 1));
    end(telemetry);
    assert_eq!(collector.traces().len(), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_lay_idle_is_no_failure() {
    let collector = Collector::start([Reply::ThenClose, Reply::ThenClose]);
    let sidecar = Sidecar::new("orders");
    let (_, telemetry) = exporting(&sidecar, &collector);
    for _ in 0..3 {
        two_spans(&sidecar).await;
        assert!(telemetry.flush().await);
    }
    assert_eq!(telemetry.export_stats().unwrap().traces, stats_of(6, 0));
    end(telemetry);
}

#[tokio::test]
async fn spans_and_logs_outlive_a_collector_that_is_started_again() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sidecar = Sidecar::new("orders");
    let (dispatch, telemetry) = telemetry(&sidecar, otlp(&format!("http://{addr}")));
    two_spans(&sidecar).await;
    tracing::dispatcher::with_default(&dispatch, || tracing::info!("hello"));
    assert!(!telemetry.flush().await);
    let stats = telemetry.export_stats().unwrap();
    assert!(stats.traces.failures > 0 && stats.logs.failures > 0, "{stats:?}");
    let collector = Collector::start_at(addr, []);
    until(|| {
        let stats = telemetry.export_stats().unwrap();
        (stats.traces.exported, stats.logs.exported) == (2, 1)
    })
    .await;
    drop((dispatch, telemetry, collector));
}

#[tokio::test]
async fn what_was_overwritten_before_it_could_be_sent_is_counted() {
    let sidecar = Sidecar::with_recorder(Recorder::with_capacity("orders", 4));
    for _ in 0..5 {
        two_spans(&sidecar).await;
    }
    let collector = Collector::start([]);
    let (_, telemetry) = exporting(&sidecar, &collector);
    assert!(telemetry.flush().await);
    let stats = telemetry.export_stats().unwrap().traces;
    assert_eq!((stats.exported, stats.missed), (4, 6));
    end(telemetry);
}

/// Where others waited for 21 s and lost all: three signals, each for its own timeout, on the only worker.
#[tokio::test(flavor = "current_thread")]
async fn the_last_export_needs_no_worker_of_the_runtime_it_is_dropped_in() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let otlp = otlp(&collector.url()).flush_within(Duration::from_secs(120));
    let (dispatch, telemetry) = with_metrics(&sidecar, otlp);
    tracing::dispatcher::with_default(&dispatch, || tracing::info!("hello"));
    let took = end(telemetry);
    assert_eq!((collector.spans().len(), collector.logs().len()), (2, 1));
    assert!(!collector.figures().is_empty());
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nor_the_only_one_of_many() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let (_, telemetry) = exporting(&sidecar, &collector);
    let sender = tokio::spawn(async move { end(telemetry) });
    assert!(sender.await.unwrap() < Duration::from_secs(2));
    assert_eq!(collector.spans().len(), 2);
}

#[test]
fn and_no_runtime_at_all() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(two_spans(&sidecar));
    let (_, telemetry) = exporting(&sidecar, &collector);
    end(telemetry);
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn shutdown_exports_without_blocking_the_worker() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let (_, telemetry) = exporting(&sidecar, &collector);
    telemetry.shutdown().await;
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_nobody_up_for_longer_than_the_bound() {
    for reply in [Reply::Hang, Reply::Drip] {
        let collector = Collector::start([reply, reply, reply, reply]);
        let sidecar = Sidecar::new("orders");
        two_spans(&sidecar).await;
        let bound = Duration::from_millis(100);
        let (dispatch, telemetry) =
            with_metrics(&sidecar, otlp(&collector.url()).flush_within(bound));
        tracing::dispatcher::with_default(&dispatch, || tracing::info!("hello"));
        let took = end(telemetry);
        assert!(took >= bound && took < Duration::from_secs(9), "{reply:?}: {took:?}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nobody_up() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    // Long enough to tell one who waits from one who is slow.
    let otlp = otlp(&format!("http://{addr}")).flush_within(Duration::from_secs(120));
    let (_, telemetry) = with_metrics(&sidecar, otlp);
    until(|| telemetry.export_stats().unwrap().traces.failures > 0).await;
    let took = end(telemetry);
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[tokio::test]
async fn one_that_fails_for_a_moment_at_the_end_gets_all_the_same() {
    let collector = Collector::start([Reply::Status(503, ""), Reply::Status(503, "")]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let otlp = otlp(&collector.url()).every(Duration::from_secs(60));
    let (_, telemetry) = telemetry(&sidecar, otlp);
    end(telemetry);
    assert_eq!(collector.traces().len(), 3);
}

#[tokio::test]
async fn what_hangs_for_one_signal_does_not_hold_up_another() {
    let logs = Collector::start([Reply::Hang; 9]);
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    let url = format!("{}/v1/logs", logs.url());
    let init = telemetry::init("orders").writer(io::sink).sidecar(&sidecar).variables([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url()),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", &url),
    ]);
    let otlp = Otlp::new().every(Duration::from_millis(5)).flush_within(Duration::from_millis(50));
    let (dispatch, telemetry) = init.otlp(otlp).build().unwrap();
    tracing::dispatcher::with_default(&dispatch, || tracing::info!("hello"));
    until(|| logs.heads().len() == 1).await;
    two_spans(&sidecar).await;
    until(|| telemetry.export_stats().unwrap().traces.exported == 2).await;
    end(telemetry);
}

#[tokio::test]
async fn the_environment_says_where_and_who_and_whether() {
    let collector = Collector::start([]);
    let sidecar = Sidecar::new("orders").sample(Ratio::ALL);
    let url = collector.url();
    let common = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret"),
        ("OTEL_SERVICE_NAME", "shop"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=blue"),
    ];
    let start = |more: [(&str, &str); 1]| {
        let init = telemetry::init("orders").writer(io::sink).sidecar(&sidecar);
        let variables: Vec<_> = common.into_iter().chain(more).collect();
        init.variables(variables).otlp(Otlp::new()).build().unwrap().1
    };
    two_spans(&sidecar).await;
    let disabled = start([("OTEL_SDK_DISABLED", "true")]);
    assert_eq!(disabled.export_stats(), None);
    assert!(disabled.flush().await);
    assert_eq!(collector.heads().len(), 0);
    let none = start([("OTEL_TRACES_EXPORTER", "none")]);
    assert!(none.flush().await);
    assert_eq!(none.export_stats().unwrap().traces, SignalStats::default());
    drop((disabled, none));
    assert_eq!(collector.traces().len(), 0);
    end(start([("", "")]));
    let requests = collector.traces();
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), text("shop"));
    assert_eq!(attribute(&resource.attributes, "team"), text("blue"));
    assert!(collector.heads()[0].contains("authorization: bearer s3cret\r\n"));
}

#[test]
fn neither_a_secret_nor_its_place_is_shown() {
    let otlp = Otlp::new().header("x-key", "s3cret");
    let init = telemetry::init("orders")
        .variables([("OTEL_EXPORTER_OTLP_HEADERS", "a=s3cret")])
        .writer(io::sink)
        .otlp(otlp.clone());
    assert!(!format!("{otlp:?} {init:?}").contains("s3cret"));
    let (_, telemetry) = init.build().unwrap();
    assert!(!format!("{telemetry:?}").contains("s3cret"));
    let bad = telemetry::init("s").variables(NONE).otlp(Otlp::new().endpoint("http://u:s3cret@h"));
    let error = bad.build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot set up telemetry: OTLP endpoint has a user in it; use a header instead"
    );
}
