//! Limits of concurrency as their callers see them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    convert::Infallible,
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_ratelimit::{
    Concurrency, ConcurrencyLimit, ConcurrencyLimitLayer, ConcurrencyLimiter, Overloaded, Priority,
    Ratio,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, advance, sleep, sleep_until},
};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

const MILLI: Duration = Duration::from_millis(1);

fn fixed(limit: u32) -> ConcurrencyLimiter {
    ConcurrencyLimiter::new("db", Concurrency::fixed(NonZeroU32::new(limit).unwrap()))
}

fn adaptive() -> [ConcurrencyLimiter; 2] {
    [Concurrency::aimd(), Concurrency::gradient()]
        .map(|policy| ConcurrencyLimiter::new("db", policy.initial(10).timeout(100 * MILLI)))
}

type Mock = ConcurrencyLimit<mock::Mock<&'static str, &'static str>>;

fn spawn(
    limiter: ConcurrencyLimiter,
) -> (mock::Spawn<Mock>, mock::Handle<&'static str, &'static str>) {
    mock::spawn_layer(ConcurrencyLimitLayer::new(limiter))
}

#[tokio::test(start_paused = true)]
async fn a_call_beyond_the_limit_is_refused_at_once_and_without_asking_the_service() {
    let limiter = fixed(1);
    let (mut service, mut handle) = spawn(limiter.clone());
    assert_ready_ok!(service.poll_ready());
    let first = service.call("first");
    // The service inside is not ready now, and is not asked.
    handle.allow(0);
    assert_ready_ok!(service.poll_ready());
    let error = service.call("second").await.unwrap_err();
    let overloaded = error.downcast_ref::<Overloaded>().unwrap();
    assert_eq!(
        (overloaded.to_string().as_str(), overloaded.retry_after()),
        ("db is overloaded", None)
    );

    let (request, respond) = handle.next_request().await.unwrap();
    assert_eq!(request, "first");
    respond.send_response("done");
    assert_eq!(first.await.unwrap(), "done");
    let stats = limiter.stats();
    assert_eq!((stats.normal.ended, stats.normal.refused, limiter.in_flight()), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn readiness_is_that_of_the_service_and_holds_no_place() {
    let limiter = fixed(1);
    let (mut service, mut handle) = spawn(limiter.clone());
    handle.allow(0);
    assert_pending!(service.poll_ready());
    assert_eq!(limiter.in_flight(), 0);
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    assert_eq!(limiter.in_flight(), 0);
    drop(service);
    assert!(limiter.try_acquire(Priority::Normal).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_place_taken_between_readiness_and_call_is_a_refusal_and_the_service_stays_ready() {
    let limiter = fixed(1);
    let (mut service, mut handle) = spawn(limiter.clone());
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let permit = limiter.try_acquire(Priority::Normal).unwrap();
    assert!(service.call("late").await.unwrap_err().is::<Overloaded>());
    permit.success();
    assert_ready_ok!(service.poll_ready());
    let call = task::spawn(service.call("now"));
    assert_eq!(handle.next_request().await.unwrap().0, "now");
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_cancelled_calls_gives_all_places_back() {
    for limiter in adaptive().into_iter().chain([fixed(10)]) {
        let service = ConcurrencyLimitLayer::new(limiter.clone())
            .layer(service_fn(|()| std::future::pending::<Result<(), Infallible>>()));
        for round in 0..1_000 {
            let calls: Vec<_> = (0..20)
                .map(|_| {
                    let mut call = task::spawn(service.clone().oneshot(()));
                    let _ = call.poll();
                    call
                })
                .collect();
            assert!(limiter.in_flight() <= 10);
            advance(MILLI).await;
            drop(calls);
            assert_eq!(limiter.in_flight(), 0, "{round}");
        }
        assert_eq!(limiter.limit(), 10, "impatient callers say nothing about the service");
        assert_eq!(limiter.stats().overloads, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_a_timeout_outside_drops_are_overload() {
    for limiter in adaptive() {
        let service = ConcurrencyLimitLayer::new(limiter.clone())
            .layer(service_fn(|()| std::future::pending::<Result<(), Infallible>>()));
        for _ in 0..20 {
            let calls =
                (0..20).map(|_| tokio::time::timeout(150 * MILLI, service.clone().oneshot(())));
            for call in calls.map(tokio::spawn).collect::<Vec<_>>() {
                let _ = call.await.unwrap();
            }
        }
        assert_eq!(limiter.limit(), 4, "the default minimum");
        assert!(limiter.stats().overloads > 50);
    }
}

/// One burst of failures is one sign.
#[tokio::test(start_paused = true)]
async fn however_many_calls_fail_together_the_limit_falls_once() {
    for limiter in adaptive() {
        let permits: Vec<_> =
            (0..10).map(|_| limiter.try_acquire(Priority::Normal).unwrap()).collect();
        advance(150 * MILLI).await;
        for permit in permits {
            permit.overloaded();
            advance(20 * MILLI).await;
        }
        assert_eq!((limiter.limit(), limiter.stats().overloads), (9, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_gives_the_place_back_even_where_the_future_is_kept() {
    let limiter = fixed(1);
    let mut service = ConcurrencyLimitLayer::new(limiter.clone())
        .layer(service_fn(|()| async { Err::<(), BoxError>(format!("{}", 1 / zero()).into()) }));
    let mut call = task::spawn(service.call(()));
    assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
    assert_eq!(limiter.in_flight(), 0);
    drop(call);
    assert_eq!(limiter.in_flight(), 0);
}

fn zero() -> i32 {
    std::env::args().filter(|argument| argument == "there is no such argument").count() as i32
}

#[tokio::test(start_paused = true)]
async fn calls_that_use_the_limit_raise_it() {
    for limiter in adaptive() {
        for _ in 0..95 {
            let permits: Vec<_> =
                (0..10).map_while(|_| limiter.try_acquire(Priority::Normal).ok()).collect();
            advance(10 * MILLI).await;
            permits.into_iter().for_each(gusset_ratelimit::Permit::success);
        }
        assert!(limiter.limit() > 10, "{limiter:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_slow_service_falls_no_more_than_once_in_a_round_trip() {
    for limiter in adaptive() {
        for _ in 0..5 {
            let permits: Vec<_> =
                (0..20).map_while(|_| limiter.try_acquire(Priority::Normal).ok()).collect();
            let before = limiter.limit();
            advance(2_000 * MILLI).await;
            for permit in permits {
                permit.success();
                advance(110 * MILLI).await;
            }
            assert!(limiter.limit() + 2 >= before, "{before} {limiter:?}");
        }
    }
}

/// A server with so many workers, each of which takes 10 ms for a call. Others wait for a worker.
#[derive(Clone)]
struct Server {
    workers: Arc<Semaphore>,
}

impl Server {
    fn new(workers: usize) -> Self {
        Self { workers: Arc::new(Semaphore::new(workers)) }
    }

    async fn serve(self) -> Result<(), Infallible> {
        let _worker = self.workers.acquire().await;
        sleep(10 * MILLI).await;
        Ok(())
    }
}

/// What became of the calls of one run.
#[derive(Debug)]
struct Run {
    served: u64,
    slowest: Duration,
}

/// So many calls come in each millisecond, whether or not the earlier ones are done, for so many seconds, the first of which is
/// not counted. Of three that follow each other, as many are of low priority.
async fn run(
    limiter: &ConcurrencyLimiter,
    server: &Server,
    per_milli: u32,
    seconds: u32,
    low: u32,
) -> Run {
    let server = server.clone();
    let service = ConcurrencyLimitLayer::new(limiter.clone())
        .priority(move |call: &u32| if call % 3 < low { Priority::Low } else { Priority::Normal })
        .layer(service_fn(move |_| server.clone().serve()));
    let (served, slowest) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
    let start = Instant::now();
    for milli in 0..seconds * 1_000 {
        sleep_until(start + MILLI * milli).await;
        for call in 0..per_milli {
            let call = service.clone().oneshot(call);
            let (served, slowest) = (served.clone(), slowest.clone());
            tokio::spawn(async move {
                let begun = Instant::now();
                if call.await.is_ok() && milli >= 1_000 {
                    served.fetch_add(1, Relaxed);
                    slowest.fetch_max(begun.elapsed().as_millis() as u64, Relaxed);
                }
            });
        }
    }
    sleep(20 * MILLI).await;
    let slowest = Duration::from_millis(slowest.load(Relaxed));
    Run { served: served.load(Relaxed), slowest }
}

/// 1,600 calls a second could be served; 3,000 come.
#[tokio::test(start_paused = true)]
async fn under_overload_the_gradient_finds_the_number_of_workers_and_keeps_latency_short() {
    let limiter = ConcurrencyLimiter::new("server", Concurrency::gradient());
    let seen = run(&limiter, &Server::new(16), 3, 12, 0).await;
    assert!((16..=32).contains(&limiter.limit()), "{limiter:?}");
    assert!(seen.slowest <= 25 * MILLI, "{seen:?}");
    let ideal = 11 * 1_600;
    assert!(seen.served * 100 >= ideal * 95, "{seen:?}");
}

/// The queue lasts for 300 ms, and so do the calls that end in the first windows after the limit fell.
#[tokio::test(start_paused = true)]
async fn a_queue_that_is_longer_than_a_window_is_seen() {
    let policy = Concurrency::gradient().initial(500);
    let limiter = ConcurrencyLimiter::new("server", policy);
    run(&limiter, &Server::new(16), 3, 10, 0).await;
    assert!((16..=32).contains(&limiter.limit()), "{limiter:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fixed_limit_that_is_too_large_does_not_keep_latency_short() {
    let seen = run(&fixed(500), &Server::new(16), 3, 3, 0).await;
    assert!(seen.slowest >= 300 * MILLI, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_limit_follows_a_server_that_loses_workers_and_gets_them_back() {
    let limiter = ConcurrencyLimiter::new("server", Concurrency::gradient());
    let server = Server::new(32);
    run(&limiter, &server, 5, 5, 0).await;
    assert!(limiter.limit() >= 32, "{limiter:?}");

    let gone = server.workers.clone().acquire_many_owned(24).await.unwrap();
    run(&limiter, &server, 5, 5, 0).await;
    assert!((8..=16).contains(&limiter.limit()), "{limiter:?}");

    drop(gone);
    run(&limiter, &server, 5, 8, 0).await;
    assert!((32..=64).contains(&limiter.limit()), "{limiter:?}");
}

/// Between two falls there are five seconds in which only the quick half of the calls ends.
#[tokio::test(start_paused = true)]
async fn a_service_of_which_half_hangs_is_not_called_more_and_more() {
    for policy in [Concurrency::aimd(), Concurrency::gradient()] {
        let limiter = ConcurrencyLimiter::new("server", policy);
        let hang = Arc::new(AtomicU64::new(0));
        let service = ConcurrencyLimitLayer::new(limiter.clone()).layer(service_fn(move |()| {
            let hangs = hang.fetch_add(1, Relaxed) % 2 == 0;
            async move {
                sleep(if hangs { 5_000 * MILLI } else { 10 * MILLI }).await;
                Ok::<_, Infallible>(())
            }
        }));
        let start = Instant::now();
        for milli in 0..120_000 {
            sleep_until(start + MILLI * milli).await;
            tokio::spawn(service.clone().oneshot(()));
            assert!(limiter.limit() <= 25, "{milli} {limiter:?}");
        }
        assert!(limiter.limit() <= 10, "{limiter:?}");
    }
}

/// Of 3,000 calls a second, 1,000 are of normal priority, which the server could do alone: it does 2,000.
#[tokio::test(start_paused = true)]
async fn under_overload_low_priority_is_refused_first() {
    let fixed = Concurrency::fixed(NonZeroU32::new(20).unwrap());
    for (policy, seldom) in
        [(fixed.low_share(Ratio::percent(60)), 0), (fixed, 1), (Concurrency::gradient(), 1)]
    {
        let limiter = ConcurrencyLimiter::new("server", policy);
        run(&limiter, &Server::new(20), 3, 10, 2).await;
        let stats = limiter.stats();
        assert_eq!(stats.normal.ended + stats.normal.refused, 10_000);
        assert!(stats.normal.refused * 100 <= seldom * 10_000, "{policy:?} {stats:?}");
        assert!(stats.low.refused > 6_000, "{policy:?} {stats:?}");
        assert!(stats.low.ended > 2_000, "what is left is theirs: {policy:?} {stats:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn low_priority_may_get_nothing_while_normal_takes_more_than_its_share() {
    let limiter = fixed(10);
    let permits: Vec<_> = (0..8).map(|_| limiter.try_acquire(Priority::Normal).unwrap()).collect();
    assert!(limiter.try_acquire(Priority::Low).is_err());
    let last = [Priority::Normal; 2].map(|priority| limiter.try_acquire(priority).unwrap());
    assert!(limiter.try_acquire(Priority::Normal).is_err());
    drop((permits, last));
    let stats = limiter.stats();
    assert_eq!((stats.low.refused, stats.normal.refused), (1, 1));
}
