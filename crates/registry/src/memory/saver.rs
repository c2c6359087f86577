use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::MemoryRegistry;
use crate::Instance;

/// Version of the file's format that is written. This and none other is read so far.
const FORMAT: u32 = 1;

/// Why a snapshot file was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It could not be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What is in it is no snapshot. It was moved aside, so that the next start begins empty and nothing is lost.
    #[error("{path} is no snapshot of a registry; it was moved to {moved_to}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        moved_to: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A later release wrote it. It was left as it is.
    #[error("{path} has format {format}, and up to {FORMAT} is understood")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format that it states.
        format: u32,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    instances: &'a [Arc<Instance>],
}

#[derive(Deserialize)]
struct Read {
    instances: Vec<Instance>,
}

/// What every format states.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

impl MemoryRegistry {
    /// Takes in what the file holds, and spawns the task that saves to it what changes: at most every `interval` (a second is reasonable) and at
    /// least 10 ms apart, on a thread for blocking work, by a new file that is synced and renamed. Heartbeats are no change.
    ///
    /// Instances come back with the health that they had, those that were well or draining as [suspect](Instance::suspect), and have one TTL to be
    /// heard of. So a registry that is started again is not empty. One that is registered already is left as it is. What does not fit is
    /// left out, and counted by [`Stats::refused`](super::Stats::refused).
    ///
    /// What happens within `interval` before a crash is not in the file: an instance that registered then registers again by its
    /// [`Registration`](crate::Registration), one that left is suspect for a TTL. The file is for one registry at a time. Without a file at `path` it
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
        self.restore(load(&path)?);
        let (stop, mut stopped) = oneshot::channel::<()>();
        let registry = self.clone();
        let interval = interval.max(Duration::from_millis(10));
        let task = tokio::spawn(async move {
            // Saved once in any case: who registers while the file is taken in must not be left out.
            let (mut saved, mut failed) = (None, false);
            loop {
                let end = timeout(interval, &mut stopped).await.is_ok();
                let changes = registry.0.changes.load(Relaxed);
                if saved != Some(changes) {
                    let result = registry.save(&path).await;
                    if let (Err(error), false) = (&result, failed) {
                        let cause = error as &dyn std::error::Error;
                        tracing::warn!(path = %path.display(), cause, "snapshot not saved, trying on");
                    }
                    failed = result.is_err();
                    if failed {
                        registry.0.counters.unsaved.fetch_add(1, Relaxed);
                    } else {
                        saved = Some(changes);
                    }
                    if end {
                        return result;
                    }
                } else if end {
                    return Ok(());
                }
            }
        });
        Ok(Saver { stop: Some(stop), task })
    }

    async fn save(&self, path: &Path) -> io::Result<()> {
        let services = self.0.services.load_full();
        let path = path.to_owned();
        let written = tokio::task::spawn_blocking(move || {
            let mut instances: Vec<_> = services
                .values()
                .flat_map(|service| service.publisher.snapshot().instances().to_vec())
                .collect();
            // The same registry is the same file.
            instances.sort_by(|a, b| (&a.service, &a.id).cmp(&(&b.service, &b.id)));
            write(&path, &serde_json::to_vec(&Written { format: FORMAT, instances: &instances })?)
        });
        written.await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
    }

    fn restore(&self, instances: Vec<Instance>) {
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

fn load(path: &Path) -> Result<Vec<Instance>, SnapshotError> {
    let io = |source| SnapshotError::Io { path: path.to_owned(), source };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let read = match serde_json::from_slice::<Header>(&bytes) {
        Ok(Header { format }) if format > FORMAT => {
            return Err(SnapshotError::Newer { path: path.to_owned(), format });
        }
        Ok(_) => serde_json::from_slice::<Read>(&bytes),
        Err(error) => Err(error),
    };
    match read {
        Ok(read) => Ok(read.instances),
        Err(source) => {
            let moved_to = move_aside(path).map_err(io)?;
            Err(SnapshotError::Unreadable { path: path.to_owned(), moved_to, source })
        }
    }
}

/// Where nothing is yet: what was moved aside before stays as well.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let free = |n: &u32| !with_suffix(path, &format!("unreadable-{n}")).exists();
    let n = (1..=u32::MAX).find(free).unwrap_or(1);
    let aside = with_suffix(path, &format!("unreadable-{n}"));
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Either the old file or the new one is there, whenever the power goes.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = with_suffix(path, "new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // Only where folders can be opened, which Windows does not allow.
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        folder.sync_all()?;
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Guard of the task of [`MemoryRegistry::spawn_saver`]: dropping it ends the task, without another save.
#[derive(Debug)]
#[must_use = "dropping it ends the saving"]
pub struct Saver {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl Saver {
    /// Saves what has changed since, and ends the task.
    ///
    /// # Errors
    ///
    /// What the system says to the last save.
    ///
    /// # Cancellation
    ///
    /// Ends the task; a save that had begun is finished.
    pub async fn close(mut self) -> io::Result<()> {
        drop(self.stop.take());
        (&mut self.task).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.task.abort();
    }
}
