//! A thread that has a connection, and does what waits for it in one transaction.

use std::{io, sync::Arc, thread};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::SqliteError;
use crate::StoreError;

/// Most that waits for a thread; who comes then waits for a place, in order.
const WAITING: usize = 1_024;

/// What a piece of work comes to if it does not succeed.
pub(super) enum Fault {
    /// The answer is no. It must have been found before anything was written: the transaction goes on.
    Refused(StoreError),
    /// The transaction must be taken back.
    Sql(rusqlite::Error),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

pub(super) type Worked<T> = Result<T, Fault>;

/// How a thread works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    /// Name of the thread, at most 15 bytes.
    pub(super) name: &'static str,
    /// What a transaction begins with.
    pub(super) begin: &'static str,
    /// What it ends with.
    pub(super) end: &'static str,
    /// Most in one transaction.
    pub(super) together: usize,
}

/// The way to a thread, which ends when all clones are dropped and what was in the queue is done.
#[derive(Clone)]
pub(super) struct Queue(mpsc::Sender<Box<dyn Job>>);

impl Queue {
    /// Begins a thread with the connection that `connect` makes on it.
    pub(super) async fn open<C>(mode: Mode, connect: C) -> Result<Self, SqliteError>
    where
        C: FnOnce() -> Result<Connection, SqliteError> + Send + 'static,
    {
        let (queue, jobs) = mpsc::channel(WAITING);
        let (opened, ready) = oneshot::channel();
        let run = move || match connect() {
            Ok(connection) => {
                let _nobody_waits = opened.send(Ok(()));
                serve(&connection, mode, jobs);
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let begun = thread::Builder::new().name(mode.name.to_owned()).spawn(run);
        begun.map_err(|error: io::Error| SqliteError::NoThread(Some(Arc::new(error))))?;
        ready.await.unwrap_or(Err(SqliteError::NoThread(None)))?;
        Ok(Self(queue))
    }

    /// Has the thread do `work`. It is done wholly or not at all, and is done once it has a place in the queue, even if the future is dropped then.
    /// It may be called twice: what the first call did is taken back before.
    pub(super) async fn ask<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> Worked<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::failed(SqliteError::NoThread(None));
        let task = Task { work, outcome: None, answer };
        self.0.send(Box::new(task)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

trait Job: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Tells what `run` came to, or why that is void.
    fn answer(self: Box<Self>, failed: Option<StoreError>);
}

struct Task<T, W> {
    work: W,
    outcome: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Job for Task<T, W>
where
    T: Send,
    W: FnMut(&Connection) -> Worked<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.outcome = Some(match (self.work)(connection) {
            Ok(done) => Ok(done),
            Err(Fault::Refused(no)) => Err(no),
            Err(Fault::Sql(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, failed: Option<StoreError>) {
        let outcome = match (failed, self.outcome) {
            (Some(error), _) => Err(error),
            (None, Some(outcome)) => outcome,
            (None, None) => Err(StoreError::failed(SqliteError::NoThread(None))),
        };
        let _nobody_waits = self.answer.send(outcome);
    }
}

fn serve(connection: &Connection, mode: Mode, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
    let mut batch = Vec::new();
    while jobs.blocking_recv_many(&mut batch, mode.together) > 0 {
        match transact(connection, mode, &mut batch) {
            Err(error) if batch.len() > 1 && !is_locked(&error) => {
                // One of them is to blame, or there is room for some of them: each by itself.
                for mut job in batch.drain(..) {
                    let done = transact(connection, mode, std::slice::from_mut(&mut job));
                    job.answer(done.err().map(StoreError::from));
                }
            }
            done => {
                let failed = done.err().map(StoreError::from);
                batch.drain(..).for_each(|job| job.answer(failed.clone()));
            }
        }
    }
}

fn transact(
    connection: &Connection,
    mode: Mode,
    jobs: &mut [Box<dyn Job>],
) -> rusqlite::Result<()> {
    // The one before could not even be taken back.
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    connection.prepare_cached(mode.begin)?.execute(())?;
    let done = jobs.iter_mut().try_for_each(|job| job.run(connection));
    let done = done.and_then(|()| connection.prepare_cached(mode.end)?.execute(()).map(drop));
    // Some errors have taken it back already.
    if done.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    done
}

fn is_locked(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}
