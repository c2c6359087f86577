use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

/// Whether an [`EtcdRegistry`](crate::EtcdRegistry) reaches its etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EtcdState {
    /// A member answers that has a quorum.
    Connected {
        /// Which of the endpoints.
        endpoint: Arc<str>,
    },
    /// None does. What is read is the last known, and grows older.
    Away {
        /// For how long.
        since: Instant,
        /// What the last attempt failed with.
        cause: Arc<str>,
    },
}

impl EtcdState {
    /// Whether no member of etcd answers.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. })
    }
}

impl fmt::Display for EtcdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { endpoint } => write!(f, "{endpoint} answers"),
            Self::Away { cause, .. } => write!(f, "away: {cause}"),
        }
    }
}

/// How often what happened since an [`EtcdRegistry`](crate::EtcdRegistry) was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdStats {
    /// Connections made; all but the first after an outage or to another member.
    pub connected: u64,
    /// Leases granted; all but the first because the one before had expired.
    pub leases: u64,
    /// Keys put again because they were gone.
    pub put_again: u64,
    /// Keys found on the lease that nobody had asked for, and deleted.
    pub strays: u64,
    /// Listings of a service that is watched.
    pub listings: u64,
    /// Instances that fell silent and were deregistered.
    pub expired: u64,
    /// How often an instance was kept out because another process has its id.
    pub superseded: u64,
    /// Instances refused because this process has as many as it may.
    pub refused: u64,
    /// Instances that were left out of a listing because the service has too many.
    pub left_out: u64,
    /// Values that were no instance.
    pub unreadable: u64,
    /// Tasks that panicked and were begun anew: a bug, here or in what they use.
    pub panics: u64,
}

#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) connected: AtomicU64,
    pub(super) leases: AtomicU64,
    pub(super) put_again: AtomicU64,
    pub(super) strays: AtomicU64,
    pub(super) listings: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) superseded: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) left_out: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) panics: AtomicU64,
}

impl Meters {
    pub(super) fn stats(&self) -> EtcdStats {
        EtcdStats {
            connected: self.connected.load(Relaxed),
            leases: self.leases.load(Relaxed),
            put_again: self.put_again.load(Relaxed),
            strays: self.strays.load(Relaxed),
            listings: self.listings.load(Relaxed),
            expired: self.expired.load(Relaxed),
            superseded: self.superseded.load(Relaxed),
            refused: self.refused.load(Relaxed),
            left_out: self.left_out.load(Relaxed),
            unreadable: self.unreadable.load(Relaxed),
            panics: self.panics.load(Relaxed),
        }
    }
}
