use rand::{Rng, RngExt};

use crate::{Candidates, Pick};

/// The less loaded of two at random, which comes close to the least loaded of all without looking at all
/// (Mitzenmacher, "The power of two choices in randomized load balancing", 2001).
///
/// The load of an instance is the number of calls that this balancer has under way there, plus one, divided by the cube of
/// its share of recent successes: an instance that fails at once has nothing under way, and would draw all traffic if only
/// that counted. Failures are forgotten with time, half of them every 5 s, so it needs no traffic to be tried again.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastLoaded;

impl LeastLoaded {
    /// Keeps no state of its own.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl<Req> Pick<Req> for LeastLoaded {
    fn pick(&self, _: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        let may_pick = |index| candidates.may_pick(index);
        let cost = |index| cost(candidates.pending(index), candidates.failure_ratio(index));
        choose(candidates.len(), may_pick, cost, &mut rand::rng())
    }
}

fn cost(pending: usize, failure_ratio: f64) -> f64 {
    // One that always failed costs as much as a million calls under way: it is chosen only over its like.
    let success = (1.0 - failure_ratio).max(0.01);
    (pending as f64 + 1.0) / (success * success * success)
}

fn choose(
    len: usize,
    may_pick: impl Fn(usize) -> bool,
    cost: impl Fn(usize) -> f64,
    rng: &mut impl Rng,
) -> Option<usize> {
    let first = rng.random_range(0..len);
    if len == 1 {
        return may_pick(first).then_some(first);
    }
    let second = (first + rng.random_range(1..len)) % len;
    let cheaper = |a, b| if cost(b) < cost(a) { b } else { a };
    match (may_pick(first), may_pick(second)) {
        (true, true) => Some(cheaper(first, second)),
        (true, false) | (false, true) | (false, false) => {
            // Two among those that may be picked, each pair alike, and one if there is but one.
            let open = (0..len).filter(|&index| may_pick(index));
            match open.clone().count() {
                0 => None,
                1 => open.clone().next(),
                count => {
                    let first = rng.random_range(0..count);
                    let second = (first + rng.random_range(1..count)) % count;
                    Some(cheaper(open.clone().nth(first)?, open.clone().nth(second)?))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    fn shares(costs: &[f64], open: &[bool]) -> Vec<f64> {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut shares = vec![0.0; costs.len()];
        for _ in 0..10_000 {
            let index = choose(costs.len(), |i| open[i], |i| costs[i], &mut rng).unwrap();
            shares[index] += 1.0 / 10_000.0;
        }
        shares
    }

    #[test]
    fn the_most_loaded_of_three_is_never_picked_and_equals_share() {
        let shares_ = shares(&[1.0, 1.0, 2.0], &[true; 3]);
        assert_eq!(shares_[2], 0.0);
        assert!((0.45..0.55).contains(&shares_[0]), "{shares_:?}");
        assert!(shares(&[1.0; 4], &[true; 4]).iter().all(|share| (0.22..0.28).contains(share)));
    }

    #[test]
    fn those_that_may_not_be_picked_do_not_skew_the_others() {
        let shares = shares(&[1.0; 5], &[true, false, false, true, true]);
        for place in [0, 3, 4] {
            assert!((0.3..0.37).contains(&shares[place]), "{shares:?}");
        }
    }

    #[test]
    fn failing_at_once_costs_more_than_a_thousand_calls_under_way() {
        assert!(cost(0, 1.0) > cost(1_000, 0.0));
        assert!(cost(0, 0.25) > cost(0, 0.0));
    }

    proptest! {
        #[test]
        fn only_what_may_be_picked_is_picked(open in prop::collection::vec(any::<bool>(), 1..20), seed: u64) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let picked = choose(open.len(), |i| open[i], |i| i as f64, &mut rng);
            prop_assert_eq!(picked.is_some(), open.contains(&true));
            prop_assert!(picked.is_none_or(|index| open[index]));
        }
    }
}
