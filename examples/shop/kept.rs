//! Writes down what the stores of a shop hold, so that they outlive the process.
//!
//! The stores stay in memory, where they are read. Whoever changes one notes, under its lock, the rows that say what holds from now on, and waits
//! until they are written before it answers. One thread writes, all that is there at once in one transaction.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use gusset::call::{BoxError, Problem};
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use crate::api::{lock, problem};

/// How many rows may wait before new work is refused. What is under way then is still noted.
const MOST: usize = 10_000;

/// How long the writer waits before it tries again what failed, as when the disk is full.
const AGAIN: Duration = Duration::from_millis(100);

/// What holds under a key of a kind, until a later row says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    /// JSON.
    pub(crate) value: String,
}

impl Row {
    pub(crate) fn new(kind: &'static str, key: impl ToString, value: &impl Serialize) -> Self {
        Self { kind, key: key.to_string(), value: json!(value).to_string() }
    }
}

/// Where stores note what holds. Clones are one; the default one keeps nothing.
#[derive(Clone, Default)]
pub(crate) struct Kept(Option<Arc<Notebook>>);

struct Notebook {
    queue: Arc<Queue>,
    written: watch::Receiver<u64>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    rows: Vec<Row>,
    /// How many rows were ever noted.
    noted: u64,
    /// Nobody is left to note anything.
    over: bool,
}

/// What should be kept cannot be written at present, or too much waits for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotKept;

impl Kept {
    /// Spawns the thread that writes. `write` writes all rows or none; what it fails to write is given to it again. The thread ends with the last clone.
    pub(crate) fn spawn(
        write: impl FnMut(&[Row]) -> Result<(), BoxError> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, (told, written)) = (Arc::<Queue>::default(), watch::channel(0));
        let of_writer = queue.clone();
        let writer = thread::Builder::new().name("shop-kept".into());
        let writer = writer.spawn(move || of_writer.write_all(write, &told))?;
        Ok(Self(Some(Arc::new(Notebook { queue, written, writer: Some(writer) }))))
    }

    /// Refuses new work while too much waits to be written.
    pub(crate) fn ready(&self) -> Result<(), NotKept> {
        let Some(notebook) = &self.0 else { return Ok(()) };
        if lock(&notebook.queue.waiting).rows.len() < MOST { Ok(()) } else { Err(NotKept) }
    }

    /// Notes rows that belong together: all of them are written, or none. Call it under the lock of the store, so that rows come in the order of its changes.
    pub(crate) fn note<I: IntoIterator<Item = Row>>(&self, rows: impl FnOnce() -> I) {
        let Some(notebook) = &self.0 else { return };
        let rows = rows();
        let mut waiting = lock(&notebook.queue.waiting);
        let before = waiting.rows.len();
        waiting.rows.extend(rows);
        waiting.noted += (waiting.rows.len() - before) as u64;
        drop(waiting);
        notebook.queue.more.notify_one();
    }

    /// Until all that was noted so far is on the disk. An answer that rests on what was noted must wait for it, whoever noted it.
    pub(crate) async fn written(&self) -> Result<(), NotKept> {
        let Some(notebook) = &self.0 else { return Ok(()) };
        let noted = lock(&notebook.queue.waiting).noted;
        let mut written = notebook.written.clone();
        let there = written.wait_for(|written| *written >= noted).await;
        there.map(drop).map_err(|_| NotKept)
    }
}

impl Queue {
    fn write_all(
        &self,
        mut write: impl FnMut(&[Row]) -> Result<(), BoxError>,
        told: &watch::Sender<u64>,
    ) {
        while let Some((rows, noted)) = self.next() {
            while let Err(error) = write(&rows) {
                tracing::error!(%error, "the shop's file was not written");
                // What was not written was not acknowledged.
                if lock(&self.waiting).over {
                    return;
                }
                thread::park_timeout(AGAIN);
            }
            told.send_replace(noted);
        }
    }

    /// Waits for rows; `None` when there will be no more.
    fn next(&self) -> Option<(Vec<Row>, u64)> {
        let idle = |waiting: &mut Waiting| waiting.rows.is_empty() && !waiting.over;
        let waiting = self.more.wait_while(lock(&self.waiting), idle);
        let mut waiting = waiting.unwrap_or_else(std::sync::PoisonError::into_inner);
        let rows = std::mem::take(&mut waiting.rows);
        (!rows.is_empty()).then_some((rows, waiting.noted))
    }
}

impl Drop for Notebook {
    fn drop(&mut self) {
        lock(&self.queue.waiting).over = true;
        self.queue.more.notify_one();
        // The file is closed when this returns.
        let _ = self.writer.take().map(JoinHandle::join);
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.0.is_some()).finish()
    }
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what happened cannot be written down at present")
    }
}

impl Error for NotKept {}

/// 503. Whether it took effect is not known, as always with that answer.
impl From<NotKept> for Problem {
    fn from(error: NotKept) -> Self {
        problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: usize) -> Row {
        Row::new("k", key, &key)
    }

    #[tokio::test]
    async fn rows_are_written_in_the_order_of_noting_and_awaited() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let kept = Kept::spawn(move |rows| {
            lock(&sink).extend_from_slice(rows);
            Ok(())
        })
        .unwrap();
        for key in 0..100 {
            kept.note(|| [row(key)]);
        }
        kept.written().await.unwrap();
        assert_eq!(*lock(&seen), (0..100).map(row).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_tried_again_and_nobody_is_told_before() {
        let (room, is_room) = std::sync::mpsc::channel::<()>();
        let kept = Kept::spawn(move |_| Ok(is_room.try_recv()?)).unwrap();
        kept.note(|| [row(1)]);
        let written = tokio::time::timeout(AGAIN * 3, kept.written()).await;
        assert!(written.is_err(), "it was not written");
        room.send(()).unwrap();
        kept.written().await.unwrap();
    }

    #[test]
    fn new_work_is_refused_while_too_much_waits() {
        let kept = Kept::spawn(|_| Err("full".into())).unwrap();
        assert_eq!(kept.ready(), Ok(()));
        // The writer may have taken the first of them.
        for key in 0..=MOST {
            kept.note(|| [row(key), row(key)]);
        }
        assert_eq!(kept.ready(), Err(NotKept));
    }

    #[tokio::test]
    async fn a_writer_that_ended_is_noticed() {
        let kept = Kept::spawn(|_| panic!("on purpose")).unwrap();
        kept.note(|| [row(1)]);
        assert_eq!(kept.written().await, Err(NotKept));
    }

    #[test]
    fn what_was_noted_last_is_written_before_the_end() {
        let (sink, seen) = std::sync::mpsc::channel();
        let kept = Kept::spawn(move |rows| Ok(sink.send(rows.len())?)).unwrap();
        kept.note(|| [row(1), row(2), row(3)]);
        drop(kept);
        assert_eq!(seen.iter().sum::<usize>(), 3);
    }
}
