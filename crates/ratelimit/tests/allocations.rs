//! A call that is admitted allocates nothing, and nor does a refusal that tells nobody of the quota.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    future::{Future, Ready, poll_fn, ready},
    num::{NonZeroU32, NonZeroUsize},
    pin::pin,
    task::{Context, Poll, Waker},
};

use gusset_call::BoxError;
use gusset_ratelimit::{
    Concurrency, ConcurrencyLimitLayer, ConcurrencyLimiter, ExactKeyed, Keyed, Quota,
    RateLimitLayer, RateLimiter,
};
use tower::{Layer, Service, service_fn};

const CALLS: u64 = 1_000;
const QUOTA: Quota = Quota::per_hour(1).burst(1_000_000);

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

fn echo(n: u64) -> Ready<Result<u64, BoxError>> {
    ready(Ok(n))
}

fn number(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

/// Memory that is had once, as by a thread for its numbers, is had before.
fn allocates_nothing(mut call: impl FnMut(u64)) {
    call(0);
    let made = allocation_counter::measure(|| (0..CALLS).for_each(&mut call));
    assert_eq!(made.count_total, 0);
}

fn admits_without_allocating(mut service: impl Service<u64, Response = u64, Error = BoxError>) {
    allocates_nothing(|n| {
        now(poll_fn(|cx| service.poll_ready(cx))).unwrap();
        assert_eq!(now(service.call(n)).unwrap(), n);
    });
}

#[test]
fn a_call_through_a_limit_of_the_rate() {
    let layer = RateLimitLayer::new(RateLimiter::new(QUOTA));
    admits_without_allocating(layer.layer(service_fn(echo)));
    let weighed = RateLimitLayer::new(RateLimiter::new(QUOTA)).cost(|n: &u64| *n as u32 % 3);
    admits_without_allocating(weighed.layer(service_fn(echo)));
}

#[test]
fn a_call_through_a_limit_for_each_key_known_or_new() {
    for capacity in [1, 10_000] {
        let keyed = Keyed::<u64>::new(QUOTA, number(capacity));
        let layer = RateLimitLayer::keyed(keyed, |n: &u64| (n % 3 > 0).then_some(n / 2));
        admits_without_allocating(layer.layer(service_fn(echo)));
    }
}

#[test]
fn a_call_through_a_limit_of_concurrency() {
    for policy in
        [Concurrency::fixed(NonZeroU32::MIN), Concurrency::aimd(), Concurrency::gradient()]
    {
        let limiter = ConcurrencyLimiter::new("server", policy);
        let layer = ConcurrencyLimitLayer::new(limiter);
        admits_without_allocating(layer.layer(service_fn(echo)));
    }
}

#[test]
fn keys_that_are_kept_and_own_nothing() {
    let exact = ExactKeyed::<u64>::new(QUOTA, number(100));
    allocates_nothing(|n| assert!(exact.check(&n).is_ok()));
}

#[test]
fn a_refusal_by_hand() {
    let limiter = RateLimiter::new(Quota::per_hour(1));
    let keyed = Keyed::<u64>::new(Quota::per_hour(1), number(10));
    limiter.check().unwrap();
    keyed.check(&7).unwrap();
    allocates_nothing(|_| assert!(limiter.check().is_err() && keyed.check(&7).is_err()));
}
