//! Turns the shares of candidates into tables, from which each picker reads its choice in one step.

use std::{cmp::Reverse, collections::BinaryHeap, sync::OnceLock};

use crate::balance::hash::mix;

/// Which part of the calls each candidate is to get. A share of 0 is for calls that can go nowhere else.
///
/// The tables are built by the first call that reads them, once for each change of the shares.
#[derive(Debug)]
pub(crate) struct Shares {
    len: usize,
    /// `None` if all are alike.
    uneven: Option<Box<[f64]>>,
    /// Of those that have a share.
    mean: f64,
    order: OnceLock<Box<[u32]>>,
    lots: OnceLock<Box<[Lot]>>,
    slots: OnceLock<Box<[u16]>>,
}

/// One column of an alias table: itself below the threshold, the other one above.
#[derive(Clone, Copy, Debug)]
struct Lot {
    threshold: u32,
    other: u32,
}

impl Shares {
    pub(crate) fn new(shares: Vec<f64>) -> Self {
        let even = shares.windows(2).all(|pair| pair[0] == pair[1]);
        let with_one = shares.iter().filter(|share| **share > 0.0).count().max(1);
        Self {
            len: shares.len(),
            mean: shares.iter().sum::<f64>() / with_one as f64,
            uneven: (!even).then(|| shares.into()),
            order: OnceLock::new(),
            lots: OnceLock::new(),
            slots: OnceLock::new(),
        }
    }

    /// Whether both share out alike.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.len == other.len && self.uneven == other.uneven
    }

    pub(crate) const fn is_even(&self) -> bool {
        self.uneven.is_none()
    }

    pub(crate) fn get(&self, index: usize) -> f64 {
        self.uneven.as_ref().map_or(1.0, |shares| shares.get(index).copied().unwrap_or_default())
    }

    /// Relative to the mean of those that have one.
    pub(crate) fn relative(&self, index: usize) -> f64 {
        if self.is_even() { 1.0 } else { self.get(index) / self.mean }
    }

    /// Whose turn it is: over any number of consecutive turns from a multiple of the period on, each
    /// gets the floor or the ceiling of its share.
    pub(crate) fn at(&self, turn: usize) -> usize {
        let Some(shares) = &self.uneven else { return turn % self.len };
        let order = self.order.get_or_init(|| order(&slots_of(shares, period(self.len))));
        order[turn % order.len()] as usize
    }

    /// One by chance, in proportion to the shares.
    pub(crate) fn draw(&self, chance: u64) -> usize {
        let Some(shares) = &self.uneven else { return below(self.len, chance) };
        let lots = self.lots.get_or_init(|| lots(shares));
        let index = below(lots.len(), chance);
        let lot = lots[index];
        if (chance as u32) < lot.threshold { index } else { lot.other as usize }
    }

    /// Two different ones by chance, where there are two.
    pub(crate) fn draw_two(&self, chance: u64) -> (usize, usize) {
        if self.uneven.is_none() {
            let first = below(self.len, chance);
            // 0 where there is but one.
            let second = first + 1 + below(self.len.max(2) - 1, chance << 32);
            return (first, if second >= self.len { second - self.len } else { second });
        }
        let first = self.draw(chance);
        let mut again = (1..=4).map(|step| self.draw(mix(chance.wrapping_add(step))));
        (first, again.find(|&second| second != first).unwrap_or(first))
    }

    /// The candidate that owns a slot of a table that `build` makes.
    pub(crate) fn slot(&self, hash: u64, build: impl FnOnce() -> Box<[u16]>) -> usize {
        let slots = self.slots.get_or_init(build);
        usize::from(slots[below(slots.len(), hash)])
    }
}

/// A number below `len` from the upper half of `chance`.
#[inline]
pub(crate) const fn below(len: usize, chance: u64) -> usize {
    (((chance >> 32) * len as u64) >> 32) as usize
}

/// The longest period of a rotation. Shares are rounded to its fractions, so to 0.1 % of all or 6 % of the mean.
fn period(len: usize) -> u32 {
    u32::try_from(len.saturating_mul(16)).unwrap_or(u32::MAX).clamp(1_024, 1 << 20)
}

/// How many turns of one period each gets. Whole numbers that fit are kept as they are.
fn slots_of(shares: &[f64], longest: u32) -> Vec<u32> {
    let sum: f64 = shares.iter().sum();
    if shares.iter().all(|share| share.fract() == 0.0) {
        let divisor = shares.iter().fold(0, |a, share| gcd(a, *share as u64)).max(1);
        if sum / divisor as f64 <= f64::from(longest) {
            return shares.iter().map(|share| (*share as u64 / divisor) as u32).collect();
        }
    }
    let slots = |share: &f64| match *share {
        share if share > 0.0 => ((share / sum * f64::from(longest)).round() as u32).max(1),
        _ => 0,
    };
    shares.iter().map(slots).collect()
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The order of turns in which no prefix gives anyone less than the floor or more than the ceiling of its share.
///
/// The j-th turn of one who has q of W turns may not come before ⌊(j-1)W/q⌋ and must come before ⌈jW/q⌉; the earliest of these
/// deadlines first meets them all (Steiner and Yeomans, "Level schedules for mixed-model, just-in-time processes", 1993).
fn order(slots: &[u32]) -> Box<[u32]> {
    const NOBODY: u32 = u32::MAX;
    let period: u64 = slots.iter().map(|slots| u64::from(*slots)).sum();
    let release = |who: usize, turn: u64| turn * period / u64::from(slots[who]);
    let deadline = |who: usize, turn: u64| ((turn + 1) * period).div_ceil(u64::from(slots[who]));
    // Those whose next turn may come from a slot on, as a list in each slot.
    let (mut first, mut next) = (vec![NOBODY; period as usize], vec![NOBODY; slots.len()]);
    let mut given = vec![0_u64; slots.len()];
    let mut due = BinaryHeap::new();
    for who in (0..slots.len()).filter(|&who| slots[who] > 0) {
        due.push(Reverse((deadline(who, 0), who)));
    }
    let mut order = Vec::with_capacity(period as usize);
    for slot in 0..period as usize {
        let mut freed = std::mem::replace(&mut first[slot], NOBODY);
        while freed != NOBODY {
            let who = freed as usize;
            due.push(Reverse((deadline(who, given[who]), who)));
            freed = next[who];
        }
        // Never empty, for the releases leave no gap; should they, the period is shorter.
        let Some(Reverse((_, who))) = due.pop() else { continue };
        order.push(who as u32);
        given[who] += 1;
        let from = release(who, given[who]).max(slot as u64 + 1) as usize;
        if given[who] < u64::from(slots[who]) && from < first.len() {
            next[who] = std::mem::replace(&mut first[from], who as u32);
        }
    }
    order.into()
}

/// Vose's alias method: each column holds at most two, so that one throw decides.
fn lots(shares: &[f64]) -> Box<[Lot]> {
    let scale = shares.len() as f64 / shares.iter().sum::<f64>();
    let mut rest: Vec<f64> = shares.iter().map(|share| share * scale).collect();
    let mut lots: Vec<Lot> =
        (0..shares.len() as u32).map(|other| Lot { threshold: u32::MAX, other }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..rest.len()).partition(|&index| rest[index] < 1.0);
    while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
        lots[less] =
            Lot { threshold: (rest[less] * f64::from(u32::MAX)) as u32, other: more as u32 };
        rest[more] -= 1.0 - rest[less];
        if rest[more] < 1.0 {
            large.pop();
            small.push(more);
        }
    }
    lots.into()
}

#[cfg(test)]
mod tests;
