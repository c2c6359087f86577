//! Rows in a SQLite file, which processes of one machine share.

use std::{
    path::Path,
    thread::{self, JoinHandle},
    time::Duration,
};

use gusset::call::BoxError;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Decide, Engine, Ledger, NotKept, Page, Place, Row};

/// What `user_version` says. A change that an older release cannot work with is a higher number.
const FORMAT: i64 = 2;

/// What `application_id` says: `GuSh`.
const APPLICATION: i64 = 0x4775_5368;

const TABLE: &str = "CREATE TABLE kept (
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID";

/// The format before this one had no rows of addresses: they were gathered when it was opened.
const FROM_1: &str = "INSERT INTO kept
    SELECT 'address', value ->> '$.user.email', json_quote(key) FROM kept WHERE kind = 'account'";

/// How much work may wait for either thread; further callers wait for a place.
const WAITING: usize = 1_024;

/// How much of it goes into one transaction.
const TOGETHER: usize = 256;

/// How long a process waits for another that writes.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much a commit promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// It outlives a loss of power.
    Full,
    /// It outlives the process, for a folder that goes with the shop anyway.
    Process,
}

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// A thread with a connection. It ends with this value.
struct Desk<W> {
    work: Option<mpsc::Sender<W>>,
    thread: Option<JoinHandle<()>>,
}

struct Change {
    places: Vec<Place>,
    decide: Decide,
    done: oneshot::Sender<Result<(), NotKept>>,
}

struct Sqlite {
    writer: Desk<Change>,
    reader: Desk<Work>,
}

/// Opens the file, or makes it.
pub(crate) fn open(path: &Path, sync: Sync) -> Result<Ledger, BoxError> {
    let (mut file, second) = (connect(path, sync)?, path.to_owned());
    make(&mut file)?;
    let reading = connect(&second, sync)?;
    let writer = Desk::spawn("shop-writes", move |work| write_all(file, work))?;
    let reader = Desk::spawn("shop-reads", move |work| read_all(reading, work))?;
    Ok(Ledger(std::sync::Arc::new(Sqlite { writer, reader })))
}

fn connect(path: &Path, sync: Sync) -> Result<Connection, BoxError> {
    let file = Connection::open(path)?;
    file.busy_timeout(PATIENCE)?;
    // Looked at before anything is changed.
    format_of(&file)?;
    file.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = if sync == Sync::Full { "FULL" } else { "OFF" };
    file.pragma_update(None, "synchronous", synchronous)?;
    Ok(file)
}

/// Of several processes that begin at once, one does it.
fn make(file: &mut Connection) -> Result<(), BoxError> {
    let transaction = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match format_of(&transaction)? {
        0 => transaction.execute_batch(TABLE)?,
        1 => transaction.execute_batch(FROM_1)?,
        _ => return Ok(()),
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    Ok(transaction.commit()?)
}

/// 0 of a new file.
fn format_of(file: &Connection) -> Result<i64, BoxError> {
    let pragma = |name| file.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables: i64 = file.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    match (pragma("application_id")?, pragma("user_version")?, tables) {
        (0, 0, 0) => Ok(0),
        (APPLICATION, found @ 1..=FORMAT, _) => Ok(found),
        (APPLICATION, found, _) if found > FORMAT => {
            Err(format!("a newer shop made it (format {found}, this one knows up to {FORMAT})")
                .into())
        }
        _ => Err("it is a database of another program".into()),
    }
}

fn write_all(mut file: Connection, mut work: mpsc::Receiver<Change>) {
    let mut changes = Vec::new();
    while work.blocking_recv_many(&mut changes, TOGETHER) > 0 {
        let (asked, waiting): (Vec<_>, Vec<_>) = changes
            .drain(..)
            .map(|Change { places, decide, done }| ((places, decide), done))
            .unzip();
        let written = write(&mut file, asked).map_err(|error| {
            tracing::error!(error = &*error, "the shop's file was not written");
            NotKept
        });
        for done in waiting {
            let _ = done.send(written);
        }
    }
}

/// One transaction for all that waits: they share its cost.
fn write(file: &mut Connection, changes: Vec<(Vec<Place>, Decide)>) -> Result<(), BoxError> {
    let transaction = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut put = transaction.prepare_cached("REPLACE INTO kept VALUES (?1, ?2, ?3)")?;
        let mut remove =
            transaction.prepare_cached("DELETE FROM kept WHERE kind = ?1 AND key = ?2")?;
        for (places, decide) in changes {
            let found = |place: Place| Ok((place.clone(), value_at(&transaction, &place)?));
            let read = places.into_iter().map(found).collect::<rusqlite::Result<_>>()?;
            let mut page = Page::new(read);
            decide(&mut page);
            for Row { place: Place { kind, key }, value } in page.written {
                match value {
                    Some(value) => put.execute((kind, key, value))?,
                    None => remove.execute((kind, key))?,
                };
            }
        }
    }
    Ok(transaction.commit()?)
}

fn value_at(file: &Connection, place: &Place) -> rusqlite::Result<Option<String>> {
    let mut get = file.prepare_cached("SELECT value FROM kept WHERE kind = ?1 AND key = ?2")?;
    get.query_row((place.kind, &place.key), |row| row.get(0)).optional()
}

fn read_all(mut file: Connection, mut work: mpsc::Receiver<Work>) {
    while let Some(work) = work.blocking_recv() {
        work(&mut file);
    }
}

impl Engine for Sqlite {
    fn change(&self, places: Vec<Place>, decide: Decide) -> Answer<'_, ()> {
        let (done, told) = oneshot::channel();
        Box::pin(async move {
            self.writer.give(Change { places, decide, done }).await?;
            told.await.map_err(|_| NotKept)?
        })
    }

    fn get(&self, place: Place) -> Answer<'_, Option<String>> {
        Box::pin(self.reader.asked(move |file| value_at(file, &place)))
    }

    fn list(&self, kind: &'static str) -> Answer<'_, Vec<(String, String)>> {
        Box::pin(self.reader.asked(move |file| {
            let all = "SELECT key, value FROM kept WHERE kind = ?1 ORDER BY key";
            let mut all = file.prepare_cached(all)?;
            let rows = all.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        }))
    }
}

impl<W: Send + 'static> Desk<W> {
    fn spawn(
        name: &str,
        work: impl FnOnce(mpsc::Receiver<W>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (give, take) = mpsc::channel(WAITING);
        let thread = thread::Builder::new().name(name.into()).spawn(move || work(take))?;
        Ok(Self { work: Some(give), thread: Some(thread) })
    }

    async fn give(&self, work: W) -> Result<(), NotKept> {
        let desk = self.work.as_ref().ok_or(NotKept)?;
        desk.send(work).await.map_err(|_| NotKept)
    }
}

impl Desk<Work> {
    async fn asked<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, NotKept> {
        let (tell, told) = oneshot::channel();
        let work: Work = Box::new(move |file| {
            let _ = tell.send(ask(file));
        });
        self.give(work).await?;
        told.await.map_err(|_| NotKept)?.map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the shop's file was not read"
            );
            NotKept
        })
    }
}

impl<W> Drop for Desk<W> {
    fn drop(&mut self) {
        drop(self.work.take());
        // What was given is done, and the file is closed when this returns.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
