use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

fn drain(wheel: &mut Wheel, now: u64) -> Vec<u32> {
    let blocks = std::iter::from_fn(|| wheel.take_due(now));
    blocks.flat_map(|due| due.slots().collect::<Vec<_>>()).collect()
}

#[test]
fn nothing_comes_early_and_nothing_is_forgotten() {
    let mut wheel = Wheel::new(0);
    for (slot, tick) in [(0, 5), (1, 64), (2, 4_096), (3, 1_000_000_000_000), (4, 0)] {
        wheel.insert(slot, tick);
    }
    assert_eq!(drain(&mut wheel, 0), [4]);
    assert!(drain(&mut wheel, 4).is_empty());
    assert_eq!(drain(&mut wheel, 5), [0]);
    assert!(drain(&mut wheel, 63).is_empty());
    assert_eq!(drain(&mut wheel, 10_000), [1, 2]);
    assert!(drain(&mut wheel, 999_999_999_999).is_empty());
    assert_eq!((drain(&mut wheel, u64::from(u32::MAX) << 12), wheel.next()), (vec![3], None));
}

#[test]
fn equals_come_in_the_order_of_insertion_however_long_before_they_were_put_in() {
    let mut wheel = Wheel::new(0);
    wheel.insert(7, 5_000);
    assert!(drain(&mut wheel, 4_990).is_empty());
    wheel.insert(3, 5_000);
    wheel.insert(9, 4_999);
    assert_eq!(drain(&mut wheel, 5_000), [9, 7, 3]);
}

#[test]
fn what_is_put_in_for_the_past_comes_at_once() {
    let mut wheel = Wheel::new(1_000);
    wheel.insert(1, 3);
    assert_eq!((wheel.next(), drain(&mut wheel, 1_000)), (Some(1_000), vec![1]));
}

#[test]
fn what_is_taken_out_early_leaves_no_memory_behind() {
    let mut wheel = Wheel::new(0);
    for round in 0..10_000_u32 {
        // Always 100 that wait, which come and go.
        wheel.insert(round % 100, 30_000 + u64::from(round));
    }
    assert!(wheel.blocks.len() <= 100, "{} blocks for 100 slots", wheel.blocks.len());
    (0..100).for_each(|slot| assert!(wheel.remove(slot)));
    assert_eq!(wheel.next(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, u64),
    Remove(u32),
    Pass(u64),
    PopNext,
}

fn step() -> impl Strategy<Value = Step> {
    let span = prop_oneof![0..3_u64, 0..100_u64, 0..10_000_u64, 0..1_000_000_000_u64];
    prop_oneof![
        6 => (0..90_u32, span.clone()).prop_map(|(slot, span)| Step::Insert(slot, span)),
        1 => (0..90_u32).prop_map(Step::Remove),
        3 => span.prop_map(Step::Pass),
        1 => Just(Step::PopNext),
    ]
}

proptest! {
    #[test]
    fn it_does_what_a_sorted_map_does(
        start in prop_oneof![0..1_000_u64, 0..1_u64 << 40],
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let (mut wheel, mut now) = (Wheel::new(start), start);
        let (mut model, mut count) = (BTreeMap::<(u64, u64), u32>::new(), 0);
        for step in steps {
            match step {
                Step::Insert(slot, span) => {
                    model.retain(|_, other| *other != slot);
                    count += 1;
                    model.insert((now + span, count), slot);
                    wheel.insert(slot, now + span);
                }
                Step::Remove(slot) => {
                    let before = model.len();
                    model.retain(|_, other| *other != slot);
                    prop_assert_eq!(wheel.remove(slot), model.len() < before);
                }
                Step::Pass(span) => {
                    now += span;
                    let mut expected = Vec::new();
                    while let Some(first) = model.first_entry().filter(|first| first.key().0 <= now) {
                        expected.push(first.remove());
                    }
                    prop_assert_eq!(drain(&mut wheel, now), expected);
                }
                Step::PopNext => {
                    let expected = model.pop_first();
                    prop_assert_eq!(wheel.pop_next(|_| true), expected.map(|(_, slot)| slot));
                }
            }
            let next = model.first_key_value().map(|((tick, _), _)| *tick);
            prop_assert_eq!(wheel.next().is_some(), next.is_some());
            prop_assert!(wheel.next() <= next);
        }
    }
}
