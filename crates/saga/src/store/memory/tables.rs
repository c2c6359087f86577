//! What the memory store holds.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use foldhash::fast::RandomState;

use super::{
    kept::Kept,
    outbox::{Relaying, Waiting},
};
use crate::{
    Begin, Commit, Hold, Journal, Json, Mail, MemoryStore, MessageId, Outgoing, Post, SagaId,
    State, StoreError, Summary, Wanted,
};

#[derive(Default)]
pub(super) struct Tables {
    /// Boxed, so that the tables are small enough for a processor's cache.
    pub(super) unfinished: HashMap<SagaId, Box<Entry>, RandomState>,
    pub(super) finished: HashMap<SagaId, Box<Entry>, RandomState>,
    /// Those of `finished` that are not in `kept`, oldest first.
    pub(super) order: VecDeque<(u64, SagaId)>,
    /// Those of `finished` that would be forgotten by now, and have messages that wait; with when they finished.
    pub(super) kept: HashMap<SagaId, u64, RandomState>,
    pub(super) purged: u64,
    pub(super) outbox: BTreeMap<MessageId, Waiting>,
    /// Sagas whose messages nobody gets for a while.
    pub(super) relaying: HashMap<SagaId, Relaying, RandomState>,
}

pub(super) struct Entry {
    pub(super) definition: Arc<str>,
    pub(super) version: u32,
    pub(super) state: State,
    pub(super) epoch: u64,
    pub(super) node: Option<Arc<str>>,
    /// With a node: until when it holds the saga. Without: from when on it may be claimed.
    pub(super) due: Option<u64>,
    pub(super) crashes: u32,
    pub(super) note: Option<Json>,
    pub(super) created_at: u64,
    pub(super) changed_at: u64,
    /// Number of the next record.
    pub(super) next: u64,
    pub(super) records: Kept,
    /// None before there was any.
    pub(super) mail: Option<Box<Letterbox>>,
    pub(super) mail_taken: u64,
}

#[derive(Default)]
pub(super) struct Letterbox {
    pub(super) mail: Vec<Post>,
    pub(super) keys: BTreeSet<Arc<str>>,
}

impl Tables {
    pub(super) fn get(&self, saga: &SagaId) -> Option<&Entry> {
        self.unfinished.get(saga).or_else(|| self.finished.get(saga)).map(|entry| &**entry)
    }

    pub(super) fn create(
        &mut self,
        begin: &Begin,
        most: usize,
        now: u64,
    ) -> Result<(), StoreError> {
        if self.get(&begin.saga).is_some() {
            return Err(StoreError::Exists(begin.saga.clone()));
        }
        if self.unfinished.len() >= most {
            return Err(StoreError::full("saga store"));
        }
        let entry = Entry {
            definition: begin.definition.clone(),
            version: begin.version,
            state: State::Running,
            epoch: 1,
            node: Some(begin.node.clone()),
            due: Some(now.saturating_add(millis(begin.lease))),
            crashes: 0,
            note: None,
            created_at: now,
            changed_at: now,
            next: begin.records.len() as u64,
            records: Kept::of(&begin.records),
            mail: None,
            mail_taken: 0,
        };
        self.unfinished.insert(begin.saga.clone(), Box::new(entry));
        Ok(())
    }

    pub(super) fn send(&mut self, mail: &Mail, now: u64) -> Result<bool, StoreError> {
        let Some(entry) = self.unfinished.get_mut(&mail.saga) else {
            let saga = mail.saga.clone();
            return Err(if self.finished.contains_key(&saga) {
                StoreError::Ended(saga)
            } else {
                StoreError::NoSuchSaga(saga)
            });
        };
        let letterbox = entry.mail.get_or_insert_default();
        if letterbox.keys.contains(&mail.key) {
            return Ok(false);
        }
        let number = letterbox.mail.len() as u64;
        if number >= Mail::MOST {
            return Err(StoreError::full("mail of a saga"));
        }
        letterbox.keys.insert(mail.key.clone());
        letterbox.mail.push(Post::new(number, mail.key.clone(), mail.body.clone()));
        if entry.node.is_none() {
            entry.due = Some(now);
        }
        Ok(true)
    }

    pub(super) fn append(&mut self, commit: &Commit, now: u64) -> Result<(), StoreError> {
        let saga = &commit.saga;
        let Some(entry) = self.unfinished.get_mut(saga) else {
            return Err(match self.finished.get(saga) {
                Some(entry) => entry.admit(commit).err().unwrap_or_else(|| entry.conflict(saga)),
                None => StoreError::NoSuchSaga(saga.clone()),
            });
        };
        entry.admit(commit)?;
        if self.outbox.len() + commit.outbox.len() > MemoryStore::MESSAGES {
            return Err(StoreError::full("saga outbox"));
        }
        entry.write(commit, now);
        for Outgoing { id, message } in &*commit.outbox {
            let waiting = Waiting { message: message.clone(), since: now };
            self.outbox.insert(id.clone(), waiting);
        }
        if commit.state.is_final() {
            if let Some((saga, mut entry)) = self.unfinished.remove_entry(saga) {
                (entry.node, entry.due) = (None, None);
                self.order.push_back((now, saga.clone()));
                self.finished.insert(saga, entry);
            }
        }
        Ok(())
    }

    /// Takes out the oldest, if more than `keep` are left or it finished before `limit`. Those with messages that wait are no longer counted.
    pub(super) fn forget(&mut self, keep: usize, limit: u64) -> Option<Box<Entry>> {
        while let Some((at, _)) = self.order.front() {
            if self.order.len() <= keep && *at >= limit {
                break;
            }
            let (at, saga) = self.order.pop_front()?;
            if self.has_messages(&saga) {
                self.kept.insert(saga, at);
            } else if let Some(entry) = self.finished.remove(&saga) {
                self.purged += 1;
                return Some(entry);
            }
        }
        None
    }

    /// One that was kept for its messages can be forgotten with the others when they have gone.
    pub(super) fn let_go(&mut self, saga: &SagaId) {
        if self.kept.contains_key(saga) && !self.has_messages(saga) {
            if let Some((saga, at)) = self.kept.remove_entry(saga) {
                let place = self.order.partition_point(|(other, _)| *other < at);
                self.order.insert(place, (at, saga));
            }
        }
    }

    pub(super) fn wanted(&self, wanted: &Wanted, now: u64) -> Vec<SagaId> {
        match wanted {
            Wanted::One(saga) => {
                let free = |entry: &&Entry| entry.node.is_none() || entry.is_due(now);
                let entry = self.unfinished.get(saga).map(|entry| &**entry).filter(free);
                entry.map(|_| saga.clone()).into_iter().collect()
            }
            Wanted::Due { known, orphaned, except, limit } => {
                let known: HashSet<_> = known.iter().map(|(name, v)| (&**name, *v)).collect();
                let except: HashSet<_> = except.iter().collect();
                let overdue = now.saturating_sub(millis(*orphaned));
                let wanted = |(saga, entry): &(&SagaId, &Entry)| {
                    let since = if known.contains(&(&*entry.definition, entry.version)) {
                        now
                    } else {
                        overdue
                    };
                    entry.is_due(since) && !except.contains(saga)
                };
                let due =
                    self.unfinished.iter().map(|(saga, entry)| (saga, &**entry)).filter(wanted);
                let mut due: Vec<_> = due.map(|(saga, entry)| (entry.due, saga)).collect();
                due.sort_unstable();
                due.into_iter().take(*limit).map(|(_, saga)| saga.clone()).collect()
            }
        }
    }
}

impl Entry {
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn admit(&self, commit: &Commit) -> Result<(), StoreError> {
        if commit.epoch != self.epoch {
            return Err(StoreError::Fenced { saga: commit.saga.clone(), epoch: commit.epoch });
        }
        if commit.records.is_empty() || commit.expected() != self.next {
            return Err(self.conflict(&commit.saga));
        }
        Ok(())
    }

    pub(super) fn conflict(&self, saga: &SagaId) -> StoreError {
        StoreError::Conflict { saga: saga.clone(), next: self.next }
    }

    pub(super) fn write(&mut self, commit: &Commit, now: u64) {
        self.records.extend(&commit.records, self.next);
        self.next += commit.records.len() as u64;
        self.state = commit.state;
        self.mail_taken = commit.mail_taken;
        self.changed_at = now;
        self.crashes = 0;
        match &commit.hold {
            Hold::Keep(lease) => self.due = Some(now.saturating_add(millis(*lease))),
            Hold::Park { due, note } => self.park(*due, note.clone(), now),
        }
    }

    pub(super) fn park(&mut self, due: Option<u64>, note: Option<Json>, now: u64) {
        self.node = None;
        self.note = note;
        self.due = if self.has_mail() { Some(now) } else { due };
    }

    pub(super) fn has_mail(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| mail.mail.len() as u64 > self.mail_taken)
    }

    pub(super) fn post(&self, from: u64) -> Vec<Post> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let mail = self.mail.as_ref().and_then(|mail| mail.mail.get(from..));
        mail.unwrap_or_default().to_vec()
    }

    pub(super) fn journal(&self, saga: &SagaId) -> Journal {
        Journal {
            node: self.node.clone(),
            crashes: self.crashes,
            note: self.note.clone(),
            mail: self.post(self.mail_taken),
            mail_taken: self.mail_taken,
            ..Journal::new(saga.clone(), self.epoch, self.records.records())
        }
    }

    pub(super) fn summary(&self, saga: &SagaId) -> Summary {
        Summary {
            state: self.state,
            epoch: self.epoch,
            records: self.next,
            created_at: self.created_at,
            changed_at: self.changed_at,
            node: self.node.clone(),
            due: self.due,
            ..Summary::new(saga.clone(), self.definition.clone(), self.version)
        }
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
