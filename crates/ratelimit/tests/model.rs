//! The machines under every order in which threads can take turns, and under weak memory (loom).
//!
//! The files of the machines are compiled here once more, with loom's atomics in place of std's.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test, of parts of the crate")]

#[path = "../src/bucket/mod.rs"]
mod bucket;
#[path = "../src/error.rs"]
mod error;
#[path = "../src/gcra.rs"]
mod gcra;
#[path = "../src/level.rs"]
mod level;
#[path = "../src/quota.rs"]
mod quota;
#[path = "../src/table/mod.rs"]
mod table;

mod sync {
    pub(crate) use loom::{
        hint,
        sync::{
            Mutex, MutexGuard,
            atomic::{
                AtomicBool, AtomicU64,
                Ordering::{self, Acquire, Relaxed, Release, SeqCst},
                fence,
            },
        },
    };
    pub(crate) use std::sync::PoisonError;
}

mod stats {
    use loom::thread;

    /// loom's threads are all one thread of the system.
    pub(crate) fn thread_number() -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        thread::current().id().hash(&mut hasher);
        hasher.finish()
    }
}

use std::time::Duration;

use loom::{sync::Arc, thread};

use self::{
    bucket::Bucket,
    error::{Denied, TooCostly},
    level::Level,
    quota::Quota,
    table::{Seen, Table, newcomer::Room},
};

const SECOND: u64 = 1_000_000_000;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // All orders with so many interruptions; without a bound it would take hours.
    builder.preemption_bound = Some(2);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// Runs `one` here and `other` on another thread, at the same time.
fn both<T: Send + Sync + 'static, A, B: 'static>(
    shared: &Arc<T>,
    one: impl FnOnce(&T) -> A,
    other: impl FnOnce(&T) -> B + 'static,
) -> (A, B) {
    let there = {
        let shared = shared.clone();
        thread::spawn(move || other(&shared))
    };
    let here = one(shared);
    (here, there.join().unwrap())
}

mod direct {
    use super::*;

    fn take(bucket: &Bucket, tokens: u32, now: u64) -> bool {
        bucket.take_now(tokens, now).is_some()
            || bucket.take(tokens, || now, Duration::ZERO).is_ok()
    }

    fn left(bucket: &Bucket, now: u64) -> u32 {
        let (gcra, now, full_at) = bucket.look(now);
        gcra.level(full_at, now).remaining()
    }

    #[test]
    fn of_two_who_want_the_last_token_one_gets_it() {
        check(|| {
            let bucket = Arc::new(Bucket::new(Quota::per_hour(1)));
            let (one, other) = both(&bucket, |b| take(b, 1, SECOND), |b| take(b, 1, SECOND));
            assert!(one ^ other);
        });
    }

    #[test]
    fn what_one_gives_back_another_may_take_and_no_more() {
        check(|| {
            let bucket = Arc::new(Bucket::new(Quota::per_hour(2)));
            let place = bucket.take(1, || SECOND, Duration::ZERO).unwrap();
            let ((), taken) = both(
                &bucket,
                |b| b.give_back(&place, 0, SECOND),
                |b| (0..2).filter(|_| take(b, 1, SECOND)).count(),
            );
            assert!(taken > 0);
            assert_eq!(left(&bucket, SECOND), 2 - taken as u32);
        });
    }

    #[test]
    fn two_who_leave_the_queue_at_once_leave_no_gap() {
        check(|| {
            let bucket = Arc::new(Bucket::new(Quota::per_second(1)));
            assert!(take(&bucket, 1, SECOND));
            let wait = Duration::from_secs(10);
            bucket.waiters().expect(wait);
            let [one, other] = [(); 2].map(|()| bucket.take(1, || SECOND, wait).unwrap());
            both(
                &bucket,
                move |b| b.give_back(&one, 0, SECOND),
                move |b| b.give_back(&other, 0, SECOND),
            );
            assert_eq!(bucket.wasted(20 * SECOND), 0);
            assert!(take(&bucket, 1, 2 * SECOND));
        });
    }

    #[test]
    fn who_leaves_the_queue_takes_nobody_elses_place_along() {
        check(|| {
            let bucket = Arc::new(Bucket::new(Quota::per_second(1)));
            assert!(take(&bucket, 1, SECOND));
            let wait = Duration::from_secs(10);
            bucket.waiters().expect(wait);
            let leaves = bucket.take(1, || SECOND, wait).unwrap();
            let ((), comes) = both(
                &bucket,
                move |b| b.give_back(&leaves, 0, SECOND),
                move |b| b.take(1, || SECOND, wait).unwrap(),
            );
            let (.., full_at) = bucket.look(SECOND);
            assert_eq!(full_at, comes.end);
        });
    }

    #[test]
    fn places_in_the_queue_are_bounded_and_given_back() {
        check(|| {
            let bucket = Arc::new(Bucket::new(Quota::per_second(1)));
            bucket.waiters().set_most(1);
            let come_and_go = |bucket: &Bucket| {
                let waiters = bucket.waiters();
                let entered = waiters.enter();
                if entered {
                    waiters.expect(Duration::from_secs(3));
                    assert_eq!(waiters.number(), 1);
                    bucket.leave(SECOND);
                }
                entered
            };
            let (one, other) = both(&bucket, come_and_go, come_and_go);
            assert!(one || other);
            assert_eq!(bucket.waiters().number(), 0);
            assert_eq!(bucket.waiters().longest(), Duration::ZERO);
        });
    }

    /// Half a token of the other quota would show: a burst of 4 at one shift, of 3 at another.
    #[test]
    fn a_call_is_decided_by_one_quota_while_it_changes() {
        const OTHER: Quota = Quota::new(1, Duration::from_secs(7_000)).burst(3);
        check(|| {
            let bucket = Arc::new(Bucket::new(Quota::per_hour(1).burst(4)));
            let ((), taken) =
                both(&bucket, |b| b.set_quota(OTHER, || SECOND), |b| take(b, 1, SECOND));
            assert!(taken);
            assert_eq!(left(&bucket, SECOND), 2);
        });
    }

    /// The tick at which the bucket is full is the same number by both.
    #[test]
    fn that_is_so_where_both_quotas_count_alike() {
        check(|| {
            let bucket = Arc::new(Bucket::new(Quota::per_second(1).burst(4)));
            assert!(take(&bucket, 3, SECOND));
            let smaller = Quota::per_second(1).burst(3);
            both(&bucket, |b| b.set_quota(smaller, || SECOND), |b| take(b, 1, SECOND));
            // The change may cost a step of the clock.
            assert_eq!((left(&bucket, SECOND), left(&bucket, 2 * SECOND + 9)), (0, 1));
        });
    }
}

mod keyed {
    use super::*;

    const KEY: u64 = 0x0123_4567_89ab_cdef;

    fn table(quota: Quota) -> Table {
        // The least there is: two lines.
        Table::new(quota, 1)
    }

    fn take(table: &Table, hash: u64, now: u64) -> bool {
        let home = table.home(hash);
        table.take_now(&home, 1, now).is_some() || table.take(&home, 1, &|| now).is_ok()
    }

    fn left(table: &Table, hash: u64, now: u64) -> u32 {
        let (era, full_at) = table.look(&table.home(hash), &|| now);
        era.gcra.level(full_at, era.now).remaining()
    }

    fn copies(table: &Table, hash: u64) -> usize {
        let home = table.home(hash);
        table.slots(&home).filter(|slot| Seen::in_slot(slot).word.tag() == home.tag).count()
    }

    /// Other keys in so many of the slots, in which there are 14.
    fn with_others(quota: Quota, others: u64, now: u64) -> Table {
        let table = table(quota);
        for tag in 1..=others {
            let hash = tag | (tag % 2) << 63;
            assert!(take(&table, hash, now));
        }
        assert_eq!(table.live_evictions(), 0);
        table
    }

    fn one_of_two_gets_the_token(table: impl Fn() -> Table + Send + Sync + 'static, now: u64) {
        check(move || {
            let table = Arc::new(table());
            let (one, other) = both(&table, move |t| take(t, KEY, now), move |t| take(t, KEY, now));
            assert!(one ^ other);
            assert_eq!(copies(&table, KEY), 1);
        });
    }

    #[test]
    fn of_two_who_bring_the_same_new_key_one_gets_its_token() {
        one_of_two_gets_the_token(|| table(Quota::per_hour(1)), SECOND);
    }

    /// As when each has seen another slot free.
    #[test]
    fn of_two_who_make_the_same_key_in_two_slots_one_comes_through_at_most() {
        check(|| {
            let table = Arc::new(table(Quota::per_hour(1)));
            let make = |slot: usize| {
                move |table: &Table| {
                    let (home, era) = (table.home(KEY), table.era(SECOND));
                    let seen = table.slots(&home).nth(slot).map(Seen::in_slot).unwrap();
                    let room = Room { seen, live: None };
                    let spent = era.word(home.tag, era.gcra.empty(era.now));
                    let new = table.place(&home, &room, slot as u64).unwrap();
                    table.confirm(&home, new, spent)
                }
            };
            let (one, other) = both(&table, make(0), make(1));
            assert!(!(one && other));
            assert_eq!(copies(&table, KEY), usize::from(one || other));
        });
    }

    #[test]
    fn two_who_bring_the_same_key_to_a_full_table_make_it_once() {
        let full = || with_others(Quota::per_hour(2).burst(1), 14, SECOND);
        one_of_two_gets_the_token(full, 2 * SECOND);
    }

    #[test]
    fn a_key_that_was_made_meanwhile_does_not_make_room_for_itself() {
        // Having used half of its burst it would be the first to go.
        check(|| {
            let table = with_others(Quota::per_hour(2), 14, SECOND);
            for tag in 1..=14_u64 {
                assert!(take(&table, tag | (tag % 2) << 63, SECOND));
            }
            let table = Arc::new(table);
            both(&table, |t| take(t, KEY, SECOND), |t| take(t, KEY, SECOND));
            assert_eq!(left(&table, KEY, SECOND), 0);
            assert_eq!(copies(&table, KEY), 1);
        });
    }

    #[test]
    fn where_new_keys_are_refused_the_last_place_is_given_once_and_nobody_has_to_go() {
        check(|| {
            let table = with_others(Quota::per_hour(1), 13, SECOND);
            table.refuse_new();
            let table = Arc::new(table);
            let (one, other) = both(&table, |t| take(t, KEY, SECOND), |t| take(t, KEY ^ 1, SECOND));
            assert!(one ^ other);
            assert_eq!((table.refused_new(), table.live_evictions()), (1, 0));
        });
    }

    #[test]
    fn a_key_is_drawn_from_or_makes_room_but_not_both() {
        check(|| {
            let table = with_others(Quota::per_hour(3), 13, 2 * SECOND);
            // Full the soonest.
            assert!(take(&table, KEY, SECOND));
            let table = Arc::new(table);
            let (drawn, new) =
                both(&table, |t| take(t, KEY, 2 * SECOND), |t| take(t, 99, 2 * SECOND));
            assert!(drawn && new);
            let left = left(&table, KEY, 2 * SECOND);
            let evicted = table.live_evictions();
            assert!(
                // Drawn from, and it or another has made room; or it came anew, and another had to go.
                (1..=2).contains(&evicted) && copies(&table, KEY) <= 1 && copies(&table, 99) <= 1
            );
            assert!(left > 0, "{left}");
        });
    }

    /// So many nanoseconds are an epoch of this quota.
    const EPOCH: u64 = 1 << 36;
    const EACH_NANO: Quota = Quota::per_second(1_000_000_000).burst(2);

    #[test]
    fn two_who_find_a_line_of_the_last_epoch_draw_from_the_same_bucket() {
        // Of 3 tokens one is taken just before, one is for each.
        const THREE: Quota = EACH_NANO.burst(3);
        check(|| {
            let table = Arc::new(table(THREE));
            assert!(take(&table, KEY, EPOCH - 1));
            assert!(take(&table, KEY, EPOCH - 1));
            let at = |now: u64| move |t: &Table| take(t, KEY, now);
            let taken = both(&table, at(EPOCH - 1), at(EPOCH));
            // The later one may have got what came back; then the earlier one too, or not.
            assert!(taken.0 || taken.1);
            assert_eq!(left(&table, KEY, EPOCH), 2 - u32::from(taken.0) - u32::from(taken.1));
            assert_eq!(copies(&table, KEY), 1);
        });
    }

    #[test]
    fn two_who_find_a_line_of_another_round_do_not_take_its_times_for_theirs() {
        const ROUND: u64 = 4 * EPOCH;
        check(|| {
            let table = Arc::new(table(EACH_NANO));
            assert!(take(&table, KEY, SECOND) && take(&table, KEY, SECOND));
            let again = |t: &Table| take(t, KEY, SECOND + ROUND);
            assert_eq!(both(&table, again, again), (true, true));
            assert_eq!(left(&table, KEY, SECOND + ROUND), 0);
        });
    }

    #[test]
    fn a_new_bucket_is_not_cleared_by_who_renews_its_line() {
        check(|| {
            let table = Arc::new(table(Quota::per_second(1_000_000_000).burst(1_000_000)));
            // The line is far behind.
            assert!(take(&table, KEY ^ 1, 0));
            let now = 3 * EPOCH;
            let (one, other) = both(&table, move |t| take(t, KEY, now), move |t| take(t, KEY, now));
            assert!(one && other);
            assert_eq!(left(&table, KEY, now), 999_998);
        });
    }

    const OTHER: Quota = Quota::new(1, Duration::from_secs(7_000)).burst(3);

    #[test]
    fn a_draw_is_of_one_quota_while_it_changes() {
        check(|| {
            let table = Arc::new(table(Quota::per_hour(1).burst(4)));
            assert!(take(&table, KEY, SECOND));
            let ((), taken) =
                both(&table, |t| t.set_quota(OTHER, &|| SECOND), |t| take(t, KEY, SECOND));
            assert!(taken);
            assert_eq!((left(&table, KEY, SECOND), copies(&table, KEY)), (1, 1));
        });
    }

    #[test]
    fn who_slept_through_a_change_does_not_cut_a_bucket_to_the_old_burst() {
        check(|| {
            let table = Arc::new(table(Quota::per_hour(2)));
            assert!(take(&table, KEY, SECOND));
            let (rest, taken) = both(
                &table,
                |t| {
                    t.set_quota(Quota::per_hour(5), &|| SECOND);
                    (0..3).filter(|_| take(t, KEY, SECOND)).count()
                },
                |t| take(t, KEY, SECOND),
            );
            assert_eq!((rest, taken), (3, true));
            assert_eq!(left(&table, KEY, SECOND), 0);
        });
    }

    /// Of two who renew a line, one finds what the other has already made one of the new quota, whose clock shows something else.
    #[test]
    fn a_bucket_of_the_new_quota_is_not_read_by_the_clock_of_the_old() {
        check(|| {
            let table = Arc::new(table(Quota::per_second(1).burst(4)));
            let now = 300 * SECOND;
            assert!(take(&table, KEY, now));
            let quota = Quota::per_second(1).burst(1_000);
            let ((), taken) =
                both(&table, move |t| t.set_quota(quota, &|| now), move |t| take(t, KEY, now));
            assert!(taken);
            assert_eq!(left(&table, KEY, now), 998);
        });
    }

    #[test]
    fn a_new_key_has_the_bucket_of_one_quota_while_it_changes() {
        check(|| {
            let table = Arc::new(table(Quota::per_hour(1).burst(4)));
            let ((), taken) =
                both(&table, |t| t.set_quota(OTHER, &|| SECOND), |t| take(t, KEY, SECOND));
            assert!(taken);
            assert_eq!((left(&table, KEY, SECOND), copies(&table, KEY)), (2, 1));
        });
    }

    #[test]
    fn what_is_given_back_another_may_take_and_no_more() {
        check(|| {
            let table = Arc::new(table(Quota::per_hour(2)));
            assert!(take(&table, KEY, SECOND));
            let ((), taken) = both(
                &table,
                |t| t.give_back(&t.home(KEY), 1, &|| SECOND),
                |t| (0..2).filter(|_| take(t, KEY, SECOND)).count(),
            );
            assert!(taken > 0);
            assert_eq!(left(&table, KEY, SECOND), 2 - taken as u32);
        });
    }
}
