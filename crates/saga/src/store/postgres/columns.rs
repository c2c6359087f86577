//! Writes as arrays, so that one statement takes any number of them.

use super::{millis, rows::state_name, signed};
use crate::{Begin, Commit, Hold, MessageId, Record, SagaId, State, StoreError};

/// What is to be written, as the database takes it.
pub(super) struct Write {
    pub(super) job: Job,
    /// Records as the database keeps them.
    records: Vec<(i64, String)>,
    messages: Vec<(MessageId, String)>,
}

pub(super) enum Job {
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
            Ok((out.id.clone(), text))
        };
        let messages = commit.outbox.iter().map(message).collect::<Result<_, StoreError>>()?;
        Ok(Self { records: encoded(&commit.records)?, messages, job: Job::Append(commit.clone()) })
    }

    pub(super) const fn saga(&self) -> &SagaId {
        match &self.job {
            Job::Create(begin) => &begin.saga,
            Job::Append(commit) => &commit.saga,
        }
    }

    /// Of what it brings, without the small change.
    pub(super) fn bytes(&self) -> usize {
        let records = self.records.iter().map(|(_, text)| text.len());
        records.chain(self.messages.iter().map(|(_, text)| text.len())).sum()
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

/// Columns of a statement: one entry for each write, then one for each record, then one for each message.
#[derive(Default)]
pub(super) struct Creates<'a> {
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
    pub(super) fn of(writes: &'a [Write]) -> Self {
        let mut all = Self { state: state_name(State::Running), ..Self::default() };
        for write in writes {
            let Job::Create(begin) = &write.job else { continue };
            all.sagas.push(begin.saga.as_str());
            all.definitions.push(&begin.definition);
            all.versions.push(begin.version.into());
            all.nodes.push(&begin.node);
            all.leases.push(millis(begin.lease));
            all.counts.push(write.records.len() as i64);
            all.records.add(all.sagas.len(), &write.records);
        }
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sagas.is_empty()
    }

    pub(super) fn values(&self) -> Values<'_, 10> {
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
pub(super) struct Appends<'a> {
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
    message_lives: Vec<i64>,
}

impl<'a> Appends<'a> {
    pub(super) fn of(writes: &'a [Write]) -> Self {
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
            Hold::Keep(lease) => (Some(millis(*lease)), None, None),
            Hold::Park { due, note } => {
                (None, due.map(signed), note.as_ref().map(crate::Json::get))
            }
        };
        self.keeps.push(keep);
        self.dues.push(due);
        self.notes.push(note);
        let place = self.sagas.len();
        self.records.add(place, &write.records);
        for (MessageId { saga, life, sequence, index }, text) in &write.messages {
            self.message_places.push(place as i64);
            self.message_sagas.push(saga.as_str());
            self.message_lives.push(signed(*life));
            self.message_sequences.push(signed(*sequence));
            self.message_indexes.push((*index).into());
            self.messages.push(text);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sagas.is_empty()
    }

    pub(super) fn values(&self) -> Values<'_, 19> {
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
            &self.message_lives,
        ]
    }
}
