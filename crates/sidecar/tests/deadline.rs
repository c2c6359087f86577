//! Deadlines as handlers and callers see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{BoxError, Context, Deadline, DeadlineExceeded, refusal_in};
use gusset_sidecar::{Backoff, BodyDeadlineLayer, DeadlineLayer, RetryLayer, RetryPolicy};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use support::{Client, Step, Upstream, answer, request, status};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

type Res = Result<Response<Full<Bytes>>, BoxError>;

fn with(name: &'static str, value: &str) -> Request<Full<Bytes>> {
    let mut request = request("GET", "");
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

/// The deadline that a handler behind `layer` sees in the context, which must be that in the extensions.
async fn seen(layer: DeadlineLayer, request: Request<Full<Bytes>>) -> Duration {
    let seen = Arc::new(std::sync::Mutex::new(None));
    let writer = seen.clone();
    let handler = service_fn(move |request: Request<Full<Bytes>>| {
        // Already while the handler's future is made, and later inside of it.
        let at_call = Context::current().deadline();
        let writer = writer.clone();
        async move {
            let deadline = Context::current().deadline();
            assert_eq!(deadline, request.extensions().get().copied());
            assert_eq!(deadline, at_call);
            *writer.lock().unwrap() = deadline;
            Ok::<_, BoxError>(answer(200))
        }
    });
    layer.layer(handler).oneshot(request).await.unwrap();
    let deadline: Deadline = seen.lock().unwrap().take().unwrap();
    deadline.remaining()
}

#[tokio::test(start_paused = true)]
async fn the_caller_says_how_long_it_waits_and_the_server_how_long_at_most() {
    let layer = DeadlineLayer::server(Duration::from_secs(10)).default_to(Duration::from_secs(3));
    for (request, seconds) in [
        (request("GET", ""), 3),
        (with("x-request-timeout-ms", "2000"), 2),
        (with("x-envoy-expected-rq-timeout-ms", "4000"), 4),
        (with("grpc-timeout", "5S"), 5),
        (with("grpc-timeout", "2H"), 10),
        (with("grpc-timeout", "nonsense"), 3),
    ] {
        assert_eq!(seen(layer, request).await.as_secs(), seconds);
    }
    let unlike = DeadlineLayer::server(Duration::from_secs(10));
    assert_eq!(seen(unlike, request("GET", "")).await.as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_around_a_server_in_the_same_process_is_not_extended() {
    let cx = Context::default().with_deadline(Deadline::after(Duration::from_secs(1)));
    let layer = DeadlineLayer::server(Duration::from_secs(10));
    assert_eq!(cx.scope(seen(layer, request("GET", ""))).await.as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_it_passes_the_handler_is_dropped_at_once_and_the_caller_told() {
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = dropped.clone();
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let guard = OnDrop(flag.clone());
        async move {
            let _guard = guard;
            std::future::pending::<Res>().await
        }
    });
    let began = Instant::now();
    let service = DeadlineLayer::server(Duration::from_secs(30)).layer(handler);
    let mut call = Box::pin(service.oneshot(with("x-request-timeout-ms", "250")));
    let error = call.as_mut().await.unwrap_err();
    assert!(dropped.load(SeqCst), "though its future is still here");
    assert_eq!(refusal_in(&*error).unwrap().status(), 504);
    assert_eq!(began.elapsed().as_millis(), 250);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_arrives_too_late_does_not_reach_the_handler() {
    let upstream = Upstream::new([]);
    let service = DeadlineLayer::server(Duration::from_secs(30)).layer(Client(upstream.clone()));
    let error = service.oneshot(with("x-request-timeout-ms", "0")).await.unwrap_err();
    assert!(error.downcast_ref::<DeadlineExceeded>().is_some());
    assert!(upstream.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_ready_with_the_deadline_wins() {
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        sleep(Duration::from_secs(1)).await;
        Ok::<_, BoxError>(answer(200))
    });
    let service = DeadlineLayer::server(Duration::from_secs(1)).layer(handler);
    assert_eq!(service.oneshot(request("GET", "")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_passes_on_what_is_left_by_the_protocol_of_the_call() {
    let upstream = Upstream::new([]);
    let client = DeadlineLayer::client().layer(Client(upstream.clone()));
    let cx = Context::default().with_deadline(Deadline::after(Duration::from_secs(2)));
    sleep(Duration::from_millis(500)).await;
    cx.scope(client.clone().oneshot(request("GET", ""))).await.unwrap();
    let grpc = with("content-type", "application/grpc+proto");
    cx.scope(client.clone().oneshot(grpc)).await.unwrap();
    client.oneshot(request("GET", "")).await.unwrap();

    let seen = upstream.seen();
    assert_eq!(seen[0].headers["x-request-timeout-ms"], "1500");
    assert_eq!(seen[1].headers["grpc-timeout"], "1500000u");
    assert!(!seen[1].headers.contains_key("x-request-timeout-ms"));
    assert!(seen[2].headers.is_empty(), "without a deadline there is nothing to pass on");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_the_request_itself_counts_if_it_is_sooner() {
    let upstream = Upstream::new([Step::Hang]);
    let client = DeadlineLayer::client().layer(Client(upstream.clone()));
    let mut own = request("GET", "");
    own.extensions_mut().insert(Deadline::after(Duration::from_secs(1)));
    let cx = Context::default().with_deadline(Deadline::after(Duration::from_secs(5)));
    let began = Instant::now();
    let error = cx.scope(client.oneshot(own)).await.unwrap_err();
    assert!(error.downcast_ref::<DeadlineExceeded>().is_some());
    assert_eq!(began.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_timer_is_told_by_that_of_the_server_around_it() {
    let upstream = Upstream::new([Step::Hang]);
    let told = Arc::new(AtomicBool::new(false));
    let inside = DeadlineLayer::client().without_timer().layer(Client(upstream.clone()));
    let between = {
        let told = told.clone();
        let notice = move |error: BoxError| {
            told.store(error.is::<DeadlineExceeded>(), SeqCst);
            error
        };
        ServiceBuilder::new().map_err(notice).service(inside)
    };
    let began = Instant::now();
    // Between two ticks of the timers.
    let limit = Duration::from_micros(250_300);
    let service = DeadlineLayer::server(limit).only_in_context().layer(between);
    let error = service.oneshot(request("GET", "")).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>() && told.load(SeqCst), "what is in between learns it");
    assert!((250..=252).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(upstream.seen()[0].headers["x-request-timeout-ms"], "250");
}

#[tokio::test(start_paused = true)]
async fn inside_of_retries_every_attempt_tells_what_is_left_then() {
    let upstream = Upstream::new([status(503), status(503)]);
    let policy = RetryPolicy::default().backoff(Backoff::default().without_jitter());
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(policy))
        .layer(DeadlineLayer::client())
        .service(Client(upstream.clone()));
    let cx = Context::default().with_deadline(Deadline::after(Duration::from_secs(1)));
    cx.scope(client.oneshot(request("GET", ""))).await.unwrap();
    let left: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.headers["x-request-timeout-ms"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(left, ["1000", "900", "700"]);
}

#[tokio::test(start_paused = true)]
async fn where_it_is_only_in_the_context_the_extensions_stay_empty() {
    let layer = DeadlineLayer::server(Duration::from_secs(10)).only_in_context();
    let handler = service_fn(async |request: Request<Full<Bytes>>| {
        assert!(request.extensions().is_empty());
        assert_eq!(Context::current().deadline().unwrap().remaining().as_secs(), 2);
        Ok::<_, BoxError>(answer(200))
    });
    layer.layer(handler).oneshot(with("x-request-timeout-ms", "2000")).await.unwrap();
}

/// A body that sends a byte each second, without end, and says what deadline it sees.
struct Ticks(Pin<Box<tokio::time::Sleep>>, Arc<AtomicBool>);

impl Ticks {
    fn new(dropped: &Arc<AtomicBool>) -> Self {
        Self(Box::pin(sleep(Duration::from_secs(1))), dropped.clone())
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        self.1.store(true, SeqCst);
    }
}

impl http_body::Body for Ticks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        assert!(Context::current().deadline().is_some(), "it runs in the context of the call");
        std::task::ready!(self.0.as_mut().poll(cx));
        self.0.set(sleep(Duration::from_secs(1)));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b".")))))
    }
}

async fn ticking(
    kind: &'static str,
) -> (Result<Bytes, BoxError>, Option<http::HeaderMap>, Arc<AtomicBool>) {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = dropped.clone();
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let response = Response::builder().header("content-type", kind).body(Ticks::new(&flag));
        async { Ok::<_, BoxError>(response.unwrap()) }
    });
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::server(Duration::from_millis(3_500)))
        .layer(BodyDeadlineLayer::new())
        .service(handler);
    let mut body = service.oneshot(request("GET", "")).await.unwrap().into_body();
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(chunk)) => data.extend_from_slice(&chunk),
            Ok(Err(other)) => trailers = other.into_trailers().ok(),
            Err(error) => return (Err(error), None, dropped),
        }
    }
    (Ok(data.into()), trailers, dropped)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_outlasts_the_deadline_is_cut_and_dropped() {
    let began = Instant::now();
    let (result, _, dropped) = ticking("text/plain").await;
    assert!(result.unwrap_err().downcast_ref::<DeadlineExceeded>().is_some());
    assert_eq!(began.elapsed().as_millis(), 3_500);
    assert!(dropped.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_grpc_stream_that_outlasts_the_deadline_ends_with_its_status() {
    let (result, trailers, dropped) = ticking("application/grpc").await;
    assert_eq!(result.unwrap(), "...");
    assert_eq!(trailers.unwrap()["grpc-status"], "4");
    assert!(dropped.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_always_ready_is_cut_as_well() {
    let body = http_body_util::StreamBody::new(Endless);
    let mut body = Some(body);
    let client = BodyDeadlineLayer::new().layer(service_fn(move |_: Request<Full<Bytes>>| {
        let body = body.take().unwrap();
        async { Ok::<_, BoxError>(Response::new(body)) }
    }));
    let mut bound = request("GET", "");
    bound.extensions_mut().insert(Deadline::after(Duration::from_secs(1)));
    let mut body = client.oneshot(bound).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(error.downcast_ref::<DeadlineExceeded>().is_some());
    assert!(body.frame().await.is_none());
}

struct Endless;

impl futures_core::Stream for Endless {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b".")))))
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_a_body_takes_its_time() {
    let upstream = Upstream::new([]);
    let client = BodyDeadlineLayer::new().layer(Client(upstream));
    let body = client.oneshot(request("GET", "")).await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "answer 200");
}
