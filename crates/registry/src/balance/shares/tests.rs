use super::*;
use proptest::prelude::*;

fn whole(shares: &[u32]) -> Shares {
    Shares::new(shares.iter().map(|share| f64::from(*share)).collect())
}

/// At least one of them more than 0.
fn any_shares(most: u32) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..most, 1..12).prop_map(|mut shares| {
        shares[0] += 1;
        shares
    })
}

#[test]
fn five_one_one_is_spread_out_and_not_in_a_row() {
    let shares = whole(&[5, 1, 1]);
    let order: Vec<_> = (0..7).map(|turn| shares.at(turn)).collect();
    assert_eq!(order, [0, 0, 0, 1, 0, 0, 2]);
}

#[test]
fn weights_that_do_not_fit_the_period_are_rounded_to_a_thousandth() {
    let shares = whole(&[1_000_003, 3_000_001]);
    let first = (0..1_024).filter(|&turn| shares.at(turn) == 0).count();
    assert_eq!(first, 256);
}

#[test]
fn the_smallest_share_still_gets_its_turn() {
    let shares = whole(&[1, 4_000_000_000]);
    assert!((0..2_048).any(|turn| shares.at(turn) == 0));
}

proptest! {
    #[test]
    fn after_any_number_of_turns_each_has_the_floor_or_the_ceiling(weights in any_shares(40)) {
        let (shares, sum) = (whole(&weights), u64::from(weights.iter().sum::<u32>()));
        let mut counts = vec![0_u64; weights.len()];
        for turn in 0..2 * sum {
            counts[shares.at(turn as usize)] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                let (floor, due) = ((turn + 1) * u64::from(*weight) / sum, (turn + 1) * u64::from(*weight));
                prop_assert!(*count == floor || *count == due.div_ceil(sum), "{counts:?} of {weights:?}");
            }
        }
    }

    #[test]
    fn what_is_drawn_is_within_two_percent_of_the_share(weights in any_shares(100), seed: u64) {
        let (shares, sum) = (whole(&weights), weights.iter().sum::<u32>());
        let mut counts = vec![0_u32; weights.len()];
        for draw in 0..20_000_u64 {
            counts[shares.draw(mix(seed.wrapping_add(draw)))] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            let (got, due) = (f64::from(*count) / 20_000.0, f64::from(*weight) / f64::from(sum));
            prop_assert!((got - due).abs() < 0.02, "{got} instead of {due}");
            prop_assert!(*weight > 0 || *count == 0);
        }
    }

    #[test]
    fn two_draws_are_different_where_all_are_alike(len in 2..2_000_usize, chance: u64) {
        let (first, second) = Shares::new(vec![1.0; len]).draw_two(chance);
        prop_assert!(first < len && second < len && first != second);
    }
}
