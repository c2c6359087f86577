use std::{fmt, marker::PhantomData};

use crate::{
    Candidates, Needs, Pick,
    balance::{
        hash::{chance, hash_key, mix},
        random,
    },
};

/// The same instance for the same key, unless it has too much to do: for caches, sessions, sharded state.
///
/// `key` reads the key from a request, as a number: [`hash_key`](crate::hash_key) makes one of text or bytes. It may answer `None`, then the call
/// goes to one by chance. All processes that see the same instances send a key to the same one.
///
/// - The table is Maglev's (Eisenbud et al., NSDI 2016) with 65,537 slots, so the cost of a choice does not grow with the number
///   of instances, and each owns its part of the keys to about 1 % as long as there are at most a few hundred. A ring needs hundreds of points for each
///   instance to come close to that, and a search in each call; rendezvous hashing looks at all instances in each call.
/// - When one of k instances leaves, its keys move, and 1 to 2 % of the others. Building the table takes about a
///   millisecond, in the first call after a change.
/// - The load is bounded (Mirrokni, Thorup and Zadimoghaddam, 2016): nobody has more than 1.25 times its part of the calls
///   under way, rounded up; the calls that are too many go on to others, for one key always in the same order.
/// - Weights count. Up to 65,535 instances are in the table.
///
/// ```
/// use gusset_registry::{Consistent, hash_key};
///
/// struct GetCart { customer: String }
/// let by_customer = Consistent::new(|request: &GetCart| hash_key(&request.customer));
/// ```
pub struct Consistent<F, K = u64> {
    key: F,
    bound: f64,
    kind: PhantomData<fn() -> K>,
}

/// A prime, so that every step through the table meets every slot.
const SLOTS: usize = 65_537;

impl<F, K> Consistent<F, K> {
    /// By the key that `key` reads from a request: a `u64` or `Option<u64>`.
    pub const fn new<Req>(key: F) -> Self
    where
        F: Fn(&Req) -> K,
        K: Into<Option<u64>>,
    {
        Self { key, bound: 1.25, kind: PhantomData }
    }

    /// How many times its part of the calls under way an instance may have, at least 1. Default 1.25: close to even, and most keys stay
    /// where they belong. Infinity switches the bound off.
    #[must_use]
    pub const fn bound(mut self, times: f64) -> Self {
        self.bound = times;
        self
    }
}

impl<Req, F, K> Pick<Req> for Consistent<F, K>
where
    F: Fn(&Req) -> K,
    K: Into<Option<u64>>,
{
    fn pick(&self, request: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        let Some(key) = (self.key)(request).into() else {
            return random::draw(candidates, chance());
        };
        let has_room = |index| self.has_room(candidates, index);
        let shares = candidates.shares(true);
        let owner = |step: u64| {
            // A key may be any number, also a small one.
            shares.slot(mix(key.wrapping_add(step.wrapping_mul(0x9e37_79b9))), || table(candidates))
        };
        let tries = 4 * candidates.len() as u64;
        let mut fallback = None;
        for index in (0..tries).map(owner).filter(|&index| candidates.may_pick(index)) {
            if has_room(index) {
                return Some(index);
            }
            fallback.get_or_insert(index);
        }
        let open = || (0..candidates.len()).filter(|&index| candidates.may_pick(index));
        let pending = |index: &usize| candidates.pending(*index);
        fallback.and(open().find(|&index| has_room(index))).or_else(|| open().min_by_key(pending))
    }

    fn needs(&self) -> Needs {
        Needs { total_pending: self.bound.is_finite(), ..Needs::default() }
    }
}

impl<F, K> Consistent<F, K> {
    /// Whether one more call keeps it within the bound.
    fn has_room(&self, candidates: &Candidates<'_>, index: usize) -> bool {
        let pending = candidates.pending(index);
        // Nobody's bound is less than one call.
        if pending == 0 || !self.bound.is_finite() {
            return true;
        }
        let part =
            if candidates.shares(true).is_even() { 1.0 } else { candidates.share(index, true) };
        let even = (candidates.total_pending() + 1) as f64 / candidates.len() as f64;
        (pending + 1) as f64 <= (self.bound.max(1.0) * even * part).ceil()
    }
}

/// Maglev's table: all take slots in turn, each in an order of its own, those with a higher share more often.
fn table(candidates: &Candidates<'_>) -> Box<[u16]> {
    const FREE: u16 = u16::MAX;
    let shares = candidates.shares(true);
    let count = candidates.len().min(usize::from(FREE));
    let largest = (0..count).map(|index| shares.get(index)).fold(0.0, f64::max);
    let (mut places, mut steps, mut credit) = (Vec::new(), Vec::new(), vec![0.0; count]);
    for index in 0..count {
        let hash = hash_key(candidates.instance(index).map_or("", |instance| &*instance.id));
        places.push((hash % SLOTS as u64) as usize);
        steps.push((mix(hash) % (SLOTS as u64 - 1)) as usize + 1);
    }
    let (mut table, mut left) = (vec![FREE; SLOTS], SLOTS);
    while left > 0 {
        for index in 0..count {
            // Whoever has the largest share takes one in each round.
            credit[index] += if largest > 0.0 { shares.get(index) / largest } else { 1.0 };
            if credit[index] < 1.0 || left == 0 {
                continue;
            }
            credit[index] -= 1.0;
            while table[places[index]] != FREE {
                places[index] = (places[index] + steps[index]) % SLOTS;
            }
            table[places[index]] = index as u16;
            left -= 1;
        }
    }
    table.into()
}

impl<F: Clone, K> Clone for Consistent<F, K> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), bound: self.bound, kind: PhantomData }
    }
}

impl<F, K> fmt::Debug for Consistent<F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consistent").field("bound", &self.bound).finish_non_exhaustive()
    }
}
