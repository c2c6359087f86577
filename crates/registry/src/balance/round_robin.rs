use crate::{
    Candidates, Needs, Pick,
    balance::{hash::mix, shares::Shares},
};

/// Each in turn, whatever its weight.
///
/// Of N calls over the same k instances, each instance gets ⌊N/k⌋ or ⌈N/k⌉, however many clones and threads make them. It
/// begins at a random one, so that many balancers do not all send their first call to the same, and an update that leaves the
/// candidates as they are does not begin anew. The turns of instances that are passed over go to the others in
/// rotation. Newcomers in [slow start](crate::Fleet::slow_start) and other zones get their part as in [`WeightedRoundRobin`].
///
/// The price of being exact is one counter that all callers write.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin;

impl RoundRobin {
    /// Keeps no state of its own: the turns belong to the balancer.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl<Req> Pick<Req> for RoundRobin {
    #[inline]
    fn pick(&self, _: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        choose(candidates.turn(), candidates.shares(false), candidates)
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }
}

/// Each in turn by its weight, spread out as evenly as can be: 5, 1, 1 is `a a a b a a c` and not `a a a a a b c`.
///
/// Of N calls from the beginning of a period on, each instance gets the floor or the ceiling of its share of N, however many clones and threads make
/// them. Weights are kept exactly while their sum, divided by what they have in common, is at most 1,024 or 16 for each instance, and else
/// rounded to that. The order is that of the earliest deadline first (Steiner and Yeomans, 1993), read from a table: the cost
/// does not grow with the number of instances.
#[derive(Clone, Copy, Debug, Default)]
pub struct WeightedRoundRobin;

impl WeightedRoundRobin {
    /// Keeps no state of its own: the turns belong to the balancer.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl<Req> Pick<Req> for WeightedRoundRobin {
    #[inline]
    fn pick(&self, _: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        choose(candidates.turn(), candidates.shares(true), candidates)
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }
}

/// Each in turn, as this one handle counts them: approximate, and nothing is shared.
///
/// Each clone of a balancer begins at random and goes round for itself, so that all together are exact only if each handle
/// makes many calls. **A clone for each call makes it [`Random`](crate::Random).** With h handles an instance gets at most h calls more
/// or less than its part.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalRoundRobin;

impl LocalRoundRobin {
    /// Keeps no state of its own: the turns belong to the handle.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl<Req> Pick<Req> for LocalRoundRobin {
    #[inline]
    fn pick(&self, _: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        choose(candidates.own_turn(), candidates.shares(false), candidates)
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }
}

#[inline]
fn choose(turn: usize, shares: &Shares, candidates: &Candidates<'_>) -> Option<usize> {
    let place = shares.at(turn);
    if candidates.may_pick(place) { Some(place) } else { pass_over(turn, shares, candidates) }
}

/// Going to the next one would double the load of the neighbour.
#[cold]
fn pass_over(turn: usize, shares: &Shares, candidates: &Candidates<'_>) -> Option<usize> {
    if shares.is_even() {
        return candidates.nth_open(in_rotation(turn, candidates.len()));
    }
    let mut draws = (1..=8).map(|step| shares.draw(mix(turn as u64 ^ step << 56)));
    draws
        .find(|&index| candidates.may_pick(index))
        .or_else(|| candidates.nth_open(mix(turn as u64) as usize))
}

/// Another one for the same place in each round.
const fn in_rotation(turn: usize, len: usize) -> usize {
    (turn / len).wrapping_add(turn % len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(turns: std::ops::Range<usize>, open: &[bool]) -> Vec<usize> {
        let (mut counts, shares) = (vec![0; open.len()], Shares::new(vec![1.0; open.len()]));
        let up: Vec<_> = (0..open.len()).filter(|&index| open[index]).collect();
        for turn in turns {
            let place = shares.at(turn);
            let place =
                if open[place] { place } else { up[in_rotation(turn, open.len()) % up.len()] };
            counts[place] += 1;
        }
        counts
    }

    proptest! {
        #[test]
        fn each_gets_the_floor_or_the_ceiling(start in 0..usize::MAX / 2, calls in 0..500_usize, k in 1..50_usize) {
            for count in counts(start..start + calls, &vec![true; k]) {
                prop_assert!(count == calls / k || count == calls.div_ceil(k));
            }
        }

        #[test]
        fn the_turns_of_those_passed_over_are_spread_evenly(
            start in 0..1_000_000_usize,
            rounds in 1..20_usize,
            mut open in prop::collection::vec(any::<bool>(), 1..12),
        ) {
            open[0] = true;
            let up = open.iter().filter(|up| **up).count();
            // A whole number of rounds over all who are up shares out exactly.
            let calls = rounds * open.len() * up;
            for (count, up_here) in counts(start..start + calls, &open).iter().zip(&open) {
                let due = if *up_here { calls / up } else { 0 };
                prop_assert!(count.abs_diff(due) <= open.len(), "{count} instead of {due}");
            }
        }
    }
}
