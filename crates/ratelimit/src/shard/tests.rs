use std::{collections::HashMap, time::Duration};

use super::*;
use crate::{
    Level, Quota,
    gcra_tests::{agrees_with_the_textbook, quotas, steps},
};
use proptest::prelude::*;

fn shard(quota: Quota, most: usize) -> Shard<u64> {
    Shard::new(Gcra::new(quota, 62), most)
}

/// Few different ones for small keys, so that these stand in each other's way.
fn hash(key: u64) -> u64 {
    if key < 100 { key % 7 } else { key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20 }
}

impl Shard<u64> {
    fn told(
        &mut self,
        key: u64,
        tokens: u32,
        nanos: u64,
        refuse_if_full: bool,
    ) -> Result<Level, Duration> {
        let wanted = Wanted { hash: hash(key), is: |other: &u64| *other == key };
        let mut taken = self.take(&wanted, &mut None, tokens, nanos);
        if let Taken::New = taken {
            taken = self.take(&wanted, &mut Some(Newcomer { key, refuse_if_full }), tokens, nanos);
        }
        match taken {
            Taken::Done(gcra, now, full_at) | Taken::Made(gcra, now, full_at, _) => {
                Ok(gcra.level(full_at, now))
            }
            Taken::Unmet(unmet) | Taken::NoRoom(unmet) => Err(unmet.wait().unwrap()),
            Taken::New => panic!("it was at hand"),
        }
    }

    fn left(&self, key: u64, nanos: u64) -> u32 {
        let (gcra, now, full_at) =
            self.look(&Wanted { hash: hash(key), is: |other: &u64| *other == key }, nanos);
        gcra.level(full_at, now).remaining()
    }
}

proptest! {
    #[test]
    fn each_key_has_the_bucket_of_the_textbooks(quota in quotas(), steps in steps()) {
        let mut shard = shard(quota, 1);
        let gcra = shard.gcra;
        agrees_with_the_textbook(quota, &gcra, steps, |tokens, nanos| shard.told(1, tokens, nanos, false))?;
    }

    /// Whatever comes and goes: a key is limited as it would be alone, as long as there is room.
    #[test]
    fn keys_never_share_and_are_never_lost_while_there_is_room(
        calls in prop::collection::vec((0..20_u64, 0..300_u64), 1..300),
    ) {
        let quota = Quota::per_second(10).burst(3);
        let (mut together, mut alone) = (shard(quota, 20), HashMap::new());
        let mut now = 0;
        for (key, millis) in calls {
            now += millis * 1_000_000;
            let one = alone.entry(key).or_insert_with(|| shard(quota, 1));
            let (told, expected) = (together.told(key, 1, now, true), one.told(key, 1, now, true));
            prop_assert_eq!(told.map(|level| level.remaining()), expected.map(|level| level.remaining()));
            prop_assert!(together.used <= together.most);
            prop_assert_eq!(together.used, together.slots.iter().flatten().count());
        }
    }
}

#[test]
fn at_the_bound_the_one_that_is_full_soonest_makes_room_or_the_new_key_is_refused() {
    let mut shard = shard(Quota::per_second(1).burst(20), 5);
    for key in 0..5 {
        for _ in 0..=key {
            shard.told(key, 1, 0, true).unwrap();
        }
    }
    assert_eq!(shard.told(99, 1, 0, true).unwrap_err(), Duration::from_secs(1));
    shard.told(99, 1, 0, false).unwrap();
    assert_eq!((shard.left(0, 0), shard.left(99, 0), shard.used()), (20, 19, 5));
    assert!((1..5).all(|key| shard.left(key, 0) == 19 - key as u32));
}

#[test]
fn full_buckets_are_freed_by_newcomers_few_at_a_time() {
    let mut shard = shard(Quota::per_second(1).burst(1), 100);
    let hand = |shard: &Shard<u64>| shard.hand;
    for key in 100..100_000 {
        // A second later each is full again; fifty a second come.
        let before = hand(&shard);
        shard.told(key, 1, key * 20_000_000, true).unwrap();
        let looked_at = hand(&shard).wrapping_sub(before) & (shard.slots.len() - 1);
        assert!(shard.used() <= 100 && looked_at <= 40, "{looked_at}");
    }
}

#[test]
fn a_clock_that_goes_back_locks_no_key_for_longer_than_the_burst_takes() {
    let mut shard = shard(Quota::per_second(10).burst(5), 5);
    let day = 86_400_000_000_000;
    shard.told(1, 5, day, false).unwrap();
    assert!(shard.told(1, 1, 0, false).is_err());
    assert!(shard.told(1, 5, 500_000_000, false).is_ok());
}

#[test]
fn spent_tokens_stay_spent_when_the_quota_changes() {
    let mut shard = shard(Quota::per_second(10).burst(10), 5);
    shard.told(1, 6, 1_000, false).unwrap();
    shard.set_gcra(Gcra::new(Quota::per_hour(1).burst(100), 62), 1_000);
    assert_eq!((shard.left(1, 1_000), shard.left(2, 1_000)), (94, 100));
}
