//! Metrics as operators and scrapers see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{
    collections::BTreeSet, convert::Infallible, future::Future, panic::AssertUnwindSafe,
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use gusset_sidecar::{
    End, FamilyKind, Label, Metrics, MetricsLayer, Point, Route, Sidecar, SpanKind, Value,
};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use support::{Dice, Step, answer, request};
use tokio::time::sleep;
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt, service_fn};

async fn call(layer: &MetricsLayer, route: Option<&'static str>, step: Step) {
    let mut step = Some(step);
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let step = step.take().unwrap();
        async move {
            match step {
                Step::Answer(answer) => Ok(answer),
                Step::AnswerAfter(span, status) => {
                    sleep(span).await;
                    Ok(answer(status))
                }
                Step::Fail(error) | Step::Refuse(error) => Err(error),
                Step::Hang | Step::HangUnread => std::future::pending().await,
            }
        }
    });
    let mut request = request("GET", "");
    if let Some(route) = route {
        request.extensions_mut().insert(Route::from(route));
    }
    if let Ok(response) = layer.layer(handler).oneshot(request).await {
        response.into_body().collect().await.unwrap();
    }
}

fn after(millis: u64, status: u16) -> Step {
    Step::AnswerAfter(Duration::from_millis(millis), status)
}

#[tokio::test(start_paused = true)]
async fn calls_are_counted_timed_and_told_apart() {
    let metrics = Metrics::new();
    let layer = MetricsLayer::server(metrics.clone());
    for _ in 0..3 {
        call(&layer, Some("/a"), after(20, 200)).await;
    }
    call(&layer, Some("/a"), after(100, 500)).await;
    call(&layer, Some("/b"), after(10, 404)).await;
    call(&layer, None, Step::Fail("down".into())).await;

    let total = metrics.snapshot().total(SpanKind::Server);
    assert_eq!((total.count(), total.errors), (6, 2));
    assert!((total.error_rate() - 1.0 / 3.0).abs() < 1e-9);
    assert_eq!(total.durations.sum().as_millis(), 170);
    let a = metrics.snapshot().summary(|series| series.route.as_deref() == Some("/a"));
    assert_eq!(a.durations.average().as_millis(), 40);
    let p50 = a.durations.quantile(0.5).as_millis();
    assert!((10..=25).contains(&p50), "{p50}");
    assert_eq!(a.durations.quantile(1.0).as_millis(), 100);
    assert_eq!(metrics.snapshot().total(SpanKind::Client).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_text_is_what_prometheus_reads() {
    let metrics = Metrics::new();
    call(&MetricsLayer::server(metrics.clone()), Some("/a \"b\"\\"), after(20, 200)).await;
    call(&MetricsLayer::client(metrics.clone()), None, after(20, 503)).await;
    metrics.on_render(|samples| {
        samples.gauge("breaker_state", "State.", &[("circuit", "db")], 1.0);
        samples.gauge("breaker_state", "State.", &[("circuit", "cache")], 0.5);
    });
    let text = metrics.render_prometheus();
    let server = "http_route=\"/a \\\"b\\\"\\\\\",http_request_method=\"GET\",http_response_status_code=\"200\",network_protocol_version=\"1.1\",url_scheme=\"http\"";
    for line in [
        "# TYPE http_server_request_duration_seconds histogram",
        &format!("http_server_request_duration_seconds_bucket{{{server},le=\"0.01\"}} 0"),
        &format!("http_server_request_duration_seconds_bucket{{{server},le=\"0.025\"}} 1"),
        &format!("http_server_request_duration_seconds_bucket{{{server},le=\"+Inf\"}} 1"),
        &format!("http_server_request_duration_seconds_sum{{{server}}} 0.02"),
        &format!("http_server_request_duration_seconds_count{{{server}}} 1"),
        "# TYPE breaker_state gauge",
        "breaker_state{circuit=\"cache\"} 0.5",
        "breaker_state{circuit=\"db\"} 1",
    ] {
        assert!(text.lines().any(|of_text| of_text == line), "{line}\nis not in\n{text}");
    }
    assert!(text.contains("http_client_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"503\",network_protocol_version=\"1.1\",server_address=\"upstream\",error_type=\"503\"} 1"), "{text}");
    check_exposition(&text);
}

#[tokio::test(start_paused = true)]
async fn an_exporter_gets_all_as_plain_data() {
    let metrics = Metrics::new();
    metrics.on_render(|samples| {
        samples.counter("gusset_retries_total", "Retries.", &[("upstream", "db")], 3.0);
        samples.gauge("http.server.request.duration", "Taken.", &[], 1.0);
    });
    call(&MetricsLayer::server(metrics.clone()), Some("/a"), after(20, 500)).await;

    let all = metrics.collect();
    assert!(all.start_unix_nanos > 0 && all.start_unix_nanos <= all.unix_nanos);
    assert!(all.families.is_sorted_by(|a, b| a.name < b.name), "{all:?}");
    let of = |name: &str| all.families.iter().find(|family| family.name == name).unwrap();
    let served = of("http.server.request.duration");
    assert_eq!((served.kind, &*served.unit), (FamilyKind::Histogram, "s"));
    let labels = [
        ("http.route".into(), "/a".into()),
        ("http.request.method".into(), "GET".into()),
        ("http.response.status_code".into(), Label::Int(500)),
        ("network.protocol.version".into(), "1.1".into()),
        ("url.scheme".into(), "http".into()),
        ("error.type".into(), "500".into()),
    ];
    assert_eq!(served.points[0].labels, labels);
    let Value::Distribution(spread) = &served.points[0].value else { panic!("{served:?}") };
    assert_eq!((spread.count(), spread.sum, spread.bounds[2]), (1, 0.02, 0.025));
    assert_eq!(spread.buckets[..4], [0, 0, 1, 0]);
    assert_eq!(spread.buckets.len(), spread.bounds.len() + 1);
    let retries = of("gusset_retries_total");
    assert_eq!((retries.kind, &retries.points[0].value), (FamilyKind::Counter, &Value::Float(3.0)));
}

/// The rules of the text format that scrapers stumble over.
fn check_exposition(text: &str) {
    let (mut family, mut families, mut samples) = ("", BTreeSet::new(), BTreeSet::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} is there twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(rest.starts_with(family));
        } else {
            assert!(line.starts_with(family), "{line} is outside of its family");
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(series), "{series} is there twice");
        }
    }
}

#[tokio::test]
async fn labels_without_bound_end_in_the_overflow() {
    let metrics = Metrics::with_max_series(5);
    let layer = MetricsLayer::server(metrics.clone());
    for status in 200..220 {
        call(&layer, None, Step::Answer(answer(status))).await;
    }
    let mut invented = request("GET", "");
    *invented.method_mut() = "BREW".parse().unwrap();
    let handler = service_fn(|_: Request<Full<Bytes>>| async { Ok::<_, Infallible>(answer(418)) });
    drop(layer.layer(handler).oneshot(invented).await);

    let snapshot = metrics.snapshot();
    assert_eq!(snapshot.series.len(), 5);
    assert_eq!((snapshot.overflowed, snapshot.overflow.count()), (16, 16));
    let text = metrics.render_prometheus();
    assert!(text.contains("_count{otel_metric_overflow=\"true\"} 16\n"), "{text}");
    check_exposition(&text);
}

#[tokio::test]
async fn active_calls_are_those_whose_answer_is_not_over() {
    let metrics = Metrics::new();
    let layer = MetricsLayer::server(metrics.clone());
    let active = || metrics.snapshot().active.iter().map(|active| active.calls).sum::<i64>();

    let hangs = service_fn(|_: Request<Full<Bytes>>| {
        std::future::pending::<Result<Response<Full<Bytes>>, BoxError>>()
    });
    let mut waiting = task::spawn(layer.layer(hangs).oneshot(request("GET", "")));
    assert_pending!(waiting.poll());
    assert_eq!(active(), 1);
    let text = metrics.render_prometheus();
    assert!(text.contains("http_server_active_requests{http_request_method=\"GET\"} 1\n"));
    drop(waiting);
    assert_eq!(active(), 0);

    let answers = service_fn(|_: Request<Full<Bytes>>| async { Ok::<_, Infallible>(answer(200)) });
    let response = layer.layer(answers).oneshot(request("GET", "")).await.unwrap();
    assert_eq!(active(), 1, "its body is still to be read");
    drop(response);
    assert_eq!(active(), 0);
    let ends: Vec<_> = metrics.snapshot().series.iter().map(|series| series.end).collect();
    assert_eq!(ends, [End::Cancelled, End::Cancelled]);
}

#[tokio::test]
async fn a_panic_is_counted_and_no_longer_active() {
    let metrics = Metrics::new();
    let panics = service_fn(|_: Request<Full<Bytes>>| async {
        panic!("bug") as Result<Response<Full<Bytes>>, Infallible>
    });
    let service = MetricsLayer::server(metrics.clone()).layer(panics);
    let mut call = Box::pin(service.oneshot(request("GET", "")));
    let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _ = task::spawn(call.as_mut()).poll();
    }));
    assert!(caught.is_err());
    let snapshot = metrics.snapshot();
    assert!(snapshot.active.is_empty());
    assert_eq!(snapshot.series[0].end, End::Panicked);
    assert_eq!(snapshot.total(SpanKind::Server).errors, 1);
}

#[test]
fn a_source_that_panics_or_asks_again_leaves_the_metrics_usable() {
    let metrics = Metrics::new();
    metrics.on_render(|samples| {
        samples.gauge("before", "Before.", &[], 1.0);
        panic!("bug")
    });
    let again = metrics.clone();
    metrics.on_render(move |samples| {
        // No lock is held meanwhile, so this does not wait for itself.
        let series = again.snapshot().series.len() as f64;
        again.on_render(|_| {});
        samples.gauge("series", "Series.", &[], series);
    });
    let text = metrics.render_prometheus();
    for line in ["\nseries 0\n", "\nbefore 1\n", "gusset_source_panics_total 1\n"] {
        assert!(text.contains(line), "{text}");
    }
}

/// The points of a family, each as its labels in text.
fn points(metrics: &Metrics, family: &str) -> Vec<(String, Value)> {
    let families = metrics.collect().families.into_iter().filter(|found| found.name == family);
    let points = families.flat_map(|family| family.points);
    let text = |(name, value): &(_, Label)| format!("{name}={value}");
    let labels = |point: &Point| point.labels.iter().map(text).collect::<Vec<_>>().join(" ");
    points.map(|point| (labels(&point), point.value)).collect()
}

fn labels(metrics: &Metrics, family: &str) -> Vec<String> {
    points(metrics, family).into_iter().map(|(labels, _)| labels).collect()
}

/// A call by gRPC whose answer has this status and these headers.
async fn grpc_call(layer: &MetricsLayer, path: &str, kind: &'static str, status: Option<&str>) {
    let status = status.map(str::to_owned);
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let answer = Response::builder().header("content-type", kind);
        let answer = status.iter().fold(answer, |answer, code| answer.header("grpc-status", code));
        async { answer.body(Full::new(Bytes::new())) }
    });
    let request = Request::post(format!("https://h:1{path}"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc+proto")
        .body(Full::default());
    drop(layer.layer(handler).oneshot(request.unwrap()).await.unwrap());
}

#[tokio::test]
async fn a_call_by_grpc_is_counted_by_method_once_it_has_been_answered() {
    let metrics = Metrics::new();
    let layer = MetricsLayer::server(metrics.clone());
    grpc_call(&layer, "/shop.Orders/Take", "application/grpc", Some("0")).await;
    grpc_call(&layer, "/shop.Orders/Take", "application/grpc", Some("14")).await;
    grpc_call(&layer, "/invented/1", "application/grpc", Some("12")).await;
    grpc_call(&layer, "/invented/2", "application/grpc", Some("12")).await;
    // Who answers like this has not heard a procedure call.
    grpc_call(&layer, "/invented/3", "text/html", None).await;

    let grpc = "rpc.system.name=grpc rpc.method";
    assert_eq!(
        labels(&metrics, "rpc.server.call.duration"),
        [
            format!(
                "{grpc}=_OTHER rpc.response.status_code=UNIMPLEMENTED error.type=UNIMPLEMENTED"
            ),
            format!("{grpc}=shop.Orders/Take rpc.response.status_code=OK"),
            format!(
                "{grpc}=shop.Orders/Take rpc.response.status_code=UNAVAILABLE error.type=UNAVAILABLE"
            ),
        ]
    );
    let http = "http.request.method=POST http.response.status_code=200 network.protocol.version=2 url.scheme=https";
    assert_eq!(labels(&metrics, "http.server.request.duration"), [http]);
}

#[tokio::test]
async fn a_client_counts_by_upstream_or_by_at_most_so_many_hosts_without_passwords() {
    let metrics = Metrics::new();
    let client = MetricsLayer::client(metrics.clone());
    grpc_call(&client.clone().upstream("payments"), "/pay/1", "application/grpc", None).await;
    let grpc = ["rpc.system.name=grpc rpc.method=pay/1 server.address=payments"];
    assert_eq!(labels(&metrics, "rpc.client.call.duration"), grpc);

    let handler = service_fn(|_: Request<Full<Bytes>>| async { Ok::<_, Infallible>(answer(200)) });
    let hosts = (0..120).map(|n| format!("http://ann:secret@h{n}:80/"));
    for uri in hosts.chain(["http://[::1]:8080/".into()]) {
        let request = Request::get(uri).body(Full::default()).unwrap();
        drop(client.layer(handler).oneshot(request).await.unwrap());
    }
    let peers = labels(&metrics, "http.client.request.duration");
    assert_eq!(peers.len(), 101, "a hundred and the others");
    assert!(peers.iter().any(|labels| labels.ends_with("server.address=h7 server.port=80 error.type=cancelled")));
    assert!(peers.iter().any(|labels| labels.contains("server.address=_OTHER")));
    assert!(!peers.iter().any(|labels| labels.contains("secret")));
}

#[tokio::test(start_paused = true)]
async fn slow_and_failed_calls_lead_to_their_traces() {
    let sidecar = Sidecar::new("orders");
    let inbound = sidecar.inbound();
    for (millis, status) in [(3, 200), (80, 500), (3_000, 200)] {
        let handler = service_fn(move |_: Request<Full<Bytes>>| async move {
            sleep(Duration::from_millis(millis)).await;
            Ok::<_, Infallible>(answer(status))
        });
        let answered = inbound.layer(handler).oneshot(request("GET", "")).await.unwrap();
        answered.into_body().collect().await.unwrap();
    }
    let [slow, failed, _] = &sidecar.recorder().recent(3)[..] else { panic!() };
    let seen = sidecar.metrics().snapshot().series.into_iter().flat_map(|one| one.exemplars);
    let seen: Vec<_> = seen.map(|one| (one.value, one.trace_id, one.span_id)).collect();
    assert_eq!(seen, [(3.0, slow.trace_id, slow.span_id), (0.08, failed.trace_id, failed.span_id)]);
}

#[tokio::test(start_paused = true)]
async fn active_calls_never_leak_however_a_million_calls_are_dropped() {
    use std::task::Poll;
    let (metrics, mut dice) = (Metrics::new(), Dice(0x5eed));
    let layers = [MetricsLayer::server(metrics.clone()), MetricsLayer::client(metrics.clone())];
    // Waits so often before it answers, and its body so often before it ends.
    let handler = service_fn(|request: Request<(u64, u64)>| async move {
        let (waits, frames) = request.into_body();
        for _ in 0..waits {
            tokio::task::yield_now().await;
        }
        let stream = Pauses { left: frames, pause: true };
        if waits == 3 { Err("failed") } else { Ok(Response::new(stream)) }
    });
    let mut over = 0;
    for _ in 0..1_000_000_u64 {
        let (waits, frames) = (dice.roll(4), dice.roll(4));
        let layer = &layers[dice.roll(2) as usize];
        let mut polls = dice.roll(10);
        // What is never polled has not begun.
        over += u64::from(polls > 0);
        let request = Request::get("/").body((waits, frames)).unwrap();
        let mut call = Box::pin(layer.layer(handler).oneshot(request));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let answered = std::iter::from_fn(|| (polls > 0).then(|| polls -= 1)).find_map(|()| {
            match call.as_mut().poll(&mut cx) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            }
        });
        if let Some(Ok(response)) = answered {
            let mut body = Box::pin(response.into_body());
            for _ in 0..polls {
                let _ = body.as_mut().poll_frame(&mut cx);
            }
        }
    }
    let snapshot = metrics.snapshot();
    assert_eq!(snapshot.active, []);
    let ended = |end| snapshot.summary(|series| series.end == end).count();
    let ends = [End::Complete, End::Error, End::Cancelled].map(ended);
    assert_eq!(ends.iter().sum::<u64>(), over);
    assert!(ends.iter().all(|count| *count > 10_000), "{ends:?}");
}

/// A body of so many frames, each after a pause.
struct Pauses {
    left: u64,
    pause: bool,
}

impl Body for Pauses {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.pause = !self.pause;
        if !self.pause {
            return std::task::Poll::Pending;
        }
        let Some(left) = self.left.checked_sub(1) else { return std::task::Poll::Ready(None) };
        self.left = left;
        std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}
