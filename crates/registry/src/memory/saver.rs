use std::{
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::MemoryRegistry;
use crate::{
    Instance,
    file::{Lock, Saver, SnapshotError, Source, load},
};

/// Version of the file's format that is written. This and none other is read so far.
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    instances: &'a [Arc<Instance>],
}

#[derive(Deserialize)]
struct Read {
    instances: Vec<Instance>,
}

impl MemoryRegistry {
    /// Takes in what the file holds, and spawns the task that saves to it what changes: at most every `interval` (a second is reasonable), at
    /// least 10 ms apart and for no more than a tenth of the time, on a thread for blocking work, by a new file that is synced and renamed. Heartbeats are no change.
    ///
    /// Instances come back with the health that they had, those that were well or draining as [suspect](Instance::suspect), and have one TTL to be
    /// heard of. So a registry that is started again is not empty. One that is registered already is left as it is. What does not fit is
    /// left out, and counted by [`Stats::refused`](super::Stats::refused).
    ///
    /// What happens within `interval` before a crash is not in the file: an instance that registered then registers again by its
    /// [`Registration`](crate::Registration), one that left is suspect for a TTL. The file is for one registry at a time, and locked by one beside it that
    /// ends in `.lock`; both are for their owner alone. Without a file at `path` it
    /// begins as it is.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]. Then nothing was taken in, and nothing is saved.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_saver(
        &self,
        path: impl Into<PathBuf>,
        interval: Duration,
    ) -> Result<Saver, SnapshotError> {
        let path = path.into();
        let lock = Lock::of_file(&path)?;
        let read: Option<Read> = load(&path, FORMAT)?;
        self.restore(read.map(|read| read.instances).unwrap_or_default());
        Ok(Saver::spawn(self.clone(), path, interval).holding(lock))
    }

    pub(super) fn restore(&self, instances: Vec<Instance>) {
        for instance in instances {
            let (service, id) = (instance.service.clone(), instance.id.clone());
            if let Err(error) = self.restore_one(instance) {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(
                    service = &*service,
                    id = &*id,
                    cause,
                    "not taken from the snapshot"
                );
            }
        }
    }
}

impl Source for MemoryRegistry {
    fn changes(&self) -> u64 {
        self.0.catch_up();
        self.0.changes.load(Relaxed)
    }

    fn render(&self) -> impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static {
        let (shared, services) = (self.0.clone(), self.0.services.load_full());
        move || {
            let mut instances: Vec<_> = services
                .values()
                .flat_map(|service| service.snapshot(&shared).instances().to_vec())
                .collect();
            // The same registry is the same file.
            instances.sort_by(|a, b| (&a.service, &a.id).cmp(&(&b.service, &b.id)));
            Ok(serde_json::to_vec(&Written { format: FORMAT, instances: &instances })?)
        }
    }

    fn failed(&self) {
        self.0.counters.unsaved.fetch_add(1, Relaxed);
    }
}

/// The instances of a snapshot, if it is one.
#[cfg(all(any(test, fuzzing), feature = "consul"))]
pub(super) fn read(snapshot: &[u8]) -> Option<Vec<Instance>> {
    serde_json::from_slice::<Read>(snapshot).ok().map(|read| read.instances)
}
