//! Calls that are dropped at any point leave nothing behind.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{Ambient, BoxError, Deadline};
use gusset_sidecar::{
    Backoff, Budget, Cursor, DeadlineLayer, HedgeLayer, HedgePolicy, Metrics, Ratio, Recorder,
    ReplayBody, RetryLayer, RetryPolicy, SpanKind, TraceLayer,
};
use http::Request;
use http_body::Body;
use http_body_util::{BodyExt, Full};
use support::{Dice, answer};
use tokio::time::{advance, sleep};
use tower::{Service, ServiceBuilder, limit::ConcurrencyLimitLayer, service_fn};

/// What is alive is counted.
struct Alive(Arc<AtomicI64>);

impl Alive {
    fn new(count: &Arc<AtomicI64>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

const CALLS: u64 = 1_000_000;
const PERMITS: usize = 8;

#[tokio::test(start_paused = true)]
async fn a_million_random_cancels_leak_no_permit_gauge_span_or_task_and_overdraw_no_budget() {
    let (alive, made) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicU64::new(0)));
    let dice = Arc::new(Mutex::new(Dice(42)));
    let (count, calls, rolls) = (alive.clone(), made.clone(), dice.clone());
    let upstream = service_fn(move |request: Request<ReplayBody<ReplayBody<Full<Bytes>>>>| {
        let guard = Alive::new(&count);
        calls.fetch_add(1, SeqCst);
        let (millis, status, reads) = {
            let mut dice = rolls.lock().unwrap();
            (dice.roll(6), if dice.roll(2) == 0 { 503 } else { 200 }, dice.roll(2) == 0)
        };
        async move {
            let _guard = guard;
            if reads {
                let _ = request.into_body().collect().await.map(drop);
            }
            if millis > 0 {
                sleep(Duration::from_millis(millis)).await;
            }
            Ok::<_, BoxError>(answer(status))
        }
    });
    let budget = Budget::new(Ratio::percent(20), 10, Duration::from_secs(10));
    let policy = RetryPolicy::default()
        .backoff(Backoff::exponential(Duration::from_millis(1), Duration::from_millis(4)))
        .attempt_timeout(Duration::from_millis(3));
    let retry = RetryLayer::new(policy.budget(budget.clone()));
    let hedge = HedgePolicy::default()
        .quantile(Ratio::percent(50))
        .bearable(Ratio::ALL)
        .budget(budget.clone());
    let hedge = HedgeLayer::new(hedge);
    let metrics = Metrics::new();
    let recorder = Recorder::with_capacity("s", 100);
    let mut service = ServiceBuilder::new()
        .layer(TraceLayer::client(recorder.clone()).metrics(metrics.clone()))
        .layer(retry.clone())
        .layer(hedge.clone())
        .layer(DeadlineLayer::client())
        .layer(ConcurrencyLimitLayer::new(PERMITS))
        .service(upstream);

    let mut cx = Context::from_waker(Waker::noop());
    let roll = |sides| dice.lock().unwrap().roll(sides);
    for _ in 0..CALLS {
        assert_eq!(alive.load(SeqCst), 0);
        assert_eq!(Ambient::current(), Ambient::default(), "a span is still current");
        let mut request = Request::put("/").body(Full::from(Bytes::from_static(b"body"))).unwrap();
        request.extensions_mut().insert(Deadline::after(Duration::from_millis(roll(8))));
        assert!(service.poll_ready(&mut cx).is_ready(), "a permit is missing");
        let mut call = pin!(service.call(request));
        for _ in 0..roll(4) {
            if let Poll::Ready(result) = call.as_mut().poll(&mut cx) {
                // Its body is dropped as well, sometimes half read.
                if let (Ok(response), 0) = (result, roll(2)) {
                    let _ = Pin::new(&mut response.into_body()).poll_frame(&mut cx);
                }
                break;
            }
            if roll(64) == 0 {
                advance(Duration::from_millis(roll(8))).await;
            }
        }
    }
    let stats = retry.stats();
    assert_eq!(stats.calls, CALLS);
    assert!(stats.retries > 100 && hedge.stats().hedges > 100, "{stats:?} {:?}", hedge.stats());
    assert!(stats.retries + hedge.stats().hedges <= budget.stats().withdrawn);
    let active: i64 = metrics.snapshot().active.iter().map(|active| active.calls).sum();
    assert_eq!(active, 0);
    // Each call has ended its span, and once.
    assert_eq!(recorder.stats().recorded, CALLS);
    let mut ids: Vec<_> =
        recorder.read(&mut Cursor::default(), 100).iter().map(|record| record.span_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    assert_eq!(metrics.snapshot().total(SpanKind::Client).count(), CALLS);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    // All permits are there.
    let mut others: Vec<_> = (0..PERMITS).map(|_| service.clone()).collect();
    drop(service);
    assert!(others.iter_mut().all(|other| other.poll_ready(&mut cx).is_ready()));
}
