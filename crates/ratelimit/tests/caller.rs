//! The limiter as its callers see it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use gusset_call::{BoxError, refusal_in};
use gusset_ratelimit::{Denied, Keyed, Limited, Quota, RateLimitLayer, RateLimiter, WithoutKey};
use tokio::time::{advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_test::mock;

const SECOND: Duration = Duration::from_secs(1);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Ten a second, one at once.
fn one_by_one() -> RateLimiter {
    RateLimiter::new(Quota::per_second(10).burst(1))
}

fn keyed(quota: Quota) -> Keyed<u32> {
    Keyed::new(quota, NonZeroUsize::new(1_000).unwrap())
}

async fn echo(request: u32) -> Result<u32, BoxError> {
    Ok(request)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_to_come_back_and_then_it_is_so() {
    let limiter = RateLimiter::new(Quota::per_minute(100).burst(2));
    assert_eq!(limiter.check().unwrap().remaining(), 1);
    advance(ms(100)).await;
    assert_eq!(limiter.check().unwrap().full_in(), ms(1_100));
    let limited = limiter.check().unwrap_err();
    assert_eq!(limited, Limited::new(ms(500)));

    advance(ms(500) - Duration::from_nanos(1)).await;
    assert!(limiter.check().is_err());
    advance(Duration::from_nanos(1)).await;
    assert!(limiter.check().is_ok());
    assert_eq!(limiter.stats().allowed, 3);
    assert_eq!(limiter.stats().refused, 2);
}

#[tokio::test(start_paused = true)]
async fn a_cost_beyond_the_burst_is_another_refusal() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(5));
    let Err(Denied::TooCostly(costly)) = limiter.check_n(6) else { panic!("not refused for ever") };
    assert_eq!((costly.cost(), costly.burst()), (6, 5));
    assert!(matches!(limiter.until_ready_n(6, 60 * SECOND).await, Err(Denied::TooCostly(_))));
    assert!(matches!(keyed(limiter.quota()).check_n(&1, 6), Err(Denied::TooCostly(_))));
    assert_eq!(limiter.peek().remaining(), 5);

    limiter.check_n(3).unwrap();
    let denied = limiter.check_n(4).unwrap_err();
    assert_eq!(denied, Denied::Limited(Limited::new(ms(200))));
    assert_eq!(refusal_in(&denied).unwrap().status(), 429);
}

#[tokio::test(start_paused = true)]
async fn a_quota_of_zero_refuses_all() {
    let limiter = RateLimiter::new(Quota::per_minute(0));
    let limited = limiter.check().unwrap_err();
    assert_eq!(limited.retry_after(), Some(60 * SECOND), "for want of a better answer");
    assert!(limiter.until_ready(SECOND).await.is_err());
    assert!(keyed(Quota::per_minute(7).burst(0)).check(&1).is_err());
    let mut service = RateLimitLayer::new(limiter).layer(service_fn(echo));
    assert!(service.ready().await.unwrap().call(1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_waits_sleeps_once_and_is_not_overtaken() {
    let limiter = one_by_one();
    limiter.check().unwrap();
    let mut waiter = task::spawn(limiter.until_ready(SECOND));
    assert_pending!(waiter.poll());
    advance(ms(99)).await;
    assert!(!waiter.is_woken());
    // It could have the token by the clock, but that is promised.
    advance(ms(2)).await;
    assert!(limiter.check().is_err());
    assert!(waiter.is_woken());
    assert_ready_ok!(waiter.poll());
    drop(waiter);
    assert!(limiter.check().is_err(), "what was waited for is used");
    advance(ms(100)).await;
    assert!(limiter.check().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_would_be_too_long_is_refused_at_once() {
    let limiter = one_by_one();
    for _ in 0..100 {
        let mut waiter = task::spawn(limiter.until_ready(ms(250)));
        let _ = waiter.poll();
        std::mem::forget(waiter);
    }
    // One at once and two in the queue; all others were told so without waiting.
    assert_eq!((limiter.stats().allowed, limiter.stats().refused), (1, 97));
    let mut waiter = task::spawn(limiter.until_ready(ms(250)));
    assert_eq!(assert_ready_err!(waiter.poll()), Limited::new(ms(300)));
    assert!(limiter.until_ready(Duration::ZERO).await.is_err());
    let mut patient = task::spawn(limiter.until_ready(Duration::MAX));
    assert_pending!(patient.poll());
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_end_of_the_queue_gives_back_its_place() {
    let limiter = one_by_one();
    limiter.check().unwrap();
    for _ in 0..9 {
        assert!(timeout(ms(10), limiter.until_ready(SECOND)).await.is_err());
    }
    advance(ms(10)).await;
    assert!(limiter.check().is_ok(), "those who left took nothing");
    assert_eq!(limiter.wasted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_all_have_left_in_order_of_arrival_is_empty() {
    let limiter = one_by_one();
    limiter.check().unwrap();
    let mut queue: Vec<_> = (0..10).map(|_| task::spawn(limiter.until_ready(SECOND))).collect();
    for waiter in &mut queue {
        assert_pending!(waiter.poll());
    }
    for waiter in queue {
        drop(waiter);
    }
    assert_eq!(limiter.peek().full_in(), ms(100));
    sleep(ms(100)).await;
    assert!(limiter.check().is_ok());
    assert_eq!((limiter.wasted(), limiter.stats().allowed), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_middle_of_the_queue_hurries_nobody_and_is_counted() {
    let limiter = one_by_one();
    limiter.check().unwrap();
    let mut first = task::spawn(limiter.until_ready(SECOND));
    let mut second = task::spawn(limiter.until_ready(SECOND));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    drop(first);
    advance(ms(150)).await;
    assert_pending!(second.poll());
    advance(ms(51)).await;
    assert_ready_ok!(second.poll());
    assert_eq!(limiter.wasted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_does_not_reach_the_service() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let mut service = RateLimitLayer::new(one_by_one()).layer(service_fn(move |request: u32| {
        counted.fetch_add(1, SeqCst);
        echo(request)
    }));
    assert_eq!(service.ready().await.unwrap().call(7).await.unwrap(), 7);
    let error = service.ready().await.unwrap().call(8).await.unwrap_err();
    assert_eq!(error.downcast_ref::<Limited>(), Some(&Limited::new(ms(100))));
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_gives_back_what_the_service_held() {
    let service = ServiceBuilder::new()
        .layer(RateLimitLayer::new(RateLimiter::new(Quota::per_second(1_000))))
        .concurrency_limit(1)
        .service(service_fn(|_: ()| std::future::pending::<Result<(), BoxError>>()));
    for _ in 0..100 {
        assert!(timeout(ms(1), service.clone().oneshot(())).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_service_pass_untouched() {
    let service = RateLimitLayer::new(one_by_one())
        .layer(service_fn(|_: ()| async { Err::<(), _>(std::fmt::Error) }));
    assert!(service.oneshot(()).await.unwrap_err().is::<std::fmt::Error>());

    let (service, mut handle) = mock::pair::<(), ()>();
    handle.send_error(std::fmt::Error);
    let mut service = RateLimitLayer::new(one_by_one()).layer(service);
    assert!(service.ready().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_bucket_and_those_without_share_one() {
    let clients = keyed(Quota::per_second(2));
    let layer =
        RateLimitLayer::keyed(clients.clone(), |request: &u32| (*request != 0).then_some(*request));
    let (service, twin) = (layer.layer(service_fn(echo)), layer.layer(service_fn(echo)));
    for client in [1, 2, 3, 0] {
        service.clone().oneshot(client).await.unwrap();
        twin.clone().oneshot(client).await.unwrap();
        assert!(service.clone().oneshot(client).await.unwrap_err().is::<Limited>());
    }
    assert!(clients.check(&1).is_err(), "by hand it is the same bucket");
    advance(ms(500)).await;
    assert!(service.clone().oneshot(1).await.is_ok());
    assert!(service.oneshot(1).await.is_err());
    assert_eq!(clients.live_evictions(), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_can_be_let_through() {
    let service = RateLimitLayer::keyed(keyed(Quota::per_second(1)), |_: &u32| None)
        .without_key(WithoutKey::Pass)
        .layer(service_fn(echo));
    for _ in 0..10 {
        service.clone().oneshot(1).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_may_be_looked_up_by_what_it_borrows_as() {
    let users = Keyed::<String>::new(Quota::per_second(1), NonZeroUsize::MIN);
    users.check("ann").unwrap();
    assert!(users.check(&"ann".to_owned()).is_err());
    let paths = Keyed::<str>::new(Quota::per_second(1), NonZeroUsize::MIN);
    paths.check("/a").unwrap();
    assert!(paths.clone().check("/a").is_err());
}

#[test]
fn handles_are_send_and_sync() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<RateLimiter>();
    // Keys are not kept, so whatever they are, the limiter may be shared.
    shared::<Keyed<std::rc::Rc<str>>>();
    shared::<RateLimitLayer>();
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_are_counted_whatever_becomes_of_them() {
    for (policy, counts) in
        [(WithoutKey::ShareOne, (2, 1)), (WithoutKey::Pass, (3, 0)), (WithoutKey::Refuse, (0, 3))]
    {
        let layer =
            RateLimitLayer::keyed(keyed(Quota::per_hour(2)), |x: &u32| (*x > 0).then_some(*x))
                .without_key(policy);
        let service = layer.layer(service_fn(echo));
        for request in [0, 1, 0, 2, 0] {
            let _ = service.clone().oneshot(request).await;
        }
        let stats = layer.stats_without_key();
        assert_eq!((stats.allowed, stats.refused), counts, "{policy:?}");
    }
}
