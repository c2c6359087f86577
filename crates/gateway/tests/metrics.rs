//! What the page of metrics says of a gateway.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use common::*;
use gusset_gateway::{ByHost, Concurrency, Gateway, Live, Picker, Route, Upstream, UpstreamPolicy};
use gusset_ratelimit::Quota;
use gusset_registry::{MemoryRegistry, RoundRobin};
use gusset_sidecar::{Backoff, HedgePolicy, Metrics, RetryPolicy};
use http::StatusCode;

/// Answers 503 at first, and then as it should.
async fn flaky() -> Running {
    let asked = Arc::new(AtomicUsize::new(0));
    let answer = move || {
        let first = asked.fetch_add(1, SeqCst) == 0;
        async move { if first { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK } }
    };
    upstream(Router::new().route("/a", get(answer.clone())).route("/b", get(answer))).await
}

fn at_once() -> RetryPolicy {
    let pause = Duration::from_millis(1);
    RetryPolicy::default().retries(1).backoff(Backoff::exponential(pause, pause))
}

fn count(page: &str, line: &str) -> Option<f64> {
    let rest = page.lines().find_map(|found| found.strip_prefix(line))?;
    rest.trim().parse().ok()
}

#[tokio::test]
async fn calls_retries_and_circuits_of_an_upstream_are_counted_over_all_its_routes() {
    let running = flaky().await;
    let registry = registry("orders", &[running.address]).await;
    let route = |path: &str| Route::new(path).to("orders").retry(at_once());
    let quota = Quota::per_minute(3).burst(3);
    let gateway = Gateway::builder(registry)
        .shed(Concurrency::fixed(NonZeroU32::new(9).unwrap()))
        .route(route("/a").name("first").quota(quota))
        .route(route("/b").in_flight(NonZeroU32::new(7).unwrap()).hedge(HedgePolicy::default()))
        .build()
        .unwrap();
    let live = Live::new(gateway.clone());
    let metrics = gateway.metrics().clone();
    live.report_to(&metrics);
    for path in ["/a", "/b", "/a"] {
        assert_eq!(ask(&gateway, to(path)).await.status(), 200, "{path}");
    }
    let page = metrics.render_prometheus();
    let id = format!("orders-{}", running.address);
    let id = page.split("circuit=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or(&id);
    for (line, value) in [
        ("gusset_calls_total{upstream=\"orders\"}", 3.0),
        ("gusset_attempts_total{upstream=\"orders\"}", 4.0),
        ("gusset_retries_total{upstream=\"orders\"}", 1.0),
        ("gusset_hedges_total{upstream=\"orders\"}", 0.0),
        (
            &format!(
                "gusset_breaker_state{{upstream=\"orders\",circuit=\"{id}\",state=\"closed\"}}"
            ),
            1.0,
        ),
        (
            &format!("gusset_breaker_state{{upstream=\"orders\",circuit=\"{id}\",state=\"open\"}}"),
            0.0,
        ),
        (
            &format!(
                "gusset_breaker_calls_total{{upstream=\"orders\",circuit=\"{id}\",outcome=\"success\"}}"
            ),
            3.0,
        ),
        (
            &format!(
                "gusset_breaker_calls_total{{upstream=\"orders\",circuit=\"{id}\",outcome=\"failure\"}}"
            ),
            1.0,
        ),
        ("gusset_limiter_calls_total{limiter=\"first\",outcome=\"allowed\"}", 2.0),
        ("gusset_limiter_calls_total{limiter=\"first\",outcome=\"refused\"}", 0.0),
        ("gusset_concurrency_limit{limiter=\"/b\"}", 7.0),
        ("gusset_concurrency_limit{limiter=\"gateway\"}", 9.0),
        (
            "gusset_concurrency_calls_total{limiter=\"/b\",priority=\"normal\",outcome=\"ended\"}",
            1.0,
        ),
    ] {
        assert_eq!(count(&page, line), Some(value), "{line} in {page}");
    }
    let call = |status: u16| {
        format!(
            "http_client_request_duration_seconds_count{{http_request_method=\"GET\",http_response_status_code=\"{status}\",network_protocol_version=\"1.1\",server_address=\"orders\""
        )
    };
    assert!(page.contains(&call(200)) && page.contains(&call(503)), "{page}");
}

#[tokio::test]
async fn what_is_not_to_be_measured_is_no_upstream_on_the_page() {
    let running = flaky().await;
    let app = Upstream::fixed([running.address]);
    let gateway = Gateway::builder(MemoryRegistry::default())
        .upstream(app.clone(), UpstreamPolicy::new().unmeasured())
        .route(Route::new("/a").to(app))
        .build()
        .unwrap();
    let (live, metrics) = (Live::new(gateway.clone()), gateway.metrics().clone());
    live.report_to(&metrics);
    assert_eq!(ask(&gateway, to("/a")).await.status(), 200);
    let page = metrics.render_prometheus();
    assert!(page.contains("http_server_request_duration_seconds"), "{page}");
    for family in ["http_client", "gusset_calls", "gusset_breaker"] {
        assert!(!page.contains(family), "{family} in {page}");
    }
}

#[tokio::test]
async fn the_page_is_that_of_the_gateway_which_serves_and_keeps_none_alive() {
    let gateway = |to: &str, metrics: &Metrics| {
        let route = Route::new("/a").to(to);
        Gateway::builder(MemoryRegistry::default()).route(route).metrics(metrics.clone()).build()
    };
    let metrics = Metrics::new();
    let live = Live::new(gateway("one", &metrics).unwrap());
    live.report_to(&metrics);
    assert!(metrics.render_prometheus().contains("gusset_calls_total{upstream=\"one\"} 0\n"));
    drop(live.swap(gateway("two", &metrics).unwrap()));
    let page = metrics.render_prometheus();
    assert!(page.contains("upstream=\"two\"") && !page.contains("upstream=\"one\""), "{page}");
    drop(live);
    assert!(!metrics.render_prometheus().contains("upstream="));
}

#[tokio::test]
async fn of_many_circuits_those_that_are_not_closed_are_shown_before_all_others() {
    let addresses = (1..=300).map(|port| ([10, 0, 0, 1], port).into());
    let all = Upstream::fixed(addresses);
    let policy = UpstreamPolicy::new().pick(Picker::from(RoundRobin));
    let gateway = Gateway::builder(MemoryRegistry::default())
        .upstream(all.clone(), policy)
        .route(Route::new("/a").to(all))
        .build()
        .unwrap();
    let last = gateway.breakers().into_iter().max_by_key(|one| one.instance.port).unwrap();
    last.circuit.force_open();
    let live = Live::new(gateway.clone());
    live.report_to(gateway.metrics());
    let page = gateway.metrics().render_prometheus();
    let closed =
        |line: &&str| line.starts_with("gusset_breaker_state") && line.contains("\"closed\"");
    assert_eq!(page.lines().filter(closed).count(), 200);
    let open = format!("circuit=\"{}\",state=\"forced_open\"}} 1\n", last.instance.id);
    assert!(page.contains(&open), "{page}");
    assert!(page.contains("gusset_samples_dropped_total 0\n"));
}

#[tokio::test]
async fn services_that_are_found_by_their_host_are_counted_each_by_its_name() {
    let running = flaky().await;
    let registry = registry("cart", &[running.address]).await;
    let metrics = Metrics::new();
    let empty = Gateway::builder(registry.clone()).build().unwrap();
    let counted = metrics.clone();
    let outbound = ByHost::new(empty, move |service: &str| {
        let route = Route::new("/{*path}").to(service).retry(at_once());
        Gateway::builder(registry.clone()).metrics(counted.clone()).route(route).build().ok()
    });
    let reported = outbound.clone();
    metrics.on_render(move |samples| reported.report(samples));
    let request = http::Request::get("http://cart/a").body(http_body_util::Empty::new()).unwrap();
    let answer = tower::ServiceExt::<http::Request<http_body_util::Empty<bytes::Bytes>>>::oneshot(
        outbound, request,
    );
    assert_eq!(answer.await.unwrap().status(), 200);
    let page = metrics.render_prometheus();
    for line in [
        "gusset_retries_total{upstream=\"cart\"} 1\n",
        "gusset_breaker_state{upstream=\"cart\",circuit=\"",
        "server_address=\"cart\"",
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }
}
