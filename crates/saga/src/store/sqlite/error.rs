use std::{io, sync::Arc};

use rusqlite::ErrorCode;

use crate::{StoreError, Unreadable};

type Cause = Arc<rusqlite::Error>;

/// What is wrong with the file of a [`SqliteStore`](crate::SqliteStore). The source of its [`StoreError::Failed`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// A later release made it, or changed it so that this one must not write.
    #[error("file is of format {0}, this release knows up to {known}", known = super::schema::FORMAT)]
    Newer(i64),
    /// There is no file, or nothing in it, and none was to be made.
    #[error("there is no such file of sagas")]
    Missing,
    /// An earlier release made it, and it was not to be changed.
    #[error("file is of format {0}; a program of this release has to open it first")]
    Older(i64),
    /// It is a database, but not one of sagas.
    #[error("file is a database of another program")]
    Foreign,
    /// SQLite keeps no write-ahead log there, but a journal of this mode. It cannot in memory and on some network file systems.
    #[error("no write-ahead log in this place, only {0}")]
    NoLog(Arc<str>),
    /// Another process held it for longer than five seconds. Nothing was written.
    #[error("another process holds the file")]
    Locked(#[source] Cause),
    /// It cannot be written, by this user or at all, or its directory is not there.
    #[error("file cannot be opened and written")]
    ReadOnly(#[source] Cause),
    /// No room on the disk, or beyond the bound that was set. Nothing was written.
    #[error("no room for the file to grow")]
    Full(#[source] Cause),
    /// It is no database, or is damaged.
    #[error("file is damaged")]
    Damaged(#[source] Cause),
    /// Something in it that this release did not write.
    #[error("file holds what this release cannot read")]
    Unreadable(#[source] Unreadable),
    /// The thread that works on it has ended, or could not begin.
    #[error("no thread works on the file")]
    NoThread(#[source] Option<Arc<io::Error>>),
    /// Whatever else SQLite says.
    #[error("the file was not read or written")]
    Other(#[source] Cause),
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        let (code, cause) = (error.sqlite_error_code(), Arc::new(error));
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked(cause),
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => Self::ReadOnly(cause),
            Some(ErrorCode::DiskFull) => Self::Full(cause),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(cause),
            _ => Self::Other(cause),
        }
    }
}

impl From<SqliteError> for StoreError {
    fn from(error: SqliteError) -> Self {
        match error {
            // SQLite takes the whole transaction back, so there was no effect.
            SqliteError::Full(_) => Self::full("disk of the saga store"),
            error => Self::failed(error),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        SqliteError::from(error).into()
    }
}

/// Whether it is about what stands in one place of the file, and not about the file or the disk as such.
pub(super) fn is_local(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, InvalidColumnType, Utf8Error};
    let damaged = error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt);
    damaged || matches!(error, FromSqlConversionFailure(..) | InvalidColumnType(..) | Utf8Error(..))
}
