use crate::{Candidates, Pick};

/// Each in turn.
///
/// Of N calls over the same k instances, each instance gets ⌊N/k⌋ or ⌈N/k⌉, however many clones and threads make them. It
/// begins at a random one, so that many balancers do not all send their first call to the same, and an update that leaves the set of
/// healthy instances as it is does not begin anew. The turns of instances that are passed over go to the others in rotation.
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
    fn pick(&self, _: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        let (turn, len) = (candidates.turn(), candidates.len());
        choose(turn, len, |index| candidates.may_pick(index))
    }
}

fn choose(turn: usize, len: usize, may_pick: impl Fn(usize) -> bool) -> Option<usize> {
    let (round, place) = (turn / len, turn % len);
    if may_pick(place) {
        return Some(place);
    }
    // Going to the next one would double the load of the neighbour.
    let open = (0..len).filter(|&index| may_pick(index));
    let count = open.clone().count();
    let skipped = round.wrapping_add(place).checked_rem(count)?;
    open.clone().nth(skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(turns: std::ops::Range<usize>, open: &[bool]) -> Vec<usize> {
        let mut counts = vec![0; open.len()];
        for turn in turns {
            counts[choose(turn, open.len(), |index| open[index]).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn without_anyone_to_pick_there_is_none() {
        assert_eq!(choose(7, 3, |_| false), None);
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
