use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use crate::table::{Board, NEVER, SlotId, millis};

/// When a registry last heard of an instance.
///
/// All copies of one instance that come from one registry share it, so the age is that of the moment
/// it is asked for, not that of the snapshot. It is serialized as its age in milliseconds, or null for never.
#[derive(Clone, Default)]
pub struct LastSeen(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    Never,
    Registry(Arc<Board>, SlotId),
    /// Milliseconds since that moment, or [`NEVER`].
    Shared(Instant, Arc<AtomicU64>),
    Told(Instant),
}

impl LastSeen {
    /// How long ago; `None` if never, or if this run of the instance is no longer registered. Where heartbeats come by a
    /// [`Lease`](crate::Lease), up to a sweep interval more than it is.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        match &self.0 {
            Source::Never => None,
            Source::Registry(board, slot) => board.age(*slot),
            Source::Shared(epoch, heard) => {
                let heard = heard.load(Relaxed);
                (heard != NEVER)
                    .then(|| epoch.elapsed().saturating_sub(Duration::from_millis(heard)))
            }
            Source::Told(at) => Some(at.elapsed()),
        }
    }

    pub(crate) fn at(board: &Arc<Board>, slot: SlotId) -> Self {
        Self(Source::Registry(board.clone(), slot))
    }

    /// Never, and from now on told by [`LastSeen::hear`] in time since `epoch`.
    #[cfg_attr(
        not(any(feature = "etcd", feature = "remote")),
        allow(dead_code, reason = "for engines over a network")
    )]
    pub(crate) fn never(epoch: Instant) -> Self {
        Self(Source::Shared(epoch, Arc::new(AtomicU64::new(NEVER))))
    }

    #[cfg_attr(
        not(any(feature = "etcd", feature = "remote")),
        allow(dead_code, reason = "for engines over a network")
    )]
    pub(crate) fn hear(&self, at: Duration) {
        if let Source::Shared(_, heard) = &self.0 {
            heard.store(millis(at), Relaxed);
        }
    }

    /// An age that somebody else told. One from before this machine's clock began is as old as it can tell.
    pub(crate) fn told(age: Duration) -> Self {
        let now = Instant::now();
        Self(Source::Told(now.checked_sub(age).unwrap_or(now)))
    }
}

impl fmt::Debug for LastSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.age() {
            Some(age) => write!(f, "{age:?} ago"),
            None => f.write_str("never"),
        }
    }
}

impl Serialize for LastSeen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.age().map(millis).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LastSeen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let age = Option::<u64>::deserialize(deserializer)?;
        Ok(age.map_or_else(Self::default, |age| Self::told(Duration::from_millis(age))))
    }
}
