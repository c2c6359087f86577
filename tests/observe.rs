//! A broker between sidecars: one trace, and one page of metrics.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use gusset::{
    broker::{Broker, Delivery, Message},
    call::{TraceContext, TraceState},
    observe,
    sidecar::{Record, Recorder, ReplayBody, Sidecar, SpanKind},
};
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::sleep;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

type Body = Full<Bytes>;

const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

fn of(records: &[Record], kind: SpanKind) -> &Record {
    let mut found = records.iter().filter(|record| record.kind == kind);
    let first = found.next().unwrap();
    assert!(found.next().is_none(), "{records:?}");
    first
}

#[tokio::test(start_paused = true)]
async fn a_request_its_message_and_the_call_of_the_handler_are_one_trace() {
    let broker = Broker::new();
    let recorder = Recorder::new("orders");
    let orders = Sidecar::with_recorder(recorder.clone());
    let stock = Sidecar::with_recorder(recorder.for_service("stock"));

    // Answers the headers that it got, so that one sees what went out.
    let (seen, mut went_out) = tokio::sync::mpsc::unbounded_channel();
    let depot = service_fn(move |request: Request<ReplayBody<Body>>| {
        let _ = seen.send(request.headers().clone());
        async { Ok::<_, Infallible>(Response::new(Body::default())) }
    });
    let client = stock.outbound("depot").layer(depot);
    let handler = service_fn(move |_: Delivery<u32>| {
        let request = Request::get("/").body(Body::default()).unwrap();
        let called = client.clone().oneshot(request);
        async move { called.await.map(drop) }
    });
    let handler = observe::spans(&broker, stock.recorder()).layer(handler);
    let _stock = broker.subscribe("order.*").group("stock").handle(handler).await.unwrap();

    let publisher = observe::spans(&broker, orders.recorder()).layer(broker.publisher());
    let app = ServiceBuilder::new().layer(orders.inbound()).service(service_fn(
        move |_: Request<Body>| {
            let message = Message::json("order.created", &7).unwrap();
            let published = publisher.clone().oneshot(message);
            async move {
                published.await.unwrap();
                Ok::<_, Infallible>(Response::new(Body::default()))
            }
        },
    ));
    let caller = TraceContext::new_root();
    let request = Request::post("/orders")
        .header("traceparent", caller.to_string())
        .header("tracestate", STATE)
        .body(Body::default())
        .unwrap();
    drop(app.oneshot(request).await.unwrap());
    sleep(Duration::from_secs(1)).await;

    let records = recorder.trace(caller.trace_id());
    assert_eq!(records.len(), 4, "{records:?}");
    let (mut cause, mut services) = (caller.span_id(), Vec::new());
    for kind in [SpanKind::Server, SpanKind::Producer, SpanKind::Consumer, SpanKind::Client] {
        let record = of(&records, kind);
        assert_eq!(record.parent_id, Some(cause), "{kind:?}");
        services.push(record.service.to_string());
        cause = record.span_id;
    }
    assert_eq!(services, ["orders", "orders", "stock", "stock"]);
    let headers = went_out.recv().await.unwrap();
    assert!(headers["traceparent"].to_str().unwrap().contains(&cause.to_string()));
    assert_eq!(headers["tracestate"], STATE);
    assert_eq!(TraceState::current(), None);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_fail_are_failures_with_the_reason_and_the_number() {
    let (broker, sidecar) = (Broker::new(), Sidecar::new("stock"));
    observe::numbers(&broker, sidecar.metrics());
    let handler = service_fn(|delivery: Delivery<u32>| async move {
        if delivery.attempt().is_retry() { Ok(()) } else { Err("once more") }
    });
    let handler = observe::spans(&broker, sidecar.recorder()).layer(handler);
    let _guard = broker.subscribe(">").group("stock").handle(handler).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    sleep(Duration::from_secs(5)).await;

    let [second, first] = &sidecar.recorder().recent(9)[..] else { panic!() };
    assert_eq!(
        (first.attempt, first.is_failure(), first.error.as_deref()),
        (1, true, Some("once more"))
    );
    assert_eq!((second.attempt, second.is_failure(), second.error.as_deref()), (2, false, None));
    assert!(first.tags.contains(&("error.type".into(), "error".into())));
    assert!(first.tags.contains(&("messaging.destination.name".into(), "tick".into())));
    let text = sidecar.metrics().render_prometheus();
    for line in [
        "# TYPE gusset_broker_redelivered_total counter",
        "gusset_broker_redelivered_total{group=\"stock\"} 1",
        "gusset_broker_lag{group=\"stock\"} 0",
        "gusset_broker_dead_letters 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn circuits_limiters_and_sagas_are_on_the_page_and_promtool_agrees() {
    use gusset::{
        breaker::{Circuits, Policy},
        ratelimit::{Concurrency, ConcurrencyLimiter, Priority, Quota, RateLimiter},
        saga::{MemoryStore, Orchestrator},
    };
    let (sidecar, broker) = (Sidecar::new("shop"), Broker::new());
    let metrics = sidecar.metrics();
    let circuits = Circuits::<String>::new(Policy::default(), 300.try_into().unwrap());
    for n in 0..250 {
        let _ = circuits.get(format!("db{n:03}"));
    }
    circuits.get("db240".into()).force_open();
    let _ = circuits.get("db240".into()).try_acquire().map(drop);
    let limiter = std::sync::Arc::new(RateLimiter::new(Quota::per_second(1)));
    let allowed = (0..5).filter(|_| limiter.check().is_ok()).count();
    let at_once = ConcurrencyLimiter::new("api", Concurrency::fixed(2.try_into().unwrap()));
    let _running = at_once.try_acquire(Priority::Normal).unwrap();

    observe::circuits(&circuits, metrics);
    observe::limiter("logins", move || limiter.stats(), metrics);
    observe::concurrency(&at_once, metrics);
    observe::sagas(&Orchestrator::new(MemoryStore::new()), metrics);
    observe::numbers(&broker, metrics);
    let text = metrics.render_prometheus();
    for line in [
        "gusset_breaker_state{circuit=\"db240\",state=\"forced_open\"} 1",
        "gusset_breaker_state{circuit=\"db240\",state=\"closed\"} 0",
        "gusset_breaker_calls_total{circuit=\"db240\",outcome=\"refused\"} 1",
        "gusset_breaker_state{circuit=\"db000\",state=\"closed\"} 1",
        "gusset_concurrency_limit{limiter=\"api\"} 2",
        "gusset_concurrency_in_flight{limiter=\"api\"} 1",
        "gusset_saga_events_total{event=\"started\"} 0",
        &format!(
            "gusset_limiter_calls_total{{limiter=\"logins\",outcome=\"refused\"}} {}",
            5 - allowed
        ),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(
        text.matches("state=\"closed\"").count(),
        200,
        "the first by name, and who is not closed"
    );

    let mut tool = std::process::Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(std::process::Stdio::piped());
    let mut tool = tool.stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut tool.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
