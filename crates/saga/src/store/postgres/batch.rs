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
use tokio_postgres::error::SqlState;

use super::{Failure, Shared, rows::state_name, signed};
use crate::{Begin, Commit, Hold, Record, SagaId, State, StoreError};

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

pub(super) struct Write {
    job: Job,
    /// Records as the database keeps them.
    records: Vec<(i64, String)>,
    messages: Vec<(i64, i64, SagaId, String)>,
}

enum Job {
    Create(Begin),
    Append(Commit),
}

impl Write {
    pub(super) fn create(begin: &Begin) -> Result<Self, StoreError> {
        let records = encoded(&begin.records)?;
        Ok(Self { job: Job::Create(begin.clone()), records, messages: Vec::new() })
    }

    pub(super) fn append(commit: &Commit) -> Result<Self, StoreError> {
        let message = |out: &crate::Outgoing| {
            let text = serde_json::to_string(&out.message).map_err(StoreError::failed)?;
            Ok((signed(out.id.sequence), i64::from(out.id.index), out.id.saga.clone(), text))
        };
        let messages = commit.outbox.iter().map(message).collect::<Result<_, StoreError>>()?;
        Ok(Self { records: encoded(&commit.records)?, messages, job: Job::Append(commit.clone()) })
    }

    const fn saga(&self) -> &SagaId {
        match &self.job {
            Job::Create(begin) => &begin.saga,
            Job::Append(commit) => &commit.saga,
        }
    }

    fn bytes(&self) -> usize {
        let records = self.records.iter().map(|(_, text)| text.len());
        records.chain(self.messages.iter().map(|(_, _, _, text)| text.len())).sum()
    }
}

fn encoded(records: &[Record]) -> Result<Vec<(i64, String)>, StoreError> {
    let text = |record: &Record| Ok((signed(record.sequence), record.to_json()?));
    records
        .iter()
        .map(text)
        .collect::<Result<_, _>>()
        .map_err(|e: serde_json::Error| StoreError::failed(e))
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
        let class = |code: &SqlState| ["22", "23", "54"].contains(&&code.code()[..2]);
        error.code().is_some_and(class)
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

/// Columns of a statement: one entry for each write, then one for each record, then one for each message.
#[derive(Default)]
struct Creates<'a> {
    sagas: Vec<&'a str>,
    definitions: Vec<&'a str>,
    versions: Vec<i64>,
    nodes: Vec<&'a str>,
    leases: Vec<i64>,
    counts: Vec<i64>,
    state: String,
    records: Records<'a>,
}

#[derive(Default)]
struct Records<'a> {
    places: Vec<i64>,
    sequences: Vec<i64>,
    texts: Vec<&'a str>,
}

type Values<'a, const N: usize> = [&'a (dyn tokio_postgres::types::ToSql + Sync); N];

impl<'a> Records<'a> {
    /// `place` is that of their write in the batch, from 1 on.
    fn add(&mut self, place: usize, records: &'a [(i64, String)]) {
        for (sequence, text) in records {
            self.places.push(place as i64);
            self.sequences.push(*sequence);
            self.texts.push(text);
        }
    }
}

impl<'a> Creates<'a> {
    fn of(writes: &'a [Write]) -> Self {
        let mut all = Self { state: state_name(State::Running), ..Self::default() };
        for write in writes {
            let Job::Create(begin) = &write.job else { continue };
            all.sagas.push(begin.saga.as_str());
            all.definitions.push(&begin.definition);
            all.versions.push(begin.version.into());
            all.nodes.push(&begin.node);
            all.leases.push(super::millis(begin.lease));
            all.counts.push(write.records.len() as i64);
            all.records.add(all.sagas.len(), &write.records);
        }
        all
    }

    fn is_empty(&self) -> bool {
        self.sagas.is_empty()
    }

    fn values(&self) -> Values<'_, 10> {
        let records = &self.records;
        [
            &self.sagas,
            &self.definitions,
            &self.versions,
            &self.nodes,
            &self.leases,
            &self.counts,
            &self.state,
            &records.places,
            &records.sequences,
            &records.texts,
        ]
    }
}

#[derive(Default)]
struct Appends<'a> {
    sagas: Vec<&'a str>,
    epochs: Vec<i64>,
    expected: Vec<i64>,
    counts: Vec<i64>,
    states: Vec<String>,
    finals: Vec<bool>,
    keeps: Vec<Option<i64>>,
    dues: Vec<Option<i64>>,
    notes: Vec<Option<&'a str>>,
    mail_taken: Vec<i64>,
    records: Records<'a>,
    message_places: Vec<i64>,
    message_sagas: Vec<&'a str>,
    message_sequences: Vec<i64>,
    message_indexes: Vec<i64>,
    messages: Vec<&'a str>,
}

impl<'a> Appends<'a> {
    fn of(writes: &'a [Write]) -> Self {
        let mut all = Self::default();
        for write in writes {
            let Job::Append(commit) = &write.job else { continue };
            all.add(write, commit);
        }
        all
    }

    fn add(&mut self, write: &'a Write, commit: &'a Commit) {
        self.sagas.push(commit.saga.as_str());
        self.epochs.push(signed(commit.epoch));
        self.expected.push(signed(commit.expected()));
        self.counts.push(write.records.len() as i64);
        self.states.push(state_name(commit.state));
        self.finals.push(commit.state.is_final());
        self.mail_taken.push(signed(commit.mail_taken));
        let (keep, due, note) = match &commit.hold {
            Hold::Keep(lease) => (Some(super::millis(*lease)), None, None),
            Hold::Park { due, note } => {
                (None, due.map(signed), note.as_ref().map(crate::Json::get))
            }
        };
        self.keeps.push(keep);
        self.dues.push(due);
        self.notes.push(note);
        let place = self.sagas.len();
        self.records.add(place, &write.records);
        for (sequence, index, saga, text) in &write.messages {
            self.message_places.push(place as i64);
            self.message_sagas.push(saga.as_str());
            self.message_sequences.push(*sequence);
            self.message_indexes.push(*index);
            self.messages.push(text);
        }
    }

    fn is_empty(&self) -> bool {
        self.sagas.is_empty()
    }

    fn values(&self) -> Values<'_, 18> {
        let records = &self.records;
        [
            &self.sagas,
            &self.epochs,
            &self.expected,
            &self.counts,
            &self.states,
            &self.finals,
            &self.keeps,
            &self.dues,
            &self.notes,
            &self.mail_taken,
            &records.places,
            &records.sequences,
            &records.texts,
            &self.message_places,
            &self.message_sagas,
            &self.message_sequences,
            &self.message_indexes,
            &self.messages,
        ]
    }
}
