//! Traces as they cross services and end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{convert::Infallible, future::Future, panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use gusset_call::{BoxError, Context, TraceContext};
use gusset_sidecar::{
    Details, End, Metrics, MetricsLayer, Ratio, Record, Recorder, Route, Sidecar, SpanKind,
    TraceLayer,
};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use support::{Client, Dice, Step, Upstream, answer, request};
use tokio::time::{advance, sleep, timeout};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt, service_fn};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn with(headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = request("GET", "");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

async fn echo_context(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let trace = Context::current().trace().unwrap();
    Ok(Response::new(Full::from(trace.to_string())))
}

/// The one record that is there.
fn only(recorder: &Recorder) -> Record {
    let records = recorder.recent(10);
    assert_eq!(records.len(), 1, "{records:?}");
    records[0].clone()
}

#[tokio::test]
async fn a_server_continues_the_trace_of_its_caller() {
    let recorder = Recorder::new("orders");
    let server = TraceLayer::server(recorder.clone()).layer(service_fn(echo_context));
    let response = server.oneshot(with(&[("traceparent", PARENT)])).await.unwrap();
    let inside = response.into_body().collect().await.unwrap().to_bytes();

    let record = only(&recorder);
    let parent: TraceContext = PARENT.parse().unwrap();
    assert_eq!(record.trace_id, parent.trace_id());
    assert_eq!(record.parent_id, Some(parent.span_id()));
    assert_eq!(&*inside, format!("00-{}-{}-01", record.trace_id, record.span_id).as_bytes());
    assert_eq!((record.kind, record.status), (SpanKind::Server, Some(200)));
    assert_eq!((&*record.service, record.end), ("orders", End::Complete));
}

#[tokio::test]
async fn a_malformed_header_begins_a_new_trace() {
    for malformed in ["", "00-xyz", &PARENT.to_uppercase(), &format!("{PARENT}-")] {
        let recorder = Recorder::new("s");
        let server = TraceLayer::server(recorder.clone()).layer(service_fn(echo_context));
        server.oneshot(with(&[("traceparent", malformed)])).await.unwrap();
        assert_eq!(only(&recorder).parent_id, None, "{malformed}");
    }
}

#[tokio::test]
async fn a_call_through_two_services_is_one_trace_with_the_right_parents_and_state() {
    let ring = Recorder::new("gateway");
    let upstream = Upstream::new([]);
    let inner = {
        let client = TraceLayer::client(ring.for_service("orders")).layer(Client(upstream.clone()));
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            let client = client.clone();
            async move { client.oneshot(request("POST", "")).await }
        });
        TraceLayer::server(ring.for_service("orders")).layer(handler)
    };
    let outer = TraceLayer::client(ring.clone()).layer(inner);
    let parent: TraceContext = PARENT.parse().unwrap();
    let response = Context::default()
        .with_trace(parent)
        .scope(outer.oneshot(with(&[("tracestate", "stale=1")])))
        .await
        .unwrap();
    response.into_body().collect().await.unwrap();

    let spans = ring.trace(parent.trace_id());
    let [client, server, last] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(client.parent_id, Some(parent.span_id()));
    assert_eq!(server.parent_id, Some(client.span_id));
    assert_eq!(last.parent_id, Some(server.span_id));
    let services: Vec<_> = spans.iter().map(|span| &*span.service).collect();
    assert_eq!(services, ["gateway", "orders", "orders"]);

    let seen = &upstream.seen()[0].headers;
    assert_eq!(seen["traceparent"], format!("00-{}-{}-01", last.trace_id, last.span_id));
    assert!(!seen.contains_key("tracestate"), "it belonged to no parent of this call");
    assert_eq!(last.peer.as_ref().unwrap().as_str(), "upstream");
}

#[tokio::test]
async fn tracestate_reaches_the_clients_inside_the_handler() {
    let upstream = Upstream::new([]);
    let client = TraceLayer::client(Recorder::new("s")).layer(Client(upstream.clone()));
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let client = client.clone();
        async move { client.oneshot(request("GET", "")).await }
    });
    let server = TraceLayer::server(Recorder::new("s")).layer(handler);
    let both = [("traceparent", PARENT), ("tracestate", "vendor=1,other=2")];
    server.clone().oneshot(with(&both)).await.unwrap();
    server.oneshot(with(&both[1..])).await.unwrap();
    let seen = upstream.seen();
    assert_eq!(seen[0].headers["tracestate"], "vendor=1,other=2");
    assert!(!seen[1].headers.contains_key("tracestate"), "a state without a parent is none");
}

#[tokio::test]
async fn the_sampling_of_the_caller_is_kept_and_new_traces_take_the_share() {
    let recorder = Recorder::new("s");
    let layer = TraceLayer::server(recorder.clone()).sample(Ratio::NONE);
    for headers in [&[("traceparent", PARENT)][..], &[]] {
        layer.layer(service_fn(echo_context)).oneshot(with(headers)).await.unwrap();
    }
    let sampled: Vec<_> = recorder.recent(2).iter().map(|record| record.sampled).collect();
    assert_eq!(sampled, [false, true]);
}

#[tokio::test]
async fn the_operation_is_the_route_and_never_the_path() {
    #[derive(Clone)]
    struct Matched(&'static str);
    let recorder = Recorder::new("s");
    let record =
        async |layer: TraceLayer, request: Request<Full<Bytes>>, route: Option<&'static str>| {
            let handler = service_fn(move |_: Request<Full<Bytes>>| async move {
                let mut response = answer(200);
                if let Some(route) = route {
                    response.extensions_mut().insert(Route::from(route));
                }
                Ok::<_, Infallible>(response)
            });
            let response = layer.layer(handler).oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
            recorder.recent(1)[0].operation.to_string()
        };
    let layer = || TraceLayer::server(recorder.clone());
    let secret = || Request::get("/users/alice?token=secret").body(Full::default()).unwrap();
    assert_eq!(record(layer(), secret(), None).await, "GET");

    let mut routed = secret();
    routed.extensions_mut().insert(Route::from("/users/{id}"));
    assert_eq!(record(layer(), routed, None).await, "/users/{id}");

    let mut foreign = secret();
    foreign.extensions_mut().insert(Matched("/u/{id}"));
    let layer_of = layer().route_of(|extensions| Some(extensions.get::<Matched>()?.0.into()));
    assert_eq!(record(layer_of, foreign, None).await, "/u/{id}");

    assert_eq!(record(layer(), secret(), Some("/late/{id}")).await, "/late/{id}");
    let everything = format!("{:?}", recorder.recent(10));
    assert!(!everything.contains("secret") && !everything.contains("alice"));
    assert_eq!(record(layer().record(Details::new().paths()), secret(), None).await, "GET");
    assert_eq!(recorder.recent(1)[0].path.as_deref(), Some("/users/alice"));
    assert!(!format!("{:?}", recorder.recent(10)).contains("secret"), "never a query");
}

#[tokio::test]
async fn no_header_is_recorded_unless_it_is_named_and_none_that_lets_somebody_in_unless_as_a_secret()
 {
    const SECRETS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
    let recorder = Recorder::new("s");
    let tags = async |details: Details| {
        let handler = service_fn(|_: Request<Full<Bytes>>| async {
            let mut answer = answer(200);
            for name in SECRETS.into_iter().chain(["x-tenant"]) {
                answer.headers_mut().insert(name, "s3cret".parse().unwrap());
            }
            Ok::<_, Infallible>(answer)
        });
        let mut request = with(&SECRETS.map(|name| (name, "s3cret")));
        for value in ["a", "b"] {
            request.headers_mut().append("x-tenant", value.parse().unwrap());
        }
        let mut marked: HeaderValue = "s3cret".parse().unwrap();
        marked.set_sensitive(true);
        request.headers_mut().insert("x-key", marked);
        let layer = TraceLayer::server(recorder.clone()).record(details);
        let response = layer.layer(handler).oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        recorder.recent(1)[0].tags.clone()
    };
    assert_eq!(tags(Details::new()).await, []);
    let named = SECRETS.into_iter().chain(["x-key", "x-none"]).map(HeaderName::from_static);
    let details = named.clone().fold(Details::new(), Details::header);
    assert_eq!(tags(details.clone()).await, [], "whatever is named by `header`");
    let tenant = details.header(HeaderName::from_static("x-tenant"));
    let tag = |key: &'static str, value: &'static str| (key.into(), value.into());
    let expected = [
        tag("http.request.header.x-tenant", "a, b"),
        tag("http.response.header.x-tenant", "s3cret"),
    ];
    assert_eq!(tags(tenant).await, expected);
    let secrets = named.fold(Details::new(), Details::secret_header);
    assert_eq!(tags(secrets).await.len(), 9, "four on each side, and the marked one");
}

#[tokio::test]
async fn a_path_is_recorded_only_of_what_may_be_exported_and_no_longer_than_a_text() {
    let recorder = Recorder::new("s");
    let layer =
        TraceLayer::server(recorder.clone()).record(Details::new().paths()).sample(Ratio::NONE);
    let record = async |path: &str, status: u16| {
        let handler = service_fn(move |_: Request<Full<Bytes>>| async move {
            Ok::<_, Infallible>(answer(status))
        });
        let request = Request::get(path).body(Full::default()).unwrap();
        let response = layer.layer(handler).oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        recorder.recent(1)[0].path.clone()
    };
    assert_eq!(record("/a", 200).await, None);
    assert_eq!(record(&format!("/{}", "b".repeat(5_000)), 500).await.unwrap().len(), 256);
    assert_eq!(record("/a", 500).await.as_deref(), Some("/a"), "nothing is left of another's");
}

#[tokio::test]
async fn the_operation_of_a_client_is_its_upstream_and_not_the_route_it_is_called_for() {
    let recorder = Recorder::new("gateway");
    let layer = TraceLayer::client(recorder.clone()).upstream("orders");
    let mut forwarded = request("GET", "");
    forwarded.extensions_mut().insert(Route::from("/api/orders"));
    let response = layer.layer(Client(Upstream::new([]))).oneshot(forwarded).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(only(&recorder).name(), "GET orders");
}

#[tokio::test(start_paused = true)]
async fn a_span_ends_with_the_last_byte_of_the_body() {
    let recorder = Recorder::new("s");
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        let (frames, body) = tokio::sync::mpsc::channel::<Bytes>(1);
        tokio::spawn(async move {
            for _ in 0..3 {
                sleep(Duration::from_secs(1)).await;
                let _ = frames.send(Bytes::from("x")).await;
            }
        });
        Ok::<_, Infallible>(Response::new(StreamBody::new(Channel(body))))
    });
    let server = TraceLayer::server(recorder.clone()).layer(handler);
    let response = server.oneshot(with(&[])).await.unwrap();
    assert!(recorder.recent(1).is_empty());
    response.into_body().collect().await.unwrap();
    let record = only(&recorder);
    assert_eq!((record.duration.as_secs(), record.end), (3, End::Complete));
}

struct Channel(tokio::sync::mpsc::Receiver<Bytes>);

impl futures_core::Stream for Channel {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|frame| frame.map(|data| Ok(Frame::data(data))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_polled_within_the_context_of_its_request() {
    struct Inside(bool);
    impl http_body::Body for Inside {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let trace = Context::current().trace().unwrap().trace_id().to_string();
            let first = !std::mem::replace(&mut self.0, true);
            std::task::Poll::Ready(first.then(|| Ok(Frame::data(trace.into()))))
        }
    }
    let recorder = Recorder::new("s");
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Inside(false)))
    });
    let server = TraceLayer::server(recorder.clone()).layer(handler);
    let body = server.oneshot(with(&[("traceparent", PARENT)])).await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), &PARENT[3..35]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_is_an_error() {
    let recorder = Recorder::new("s");
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        let (frames, body) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move { frames.send(Err::<Frame<Bytes>, _>("reset")).await });
        Ok::<_, Infallible>(Response::new(StreamBody::new(Results(body))))
    });
    let server = TraceLayer::server(recorder.clone()).layer(handler);
    let response = server.oneshot(with(&[])).await.unwrap();
    response.into_body().collect().await.unwrap_err();
    assert_eq!(only(&recorder).end, End::Error);
}

struct Results(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, &'static str>>);

impl futures_core::Stream for Results {
    type Item = Result<Frame<Bytes>, &'static str>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

#[tokio::test]
async fn a_body_that_is_only_partly_read_is_cancelled_and_one_that_needs_no_reading_is_not() {
    let end = async |method: &str, status: u16, body: &'static str, read: bool| {
        let recorder = Recorder::new("s");
        let handler = service_fn(move |_: Request<Full<Bytes>>| async move {
            let body = Full::<Bytes>::from(body);
            Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
        });
        let server = TraceLayer::server(recorder.clone()).layer(handler);
        let response = server.oneshot(request(method, "")).await.unwrap();
        if read {
            // One frame is all there is, and a server does not ask again.
            response.into_body().frame().await.unwrap().unwrap();
        } else {
            drop(response);
        }
        only(&recorder).end
    };
    assert_eq!(end("GET", 200, "body", false).await, End::Cancelled);
    assert_eq!(end("GET", 200, "body", true).await, End::Complete);
    assert_eq!(end("GET", 200, "", false).await, End::Complete);
    assert_eq!(end("HEAD", 200, "body", false).await, End::Complete);
    assert_eq!(end("GET", 304, "body", false).await, End::Complete);
}

#[tokio::test]
async fn a_body_is_whole_when_as_many_bytes_went_as_content_length_promised() {
    let recorder = Recorder::new("s");
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        let (frames, body) = tokio::sync::mpsc::channel(2);
        frames.send(Bytes::from("12")).await.unwrap();
        frames.send(Bytes::from("345")).await.unwrap();
        tokio::spawn(async move { frames.closed().await });
        let response = Response::builder().header("content-length", "5");
        Ok::<_, Infallible>(response.body(StreamBody::new(Channel(body))).unwrap())
    });
    let server = TraceLayer::server(recorder.clone()).layer(handler);
    let mut body = server.oneshot(with(&[])).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(recorder.recent(1).is_empty());
    body.frame().await.unwrap().unwrap();
    assert_eq!(only(&recorder).end, End::Complete);
}

#[tokio::test]
async fn an_error_is_recorded_with_its_text_cut_to_a_bound() {
    let recorder = Recorder::new("s");
    let text = "ü".repeat(500);
    let handler = {
        let text = text.clone();
        service_fn(move |_: Request<Full<Bytes>>| {
            let text = text.clone();
            async move { Err::<Response<Full<Bytes>>, _>(text) }
        })
    };
    let server = TraceLayer::server(recorder.clone()).layer(handler);
    assert_eq!(server.oneshot(with(&[])).await.map(drop).unwrap_err(), text, "it comes out whole");
    let record = only(&recorder);
    assert_eq!((record.end, record.status), (End::Error, None));
    assert_eq!(record.error.as_deref(), Some(&*"ü".repeat(128)));
}

#[tokio::test]
async fn a_panic_is_recorded_as_one_even_where_it_is_caught() {
    let recorder = Recorder::new("s");
    let panics = service_fn(|_: Request<Full<Bytes>>| async {
        panic!("bug") as Result<Response<Full<Bytes>>, Infallible>
    });
    let server = TraceLayer::server(recorder.clone()).layer(panics);
    let mut call = Box::pin(server.oneshot(with(&[])));
    let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _ = task::spawn(call.as_mut()).poll();
    }));
    assert!(caught.is_err());
    assert_eq!(only(&recorder).end, End::Panicked);
    drop(call);
    assert_eq!(recorder.stats().recorded, 1, "and only once");
}

#[tokio::test]
async fn grpc_status_is_taken_from_the_trailers() {
    let recorder = Recorder::new("s");
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        let (frames, body) = tokio::sync::mpsc::channel(2);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "14".parse().unwrap());
        frames.send(Ok(Frame::data(Bytes::from("message")))).await.unwrap();
        frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
        Ok::<_, Infallible>(Response::new(StreamBody::new(Results(body))))
    });
    let server = TraceLayer::server(recorder.clone()).layer(handler);
    server.oneshot(with(&[])).await.unwrap().into_body().collect().await.unwrap();
    let record = only(&recorder);
    assert_eq!(record.grpc_status, Some(14));
    assert!(record.is_failure());
}

#[tokio::test(start_paused = true)]
async fn work_that_is_no_request_is_traced_by_intercept() {
    let sidecar = Sidecar::new("orders");
    let upstream = Upstream::new([]);
    let client = TraceLayer::client(sidecar.recorder().clone()).layer(Client(upstream.clone()));
    let work = sidecar.intercept("createOrder", async {
        sleep(Duration::from_millis(20)).await;
        client.oneshot(request("GET", "")).await
    });
    work.tag("order.id", "7").await.unwrap().into_body().collect().await.unwrap();

    let failed = sidecar.intercept("createOrder", async { Err::<(), _>("no stock") });
    assert_eq!(failed.await, Err("no stock"));
    let hangs = sidecar.intercept("createOrder", std::future::pending::<Result<(), Infallible>>());
    timeout(Duration::from_secs(1), hangs).await.unwrap_err();

    let mut records = sidecar.recorder().recent(10);
    records.retain(|record| record.kind == SpanKind::Internal);
    let ends: Vec<_> = records.iter().map(|record| record.end).collect();
    assert_eq!(ends, [End::Cancelled, End::Error, End::Complete]);
    assert_eq!(records[1].error.as_deref(), Some("no stock"));
    let good = &records[2];
    assert_eq!(good.tags, [("order.id".into(), "7".into())]);
    assert_eq!((good.duration.as_millis(), &*good.operation), (20, "createOrder"));
    let trace = sidecar.recorder().trace(good.trace_id);
    assert_eq!(trace[1].parent_id, Some(good.span_id), "the client's span is below it");
    let total = sidecar.metrics().snapshot().total(SpanKind::Internal);
    assert_eq!((total.count(), total.errors), (3, 1));
}

/// 10,000 calls that are dropped at a random moment, before, within or after the handler or the body.
#[tokio::test(start_paused = true)]
async fn cancelled_calls_leak_neither_gauge_nor_span() {
    const CALLS: u64 = 10_000;
    let sidecar = Sidecar::with_recorder(Recorder::with_capacity("s", 50_000));
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        sleep(Duration::from_millis(5)).await;
        let (frames, body) = tokio::sync::mpsc::channel::<Bytes>(1);
        tokio::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            let _ = frames.send(Bytes::from("x")).await;
        });
        Ok::<_, Infallible>(Response::new(StreamBody::new(Channel(body))))
    });
    let server = sidecar.inbound().layer(handler);
    let mut dice = Dice(7);
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let server = server.clone();
        let patience = Duration::from_millis(dice.roll(15));
        calls.push(tokio::spawn(async move {
            let call = async {
                let response = server.oneshot(request("GET", "")).await.unwrap();
                response.into_body().collect().await.map(drop)
            };
            let _ = timeout(patience, call).await;
        }));
        if dice.roll(10) == 0 {
            advance(Duration::from_millis(1)).await;
        }
    }
    for call in calls {
        call.await.unwrap();
    }
    let snapshot = sidecar.metrics().snapshot();
    assert!(snapshot.active.is_empty(), "{:?}", snapshot.active);
    let measured: u64 = snapshot.series.iter().map(|series| series.durations.count()).sum();
    let records = sidecar.recorder().recent(usize::MAX);
    assert_eq!((measured, records.len() as u64), (CALLS, CALLS));
    for end in [End::Complete, End::Cancelled] {
        let traced = records.iter().filter(|record| record.end == end).count() as u64;
        let counted = snapshot.summary(|series| series.end == end).count();
        assert_eq!(traced, counted);
        assert!(traced > 500, "{traced} {end:?}");
    }
}

#[tokio::test]
async fn one_layer_for_traces_and_metrics_sees_what_two_layers_see() {
    let handler = || {
        service_fn(|request: Request<Full<Bytes>>| async move {
            match request.method().as_str() {
                "PUT" => Err("broken".to_owned()),
                "POST" => panic!("bug"),
                "GET" => Ok(answer(503)),
                _ => std::future::pending().await,
            }
        })
    };
    let one = (Recorder::new("s"), Metrics::new());
    let joined = TraceLayer::server(one.0.clone()).metrics(one.1.clone()).layer(handler());
    let two = (Recorder::new("s"), Metrics::new());
    let counted = MetricsLayer::server(two.1.clone()).layer(handler());
    let stacked = TraceLayer::server(two.0.clone()).layer(counted);
    for method in ["PUT", "POST", "GET", "DELETE"] {
        let mut request = request(method, "");
        request.extensions_mut().insert(Route::from("/a"));
        let calls = [
            poll_once(joined.clone().oneshot(request.clone())),
            poll_once(stacked.clone().oneshot(request)),
        ];
        assert_eq!(calls[0], calls[1], "{method}");
    }
    let seen = |(recorder, metrics): (Recorder, Metrics)| {
        let snapshot = metrics.snapshot();
        assert!(snapshot.active.is_empty());
        let series = snapshot.series.iter().map(|series| {
            (
                series.method,
                series.route.clone(),
                series.status,
                series.end,
                series.durations.count(),
            )
        });
        let records = recorder.recent(9).into_iter().map(|record| {
            (record.method, record.operation, record.status, record.end, record.error)
        });
        (series.collect::<Vec<_>>(), records.collect::<Vec<_>>())
    };
    let (one, two) = (seen(one), seen(two));
    assert_eq!(one, two);
    assert_eq!((one.0.len(), one.1.len()), (4, 4));
}

/// Whether a call was ready, waited, or panicked; its answer is read to the end.
fn poll_once<B: http_body::Body>(
    call: impl Future<Output = Result<Response<B>, String>>,
) -> &'static str {
    let mut call = Box::pin(call);
    let poll = AssertUnwindSafe(|| task::spawn(call.as_mut()).poll());
    match std::panic::catch_unwind(poll) {
        Ok(std::task::Poll::Ready(Ok(response))) => {
            let mut body = std::pin::pin!(response.into_body());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            while let std::task::Poll::Ready(Some(_)) = body.as_mut().poll_frame(&mut cx) {}
            "ready"
        }
        Ok(std::task::Poll::Ready(Err(_))) => "error",
        Ok(std::task::Poll::Pending) => "pending",
        Err(_) => "panic",
    }
}

#[tokio::test]
async fn a_client_call_that_is_never_polled_is_over_when_it_is_dropped() {
    let recorder = Recorder::new("s");
    let client = TraceLayer::client(recorder.clone()).layer(Client(Upstream::new([Step::Hang])));
    let mut call = task::spawn(client.oneshot(request("GET", "")));
    assert_pending!(call.poll());
    assert!(recorder.recent(1).is_empty());
    drop(call);
    assert_eq!(only(&recorder).end, End::Cancelled);
}
