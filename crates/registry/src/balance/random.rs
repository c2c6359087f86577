use crate::{
    Candidates, Needs, Pick,
    balance::hash::{chance, mix},
};

/// One by chance, in proportion to the weights. It shares nothing between callers, and spreads as evenly as
/// chance does: of N calls over k instances each gets N/k, give or take a few times the root of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Random {
    /// Keeps no state of its own.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl<Req> Pick<Req> for Random {
    #[inline]
    fn pick(&self, _: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        draw(candidates, chance())
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING
    }
}

pub(crate) fn draw(candidates: &Candidates<'_>, chance: u64) -> Option<usize> {
    let shares = candidates.shares(true);
    let index = shares.draw(chance);
    if candidates.may_pick(index) {
        return Some(index);
    }
    let mut again = (1..=8).map(|step| shares.draw(mix(chance.wrapping_add(step))));
    again
        .find(|&index| candidates.may_pick(index))
        .or_else(|| candidates.nth_open((chance >> 32) as usize))
}
