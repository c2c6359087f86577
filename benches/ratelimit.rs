//! What does it cost to ask a rate limiter, beside the least that one has to do and beside the peer crates?
//!
//! All have the same quota, one token per second and a burst that no run exhausts. Every call is allowed.
//!
//! - Clocks: gusset and `governor` both read the processor's counter by quanta. `governor-std-clock` is the same with the standard
//!   library's `Instant`. `leaky-bucket` reads none while it has tokens, for it adds them in steps of its interval (here 1 s).
//! - `bare` counts by one relaxed `fetch_add` and reads the standard library's clock.
//! - gusset counts allowed calls; `governor` counts nothing.
//! - `keyed_*` ask for 1, 2¹⁰ and 2²⁰ keys (`u64`) in a scattered order. Hashes: gusset folded multiplication with seeds of its own; `governor` by default
//!   SipHash, `governor-foldhash` the folded multiplication of foldhash. gusset has a table for just as many keys; `governor` a `DashMap` that grew before
//!   the measurement. A thousand tokens of each key are taken before, so that no bucket is full again within the run.
//! - `keyed_1k_full` is the opposite, clients far below their limit: with 10⁹ tokens per second each bucket is full again when its
//!   key comes back.
//! - `keyed_1k_ip` has IPv4 addresses as keys.
//! - `2_threads_*`: two threads at once, time per call of each. `direct` contends for one bucket, `one_key` for one key, `keyed_1k` hardly for anything.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{
    cell::LazyCell,
    hint::black_box,
    net::IpAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Echo, drive};
use criterion::{Criterion, criterion_group, criterion_main};
use governor::clock::MonotonicClock;
use gusset_ratelimit::{Keyed, Quota, RateLimitLayer, RateLimiter};
use tower::Layer;

const BURST: u32 = 4_000_000_000;
/// Taken of each key before the measurement.
const TAKEN: u32 = 1_000;

fn quota() -> Quota {
    Quota::per_second(1).burst(BURST)
}

fn governor_quota(per_second: u32) -> governor::Quota {
    governor::Quota::per_second(number(per_second)).allow_burst(number(BURST))
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("it is not 0")
}

fn leaky_bucket() -> leaky_bucket::RateLimiter {
    let burst = usize::try_from(BURST).expect("it has 64 bits");
    let builder = &mut leaky_bucket::RateLimiter::builder();
    let builder = builder.fair(false).max(burst).initial(burst);
    builder.refill(1).interval(Duration::from_secs(1)).build()
}

fn direct(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ratelimit");
    let limiter = RateLimiter::new(quota());
    group.bench_function("direct/gusset", |bencher| {
        bencher.iter(|| assert!(black_box(limiter.check()).is_ok()));
    });
    let count = AtomicU64::new(0);
    group.bench_function("direct/bare", |bencher| {
        bencher.iter(|| (count.fetch_add(1, Relaxed), Instant::now()));
    });
    let limiter = governor::RateLimiter::direct(governor_quota(1));
    group.bench_function("direct/governor", |bencher| {
        bencher.iter(|| assert!(black_box(limiter.check()).is_ok()));
    });
    let limiter = governor::RateLimiter::direct_with_clock(governor_quota(1), MonotonicClock);
    group.bench_function("direct/governor-std-clock", |bencher| {
        bencher.iter(|| assert!(black_box(limiter.check()).is_ok()));
    });
    let limiter = leaky_bucket();
    group.bench_function("direct/leaky-bucket", |bencher| {
        bencher.iter(|| assert!(black_box(limiter.try_acquire(1))));
    });
    group.finish();
}

/// Each of 2^`bits` keys once in a round, neighbours far from each other.
fn scattered(bits: u32) -> impl FnMut() -> u64 {
    let mut key = 0_u64;
    move || {
        // A linear congruential generator of full period (Hull and Dobell).
        key = key.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1) & ((1 << bits) - 1);
        key
    }
}

fn keyed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ratelimit");
    for (case, bits, per_second) in [
        ("keyed_1", 0, 1),
        ("keyed_1k", 10, 1),
        ("keyed_1k_full", 10, 1_000_000_000),
        ("keyed_1m", 20, 1),
    ] {
        let keys = 1_u64 << bits;
        let capacity = usize::try_from(keys).ok().and_then(NonZeroUsize::new);
        let capacity = capacity.expect("there is one key");
        // Filled when it is needed: a million keys take a while, and a filter may want others.
        let limiter = LazyCell::new(|| {
            let limiter = Keyed::<u64>::new(Quota::per_second(per_second).burst(BURST), capacity);
            (0..keys).for_each(|key| assert!(limiter.check_n(&key, TAKEN).is_ok()));
            limiter
        });
        let mut next = scattered(bits);
        group.bench_function(format!("{case}/gusset"), |bencher| {
            let limiter = &*limiter;
            bencher.iter(|| assert!(black_box(limiter.check(&next())).is_ok()));
            if limiter.live_evictions() > 0 {
                eprintln!("{case}/gusset: {} keys had to make room", limiter.live_evictions());
            }
        });
        let limiter = LazyCell::new(|| {
            let limiter = governor::RateLimiter::keyed(governor_quota(per_second));
            (0..keys)
                .for_each(|key| assert_eq!(limiter.check_key_n(&key, number(TAKEN)), Ok(Ok(()))));
            limiter
        });
        let mut next = scattered(bits);
        group.bench_function(format!("{case}/governor"), |bencher| {
            let limiter = &*limiter;
            bencher.iter(|| assert!(black_box(limiter.check_key(&next())).is_ok()));
        });
        let limiter = LazyCell::new(|| {
            let limiter = foldhash_governor(per_second);
            (0..keys)
                .for_each(|key| assert_eq!(limiter.check_key_n(&key, number(TAKEN)), Ok(Ok(()))));
            limiter
        });
        let mut next = scattered(bits);
        group.bench_function(format!("{case}/governor-foldhash"), |bencher| {
            let limiter = &*limiter;
            bencher.iter(|| assert!(black_box(limiter.check_key(&next())).is_ok()));
        });
    }
    let capacity = NonZeroUsize::new(1024).expect("it is not 0");
    let limiter = Keyed::<IpAddr>::new(quota(), capacity);
    let mut next = scattered(10);
    let mut address = || IpAddr::from([10, 0, (next() >> 8) as u8, next() as u8]);
    group.bench_function("keyed_1k_ip/gusset", |bencher| {
        bencher.iter(|| assert!(black_box(limiter.check(&address())).is_ok()));
    });
    let limiter = governor::RateLimiter::keyed(governor_quota(1));
    group.bench_function("keyed_1k_ip/governor", |bencher| {
        bencher.iter(|| assert!(black_box(limiter.check_key(&address())).is_ok()));
    });
    group.finish();
}

fn foldhash_governor(
    per_second: u32,
) -> governor::DefaultKeyedRateLimiter<
    u64,
    governor::middleware::NoOpMiddleware<governor::clock::QuantaInstant>,
    foldhash::fast::RandomState,
> {
    governor::RateLimiter::dashmap_with_hasher(governor_quota(per_second), Default::default())
}

/// Time per call while two threads call.
fn by_two(criterion: &mut Criterion, name: &str, call: impl Fn(&mut dyn FnMut() -> u64) + Sync) {
    let mut group = criterion.benchmark_group("ratelimit");
    group.bench_function(format!("2_threads_{name}"), |bencher| {
        bencher.iter_custom(|calls| {
            let barrier = Barrier::new(2);
            let run = || {
                let mut next = scattered(10);
                barrier.wait();
                let start = Instant::now();
                (0..calls).for_each(|_| call(&mut next));
                start.elapsed()
            };
            thread::scope(|scope| {
                let other = scope.spawn(run);
                let here = run();
                here.max(other.join().expect("it does not panic"))
            })
        });
    });
    group.finish();
}

fn contended(criterion: &mut Criterion) {
    let capacity = NonZeroUsize::new(1024).expect("it is not 0");
    let limiter = RateLimiter::new(quota());
    by_two(criterion, "direct/gusset", |_| assert!(black_box(limiter.check()).is_ok()));
    let limiter = governor::RateLimiter::direct(governor_quota(1));
    by_two(criterion, "direct/governor", |_| assert!(black_box(limiter.check()).is_ok()));
    let ours = Keyed::<u64>::new(quota(), capacity);
    let theirs = governor::RateLimiter::keyed(governor_quota(1));
    let folded = foldhash_governor(1);
    by_two(criterion, "one_key/gusset", |_| assert!(black_box(ours.check(&7)).is_ok()));
    by_two(criterion, "one_key/governor", |_| assert!(black_box(theirs.check_key(&7)).is_ok()));
    by_two(criterion, "keyed_1k/gusset", |next| assert!(black_box(ours.check(&next())).is_ok()));
    by_two(criterion, "keyed_1k/governor", |next| {
        assert!(black_box(theirs.check_key(&next())).is_ok());
    });
    by_two(criterion, "keyed_1k/governor-foldhash", |next| {
        assert!(black_box(folded.check_key(&next())).is_ok());
    });
}

fn layer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ratelimit");
    let mut service = RateLimitLayer::new(RateLimiter::new(quota())).layer(Echo);
    group.bench_function("layer/gusset", |bencher| {
        bencher.iter(|| assert!(black_box(drive(&mut service, 7)).is_ok()));
    });
    let mut service = Echo;
    group.bench_function("layer/bare", |bencher| {
        bencher.iter(|| assert!(black_box(drive(&mut service, 7)).is_ok()));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = direct, keyed, contended, layer
}
criterion_main!(benches);
