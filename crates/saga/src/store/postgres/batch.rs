//! What waits at the same time is written at once: one statement and one commit for all of it, and an answer for each.
//!
//! A writer is a task that lives as long as something waits. Who appends does not wait for others to come: the first goes alone, and what comes during
//! its commit goes with the next.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures_util::future;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Failure, Shared,
    columns::{Appends, Creates, Job, Write},
    signed,
};
use crate::StoreError;

/// Writers at once: while the database commits for one, the other's statement is made and read.
const WRITERS: usize = 2;

/// Most that goes into one commit, so that no one's answer waits for long.
const MOST: usize = 512;
const MOST_BYTES: usize = 8 << 20;

/// Most that waits: more than an orchestrator has under way by default, and what is beyond is refused.
const WAITING: usize = 16_384;

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// A write that waits for its turn.
struct Waiting {
    write: Write,
    answer: Answer,
}

#[derive(Default)]
pub(super) struct Queue(Mutex<Line>);

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    writers: usize,
}

impl Queue {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.line().waiting.len()
    }
}

/// Has it written, and tells how that went. If the future is dropped before a writer has taken it up it is not written.
pub(super) async fn write(shared: &Arc<Shared>, write: Write) -> Result<(), StoreError> {
    let (answer, answered) = oneshot::channel();
    {
        let mut line = shared.queue.line();
        if line.waiting.len() >= WAITING {
            line.waiting.retain(|waiting| !waiting.answer.is_closed());
        }
        if line.waiting.len() >= WAITING {
            return Err(StoreError::full("saga store"));
        }
        line.waiting.push_back(Waiting { write, answer });
        if line.writers < WRITERS {
            line.writers += 1;
            let writer = Writer { shared: Arc::downgrade(shared), counted: true };
            tokio::spawn(writer.run());
        }
    }
    answered.await.unwrap_or_else(|_| Err(Failure::Closed.into()))
}

/// One of `Line::writers`.
struct Writer {
    shared: Weak<Shared>,
    counted: bool,
}

impl Writer {
    /// Until nothing waits. The store outlives it, unless nobody waits for an answer any more.
    async fn run(mut self) {
        while let Some(shared) = self.shared.upgrade() {
            let Some(batch) = self.next(&shared) else { return };
            carry_out(&shared, batch).await;
        }
    }

    /// What goes next: each saga once, since the database sees all of it as one.
    fn next(&mut self, shared: &Shared) -> Option<Vec<Waiting>> {
        let mut line = shared.queue.line();
        let (mut batch, mut later) = (Vec::new(), VecDeque::new());
        let (mut sagas, mut bytes) = (HashSet::new(), 0);
        while let Some(waiting) = line.waiting.pop_front() {
            if waiting.answer.is_closed() {
                continue;
            }
            bytes += waiting.write.bytes();
            if !batch.is_empty() && (batch.len() >= MOST || bytes > MOST_BYTES) {
                line.waiting.push_front(waiting);
                break;
            }
            if sagas.insert(waiting.write.saga().clone()) {
                batch.push(waiting);
            } else {
                later.push_back(waiting);
            }
        }
        while let Some(waiting) = later.pop_back() {
            line.waiting.push_front(waiting);
        }
        if batch.is_empty() {
            self.counted = false;
            line.writers -= 1;
            return None;
        }
        Some(batch)
    }
}

/// The task ends with its runtime: who waits hears of it, and the next to come makes another writer.
impl Drop for Writer {
    fn drop(&mut self) {
        let shared = if self.counted { self.shared.upgrade() } else { None };
        if let Some(shared) = shared {
            let mut line = shared.queue.line();
            line.writers -= 1;
            let waiting =
                if line.writers == 0 { std::mem::take(&mut line.waiting) } else { VecDeque::new() };
            drop(line);
            drop(waiting);
        }
    }
}

async fn carry_out(shared: &Shared, batch: Vec<Waiting>) {
    let (writes, answers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|waiting| (waiting.write, waiting.answer)).unzip();
    match commit(shared, &writes).await {
        Ok(outcomes) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                // Who has gone needs no answer.
                let _ = answer.send(outcome);
            }
        }
        Err(error) if writes.len() > 1 && error.is_about_a_value() => {
            // One of them cannot be written, and must not hinder the others.
            for (write, answer) in writes.into_iter().zip(answers) {
                let outcome = commit(shared, &[write]).await;
                let _ = answer.send(match outcome {
                    Ok(mut outcomes) => outcomes.pop().unwrap_or(Ok(())),
                    Err(error) => Err(error.into()),
                });
            }
        }
        Err(error) => {
            let error = StoreError::from(error);
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

impl Failure {
    /// Whether the database took offence at something in the values: data exceptions, constraints, limits.
    fn is_about_a_value(&self) -> bool {
        let Self::Said(error) = self else { return false };
        let class = error.code().and_then(|code| code.code().get(..2));
        class.is_some_and(|class| ["22", "23", "54"].contains(&class))
    }
}

type Outcomes = Vec<Result<(), StoreError>>;

/// One commit. All of it fails, or each has its outcome.
async fn commit(shared: &Shared, writes: &[Write]) -> Result<Outcomes, Failure> {
    let both = async {
        let (creates, appends) = (Creates::of(writes), Appends::of(writes));
        let mut lent = shared.pool.lend().await?;
        let (created, appended) = match (creates.is_empty(), appends.is_empty()) {
            (true, _) => (Vec::new(), lent.query("append", &appends.values()).await?),
            (_, true) => (lent.query("create", &creates.values()).await?, Vec::new()),
            (false, false) => {
                let (create, append) =
                    (lent.statement("create").await?, lent.statement("append").await?);
                let client = lent.client();
                let (creates, appends) = (creates.values(), appends.values());
                // Polled in this order, so sent in this order, and without waiting in between.
                let (begun, created, appended, committed) = future::join4(
                    client.batch_execute("BEGIN"),
                    client.query(&create, &creates),
                    client.query(&append, &appends),
                    client.batch_execute("COMMIT"),
                )
                .await;
                begun?;
                let rows = (created?, appended?);
                committed?;
                rows
            }
        };
        let outcomes = outcomes(writes, &created, &appended)?;
        lent.give_back();
        Ok(outcomes)
    };
    timeout(shared.limit, both).await.unwrap_or(Err(Failure::Silent(shared.limit)))
}

fn outcomes(
    writes: &[Write],
    created: &[tokio_postgres::Row],
    appended: &[tokio_postgres::Row],
) -> Result<Outcomes, Failure> {
    let mut begun = HashSet::new();
    for row in created {
        begun.insert(row.try_get::<_, &str>(0)?);
    }
    let mut found = HashMap::new();
    for row in appended {
        let (epoch, next): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        found.insert(row.try_get::<_, &str>(0)?, (epoch, next, row.try_get::<_, bool>(3)?));
    }
    Ok(writes
        .iter()
        .map(|write| match &write.job {
            Job::Create(begin) if begun.contains(begin.saga.as_str()) => Ok(()),
            Job::Create(begin) => Err(StoreError::Exists(begin.saga.clone())),
            Job::Append(commit) => {
                let saga = commit.saga.clone();
                match found.get(saga.as_str()) {
                    None => Err(StoreError::NoSuchSaga(saga)),
                    Some((_, _, true)) => Ok(()),
                    Some((epoch, ..)) if *epoch != signed(commit.epoch) => {
                        Err(StoreError::Fenced { saga, epoch: commit.epoch })
                    }
                    Some((_, next, _)) => {
                        Err(StoreError::Conflict { saga, next: super::unsigned(*next) })
                    }
                }
            }
        })
        .collect())
}
