use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

/// Whether a [`RemoteRegistry`](crate::RemoteRegistry) or [`RemoteKv`](crate::RemoteKv) reaches its server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteState {
    /// Nobody has asked it anything yet.
    Unknown,
    /// It answered the last time it was asked.
    Connected,
    /// It did not. What is read is the last known, and grows older.
    Away {
        /// For how long.
        since: Instant,
        /// What the last attempt failed with.
        cause: Arc<str>,
    },
}

impl RemoteState {
    /// Whether the server did not answer the last time it was asked.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. })
    }
}

impl fmt::Display for RemoteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not asked yet"),
            Self::Connected => f.write_str("answers"),
            Self::Away { cause, .. } => write!(f, "away: {cause}"),
        }
    }
}

/// How often what happened since a [`RemoteRegistry`](crate::RemoteRegistry) or [`RemoteKv`](crate::RemoteKv) was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteStats {
    /// Services that a registry remembers now; 0 for keys.
    pub services: usize,
    /// Connections made.
    pub connected: u64,
    /// Calls answered, whatever the answer was; questions of watches among them.
    pub answered: u64,
    /// Calls that got no answer that makes sense.
    pub failed: u64,
    /// Indexes that went backwards, or were none, so that a watch began anew.
    pub resets: u64,
    /// Instances that were left out because the service has too many.
    pub left_out: u64,
    /// Entries of an answer that were no instance or of a newer version.
    pub unreadable: u64,
}

#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) connected: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) resets: AtomicU64,
    pub(super) left_out: AtomicU64,
    pub(super) unreadable: AtomicU64,
}

impl Meters {
    pub(super) fn stats(&self) -> RemoteStats {
        RemoteStats {
            services: 0,
            connected: self.connected.load(Relaxed),
            answered: self.answered.load(Relaxed),
            failed: self.failed.load(Relaxed),
            resets: self.resets.load(Relaxed),
            left_out: self.left_out.load(Relaxed),
            unreadable: self.unreadable.load(Relaxed),
        }
    }
}
