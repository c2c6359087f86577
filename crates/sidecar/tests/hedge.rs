//! Hedges as their callers and the upstream see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{Attempt, BoxError, Tried};
use gusset_sidecar::{
    ATTEMPT_HEADER, Backoff, Budget, HedgeLayer, HedgePolicy, HedgeStats, Metrics, Ratio,
    ReplayBody, RetryLayer, RetryPolicy,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use support::{Dice, answer, request};
use tokio::time::{Instant, advance, sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};

type Outgoing = Request<ReplayBody<Full<Bytes>>>;
type Res = Response<Full<Bytes>>;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Attempt, its header and the body of a call.
type Seen = (u32, Option<String>, Bytes);

/// What the upstream does with the next calls: how long it takes, and its status. Then it takes 10 ms.
#[derive(Clone, Default)]
struct Upstream {
    script: Arc<Mutex<Vec<(u64, u16)>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    active: Arc<AtomicU32>,
}

struct Active(Arc<AtomicU32>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Upstream {
    fn then(&self, steps: &[(u64, u16)]) {
        self.script.lock().unwrap().extend(steps);
        self.seen.lock().unwrap().clear();
    }

    async fn serve(self, request: Outgoing) -> Result<Res, BoxError> {
        self.active.fetch_add(1, SeqCst);
        let _active = Active(self.active.clone());
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let attempt = head.extensions.get::<Attempt>().map_or(1, |attempt| attempt.number());
        let header = head.headers.get(ATTEMPT_HEADER).map(|v| v.to_str().unwrap().to_owned());
        self.seen.lock().unwrap().push((attempt, header, body));
        let step = {
            let mut script = self.script.lock().unwrap();
            if script.is_empty() { (10, 200) } else { script.remove(0) }
        };
        sleep(millis(step.0)).await;
        if step.1 == 0 { Err("broken".into()) } else { Ok(answer(step.1)) }
    }

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

struct Client {
    layer: HedgeLayer,
    upstream: Upstream,
}

impl Client {
    /// One whose layer has seen 100 calls of 10 ms.
    async fn warm(policy: HedgePolicy) -> Self {
        let client = Self { layer: HedgeLayer::new(policy), upstream: Upstream::default() };
        for _ in 0..100 {
            client.call(request("GET", "")).await.unwrap();
        }
        assert_eq!(client.layer.stats().hedges, 0);
        client.upstream.seen.lock().unwrap().clear();
        client
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> Result<Res, BoxError> {
        let upstream = self.upstream.clone();
        let service = service_fn(move |request: Outgoing| upstream.clone().serve(request));
        self.layer.layer(service).oneshot(request).await
    }

    fn stats(&self) -> HedgeStats {
        self.layer.stats()
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_made_a_second_time_and_the_first_answer_wins() {
    let client = Client::warm(HedgePolicy::default()).await;
    let delay = client.stats().delay.unwrap();
    assert!((10..=13).contains(&delay.as_millis()), "{delay:?}");
    client.upstream.then(&[(60_000, 200), (10, 200)]);
    let began = Instant::now();
    let response = client.call(request("PUT", "payload")).await.unwrap();
    assert!(began.elapsed() <= delay + millis(12));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "answer 200");
    assert_eq!(client.upstream.active.load(SeqCst), 0, "the one that lost is gone");
    let seen = client.upstream.seen.lock().unwrap().clone();
    let second = (2, Some("2".to_owned()), Bytes::from("payload"));
    assert_eq!(seen, [(1, None, Bytes::from("payload")), second]);
    let stats = client.stats();
    assert_eq!((stats.hedges, stats.won), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_first_call_may_still_win() {
    let client = Client::warm(HedgePolicy::default()).await;
    client.upstream.then(&[(20, 200), (60_000, 200)]);
    client.call(request("GET", "")).await.unwrap();
    let stats = client.stats();
    assert_eq!((stats.hedges, stats.won), (1, 0));
    assert_eq!(client.upstream.active.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_idempotent_or_part_of_a_retry_is_never_made_twice() {
    let client = Client::warm(HedgePolicy::default()).await;
    let mut retried = request("GET", "");
    retried.extensions_mut().insert(Attempt::FIRST.next());
    for request in [request("POST", "pay"), retried] {
        client.upstream.then(&[(60_000, 200)]);
        client.call(request).await.unwrap();
        assert_eq!(client.upstream.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_before_enough_calls_were_timed() {
    let client =
        Client { layer: HedgeLayer::new(HedgePolicy::default()), upstream: Upstream::default() };
    client.upstream.then(&[(60_000, 200); 3]);
    for _ in 0..3 {
        client.call(request("GET", "")).await.unwrap();
    }
    assert_eq!((client.upstream.calls(), client.stats().delay), (3, None));
}

#[tokio::test(start_paused = true)]
async fn a_bad_answer_does_not_win_while_another_call_is_under_way() {
    let client = Client::warm(HedgePolicy::default()).await;
    client.upstream.then(&[(100, 200), (1, 503)]);
    assert_eq!(client.call(request("GET", "")).await.unwrap().status(), 200);
    client.upstream.then(&[(100, 0), (200, 200)]);
    assert_eq!(client.call(request("GET", "")).await.unwrap().status(), 200);
    client.upstream.then(&[(100, 503), (200, 0)]);
    assert!(client.call(request("GET", "")).await.is_err(), "both failed: the later one");
    client.upstream.then(&[(1, 503)]);
    assert_eq!(client.call(request("GET", "")).await.unwrap().status(), 503, "quick: no hedge");
    assert_eq!(client.upstream.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_hedges_than_allowed_are_made_of_one_call() {
    let client = Client::warm(HedgePolicy::default().hedges(3)).await;
    client.upstream.then(&[(60_000, 200); 9]);
    client.call(request("GET", "")).await.unwrap();
    assert_eq!(client.upstream.calls(), 4);
    let attempts: Vec<_> = client.upstream.seen.lock().unwrap().iter().map(|s| s.0).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_slow_as_a_whole_gets_no_more_calls() {
    let budget = Budget::new(Ratio::ALL, 1_000, Duration::from_secs(10));
    let client = Client::warm(HedgePolicy::default().budget(budget)).await;
    // The warm-up is two seconds ago.
    advance(Duration::from_secs(3)).await;
    client.upstream.then(&[(5_000, 200); 400]);
    let calls = (0..200).map(|_| client.call(request("GET", "")));
    for result in join(calls).await {
        result.unwrap();
    }
    let stats = client.stats();
    assert!(stats.hedges <= 40, "{stats:?}");
    assert_eq!(stats.hedges + stats.overloaded, 200);
}

/// Polls all of them together.
async fn join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut results = Vec::new();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(result) => {
                results.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    results
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_gets_no_more_calls() {
    let client = Client::warm(HedgePolicy::default()).await;
    advance(Duration::from_secs(3)).await;
    client.upstream.then(&[(1, 503); 50]);
    for _ in 0..50 {
        client.call(request("GET", "")).await.unwrap();
    }
    client.upstream.then(&[(1_000, 200)]);
    client.call(request("GET", "")).await.unwrap();
    assert_eq!((client.stats().overloaded, client.upstream.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn hedges_that_win_do_not_bring_the_next_ones_forward() {
    let client = Client::warm(HedgePolicy::default().bearable(Ratio::ALL)).await;
    let mut dice = Dice(7);
    // Every fifth call stalls: 95 % are never quicker than that, whatever hedges make of it.
    for _ in 0..2_000 {
        let took = if dice.roll(5) == 0 { 500 } else { 10 };
        client.upstream.then(&[(took, 200)]);
        client.call(request("GET", "")).await.unwrap();
    }
    let stats = client.stats();
    // By what hedges see of stalled calls, which they end, 95 % take longer than the quick ones.
    assert!(stats.delay.unwrap() >= millis(20), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_caller_gave_up_counts_as_slow() {
    let client = Client::warm(HedgePolicy::default()).await;
    for _ in 0..200 {
        client.upstream.then(&[(60_000, 200), (60_000, 200)]);
        timeout(millis(100), client.call(request("GET", ""))).await.unwrap_err();
        client.upstream.script.lock().unwrap().clear();
    }
    assert_eq!(client.upstream.active.load(SeqCst), 0);
    assert!(client.stats().delay.unwrap() >= millis(100));
}

/// Many calls at random times, some slow, through retries that share the budget.
#[tokio::test(start_paused = true)]
async fn hedges_and_retries_together_stay_within_one_budget() {
    for seed in 1..6 {
        let budget = Budget::new(Ratio::percent(10), 0, Duration::from_secs(10));
        let retry = RetryPolicy::default().backoff(Backoff::default());
        let retry = RetryLayer::new(retry.budget(budget.clone()));
        let hedge = HedgePolicy::default().min_samples(10).bearable(Ratio::ALL);
        let hedge = HedgeLayer::new(hedge.budget(budget.clone()));
        let mut dice = Dice(seed);
        let made = Arc::new(AtomicU32::new(0));
        let calls: Vec<_> = (0..500)
            .map(|_| {
                let (begin, slow, fails) = (dice.roll(5_000), dice.roll(4) == 0, dice.roll(4) == 0);
                let made = made.clone();
                let upstream =
                    service_fn(move |_: Request<ReplayBody<ReplayBody<Full<Bytes>>>>| {
                        made.fetch_add(1, SeqCst);
                        async move {
                            sleep(millis(if slow { 800 } else { 5 })).await;
                            Ok::<_, std::io::Error>(answer(if fails { 503 } else { 200 }))
                        }
                    });
                let service = retry.layer(hedge.layer(upstream));
                tokio::spawn(async move {
                    sleep(millis(begin)).await;
                    service.oneshot(request("GET", "")).await.unwrap();
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        let (retries, hedges) = (retry.stats().retries, hedge.stats().hedges);
        assert!(retries > 0 && hedges > 0, "{retries} and {hedges}");
        assert_eq!(retries + hedges, budget.stats().withdrawn);
        assert!(retries + hedges <= 50, "{retries} and {hedges}");
        assert_eq!(u64::from(made.load(SeqCst)), 500 + retries + hedges);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_told_where_the_first_call_went() {
    let layer = HedgeLayer::new(HedgePolicy::default().min_samples(1));
    let lists = Arc::new(Mutex::new(Vec::new()));
    let log = lists.clone();
    let service = layer.layer(service_fn(move |request: Outgoing| {
        let tried = request.extensions().get::<Tried>().cloned().or_else(Tried::current).unwrap();
        let slow = tried.is_empty();
        tried.insert("a".into());
        log.lock().unwrap().push(tried);
        async move {
            sleep(millis(if slow { 50 } else { 1 })).await;
            Ok::<_, BoxError>(answer(200))
        }
    }));
    for _ in 0..2 {
        service.clone().oneshot(request("GET", "")).await.unwrap();
        advance(millis(300)).await;
    }
    // The second call waits 50 ms before its hedge, and has its answer by then.
    assert!(lists.lock().unwrap().iter().all(|tried| tried.contains("a")));
}

#[tokio::test(start_paused = true)]
async fn its_figures_are_metrics() {
    let client = Client::warm(HedgePolicy::default()).await;
    client.upstream.then(&[(60_000, 200)]);
    client.call(request("GET", "")).await.unwrap();
    let (metrics, layer) = (Metrics::new(), client.layer.clone());
    metrics.on_render(move |samples| layer.report("stock", samples));
    let text = metrics.render_prometheus();
    assert!(text.contains("gusset_hedges_total{upstream=\"stock\"} 1"), "{text}");
    assert!(text.contains("gusset_hedges_won_total{upstream=\"stock\"} 1"), "{text}");
}
