use std::{sync::Barrier, thread, time::Duration};

use super::*;
use crate::{
    Quota,
    gcra::tests::{agrees_with_the_textbook, quotas, steps},
};
use proptest::prelude::*;

const BITS: u32 = 62;

/// A bucket and what it needs, with times in milliseconds.
struct Case {
    gcra: Gcra,
    bucket: Bucket,
}

impl Case {
    fn new(quota: Quota) -> Self {
        Self { gcra: Gcra::new(quota, BITS), bucket: Bucket::default() }
    }

    fn at(&self, millis: u64) -> Now {
        self.gcra.now(Duration::from_millis(millis))
    }

    fn take(&self, cost: u32, millis: u64) -> bool {
        let now = self.at(millis);
        self.bucket.take(&self.gcra, self.gcra.cost(cost).unwrap(), now, now.tick).is_ok()
    }

    /// Gives the place and the millisecond of its turn.
    fn queue(&self, cost: u32, millis: u64, max_wait: u64) -> Option<(Place, u64)> {
        let now = self.at(millis);
        let latest = self.gcra.tick_after(now, Duration::from_millis(max_wait));
        let cost = self.gcra.cost(cost).unwrap();
        let place = self.bucket.take(&self.gcra, cost, now, latest).ok()?;
        let turn = self.gcra.nanos_at(self.gcra.allowed_at(place.end)).as_millis();
        Some((place, u64::try_from(turn).unwrap().max(millis)))
    }

    fn leave(&self, place: Place, millis: u64) {
        self.bucket.give_back(&self.gcra, place, self.at(millis));
    }

    fn wasted(&self, millis: u64) -> u64 {
        self.gcra.tokens(self.bucket.wasted(&self.gcra, self.at(millis)))
    }
}

proptest! {
    #[test]
    fn it_is_the_bucket_of_the_textbooks(quota in quotas(), steps in steps()) {
        let case = Case::new(quota);
        agrees_with_the_textbook(quota, &case.gcra, steps, |cost, now| {
            case.bucket.take(&case.gcra, cost, now, now.tick).map(|place| place.end)
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

    /// In whatever order all leave, all that they had taken is back.
    #[test]
    fn once_all_have_left_the_bucket_is_as_before(order in Just((0..20).collect::<Vec<usize>>()).prop_shuffle()) {
        let case = Case::new(Quota::per_second(10).burst(3));
        for _ in 0..3 {
            assert!(case.take(1, 0));
        }
        let before = case.bucket.full_at();
        let places: Vec<_> = (0..20).map(|_| case.queue(1, 0, 10_000).unwrap().0).collect();
        for who in order {
            case.leave(places[who], 50);
        }
        prop_assert_eq!(case.bucket.full_at(), before);
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
    assert_eq!(case.bucket.given_up.lock().unwrap().gaps.len(), GivenUp::MOST);
    assert_eq!(case.wasted(0), 2_000 - GivenUp::MOST as u64);
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
    let (bucket, gcra, barrier) = (&case.bucket, &case.gcra, Barrier::new(THREADS));
    let given: usize = thread::scope(|scope| {
        let ask = |thread: usize| {
            let barrier = &barrier;
            move || {
                barrier.wait();
                // Their clocks go apart by up to 3 µs.
                let times = (0..20_000_u64).map(|step| step * 50_000 + thread as u64 * 1_000);
                times
                    .filter(|nanos| {
                        let now = gcra.now(Duration::from_nanos(*nanos));
                        bucket.take(gcra, gcra.cost(1).unwrap(), now, now.tick).is_ok()
                    })
                    .count()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(ask(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(given, 500 + 999, "burst, and what comes back in not quite a second");
}
