//! Reservations, queues, changes of the quota, several limits at once and exact keys, as their callers see them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    num::NonZeroUsize,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use gusset_call::{Limited, refusal_in};
use gusset_ratelimit::{AllOf, Denied, ExactKeyed, Keyed, PerKey, Quota, RateLimiter, Refused};
use proptest::prelude::*;
use tokio::time::{Instant, advance, timeout};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn number(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

/// Ten a second, one at once.
fn one_by_one() -> RateLimiter {
    RateLimiter::new(Quota::per_second(10).burst(1))
}

#[tokio::test(start_paused = true)]
async fn a_reservation_is_due_in_its_turn_and_taken_now() {
    let limiter = one_by_one();
    let now = limiter.reserve(1, Duration::ZERO).unwrap();
    let next = limiter.reserve(1, SECOND).unwrap();
    assert_eq!((now.ready_in(), next.ready_in()), (Duration::ZERO, ms(100)));
    assert_eq!(next.ready_at(), Instant::now() + ms(100));
    assert_eq!(limiter.check().unwrap_err(), Limited::new(ms(200)));
    now.commit();
    let start = Instant::now();
    next.ready().await;
    assert_eq!(start.elapsed(), ms(100));
    assert_eq!((limiter.stats().allowed, limiter.stats().refused, limiter.wasted()), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_is_dropped_gives_its_tokens_back() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(5));
    let one = limiter.reserve(3, SECOND).unwrap();
    limiter.check_n(2).unwrap();
    let other = limiter.reserve(2, SECOND).unwrap();
    assert_eq!(limiter.waiting(), 1, "the other waits");
    drop(other);
    drop(one);
    assert_eq!((limiter.peek().remaining(), limiter.waiting(), limiter.wasted()), (3, 0, 0));
    assert_eq!(limiter.stats().allowed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reservation_beyond_the_longest_wait_or_the_burst_is_refused_and_takes_nothing() {
    let limiter = one_by_one();
    limiter.check().unwrap();
    assert_eq!(limiter.reserve(1, ms(99)).unwrap_err(), Denied::Limited(Limited::new(ms(100))));
    assert!(matches!(limiter.reserve(2, SECOND), Err(Denied::TooCostly(_))));
    advance(ms(100)).await;
    assert!(limiter.check().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_cancellations_leaves_nothing_behind() {
    let limiter = one_by_one();
    limiter.check().unwrap();
    for round in 0..50 {
        let mut queue: Vec<_> =
            (0..100).map(|_| task::spawn(limiter.until_ready(60 * SECOND))).collect();
        for waiter in &mut queue {
            assert_pending!(waiter.poll());
        }
        // From the front, from the back, from the middle.
        match round % 3 {
            0 => queue.into_iter().for_each(drop),
            1 => queue.into_iter().rev().for_each(drop),
            _ => (0..100).for_each(|_| drop(queue.swap_remove(queue.len() / 2))),
        }
        assert_eq!((limiter.waiting(), limiter.peek().full_in()), (0, ms(100)));
    }
    advance(ms(100)).await;
    assert!(limiter.check().is_ok());
    assert_eq!(limiter.wasted(), 0);
}

fn joined(second: u32, hour: u32, all: u32) -> (AllOf<u8>, [Keyed<u8>; 2], RateLimiter) {
    let keyed = [
        Keyed::new(Quota::per_second(second), number(1_000)),
        Keyed::new(Quota::per_hour(hour), number(1_000)),
    ];
    let everybody = RateLimiter::new(Quota::per_minute(all));
    let limits = AllOf::new()
        .and("second", keyed[0].clone())
        .and("hour", keyed[1].clone())
        .and("everybody", everybody.clone());
    (limits, keyed, everybody)
}

#[tokio::test(start_paused = true)]
async fn of_several_limits_the_one_with_the_longest_wait_is_named() {
    let (limits, _, everybody) = joined(2, 3, 100);
    assert_eq!(limits.check(&1).unwrap().unwrap().remaining(), 1);
    limits.check(&1).unwrap();
    assert_eq!(limits.check(&1).unwrap_err().limit(), "second");
    advance(SECOND).await;
    limits.check(&1).unwrap();
    advance(SECOND).await;
    let exceeded = limits.check(&1).unwrap_err();
    assert_eq!(exceeded.limit(), "hour");
    assert_eq!(refusal_in(&exceeded).unwrap().retry_after(), Some(1198 * SECOND));
    everybody.check_n(everybody.peek().remaining()).unwrap();
    assert_eq!(limits.check(&2).unwrap_err().limit(), "everybody");
    let costly = limits.check_n(&2, 50).unwrap_err();
    assert!(matches!(costly.refused(), Refused::Inadmissible(_)));
    assert!(AllOf::<u8>::new().check(&1).unwrap().is_none());
}

proptest! {
    /// Each limit has given exactly as much as was allowed by all.
    #[test]
    fn what_is_refused_by_one_is_charged_to_none(
        calls in prop::collection::vec((0..4_u8, 0..4_u32), 1..100),
        second in 1..20_u32, hour in 1..20_u32, all in 1..40_u32,
    ) {
        let (limits, keyed, everybody) = joined(second, hour, all);
        let mut given = [0; 4];
        // In a time in which nothing comes back: the machine may be slow, but a token of the second takes 50 ms.
        let start = std::time::Instant::now();
        for (key, cost) in calls {
            if limits.check_n(&key, cost).is_ok() {
                given[usize::from(key)] += cost;
            }
        }
        let levels: Vec<_> = (0..4_u8).map(|key| keyed.each_ref().map(|limit| limit.peek(&key).remaining())).collect();
        let left = everybody.peek().remaining();
        prop_assume!(start.elapsed() < ms(40));
        for (level, given) in levels.iter().zip(given) {
            prop_assert_eq!((level[0], level[1]), (second - given, hour - given));
        }
        prop_assert_eq!(left, all - given.iter().sum::<u32>());
    }
}

#[test]
fn what_threads_are_refused_together_is_charged_to_none_in_the_end() {
    const QUOTA: Quota = Quota::per_hour(1).burst(100_000);
    let (one, other) = (Keyed::<u8>::new(QUOTA, number(10)), RateLimiter::new(QUOTA.burst(30_000)));
    let exact = ExactKeyed::<u8>::new(QUOTA.burst(30_001), number(10));
    let limits =
        AllOf::<u8>::new().and("a", one.clone()).and("b", exact.clone()).and("c", other.clone());
    let given: u32 = thread::scope(|scope| {
        let ask = || (0..40_000).filter(|_| limits.check(&1).is_ok()).count() as u32;
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(given, 30_000);
    assert_eq!((one.peek(&1).remaining(), exact.peek(&1).remaining()), (70_000, 1));
    assert_eq!((other.peek().remaining(), other.wasted()), (0, 0));
    assert_eq!((one.stats().allowed, other.stats().allowed), (30_000, 30_000));
}

#[tokio::test(start_paused = true)]
async fn limits_by_request_can_be_joined_and_be_a_layer() {
    struct Order(Option<u8>);
    let customers = Keyed::<u8>::new(Quota::per_second(2), number(100));
    let all = RateLimiter::new(Quota::per_second(3));
    let limits = AllOf::<Order>::new()
        .and("customer", PerKey::new(customers, |order: &Order| order.0))
        .and("all", all.clone());
    let service = limits.layer(service_fn(|_: Order| async { Ok::<_, std::io::Error>(()) }));
    for customer in [Some(1), Some(1), None] {
        service.clone().oneshot(Order(customer)).await.unwrap();
    }
    for customer in [Some(1), Some(2), None] {
        assert!(service.clone().oneshot(Order(customer)).await.unwrap_err().is::<Limited>());
    }
    assert_eq!(all.stats().allowed, 3);
}

#[tokio::test(start_paused = true)]
async fn exact_keys_are_each_limited_for_itself() {
    // With room to spare: keys spread unevenly over the shards, and at the capacity one of them may be full.
    let tenants = ExactKeyed::<String>::new(Quota::per_second(2), number(4_000));
    for key in 0..1_000 {
        let key = format!("tenant {key}");
        assert_eq!(tenants.check(key.as_str()).unwrap().remaining(), 1);
        tenants.check(&key).unwrap();
        assert_eq!(tenants.check(&key).unwrap_err(), Limited::new(ms(500)));
    }
    assert_eq!((tenants.keys(), tenants.live_evictions()), (1_000, 0));
    assert!(matches!(tenants.check_n("new", 3), Err(Denied::TooCostly(_))));
    tenants.set_quota(Quota::per_second(0));
    assert_eq!(tenants.check("new").unwrap_err(), Limited::new(SECOND));
    tenants.set_quota(Quota::per_second(10));
    assert_eq!(tenants.peek("tenant 7").remaining(), 10, "a burst of 0 has nothing to remember");
    tenants.check_n("tenant 7", 3).unwrap();
    tenants.set_quota(Quota::per_hour(5));
    assert_eq!((tenants.peek("tenant 7").remaining(), tenants.peek("new").remaining()), (2, 5));
}

#[test]
fn exact_keys_hold_no_more_than_they_may_and_say_who_had_to_go() {
    let limiter = ExactKeyed::<u64>::new(Quota::per_hour(5), number(1_000));
    (0..20_000).for_each(|key| assert!(limiter.check(&key).is_ok()));
    assert!(limiter.keys() <= 1_400, "{}", limiter.keys());
    assert_eq!(limiter.keys() as u64 + limiter.live_evictions(), 20_000);

    let closed = ExactKeyed::<u64>::new(Quota::per_hour(5), number(1_000)).refuse_new_keys();
    let refused = (0..20_000).filter(|key| closed.check(key).is_err()).count();
    assert!(closed.keys() >= 1_000);
    assert_eq!((closed.keys() + refused, closed.refused_new_keys()), (20_000, refused as u64));
    assert!(closed.check(&0).is_ok(), "those within stay");
}

#[test]
fn exact_keys_of_threads_get_each_what_is_theirs() {
    let limiter = ExactKeyed::<u32>::new(Quota::per_hour(1).burst(100), number(500));
    let given: Vec<_> = (0..300).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for call in 0..40_000_u32 {
                    let key = call % 300;
                    let given = &given[key as usize];
                    given.fetch_add(limiter.check(&key).is_ok().into(), Relaxed);
                }
            });
        }
    });
    assert!(given.iter().all(|given| given.load(Relaxed) == 100));
}

#[test]
fn a_key_whose_comparison_panics_spoils_nothing() {
    #[derive(Clone)]
    struct Key(u8, bool);
    impl std::hash::Hash for Key {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }
    impl PartialEq for Key {
        fn eq(&self, other: &Self) -> bool {
            assert!(!other.1 && !self.1, "as asked");
            self.0 == other.0
        }
    }
    impl Eq for Key {}
    let limiter = ExactKeyed::<Key>::new(Quota::per_hour(2), number(10));
    limiter.check(&Key(1, false)).unwrap();
    let panicked = thread::spawn({
        let limiter = limiter.clone();
        move || limiter.check(&Key(1, true)).is_ok()
    });
    assert!(panicked.join().is_err());
    assert!(limiter.check(&Key(1, false)).is_ok() && limiter.check(&Key(1, false)).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_waits_and_is_cancelled_is_given_back() {
    let limiter = one_by_one();
    limiter.check().unwrap();
    let reservation = limiter.reserve(1, SECOND).unwrap();
    assert!(timeout(ms(50), reservation.ready()).await.is_err());
    assert_eq!((limiter.waiting(), limiter.peek().full_in()), (0, ms(50)));
}

#[test]
fn what_is_wrong_with_a_quota_is_named() {
    for (tokens, per, burst, told) in [
        (0, SECOND, 1, "a quota needs at least 1 token per period"),
        (1, Duration::ZERO, 1, "a quota needs a period of more than 0 s"),
        (1, SECOND, 0, "a quota needs a burst of at least 1 token"),
        (6, Duration::from_nanos(5), 1, "6 tokens per 5ns are more than one each nanosecond"),
        (1, Duration::MAX, 1, "a period of 18446744073709551615 s is more than 292 years"),
    ] {
        assert_eq!(Quota::checked(tokens, per, burst).unwrap_err().to_string(), told);
    }
}

proptest! {
    #[test]
    fn every_rate_from_one_a_day_to_one_a_nanosecond_is_taken(
        tokens in 1..=1_000_000_000_u32, nanos in 1..=86_400_000_000_000_u64, burst in 1_u32..,
    ) {
        prop_assume!(u64::from(tokens) <= nanos);
        let per = Duration::from_nanos(nanos);
        prop_assert_eq!(Quota::checked(tokens, per, burst), Ok(Quota::new(tokens, per).burst(burst)));
    }
}

#[tokio::test(start_paused = true)]
async fn reservations_that_are_kept_until_their_tokens_are_back_give_them_back_no_second_time() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(5));
    let mut kept = Vec::new();
    for _ in 0..10 {
        kept.extend((0..5).map(|_| limiter.reserve(1, Duration::ZERO).unwrap()));
        advance(SECOND).await;
    }
    let mut used = 0;
    loop {
        while limiter.check().is_ok() {
            used += 1;
        }
        if kept.pop().is_none() {
            break;
        }
    }
    assert_eq!((used, limiter.wasted()), (5, 50));
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_before_its_turn_stays_spent() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(1));
    let commit = |times| (0..times).for_each(|_| limiter.reserve(1, 10 * SECOND).unwrap().commit());
    let passed = async |millis: u64| {
        let mut passed = 0;
        for _ in 0..millis / 10 {
            passed += u32::from(limiter.check().is_ok());
            advance(ms(10)).await;
        }
        passed
    };
    commit(10);
    assert_eq!(passed(500).await, 0, "the last is due at 900 ms");
    commit(5);
    assert_eq!(passed(1_000).await, 0, "and now at 1.4 s");
    assert_eq!(passed(1_000).await, 10);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_with_nothing_takes_nobodys_token_along() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(1));
    limiter.check().unwrap();
    let costs = [1, 0, 1];
    for turn in costs.map(|cost| limiter.reserve(cost, SECOND).unwrap()) {
        drop(turn);
    }
    let level = limiter.peek();
    assert_eq!((limiter.waiting(), limiter.wasted()), (0, 0));
    assert_eq!(level.full_in(), ms(100));
}

#[tokio::test(start_paused = true)]
async fn a_raised_quota_is_of_use_at_once_though_somebody_waits() {
    let limiter = RateLimiter::new(Quota::per_hour(1));
    limiter.check().unwrap();
    let mut waiter = task::spawn(limiter.until_ready(3600 * SECOND));
    assert_pending!(waiter.poll());
    limiter.set_quota(Quota::per_second(10).burst(1));
    assert!(limiter.check().is_err(), "what is spent or promised is owed at the new rate");
    advance(ms(200)).await;
    assert!(limiter.check().is_ok());
    advance(3599 * SECOND).await;
    assert_pending!(waiter.poll());
    advance(SECOND).await;
    assert_ready_ok!(waiter.poll());
}

#[test]
fn what_several_limits_refuse_is_counted_by_the_one_that_is_named() {
    let (one, wide) = (RateLimiter::new(Quota::per_hour(1)), RateLimiter::new(Quota::per_hour(9)));
    let limits = AllOf::<u8>::new().and("one", one.clone()).and("wide", wide.clone());
    limits.check(&1).unwrap();
    for _ in 0..10 {
        assert_eq!(limits.check(&1).unwrap_err().limit(), "one");
    }
    assert_eq!((one.stats().refused, wide.stats().refused), (10, 0));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_others_queue_for_is_the_one_with_the_fewest_left() {
    let queued = one_by_one();
    let limits = AllOf::<u8>::new()
        .and("queued", queued.clone())
        .and("wide", RateLimiter::new(Quota::per_second(100)));
    queued.check().unwrap();
    let mut waiter = task::spawn(queued.until_ready(SECOND));
    assert_pending!(waiter.poll());
    assert_eq!(limits.peek(&1).unwrap().remaining(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_exact_key_gets_the_place_of_a_full_bucket_if_there_is_but_one() {
    let (mut refused, mut gone) = (0, 0);
    for _ in 0..50 {
        let full = |refuses: bool| {
            let quota = Quota::per_second(1).burst(1_000);
            let limiter = ExactKeyed::<u32>::new(quota, number(64));
            let limiter = if refuses { limiter.refuse_new_keys() } else { limiter };
            for key in 0..64 {
                limiter.check_n(&key, if key == 0 { 1 } else { 1_000 }).unwrap();
            }
            limiter
        };
        let (refuses, evicts) = (full(true), full(false));
        advance(2 * SECOND).await;
        refused += u32::from(refuses.check(&99).is_err());
        evicts.check(&99).unwrap();
        gone += evicts.live_evictions();
    }
    assert_eq!((refused, gone), (0, 0));
}

#[test]
fn exact_keys_are_dropped_outside_of_the_lock() {
    static LIMITER: LazyLock<ExactKeyed<Key>> =
        LazyLock::new(|| ExactKeyed::new(Quota::per_hour(5), number(10)).refuse_new_keys());
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    #[derive(PartialEq, Eq, Hash, Clone)]
    struct Key(u32);
    impl Drop for Key {
        fn drop(&mut self) {
            if self.0 < 1_000 {
                return;
            }
            let (done, is_done) = mpsc::channel();
            thread::spawn(move || done.send(LIMITER.keys()));
            let free = is_done.recv_timeout(10 * SECOND).is_ok();
            DROPPED.fetch_add(if free { 1 } else { 1_000 }, Relaxed);
        }
    }
    for key in 0..10 {
        LIMITER.check(&Key(key)).unwrap();
    }
    LIMITER.check(&Key(1_000)).unwrap_err();
    // The one asked for, and its clone.
    assert_eq!(DROPPED.load(Relaxed), 2);
}
