use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// How many places there are and how many are taken, in one word, so that a place is taken by one compare-and-swap, and a limit
/// that changes meanwhile is obeyed.
///
/// ```text
/// bit 63    32 31        0
///     [ limit ] [ taken  ]
/// ```
///
/// After the limit fell, more may be taken than there are; no new one is given then.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Places(AtomicU64);

impl Places {
    const LIMIT: u32 = 32;

    pub(super) const fn new(limit: u32) -> Self {
        Self(AtomicU64::new((limit as u64) << Self::LIMIT))
    }

    /// Takes a place, if fewer are taken than `share` says of the limit; it must not say more than that.
    #[inline]
    pub(super) fn take(&self, share: impl Fn(u32) -> u32) -> bool {
        let mut word = self.0.load(Relaxed);
        while taken(word) < share(limit(word)) {
            match self.0.compare_exchange_weak(word, word + 1, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(newer) => word = newer,
            }
        }
        false
    }

    /// Gives a taken place back, and says how many were taken before.
    #[inline]
    pub(super) fn give_back(&self) -> u32 {
        taken(self.0.fetch_sub(1, Release))
    }

    pub(super) fn set_limit(&self, limit: u32) {
        let with = |word| Some(u64::from(limit) << Self::LIMIT | u64::from(taken(word)));
        // It never fails, for the closure always answers.
        let _ = self.0.fetch_update(Relaxed, Relaxed, with);
    }

    pub(super) fn limit(&self) -> u32 {
        limit(self.0.load(Relaxed))
    }

    pub(super) fn taken(&self) -> u32 {
        taken(self.0.load(Relaxed))
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        let word = self.0.load(Relaxed);
        taken(word) >= limit(word)
    }
}

const fn limit(word: u64) -> u32 {
    (word >> Places::LIMIT) as u32
}

const fn taken(word: u64) -> u32 {
    word as u32
}
