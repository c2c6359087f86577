use std::{sync::Barrier, thread, time::Duration};

use crate::{
    Quota,
    bucket::*,
    gcra_tests::{agrees_with_the_textbook, quotas, steps},
    sync::{AtomicU64, Relaxed},
};
use proptest::prelude::*;

/// A bucket, with times in milliseconds.
struct Case(Bucket);

impl Case {
    fn new(quota: Quota) -> Self {
        Self(Bucket::new(quota))
    }

    fn nanos(millis: u64) -> u64 {
        millis * 1_000_000
    }

    fn take(&self, cost: u32, millis: u64) -> bool {
        self.0.take(cost, || Self::nanos(millis), Duration::ZERO).is_ok()
    }

    /// Gives the place and the millisecond of its turn.
    fn queue(&self, cost: u32, millis: u64, max_wait: u64) -> Option<(Place, u64)> {
        let max_wait = Duration::from_millis(max_wait);
        self.0.waiters.expect(max_wait);
        let place = self.0.take(cost, || Self::nanos(millis), max_wait).ok()?;
        Some((place, millis + u64::try_from(place.wait().as_millis()).unwrap()))
    }

    fn leave(&self, place: Place, millis: u64) {
        self.0.give_back(&place, 0, Self::nanos(millis));
    }

    fn wasted(&self, millis: u64) -> u64 {
        self.0.wasted(Self::nanos(millis))
    }

    fn full_at(&self) -> u64 {
        self.0.full_at.load(Relaxed)
    }
}

proptest! {
    #[test]
    fn it_is_the_bucket_of_the_textbooks(quota in quotas(), steps in steps()) {
        let bucket = Bucket::new(quota);
        agrees_with_the_textbook(quota, &bucket.gcra.load(), steps, |tokens, nanos| {
            match bucket.take_now(tokens, nanos) {
                Some(level) => Ok(level),
                None => bucket.take(tokens, || nanos, Duration::ZERO).map(|place| place.gcra.level(place.end, place.now)).map_err(|refused| refused.wait().unwrap()),
            }
        })?;
    }

    /// Who asks often enough gets the burst and all that comes back, to the last token.
    #[test]
    fn the_long_run_rate_is_that_of_the_quota(
        // Asked more seldom, the bucket flows over in between, which is no loss.
        (per_minute, every) in (1..5_000_u32).prop_flat_map(|n| (Just(n), 1..=60_000 / u64::from(n))),
        burst in 2..50_u32,
    ) {
        let case = Case::new(Quota::per_minute(per_minute).burst(burst));
        let (mut given, mut last) = (0_u64, 0);
        for now in (0..=60_000).step_by(every as usize) {
            while case.take(1, now) {
                given += 1;
            }
            last = now;
        }
        prop_assert_eq!(given, u64::from(burst) + u64::from(per_minute) * last / 60_000);
    }

    /// Whoever comes, waits and leaves, and when: of those served, in any window at most burst and rate.
    #[test]
    fn waiting_and_leaving_never_lets_more_through(
        burst in 1..6_u32,
        steps in prop::collection::vec((0..300_u64, 1..6_u32, 0..3_000_u64, any::<prop::sample::Index>(), 0..3), 1..80),
    ) {
        let case = Case::new(Quota::per_second(10).burst(burst));
        let mut now = 0;
        let mut served: Vec<(u64, u32)> = Vec::new();
        let mut waiting: Vec<(Place, u64, u32)> = Vec::new();
        for (span, cost, max_wait, who, leave) in steps {
            now += span;
            let (come, still) = waiting.into_iter().partition(|(_, turn, _)| *turn <= now);
            waiting = still;
            let come: Vec<_> = come;
            served.extend(come.into_iter().map(|(_, turn, cost)| (turn, cost)));
            let cost = cost.min(burst);
            if let Some((place, turn)) = case.queue(cost, now, max_wait) {
                prop_assert!(turn <= now + max_wait);
                prop_assert!(waiting.iter().all(|(_, before, _)| *before <= turn), "overtaken");
                waiting.push((place, turn, cost));
            }
            for _ in 0..leave {
                if !waiting.is_empty() {
                    let (place, _, _) = waiting.remove(who.index(waiting.len()));
                    case.leave(place, now);
                }
            }
        }
        served.extend(waiting.into_iter().map(|(_, turn, cost)| (turn, cost)));
        served.sort_unstable();
        for from in 0..served.len() {
            let mut sum = 0;
            for (at, cost) in &served[from..] {
                sum += u64::from(*cost);
                let allowed = u64::from(burst) + (at - served[from].0 + 1) / 100;
                prop_assert!(sum <= allowed, "{sum} of {allowed} in {:?}", &served[from..]);
            }
        }
    }

    /// Whoever keeps a reservation for how long, and gives it up or commits it, at its turn or before: of what is used, in any window at most burst
    /// and rate.
    #[test]
    fn keeping_and_giving_back_never_lets_more_through(
        burst in 1..6_u32,
        steps in prop::collection::vec((0..400_u64, 0..6_u32, 0..800_u64, any::<prop::sample::Index>(), 0..4), 1..120),
    ) {
        let case = Case::new(Quota::per_second(10).burst(burst));
        let mut now = 0;
        let mut used: Vec<(u64, u32)> = Vec::new();
        let mut kept: Vec<(Place, u64, u32)> = Vec::new();
        for (span, cost, max_wait, who, what) in steps {
            now += span;
            let cost = cost.min(burst);
            // Some wait all the time, so that no place is taken for one of another time.
            if let Some((place, turn)) = case.queue(cost, now, max_wait) {
                kept.push((place, turn, cost));
            }
            if what == 0 || kept.is_empty() {
                continue;
            }
            let (place, turn, cost) = kept.remove(who.index(kept.len()));
            // Whoever uses it long after its turn could do so with any limiter.
            if turn >= now {
                if what == 1 { used.push((turn, cost)) } else { case.leave(place, now) }
            } else {
                case.leave(place, now);
            }
        }
        used.sort_unstable();
        for from in 0..used.len() {
            let mut sum = 0;
            for (at, cost) in &used[from..] {
                sum += u64::from(*cost);
                let allowed = u64::from(burst) + (at - used[from].0 + 1) / 100;
                prop_assert!(sum <= allowed, "{sum} of {allowed} in {:?}", &used[from..]);
            }
        }
    }

    /// In whatever order all leave, all that they had taken is back.
    #[test]
    fn once_all_have_left_the_bucket_is_as_before(order in Just((0..20).collect::<Vec<usize>>()).prop_shuffle()) {
        let case = Case::new(Quota::per_second(10).burst(3));
        for _ in 0..3 {
            assert!(case.take(1, 0));
        }
        let before = case.full_at();
        let places: Vec<_> = (0..20).map(|_| case.queue(1, 0, 10_000).unwrap().0).collect();
        for who in order {
            case.leave(places[who], 50);
        }
        prop_assert_eq!(case.full_at(), before);
        prop_assert_eq!(case.wasted(1_000_000), 0);
    }
}

#[test]
fn turns_come_in_the_order_of_arrival_one_by_one() {
    let case = Case::new(Quota::per_second(10).burst(1));
    let turns: Vec<_> = (0..5).map(|_| case.queue(1, 0, 1_000).unwrap().1).collect();
    assert_eq!(turns, [0, 100, 200, 300, 400]);
    assert!(!case.take(1, 350), "nobody overtakes the queue");
    assert!(!case.take(1, 450));
    assert!(case.take(1, 500));
}

#[test]
fn the_queue_holds_no_more_than_the_tokens_of_the_longest_wait() {
    let case = Case::new(Quota::per_second(10).burst(1));
    assert_eq!((0..100).filter(|_| case.queue(1, 0, 1_000).is_some()).count(), 11);
}

#[test]
fn a_gap_in_the_middle_stays_one_and_is_counted() {
    let case = Case::new(Quota::per_second(10).burst(1));
    let places: Vec<_> = (0..4).map(|_| case.queue(1, 0, 1_000).unwrap().0).collect();
    case.leave(places[1], 10);
    assert_eq!(case.queue(1, 10, 1_000).unwrap().1, 400, "behind all who wait");
    assert_eq!(case.wasted(99), 0);
    assert_eq!(case.wasted(100), 1);
}

#[test]
fn remembered_gaps_are_bounded_in_number() {
    let case = Case::new(Quota::per_second(1_000).burst(1));
    let places: Vec<_> = (0..4_000).map(|_| case.queue(1, 0, 10_000).unwrap().0).collect();
    for pair in places.chunks(2) {
        case.leave(pair[0], 0);
    }
    assert_eq!(case.0.rest().gaps.len(), Bucket::MOST_GAPS);
    assert_eq!(case.wasted(0), 2_000 - Bucket::MOST_GAPS as u64);
}

#[test]
fn after_years_of_idleness_it_is_full_and_no_more() {
    let year = 365 * 24 * 3600 * 1000;
    let case = Case::new(Quota::per_hour(1).burst(u32::MAX));
    assert!(case.take(u32::MAX, 0));
    assert!(!case.take(1, 0));
    assert!(case.take(8_760, year));
    assert!(!case.take(1, year));

    let case = Case::new(Quota::per_second(1_000_000_000).burst(7));
    for now in [0, year, 100 * year, 290 * year] {
        assert!(case.take(7, now));
        assert!(!case.take(1, now));
    }
}

#[test]
fn threads_together_get_no_more_than_one_would() {
    const THREADS: usize = 4;
    let case = Case::new(Quota::per_second(1_000).burst(500));
    let (bucket, barrier, clock) = (&case.0, Barrier::new(THREADS), AtomicU64::new(0));
    let given: usize = thread::scope(|scope| {
        let ask = |thread: usize| {
            let (barrier, clock) = (&barrier, &clock);
            move || {
                barrier.wait();
                // Their clocks go apart by up to 3 µs.
                let now = || clock.fetch_add(12_500, Relaxed) + thread as u64 * 1_000;
                let times = (0..20_000).map(|_| now());
                times
                    .filter(|nanos| {
                        bucket.take_now(1, *nanos).is_some()
                            || bucket.take(1, now, Duration::ZERO).is_ok()
                    })
                    .count()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(ask(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Burst, and what comes back until then.
    assert_eq!(given as u64, 500 + (clock.load(Relaxed) - 12_500) / 1_000_000);
}

#[test]
fn a_clock_that_goes_back_locks_nobody_out_for_longer_than_the_burst_takes() {
    let case = Case::new(Quota::per_second(10).burst(5));
    let day = 24 * 3600 * 1000;
    assert!(case.take(5, day));
    assert!(!case.take(1, 1_000), "it may have been emptied just now");
    assert!(!case.take(1, 1_099));
    assert!(case.take(1, 1_100));
    assert!(case.take(5, 1_600 + 1), "and a millisecond for clocks that differ");
}

#[test]
fn a_clock_that_goes_back_leaves_those_who_wait_their_places() {
    let case = Case::new(Quota::per_second(10).burst(1));
    assert!(case.0.waiters.enter());
    for _ in 0..=10 {
        case.queue(1, 1_000_000, 1_000).unwrap();
    }
    assert!(!case.take(1, 0));
    assert!(!case.take(1, 1_000), "behind all who wait");
    assert!(case.take(1, 1_101));
}

#[test]
fn clocks_of_threads_that_differ_a_little_are_no_reason_to_give_tokens() {
    let bucket = Bucket::new(Quota::per_second(1_000_000).burst(1));
    assert!(bucket.take(1, || 2_000_500, Duration::ZERO).is_ok());
    for nanos in [2_000_000, 1_500_000, 1_100_000] {
        assert!(bucket.take(1, || nanos, Duration::ZERO).is_err());
    }
    assert!(bucket.take(1, || 2_001_499, Duration::ZERO).is_err());
    assert!(bucket.take(1, || 2_001_500, Duration::ZERO).is_ok());
}

#[test]
fn what_is_given_back_while_nobody_waits_was_never_taken() {
    let case = Case::new(Quota::per_second(10).burst(5));
    let (one, _) = case.queue(2, 0, 0).unwrap();
    assert!(case.take(3, 0) && !case.take(1, 0));
    case.leave(one, 50);
    assert!(case.take(2, 50) && !case.take(1, 50), "though others have taken tokens since");
}

#[test]
fn only_what_has_not_come_back_by_time_is_given_back() {
    let case = Case::new(Quota::per_second(10).burst(5));
    let (late, _) = case.queue(5, 0, 0).unwrap();
    case.leave(late, 250);
    assert!(case.take(5, 250) && !case.take(1, 250), "never more than the burst");
    let (later, _) = case.queue(1, 1_000, 0).unwrap();
    assert!(case.take(4, 1_100) && case.take(1, 1_100));
    case.leave(later, 1_100);
    assert!(!case.take(1, 1_100));
    // Of the five that left, half of the third and all before it.
    assert_eq!(case.wasted(20_000), 3 + 1);
}

#[test]
fn who_moved_to_the_front_gives_back_as_little_as_if_he_had_come_earlier() {
    let case = Case::new(Quota::per_second(10).burst(2));
    let [(one, _), (other, _)] = [(); 2].map(|()| case.queue(1, 0, 0).unwrap());
    case.leave(one, 0);
    assert!(case.take(2, 100), "the token of the other is back");
    case.leave(other, 100);
    assert!(!case.take(1, 100));
}

#[test]
fn remembered_moves_are_bounded_in_number() {
    let case = Case::new(Quota::per_second(1).burst(10_000));
    let (before, _) = case.queue(1, 0, 0).unwrap();
    for _ in 0..=Bucket::MOST_MOVES {
        let (first, _) = case.queue(1, 0, 0).unwrap();
        assert!(case.take(1, 0));
        case.leave(first, 0);
    }
    assert_eq!(case.0.rest().moves.len(), Bucket::MOST_MOVES);
    case.leave(before, 0);
    assert_eq!(case.wasted(0), 1, "it is not known any more where it is");
}

#[test]
fn a_caller_who_is_late_to_change_the_quota_gives_nothing_away() {
    let bucket = Bucket::new(Quota::per_second(100).burst(100));
    let clock = &AtomicU64::new(0);
    let taken = thread::scope(|scope| {
        // It is kept from changing the quota, and time goes on.
        let rest = bucket.rest();
        let changer = scope.spawn({
            let bucket = &bucket;
            move || bucket.set_quota(Quota::per_second(100).burst(102), || clock.load(Relaxed))
        });
        let take = |bucket: &Bucket| bucket.take_now(100, clock.load(Relaxed)).is_some();
        let first = take(&bucket);
        clock.store(1_000_000_000, Relaxed);
        let second = take(&bucket);
        drop(rest);
        changer.join().unwrap();
        (first, second)
    });
    assert_eq!(taken, (true, true));
    let (gcra, now, full_at) = bucket.look(1_000_000_000);
    // A step of the clock may be lost.
    let left = gcra.level(full_at, now).remaining();
    assert!((1..=2).contains(&left), "{left}: spent tokens stay spent");
}

#[test]
fn spent_tokens_stay_spent_when_the_quota_changes() {
    let case = Case::new(Quota::per_second(10).burst(10));
    assert!(case.take(6, 1_000));
    case.0.set_quota(Quota::per_second(1_000).burst(100), || Case::nanos(1_000));
    let (gcra, now, full_at) = case.0.look(Case::nanos(1_000));
    assert_eq!(gcra.level(full_at, now).remaining(), 94);
    assert!(case.take(100, 1_006));
    case.0.set_quota(Quota::per_minute(60).burst(5), || Case::nanos(1_006));
    assert!(!case.take(1, 2_005) && case.take(1, 2_006), "of a smaller burst nothing is left");
    assert_eq!(case.0.quota(), Quota::per_minute(60).burst(5));
}

#[test]
fn those_who_wait_keep_their_turns_when_the_quota_changes() {
    let case = Case::new(Quota::per_second(10).burst(1));
    assert!(case.0.waiters.enter());
    let places: Vec<_> = (0..=5).map(|_| case.queue(1, 0, 1_000).unwrap().0).collect();
    case.0.set_quota(Quota::per_second(1).burst(3), || Case::nanos(50));
    assert_eq!(case.queue(1, 50, 10_000).unwrap().1, 1_500, "a second after the last of them");
    // An old place is not one of this quota.
    case.leave(places[5], 60);
    assert_eq!((case.wasted(60), case.queue(1, 60, 10_000).unwrap().1), (1, 2_500));
}

#[test]
fn a_call_is_decided_by_one_quota_even_while_it_changes() {
    const A: Quota = Quota::per_hour(1).burst(1_000_000);
    const B: Quota = Quota::new(1, Duration::from_secs(7_000)).burst(2_000_000);
    let bucket = Bucket::new(A);
    let given = thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    (0..200_000).filter(|step| bucket.take_now(1, *step).is_some()).count()
                })
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            bucket.set_quota(B, || 200_000);
            bucket.set_quota(A, || 200_000);
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    let (gcra, now, full_at) = bucket.look(200_000);
    // A step of the clock may be lost at each change.
    let left = gcra.level(full_at, now).remaining() as usize;
    assert!((999_998..=1_000_000).contains(&(left + given)), "{left} {given}");
}

#[test]
fn a_refusal_takes_no_lock() {
    let limiter = crate::RateLimiter::new(Quota::per_hour(1));
    limiter.check().unwrap();
    let several = crate::AllOf::<u8>::new().and("x", limiter.clone());
    let same = limiter.clone();
    let rest = same.0.bucket.rest();
    let (done, is_done) = std::sync::mpsc::channel();
    thread::spawn(move || done.send((several.check(&1).is_err(), limiter.check_n(1).is_err())));
    let answer = is_done.recv_timeout(Duration::from_secs(10));
    drop(rest);
    assert_eq!(answer, Ok((true, true)));
}
