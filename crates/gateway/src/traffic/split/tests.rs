use super::{shared::by_chance, *};
use proptest::prelude::*;

fn split(weights: &[u32]) -> Split {
    let names = ["a", "b", "c", "d"];
    let variants = weights.iter().zip(names).map(|(w, name)| Variant::new(name, name, *w));
    Split::new(variants)
}

fn parts(split: &Split) -> Vec<u64> {
    split.weights().into_iter().map(|(_, weight)| weight).collect()
}

fn keyed(split: &Split, key: u64) -> usize {
    split.choose(Some(SplitKey(key)), |_| true)
}

#[test]
fn a_switch_and_its_revert_hold_at_once() {
    let split = split(&[1, 0]);
    let other = split.clone();
    split.switch_to("b").unwrap();
    assert!((0..100).all(|_| other.choose(None, |_| true) == 1));
    split.revert();
    assert!((0..100).all(|_| other.choose(None, |_| true) == 0));
    split.revert();
    assert_eq!(parts(&split), [0, 1], "twice is as nothing");
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let split = split(&[1, 0]);
    let unknown = split.switch_to("x").unwrap_err().to_string();
    assert_eq!(unknown, "there is no variant \"x\"; there are \"a\", \"b\"");
    assert_eq!(split.set_weights(&[("a", 0)]), Err(SplitError::NoWeight));
    assert_eq!(split.roll_out("a", Rollout::new()), Err(SplitError::NoWeight));
    assert!(split.roll_out("b", Rollout::new().steps([])).is_err());
    assert_eq!((parts(&split), split.rollout()), (vec![1, 0], None));
    let twice = Split::new([Variant::new("a", "x", 1), Variant::new("a", "y", 1)]);
    assert!(twice.mistake().is_some() && split.mistake().is_none());
    assert!(split.sticky(Sticky::cookie("a b")).mistake().is_some());
}

#[test]
fn a_variant_that_cannot_be_had_is_passed_over_while_another_can() {
    let split = split(&[1, 1, 0]);
    for key in 0..100 {
        let key = Some(SplitKey(key));
        assert_eq!(split.choose(key, |at| at != 0), 1);
        assert!(split.choose(key, |_| false) < 2, "those without a weight get none in any case");
    }
}

/// Calls of one second: 10 % of them fail in the variant `b` if it is bad.
async fn second(split: &Split, bad: bool) {
    for call in 0..200u64 {
        let variant = split.choose(None, |_| true);
        let failed = bad && variant == 1 && call % 3 == 0;
        let outcome = if failed { Outcome::Failed } else { Outcome::Served };
        split.record(variant, outcome, Duration::from_millis(10));
        tokio::time::advance(Duration::from_millis(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollout_goes_from_one_percent_to_all_by_the_calls_alone() {
    let split = split(&[3, 0]);
    let plan = Rollout::new().steps([1, 10, 50, 100]).hold(Duration::from_secs(10)).calls(20);
    split.roll_out("b", plan).unwrap();
    assert_eq!(parts(&split), [99, 1]);
    let mut percents = vec![1];
    for _ in 0..120 {
        second(&split, false).await;
        let status = split.rollout().unwrap();
        if percents.last() != Some(&status.percent) {
            percents.push(status.percent);
        }
        if status.state == RolloutState::Done {
            break;
        }
    }
    assert_eq!(percents, [1, 10, 50, 100]);
    assert_eq!(parts(&split), [0, 1]);
    split.revert();
    assert_eq!(parts(&split), [3, 0], "back to where it began");
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_fails_gives_everything_back_by_itself() {
    let split = split(&[2, 0, 1]);
    let plan = Rollout::new().steps([10, 50, 100]).hold(Duration::from_secs(60));
    split.roll_out("b", plan).unwrap();
    assert_eq!(parts(&split), [6, 1, 3], "the others keep their shares among them");
    for _ in 0..30 {
        second(&split, true).await;
    }
    let status = split.rollout().unwrap();
    assert!(matches!(status.state, RolloutState::Aborted(_)), "{status:?}");
    assert_eq!((status.percent, parts(&split)), (0, vec![2, 0, 1]));
    let stats = split.stats();
    assert!(stats[1].calls < 200, "it ended after few calls: {stats:?}");

    split.roll_out("b", Rollout::new().steps([10, 100])).unwrap();
    assert_eq!(split.rollout().unwrap().state, RolloutState::Running, "another try is a new one");
}

#[test]
fn weights_set_by_hand_end_a_rollout() {
    let split = split(&[1, 0]);
    split.roll_out("b", Rollout::new()).unwrap();
    split.set_weights(&[("a", 1), ("b", 1)]).unwrap();
    assert_eq!((split.rollout(), parts(&split)), (None, vec![1, 1]));
}

#[test]
fn keys_go_to_the_same_variant_in_every_process() {
    let split = split(&[1, 1, 1]);
    let chosen: Vec<_> = (0..8).map(|key| keyed(&split, key)).collect();
    assert_eq!(chosen, (0..8).map(|key| keyed(&split.clone(), key)).collect::<Vec<_>>());
    assert_eq!(split.shared.variants[0].hash, hash_key("a"), "by its name alone");
}

proptest! {
    #[test]
    fn chance_gives_each_its_share(parts in proptest::collection::vec(0u64..1_000_000, 1..6)) {
        prop_assume!(parts.iter().any(|part| *part > 0));
        let sum: u64 = parts.iter().sum();
        // Each number stands for the middle of one of as many equal parts of the range.
        let mut counts = vec![0u64; parts.len()];
        let points = 1_000u64;
        for point in 0..points {
            counts[by_chance(&parts, (u64::MAX / points) * point + u64::MAX / points / 2)] += 1;
        }
        for (count, part) in counts.iter().zip(&parts) {
            let expected = *part as f64 / sum as f64 * points as f64;
            prop_assert!((*count as f64 - expected).abs() <= 1.5, "{counts:?} of {parts:?}");
        }
    }

    #[test]
    fn a_change_moves_only_the_keys_that_it_must(
        weights in proptest::collection::vec(1u32..100, 2..5), grown in 0usize..2, more in 1u32..100,
    ) {
        let split = split(&weights);
        let before: Vec<_> = (0..500).map(|key| keyed(&split, key)).collect();
        let names = ["a", "b", "c", "d"];
        let mut changed: Vec<_> = names.iter().copied().zip(weights.iter().copied()).collect();
        changed[grown].1 += more;
        split.set_weights(&changed).unwrap();
        for (key, before) in before.into_iter().enumerate() {
            let now = keyed(&split, key as u64);
            prop_assert!(now == before || now == grown);
        }
        changed[grown].1 = 0;
        split.set_weights(&changed).unwrap();
        prop_assert!((0..500).all(|key| keyed(&split, key) != grown));
    }

    #[test]
    fn keys_are_shared_by_weight(one in 1u32..50, other in 1u32..50) {
        let split = split(&[one, other]);
        let keys = 4_000;
        let of_one = (0..keys).filter(|&key| keyed(&split, hash_key(u64::to_le_bytes(key))) == 0).count();
        let expected = f64::from(one) / f64::from(one + other);
        let deviation = (expected * (1.0 - expected) / keys as f64).sqrt();
        prop_assert!((of_one as f64 / keys as f64 - expected).abs() < 6.0 * deviation + 0.001);
    }
}
