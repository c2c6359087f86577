use std::{
    sync::atomic::{AtomicU32, AtomicUsize},
    thread,
    time::Duration,
};

use crate::{
    Level, Quota,
    gcra::Unmet,
    gcra_tests::{agrees_with_the_textbook, quotas, steps},
    sync::{AtomicU64, SeqCst, hint},
    table::*,
};
use proptest::prelude::*;

/// Well spread numbers in place of hashes (splitmix64).
fn hash(of: u64) -> u64 {
    let mut z = of.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn table(quota: Quota, capacity: usize) -> Table {
    Table::new(quota, capacity)
}

fn seconds(seconds: u64) -> u64 {
    seconds * 1_000_000_000
}

impl Table {
    fn take_of(&self, key: u64, tokens: u32, nanos: u64) -> Result<(Era, u64), Unmet> {
        self.take(&self.home(hash(key)), tokens, &|| nanos)
    }

    fn one(&self, key: u64, nanos: u64) -> bool {
        let home = self.home(hash(key));
        self.take_now(&home, 1, nanos).is_some() || self.take(&home, 1, &|| nanos).is_ok()
    }

    fn tokens_left(&self, key: u64, nanos: u64) -> u32 {
        let (era, full_at) = self.look(&self.home(hash(key)), &|| nanos);
        era.gcra.level(full_at, era.now).remaining()
    }

    /// Slots that hold the bucket of `key`.
    fn copies(&self, key: u64) -> usize {
        let home = self.home(hash(key));
        self.slots(&home).filter(|slot| Seen::in_slot(slot).word.tag() == home.tag).count()
    }

    /// As in the property that is shared by all machines.
    fn told(&self, tokens: u32, nanos: u64) -> Result<Level, Duration> {
        let home = self.home(hash(1));
        if let Some(level) = self.take_now(&home, tokens, nanos) {
            return Ok(level);
        }
        let (era, full_at) =
            self.take(&home, tokens, &|| nanos).map_err(|refused| refused.wait().unwrap())?;
        Ok(era.gcra.level(full_at, era.now))
    }
}

proptest! {
    #[test]
    fn each_key_has_the_bucket_of_the_textbooks(quota in quotas(), steps in steps()) {
        let table = table(quota, 1);
        agrees_with_the_textbook(quota, &table.gcras[0].load(), steps, |tokens, nanos| table.told(tokens, nanos))?;
    }

    /// The clock of this quota wraps every four and a half minutes, its epochs change every 69 seconds.
    #[test]
    fn it_is_so_at_any_time_of_a_clock_that_wraps_often(burst in 1..1_000_000_000_u32, steps in steps()) {
        let quota = Quota::per_second(1_000_000_000).burst(burst);
        let table = table(quota, 1);
        agrees_with_the_textbook(quota, &table.gcras[0].load(), steps, |tokens, nanos| table.told(tokens, nanos))?;
    }

    #[test]
    fn the_two_lines_of_a_key_are_two(hash: u64, capacity in 1..10_000_usize) {
        let table = table(Quota::per_second(1), capacity);
        let home = table.home(hash);
        let [first, second] = table.lines_of(&home);
        prop_assert!(!std::ptr::eq(first, second));
        prop_assert!(home.tag != 0 && home.tag <= Word::TAG);
    }
}

#[test]
fn keys_are_limited_each_for_itself_and_looking_takes_nothing() {
    let table = table(Quota::per_second(1).burst(2), 100);
    let now = seconds(5);
    for key in 0..20 {
        assert_eq!(table.tokens_left(key, now), 2);
        assert!(table.one(key, now) && table.one(key, now) && !table.one(key, now));
        assert_eq!(table.tokens_left(key, now), 0);
    }
    let later = seconds(6);
    assert!((0..20).all(|key| table.one(key, later) && !table.one(key, later)));
}

#[test]
fn a_time_is_not_mistaken_for_one_of_another_round() {
    let quota = Quota::per_second(1_000_000_000).burst(1_000);
    let round = 1_u64 << Word::TIME_BITS;
    for rounds in [1, 2, 3, 1_000, 1 << 20] {
        for before_or_after in [-2_000_i64, -1_001, -1_000, -999, -500, -1, 0, 1, 500] {
            let table = table(quota, 1);
            table.take_of(1, 1_000, seconds(1)).unwrap();
            let back = (1_000_000_000 + rounds * round).wrapping_add_signed(before_or_after);
            let now = back;
            assert_eq!(table.tokens_left(1, now), 1_000, "{rounds} rounds {before_or_after}");
        }
    }
}

#[test]
fn a_limit_holds_across_the_change_of_an_epoch() {
    let table = table(Quota::per_second(1_000_000_000).burst(1_000), 1);
    let change = 1_u64 << Line::EPOCH_BITS;
    for epoch in [1, 2, 4, 5, 8] {
        let nanos = |from_change: i64| (epoch * change).wrapping_add_signed(from_change);
        let at = nanos;
        table.take_of(1, 1_000, at(-100)).unwrap();
        assert_eq!(table.tokens_left(1, at(-1)), 99);
        assert_eq!(table.tokens_left(1, at(1)), 101);
        assert!(table.take_of(1, 1_000, at(1)).is_err());
    }
}

#[test]
fn a_caller_whose_clock_is_a_little_behind_sees_the_same_bucket() {
    let table = table(Quota::per_second(1_000_000_000).burst(1_000), 1);
    let change = 1_u64 << Line::EPOCH_BITS;
    let (before, after) = (change - 10, change + 10);
    assert!(table.one(1, after));
    assert_eq!(table.tokens_left(1, before), 979);
    assert!(table.one(1, before));
    assert_eq!(table.copies(1), 1);
}

#[test]
fn as_many_keys_as_the_capacity_are_kept_apart() {
    let capacity = 100_000;
    let table = table(Quota::per_hour(5), capacity);
    let now = seconds(1);
    assert!((0..capacity as u64).all(|key| table.one(key, now)));
    assert_eq!(table.live_evictions(), 0);
    let kept = (0..capacity as u64).filter(|key| table.tokens_left(*key, now) == 4).count();
    assert!(kept >= capacity - 2, "{kept}");
    assert_eq!(size_of::<Line>(), 64);
    assert!(table.lines.len() * 64 <= 16 * capacity);
}

#[test]
fn a_million_made_up_keys_neither_grow_the_table_nor_free_a_key_at_its_limit() {
    let table = table(Quota::per_minute(5), 1_000);
    let size = table.lines.len();
    let now = seconds(1);
    let limited = 0..10_u64;
    for key in limited.clone() {
        while table.one(key, now) {}
    }
    assert_eq!(table.live_evictions(), 0);
    for key in 1_000..1_001_000 {
        assert!(table.one(key, now), "a new key has a full bucket");
    }
    assert!(limited.clone().all(|key| !table.one(key, now)));
    assert!(table.live_evictions() > 990_000, "counted");
    assert_eq!(table.lines.len(), size);
    // And once the flood is over, it has left nothing behind.
    let later = seconds(62);
    let before = table.live_evictions();
    assert!((0..900).all(|key| table.one(key, later)));
    assert_eq!(table.live_evictions(), before);
}

#[test]
fn at_saturation_the_bucket_that_is_full_soonest_makes_room() {
    // Two lines of seven: everyone meets everyone.
    let table = table(Quota::per_second(1).burst(20), 1);
    let now = seconds(100);
    for key in 0..14 {
        for _ in 0..=key {
            assert!(table.one(key, now));
        }
    }
    assert_eq!(table.live_evictions(), 0);
    assert!(table.one(99, now));
    assert_eq!(table.live_evictions(), 1);
    assert_eq!(table.tokens_left(0, now), 20, "forgotten, and one token better off");
    assert!((1..14).all(|key| table.tokens_left(key, now) == 19 - key as u32));
}

#[test]
fn a_full_bucket_gives_its_place_without_loss() {
    let table = table(Quota::per_second(1).burst(1), 1);
    for second in 0..1_000 {
        let now = seconds(second);
        assert!((0..14).all(|key| table.one(second * 14 + key, now)));
    }
    assert_eq!(table.live_evictions(), 0);
}

#[test]
fn one_key_in_a_million_meets_a_bucket_that_is_not_its_own() {
    let table = table(Quota::per_hour(5), 20_000);
    let now = seconds(1);
    for key in 0..20_000 {
        table.one(key, now);
    }
    let strangers = 1_000_000..2_000_000;
    let shared = strangers.filter(|key| table.tokens_left(*key, now) < 5).count();
    assert!(shared <= 5, "{shared}");
}

/// All the ways in which three callers that bring the same new key can come between each other's steps.
#[test]
fn of_makers_that_interleave_in_any_way_one_comes_through() {
    /// What each of the three does next: find, place, confirm, and so on until it has its bucket.
    enum At<'a> {
        Find,
        Place,
        Confirm(Seen<'a>),
        Done,
    }
    // Each number of the schedule says who makes the next step.
    for schedule in 0..3_u32.pow(10) {
        let table = table(Quota::per_hour(1).burst(2), 1);
        let now = seconds(1);
        let era = table.era(now);
        let ordinary =
            |home: &Home<'_>| era.word(home.tag, era.now.tick + era.gcra.cost(1).unwrap());
        let home = table.home(hash(1));
        let mut callers = [At::Find, At::Find, At::Find];
        let mut given = 0;
        let turns = (0..10).map(|turn| (schedule / 3_u32.pow(turn) % 3) as usize);
        for who in turns.chain((0..30).map(|turn| turn / 10)) {
            callers[who] = match std::mem::replace(&mut callers[who], At::Done) {
                At::Find => match table.find(&home, &era, &|| now) {
                    None => At::Find,
                    Some(None) => At::Place,
                    Some(Some(_)) => {
                        given += u32::from(table.one(1, now));
                        At::Done
                    }
                },
                At::Place => {
                    let room = table.room(&home, &era);
                    let placed = room.and_then(|room| table.place(&home, &room, who as u64));
                    placed.map_or(At::Find, At::Confirm)
                }
                At::Confirm(new) if table.confirm(&home, new, ordinary(&home)) => {
                    given += 1;
                    At::Done
                }
                At::Confirm(_) => At::Find,
                At::Done => At::Done,
            };
            assert!(given <= 2, "schedule {schedule}");
        }
        assert_eq!((given, table.copies(1)), (2, 1), "schedule {schedule}");
        assert!(!table.one(1, now));
    }
}

#[test]
fn equal_keys_that_come_at_once_get_one_bucket() {
    const KEYS: u64 = 30_000;
    let table = table(Quota::per_hour(1), 2 * KEYS as usize);
    let now = seconds(1);
    let given: Vec<_> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    let here = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for (key, given) in given.iter().enumerate() {
                    // All go for a new key together, as far as that can be had without waiting.
                    here.fetch_add(1, SeqCst);
                    for _ in 0..100 {
                        if here.load(SeqCst) >= 3 * (key + 1) - 1 {
                            break;
                        }
                        hint::spin_loop();
                    }
                    if table.one(key as u64, now) {
                        given.fetch_add(1, SeqCst);
                    }
                }
            });
        }
    });
    let wrong = given.iter().filter(|given| given.load(SeqCst) != 1).count();
    assert_eq!(wrong, 0, "keys got another number of tokens than one");
    assert!((0..KEYS).all(|key| table.copies(key) == 1));
}

#[test]
fn a_crowd_on_a_full_table_leaves_no_place_taken_for_ever() {
    let table = table(Quota::per_second(1).burst(1), 1);
    let step = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (table, step) = (&table, &step);
            scope.spawn(move || {
                for round in 0..20_000 {
                    let now = step.fetch_add(1, SeqCst) * 1_000_000;
                    table.one(hash(round * 4 + thread) % 20, now);
                }
            });
        }
    });
    let now = seconds(1_000);
    for line in &table.lines {
        assert!(table.enter(line, &table.era(now), &|| now));
        for slot in &line.slots {
            assert!(!Seen::in_slot(slot).word.is_unconfirmed());
            assert!(Seen::in_slot(slot).word.full_at(table.era(now).now.tick).is_none());
        }
    }
    assert!((0..20).all(|key| table.copies(key) <= 1));
}

#[test]
fn a_clock_that_goes_back_locks_no_key_for_longer_than_the_burst_takes() {
    // By less than a round of the clock, by several, and to before the first epoch.
    for back in [2, 60, 100, 200, 1_000, 86_400 * 365] {
        let table = table(Quota::per_second(10).burst(5), 10);
        let from = seconds(86_400 * 365 + 50);
        table.take_of(1, 5, from).unwrap();
        let now = from - seconds(back);
        let _ = table.one(1, now);
        let later = now + seconds(1) / 2 + 1_000_000;
        assert!(table.take_of(1, 5, later).is_ok() && !table.one(1, later), "{back}");
    }
}

#[test]
fn spent_tokens_of_each_key_stay_spent_when_the_quota_changes() {
    let table = table(Quota::per_second(10).burst(10), 100);
    let now = seconds(1_000);
    for key in 0..10 {
        for _ in 0..=key {
            assert!(table.one(key, now));
        }
    }
    table.set_quota(Quota::per_hour(1).burst(1_000), &|| now);
    for key in 0..10 {
        assert_eq!(table.tokens_left(key, now), 999 - key as u32);
        assert!(table.one(key, now));
    }
    table.set_quota(Quota::per_second(1_000_000_000).burst(5), &|| now);
    for key in 0..10 {
        assert_eq!(table.tokens_left(key, now), 5_u32.saturating_sub(key as u32 + 2));
        assert_eq!(table.copies(key), 1);
    }
    assert_eq!(table.tokens_left(9, now + 5), 5);
    assert_eq!(table.quota(), Quota::per_second(1_000_000_000).burst(5));
}

#[test]
fn a_bucket_written_under_an_older_quota_is_read_as_such() {
    let table = table(Quota::per_second(1).burst(10), 1);
    let now = seconds(1_000);
    let asleep = table.era(now);
    table.set_quota(Quota::per_hour(1).burst(10), &|| now);
    // A caller that was asleep meanwhile goes on.
    let home = table.home(hash(1));
    let room = table.room(&home, &table.era(now)).unwrap();
    let new = table.place(&home, &room, 1).unwrap();
    assert!(table.confirm(
        &home,
        new,
        asleep.word(home.tag, asleep.now.tick + asleep.gcra.cost(3).unwrap())
    ));
    assert_eq!(table.tokens_left(1, now), 7);
    assert!(table.one(1, now));
    assert_eq!((table.tokens_left(1, now), table.copies(1)), (6, 1));
}

#[test]
fn no_token_is_lost_or_made_while_the_quota_changes_under_load() {
    const A: Quota = Quota::per_hour(1).burst(1_000_000);
    const B: Quota = Quota::new(1, Duration::from_secs(7_000)).burst(2_000_000);
    let (table, now) = (table(A, 16), seconds(1));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| (0..100_000).for_each(|step| assert!(table.one(step % 10, now))))
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            table.set_quota(B, &|| now);
            thread::yield_now();
            table.set_quota(A, &|| now);
            thread::yield_now();
        }
    });
    for key in 0..10 {
        let left = table.tokens_left(key, now);
        assert!((979_999..=980_000).contains(&left), "{left}");
        assert_eq!(table.copies(key), 1);
    }
}

#[test]
fn at_saturation_new_keys_can_be_refused_instead() {
    let table = table(Quota::per_second(1).burst(20), 1);
    table.refuse_new();
    let now = seconds(100);
    assert!((0..14).all(|key| table.one(key, now)));
    let Err(refused) = table.take_of(99, 1, now) else { panic!("it had room") };
    assert_eq!(refused.wait(), Some(Duration::from_secs(1)), "then the first has room");
    assert_eq!((table.refused_new(), table.live_evictions()), (1, 0));
    assert!(table.one(99, now + seconds(1)));
}

#[test]
fn tokens_given_back_were_never_taken() {
    let table = table(Quota::per_second(1).burst(5), 10);
    let now = seconds(10);
    table.take_of(1, 4, now).unwrap();
    table.give_back(&table.home(hash(1)), 3, &|| now);
    assert_eq!(table.tokens_left(1, now), 4);
    table.give_back(&table.home(hash(1)), 3, &|| now);
    table.give_back(&table.home(hash(2)), 3, &|| now);
    assert_eq!(
        (table.tokens_left(1, now), table.tokens_left(2, now)),
        (5, 5),
        "no more than the burst"
    );
}

#[test]
fn a_changed_quota_can_be_asked_for_while_the_lines_are_visited() {
    let (asked, answers) = std::sync::mpsc::channel();
    // On a thread of its own, which would never end.
    std::thread::spawn(move || {
        let table = Table::new(Quota::per_second(1), 100);
        let _ = table.take(&table.home(1), 1, &|| 0);
        let clock = || {
            let _ = asked.send(table.quota());
            0
        };
        table.set_quota(Quota::per_second(2), &clock);
    });
    assert_eq!(answers.recv_timeout(Duration::from_secs(10)), Ok(Quota::per_second(2)));
}
