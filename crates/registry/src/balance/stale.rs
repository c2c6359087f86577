//! Whether a set that was built still holds although the instances did not change.

use crate::sync::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};

/// Written where an endpoint breaks or fails, and read by each choice.
#[derive(Debug)]
pub(crate) struct Stale {
    /// Rises whenever a set must be built anew.
    generation: AtomicU64,
    /// Somebody may have to be ejected. No set is built for that alone: most often nobody is.
    due: AtomicBool,
}

impl Stale {
    pub(crate) fn new() -> Self {
        Self { generation: AtomicU64::new(0), due: AtomicBool::new(false) }
    }

    /// The generation of a set that is built of what is read after this.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// What was written before this is in every set of a later generation.
    pub(crate) fn invalidate(&self) {
        self.generation.fetch_add(1, AcqRel);
    }

    /// Somebody may have to be ejected.
    pub(crate) fn look_over(&self) {
        self.due.store(true, Release);
    }

    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.due.load(Acquire)
    }

    /// Whether somebody may have to be ejected, told to one caller only, who sees what was written before it was said.
    pub(crate) fn take_due(&self) -> bool {
        self.is_due() && self.due.swap(false, AcqRel)
    }

    /// Whether a set of this generation is as young as can be.
    #[inline]
    pub(crate) fn is_fresh(&self, generation: u64) -> bool {
        generation >= self.generation()
    }
}
