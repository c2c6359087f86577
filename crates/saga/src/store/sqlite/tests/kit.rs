pub(super) use std::time::Duration;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use rusqlite::Connection;
pub(super) use tokio::time::sleep;

pub(super) use super::super::*;
pub(super) use crate::{Event, Hold, Json, Wanted};

pub(super) const LEASE: Duration = Duration::from_secs(3_600);

/// A directory for one test, removed with everything in it.
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gusset-saga-u-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn file(&self) -> PathBuf {
        self.0.join("sagas.db")
    }

    pub(super) async fn open(&self) -> SqliteStore {
        SqliteStore::open(self.file()).await.unwrap()
    }

    /// A connection of somebody else.
    pub(super) fn shell(&self) -> Connection {
        Connection::open(self.file()).unwrap()
    }

    /// Until the last handle has let go: then SQLite takes the log into the file.
    pub(super) async fn closed(&self) {
        let log = self.0.join("sagas.db-wal");
        until("the file is closed", || !log.exists()).await;
    }

    pub(super) fn size(&self) -> u64 {
        std::fs::metadata(self.file()).unwrap().len()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _may_be_gone = std::fs::remove_dir_all(&self.0);
    }
}

/// At most ten seconds.
pub(super) async fn until(what: &str, mut there: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if there() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("not within ten seconds: {what}");
}

pub(super) fn id(saga: &str) -> SagaId {
    saga.parse().unwrap()
}

/// A record with about so many bytes.
pub(super) fn record(epoch: u64, sequence: u64, bytes: usize) -> Record {
    let output = Json::encode(&"x".repeat(bytes)).unwrap();
    Record::new(sequence, epoch, 1_000, Event::Done { step: 0, output })
}

pub(super) fn begin(saga: &str, bytes: usize) -> Begin {
    Begin {
        saga: id(saga),
        definition: "test".into(),
        version: 1,
        node: "one".into(),
        lease: LEASE,
        records: Arc::new([record(1, 0, bytes)]),
    }
}

pub(super) fn commit(saga: &str, sequence: u64, records: u64) -> Commit {
    Commit {
        saga: id(saga),
        epoch: 1,
        records: (sequence..sequence + records).map(|n| record(1, n, 10)).collect(),
        state: State::Running,
        hold: Hold::Keep(LEASE),
        mail_taken: 0,
        outbox: Arc::new([]),
    }
}

pub(super) fn end(saga: &str, sequence: u64) -> Commit {
    Commit { state: State::Completed, ..commit(saga, sequence, 1) }
}

pub(super) fn due() -> Claim {
    let known = vec![("test".into(), 1)];
    let wanted = Wanted::Due { known, orphaned: LEASE, except: vec![], limit: 100 };
    Claim { node: "two".into(), lease: LEASE, wanted }
}

/// How many records the journal has, if there is one.
pub(super) async fn length(store: &SqliteStore, saga: &str) -> Option<usize> {
    let journal = store.load(&id(saga)).await.unwrap();
    journal.map(|journal| journal.records.unwrap().len())
}

/// What is wrong with the file, by an error of the store.
pub(super) fn cause<T: fmt::Debug>(answer: Result<T, StoreError>) -> SqliteError {
    match answer {
        Err(StoreError::Failed(cause)) => cause.downcast_ref::<SqliteError>().unwrap().clone(),
        answer => panic!("{answer:?}"),
    }
}

/// Runs the test `name` of this file in a process of its own, begun by `shell` as `"$@"`, which is told of `dir`.
pub(super) fn in_process(name: &str, shell: &str, dir: &Dir) {
    let mut process = Command::new("sh");
    process.args(["-c", shell, "sh"]).arg(std::env::current_exe().unwrap());
    let name = format!("store::sqlite::tests::{name}");
    process.args(["--exact", &name, "--nocapture", "--test-threads=1"]);
    let ended = process.env(TOLD, &dir.0).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

const TOLD: &str = "GUSSET_SAGA_DIR";

/// The file that this process was told of, if it is one of [`in_process`].
pub(super) fn told() -> Option<PathBuf> {
    std::env::var_os(TOLD).map(|dir| Path::new(&dir).join("sagas.db"))
}
