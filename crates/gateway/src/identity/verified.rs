//! Tokens that were verified lately.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, OnceLock, PoisonError},
};

use super::{Identity, claims::Times};

/// Tokens that may be kept in one place of the table.
const WAYS: usize = 4;

/// Places; with [`WAYS`] 8,192 tokens, about 90 bytes each besides their identities.
const SETS: usize = 2048;

/// What verified tokens say, found by a keyed hash of 128 bits: a token is not kept itself. When there are more, one of the four in the same place makes
/// room. Only what was verified comes in, so nobody fills it with tokens that they made up.
pub(super) struct Verified {
    keys: [RandomState; 2],
    /// Made for the first token.
    sets: OnceLock<Box<[Mutex<Set>]>>,
}

type Set = [Option<Entry>; WAYS];

struct Entry {
    hash: u128,
    /// Of the keys that it was verified with.
    generation: u64,
    times: Times,
    identity: Identity,
}

impl Verified {
    pub(super) fn new() -> Self {
        let keys = [RandomState::new(), RandomState::new()];
        Self { keys, sets: OnceLock::new() }
    }

    /// `SipHash` under two keys that nobody outside knows, nor can learn from where a token ends up.
    pub(super) fn hash(&self, token: &str) -> u128 {
        let [high, low] = self.keys.each_ref().map(|key| u128::from(key.hash_one(token)));
        (high << 64) | low
    }

    /// What the token with this hash says, if it was verified with the keys of this generation.
    pub(super) fn get(&self, hash: u128, generation: u64) -> Option<(Times, Identity)> {
        let set = self.set(hash).lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |entry: &&Entry| entry.hash == hash && entry.generation == generation;
        set.iter().flatten().find(is_it).map(|entry| (entry.times, entry.identity.clone()))
    }

    pub(super) fn put(&self, hash: u128, generation: u64, times: Times, identity: Identity) {
        let mut set = self.set(hash).lock().unwrap_or_else(PoisonError::into_inner);
        // Itself, a free place, one of older keys, or the one that ends first.
        let worth = |place: &Option<Entry>| match place {
            Some(entry) if entry.hash == hash => (0, 0),
            None => (1, 0),
            Some(entry) if entry.generation != generation => (2, 0),
            Some(entry) => (3, entry.times.expires()),
        };
        if let Some(place) = set.iter_mut().min_by_key(|place| worth(place)) {
            *place = Some(Entry { hash, generation, times, identity });
        }
    }

    fn set(&self, hash: u128) -> &Mutex<Set> {
        let sets = self.sets.get_or_init(|| (0..SETS).map(|_| Mutex::default()).collect());
        &sets[hash as usize % SETS]
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_a_bounded_number_and_forgets_with_the_keys() {
        let verified = Verified::new();
        let times = Times::until(100);
        let token = |number: usize| verified.hash(&format!("token {number}"));
        for number in 0..100_000 {
            verified.put(token(number), 1, times, Identity::new("alice"));
        }
        let held = (0..100_000).filter(|&number| verified.get(token(number), 1).is_some()).count();
        assert!(held <= SETS * WAYS && held > SETS * WAYS * 9 / 10, "{held}");
        assert!(verified.get(token(99_999), 1).is_some(), "the newest is there");
        assert!(verified.get(token(99_999), 2).is_none());
        assert!(verified.get(token(100_000), 1).is_none());
    }
}
