use std::time::Duration;

use crate::{
    Candidates, Needs, Pick,
    balance::hash::{chance, mix},
};

/// The less loaded of two at random, which comes close to the least loaded of all without looking at all
/// (Mitzenmacher, "The power of two choices in randomized load balancing", 2001).
///
/// | made by | the load of an instance |
/// |---|---|
/// | [`LeastLoaded::new`] | calls of this balancer under way, in relation to its weight |
/// | [`LeastLoaded::peak_ewma`] | the same, times how long its calls take (Finagle's peak EWMA) |
///
/// It is divided by the cube of its share of recent successes: an instance that fails at once has nothing under way and
/// is fast, and would draw all traffic if only that counted. Failures are forgotten with time, half of them every 5 s. And
/// whoever failed and had no call for 5 s gets the next one that it is drawn for: where the others have nothing under way it would get none for half a
/// minute, and an open circuit not its probe. So one that always fails costs a call every 5 s. The time of a call that failed, or that its caller gave
/// up, counts only where it is long.
///
/// The two are drawn in proportion to the weights of the instances.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastLoaded {
    memory: Option<Duration>,
}

impl LeastLoaded {
    /// By calls under way. Needs no clock; right where calls are alike or slow instances show by their queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { memory: None }
    }

    /// By calls under way and the time they take. A slow call counts at once and is forgotten by two thirds
    /// within `memory`; 10 s are usual. Right where instances differ in speed. Reads the clock twice in each call.
    #[must_use]
    pub const fn peak_ewma(memory: Duration) -> Self {
        Self { memory: Some(memory) }
    }
}

impl<Req> Pick<Req> for LeastLoaded {
    #[inline]
    fn pick(&self, _: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        let chance = chance();
        let (first, second) = candidates.shares(true).draw_two(chance);
        match (candidates.may_pick(first), candidates.may_pick(second)) {
            (true, true) => Some(self.cheaper(candidates, first, second)),
            _ => self.pass_over(candidates, chance),
        }
    }

    fn needs(&self) -> Needs {
        Needs { latency: self.memory, ..Needs::default() }
    }
}

impl LeastLoaded {
    /// The first one where both are alike: it was drawn in proportion to its weight.
    #[inline]
    fn cheaper(self, candidates: &Candidates<'_>, first: usize, second: usize) -> usize {
        if first == second {
            return first;
        }
        let plain = self.memory.is_none() && candidates.shares(true).is_even();
        if plain && !candidates.has_failures(first) && !candidates.has_failures(second) {
            // The rule of nearly every call, without its arithmetic.
            let fewer = candidates.pending(second) < candidates.pending(first);
            return if fewer { second } else { first };
        }
        self.cheaper_by_cost(candidates, first, second)
    }

    fn cheaper_by_cost(self, candidates: &Candidates<'_>, first: usize, second: usize) -> usize {
        // With little to do the others always cost less, and nobody would find out that it is well again.
        if let Some(owed) = [first, second].into_iter().find(|&one| candidates.is_owed_a_trial(one))
        {
            return owed;
        }
        let cost = |index| match self.memory {
            None => {
                let pending = candidates.pending(index) as f64;
                let per_weight = if candidates.shares(true).is_even() {
                    pending
                } else {
                    pending / candidates.share(index, true).max(f64::MIN_POSITIVE)
                };
                penalised(per_weight + 1.0, candidates.failure_ratio(index))
            }
            Some(_) => {
                let (pending, failures) =
                    (candidates.pending(index), candidates.failure_ratio(index));
                penalised(time(candidates.latency_nanos(index), pending, failures), failures)
            }
        };
        if cost(second) < cost(first) { second } else { first }
    }

    /// Two among those that may be picked, each pair alike, and one if there is but one.
    #[cold]
    fn pass_over(self, candidates: &Candidates<'_>, chance: u64) -> Option<usize> {
        let shares = candidates.shares(true);
        let mut draws = (1..=16)
            .map(|step| shares.draw(mix(chance ^ step << 56)))
            .filter(|&index| candidates.may_pick(index));
        if let Some(first) = draws.next() {
            if let Some(second) = draws.find(|&second| second != first) {
                return Some(self.cheaper(candidates, first, second));
            }
        }
        let first = candidates.nth_open((chance >> 32) as usize)?;
        let second = candidates.nth_open((mix(chance) >> 32) as usize)?;
        Some(self.cheaper(candidates, first, second))
    }
}

/// What the time of a call costs, in nanoseconds.
fn time(latency: Option<f32>, pending: usize, failures: f64) -> f64 {
    /// Of an instance of which nothing is known but that it has calls, or failures: it gets one call to begin with, not a hundred.
    const UNKNOWN: f64 = 1e9;
    match latency {
        Some(nanos) => f64::from(nanos) * (pending as f64 + 1.0),
        None if pending == 0 && failures == 0.0 => 0.0,
        None => UNKNOWN * (pending as f64 + 1.0),
    }
}

#[inline]
fn penalised(load: f64, failure_ratio: f64) -> f64 {
    if failure_ratio == 0.0 {
        return load;
    }
    // One that always failed costs as much as a million calls under way: it is chosen only over its like.
    let success = (1.0 - failure_ratio).max(0.01);
    load / (success * success * success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_at_once_costs_more_than_a_thousand_calls_under_way() {
        assert!(penalised(1.0, 1.0) > penalised(1_001.0, 0.0));
        assert!(penalised(1.0, 0.25) > penalised(1.0, 0.0));
    }

    #[test]
    fn one_of_which_nothing_is_known_gets_one_call_to_begin_with() {
        let known = time(Some(1e6), 0, 0.0);
        assert!(time(None, 0, 0.0) < known && time(None, 1, 0.0) > known);
        assert!(time(None, 0, 0.3) > known, "it has never answered but with failures");
    }
}
