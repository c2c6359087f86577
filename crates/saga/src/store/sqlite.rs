mod error;
mod events;
mod outbox;
mod queue;
mod read;
mod schema;
mod write;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, future::ready};

use self::queue::{Mode, Queue};
use super::{Store, StoreError, StoreFuture};
use crate::{
    Begin, Bundle, Claim, Commit, Journal, Mail, Pending, Post, Query, Record, Relay, Relayed,
    Release, Renewed, Retention, SagaId, State, Summary,
};

pub use error::SqliteError;

/// Journals in one SQLite file, which survive the process and a loss of power. Clones share the file's connections.
///
/// ```
/// use gusset_saga::{Orchestrator, SqliteStore};
///
/// # let dir = std::env::temp_dir().join(format!("gusset-saga-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let store = SqliteStore::open(dir.join("sagas.db")).await?;
/// let sagas = Orchestrator::new(store);
/// # drop(sagas);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Durability
///
/// The file is in the mode of a write-ahead log with `synchronous=FULL`: what was acknowledged has been given to the disk, and the disk was told to
/// make it last. All that waits when a transaction begins, at most 256 pieces of work, goes into that one: they share its cost, and each has an answer of
/// its own. If the transaction fails, each of them is tried once more by itself, so that one which does not fit takes no other with it.
///
/// # Cancellation
///
/// Work that has its place in the queue is done, wholly or not at all, even if its future is dropped. Work that still waits for a place is not done then.
///
/// # Several processes
///
/// Any number of handles and processes of one machine may have the file open: they take turns at writing, and leases decide who works on which saga. Each
/// transaction locks out the others, so one process for each file is fastest. Who cannot write within five seconds, because a shell holds a
/// transaction open, say, is told [`SqliteError::Locked`], and nothing was written. The file must be on a disk of the machine: locks and the
/// log do not work on network file systems. Never copy or delete it alone while it is in use; `sqlite3 sagas.db ".backup copy.db"` copies it.
///
/// # Bounds
///
/// Two threads, each with a connection (page caches of 8 MiB and 2 MiB): one writes, one reads, and neither waits for the other. They end with the last clone. At most 1,024 pieces of
/// work wait for either, further callers wait for a place. The log is taken into the file every 1,000 pages, and cut down to 64 MiB after it was larger. The file
/// is bounded by [`purge`](Store::purge): room that is freed is used again, and given back to the disk while it is more than a quarter of the file.
/// [`open_bounded`](Self::open_bounded) sets a limit. A journal has room for 1,048,576 records, which is a saga of half a million steps at least. When there is no room, work is refused with [`StoreError::Full`], had no effect, and succeeds once there is.
///
/// # The file
///
/// `application_id` is 0x47755361 and `user_version` the format, which table `meta` says as well. A file of an earlier format is turned over to this one when it is opened. A newer one is refused with [`SqliteError::Newer`], the
/// file of another program with [`SqliteError::Foreign`], and neither is changed.
///
/// | table | one row for each | columns |
/// |---|---|---|
/// | `saga` | saga | `number`, `id`, `definition`, `version`, `state`, `epoch`, `node` (who holds it), `due` (end of the lease, or without a node from when on it may be claimed), `crashes`, `note`, `next` (number of records), `mail_count`, `mail_taken`, `created_at`, `changed_at`, `finished_at` |
/// | `journal` | record | `place` (the `number` of the saga times 1,048,576, and the sequence of the record), `record` (JSON) |
/// | `history` | record, to be read only | `saga` (its `id`), `sequence`, `record` (JSON) |
/// | `mail` | signal or order | `saga` (its `number`), `number`, `key`, `body` (JSON) |
/// | `outbox` | message that waits to be relayed | `saga` (its `id`), `life` (of the sagas that had the id, which), `sequence`, `place`, `message` (JSON), `at` (since when) |
/// | `relaying` | saga whose messages are under way or failed | `saga` (its `id`), `node` (who relays; none while they pause), `until`, `failures` |
/// | `event` | event of an aggregate | `stream` (`<kind>/<id>`), `version`, `at`, `key` (of the one who wrote), `note`, `format`, `body` (JSON) |
/// | `snapshot` | aggregate with many events | `stream`, `version`, `format`, `state` (JSON) |
/// | `meta` | fact | `format`, `made_by` |
///
/// Times are milliseconds since 1970. It may be read while it is in use:
///
/// ```text
/// sqlite3 -readonly sagas.db "SELECT state, count(*) FROM saga GROUP BY state"
/// sqlite3 -readonly sagas.db "SELECT id, definition, datetime(changed_at / 1000, 'unixepoch') FROM saga WHERE state = 'stuck'"
/// sqlite3 -readonly sagas.db "SELECT sequence, record ->> '$.event' FROM history WHERE saga = 'order-4711' ORDER BY sequence"
/// ```
#[derive(Clone)]
pub struct SqliteStore(Arc<Shared>);

struct Shared {
    path: PathBuf,
    writer: Queue,
    reader: Queue,
}

const WRITER: Mode =
    Mode { name: "saga-sqlite-w", begin: "BEGIN IMMEDIATE", end: "COMMIT", together: 256 };

/// A transaction that reads keeps the log from being taken over, so it is short. There is nothing to commit, and one that met damage could not be.
const READER: Mode = Mode { name: "saga-sqlite-r", begin: "BEGIN", end: "ROLLBACK", together: 16 };

impl SqliteStore {
    /// Opens the file, or makes it. Its directory must exist.
    ///
    /// # Errors
    ///
    /// When the file is not of sagas or of a later release, cannot be read and written, is damaged where it was looked at, or was held by another
    /// process for five seconds.
    ///
    /// # Cancellation
    ///
    /// The file may have been made.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, SqliteError> {
        Self::open_with(path.as_ref(), None, true).await
    }

    /// Opens a file that is there, and makes none and brings none up to date: for whoever looks at the sagas of another program.
    ///
    /// # Errors
    ///
    /// [`SqliteError::Missing`] when there is no file or nothing in it, [`SqliteError::Older`] when it is of an earlier format, and otherwise as for
    /// [`open`](Self::open).
    pub async fn open_existing(path: impl AsRef<Path>) -> Result<Self, SqliteError> {
        Self::open_with(path.as_ref(), None, false).await
    }

    /// Opens the file, or makes it, and has this process let it grow to at most `bytes`, rounded down to pages of 4 KiB. The log beside it is not counted. A
    /// file that is larger does not grow.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), and when a new file does not fit.
    pub async fn open_bounded(path: impl AsRef<Path>, bytes: u64) -> Result<Self, SqliteError> {
        Self::open_with(path.as_ref(), Some(bytes), true).await
    }

    async fn open_with(path: &Path, most: Option<u64>, make: bool) -> Result<Self, SqliteError> {
        let [to_write, to_read] = [path.to_owned(), path.to_owned()];
        let writer = Queue::open(WRITER, move || schema::writer(&to_write, most, make)).await?;
        let reader = Queue::open(READER, move || schema::reader(&to_read)).await?;
        Ok(Self(Arc::new(Shared { path: path.to_owned(), writer, reader })))
    }
}

impl Store for SqliteStore {
    fn now(&self) -> StoreFuture<'_, u64> {
        ready(Ok(now())).boxed()
    }

    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()> {
        let work = async {
            let (begin, records) = (begin.clone(), texts(&begin.records)?);
            let work = move |file: &_| write::create(file, &begin, &records, now());
            self.0.writer.ask(work).await
        };
        work.boxed()
    }

    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()> {
        let work = async {
            let messages = commit.outbox.iter().map(|it| it.message.to_json());
            let messages: Result<_, _> = messages.collect();
            let append = write::Append {
                commit: commit.clone(),
                state: read::state_text(commit.state)?,
                records: texts(&commit.records)?,
                messages: messages.map_err(StoreError::failed)?,
            };
            self.0.writer.ask(move |file| write::append(file, &append, now())).await
        };
        work.boxed()
    }

    fn load<'a>(&'a self, saga: &'a SagaId) -> StoreFuture<'a, Option<Journal>> {
        let work = async {
            let saga = saga.clone();
            let raw = self.0.reader.ask(move |file| read::raw_by_id(file, &saga)).await?;
            raw.map(read::Raw::journal).transpose()
        };
        work.boxed()
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Vec<Journal>> {
        let work = async {
            let (claim, node) = (claim.clone(), claim.node.clone());
            let claimed = self.0.writer.ask(move |file| write::claim(file, &claim, now())).await?;
            if claimed.is_empty() {
                return Ok(Vec::new());
            }
            let claimed =
                self.0.reader.ask(move |file| read::claimed(file, &claimed, &node)).await?;
            // One without a proper id cannot be carried on by anybody.
            Ok(claimed.into_iter().filter_map(|raw| raw.journal().ok()).collect())
        };
        work.boxed()
    }

    fn renew<'a>(&'a self, held: &'a [(SagaId, u64)], lease: Duration) -> StoreFuture<'a, Renewed> {
        let held = held.to_vec();
        self.0.writer.ask(move |file| write::renew(file, &held, lease, now())).boxed()
    }

    fn release<'a>(&'a self, release: &'a Release) -> StoreFuture<'a, ()> {
        let release = release.clone();
        self.0.writer.ask(move |file| write::release(file, &release, now())).boxed()
    }

    fn send<'a>(&'a self, mail: &'a Mail) -> StoreFuture<'a, bool> {
        let mail = mail.clone();
        self.0.writer.ask(move |file| write::send(file, &mail, now())).boxed()
    }

    fn mail<'a>(&'a self, saga: &'a SagaId, from: u64) -> StoreFuture<'a, Vec<Post>> {
        let saga = saga.clone();
        let found = self.0.reader.ask(move |file| read::mail(file, &saga, from));
        found.map(|found| found?.into_iter().map(read::post).collect()).boxed()
    }

    fn query<'a>(&'a self, query: &'a Query) -> StoreFuture<'a, Vec<Summary>> {
        let query = query.clone();
        let found = self.0.reader.ask(move |file| read::list(file, &query));
        found.map(|found| found?.into_iter().map(read::RawSummary::summary).collect()).boxed()
    }

    fn count(&self) -> StoreFuture<'_, Vec<(State, u64)>> {
        let count =
            |(state, count): (String, i64)| Ok((read::state_of(&state)?, read::uint(count)));
        let counts = self.0.reader.ask(read::count);
        counts.map(move |counts| counts?.into_iter().map(count).collect()).boxed()
    }

    fn purge<'a>(&'a self, keep: &'a Retention) -> StoreFuture<'a, u64> {
        let (keep, mut forgotten) = (*keep, 0);
        let work = async move {
            loop {
                let some = move |file: &_| write::purge(file, &keep, now());
                let (some, more) = self.0.writer.ask(some).await?;
                forgotten += some;
                if !more {
                    return Ok(forgotten);
                }
            }
        };
        work.boxed()
    }

    fn outbox<'a>(&'a self, relay: &'a Relay) -> StoreFuture<'a, Vec<Bundle>> {
        let relay = relay.clone();
        let found = self.0.writer.ask(move |file| outbox::bundles(file, &relay, now()));
        found.map(|found| found?.into_iter().map(outbox::RawBundle::bundle).collect()).boxed()
    }

    fn relayed<'a>(&'a self, done: &'a [Relayed]) -> StoreFuture<'a, ()> {
        let done = done.to_vec();
        self.0.writer.ask(move |file| outbox::relayed(file, &done, now())).boxed()
    }

    fn pending(&self) -> StoreFuture<'_, Pending> {
        self.0.reader.ask(|file| outbox::pending(file, now())).boxed()
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.0.path).finish_non_exhaustive()
    }
}

fn texts(records: &[Record]) -> Result<Vec<String>, StoreError> {
    let texts: Result<_, _> = records.iter().map(Record::to_json).collect();
    texts.map_err(StoreError::failed)
}

/// The machine's clock, which all processes with the file share, and which goes on while none of them runs.
#[expect(clippy::disallowed_methods, reason = "leases and timers outlive the process")]
fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
