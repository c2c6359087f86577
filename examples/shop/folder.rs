//! What a shop keeps over restarts.
//!
//! | in the folder | what it is |
//! |---|---|
//! | `lock` | held by the process that has the shop open |
//! | `shop.db` | the stores of the services, one table of kind, key and JSON |
//! | `sagas.db` | the journals of the orders |
//! | `events/` | the messages and dead letters, if the broker is on files |

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use gusset::saga::{MemoryStore, Store};
use serde::de::DeserializeOwned;

use crate::kept::Kept;

/// What is in the file, by kinds: key and JSON.
pub(crate) type Records = HashMap<String, Vec<(String, String)>>;

/// An open folder, or the memory in its place.
pub(crate) struct Folder {
    pub(crate) kept: Kept,
    pub(crate) journal: Arc<dyn Store>,
    records: Records,
    path: Option<PathBuf>,
    /// Until the process ends, however it ends.
    _lock: Option<File>,
}

impl Folder {
    /// Nothing is kept.
    pub(crate) fn none() -> Self {
        let journal = Arc::new(MemoryStore::new());
        let (kept, records) = (Kept::default(), Records::new());
        Self { kept, journal, records, path: None, _lock: None }
    }

    pub(crate) async fn at(path: Option<&Path>) -> io::Result<Self> {
        match path {
            None => Ok(Self::none()),
            Some(path) => Self::open(path).await,
        }
    }

    #[cfg(not(feature = "files"))]
    async fn open(_: &Path) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a folder needs the feature files"))
    }

    #[cfg(feature = "files")]
    async fn open(path: &Path) -> io::Result<Self> {
        let told = |what: &str, error: &dyn fmt::Display| {
            io::Error::other(format!("{} in {}: {error}", what, path.display()))
        };
        let lock = file::lock(path)?;
        let (connection, records) =
            file::open(&path.join("shop.db")).map_err(|error| told("shop.db", &error))?;
        let sagas = gusset::saga::SqliteStore::open(path.join("sagas.db")).await;
        let sagas = sagas.map_err(|error| told("sagas.db", &error))?;
        Ok(Self {
            kept: Kept::spawn(file::writer(connection))?,
            journal: Arc::new(sagas),
            records,
            path: Some(path.to_owned()),
            _lock: Some(lock),
        })
    }

    /// Where it is; `None` if nothing is kept.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// All of a kind. They are taken out, for they are in the store from then on.
    pub(crate) fn take<K, T>(&mut self, kind: &str) -> io::Result<Vec<(K, T)>>
    where
        K: FromStr,
        T: DeserializeOwned,
    {
        let rows = self.records.remove(kind).unwrap_or_default().into_iter();
        let read = |(key, value): (String, String)| {
            let damaged = || {
                io::Error::other(format!("shop.db holds what this shop cannot read: {kind} {key}"))
            };
            let known = key.parse().map_err(|_| damaged())?;
            Ok((known, serde_json::from_str(&value).map_err(|_| damaged())?))
        };
        rows.map(read).collect()
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(feature = "files")]
mod file {
    use std::{
        fs::{self, TryLockError},
        time::Duration,
    };

    use gusset::call::BoxError;
    use rusqlite::Connection;

    use super::{File, Path, Records, io};
    use crate::kept::Row;

    /// What `user_version` says. A change that an older release cannot work with is a higher number.
    const FORMAT: i64 = 1;

    /// What `application_id` says: `GuSh`.
    const APPLICATION: i64 = 0x4775_5368;

    const TABLE: &str = "CREATE TABLE kept (
        kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)
    ) STRICT, WITHOUT ROWID";

    /// Makes the folder and locks it for this process.
    pub(super) fn lock(path: &Path) -> io::Result<File> {
        let told = |error: io::Error| {
            io::Error::new(error.kind(), format!("folder {}: {error}", path.display()))
        };
        fs::create_dir_all(path).map_err(told)?;
        let file = File::options().write(true).create(true).truncate(false).open(path.join("lock"));
        let file = file.map_err(told)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::Error(error)) => Err(told(error)),
            Err(TryLockError::WouldBlock) => {
                let detail = format!("folder {} is open in another shop", path.display());
                Err(io::Error::new(io::ErrorKind::ResourceBusy, detail))
            }
        }
    }

    pub(super) fn open(path: &Path) -> Result<(Connection, Records), BoxError> {
        let mut file = Connection::open(path)?;
        file.busy_timeout(Duration::from_secs(5))?;
        // Looked at before anything is changed.
        let is_new = is_new(&file)?;
        file.pragma_update(None, "journal_mode", "WAL")?;
        file.pragma_update(None, "synchronous", "FULL")?;
        if is_new {
            let transaction = file.transaction()?;
            transaction.execute_batch(TABLE)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
            transaction.commit()?;
        }
        let mut records = Records::new();
        let mut rows = file.prepare("SELECT kind, key, value FROM kept ORDER BY kind, key")?;
        for row in rows.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))? {
            let (kind, key, value): (String, _, _) = row?;
            records.entry(kind).or_default().push((key, value));
        }
        drop(rows);
        Ok((file, records))
    }

    fn is_new(file: &Connection) -> Result<bool, BoxError> {
        let pragma = |name| file.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let tables = "SELECT count(*) FROM sqlite_schema";
        let tables: i64 = file.query_row(tables, (), |row| row.get(0))?;
        match (pragma("application_id")?, pragma("user_version")?, tables) {
            (0, 0, 0) => Ok(true),
            (APPLICATION, FORMAT, _) => Ok(false),
            (APPLICATION, found, _) if found > FORMAT => {
                Err(format!("a newer shop made it (format {found}, this one knows up to {FORMAT})")
                    .into())
            }
            _ => Err("it is a database of another program".into()),
        }
    }

    pub(super) fn writer(mut file: Connection) -> impl FnMut(&[Row]) -> Result<(), BoxError> {
        move |rows| {
            let transaction = file.transaction()?;
            {
                let mut put =
                    transaction.prepare_cached("REPLACE INTO kept VALUES (?1, ?2, ?3)")?;
                for Row { kind, key, value } in rows {
                    put.execute((kind, key, value))?;
                }
            }
            Ok(transaction.commit()?)
        }
    }
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::kept::Row;

    /// A folder of its own, removed with the value.
    struct Scratch(PathBuf);

    #[allow(clippy::unwrap_used, reason = "a test")]
    impl Scratch {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("gusset-shop-test-{}", Uuid::now_v7())))
        }

        async fn refused(&self) -> String {
            Folder::at(Some(&self.0)).await.unwrap_err().to_string()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_again_and_the_latest_holds() {
        let scratch = Scratch::new();
        let folder = Folder::at(Some(&scratch.0)).await.unwrap();
        folder.kept.note(|| [Row::new("count", 1, &10), Row::new("count", 2, &20)]);
        folder.kept.note(|| [Row::new("count", 1, &11)]);
        folder.kept.written().await.unwrap();
        drop(folder);
        let mut folder = Folder::at(Some(&scratch.0)).await.unwrap();
        assert_eq!(folder.take::<u32, u32>("count").unwrap(), [(1, 11), (2, 20)]);
        assert_eq!(folder.take::<u32, u32>("others").unwrap(), []);
    }

    #[tokio::test]
    async fn a_folder_is_open_in_one_shop_only() {
        let scratch = Scratch::new();
        let first = Folder::at(Some(&scratch.0)).await.unwrap();
        let why = scratch.refused().await;
        assert!(why.ends_with("is open in another shop"), "{why}");
        drop(first);
        Folder::at(Some(&scratch.0)).await.unwrap();
    }

    #[tokio::test]
    async fn files_of_a_newer_shop_and_of_other_programs_are_refused_and_stay_as_they_are() {
        let scratch = Scratch::new();
        drop(Folder::at(Some(&scratch.0)).await.unwrap());
        for (name, pragma, wanted) in [
            (
                "shop.db",
                "user_version = 2",
                "a newer shop made it (format 2, this one knows up to 1)",
            ),
            ("shop.db", "application_id = 7", "it is a database of another program"),
            ("sagas.db", "user_version = 99", "file is of format 99"),
        ] {
            let path = scratch.0.join(name);
            let file = rusqlite::Connection::open(&path).unwrap();
            let before: i64 = file
                .query_row(&format!("PRAGMA {}", pragma.split(' ').next().unwrap()), (), |row| {
                    row.get(0)
                })
                .unwrap();
            file.execute_batch(&format!("PRAGMA {pragma}")).unwrap();
            let why = scratch.refused().await;
            assert!(why.contains(wanted) && why.contains(name), "{why}");
            let back = pragma.split(' ').next().unwrap();
            file.execute_batch(&format!("PRAGMA {back} = {before}")).unwrap();
            drop(file);
            drop(Folder::at(Some(&scratch.0)).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_named() {
        let scratch = Scratch::new();
        std::fs::write(&scratch.0, "").unwrap();
        let why = scratch.refused().await;
        std::fs::remove_file(&scratch.0).unwrap();
        assert!(why.starts_with("folder /"), "{why}");
    }
}
