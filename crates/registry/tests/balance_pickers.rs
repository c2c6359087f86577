//! What each picker promises, with its number.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use gusset_registry::{
    Chooser, Consistent, Health, Instance, LeastLoaded, LocalRoundRobin, Pick, Publisher, Random,
    RoundRobin, Watch, WeightedRoundRobin, hash_key,
};
use proptest::prelude::*;
use tokio::time::advance;

fn instance(id: impl ToString) -> Instance {
    Instance::new("s", "h", 1).with_id(id.to_string())
}

fn weighted(weights: &[u32]) -> Watch {
    let instance = |(id, weight): (usize, &u32)| {
        instance(format!("{id:03}")).with_weight(NonZeroU32::new(*weight).unwrap())
    };
    Watch::fixed("s", weights.iter().enumerate().map(instance))
}

fn healthy(ids: impl IntoIterator<Item = usize>) -> Vec<Arc<Instance>> {
    let healthy = |id| Arc::new(instance(format!("{id:03}")).with_health(Health::Healthy));
    ids.into_iter().map(healthy).collect()
}

/// How many of `calls` went to each, each over before the next begins.
fn counts<P: Pick<usize>>(chooser: &mut Chooser<P>, calls: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for call in 0..calls {
        let chosen = chooser.choose(&call).unwrap();
        *counts.entry(chosen.id.to_string()).or_default() += 1;
        chosen.succeeded();
    }
    counts
}

// In turn.

#[test]
fn round_robin_gives_floor_or_ceiling_to_threads_that_choose_at_once() {
    let chooser = Chooser::new(weighted(&[1, 5, 2, 9, 1, 1, 3]));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mut chooser = chooser.clone();
            std::thread::spawn(move || counts(&mut chooser, 2_501))
        })
        .collect();
    let mut sum = BTreeMap::new();
    for thread in threads {
        for (id, count) in thread.join().unwrap() {
            *sum.entry(id).or_insert(0) += count;
        }
    }
    assert_eq!(sum.len(), 7);
    assert!(sum.values().all(|count| (1_429..=1_430).contains(count)), "{sum:?}");
}

#[test]
fn smooth_weights_are_exact_to_threads_that_choose_at_once() {
    let weights = [5, 1, 1, 3];
    let chooser = Chooser::new(weighted(&weights)).pick(WeightedRoundRobin::new());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mut chooser = chooser.clone();
            std::thread::spawn(move || counts(&mut chooser, 1_000))
        })
        .collect();
    let mut sum = [0; 4];
    for thread in threads {
        for (place, count) in thread.join().unwrap().into_values().enumerate() {
            sum[place] += count;
        }
    }
    // A whole number of periods, from wherever it began.
    assert_eq!(sum, [2_000, 400, 400, 1_200]);
}

#[test]
fn an_update_that_changes_nobody_does_not_begin_anew_and_one_that_does_begins_anywhere() {
    let publisher = Publisher::new("s");
    let mut firsts = BTreeSet::new();
    for round in 0..60 {
        publisher.publish(healthy([round % 2, 5, 6, 7]));
        let mut chooser = Chooser::new(publisher.watch());
        for call in 0..8 {
            let mut all = healthy([round % 2, 5, 6, 7]);
            all.push(Arc::new(instance(format!("down-{call}")).with_health(Health::Unhealthy)));
            publisher.publish(all);
            let id = chooser.choose(&call).unwrap().id.clone();
            if call == 0 {
                firsts.insert(id);
            }
        }
        assert!(counts(&mut chooser, 400).values().all(|count| *count == 100));
    }
    assert_eq!(firsts.len(), 5, "{firsts:?}");
}

#[test]
fn a_local_rotation_is_off_by_one_for_each_handle_at_most() {
    let chooser = Chooser::new(weighted(&[1; 7])).pick(LocalRoundRobin::new());
    let mut sum = BTreeMap::new();
    for _ in 0..20 {
        for (id, count) in counts(&mut chooser.clone(), 1_003) {
            *sum.entry(id).or_insert(0) += count;
        }
    }
    assert!(sum.values().all(|count: &usize| count.abs_diff(20 * 1_003 / 7) <= 20), "{sum:?}");
}

proptest! {
    #[test]
    fn round_robin_is_exact_for_every_set_however_often_it_changes(
        rounds in prop::collection::vec((prop::collection::btree_set(0..20_usize, 1..12), 1..200_usize), 1..8),
    ) {
        let publisher = Publisher::new("s");
        let mut chooser = Chooser::new(publisher.watch());
        for (ids, calls) in rounds {
            publisher.publish(healthy(ids.iter().copied()));
            // The same set twice in a row goes on, which is as exact.
            let counts = counts(&mut chooser, calls);
            for id in &ids {
                let count = counts.get(&format!("{id:03}")).copied().unwrap_or_default();
                prop_assert!(count == calls / ids.len() || count == calls.div_ceil(ids.len()));
            }
        }
    }

    #[test]
    fn a_window_of_smooth_weights_is_never_off_by_two(
        weights in prop::collection::vec(1..30_u32, 1..8), skip in 0..500_usize, calls in 1..300_usize,
    ) {
        let mut chooser = Chooser::new(weighted(&weights)).pick(WeightedRoundRobin::new());
        counts(&mut chooser, skip);
        let counts = counts(&mut chooser, calls);
        let sum = f64::from(weights.iter().sum::<u32>());
        for (id, weight) in weights.iter().enumerate() {
            let count = counts.get(&format!("{id:03}")).copied().unwrap_or_default() as f64;
            let due = calls as f64 * f64::from(*weight) / sum;
            prop_assert!((count - due).abs() < 2.0, "{count} instead of {due}");
        }
    }
}

// By chance, and by load.

#[test]
fn random_and_two_choices_follow_the_weights_when_nobody_is_busy() {
    for counts in [
        counts(&mut Chooser::new(weighted(&[1, 2, 7])).pick(Random::new()), 20_000),
        counts(&mut Chooser::new(weighted(&[1, 2, 7])).pick(LeastLoaded::new()), 20_000),
    ] {
        for (count, weight) in counts.values().zip([1, 2, 7]) {
            assert!(count.abs_diff(weight * 2_000) < 400, "{counts:?}");
        }
    }
}

#[test]
fn two_choices_keep_the_longest_queue_short() {
    // 1,000 calls that never end at 100 instances: chance would pile up twenty on one.
    let mut most = [0; 2];
    for (most, random) in most.iter_mut().zip([true, false]) {
        let chooser = Chooser::new(weighted(&[1; 100]));
        let mut handles: Vec<_> =
            (0..1_000).map(|_| chooser.clone().pick(LeastLoaded::new())).collect();
        // Setters separate, clones do not.
        let shared = handles.remove(0);
        handles.fill(shared.clone());
        let mut counts = BTreeMap::<_, usize>::new();
        let mut held = Vec::new();
        let mut by_chance = chooser.clone().pick(Random::new());
        for handle in &mut handles {
            let id = if random {
                by_chance.choose(&0).unwrap().id.clone()
            } else {
                held.push(handle.choose(&0).unwrap());
                held.last().unwrap().id.clone()
            };
            *counts.entry(id).or_default() += 1;
        }
        *most = counts.into_values().max().unwrap();
    }
    assert!(most[0] >= 15 && most[1] <= 13, "{most:?}");
}

#[test]
fn calls_under_way_settle_in_proportion_to_the_weights() {
    let chooser = Chooser::new(weighted(&[1, 4])).pick(LeastLoaded::new());
    let mut handles = vec![chooser.clone(); 500];
    let held: Vec<_> = handles.iter_mut().map(|handle| handle.choose(&0).unwrap()).collect();
    let light = chooser.endpoints()[0].pending;
    assert!((85..=125).contains(&light), "{light} of 500");
    drop(held);
    assert!(chooser.endpoints().iter().all(|endpoint| endpoint.pending == 0));
}

/// Chooses `calls` times, where `play` says how long each instance takes and whether it fails.
async fn serve(
    chooser: &mut Chooser<LeastLoaded>,
    calls: usize,
    play: impl Fn(&str) -> (u64, bool),
) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        let chosen = chooser.choose(&0).unwrap();
        *counts.entry(chosen.id.to_string()).or_default() += 1;
        let (millis, failed) = play(&chosen.id);
        advance(Duration::from_millis(millis)).await;
        if failed { chosen.failed() } else { chosen.succeeded() }
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn peak_ewma_prefers_the_fast_and_notices_when_a_slow_one_recovers() {
    let ewma = LeastLoaded::peak_ewma(Duration::from_secs(10));
    let mut chooser = Chooser::new(weighted(&[1; 3])).pick(ewma);
    let slow = |id: &str| (if id == "000" { 100 } else { 2 }, false);
    let counts = serve(&mut chooser, 1_000, slow).await;
    assert!(counts["000"] < 20, "{counts:?}");
    advance(Duration::from_secs(60)).await;
    let counts = serve(&mut chooser, 1_000, |_| (2, false)).await;
    assert!(counts["000"] > 200, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_until_callers_give_up_is_slow() {
    let ewma = LeastLoaded::peak_ewma(Duration::from_secs(10));
    let mut chooser = Chooser::new(weighted(&[1; 3])).pick(ewma);
    serve(&mut chooser, 100, |_| (2, false)).await;
    let mut given_up = 0;
    for _ in 0..1_000 {
        let chosen = chooser.choose(&0).unwrap();
        let hangs = &*chosen.id == "000";
        given_up += usize::from(hangs);
        advance(Duration::from_millis(if hangs { 500 } else { 2 })).await;
        if hangs { drop(chosen) } else { chosen.succeeded() }
    }
    assert!((1..20).contains(&given_up), "{given_up} of 1000");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_fast_is_not_preferred() {
    for picker in [LeastLoaded::new(), LeastLoaded::peak_ewma(Duration::from_secs(10))] {
        let mut chooser = Chooser::new(weighted(&[1; 3])).pick(picker);
        // Failing from the very first call, and at once.
        let fails = |id: &str| if id == "000" { (0, true) } else { (5, false) };
        let counts = serve(&mut chooser, 1_000, fails).await;
        assert!(counts["000"] < 30, "{picker:?}: {counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_failed_is_tried_again_every_five_seconds_though_nobody_has_anything_to_do() {
    for picker in [LeastLoaded::new(), LeastLoaded::peak_ewma(Duration::from_secs(10))] {
        let mut chooser = Chooser::new(weighted(&[1; 3])).pick(picker);
        // Ten calls a second, one after the other, for a minute.
        let fails = |id: &str| if id == "000" { (100, true) } else { (100, false) };
        let counts = serve(&mut chooser, 600, fails).await;
        assert!((8..=14).contains(&counts["000"]), "{picker:?}: {counts:?}");
        // Well again, it has its share within seconds.
        let counts = serve(&mut chooser, 600, |_| (100, false)).await;
        assert!(counts["000"] > 100, "{picker:?}: {counts:?}");
    }
}

// By key.

fn by_key(publisher: &Publisher) -> Chooser<impl Pick<usize> + Clone + use<>> {
    let key = |key: &usize| hash_key(key.to_le_bytes());
    Chooser::new(publisher.watch()).pick(Consistent::new(key))
}

fn owners<P: Pick<usize>>(chooser: &mut Chooser<P>) -> Vec<String> {
    (0..20_000).map(|key| chooser.choose(&key).unwrap().id.to_string()).collect()
}

#[test]
fn each_of_ten_owns_its_part_of_the_keys_and_one_that_leaves_moves_hardly_any_other() {
    let publisher = Publisher::new("s");
    publisher.publish(healthy(0..10));
    let mut chooser = by_key(&publisher);
    let before = owners(&mut chooser);
    let mut counts = BTreeMap::<_, usize>::new();
    for owner in &before {
        *counts.entry(owner.clone()).or_default() += 1;
    }
    assert!(counts.values().all(|count| (1_800..2_200).contains(count)), "{counts:?}");

    publisher.publish(healthy((0..10).filter(|id| *id != 4)));
    let after = owners(&mut chooser);
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    let its_own = counts["004"];
    assert!(moved - its_own < 20_000 * 3 / 100, "{moved} moved, {its_own} had to");
    assert_eq!(owners(&mut by_key(&publisher)), after, "another process sends them to the same");
}

#[test]
fn nobody_has_more_than_the_bound_under_way_even_if_all_ask_for_one_key() {
    let publisher = Publisher::new("s");
    publisher.publish(healthy(0..10));
    let chooser = by_key(&publisher);
    let mut handles = vec![chooser.clone(); 400];
    let mut held = Vec::new();
    for (calls, handle) in handles.iter_mut().enumerate() {
        held.push(handle.choose(&7).unwrap());
        let most = chooser.endpoints().iter().map(|endpoint| endpoint.pending).max().unwrap();
        let bound = (1.25 * (calls + 1) as f64 / 10.0).ceil() as usize;
        assert!(most <= bound, "{most} of {}", calls + 1);
    }
    drop(held);
    let mut handle = chooser.clone();
    let first = handle.choose(&7).unwrap().id.clone();
    assert_eq!(handle.choose(&7).unwrap().id, first, "and the key comes back home");
}

#[test]
fn a_request_without_a_key_goes_anywhere() {
    let mut chooser = Chooser::new(weighted(&[1; 4])).pick(Consistent::new(|_: &usize| None));
    assert_eq!(counts(&mut chooser, 200).len(), 4);
}

#[test]
fn weights_count_for_keys_as_well() {
    let key = |key: &usize| hash_key(key.to_le_bytes());
    let counts = counts(&mut Chooser::new(weighted(&[1, 3])).pick(Consistent::new(key)), 20_000);
    assert!((4_600..5_400).contains(&counts["000"]), "{counts:?}");
}

#[test]
fn pickers_can_be_chosen_at_run_time() {
    let pickers: [Arc<dyn Pick<usize> + Send + Sync>; 4] = [
        Arc::new(RoundRobin::new()),
        Arc::new(Random::new()),
        Arc::new(LeastLoaded::new()),
        Arc::new(Consistent::new(|key: &usize| *key as u64)),
    ];
    for picker in pickers {
        let chooser = Chooser::new(weighted(&[1; 3])).pick(picker);
        assert_eq!(counts(&mut chooser.clone(), 300).len(), 3);
    }
}
