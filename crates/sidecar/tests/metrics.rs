//! Metrics as operators and scrapers see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{collections::BTreeSet, convert::Infallible, panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use gusset_call::BoxError;
use gusset_sidecar::{End, FamilyKind, Label, Metrics, MetricsLayer, Route, SpanKind, Value};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use support::{Step, answer, request};
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
    let server = "http_route=\"/a \\\"b\\\"\\\\\",http_request_method=\"GET\",http_response_status_code=\"200\"";
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
    assert!(text.contains("http_client_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"503\",error_type=\"503\"} 1"), "{text}");
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
    metrics.on_render(|_| panic!("bug"));
    std::panic::catch_unwind(AssertUnwindSafe(|| metrics.render_prometheus())).unwrap_err();

    let metrics = Metrics::new();
    let again = metrics.clone();
    metrics.on_render(move |samples| {
        // No lock is held meanwhile, so this does not wait for itself.
        let series = again.snapshot().series.len() as f64;
        again.on_render(|_| {});
        samples.gauge("series", "Series.", &[], series);
    });
    assert!(metrics.render_prometheus().contains("\nseries 0\n"));
}
