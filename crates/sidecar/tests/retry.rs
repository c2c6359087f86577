//! Retries as their callers and the upstream see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{
    Attempt, BoxError, Context, Deadline, DeadlineExceeded, NoInstance, Open, never_made,
    refusal_in,
};
use gusset_sidecar::{
    ATTEMPT_HEADER, AttemptTimedOut, Backoff, Budget, Idempotent, PeekedBody, Ratio, Recorder,
    RetryLayer, RetryPolicy, TraceLayer, Verdict,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use support::{Client, Dice, Step, Upstream, answer, request, status};
use tokio::time::{Instant, advance, timeout};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

fn policy() -> RetryPolicy {
    RetryPolicy::default().backoff(Backoff::default().without_jitter())
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn refused() -> io::Error {
    io::ErrorKind::ConnectionRefused.into()
}

/// Makes one call of `upstream` through `layer`.
async fn call(
    layer: &RetryLayer,
    upstream: &Upstream,
    request: Request<Full<Bytes>>,
) -> Result<Response<PeekedBody<Full<Bytes>>>, BoxError> {
    layer.layer(Client(upstream.clone())).oneshot(request).await
}

#[tokio::test(start_paused = true)]
async fn a_failing_call_is_made_four_times_with_doubling_waits_and_then_its_last_answer_stands() {
    let upstream = Upstream::new([status(503), status(502), status(504), status(503)]);
    let layer = RetryLayer::new(policy());
    let response = call(&layer, &upstream, request("GET", "")).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "answer 503");
    assert_eq!(upstream.times(), [0, 100, 300, 700]);
    let stats = layer.stats();
    assert_eq!((stats.retries, stats.exhausted, stats.recovered), (3, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn layers_of_several_policies_may_count_together() {
    let counted = RetryLayer::new(policy());
    for (retries, statuses) in [(1, [503, 503]), (3, [503, 200])] {
        let layer = RetryLayer::new(policy().retries(retries)).counted_with(&counted);
        let upstream = Upstream::new(statuses.map(status));
        call(&layer, &upstream, request("GET", "")).await.unwrap();
    }
    let stats = counted.stats();
    assert_eq!((stats.calls, stats.attempts, stats.retries), (2, 4, 2));
    assert_eq!((stats.exhausted, stats.recovered, stats.calls_failed), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn with_jitter_no_wait_is_longer_than_its_bound() {
    for _ in 0..100 {
        let upstream = Upstream::new([status(503), status(503), status(503)]);
        let layer = RetryLayer::new(RetryPolicy::default());
        call(&layer, &upstream, request("GET", "")).await.unwrap();
        let times = upstream.times();
        for (retry, bound) in [(1, 101), (2, 201), (3, 401)] {
            assert!(times[retry] - times[retry - 1] <= bound, "{times:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_recovers_is_answered_as_if_nothing_had_happened() {
    let upstream = Upstream::new([status(503), Step::Fail("connection reset".into())]);
    let layer = RetryLayer::new(policy());
    let response = call(&layer, &upstream, request("PUT", "payload")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(upstream.seen().iter().all(|seen| seen.body == "payload"));
    assert_eq!(layer.stats().recovered, 1);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_says_which_it_is_and_all_share_one_list_of_instances() {
    let upstream = Upstream::new([status(503), status(503)]);
    call(&RetryLayer::new(policy()), &upstream, request("GET", "")).await.unwrap();
    let seen = upstream.seen();
    let attempts: Vec<_> = seen.iter().map(|seen| seen.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    let headers: Vec<_> = seen.iter().map(|seen| seen.header.as_deref()).collect();
    assert_eq!(headers, [None, Some("2"), Some("3")]);
    seen[0].tried.insert("a".into());
    assert!(seen[2].tried.contains("a"));
}

#[tokio::test(start_paused = true)]
async fn a_post_is_not_made_again_unless_it_may_be() {
    let made = async |request: Request<Full<Bytes>>, step: Step| {
        let upstream = Upstream::new([step]);
        let _ = call(&RetryLayer::new(policy()), &upstream, request).await;
        upstream.seen().len()
    };
    assert_eq!(made(request("POST", "pay"), status(503)).await, 1);
    assert_eq!(made(request("POST", "pay"), Step::Fail("reset".into())).await, 1);

    let mut keyed = request("POST", "pay");
    keyed.headers_mut().insert("idempotency-key", "k1".parse().unwrap());
    assert_eq!(made(keyed, status(503)).await, 2);

    let mut told = request("POST", "pay");
    told.extensions_mut().insert(Idempotent(true));
    assert_eq!(made(told, status(503)).await, 2);

    let mut told = request("GET", "");
    told.extensions_mut().insert(Idempotent(false));
    assert_eq!(made(told, status(503)).await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_is_made_again_whatever_the_method_with_its_whole_body() {
    let open = Open::new("db").with_retry_after(millis(1_000));
    let upstream = Upstream::new([Step::Refuse(open.into()), Step::Refuse(refused().into())]);
    let response = call(&RetryLayer::new(policy()), &upstream, request("POST", "pay")).await;
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(upstream.seen()[2].body, "pay");
    assert_eq!(upstream.times(), [0, 1_100, 1_300], "100 ms after the appointed time");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_lasts_too_long_comes_through_at_once() {
    let open = Open::new("db").with_retry_after(Duration::from_secs(30));
    let upstream = Upstream::new([Step::Refuse(open.into())]);
    let layer = RetryLayer::new(policy());
    let error = call(&layer, &upstream, request("GET", "")).await.unwrap_err();
    assert!(error.downcast_ref::<Open>().is_some());
    assert_eq!((upstream.seen().len(), layer.stats().too_late), (1, 1));
}

/// A payment was taken, its answer lost, and the next attempt met a circuit that had opened: who took that for "not made" kept the money.
#[tokio::test(start_paused = true)]
async fn a_refusal_after_an_attempt_that_may_have_been_carried_out_is_no_proof_that_nothing_was() {
    let open = || Open::new("bank").with_retry_after(Duration::from_secs(30));
    let broke = || Step::Fail(io::Error::from(io::ErrorKind::ConnectionReset).into());
    let refusals: [fn() -> BoxError; 2] = [
        || Open::new("bank").with_retry_after(Duration::from_secs(30)).into(),
        || NoInstance::new("bank").into(),
    ];
    for refusal in refusals {
        for first in [status(503), broke()] {
            let upstream = Upstream::new([first, Step::Refuse(refusal())]);
            let layer = RetryLayer::new(policy());
            let error = call(&layer, &upstream, request("PUT", "pay")).await.unwrap_err();
            assert_eq!(upstream.seen().len(), 2);
            assert!(never_made(&*error).is_none(), "{error:?}");
            let told = refusal_in(&*error).unwrap();
            assert_eq!(told.status(), 503);
            assert_eq!(told.retry_after(), refusal_in(&*refusal()).unwrap().retry_after());
        }
    }
    // Where no attempt was sent, nothing was made.
    let soon = open().with_retry_after(millis(10));
    let upstream = Upstream::new([Step::Refuse(soon.into()), Step::Refuse(open().into())]);
    let error = call(&RetryLayer::new(policy()), &upstream, request("PUT", "")).await.unwrap_err();
    assert_eq!(upstream.seen().len(), 2);
    assert!(never_made(&*error).is_some() && error.is::<Open>(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn the_wait_that_an_answer_asks_for_is_kept_up_to_a_bound() {
    let asks = |seconds: &str| {
        let mut asks = answer(503);
        asks.headers_mut().insert("retry-after", seconds.parse().unwrap());
        Step::Answer(asks)
    };
    let upstream = Upstream::new([asks("2"), asks("6")]);
    let response = call(&RetryLayer::new(policy()), &upstream, request("GET", "")).await.unwrap();
    assert_eq!(upstream.times(), [0, 2_100]);
    assert_eq!(response.headers()["retry-after"], "6", "the last answer, untouched");
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_that_cannot_end_before_the_deadline() {
    let failing = || Upstream::new([status(503), status(503), status(503), status(503)]);

    let upstream = failing();
    let mut bound = request("GET", "");
    bound.extensions_mut().insert(Deadline::after(millis(300)));
    let layer = RetryLayer::new(policy());
    call(&layer, &upstream, bound).await.unwrap();
    assert_eq!(upstream.times(), [0, 100], "the next would begin at 300 ms");
    assert_eq!(layer.stats().too_late, 1);

    let upstream = failing();
    let cx = Context::default().with_deadline(Deadline::after(millis(301)));
    cx.scope(call(&layer, &upstream, request("GET", ""))).await.unwrap();
    assert_eq!(upstream.times(), [0, 100, 300]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_after_its_deadline_is_not_made() {
    let upstream = Upstream::new([]);
    let mut late = request("GET", "");
    late.extensions_mut().insert(Deadline::after(Duration::ZERO));
    let error = call(&RetryLayer::new(policy()), &upstream, late).await.unwrap_err();
    assert!(error.downcast_ref::<DeadlineExceeded>().is_some());
    assert!(upstream.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_made_again_and_the_last_may_take_its_time() {
    let layer = RetryLayer::new(policy().retries(2).attempt_timeout(millis(500)));
    let slow = || Step::AnswerAfter(Duration::from_secs(60), 200);
    let upstream = Upstream::new([Step::Hang, slow(), slow()]);
    let response = call(&layer, &upstream, request("GET", "")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(upstream.times(), [0, 600, 1_300]);
    assert_eq!(layer.stats().retries, 2);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_timed_out_gives_its_body_back_for_the_next() {
    let layer = RetryLayer::new(policy().attempt_timeout(millis(500)));
    let upstream = Upstream::new([Step::HangUnread]);
    let response = call(&layer, &upstream, request("PUT", "payload")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(upstream.seen()[0].body, "payload");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_made_again_is_not_cut_short() {
    let layer = RetryLayer::new(policy().attempt_timeout(millis(500)));
    let upstream = Upstream::new([Step::AnswerAfter(Duration::from_secs(60), 200)]);
    assert_eq!(call(&layer, &upstream, request("POST", "")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_left_a_timed_out_attempt_is_the_error() {
    let budget = Budget::new(Ratio::NONE, 0, Duration::from_secs(10));
    let layer = RetryLayer::new(policy().attempt_timeout(millis(500)).budget(budget));
    let upstream = Upstream::new([Step::Hang]);
    let error = call(&layer, &upstream, request("GET", "")).await.unwrap_err();
    assert!(error.downcast_ref::<AttemptTimedOut>().is_some());
    assert_eq!(error.to_string(), "no answer within the 500ms of an attempt");
    assert_eq!(layer.stats().over_budget, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_service_gets_a_fifth_more_and_not_four_times_as_much() {
    let layer = RetryLayer::new(policy().budget(Budget::new(
        Ratio::percent(20),
        0,
        Duration::from_secs(10),
    )));
    let calls = Arc::new(AtomicU32::new(0));
    let counter = calls.clone();
    let dead = service_fn(move |_: Request<_>| {
        counter.fetch_add(1, SeqCst);
        async { Err::<Response<Full<Bytes>>, BoxError>("down".into()) }
    });
    let service = layer.layer(dead);
    for _ in 0..1_000 {
        service.clone().oneshot(request("GET", "")).await.unwrap_err();
        advance(millis(1)).await;
    }
    let calls = calls.load(SeqCst);
    assert!((1_150..=1_200).contains(&calls), "{calls} calls of the service for 1,000 calls");
}

/// Random outcomes at random times, from several tasks.
#[tokio::test(start_paused = true)]
async fn retries_never_exceed_the_budget() {
    for seed in 1..20 {
        let budget = Budget::new(Ratio::percent(10), 1, Duration::from_secs(10));
        let layer = RetryLayer::new(RetryPolicy::default().budget(budget.clone()));
        let mut dice = Dice(seed);
        let calls: Vec<_> = (0..300)
            .map(|_| {
                let steps: Vec<_> =
                    (0..4).map(|_| status(if dice.roll(2) == 0 { 503 } else { 200 })).collect();
                let begin = Duration::from_millis(dice.roll(5_000));
                let service = layer.layer(Client(Upstream::new(steps)));
                tokio::spawn(async move {
                    tokio::time::sleep(begin).await;
                    service.oneshot(request("GET", "")).await.unwrap();
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        let stats = layer.stats();
        assert_eq!(stats.retries, budget.stats().withdrawn);
        assert!(stats.retries <= 300 / 10 + 10, "{}", stats.retries);
        assert!(stats.retries > 10 && stats.over_budget > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_long_to_keep_is_sent_once_and_the_answer_stands() {
    let layer = RetryLayer::new(policy().body_limit(6));
    for (body, attempts) in [("123456", 2), ("1234567", 1)] {
        let upstream = Upstream::new([status(503)]);
        call(&layer, &upstream, request("PUT", body)).await.unwrap();
        let seen = upstream.seen();
        assert_eq!(seen.len(), attempts);
        assert!(seen.iter().all(|seen| seen.body == body));
    }
    assert_eq!(layer.stats().body_gone, 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_the_body_was_read_does_not_resend_a_part_of_it() {
    // The upstream answers after the first frame and keeps the body, as a connection does that still sends.
    let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keeper = kept.clone();
    let upstream = service_fn(move |request: Request<_>| {
        let keeper = keeper.clone();
        async move {
            let mut body = request.into_body();
            let _ = BodyExt::frame(&mut body).await;
            keeper.lock().unwrap().push(body);
            Ok::<_, BoxError>(answer(503))
        }
    });
    let frames =
        ["one", "two"].map(|text| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(text))));
    let body = StreamBody::new(futures_iter(frames));
    let layer = RetryLayer::new(policy());
    let put = Request::put("http://upstream/").body(body).unwrap();
    let response = layer.layer(upstream).oneshot(put).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(kept.lock().unwrap().len(), 1);
    assert_eq!(layer.stats().body_gone, 1);
}

/// A stream of what is there already.
fn futures_iter<T: Unpin, const N: usize>(
    items: [T; N],
) -> impl futures_core::Stream<Item = T> + Unpin {
    struct Iter<I>(I);
    impl<I: Iterator + Unpin> futures_core::Stream for Iter<I> {
        type Item = I::Item;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<I::Item>> {
            std::task::Poll::Ready(self.0.next())
        }
    }
    Iter(items.into_iter())
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_makes_no_further_attempt() {
    let upstream = Upstream::new([status(503), status(503)]);
    let layer = RetryLayer::new(policy());
    let mut waiting =
        task::spawn(layer.layer(Client(upstream.clone())).oneshot(request("GET", "")));
    assert_pending!(waiting.poll());
    drop(waiting);
    advance(Duration::from_secs(60)).await;
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_readiness_before_a_retry_ends_with_the_deadline() {
    // A single place, which somebody else takes while the call waits.
    let upstream = Upstream::new([status(503), Step::Hang]);
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(policy()))
        .concurrency_limit(1)
        .service(Client(upstream.clone()));
    let other = service.clone();
    let mut bound = request("GET", "");
    bound.extensions_mut().insert(Deadline::after(millis(1_000)));
    let began = Instant::now();
    let call = tokio::spawn(service.oneshot(bound));
    tokio::time::sleep(millis(50)).await;
    let hanging = tokio::spawn(other.oneshot(request("POST", "")));
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(refusal_in(&*error).unwrap().status(), 504);
    assert_eq!(began.elapsed().as_millis(), 1_000);
    hanging.abort();
}

#[tokio::test(start_paused = true)]
async fn retries_inside_of_retries_do_not_multiply() {
    let calls = Arc::new(AtomicU32::new(0));
    let counter = calls.clone();
    let dead = service_fn(move |_: Request<_>| {
        counter.fetch_add(1, SeqCst);
        async { Ok::<_, BoxError>(answer(503)) }
    });
    let service = RetryLayer::new(policy()).layer(RetryLayer::new(policy()).layer(dead));
    service.oneshot(request("GET", "")).await.unwrap();
    assert_eq!(calls.load(SeqCst), 7, "4 within the first try, and 3 more; not 16");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_serves_a_retry_does_not_retry_what_it_calls_unless_it_was_never_sent() {
    let serve = async |attempt: Option<&str>, step: Step| {
        let upstream = Upstream::new([step]);
        let client = RetryLayer::new(policy()).layer(Client(upstream.clone()));
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            let client = client.clone();
            async move { client.oneshot(request("GET", "")).await }
        });
        let server = TraceLayer::server(Recorder::new("s")).layer(handler);
        let mut incoming = request("GET", "");
        if let Some(attempt) = attempt {
            incoming.headers_mut().insert(ATTEMPT_HEADER, attempt.parse().unwrap());
        }
        let _ = server.oneshot(incoming).await;
        upstream.seen().iter().map(|seen| seen.attempt).collect::<Vec<_>>()
    };
    assert_eq!(serve(None, status(503)).await, [1, 2]);
    assert_eq!(serve(Some("2"), status(503)).await, [2]);
    assert_eq!(serve(Some("2"), Step::Refuse(refused().into())).await, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_forwarded_as_a_retry_is_not_made_again() {
    let upstream = Upstream::new([status(503)]);
    let mut forwarded = request("GET", "");
    forwarded.extensions_mut().insert(Attempt::FIRST.next());
    call(&RetryLayer::new(policy()), &upstream, forwarded).await.unwrap();
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header.as_deref(), Some("2"), "and still says so");
}

#[tokio::test(start_paused = true)]
async fn the_classifier_decides_what_is_tried_again() {
    let layer =
        RetryLayer::new(policy()).classify(|result: &Result<Response<Full<Bytes>>, BoxError>| {
            match result {
                Ok(response) if response.status() == 404 => Verdict::Failed { after: None },
                _ => Verdict::Final,
            }
        });
    let upstream = Upstream::new([status(404), status(503)]);
    let response = layer.layer(Client(upstream.clone())).oneshot(request("GET", "")).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_without_deadline_or_timeout_is_left_to_its_caller() {
    let upstream = Upstream::new([Step::Hang]);
    let layer = RetryLayer::new(policy());
    let call = call(&layer, &upstream, request("GET", ""));
    timeout(Duration::from_secs(3600), call).await.unwrap_err();
    assert_eq!(upstream.seen().len(), 1);
}
