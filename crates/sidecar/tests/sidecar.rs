//! The composed sidecar, from a request that comes in to the calls it makes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{BoxError, Deadline, DeadlineExceeded, Open};
use gusset_sidecar::{
    ATTEMPT_HEADER, Backoff, DeadlineLayer, End, Fault, FaultLayer, HedgePolicy, ReplayBody,
    RetryPolicy, Sidecar, SpanKind, spawn,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use support::{Client, Step, Upstream, answer, request, status};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

fn orders() -> Sidecar {
    Sidecar::new("orders")
        .deadline(DeadlineLayer::server(Duration::from_secs(2)))
        .retry(RetryPolicy::default().backoff(Backoff::default().without_jitter()))
}

#[tokio::test(start_paused = true)]
async fn one_order_is_one_trace_with_its_deadline_and_its_retries() {
    let sidecar = orders();
    let upstream = Upstream::new([status(503)]);
    let payments =
        ServiceBuilder::new().layer(sidecar.outbound("payments")).service(Client(upstream.clone()));
    let app = service_fn(move |_: Request<Full<Bytes>>| {
        let payments = payments.clone();
        async move {
            let response = payments.oneshot(request("PUT", "42 EUR")).await?;
            response.into_body().collect().await?;
            Ok::<_, BoxError>(answer(201))
        }
    });
    let app = sidecar.inbound().layer(app);
    let response = app.oneshot(request("POST", "")).await.unwrap();
    assert_eq!(response.status(), 201);
    response.into_body().collect().await.unwrap();

    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.body == "42 EUR"));
    assert_eq!(seen[0].headers["x-request-timeout-ms"], "2000");
    assert_eq!(seen[1].headers["x-request-timeout-ms"], "1900");
    assert_eq!(seen[0].headers["traceparent"], seen[1].headers["traceparent"]);

    let trace = sidecar.recorder().trace(sidecar.recorder().recent(1)[0].trace_id);
    let kinds: Vec<_> = trace.iter().map(|record| record.kind).collect();
    assert_eq!(trace.len(), 2);
    assert!(kinds.contains(&SpanKind::Server) && kinds.contains(&SpanKind::Client));
    let text = sidecar.metrics().render_prometheus();
    assert!(trace.iter().any(|record| record.name() == "PUT payments"));
    let summary = |upstream| {
        let wanted = Some(upstream);
        sidecar.metrics().snapshot().summary(|series| series.peer.as_deref() == wanted)
    };
    assert_eq!((summary("payments").count(), summary("payments").errors), (1, 0), "one call");
    for line in [
        "gusset_retries_total{upstream=\"payments\"} 1\n",
        "gusset_retries_given_up_total{upstream=\"payments\",reason=\"exhausted\"} 0\n",
        "gusset_traces_recorded_total 2\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_spawns_calls_within_its_trace_its_deadline_and_its_attempt() {
    let sidecar = orders();
    let upstream = Upstream::new([status(503)]);
    let payments = sidecar.outbound("payments").layer(Client(upstream.clone()));
    let work = sidecar.clone();
    let app = service_fn(move |_: Request<Full<Bytes>>| {
        let call = payments.clone().oneshot(request("PUT", "42 EUR"));
        // A task within an operation within a task.
        let call = work.intercept("pay", async { spawn(call).await.expect("it does not panic") });
        async move { spawn(call).await.expect("nor does this") }
    });
    let mut again = request("POST", "");
    again.headers_mut().insert(ATTEMPT_HEADER, 2.into());
    let response = sidecar.inbound().layer(app).oneshot(again).await.unwrap();
    assert_eq!(response.status(), 503, "whoever tries the whole again does the retries");
    response.into_body().collect().await.unwrap();

    let seen = upstream.seen();
    assert_eq!(
        (seen.len(), &seen[0].headers["x-request-timeout-ms"]),
        (1, &"2000".parse().unwrap())
    );
    let trace = sidecar.recorder().trace(sidecar.recorder().recent(1)[0].trace_id);
    let of = |kind| trace.iter().find(|record| record.kind == kind).unwrap();
    assert_eq!(trace.len(), 3);
    assert_eq!(of(SpanKind::Internal).parent_id, Some(of(SpanKind::Server).span_id));
    assert_eq!(of(SpanKind::Client).parent_id, Some(of(SpanKind::Internal).span_id));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_answered_and_seen_with_the_status_of_the_answer() {
    let sidecar = orders();
    for (step, status) in [
        (Step::Refuse(Open::new("db").into()), StatusCode::SERVICE_UNAVAILABLE),
        (Step::Hang, StatusCode::GATEWAY_TIMEOUT),
        (Step::Fail("bug".into()), StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let app = sidecar.inbound().layer(Client(Upstream::new([step])));
        let response = app.oneshot(request("GET", "")).await.unwrap();
        assert_eq!(response.status(), status);
        response.into_body().collect().await.unwrap();
        let record = &sidecar.recorder().recent(1)[0];
        assert_eq!((record.status, record.end), (Some(status.as_u16()), End::Complete));
    }
    let total = sidecar.metrics().snapshot().total(SpanKind::Server);
    assert_eq!((total.count(), total.errors), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn each_upstream_has_a_budget_of_its_own() {
    let sidecar = orders();
    let (one, two) = (sidecar.outbound("one"), sidecar.outbound("two"));
    let calls: Vec<_> = (0..300)
        .map(|_| {
            let dead = Upstream::new([status(503), status(503), status(503), status(503)]);
            tokio::spawn(one.layer(Client(dead)).oneshot(request("GET", "")))
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(one.retry().stats().over_budget > 0);
    let upstream = Upstream::new([status(503)]);
    let response = two.layer(Client(upstream)).oneshot(request("GET", "")).await.unwrap();
    assert_eq!(response.status(), 200);
}

fn is_a_layer_for_servers<L: Clone + Send + Sync + 'static>(_: L) {}

#[test]
fn layers_can_be_cloned_sent_and_shared() {
    is_a_layer_for_servers(orders().inbound());
    is_a_layer_for_servers(orders().outbound("payments"));
    is_a_layer_for_servers(orders());
}

type Twice = ReplayBody<ReplayBody<Full<Bytes>>>;

#[tokio::test(start_paused = true)]
async fn hedges_faults_and_deadlines_of_bodies_stand_where_they_belong() {
    let (sidecar, faults) = (orders(), FaultLayer::new());
    let made = Arc::new(AtomicU32::new(0));
    let calls = made.clone();
    let client = service_fn(move |request: Request<Twice>| {
        let number = calls.fetch_add(1, SeqCst);
        let endless = request.uri().path() == "/endless";
        async move {
            if number == 10 {
                pending().await
            }
            let body = if endless {
                StreamBody::new(futures_util::stream::pending()).boxed_unsync()
            } else {
                Full::from("stock").map_err(BoxError::from).boxed_unsync()
            };
            Ok::<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>(Response::new(body))
        }
    });
    let layer = sidecar.outbound("stock").body_deadline().fault(faults.clone());
    let layer = layer.hedge(HedgePolicy::default().min_samples(10));
    let stock = layer.layer(client);
    let get = |path: &str| Request::get(path).body(Full::<Bytes>::default()).unwrap();

    for _ in 0..10 {
        stock.clone().oneshot(get("/")).await.unwrap();
    }
    // The eleventh hangs, and a hedge answers in its place, out of the retries' budget.
    assert_eq!(stock.clone().oneshot(get("/")).await.unwrap().status(), 200);
    assert_eq!(made.load(SeqCst), 12);
    assert_eq!(layer.retry().budget().unwrap().stats().withdrawn, 1);
    assert_eq!(layer.retry().stats().retries, 0);
    let text = sidecar.metrics().render_prometheus();
    assert!(text.contains("gusset_hedges_won_total{upstream=\"stock\"} 1"), "{text}");

    // Each attempt meets the fault, and the trace has what the caller got.
    faults.set([Fault::abort(StatusCode::BAD_GATEWAY)]);
    assert_eq!(stock.clone().oneshot(get("/")).await.unwrap().status(), 502);
    faults.set([]);
    assert_eq!((faults.stats().aborts, made.load(SeqCst)), (4, 12));
    assert_eq!(sidecar.recorder().recent(1)[0].status, Some(502));

    let mut request = get("/endless");
    request.extensions_mut().insert(Deadline::after(Duration::from_secs(2)));
    let answer = stock.oneshot(request).await.unwrap();
    let error = answer.into_body().collect().await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>(), "{error}");
    assert_eq!(sidecar.recorder().recent(1)[0].end, End::Error);
}

#[tokio::test(start_paused = true)]
async fn a_server_may_have_faults_and_deadlines_of_bodies_too() {
    let (sidecar, faults) = (orders(), FaultLayer::new());
    let app = service_fn(async |_: Request<Full<Bytes>>| {
        let body = StreamBody::new(futures_util::stream::pending());
        let body = BodyExt::boxed_unsync(body);
        Ok::<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>(Response::new(body))
    });
    let app = sidecar.inbound().body_deadline().fault(faults.clone()).layer(app);
    let answer = app.clone().oneshot(request("GET", "")).await.unwrap();
    assert!(answer.into_body().collect().await.is_err(), "it is over after two seconds");
    faults.set([Fault::abort(StatusCode::IM_A_TEAPOT)]);
    assert_eq!(app.oneshot(request("GET", "")).await.unwrap().status(), 418);
}
