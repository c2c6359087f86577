use crate::{Limits, WhenUnheard};

/// How a [`FileEngine`](crate::FileEngine) is to be.
#[derive(Clone, Copy, Debug)]
pub struct FileOptions {
    pub(super) limits: Limits,
    pub(super) when_unheard: WhenUnheard,
    pub(super) max_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) existing: bool,
}

impl FileOptions {
    /// All defaults.
    #[must_use]
    pub const fn new() -> Self {
        let (limits, when_unheard) = (Limits::new(), WhenUnheard::Drop);
        let (max_bytes, segment_bytes) = (1 << 30, 16 << 20);
        Self { limits, when_unheard, max_bytes, segment_bytes, existing: false }
    }

    /// Bounds, the same as in memory, where everything is as well.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What becomes of messages that no group wants. Default: they are dropped and counted.
    #[must_use]
    pub const fn when_unheard(mut self, choice: WhenUnheard) -> Self {
        self.when_unheard = choice;
        self
    }

    /// How many bytes of messages and dead letters the disk may hold, a message once for each of its groups; beyond it publishes are refused with
    /// [`Error::Full`](crate::Error::Full). What is on its way to the disk then may still come. Default 1 GiB, since as much is in memory.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How long one file becomes before the next is begun, at least 64 KiB. Shorter ones are removed sooner, and begun more often, which takes two
    /// syncs each. Default 16 MiB, a third of a second at full speed.
    #[must_use]
    pub const fn segment_bytes(mut self, bytes: u64) -> Self {
        const LEAST: u64 = 64 << 10;
        self.segment_bytes = if bytes < LEAST { LEAST } else { bytes };
        self
    }

    /// Makes no directory and no broker in it: where there is none, it is [`FileError::NoBroker`](crate::FileError::NoBroker). For tools, whose user may mistype.
    #[must_use]
    pub const fn existing(mut self) -> Self {
        self.existing = true;
        self
    }
}

impl Default for FileOptions {
    fn default() -> Self {
        Self::new()
    }
}
