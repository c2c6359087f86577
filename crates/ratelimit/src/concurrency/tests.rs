use std::{
    convert::Infallible,
    num::NonZeroU32,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::Ratio;
use proptest::prelude::*;
use tokio::time::{Instant, advance, sleep, sleep_until};
use tower::{Layer, ServiceExt, service_fn};

use super::{
    Concurrency, ConcurrencyLimitLayer, ConcurrencyLimiter, Outcome, Priority,
    aimd::Aimd,
    gradient::Gradient,
    places::Places,
    tally::Tally,
    tuner::{Algorithm, Call, Tuner},
    window::{Bounds, Window},
};

const MILLISECOND: Duration = Duration::from_millis(1);
const WINDOW: Duration = Duration::from_millis(100);
const BOUNDS: Bounds = Bounds { min: 4.0, max: 1_000.0 };

trait Learn {
    fn learn(&mut self, window: &Window);
    fn limit(&self) -> f64;
}

impl Learn for Aimd {
    fn learn(&mut self, window: &Window) {
        self.learn(window);
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}

impl Learn for Gradient {
    fn learn(&mut self, window: &Window) {
        self.learn(window);
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}

fn machines(limit: u32, bounds: Bounds, seed: u64) -> [Box<dyn Learn>; 2] {
    let limit = f64::from(limit);
    [Box::new(Aimd { limit, bounds }), Box::new(Gradient::new(limit, bounds, seed))]
}

fn gradient(limit: f64) -> Gradient {
    Gradient::new(limit, BOUNDS, 7)
}

/// A window in which calls took so many seconds.
fn window(count: u32, peak: u32, seconds: f64) -> Window {
    let log_latency = (seconds * 1e9).log2();
    Window { now: WINDOW * count, served: 100, overloads: 0, late_overloads: 0, log_latency, peak }
}

/// Windows of a service with `workers` that is offered more than it can do; what it cannot do at once queues. Returns the limits.
fn overload(
    machine: &mut dyn Learn,
    windows: std::ops::Range<u32>,
    workers: f64,
    seconds: f64,
    mut noise: impl FnMut() -> f64,
) -> Vec<f64> {
    let of = |count: u32| {
        let running = machine.limit().floor();
        let latency = seconds * (running / workers).max(1.0) * noise();
        machine.learn(&window(count, running as u32, latency));
        machine.limit()
    };
    windows.map(of).collect()
}

fn mean(limits: &[f64]) -> f64 {
    limits.iter().sum::<f64>() / limits.len() as f64
}

fn windows() -> impl Strategy<Value = Vec<(u64, u64, f64, u32, u32)>> {
    prop::collection::vec((0..1_000_u64, 0..1_000_u64, 0.0..60.0, 0..2_000_u32, 0..100_u32), 0..300)
}

proptest! {
    #[test]
    fn the_limit_stays_within_its_bounds_whatever_it_sees(
        seen in windows(), initial in 1..500_u32, min in 1..50_u32, more in 0..500_u32, seed: u64,
    ) {
        let bounds = Bounds { min: min.into(), max: (min + more).into() };
        for mut machine in machines(initial.clamp(min, min + more), bounds, seed) {
            let mut now = Duration::ZERO;
            for &(served, overloads, log_latency, peak, windows) in &seen {
                now += WINDOW * windows;
                machine.learn(&Window { now, served, overloads, late_overloads: 0, log_latency, peak });
                prop_assert!((bounds.min..=bounds.max).contains(&machine.limit()));
            }
        }
    }

    #[test]
    fn the_limit_does_not_grow_unless_half_of_it_is_used(
        seen in windows(), initial in 4..500_u32, seed: u64,
    ) {
        for mut machine in machines(initial, BOUNDS, seed) {
            for &(served, overloads, log_latency, peak, _) in &seen {
                let before = machine.limit();
                let peak = peak.min((before.floor() as u32).div_ceil(2) - 1);
                machine.learn(&Window { now: WINDOW, served, overloads, late_overloads: 0, log_latency, peak });
                prop_assert!(machine.limit() <= before);
            }
        }
    }

    #[test]
    fn the_limit_falls_by_a_tenth_or_more_after_overload_and_recovers(
        initial in 10..500_u32, seed: u64,
    ) {
        for mut machine in machines(initial, BOUNDS, seed) {
            let before = machine.limit();
            machine.learn(&Window { overloads: 2, ..window(1, initial, 0.01) });
            prop_assert!(machine.limit() <= before * 0.9);
            for count in 2..200 {
                machine.learn(&window(count, 1_000, 0.01));
            }
            prop_assert!(machine.limit() >= before, "{before} {}", machine.limit());
        }
    }

    #[test]
    fn late_overload_neither_lowers_the_limit_nor_lets_it_grow(initial in 10..500_u32, seed: u64) {
        for mut machine in machines(initial, BOUNDS, seed) {
            let before = machine.limit();
            for count in 1..100 {
                machine.learn(&Window { late_overloads: 2, ..window(count, initial, 0.01) });
            }
            prop_assert_eq!(machine.limit(), before);
        }
    }

    #[test]
    fn one_overload_in_a_hundred_calls_is_none(initial in 10..500_u32, seed: u64) {
        for mut machine in machines(initial, BOUNDS, seed) {
            let before = machine.limit();
            machine.learn(&Window { served: 99, overloads: 1, ..window(1, 0, 0.01) });
            prop_assert_eq!(machine.limit(), before);
        }
    }

    #[test]
    fn the_gradient_settles_between_the_workers_and_twice_as_many(
        workers in 6..300_u32, initial in 4..600_u32, millis in 1..2_000_u32, seed: u64,
    ) {
        let mut machine = Gradient::new(initial.into(), BOUNDS, seed);
        let (workers, seconds) = (f64::from(workers), f64::from(millis) / 1e3);
        overload(&mut machine, 0..400, workers, seconds, || 1.0);
        // A quarter of an hour: neither does it drift, nor do the probes cost much.
        let limits = overload(&mut machine, 400..9_400, workers, seconds, || 1.0);
        let busy: Vec<f64> = limits.iter().map(|limit| (limit.floor() / workers).min(1.0)).collect();
        prop_assert!(mean(&busy) > 0.98, "{}", mean(&busy));
        prop_assert!(limits.iter().all(|limit| *limit <= workers * 2.0 + 1.0));
        prop_assert!(limits.iter().all(|limit| *limit >= workers * 0.4));
    }

    #[test]
    fn the_gradient_holds_a_service_that_has_a_few_slow_calls(seed: u64) {
        // One call in ten takes fifty times as long as the others; a window has about a hundred.
        let mut chance = seed | 1;
        let mut noise = || {
            let mut slow = 0;
            for _ in 0..100 {
                chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                slow += u32::from(chance >> 33 < (1 << 31) / 10);
            }
            50_f64.powf(f64::from(slow) / 100.0)
        };
        let mut machine = Gradient::new(20.0, BOUNDS, seed);
        // Never more than there are workers, so the latency is the same at each limit.
        let limits = overload(&mut machine, 0..5_000, 2_000.0, 0.01, &mut noise);
        prop_assert!(mean(&limits[1_000..]) > 200.0, "{}", mean(&limits[1_000..]));
    }
}

#[test]
fn the_gradient_never_refuses_more_than_a_step_for_a_service_of_constant_latency() {
    let mut machine = gradient(20.0);
    let limits = overload(&mut machine, 0..20_000, 2_000.0, 0.01, || 1.0);
    assert!(limits.iter().all(|limit| *limit >= 13.0));
    assert_eq!(limits.last(), Some(&1_000.0));
    assert!(mean(&limits[1_000..]) > 998.0, "{}", mean(&limits[1_000..]));
}

#[test]
fn a_baseline_learnt_under_overload_is_corrected() {
    // The very first window sees ten times what the service can do.
    let mut machine = gradient(200.0);
    let limits = overload(&mut machine, 0..60, 20.0, 0.01, || 1.0);
    assert!(limits[20..].iter().all(|limit| *limit <= 41.0), "{limits:?}");
}

#[test]
fn the_baseline_does_not_drift_under_lasting_overload() {
    let mut machine = gradient(20.0);
    let first = overload(&mut machine, 0..1_000, 20.0, 0.01, || 1.0);
    let day = overload(&mut machine, 1_000..864_000, 20.0, 0.01, || 1.0);
    let (first, last) = (mean(&first[500..]), mean(&day[863_000 - 10_000..]));
    assert!((last / first - 1.0).abs() < 0.1, "{first} {last}");
}

#[test]
fn a_service_that_became_slower_by_itself_is_not_starved() {
    let mut machine = gradient(20.0);
    overload(&mut machine, 0..600, 20.0, 0.01, || 1.0);
    let limits = overload(&mut machine, 600..700, 20.0, 0.05, || 1.0);
    let busy: Vec<f64> = limits.iter().map(|limit| (limit / 20.0).min(1.0)).collect();
    assert!(mean(&busy) > 0.9, "{limits:?}");
}

#[test]
fn a_service_that_lost_workers_is_relieved_in_two_seconds_and_used_again_when_they_are_back() {
    let mut machine = gradient(20.0);
    overload(&mut machine, 0..600, 40.0, 0.01, || 1.0);
    let limits = overload(&mut machine, 600..700, 10.0, 0.01, || 1.0);
    assert!(limits[20..].iter().all(|limit| *limit <= 20.0), "{limits:?}");
    let limits = overload(&mut machine, 700..800, 40.0, 0.01, || 1.0);
    assert!(limits[60..].iter().all(|limit| *limit >= 40.0), "{limits:?}");
}

#[test]
fn equal_latencies_at_the_timeout_are_overload_and_not_the_new_normal() {
    let mut machine = gradient(200.0);
    for count in 0..60 {
        machine.learn(&Window { served: 0, overloads: 50, ..window(count, 200, 5.0) });
    }
    assert_eq!(machine.limit(), 4.0);
}

#[test]
fn a_probe_that_loses_its_load_gives_the_limit_back() {
    let mut machine = gradient(100.0);
    machine.learn(&window(1, 100, 0.01));
    assert!(machine.limit() < 80.0, "it probes at the first load");
    machine.learn(&window(2, 3, 0.01));
    assert!(machine.limit() >= 100.0);
}

#[test]
fn places_never_exceed_the_limit_of_the_moment() {
    let places = Places::new(2);
    assert!(places.take(|limit| limit) && places.take(|limit| limit));
    assert!(!places.take(|limit| limit));
    places.set_limit(1);
    assert_eq!((places.limit(), places.taken(), places.give_back()), (1, 2, 2));
    assert!(!places.take(|limit| limit), "more are taken than there are");
    places.give_back();
    assert!(places.take(|limit| limit));
}

#[test]
fn threads_never_hold_more_places_than_there_are_and_all_come_back() {
    let limiter = ConcurrencyLimiter::new("t", Concurrency::fixed(NonZeroU32::MIN));
    let (start, most) = (Barrier::new(4), std::sync::atomic::AtomicU32::new(0));
    let running = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                use std::sync::atomic::Ordering::SeqCst;
                start.wait();
                for round in 0..50_000 {
                    let Ok(permit) = limiter.try_acquire(Priority::Normal) else { continue };
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    running.fetch_sub(1, SeqCst);
                    match round % 3 {
                        0 => permit.success(),
                        1 => permit.overloaded(),
                        _ => drop(permit),
                    }
                }
            });
        }
    });
    assert_eq!(most.into_inner(), 1);
    assert_eq!(limiter.in_flight(), 0);
    let stats = limiter.stats();
    assert_eq!(stats.normal.ended + stats.normal.refused, 200_000);
}

#[test]
fn the_share_of_low_priority_is_rounded_down_and_never_none_unless_told() {
    let policy = Concurrency::gradient();
    let places = |limit| policy.low_places(limit);
    assert_eq!([1, 2, 4, 5, 10, 100].map(places), [1, 1, 3, 4, 8, 80]);
    assert_eq!(policy.low_share(Ratio::NONE).low_places(100), 0);
    assert_eq!(policy.low_share(Ratio::ALL).low_places(u32::MAX), u32::MAX);
}

/// A fifth of the calls take fifty times as long as the others, whatever the load. Those that were quick must not be taken for all.
#[tokio::test(start_paused = true)]
async fn slow_calls_among_quick_ones_are_no_queue() {
    let policy = Concurrency::gradient().initial(60).between(4, 200);
    let limiter = ConcurrencyLimiter::seeded("server", policy, 7);
    let calls = Arc::new(AtomicU64::new(0));
    let service = ConcurrencyLimitLayer::new(limiter.clone()).layer(service_fn(move |()| {
        let slow = calls.fetch_add(1, Relaxed) % 5 == 0;
        async move {
            sleep(if slow { 500 * MILLISECOND } else { 10 * MILLISECOND }).await;
            Ok::<_, Infallible>(())
        }
    }));
    let mut sum = 0;
    let start = Instant::now();
    for milli in 0..100_000 {
        sleep_until(start + MILLISECOND * milli).await;
        for _ in 0..3 {
            tokio::spawn(service.clone().oneshot(()));
        }
        // In the first half second only quick calls end, so the rest looks like a queue for a while.
        let least = if milli < 5_000 { 10 } else { 20 };
        assert!(limiter.limit() >= least, "{milli} {limiter:?}");
        sum += if milli >= 20_000 { u64::from(limiter.limit()) } else { 0 };
    }
    assert!(sum / 80_000 >= 180, "{}", sum / 80_000);
}

/// They began under the old limit, and their latency says nothing of the new one.
#[tokio::test(start_paused = true)]
async fn calls_that_end_before_a_fall_has_settled_are_not_measured() {
    let aimd = Aimd { limit: 10.0, bounds: BOUNDS };
    let tuner = Tuner::new(Algorithm::Aimd(aimd), 60 * WINDOW);
    let (tally, places) = (Tally::default(), Places::new(10));
    let end = |outcome| {
        let call = Call { started: 0, priority: Priority::Normal, outcome };
        tuner.record(&tally, &call, 10)
    };
    advance(10 * WINDOW).await;
    for _ in 0..20 {
        end(Outcome::Success);
    }
    let over = end(Outcome::Overload).unwrap();
    tuner.end_window(&tally, &places, over);
    let measured = || tally.read().served;
    assert_eq!(measured(), 20);
    // For one and a half times their latency.
    advance(14 * WINDOW).await;
    end(Outcome::Success);
    assert_eq!(measured(), 20);
    advance(2 * WINDOW).await;
    end(Outcome::Success);
    assert_eq!(measured(), 21);
}
