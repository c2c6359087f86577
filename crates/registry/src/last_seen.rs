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

/// When a registry last heard of an instance.
///
/// All copies of one instance that come from one registry share it, so the age is that of the moment
/// it is asked for, not that of the snapshot. It is serialized as its age in milliseconds, or null for never.
#[derive(Clone, Default)]
pub struct LastSeen(Option<Mark>);

#[derive(Clone)]
struct Mark {
    epoch: Instant,
    /// Milliseconds since `epoch`, or [`NEVER`].
    millis: Arc<AtomicU64>,
}

const NEVER: u64 = u64::MAX;

impl LastSeen {
    /// How long ago; `None` if never.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let mark = self.0.as_ref()?;
        let millis = mark.millis.load(Relaxed);
        (millis != NEVER)
            .then(|| mark.epoch.elapsed().saturating_sub(Duration::from_millis(millis)))
    }

    /// Never, and from now on told by [`LastSeen::hear`] in time since `epoch`.
    pub(crate) fn never(epoch: Instant) -> Self {
        Self(Some(Mark { epoch, millis: Arc::new(AtomicU64::new(NEVER)) }))
    }

    pub(crate) fn hear(&self, at: Duration) {
        if let Some(mark) = &self.0 {
            mark.millis.store(millis(at), Relaxed);
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(NEVER - 1).min(NEVER - 1)
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
        Ok(Self(Option::<u64>::deserialize(deserializer)?.map(|age| {
            let now = Instant::now();
            // An age from before this machine's clock began is as old as it can tell.
            let epoch = now.checked_sub(Duration::from_millis(age)).unwrap_or(now);
            Mark { epoch, millis: Arc::new(AtomicU64::new(0)) }
        })))
    }
}
