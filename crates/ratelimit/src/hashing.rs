//! A hash that outsiders cannot foresee, at a third of the cost of SipHash.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hash, Hasher},
};

use foldhash::{SharedSeed, quality::FoldHasher};

/// Folded multiplication under 128 random bits, drawn anew for each limiter.
///
/// foldhash's own random state is seeded by addresses and the time, which is too little here; the seeds below come from the
/// operating system.
pub(crate) struct Hashing {
    seed: u64,
    shared: SharedSeed,
}

impl Hashing {
    pub(crate) fn new() -> Self {
        // Keyed by the operating system; two different inputs give two unrelated numbers.
        let random = RandomState::new();
        Self { seed: random.hash_one(0), shared: SharedSeed::from_u64(random.hash_one(1)) }
    }

    #[inline]
    pub(crate) fn of<K: Hash + ?Sized>(&self, key: &K) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        key.hash(&mut hasher);
        hasher.finish()
    }
}

impl fmt::Debug for Hashing {
    /// Without the seeds, which are a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hashing").finish_non_exhaustive()
    }
}
