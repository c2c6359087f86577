//! Answers whose body has to be looked at before it is known whether they are good.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{BoxError, Deadline, refusal_in};
use gusset_sidecar::{
    ATTEMPT_HEADER, AttemptTimedOut, Backoff, Idempotent, Metrics, PeekedBody, RetryLayer,
    RetryPolicy,
};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Collected, Full};
use support::{Client, Step, Upstream, request, status};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

/// A body of scripted frames; after `None` it hangs.
struct Script(VecDeque<Option<Result<Frame<Bytes>, io::Error>>>);

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.0.front() {
            Some(None) => Poll::Pending,
            _ => Poll::Ready(self.0.pop_front().flatten()),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn data(text: &'static str) -> Option<Result<Frame<Bytes>, io::Error>> {
    Some(Ok(Frame::data(Bytes::from(text))))
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> Option<Result<Frame<Bytes>, io::Error>> {
    let mut trailers = HeaderMap::new();
    pairs.iter().for_each(|(name, value)| drop(trailers.insert(*name, value.parse().unwrap())));
    Some(Ok(Frame::trailers(trailers)))
}

fn breaks() -> Option<Result<Frame<Bytes>, io::Error>> {
    Some(Err(io::ErrorKind::ConnectionReset.into()))
}

type Frames = Vec<Option<Result<Frame<Bytes>, io::Error>>>;

/// What the upstream saw of each attempt.
type Seen = Arc<Mutex<Vec<HeaderMap>>>;

/// Calls, with `request`, an upstream that gives these answers one after the other, all of `kind`.
async fn call<B>(
    layer: &RetryLayer,
    kind: &'static str,
    request: Request<B>,
    answers: impl IntoIterator<Item = Frames>,
) -> (Result<Response<PeekedBody<Script>>, BoxError>, Vec<HeaderMap>)
where
    B: Body<Data = Bytes, Error = Infallible> + Unpin,
{
    let answers: VecDeque<_> = answers.into_iter().collect();
    let (answers, seen) = (Arc::new(Mutex::new(answers)), Seen::default());
    let log = seen.clone();
    let upstream = service_fn(move |mut request: Request<gusset_sidecar::ReplayBody<B>>| {
        log.lock().unwrap().push(request.headers().clone());
        let frames = answers.lock().unwrap().pop_front().expect("an attempt too many");
        async move {
            // All of the request, if it comes to an end.
            while let Some(Some(_)) = futures_now(request.body_mut().frame()) {}
            let response = Response::builder().header("content-type", kind);
            Ok::<_, BoxError>(response.body(Script(frames.into())).unwrap())
        }
    });
    let result = layer.layer(upstream).oneshot(request).await;
    let seen = seen.lock().unwrap().clone();
    (result, seen)
}

fn futures_now<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    match Pin::new(&mut future).poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn layer() -> RetryLayer {
    RetryLayer::new(policy())
}

fn policy() -> RetryPolicy {
    RetryPolicy::default().backoff(Backoff::default().without_jitter())
}

const GRPC: &str = "application/grpc";

fn grpc() -> Request<Full<Bytes>> {
    let mut request = request("POST", "message");
    request.headers_mut().insert("content-type", GRPC.parse().unwrap());
    request.extensions_mut().insert(Idempotent(true));
    request
}

async fn read(response: Response<PeekedBody<Script>>) -> Result<Collected<Bytes>, io::Error> {
    response.into_body().collect().await
}

const UNAVAILABLE: &[(&str, &str)] = &[("grpc-status", "14"), ("grpc-message", "away")];
const OK: &[(&str, &str)] = &[("grpc-status", "0")];

#[tokio::test(start_paused = true)]
async fn a_grpc_status_in_trailers_without_a_message_is_tried_again() {
    let layer = layer();
    let answers = [vec![trailers(UNAVAILABLE)], vec![data("answer"), trailers(OK)]];
    let (response, seen) = call(&layer, GRPC, grpc(), answers).await;
    let body = read(response.unwrap()).await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "answer");
    assert!(!seen[0].contains_key("grpc-previous-rpc-attempts"));
    assert_eq!(seen[1]["grpc-previous-rpc-attempts"], "1");
    assert_eq!(seen[1][ATTEMPT_HEADER], "2");
    assert_eq!(layer.stats().recovered, 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_failure_in_trailers_comes_through_as_it_was() {
    let layer = RetryLayer::new(policy().retries(1));
    let pushback = &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")];
    let (response, seen) = call(&layer, GRPC, grpc(), [vec![trailers(pushback)]]).await;
    let response = response.unwrap();
    assert_eq!(seen.len(), 1, "the service says never");
    assert_eq!(response.headers().len(), 1, "{:?}", response.headers());
    assert_eq!(read(response).await.unwrap().trailers().unwrap().len(), 2);
    assert_eq!(layer.stats().calls_failed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pushback_in_trailers_is_kept() {
    let pushback = &[("grpc-status", "8"), ("grpc-retry-pushback-ms", "2000")];
    let answers = [vec![trailers(pushback)], vec![trailers(OK)]];
    let began = Instant::now();
    call(&layer(), GRPC, grpc(), answers).await.0.unwrap();
    assert_eq!(began.elapsed().as_millis(), 2_100);
}

#[tokio::test(start_paused = true)]
async fn a_status_behind_a_message_is_too_late() {
    let answers = [vec![data("one"), data("two"), trailers(UNAVAILABLE)]];
    let (response, _) = call(&layer(), GRPC, grpc(), answers).await;
    let body = read(response.unwrap()).await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "14");
    assert_eq!(body.to_bytes(), "onetwo");
}

#[tokio::test(start_paused = true)]
async fn headers_are_not_withheld_from_who_still_sends_or_may_not_repeat() {
    let hangs = || [vec![None]];
    let mut once = grpc();
    once.extensions_mut().insert(Idempotent(false));
    call(&layer(), GRPC, once, hangs()).await.0.unwrap();

    // As a bidirectional call, whose next message depends on the answer.
    let (head, _) = grpc().into_parts();
    let sending = Request::from_parts(head, Endless);
    call(&layer(), GRPC, sending, hangs()).await.0.unwrap();
    call(&layer(), "application/grpc-web", grpc(), hangs()).await.0.unwrap();
}

/// A body that is never over.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_message_is_awaited_no_longer_than_a_second_an_attempt_or_the_deadline() {
    let millis = Duration::from_millis;
    let layer = RetryLayer::new(policy().attempt_timeout(millis(500)));
    let began = Instant::now();
    call(&layer, GRPC, grpc(), [vec![None]]).await.0.unwrap();
    assert_eq!(began.elapsed().as_millis(), 500);
    let mut bound = grpc();
    bound.extensions_mut().insert(Deadline::after(millis(200)));
    call(&layer, GRPC, bound, [vec![None]]).await.0.unwrap();
    assert_eq!(began.elapsed().as_millis(), 700);
    assert_eq!(layer.stats().attempts_failed, 0, "headers were there in time");

    for patient in [policy(), policy().attempt_timeout(Duration::from_secs(20))] {
        let began = Instant::now();
        let (response, _) = call(&RetryLayer::new(patient), GRPC, grpc(), [vec![None]]).await;
        assert_eq!(response.unwrap().status(), 200);
        assert_eq!(began.elapsed().as_secs(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn where_whole_answers_are_asked_for_one_that_breaks_off_is_made_again() {
    let layer = RetryLayer::new(policy().whole_answers(8));
    let broken = || vec![data("half"), breaks()];
    let whole = vec![data("one "), data("two")];
    let (response, _) = call(&layer, "text/plain", request("GET", ""), [broken(), whole]).await;
    assert_eq!(read(response.unwrap()).await.unwrap().to_bytes(), "one two");

    let (response, seen) = call(&layer, "text/plain", request("POST", ""), [broken()]).await;
    read(response.unwrap()).await.unwrap_err();
    assert_eq!(seen.len(), 1, "what may not be made again is passed on as it comes");

    let answers = [broken(), broken(), broken(), broken()];
    let (response, _) = call(&layer, "text/plain", request("GET", ""), answers).await;
    read(response.unwrap()).await.unwrap_err();
    assert_eq!(layer.stats().retries, 4, "nor is the last attempt waited for, whose answer stands");
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_beyond_the_limit_is_streamed() {
    let layer = RetryLayer::new(policy().whole_answers(8));
    let long = vec![data("12345"), data("6789"), None];
    let (response, _) = call(&layer, "text/plain", request("GET", ""), [long]).await;
    let mut body = response.unwrap().into_body();
    assert_eq!(http_body::Body::size_hint(&body).lower(), 9);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "12345");
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "6789");
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_that_stalls_has_failed() {
    let policy = policy().whole_answers(8).retries(1).attempt_timeout(Duration::from_secs(2));
    let layer = RetryLayer::new(policy);
    let answers = || [vec![data("half"), None], vec![data("whole")]];
    let (response, _) = call(&layer, "text/plain", request("GET", ""), answers()).await;
    assert_eq!(read(response.unwrap()).await.unwrap().to_bytes(), "whole");

    let mut bound = request("GET", "");
    bound.extensions_mut().insert(Deadline::after(Duration::from_secs(1)));
    let (response, _) = call(&layer, "text/plain", bound, answers()).await;
    let error = response.unwrap_err();
    assert_eq!(refusal_in(&*error).unwrap().status(), 504);
    assert!(error.downcast_ref::<AttemptTimedOut>().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_callers_see_is_told_from_what_the_service_does() {
    let layer = layer();
    let make = async |script: Vec<Step>| {
        let upstream = Client(Upstream::new(script));
        layer.layer(upstream).oneshot(request("GET", "")).await.map(drop)
    };
    make(vec![]).await.unwrap();
    make(vec![status(503), status(503)]).await.unwrap();
    make(vec![status(500)]).await.unwrap();
    make(vec![status(404)]).await.unwrap();
    make((0..4).map(|_| Step::Fail("down".into())).collect()).await.unwrap_err();
    let stats = layer.stats();
    assert_eq!((stats.calls, stats.calls_failed), (5, 2));
    assert_eq!((stats.attempts, stats.attempts_failed), (10, 7));

    let metrics = Metrics::new();
    metrics.on_render(move |samples| layer.report("stock", samples));
    let text = metrics.render_prometheus();
    for line in [
        "gusset_calls_total{upstream=\"stock\"} 5",
        "gusset_calls_failed_total{upstream=\"stock\"} 2",
        "gusset_attempts_total{upstream=\"stock\"} 10",
        "gusset_attempts_failed_total{upstream=\"stock\"} 7",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_was_given_up_while_it_waited_is_not_counted() {
    let layer = layer();
    let upstream = Client(Upstream::new([status(503)]));
    let call = layer.layer(upstream).oneshot(request("GET", ""));
    tokio::time::timeout(Duration::from_millis(50), call).await.unwrap_err();
    assert_eq!((layer.stats().attempts, layer.stats().retries), (1, 0));
}
