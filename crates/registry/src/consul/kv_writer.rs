//! One task that writes the key-value store: what it answers is on the disk, and what is not on the disk nobody has seen.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
};

use http::StatusCode;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
};

use super::{
    answer::Failure,
    kv::{Beside, Change, Full, Plan, Write},
    kv_log::Log,
    server::{ConsulServer, State},
};

/// Writes that wait for their turn; each is at most 512 KiB.
const WAITING: usize = 64;

/// Where writes are handed in.
#[derive(Clone, Debug)]
pub(super) struct Queue(mpsc::Sender<Message>);

#[derive(Debug)]
enum Message {
    Write(Request),
    Stop,
}

#[derive(Debug)]
struct Request {
    write: Write,
    answer: oneshot::Sender<Result<bool, Failure>>,
}

impl Queue {
    /// # Cancellation
    ///
    /// Once it waits for its answer the write is done all the same.
    pub(super) async fn write(&self, write: Write) -> Result<bool, Failure> {
        let gone = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "this server is ending");
        let (answer, answered) = oneshot::channel();
        let request = Message::Write(Request { write, answer });
        self.0.send(request).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// Guard of the task.
#[derive(Debug)]
pub(super) struct KvWriter {
    queue: Queue,
    task: JoinHandle<()>,
}

impl KvWriter {
    pub(super) fn spawn(server: ConsulServer, log: Log) -> Self {
        let (sender, queue) = mpsc::channel(WAITING);
        let writer = Writer { server, queue, log: Some(log), broken: false };
        Self { queue: Queue(sender), task: tokio::spawn(writer.run()) }
    }

    pub(super) fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Does what was handed in so far, and ends.
    pub(super) async fn close(mut self) {
        let _ = self.queue.0.send(Message::Stop).await;
        let _ = (&mut self.task).await;
    }
}

impl Drop for KvWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Writer {
    server: ConsulServer,
    queue: mpsc::Receiver<Message>,
    /// Not here while it is written to.
    log: Option<Log>,
    /// Nobody knows what is in it since a write of it failed.
    broken: bool,
}

/// What is planned to be done at once, and who waits for it.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    waiting: Vec<oneshot::Sender<Result<bool, Failure>>>,
}

impl Writer {
    async fn run(mut self) {
        let mut requests = VecDeque::new();
        while let Some(message) = self.queue.recv().await {
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Write(request) => requests.push_back(request),
                    Message::Stop => self.queue.close(),
                }
                // All who came while the disk was busy share the next turn of it.
                next = if requests.len() < WAITING { self.queue.try_recv().ok() } else { None };
            }
            while !requests.is_empty() {
                self.turn(&mut requests).await;
            }
        }
    }

    async fn turn(&mut self, requests: &mut VecDeque<Request>) {
        let batch = self.server.change(|state, _| plan(state, requests));
        if batch.changes.is_empty() {
            return;
        }
        let changes: Arc<[Change]> = batch.changes.into();
        let written = self.store(changes.clone()).await;
        if let Err(error) = written {
            self.broken = true;
            self.server.count_unsaved();
            let cause = &error as &dyn std::error::Error;
            tracing::error!(cause, "writes of the key-value store are refused, the disk fails");
            for answer in batch.waiting {
                let what = format!("not written, or not known to be: {error}");
                let _ = answer.send(Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, what)));
            }
            return;
        }
        self.server.change(|State { kv, indexes, .. }, _| {
            changes.iter().for_each(|change| kv.apply(indexes, change.clone()));
        });
        for answer in batch.waiting {
            let _ = answer.send(Ok(true));
        }
        if self.log.as_ref().is_some_and(Log::is_long) {
            self.broken = self.renew().await.is_err();
        }
    }

    async fn store(&mut self, changes: Arc<[Change]>) -> io::Result<()> {
        if self.broken {
            self.renew().await?;
            self.broken = false;
        }
        self.with_log(move |mut log| {
            let result = log.append(&changes);
            (Some(log), result)
        })
        .await
    }

    /// Writes a log of what is there now.
    async fn renew(&mut self) -> io::Result<()> {
        let pairs: Vec<_> =
            self.server.read(|state, _| state.kv.under("").cloned().collect::<Vec<_>>());
        self.with_log(|log| match Log::create(log.path().to_owned(), pairs.into_iter()) {
            Ok(new) => (Some(new), Ok(())),
            Err(error) => (Some(log), Err(error)),
        })
        .await
    }

    /// Does something to the log on a thread for blocking work.
    async fn with_log(
        &mut self,
        work: impl FnOnce(Log) -> (Option<Log>, io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let log = self.log.take().ok_or_else(|| io::Error::other("the log is lost"))?;
        let (log, result) = spawn_blocking(move || work(log)).await.map_err(io::Error::other)?;
        self.log = log;
        result
    }
}

/// Takes the requests that are independent of one another, so that each is judged by what is there.
fn plan(State { kv, indexes, .. }: &mut State, requests: &mut VecDeque<Request>) -> Batch {
    let (mut batch, mut keys, mut beside) = (Batch::default(), HashSet::new(), Beside::default());
    while let Some(request) = requests.pop_front() {
        let alone = match &request.write {
            Write::Put { key, .. } | Write::Delete { key, .. } => !keys.insert(key.clone()),
            Write::DeleteUnder(_) => true,
        };
        if alone && !batch.changes.is_empty() {
            requests.push_front(request);
            break;
        }
        match kv.plan(indexes, request.write, beside) {
            Ok(Plan::Change(change)) => {
                if let Change::Put(pair) = &change {
                    beside.keys += usize::from(kv.get(&pair.key).is_none());
                    beside.bytes += pair.size();
                }
                let ends = matches!(change, Change::DeleteUnder(..));
                batch.changes.push(change);
                batch.waiting.push(request.answer);
                if ends {
                    break;
                }
            }
            Ok(done) => drop(request.answer.send(Ok(matches!(done, Plan::Nothing)))),
            Err(Full) => drop(request.answer.send(Err(Full.into()))),
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConsulPolicy, consul::kv_log};

    #[tokio::test]
    async fn a_write_that_the_disk_refuses_is_seen_by_nobody_and_the_next_one_gets_a_new_log() {
        let path = std::env::temp_dir().join(format!("gusset-full-{}", std::process::id()));
        let server = ConsulServer::new(ConsulPolicy::default());
        let mut log = Log::create(path.clone(), std::iter::empty()).unwrap();
        log.fill();
        let writer = KvWriter::spawn(server.clone(), log);
        let queue = writer.queue();
        let put = |key: &str, value: &'static str| {
            let value = value.into();
            queue.write(Write::Put { key: key.into(), value, flags: 0, cas: Some(0) })
        };
        let failure = put("a", "1").await.unwrap_err();
        assert_eq!(failure.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(server.read(|state, _| state.kv.get("a").is_none()));
        assert_eq!(server.stats().unsaved, 1);

        assert!(put("a", "2").await.unwrap());
        assert!(put("b", "3").await.unwrap());
        assert!(!put("b", "4").await.unwrap());
        writer.close().await;
        let replayed = kv_log::load(&path).unwrap();
        let values: Vec<_> = replayed.pairs.values().map(|pair| pair.value.clone()).collect();
        assert_eq!(values, ["2", "3"]);
        let _ = std::fs::remove_file(path);
    }
}
