//! What a shop keeps over restarts.
//!
//! | in the folder | what it is |
//! |---|---|
//! | `lock` | held by the process that has the shop open |
//! | `shop.db` | the stores of the services, one table of kind, key and JSON |
//! | `sagas.db` | the journals of the orders' sagas, and the history of each order |
//! | `events/` | the messages and dead letters, if the broker is on files |
//!
//! With a database the stores and the journals are there, in the schemas `gusset_shop` and `gusset`.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gusset::saga::{EventLog, MemoryStore, Store};

use crate::{Ground, ledger::Ledger};

/// What a shop keeps, wherever that is.
pub(crate) struct Folder {
    pub(crate) ledger: Ledger,
    pub(crate) journal: Arc<dyn Store>,
    /// The histories of the orders, beside the journals.
    pub(crate) events: Arc<dyn EventLog>,
    /// Whether that outlives the process.
    pub(crate) keeps: bool,
    path: Option<PathBuf>,
    /// Until the process ends, however it ends.
    _lock: Option<File>,
}

/// Who opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opener {
    /// The process that has the shop. There is one at a time.
    Shop,
    /// One of its services, in a process of its own.
    Service,
}

impl Folder {
    pub(crate) async fn of(ground: &Ground, opener: Opener) -> io::Result<Self> {
        let path = ground.data_dir.as_deref();
        match (&ground.database, path) {
            (Some(url), _) => Self::in_database(url, path, opener).await,
            (None, Some(path)) => Self::in_files(ground, path, opener).await,
            (None, None) => {
                let journal = Arc::new(MemoryStore::new());
                Ok(Self {
                    ledger: Ledger::default(),
                    events: journal.clone(),
                    journal,
                    keeps: false,
                    path: None,
                    _lock: None,
                })
            }
        }
    }

    #[cfg(not(feature = "files"))]
    async fn in_files(_: &Ground, _: &Path, _: Opener) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a folder needs the feature files"))
    }

    #[cfg(feature = "files")]
    async fn in_files(ground: &Ground, path: &Path, opener: Opener) -> io::Result<Self> {
        use crate::ledger::sqlite::{self, Sync};
        let told = |what: &str, error: &dyn fmt::Display| {
            io::Error::other(format!("{} in {}: {error}", what, path.display()))
        };
        let lock = file::locked(path, opener)?;
        let sync = if ground.scratch { Sync::Process } else { Sync::Full };
        let ledger =
            sqlite::open(&path.join("shop.db"), sync).map_err(|error| told("shop.db", &error))?;
        let sagas = gusset::saga::SqliteStore::open(path.join("sagas.db")).await;
        let sagas = sagas.map_err(|error| told("sagas.db", &error))?;
        let (journal, path) = (Arc::new(sagas), Some(path.to_owned()));
        Ok(Self { ledger, events: journal.clone(), journal, keeps: true, path, _lock: lock })
    }

    /// A folder beside it is for messages in files.
    #[cfg(feature = "postgres")]
    async fn in_database(url: &str, path: Option<&Path>, opener: Opener) -> io::Result<Self> {
        use gusset::saga::{PostgresOptions, PostgresStore};
        let lock = match path {
            Some(path) => file::locked(path, opener)?,
            None => None,
        };
        let ledger = crate::ledger::postgres::connect(url).await.map_err(io::Error::other)?;
        let options = PostgresOptions::new(url).map_err(io::Error::other)?;
        let sagas = PostgresStore::connect(options).await.map_err(io::Error::other)?;
        let (journal, path) = (Arc::new(sagas), path.map(Path::to_owned));
        Ok(Self { ledger, events: journal.clone(), journal, keeps: true, path, _lock: lock })
    }

    #[cfg(not(feature = "postgres"))]
    async fn in_database(_: &str, _: Option<&Path>, _: Opener) -> io::Result<Self> {
        let how = "a database needs --features postgres before the name of the example";
        Err(io::Error::new(io::ErrorKind::Unsupported, how))
    }

    /// Where it is, if it is a folder.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(any(feature = "files", feature = "postgres"))]
mod file {
    use std::fs::{self, TryLockError};

    use super::{File, Opener, Path, io};

    /// Makes the folder, and locks it for the process that has the shop.
    pub(super) fn locked(path: &Path, opener: Opener) -> io::Result<Option<File>> {
        match opener {
            Opener::Shop => lock(path).map(Some),
            Opener::Service => Ok(None),
        }
    }

    fn lock(path: &Path) -> io::Result<File> {
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
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// A folder of its own, removed with the value.
    struct Scratch(PathBuf);

    #[allow(clippy::unwrap_used, reason = "a test")]
    impl Scratch {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("gusset-shop-test-{}", Uuid::now_v7())))
        }

        async fn open(&self) -> io::Result<Folder> {
            let ground = Ground { data_dir: Some(self.0.clone()), ..Ground::default() };
            Folder::of(&ground, Opener::Shop).await
        }

        async fn refused(&self) -> String {
            self.open().await.unwrap_err().to_string()
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
        let folder = scratch.open().await.unwrap();
        for (key, value) in [(1, 10), (2, 20), (1, 11)] {
            folder.ledger.put("count", key, &value).await.unwrap();
        }
        drop(folder);
        let folder = scratch.open().await.unwrap();
        assert_eq!(folder.ledger.list::<u32, u32>("count").await.unwrap(), [(1, 11), (2, 20)]);
    }

    #[tokio::test]
    async fn accounts_of_the_format_before_have_their_addresses() {
        let scratch = Scratch::new();
        std::fs::create_dir(&scratch.0).unwrap();
        let file = rusqlite::Connection::open(scratch.0.join("shop.db")).unwrap();
        let id = Uuid::now_v7();
        file.execute_batch(&format!(
            "CREATE TABLE kept (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
            INSERT INTO kept VALUES ('account', '{id}', '{{\"user\":{{\"email\":\"a@b\"}}}}');
            PRAGMA application_id = 0x47755368; PRAGMA user_version = 1"
        ))
        .unwrap();
        drop(file);
        for _ in 0..2 {
            let folder = scratch.open().await.unwrap();
            assert_eq!(folder.ledger.get::<Uuid>("address", "a@b").await.unwrap(), Some(id));
        }
    }

    #[tokio::test]
    async fn a_folder_is_open_in_one_shop_only() {
        let scratch = Scratch::new();
        let first = scratch.open().await.unwrap();
        let why = scratch.refused().await;
        assert!(why.ends_with("is open in another shop"), "{why}");
        drop(first);
        scratch.open().await.unwrap();
    }

    #[tokio::test]
    async fn files_of_a_newer_shop_and_of_other_programs_are_refused_and_stay_as_they_are() {
        let scratch = Scratch::new();
        drop(scratch.open().await.unwrap());
        for (name, pragma, wanted) in [
            (
                "shop.db",
                "user_version = 3",
                "a newer shop made it (format 3, this one knows up to 2)",
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
            drop(scratch.open().await.unwrap());
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
