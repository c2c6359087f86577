use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a [`FileEngine`](crate::FileEngine) cannot open its directory or write to it. Found as the source of
/// [`Error::Engine`](crate::Error::Engine).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused. [`io::Error::kind`] tells why: `StorageFull`, `PermissionDenied`, `ReadOnlyFilesystem` and so on.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another engine, in this process or another, has the directory open.
    #[error("{} is in use by {}", path.display(), holder.as_deref().unwrap_or("another broker"))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who it is by its own words, as in `process 4711 (shop)`; none if it has not said so yet.
        holder: Option<String>,
    },
    /// No broker has been in the directory, and [none is to be made](crate::FileOptions::existing).
    #[error("no broker in {}", path.display())]
    NoBroker {
        /// The directory.
        path: PathBuf,
    },
    /// What was written has changed since, before its end. Nothing was taken from it, and the file is as it was.
    #[error("{} is damaged at byte {offset}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first frame begins that is not as it was written, in bytes from the beginning.
        offset: u64,
    },
    /// A file that belongs to the others is not there. Nothing was taken from those, and they are as they were.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is of a later version of this crate. It is as it was.
    #[error("{} has format {format}, newer than {understood}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The newest that this version reads.
        understood: u32,
    },
    /// The message is larger than anything that is written.
    #[error("message of {size} bytes exceeds {limit}")]
    TooLarge {
        /// [`Message::size`](crate::Message::size) of it.
        size: usize,
        /// 1 GiB.
        limit: usize,
    },
    /// The thread that writes has ended by a panic. Nothing is written any more; what was acknowledged is on the disk.
    #[error("the writer of {} has ended", path.display())]
    Ended {
        /// The directory.
        path: PathBuf,
    },
}

impl FileError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}
