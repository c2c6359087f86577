//! Snapshot files: there as a whole or not at all, and taken in only if they are understood.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout},
};

/// Why a snapshot file was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It could not be read, or its folder could not be written to.
    #[error("cannot use {path}")]
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
    /// A line of a log is broken, and it is not the last one, which a crash explains. It was left as it is: to go on without what
    /// was acknowledged is for somebody to decide, by removing the line or the file.
    #[error("line {line} of {path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// Another process, or another registry of this one, keeps its files there.
    #[error("{path} is in use by another registry")]
    InUse {
        /// The file by which it is locked.
        path: PathBuf,
    },
    /// A later release wrote it. It was left as it is.
    #[error("{path} has format {format}, and up to {understood} is understood")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format that it states.
        format: u32,
        /// The highest that this release reads.
        understood: u32,
    },
}

/// What every format states.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

/// What the file holds; `None` if there is none.
pub(crate) fn load<T: DeserializeOwned>(
    path: &Path,
    understood: u32,
) -> Result<Option<T>, SnapshotError> {
    let io = |source| SnapshotError::Io { path: path.to_owned(), source };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let read = match serde_json::from_slice::<Header>(&bytes) {
        Ok(Header { format }) if format > understood => {
            return Err(SnapshotError::Newer { path: path.to_owned(), format, understood });
        }
        Ok(_) => serde_json::from_slice(&bytes),
        Err(error) => Err(error),
    };
    match read {
        Ok(read) => Ok(Some(read)),
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

/// What is for one at a time, for as long as this lives. The system ends it with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    #[cfg(feature = "consul")]
    pub(crate) fn of_folder(folder: &Path) -> Result<Self, SnapshotError> {
        Self::take(folder.join("lock"))
    }

    /// By a file beside it, as the file itself is replaced with each save.
    pub(crate) fn of_file(path: &Path) -> Result<Self, SnapshotError> {
        Self::take(with_suffix(path, "lock"))
    }

    fn take(path: PathBuf) -> Result<Self, SnapshotError> {
        let io = |source| SnapshotError::Io { path: path.clone(), source };
        let file = private().create(true).append(true).open(&path).map_err(io)?;
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => Ok(Self { _file: file }),
            Err(fs4::TryLockError::WouldBlock) => Err(SnapshotError::InUse { path }),
            Err(fs4::TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

/// New files are for their owner alone: keys may be secrets.
fn private() -> OpenOptions {
    #[cfg_attr(not(unix), allow(unused_mut, reason = "it has no modes"))]
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Either the old file or the new one is there, whenever the power goes. Returns the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = with_suffix(path, "new");
    // Not one that was left behind, whose owner and mode may be others.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private().create_new(true).write(true).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // Only where folders can be opened, which Windows does not allow.
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        folder.sync_all()?;
    }
    Ok(file)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Something that is kept in a snapshot file.
pub(crate) trait Source: Send + Sync + 'static {
    /// Rises with each change that the file should have.
    fn changes(&self) -> u64;

    /// Makes the content of the file, on a thread for blocking work.
    fn render(&self) -> impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static;

    /// The file could not be written.
    fn failed(&self);
}

/// Guard of the task that saves to a snapshot file: dropping it ends the task, without another save.
#[derive(Debug)]
#[must_use = "dropping it ends the saving"]
pub struct Saver {
    /// Of its file, where nothing else is locked.
    _lock: Option<Lock>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl Saver {
    /// Saves what changes, at most every `interval`, and for no more than a tenth of the time: a large file is saved less often.
    pub(crate) fn spawn(source: impl Source, path: PathBuf, interval: Duration) -> Self {
        let (stop, mut stopped) = oneshot::channel::<()>();
        let interval = interval.max(Duration::from_millis(10));
        let task = tokio::spawn(async move {
            // Saved once in any case: what changes while the file is taken in must not be left out.
            let (mut saved, mut failed, mut pause) = (None, false, interval);
            loop {
                let end = timeout(pause, &mut stopped).await.is_ok();
                let changes = source.changes();
                if saved != Some(changes) {
                    let began = Instant::now();
                    let result = save(&source, &path).await;
                    pause = interval.max(began.elapsed() * 9);
                    if let (Err(error), false) = (&result, failed) {
                        let cause = error as &dyn std::error::Error;
                        tracing::warn!(path = %path.display(), cause, "snapshot not saved, trying on");
                    }
                    failed = result.is_err();
                    if failed {
                        source.failed();
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
        Self { _lock: None, stop: Some(stop), task }
    }

    /// Keeps it for as long.
    pub(crate) fn holding(mut self, lock: Lock) -> Self {
        self._lock = Some(lock);
        self
    }

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

async fn save(source: &impl Source, path: &Path) -> io::Result<()> {
    let (render, path) = (source.render(), path.to_owned());
    let written = tokio::task::spawn_blocking(move || write(&path, &render()?).map(drop));
    written.await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.task.abort();
    }
}
