use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Whether a server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisState {
    /// Nobody has asked yet, so nobody knows.
    Unknown,
    /// It answers.
    Connected,
    /// It is left alone for a while, and then tried again.
    Away {
        /// What happened last, as it was told; for instance `NOAUTH` or `connection refused`.
        cause: Arc<str>,
    },
}

impl RedisState {
    /// Whether it is left alone at present.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. })
    }
}

impl fmt::Display for RedisState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not asked yet"),
            Self::Connected => f.write_str("answers"),
            Self::Away { cause } => write!(f, "away: {cause}"),
        }
    }
}

/// What became of the calls, since the server was named; not a snapshot of one instant.
///
/// `asked` is the sum of `answered`, `timeouts`, `errors`, `left` and the calls that are waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStats {
    /// Calls for which it was asked.
    pub asked: u64,
    /// Calls that it answered in time.
    pub answered: u64,
    /// Calls that it did not answer in time.
    pub timeouts: u64,
    /// Calls that ended with an error, of the server or of the connection.
    pub errors: u64,
    /// Calls whose callers left before the answer.
    pub left: u64,
    /// Calls for which it was not asked, because it is away.
    pub skipped: u64,
    /// Attempts to connect.
    pub connects: u64,
    /// How often the script was missing there and had to be loaded: a server was restarted, or its scripts flushed.
    pub reloads: u64,
}

#[derive(Debug, Default)]
pub(crate) struct RedisCounters {
    pub(crate) asked: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) left: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) reloads: AtomicU64,
}

impl RedisCounters {
    pub(crate) fn stats(&self) -> RedisStats {
        RedisStats {
            asked: self.asked.load(Relaxed),
            answered: self.answered.load(Relaxed),
            timeouts: self.timeouts.load(Relaxed),
            errors: self.errors.load(Relaxed),
            left: self.left.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            connects: self.connects.load(Relaxed),
            reloads: self.reloads.load(Relaxed),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
